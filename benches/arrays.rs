//! What an array costs, there and back: through shared memory, through the socket, and beside the least that can be done.
//!
//! `cargo bench --bench arrays [-- [--quick] [--json FILE]]`
//!
//! "bare" is two segments that are mapped once and used again and again: the host copies the array into one, and sends a
//! byte; Python copies it into the other, and sends a byte; the host copies it out. No frames, no JSON, no views. "floor" is
//! the same with Python reading in place, as a handler does that returns something small. The others are calls of a
//! handler that returns what it was given. All take turns in one run, and a ratio is that of neighbouring rounds.
//!
//! The kernel tends to leave the bare loop on one core and to spread a pool over several, where each hop wakes one up: start it
//! by `taskset -c 0` to have both in the same place.

mod bare_segment;
mod common;

use std::time::Instant;

use bare_segment::BareSegment;
use common::{Options, Spread, Table, python};
use serde::Serialize;
use snakepen::{Array, Pool};

/// What the echo of a large array may cost, in bare ones.
const REACH: f64 = 1.5;

const SIZES: [(usize, &str); 6] = [
    (4 << 10, "4 KiB"),
    (16 << 10, "16 KiB"),
    (64 << 10, "64 KiB"),
    (256 << 10, "256 KiB"),
    (1 << 20, "1 MiB"),
    (16 << 20, "16 MiB"),
];

#[derive(Serialize)]
struct Row {
    size: usize,
    segment_us: f64,
    socket_us: f64,
    bare_us: f64,
    floor_us: f64,
    ratio: f64,
}

fn main() {
    let options = Options::parse();
    common::print_machine();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    // In a task of its own: `block_on` itself is not among the runtime's threads.
    let rows = runtime.block_on(runtime.spawn(run(options.quick))).expect("a run");
    options.write(&rows);
}

async fn pool(name: &str, from: Option<usize>) -> Pool {
    let pool =
        Pool::builder(name).python(python()).handlers(common::handlers()).shared_memory(from);
    pool.workers(1).start().await.expect("a pool")
}

async fn echo(pool: &Pool, array: &Array) {
    let same: Array = pool.call("echo", (array,)).await.expect("an answer");
    assert_eq!(same.data.len(), array.data.len());
}

async fn run(quick: bool) -> Vec<Row> {
    let rounds = if quick { 7 } else { 21 };
    let mut bare = BareSegment::start(python()).await;
    // From 4 KiB, so that the sizes below the default tell where it should be.
    let (segment, socket) = (pool("segment", Some(4 << 10)).await, pool("socket", None).await);
    let numpy =
        segment.call::<String>("kind", (Array::from_slice([1], &[1.0]).expect("an array"),));
    println!("in Python an array is {}", numpy.await.expect("an answer"));

    let mut rows = Vec::new();
    let mut table = Table::new(&[
        "float64, there and back",
        "shared memory, µs",
        "socket, µs",
        "bare, µs",
        "floor, µs",
        "shared : bare (lowest to highest)",
        "socket : shared",
    ]);
    for (size, what) in SIZES {
        let elements: Vec<f64> = (0..size / 8).map(|n| n as f64).collect();
        let array = Array::from_slice([elements.len()], &elements).expect("an array");
        let times = ((if quick { 20 } else { 60 } << 20) / size).clamp(4, 500);
        let mut each = [const { Vec::new() }; 4];
        // The first round warms up.
        for round in 0..=rounds {
            for (kind, spent) in each.iter_mut().enumerate() {
                let start = Instant::now();
                for _ in 0..times {
                    match kind {
                        0 => echo(&segment, &array).await,
                        1 => echo(&socket, &array).await,
                        _ => bare.echo(&array.data, kind == 3).await,
                    }
                }
                if round > 0 {
                    spent.push(start.elapsed().as_secs_f64() * 1e6 / times as f64);
                }
            }
        }
        let [shared, through, least, floor] = each;
        let ratio = Spread::of(shared.iter().zip(&least).map(|(own, bare)| own / bare));
        let gain = Spread::of(through.iter().zip(&shared).map(|(socket, own)| socket / own));
        let [shared, through, least, floor] = [shared, through, least, floor].map(Spread::of);
        table.row(vec![
            what.to_owned(),
            format!("{:.1}", shared.median),
            format!("{:.1}", through.median),
            format!("{:.1}", least.median),
            format!("{:.1}", floor.median),
            format!("{:.2} ({:.2} to {:.2})", ratio.median, ratio.low, ratio.high),
            format!("{:.2}", gain.median),
        ]);
        if size >= 1 << 20 {
            println!("{what}: {:.2} bare ones, to be reached: {REACH}", ratio.median);
        }
        rows.push(Row {
            size,
            segment_us: shared.median,
            socket_us: through.median,
            bare_us: least.median,
            floor_us: floor.median,
            ratio: ratio.median,
        });
    }
    println!();
    table.print();
    for pool in [segment, socket] {
        pool.shutdown().await.expect("a clean shutdown");
    }
    rows
}
