//! What a call costs as a pool grows, and as its queue does.
//!
//! `cargo bench --bench scale [-- [--quick] [--json FILE]]`
//!
//! Echo calls of 87 bytes of JSON by real workers. All pools are started first; each round measures every one of them in
//! turn, and the ratio is that to the smallest in the same round. The host's own processor time is that of this
//! process, user and kernel, with the callers' tasks in it. `cargo bench --bench scheduler` has the scheduler alone.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{Options, Spread, Table, cpu_us, thousands};
use serde::Serialize;
use snakepen::Pool;
use tokio::task::JoinSet;

const WORKERS: [usize; 4] = [1, 8, 64, 256];
/// As many as the largest pool has workers.
const CALLERS: usize = 256;

const QUEUED: [usize; 6] = [1, 10, 100, 1_000, 10_000, 100_000];
const QUEUE_WORKERS: usize = 2;

#[derive(Serialize)]
struct Row {
    job: &'static str,
    workers: usize,
    /// Calls at once; those over the number of workers are queued.
    callers: usize,
    calls_per_s: f64,
    /// Of this process, user and kernel.
    host_us_per_call: f64,
    /// What the smallest of the job costs, in the same rounds.
    ratio: f64,
}

/// Callers of a pool that call as fast as they get answers, for as long as this is kept.
struct Load {
    ended: Arc<AtomicU64>,
    callers: JoinSet<()>,
}

impl Load {
    fn new(pool: &Pool, callers: usize) -> Self {
        let ended = Arc::new(AtomicU64::new(0));
        let caller = |_| {
            let (pool, ended) = (pool.clone(), Arc::clone(&ended));
            async move {
                let message = serde_json::json!({
                    "id": 20_260_117, "name": "small calls", "amount": 42.5, "tags": ["echo", "bench"], "done": false,
                });
                loop {
                    let answer = pool.call::<serde_json::Value>("echo", (&message,)).await;
                    std::hint::black_box(answer.expect("an echo"));
                    ended.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        Self { callers: (0..callers).map(caller).collect(), ended }
    }

    async fn measure(&self, time: Duration) -> Figures {
        let (begin, before, cpu) = (Instant::now(), self.ended(), cpu_us());
        tokio::time::sleep(time).await;
        let calls = (self.ended() - before) as f64;
        (calls / begin.elapsed().as_secs_f64(), (cpu_us() - cpu) / calls)
    }

    fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// Ends the callers; their calls are given up.
    async fn stop(mut self, pool: &Pool) {
        self.callers.shutdown().await;
        while pool.stats().busy + pool.stats().queued > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn start(workers: usize) -> Pool {
    let pool = Pool::builder(format!("scale-{workers}"))
        .python(common::python())
        .handlers(common::handlers())
        .workers(workers)
        .queue_limit(200_000)
        .call_timeout(Duration::from_secs(600));
    pool.start().await.expect("the pool starts")
}

/// A pool, its workers, and those that call it.
type Case = (Pool, usize, usize);

/// Calls a second, and the host's processor time for one, in µs.
type Figures = (f64, f64);

/// Measures pools and callers in turn, round by round.
async fn measure(job: &'static str, cases: &[Case], rounds: usize, time: Duration) -> Vec<Row> {
    let mut all: Vec<Vec<Figures>> = vec![Vec::new(); cases.len()];
    for _ in 0..rounds {
        for ((pool, workers, callers), measured) in cases.iter().zip(&mut all) {
            let load = Load::new(pool, *callers);
            // Until they have all called, and those that are queued wait.
            while load.ended() < *workers as u64 || pool.stats().queued + workers < *callers {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            measured.push(load.measure(time).await);
            load.stop(pool).await;
        }
    }
    let row = |((_, workers, callers), measured): (&Case, &Vec<Figures>)| {
        let ratios = measured.iter().zip(&all[0]).map(|((_, cost), (_, least))| cost / least);
        Row {
            job,
            workers: *workers,
            callers: *callers,
            calls_per_s: Spread::of(measured.iter().map(|(rate, _)| *rate)).median,
            host_us_per_call: Spread::of(measured.iter().map(|(_, cost)| *cost)).median,
            ratio: Spread::of(ratios).median,
        }
    };
    cases.iter().zip(&all).map(row).collect()
}

fn print(what: &str, rows: &[Row]) {
    println!("\n{what}\n");
    let mut table =
        Table::new(&["workers", "callers", "calls/s", "host µs per call", "to the smallest"]);
    for row in rows {
        table.row(vec![
            row.workers.to_string(),
            row.callers.to_string(),
            thousands(row.calls_per_s),
            format!("{:.1}", row.host_us_per_call),
            format!("{:.2}", row.ratio),
        ]);
    }
    table.print();
}

#[tokio::main]
async fn main() {
    let options = Options::parse();
    let (rounds, time) = if options.quick { (3, 400) } else { (7, 1_000) };
    let time = Duration::from_millis(time);
    common::print_machine();
    println!("{rounds} rounds of {} ms each; medians", time.as_millis());

    let mut cases = Vec::new();
    for workers in WORKERS {
        cases.push((start(workers).await, workers, CALLERS));
    }
    let mut rows = measure("workers", &cases, rounds, time).await;
    print(&format!("As the pool grows, {CALLERS} callers:"), &rows);
    for (pool, ..) in cases {
        pool.shutdown().await.expect("a clean shutdown");
    }

    let pool = start(QUEUE_WORKERS).await;
    let case = |queued| (pool.clone(), QUEUE_WORKERS, QUEUE_WORKERS + queued);
    let queues = measure("queue", &QUEUED.map(case), rounds, time).await;
    print("As the queue grows:", &queues);
    pool.shutdown().await.expect("a clean shutdown");

    rows.extend(queues);
    options.write(&rows);
}
