//! How soon workers with DSPy are there, beside one import of it.
//!
//! `SNAKEPEN_PYTHON=python-with-dspy cargo bench --bench dspy [-- [--quick] [--json FILE]]`
//!
//! "one import" is an interpreter that is started, imports DSPy and ends. "8 workers" is the whole of `start()`: launcher,
//! import, eight forks, handlers. They take turns in one run, and the ratio is that of neighbouring rounds. "killed" is the
//! time from a `kill -9` until the slot has another worker.

mod common;

use std::process::Command;
use std::time::{Duration, Instant};

use common::{Options, Spread, Table, python};
use serde::Serialize;
use snakepen::Pool;

const WORKERS: usize = 8;

/// In imports of DSPy.
const REACH_START: f64 = 1.5;

/// In ms.
const REACH_KILLED: f64 = 100.0;

#[derive(Serialize)]
struct Row {
    job: &'static str,
    ms: f64,
    low: f64,
    high: f64,
}

fn main() {
    let options = Options::parse();
    common::print_machine();
    if common::ask(python(), "import dspy; print(dspy.__version__)").is_empty() {
        eprintln!("{} has no DSPy: SNAKEPEN_PYTHON names one that has", python().display());
        std::process::exit(2);
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let rows = runtime.block_on(run(if options.quick { 3 } else { 9 }));
    options.write(&rows);
}

async fn run(rounds: usize) -> Vec<Row> {
    let (mut imports, mut starts, mut killed) = (Vec::new(), Vec::new(), Vec::new());
    // The first round warms up.
    for round in 0..=rounds {
        let import = one_import();
        let start = Instant::now();
        let pool = Pool::builder("dspy-bench").python(python()).dspy().workers(WORKERS);
        let pool = pool.start().await.expect("a pool");
        let started = millis(start);
        let again = replacement(&pool, round % WORKERS).await;
        pool.shutdown().await.expect("a clean shutdown");
        if round > 0 {
            imports.push(import);
            starts.push(started);
            killed.push(again);
        }
    }
    let ratio = Spread::of(starts.iter().zip(&imports).map(|(start, import)| start / import));
    let mut table = Table::new(&["what", "median, ms", "lowest", "highest"]);
    let rows =
        [("one import", imports), ("8 workers", starts), ("killed", killed)].map(|(job, ms)| {
            let Spread { low, median, high } = Spread::of(ms);
            let cells = [median, low, high].map(|ms| format!("{ms:.0}"));
            table.row(std::iter::once(job.to_owned()).chain(cells).collect());
            Row { job, ms: median, low, high }
        });
    table.print();
    println!(
        "\n8 workers: {:.2} ({:.2} to {:.2}) imports, to be reached: {REACH_START}",
        ratio.median, ratio.low, ratio.high
    );
    println!("killed, and there again: {:.0} ms, to be reached: {REACH_KILLED}", rows[2].ms);
    rows.into()
}

fn one_import() -> f64 {
    let start = Instant::now();
    let status = Command::new(python()).args(["-c", "import dspy"]).status();
    assert!(status.expect("Python runs").success(), "DSPy cannot be imported");
    millis(start)
}

/// Milliseconds from the death of a slot's worker to its replacement.
async fn replacement(pool: &Pool, slot: usize) -> f64 {
    let pid = pool.workers()[slot].pid.expect("a worker");
    let start = Instant::now();
    let status = Command::new("kill").args(["-9", &pid.to_string()]).status();
    assert!(status.expect("kill runs").success());
    loop {
        let worker = &pool.workers()[slot];
        if pool.stats().ready == WORKERS && worker.pid.is_some_and(|now| now != pid) {
            return millis(start);
        }
        assert!(start.elapsed() < Duration::from_secs(60), "the slot stays empty");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}
