//! The pool's scheduler alone: no actor, no process, one thread.
//!
//! `cargo bench --bench scheduler [-- [--quick] [--json FILE]]`

mod common;

// Private in the crate; as a module of an inline one it keeps its own directory for what is nested in it.
#[path = "../src"]
#[allow(dead_code, unused_imports, unreachable_pub)]
mod crate_source {
    pub(crate) mod scheduler;
}

use std::hint::black_box;
use std::time::{Duration, Instant};

use common::{Options, Spread, Table, thousands};
use crate_source::scheduler::{Removed, Scheduler, Wish};
use serde::Serialize;

const SLOTS: [usize; 4] = [1, 8, 64, 256];
const QUEUED: [u64; 4] = [1, 100, 10_000, 100_000];

/// As large as a request of the pool.
type Request = [u64; 20];
const REQUEST: Request = [0; 20];

#[derive(Serialize)]
struct Row {
    job: &'static str,
    slots: usize,
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

/// What the calls are made with: deadlines a minute ahead, in steps, as calls with one time-out have them.
struct Load {
    scheduler: Scheduler<Request>,
    next: u64,
    base: Instant,
}

impl Load {
    fn new(slots: usize) -> Self {
        let mut scheduler = Scheduler::new(slots);
        for slot in 0..slots {
            assert!(scheduler.up(slot, 1, None).is_none());
        }
        Self { scheduler, next: 1, base: Instant::now() }
    }

    /// Every worker busy, and `queued` calls that wait.
    fn loaded(slots: usize, queued: u64) -> Self {
        let mut load = Self::new(slots);
        for _ in 0..slots as u64 + queued {
            load.submit();
        }
        load
    }

    fn deadline(&self, id: u64) -> Instant {
        self.base + Duration::from_secs(60) + Duration::from_micros(10 * id)
    }

    /// Submits a call; returns the slot if it runs at once.
    fn submit(&mut self) -> Option<usize> {
        let id = self.next;
        self.next += 1;
        let deadline = self.deadline(id);
        black_box(self.scheduler.submit(id, deadline, Wish::default(), black_box(REQUEST)))
            .map(|next| next.slot)
    }

    /// The ids of the queued calls, shuffled.
    fn waiting(&self, slots: usize) -> Vec<u64> {
        let mut ids: Vec<u64> = (slots as u64 + 1..self.next).collect();
        fastrand::Rng::with_seed(7).shuffle(&mut ids);
        ids
    }
}

/// A call meets an idle worker, and ends: submit and idle.
fn unqueued(bench: &Bench, slots: usize) -> f64 {
    let operations = bench.operations;
    bench.measure(
        || Load::new(slots),
        |load| {
            for _ in 0..operations {
                let id = load.next;
                let slot = load.submit().expect("an idle worker");
                assert!(load.scheduler.idle(slot, 1, id).is_none());
            }
            operations
        },
    )
}

/// A worker ends its call and takes the next from the queue, and a new one is queued: idle and submit.
fn queued(bench: &Bench, slots: usize, queued: u64) -> f64 {
    let operations = bench.operations;
    // Which call each slot holds.
    let prepare = || (Load::loaded(slots, queued), (1..=slots as u64).collect::<Vec<_>>());
    bench.measure(prepare, |(load, held)| {
        for number in 0..operations {
            let slot = number as usize % slots;
            let next = load.scheduler.idle(slot, 1, held[slot]).expect("a queued call");
            held[slot] = slots as u64 + 1 + number;
            black_box(next);
            assert!(load.submit().is_none());
            black_box(load.scheduler.next_deadline());
        }
        operations
    })
}

/// The callers of queued calls go away, in no order.
fn cancels(bench: &Bench, slots: usize, queued: u64) -> f64 {
    let prepare = || {
        let load = Load::loaded(slots, queued);
        let ids = load.waiting(slots);
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
fn expiries(bench: &Bench, slots: usize, queued: u64) -> f64 {
    let prepare = || Load::loaded(slots, queued);
    bench.measure(prepare, |load| {
        let now = load.deadline(load.next);
        let mut expired = 0;
        while let Some(removed) = load.scheduler.expire(now) {
            black_box(removed);
            expired += 1;
        }
        assert_eq!(expired, slots as u64 + queued);
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
    let mut table = Table::new(&["slots", "queued", "submit + idle", "cancel", "expire"]);
    for slots in SLOTS {
        let alone = unqueued(&bench, slots);
        rows.push(Row { job: "submit+idle", slots, queued: 0, ns_per_op: alone });
        table.row(vec![
            slots.to_string(),
            "0".to_owned(),
            thousands(alone),
            "-".to_owned(),
            "-".to_owned(),
        ]);
        for waiting in QUEUED {
            let figures = [
                ("submit+idle", queued(&bench, slots, waiting)),
                ("cancel", cancels(&bench, slots, waiting)),
                ("expire", expiries(&bench, slots, waiting)),
            ];
            let mut cells = vec![slots.to_string(), waiting.to_string()];
            for (job, ns_per_op) in figures {
                rows.push(Row { job, slots, queued: waiting, ns_per_op });
                cells.push(thousands(ns_per_op));
            }
            table.row(cells);
        }
    }
    table.print();
    options.write(&rows);
}
