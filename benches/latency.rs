//! How long a small call takes that is alone: with a port that spins, and beside a thread of Python's that computes.
//!
//! `cargo bench --bench latency [-- [--quick] [--json FILE]]`
//!
//! Echo calls of a number, one at a time, from a task of the runtime. The pools take turns in one run; the ratio is that to
//! the first one's time, of the same round. Processor time is that of this process, for one call.

mod common;

use std::time::{Duration, Instant};

use common::{Options, Spread, Table, cpu_us};
use serde::Serialize;
use snakepen::{Builder, Pool};

const SPINS: [u64; 4] = [0, 20, 50, 200];
const INTERVALS: [u64; 3] = [5_000, 1_000, 100];

#[derive(Serialize)]
struct Row {
    job: &'static str,
    /// Microseconds: how long a port spins, or the interval in which threads take turns.
    setting_us: u64,
    mean_us: f64,
    p50_us: f64,
    p99_us: f64,
    host_us_per_call: f64,
    /// Of the mean times, to the first one's.
    ratio: f64,
}

/// In µs: mean, median and 99th percentile of the calls' times, and the processor time of one.
type Round = [f64; 4];

async fn round(pool: Pool, time: Duration) -> Round {
    let task = tokio::spawn(async move {
        let mut taken = Vec::new();
        let (begin, cpu) = (Instant::now(), cpu_us());
        while begin.elapsed() < time {
            let then = Instant::now();
            let answer: u64 = pool.call("echo", (7,)).await.expect("an echo");
            taken.push(then.elapsed().as_secs_f64() * 1e6);
            assert_eq!(answer, 7);
        }
        let cpu = (cpu_us() - cpu) / taken.len() as f64;
        taken.sort_by(f64::total_cmp);
        let mean = taken.iter().sum::<f64>() / taken.len() as f64;
        [mean, taken[taken.len() / 2], taken[taken.len() * 99 / 100], cpu]
    });
    task.await.expect("it ends in order")
}

/// Measures pools that differ in one setting, in turn.
async fn measure(
    job: &'static str,
    settings: &[u64],
    (rounds, time): (usize, Duration),
    set: impl Fn(Builder, u64) -> Builder,
) -> Vec<Row> {
    let mut pools = Vec::new();
    for &setting in settings {
        let builder = Pool::builder(format!("latency-{job}-{setting}")).workers(1);
        let builder = builder.python(common::python()).handlers(common::handlers());
        pools.push(set(builder, setting).start().await.expect("the pool starts"));
    }
    let mut all = vec![Vec::new(); settings.len()];
    for _ in 0..rounds {
        for (pool, measured) in pools.iter().zip(&mut all) {
            // A thread that computes does so only while its pool is measured.
            pool.call::<()>("compute", (job == "threads",)).await.expect("it begins");
            round(pool.clone(), time / 10).await;
            measured.push(round(pool.clone(), time).await);
            pool.call::<()>("compute", (false,)).await.expect("it ends");
        }
    }
    for pool in pools {
        pool.shutdown().await.expect("a clean shutdown");
    }
    let row = |(&setting_us, measured): (&u64, &Vec<Round>)| {
        let [mean_us, p50_us, p99_us, host_us_per_call] =
            [0, 1, 2, 3].map(|at| Spread::of(measured.iter().map(|round| round[at])).median);
        let ratios = measured.iter().zip(&all[0]).map(|(this, first)| this[0] / first[0]);
        let ratio = Spread::of(ratios).median;
        Row { job, setting_us, mean_us, p50_us, p99_us, host_us_per_call, ratio }
    };
    settings.iter().zip(&all).map(row).collect()
}

fn print(what: &str, setting: &str, rows: &[Row]) {
    println!("\n{what}\n");
    let mut table =
        Table::new(&[setting, "mean µs", "p50 µs", "p99 µs", "host µs per call", "to the first"]);
    for row in rows {
        table.row(vec![
            row.setting_us.to_string(),
            format!("{:.1}", row.mean_us),
            format!("{:.1}", row.p50_us),
            format!("{:.1}", row.p99_us),
            format!("{:.1}", row.host_us_per_call),
            format!("{:.2}", row.ratio),
        ]);
    }
    table.print();
}

#[tokio::main]
async fn main() {
    let options = Options::parse();
    let (rounds, millis) = if options.quick { (5, 300) } else { (11, 1_000) };
    let plan = (rounds, Duration::from_millis(millis));
    common::print_machine();
    println!("{rounds} rounds of {millis} ms each; medians");

    let spin = |builder: Builder, us| builder.spin(Duration::from_micros(us));
    let mut rows = measure("spin", &SPINS, plan, spin).await;
    print("A port that spins:", "spin µs", &rows);

    let switch = |builder: Builder, us| builder.switch_interval(Duration::from_micros(us));
    let threads = measure("threads", &INTERVALS, plan, switch).await;
    print("Beside a thread of the worker's that computes:", "switch interval µs", &threads);

    rows.extend(threads);
    options.write(&rows);
}
