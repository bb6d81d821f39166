//! The pool's scheduler alone: no actor, no process, one thread.
//!
//! `cargo bench --bench scheduler [-- [--quick] [--json FILE]]`

mod common;

#[path = "scheduler_load/mod.rs"]
mod scheduler_load;

use std::hint::black_box;
use std::time::{Duration, Instant};

use common::{Options, Spread, Table, thousands};
use scheduler_load::scheduler::{Batch, Removed, Wish};
use scheduler_load::{Load, Request};
use serde::Serialize;

const SLOTS: [usize; 4] = [1, 8, 64, 256];
const QUEUED: [u64; 4] = [1, 100, 10_000, 100_000];
const SEATS: [usize; 2] = [1, 16];
const BATCHES: [u16; 3] = [4, 16, 64];

#[derive(Serialize)]
struct Row {
    job: &'static str,
    slots: usize,
    seats: usize,
    /// The size of a batch, 1 where none is gathered.
    batch: u16,
    queued: u64,
    ns_per_op: f64,
}

struct Bench {
    rounds: usize,
    /// Operations of a round, at least.
    operations: u64,
}

impl Bench {
    /// The time of an operation in ns. `prepare` makes what a round starts from; `run` does so many operations.
    fn measure<S>(
        &self,
        mut prepare: impl FnMut() -> S,
        mut run: impl FnMut(&mut S) -> u64,
    ) -> f64 {
        let rounds = (0..self.rounds).map(|_| {
            let (mut time, mut operations) = (Duration::ZERO, 0);
            while operations < self.operations {
                let mut state = prepare();
                let begin = Instant::now();
                operations += run(&mut state);
                time += begin.elapsed();
            }
            time.as_nanos() as f64 / operations as f64
        });
        Spread::of(rounds).median
    }
}

/// A call meets an idle worker, and ends: submit and idle.
fn unqueued(bench: &Bench, slots: usize, seats: usize) -> f64 {
    let operations = bench.operations;
    bench.measure(
        || Load::new(slots, seats, Wish::default()),
        |load| {
            for _ in 0..operations {
                let id = load.next;
                let slot = load.submit().expect("an idle worker");
                assert!(!load.idle(slot, id));
            }
            operations
        },
    )
}

/// A worker ends its call and takes the next from the queue, and a new one is queued: idle and submit.
fn queued(bench: &Bench, slots: usize, seats: usize, queued: u64) -> f64 {
    let operations = bench.operations;
    // Which call each seat holds; the least busy worker is the next, so that they are spread one by one.
    let running = slots * seats;
    let prepare = || (Load::loaded(slots, seats, queued), (1..=running as u64).collect::<Vec<_>>());
    bench.measure(prepare, |(load, held)| {
        for number in 0..operations {
            let seat = number as usize % running;
            assert!(load.idle(seat % slots, held[seat]), "a queued call");
            held[seat] = running as u64 + 1 + number;
            assert!(load.submit().is_none());
            black_box(load.scheduler.next_deadline());
        }
        operations
    })
}

/// Calls are queued, join the batch that a worker begins, and end with it: submit, idle and fill.
fn batches(bench: &Bench, slots: usize, seats: usize, size: u16, queued: u64) -> f64 {
    let operations = bench.operations;
    let batch = Batch { handler: 0, size, wait: Duration::ZERO };
    let wish = Wish { batch: Some(batch), ..Wish::default() };
    let prepare = || {
        let mut load = Load::new(slots, seats, wish);
        let mut held = Vec::new();
        for _ in 0..slots * seats {
            // At the moment in which it is opened all others may join.
            let ids: Vec<_> = (load.next..load.next + u64::from(size)).collect();
            let slots: Vec<_> = ids.iter().map(|_| load.submit().expect("a seat")).collect();
            assert!(slots.iter().all(|&slot| slot == slots[0]));
            held.push((slots[0], ids));
        }
        for _ in 0..queued.next_multiple_of(size.into()) {
            assert!(load.submit().is_none());
        }
        let next = load.next - queued.next_multiple_of(size.into());
        (load, held, next)
    };
    bench.measure(prepare, |(load, held, next)| {
        let mut number = 0;
        while number < operations {
            for (slot, ids) in &mut *held {
                for &id in &*ids {
                    let last = id % u64::from(size) == 0;
                    assert_eq!(load.idle(*slot, id), last, "the last one's seat is free");
                }
                while black_box(load.scheduler.fill(*slot, load.base)).is_some() {}
                for id in ids {
                    *id = *next;
                    *next += 1;
                    assert!(load.submit().is_none());
                }
                number += u64::from(size);
            }
        }
        number
    })
}

/// The callers of queued calls go away, in no order.
fn cancels(bench: &Bench, slots: usize, seats: usize, queued: u64) -> f64 {
    let prepare = || {
        let load = Load::loaded(slots, seats, queued);
        let ids = load.waiting(slots * seats);
        (load, ids)
    };
    bench.measure(prepare, |(load, ids)| {
        for &id in &*ids {
            assert!(matches!(black_box(load.scheduler.cancel(id)), Some(Removed::Queued(_))));
        }
        queued
    })
}

/// All calls expire, those that run too: they have the earliest deadlines.
fn expiries(bench: &Bench, slots: usize, seats: usize, queued: u64) -> f64 {
    let prepare = || Load::loaded(slots, seats, queued);
    bench.measure(prepare, |load| {
        let now = load.deadline(load.next);
        let mut expired = 0;
        while let Some(removed) = load.scheduler.expire(now) {
            black_box(removed);
            expired += 1;
        }
        assert_eq!(expired, (slots * seats) as u64 + queued);
        expired
    })
}

fn main() {
    let options = Options::parse();
    let bench = if options.quick {
        Bench { rounds: 3, operations: 20_000 }
    } else {
        Bench { rounds: 7, operations: 200_000 }
    };
    common::print_machine();
    println!(
        "ns per operation, medians of {} rounds; a request is {} bytes\n",
        bench.rounds,
        size_of::<Request>()
    );
    let mut rows = Vec::new();
    let mut table = Table::new(&["slots", "seats", "queued", "submit + idle", "cancel", "expire"]);
    for (slots, seats) in SLOTS.into_iter().flat_map(|slots| SEATS.map(|seats| (slots, seats))) {
        let mut row = |job, queued, ns_per_op| {
            rows.push(Row { job, slots, seats, batch: 1, queued, ns_per_op });
            thousands(ns_per_op)
        };
        let mut cells = vec![slots.to_string(), seats.to_string(), "0".to_owned()];
        cells.push(row("submit+idle", 0, unqueued(&bench, slots, seats)));
        cells.extend(["-".to_owned(), "-".to_owned()]);
        table.row(cells);
        for waiting in QUEUED {
            table.row(vec![
                slots.to_string(),
                seats.to_string(),
                waiting.to_string(),
                row("submit+idle", waiting, queued(&bench, slots, seats, waiting)),
                row("cancel", waiting, cancels(&bench, slots, seats, waiting)),
                row("expire", waiting, expiries(&bench, slots, seats, waiting)),
            ]);
        }
    }
    table.print();
    println!("\nBatches, ns per request: submit, fill and idle\n");
    let mut table = Table::new(&["slots", "seats", "queued", "4", "16", "64"]);
    for (slots, seats) in [(1, 1), (8, 1), (8, 4), (256, 4)] {
        for waiting in [100, 100_000] {
            let mut cells = vec![slots.to_string(), seats.to_string(), waiting.to_string()];
            for batch in BATCHES {
                let ns_per_op = batches(&bench, slots, seats, batch, waiting);
                rows.push(Row { job: "batch", slots, seats, batch, queued: waiting, ns_per_op });
                cells.push(thousands(ns_per_op));
            }
            table.row(cells);
        }
    }
    table.print();
    options.write(&rows);
}
