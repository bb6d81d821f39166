//! Heavy imports can be made once, before the workers are forked: all of them, and every replacement, share them.
//!
//!     cargo run --release --example preload

use std::process::Command;
use std::time::{Duration, Instant};

use snakepen::Pool;

const HANDLERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/preload.py");
const WORKERS: usize = 8;
/// What `preload.py` imports.
const MODULES: [&str; 8] = [
    "asyncio",
    "decimal",
    "email.message",
    "http.client",
    "logging.config",
    "statistics",
    "unittest.mock",
    "urllib.request",
];

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

struct Measured {
    start: Duration,
    replacement: Duration,
    memory: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    println!("{WORKERS} workers whose handler file imports {}.\n", MODULES.join(", "));
    // Once before it counts, so that the files are in the page cache for all.
    measure(&[]).await?;
    let without = measure(&[]).await?;
    let with = measure(&MODULES).await?;
    println!("{:<28} {:>12} {:>12}", "", "no preload", "preload");
    let row = |what, a: String, b: String| println!("{what:<28} {a:>12} {b:>12}");
    let ms = |time: Duration| format!("{:.1} ms", 1e3 * time.as_secs_f64());
    let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
    row("start of the pool", ms(without.start), ms(with.start));
    row("a killed worker's replacement", ms(without.replacement), ms(with.replacement));
    row("memory per worker (PSS)", mib(without.memory), mib(with.memory));
    Ok(())
}

async fn measure(preload: &[&str]) -> Result<Measured> {
    let builder = Pool::builder("preload").handlers(HANDLERS).workers(WORKERS);
    let start = Instant::now();
    let pool = builder.preload(preload.iter().copied()).start().await?;
    let started = start.elapsed();

    // Shared pages count in part for each process that shares them; the launcher holds the first copy.
    let workers: Vec<i32> = pool.workers().iter().filter_map(|worker| worker.pid).collect();
    let mut memory = 0;
    for pid in &workers {
        memory += pss(*pid)?;
    }

    let killed = pool.workers()[0].clone();
    Command::new("sh").args(["-c", &format!("kill -9 {}", workers[0])]).status()?;
    let start = Instant::now();
    while pool.workers()[0].epoch == killed.epoch || pool.stats().ready < WORKERS {
        tokio::time::sleep(Duration::from_micros(100)).await;
    }
    let replacement = start.elapsed();

    assert!(pool.worker(0)?.call::<usize>("modules", ()).await? > MODULES.len());
    pool.shutdown().await?;
    Ok(Measured { start: started, replacement, memory: memory / WORKERS as u64 })
}

/// A process's share of memory, in KiB.
fn pss(pid: i32) -> Result<u64> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("no Pss line")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
