//! Eight Python workers do real work for many tasks at once; one of them is killed; nothing is left behind.
//!
//!     cargo run --release --example quickstart

use std::collections::BTreeMap;
use std::error::Error;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use snakepen::{Pool, WorkerState};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
const WORKERS: usize = 8;
const TASKS: usize = 64;

// What the handlers of quickstart.py take and return.

#[derive(Serialize)]
struct Forecast {
    series: Vec<f64>,
    season: usize,
    ahead: usize,
}

#[derive(Deserialize)]
struct WordStatistics {
    words: u64,
}

#[derive(Deserialize)]
struct Opinion {
    author: String,
}

#[derive(Deserialize)]
struct Validation {
    passages: u64,
    right: u64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    println!("Starting {WORKERS} Python workers.");
    let start = Instant::now();
    let pool = Pool::builder("quickstart")
        .handlers(format!("{EXAMPLES}/quickstart.py"))
        .workers(WORKERS)
        .start()
        .await?;
    println!(
        "  all ready after {:.0?}; each has loaded quickstart.py and learnt from three books",
        start.elapsed()
    );
    let started = pids(&pool);
    let launcher = parent(started[0]).ok_or("a worker has a parent")?;
    println!("  processes {started:?}, forked from their launcher {launcher}");
    let sum: i64 = pool.call("add", (2, 3)).await?;
    println!("  add(2, 3) = {sum}\n");

    let jobs = Arc::new(jobs()?);
    println!("Sending {} calls from {TASKS} tasks.", jobs.len());
    let start = Instant::now();
    let work = Work::start(&pool, &jobs, Repeat::Once);
    let done = work.finish().await?;
    let elapsed = start.elapsed();
    let rate = done.len() as f64 / elapsed.as_secs_f64();
    println!("  done in {elapsed:.2?}: {rate:.0} calls/s");
    done.print();

    println!("\nKilling a busy worker with kill -9, while the other calls go on.");
    let long = tokio::spawn(pool.worker(3)?.call::<Validation>("cross_validate", 20).into_future());
    let victim = loop {
        let worker = &pool.workers()[3];
        if worker.state == WorkerState::Busy {
            break worker.clone();
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    let others = Work::start(&pool, &jobs, Repeat::UntilStopped);
    while others.answered() < 200 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let pid = victim.pid.ok_or("a busy worker has a process")?;
    println!("  {} (pid {pid}) is busy with cross_validate(20)", victim.name);
    Command::new("sh").args(["-c", &format!("kill -9 {pid}")]).status()?;
    let killed = Instant::now();
    let error = long.await?.err().ok_or("a call cannot outlive its worker")?;
    println!("  its call failed after {:.1?}:", killed.elapsed());
    println!("    {error}");
    println!("    may_have_run: {}, is_retryable: {}", error.may_have_run(), error.is_retryable());
    while pool.workers()[3].epoch == victim.epoch || pool.stats().ready < WORKERS {
        tokio::time::sleep(Duration::from_micros(100)).await;
    }
    let whole = killed.elapsed();
    let replacement = pids(&pool)[3];
    println!("  the pool is whole again after {whole:.1?}: pid {replacement} has taken the place");
    let beside = others.finish().await?;
    println!("  the other {} calls at that time all succeeded", beside.len());
    let Validation { passages, right } = pool.worker(3)?.call("cross_validate", 20).await?;
    println!("  called again: {right} of {passages} passages are told right");

    println!("\nShutting down.");
    let mut seen = started;
    seen.extend([replacement, launcher]);
    pool.shutdown().await?;
    let stats = pool.stats();
    println!(
        "  {} calls: {} completed, {} failed ({} by a worker's death); {} worker restarted",
        stats.submitted,
        stats.completed,
        stats.failed.total(),
        stats.failed.worker_died,
        stats.restarts,
    );
    let (queue, service) = (stats.queue_time, stats.service_time);
    println!("  time in the queue   p50 {:>8.2?}  p99 {:>8.2?}", queue.p50, queue.p99);
    println!("  time in a worker    p50 {:>8.2?}  p99 {:>8.2?}", service.p50, service.p99);
    let left = left_of(&seen)?;
    if stats.failed.total() != 1 || !left.is_empty() {
        return Err(
            format!("{} calls failed, processes left: {left:?}", stats.failed.total()).into()
        );
    }
    println!("  no process left: none of the {} in /proc, and no other child", count(&seen));
    Ok(())
}

// === The work ===

/// One call, with what is needed to judge its answer.
enum Job {
    WordStatistics { text: String },
    WhoWrote { passage: String, author: &'static str },
    Forecast { request: Forecast, measured: Vec<f64> },
}

/// What an answer was good for.
enum Judged {
    Words(u64),
    Author { right: bool },
    Forecast { error: f64 },
}

/// Passages of three books, and stretches of a series of measurements.
fn jobs() -> Result<Vec<Job>, Box<dyn Error>> {
    let mut jobs = Vec::new();
    for author in ["carroll", "milton", "shakespeare"] {
        let text = std::fs::read_to_string(format!("{EXAMPLES}/data/{author}.txt"))?;
        let lines: Vec<_> = text.lines().collect();
        for page in lines.windows(40).step_by(2) {
            jobs.push(Job::WordStatistics { text: page.join("\n") });
        }
        // The workers have learnt from the first half of each book.
        for passage in lines[lines.len() / 2..].windows(4) {
            jobs.push(Job::WhoWrote { passage: passage.join("\n"), author });
        }
    }
    let table = std::fs::read_to_string(format!("{EXAMPLES}/data/co2.csv"))?;
    let months = table.lines().skip(1).flat_map(|year| year.split(',').skip(1));
    let co2 = months.map(str::parse).collect::<Result<Vec<f64>, _>>()?;
    // From each ten years the next one, which has been measured as well.
    for stretch in co2.windows(132) {
        let (series, measured) = (stretch[..120].to_vec(), stretch[120..].to_vec());
        jobs.push(Job::Forecast { request: Forecast { series, season: 12, ahead: 12 }, measured });
    }
    mix(&mut jobs);
    Ok(jobs)
}

/// Mixes the kinds of jobs: a fixed stride through all of them.
fn mix(jobs: &mut Vec<Job>) {
    let mut slots: Vec<_> = std::mem::take(jobs).into_iter().map(Some).collect();
    let stride = (slots.len() / 7).max(1);
    for first in 0..stride {
        jobs.extend(slots.iter_mut().skip(first).step_by(stride).filter_map(Option::take));
    }
}

impl Job {
    async fn run(&self, pool: &Pool) -> Result<(&'static str, Judged), snakepen::Error> {
        match self {
            Job::WordStatistics { text } => {
                let statistics: WordStatistics = pool.call("word_statistics", text).await?;
                Ok(("word_statistics", Judged::Words(statistics.words)))
            }
            Job::WhoWrote { passage, author } => {
                let opinion: Opinion = pool.call("who_wrote", passage).await?;
                Ok(("who_wrote", Judged::Author { right: opinion.author == *author }))
            }
            Job::Forecast { request, measured } => {
                let expected: Vec<f64> = pool.call("forecast", request).await?;
                let errors = expected.iter().zip(measured).map(|(e, m)| (e - m).abs());
                let error = errors.sum::<f64>() / measured.len() as f64;
                Ok(("forecast", Judged::Forecast { error }))
            }
        }
    }
}

/// Tasks that take the jobs one after another, each waiting for its answer before it takes the next.
struct Work {
    tasks: Vec<tokio::task::JoinHandle<Result<Done, snakepen::Error>>>,
    repeat: Repeat,
    answered: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

#[derive(Clone, Copy, PartialEq)]
enum Repeat {
    Once,
    UntilStopped,
}

impl Work {
    fn start(pool: &Pool, jobs: &Arc<Vec<Job>>, repeat: Repeat) -> Self {
        let next = Arc::new(AtomicUsize::new(0));
        let answered = Arc::new(AtomicUsize::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = (0..TASKS).map(|_| {
            let (pool, jobs, next) = (pool.clone(), Arc::clone(jobs), Arc::clone(&next));
            let (answered, stop) = (Arc::clone(&answered), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut done = Done::default();
                while !stop.load(Ordering::Relaxed) {
                    let turn = next.fetch_add(1, Ordering::Relaxed);
                    if repeat == Repeat::Once && turn >= jobs.len() {
                        break;
                    }
                    let called = Instant::now();
                    let (handler, judged) = jobs[turn % jobs.len()].run(&pool).await?;
                    done.0.entry(handler).or_default().push((called.elapsed(), judged));
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                Ok(done)
            })
        });
        Self { tasks: tasks.collect(), repeat, answered, stop }
    }

    fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits for all tasks; those that repeat the jobs until they are stopped are stopped.
    async fn finish(self) -> Result<Done, Box<dyn Error>> {
        if self.repeat == Repeat::UntilStopped {
            self.stop.store(true, Ordering::Relaxed);
        }
        let mut all = Done::default();
        for task in self.tasks {
            for (handler, calls) in task.await??.0 {
                all.0.entry(handler).or_default().extend(calls);
            }
        }
        Ok(all)
    }
}

/// The calls that were answered, by handler: how long each took, and what came of it.
#[derive(Default)]
struct Done(BTreeMap<&'static str, Vec<(Duration, Judged)>>);

impl Done {
    fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    fn print(&self) {
        println!("  {:<16} {:>6} {:>9} {:>9} {:>9}", "handler", "calls", "p50", "p99", "longest");
        for (handler, calls) in &self.0 {
            let mut times: Vec<_> = calls.iter().map(|(time, _)| *time).collect();
            times.sort_unstable();
            let at = |quantile: f64| times[(quantile * (times.len() - 1) as f64) as usize];
            println!(
                "  {handler:<16} {:>6} {:>9.1?} {:>9.1?} {:>9.1?}   {}",
                calls.len(),
                at(0.5),
                at(0.99),
                at(1.0),
                result(calls),
            );
        }
        println!("  (from the call to its answer, the wait for one of {WORKERS} workers included)");
    }
}

/// What came of the calls of one handler, in words.
fn result(calls: &[(Duration, Judged)]) -> String {
    let (mut words, mut right, mut error) = (0, 0, 0.0);
    for (_, judged) in calls {
        match judged {
            Judged::Words(number) => words += number,
            Judged::Author { right: true } => right += 1,
            Judged::Author { right: false } => (),
            Judged::Forecast { error: one } => error += one,
        }
    }
    match calls.first() {
        Some((_, Judged::Words(_))) => format!("{words} words counted"),
        Some((_, Judged::Author { .. })) => {
            format!("{:.1} % of the authors right", 100.0 * f64::from(right) / calls.len() as f64)
        }
        Some((_, Judged::Forecast { .. })) => {
            format!("CO2 a year ahead off by {:.2} ppm on average", error / calls.len() as f64)
        }
        None => String::new(),
    }
}

// === Processes ===

fn pids(pool: &Pool) -> Vec<i32> {
    pool.workers().iter().filter_map(|worker| worker.pid).collect()
}

fn count(pids: &[i32]) -> usize {
    pids.iter().collect::<std::collections::BTreeSet<_>>().len()
}

/// The parent of a process, as /proc says; `None` if there is no such process.
fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// Those of the processes that are still there, and whatever else has this program for its parent.
fn left_of(seen: &[i32]) -> Result<Vec<i32>, std::io::Error> {
    let own = std::process::id().cast_signed();
    let mut left = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if seen.contains(&pid) || parent(pid) == Some(own) {
            left.push(pid);
        }
    }
    Ok(left)
}
