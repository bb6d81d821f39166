//! Small calls a second, beside the same Python workers driven by a bare tokio pool.
//!
//! `cargo bench --bench throughput [-- [--quick] [--json FILE]]`
//!
//! Both systems run the same worker processes' loop and the same handler, which returns its argument, about 80
//! bytes of JSON, and both encode the arguments and decode the result in each call. "snakepen" is the public API.
//! "bare" has neither actors nor supervision, deadlines, admission, statistics or a watch over its processes. The
//! two take turns in one run, and the ratio is that of neighbouring rounds: other load then meets both.

mod bare;
mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bare::BarePool;
use common::{Message, Options, Spread, Table, thousands};
use hdrhistogram::Histogram;
use serde::Serialize;
use snakepen::Pool;
use tokio::sync::Barrier;

const WORKERS: [usize; 4] = [1, 2, 4, 8];
const CALLERS: [usize; 4] = [1, 16, 64, 256];

/// The ratio that is to be reached at 64 callers and 4 workers.
const REACH: (usize, usize, f64) = (4, 64, 0.9);

#[derive(Serialize)]
struct Row {
    job: &'static str,
    system: &'static str,
    workers: usize,
    callers: usize,
    calls_per_s: f64,
    p50_us: f64,
    p99_us: f64,
}

#[derive(Clone)]
enum System {
    Snakepen(Pool, Arc<Message>),
    Bare(Arc<BarePool>, Arc<Message>),
}

impl System {
    async fn call(&self) {
        match self {
            System::Snakepen(pool, message) => {
                let answer = pool.call::<Message>("echo", (&**message,)).await;
                std::hint::black_box(answer.expect("an echo"));
            }
            System::Bare(pool, message) => {
                let answer = pool.call(bare::call_frame("echo", &(&**message,))).await;
                let answer = serde_json::from_slice::<Message>(&answer);
                std::hint::black_box(answer.expect("an echo"));
            }
        }
    }
}

/// One round of one system.
struct Round {
    calls_per_s: f64,
    latency: Histogram<u64>,
}

/// Lets `callers` tasks call as fast as they get answers.
async fn round(system: &System, callers: usize, time: Duration) -> Round {
    let start = Arc::new(Barrier::new(callers + 1));
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let (system, start) = (system.clone(), Arc::clone(&start));
            tokio::spawn(async move {
                let mut latency = histogram();
                start.wait().await;
                let mut now = Instant::now();
                let end = now + time;
                while now < end {
                    system.call().await;
                    let then = std::mem::replace(&mut now, Instant::now());
                    latency.saturating_record((now - then).as_nanos() as u64);
                }
                latency
            })
        })
        .collect();
    start.wait().await;
    let begin = Instant::now();
    let mut latency = histogram();
    for task in tasks {
        latency.add(task.await.expect("a caller ends in order")).expect("histograms alike");
    }
    Round { calls_per_s: latency.len() as f64 / begin.elapsed().as_secs_f64(), latency }
}

/// Of durations in ns up to 60 s.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("valid bounds")
}

fn summary(system: &'static str, workers: usize, callers: usize, rounds: &[Round]) -> Row {
    let quantile = |quantile: f64| {
        Spread::of(rounds.iter().map(|r| r.latency.value_at_quantile(quantile) as f64 / 1e3)).median
    };
    Row {
        job: "echo",
        system,
        workers,
        callers,
        calls_per_s: Spread::of(rounds.iter().map(|round| round.calls_per_s)).median,
        p50_us: quantile(0.5),
        p99_us: quantile(0.99),
    }
}

#[tokio::main]
async fn main() {
    let options = Options::parse();
    let (rounds, time) = if options.quick { (3, 250) } else { (7, 500) };
    let time = Duration::from_millis(time);
    common::print_machine();
    let message = Message::example();
    let bytes = serde_json::to_string(&message).expect("plain data").len();
    println!(
        "echo of {bytes} bytes of JSON; {rounds} rounds of {} ms each, snakepen and bare in turn; medians;\n\
         ratio: snakepen's calls per second to bare's, of neighbouring rounds: median (lowest to highest)\n",
        time.as_millis()
    );

    let mut rows = Vec::new();
    let mut table = Table::new(&[
        "workers",
        "callers",
        "snakepen/s",
        "p50 µs",
        "p99 µs",
        "bare/s",
        "p50 µs",
        "p99 µs",
        "ratio",
    ]);
    let mut reached = None;
    for workers in WORKERS {
        let pool = Pool::builder(format!("bench-{workers}"))
            .python(common::python())
            .handlers(common::handlers())
            .workers(workers)
            .start()
            .await
            .expect("the pool starts");
        let package = common::manifest().join("python_worker");
        let bare = BarePool::start(common::python(), &package, &common::handlers(), workers)
            .await
            .expect("the bare pool starts");
        let bare = Arc::new(bare);
        let answer: Message = pool.call("echo", (&message,)).await.expect("an echo");
        assert_eq!(answer, message);
        let systems = [
            System::Snakepen(pool.clone(), Arc::new(message.clone())),
            System::Bare(Arc::clone(&bare), Arc::new(message.clone())),
        ];
        for system in &systems {
            round(system, 16, time / 5).await;
        }
        for callers in CALLERS {
            let mut done = [Vec::new(), Vec::new()];
            for number in 0..rounds {
                // The first of a pair changes: A B, B A, A B …
                for turn in [number % 2, 1 - number % 2] {
                    done[turn].push(round(&systems[turn], callers, time).await);
                }
            }
            let ratio = Spread::of(
                done[0].iter().zip(&done[1]).map(|(a, b)| a.calls_per_s / b.calls_per_s),
            );
            if (workers, callers) == (REACH.0, REACH.1) {
                reached = Some(ratio);
            }
            let ours = summary("snakepen", workers, callers, &done[0]);
            let theirs = summary("bare", workers, callers, &done[1]);
            let mut cells = vec![workers.to_string(), callers.to_string()];
            for row in [&ours, &theirs] {
                cells.extend([row.calls_per_s, row.p50_us, row.p99_us].map(thousands));
            }
            cells.push(ratio.text(2));
            table.row(cells);
            rows.extend([ours, theirs]);
        }
        drop(systems);
        pool.shutdown().await.expect("a clean shutdown");
        Arc::into_inner(bare).expect("the callers are done").stop().await;
    }
    table.print();
    if let Some(ratio) = reached {
        let (workers, callers, reach) = REACH;
        println!(
            "\n{callers} callers, {workers} workers: {} of bare, to be reached: {reach}",
            ratio.text(2)
        );
    }
    options.write(&rows);
}
