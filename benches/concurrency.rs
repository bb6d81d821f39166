//! What it brings that calls of one worker overlap, and that calls of one handler are gathered.
//!
//! `cargo bench --bench concurrency [-- [--quick] [--json FILE]]`
//!
//! Concurrency: `async def` handlers that sleep for 5 ms, on one worker that runs 1 to 256 of them at once, with as many
//! callers; the ratio is that to as many workers' worth of one call at a time (calls/s of the first row times the number).
//! And handlers that do nothing, which shows what a call costs in the event loop beside the plain loop.
//!
//! Batching: a handler whose pass costs 200 µs of processor time whatever is in it, with 64 callers, by the size of a batch;
//! the ratio is that to single calls of the same work, in the same run.

mod common;

use std::time::{Duration, Instant};

use common::{Options, Spread, Table, python, thousands};
use futures::future::join_all;
use serde::Serialize;
use snakepen::Pool;

#[derive(Serialize)]
struct Row {
    job: &'static str,
    /// Calls that the worker runs at once, or that a batch has at most.
    size: usize,
    callers: usize,
    calls_per_s: f64,
    ratio: f64,
}

fn main() {
    let options = Options::parse();
    common::print_machine();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let rows = runtime.block_on(async {
        let mut rows = sleeping(options.quick).await;
        rows.extend(nothing(options.quick).await);
        rows.extend(batches(options.quick).await);
        rows
    });
    options.write(&rows);
}

async fn pool(concurrency: usize) -> Pool {
    let pool = Pool::builder("concurrency").python(python()).handlers(common::handlers());
    pool.workers(1).concurrency(concurrency).start().await.expect("a pool")
}

/// Calls per second, of so many callers, for so long; the median of the rounds.
async fn rate(pool: &Pool, handler: &str, callers: usize, rounds: usize, time: Duration) -> Spread {
    let mut rates = Vec::new();
    // The first round warms up.
    for round in 0..=rounds {
        let start = Instant::now();
        let caller = || async {
            let mut calls = 0;
            while start.elapsed() < time {
                let _: u32 = pool.call(handler, 7).await.expect("an answer");
                calls += 1;
            }
            calls
        };
        let calls: u32 = join_all((0..callers).map(|_| caller())).await.into_iter().sum();
        if round > 0 {
            rates.push(f64::from(calls) / start.elapsed().as_secs_f64());
        }
    }
    Spread::of(rates)
}

fn measure(quick: bool) -> (usize, Duration) {
    if quick { (3, Duration::from_millis(300)) } else { (7, Duration::from_secs(1)) }
}

async fn sleeping(quick: bool) -> Vec<Row> {
    let (rounds, time) = measure(quick);
    let mut table = Table::new(&["at once", "calls/s", "of the limit"]);
    let (mut rows, mut one) = (Vec::new(), 0.0);
    for size in [1, 4, 16, 64, 256] {
        let pool = pool(size).await;
        let rate = rate(&pool, "sleep_5ms", size, rounds, time).await;
        pool.shutdown().await.expect("a clean shutdown");
        if size == 1 {
            one = rate.median;
        }
        let ratio = rate.median / (one * size as f64);
        table.row(vec![size.to_string(), thousands(rate.median), format!("{ratio:.2}")]);
        let calls_per_s = rate.median;
        rows.push(Row { job: "sleep_5ms", size, callers: size, calls_per_s, ratio });
    }
    println!(
        "An `async def` handler that sleeps for 5 ms, on one worker; the limit is so many times one call:\n"
    );
    table.print();
    rows
}

async fn nothing(quick: bool) -> Vec<Row> {
    let (rounds, time) = measure(quick);
    let mut table = Table::new(&["handler", "at once", "calls/s", "of a plain one's"]);
    let (mut rows, mut plain) = (Vec::new(), 0.0);
    for (job, what, size) in [
        ("plain", "plain", 1),
        ("async_echo", "async def", 1),
        ("async_echo", "async def", 16),
        ("async_echo", "async def", 64),
    ] {
        let handler = if job == "plain" { "echo" } else { job };
        let pool = pool(size).await;
        let rate = rate(&pool, handler, 64, rounds, time).await;
        pool.shutdown().await.expect("a clean shutdown");
        if job == "plain" {
            plain = rate.median;
        }
        let (calls_per_s, ratio) = (rate.median, rate.median / plain);
        let rate = thousands(calls_per_s);
        table.row(vec![what.to_owned(), size.to_string(), rate, format!("{ratio:.2}")]);
        rows.push(Row { job, size, callers: 64, calls_per_s, ratio });
    }
    println!("\nHandlers that do nothing, on one worker, 64 callers:\n");
    table.print();
    rows
}

async fn batches(quick: bool) -> Vec<Row> {
    let (rounds, time) = measure(quick);
    let mut table = Table::new(&["batch", "calls/s", "times single calls"]);
    let (mut rows, mut single) = (Vec::new(), 0.0);
    for (handler, size) in [("pass_1", 1), ("pass_8", 8), ("pass_32", 32)] {
        let pool = pool(1).await;
        let rate = rate(&pool, handler, 64, rounds, time).await;
        pool.shutdown().await.expect("a clean shutdown");
        if size == 1 {
            single = rate.median;
        }
        let (calls_per_s, ratio) = (rate.median, rate.median / single);
        table.row(vec![size.to_string(), thousands(calls_per_s), format!("{ratio:.1}")]);
        rows.push(Row { job: "batch", size, callers: 64, calls_per_s, ratio });
    }
    println!(
        "\nA pass that takes 200 µs whatever is in it, on one worker, 64 callers, by the size of a batch:\n"
    );
    table.print();
    rows
}
