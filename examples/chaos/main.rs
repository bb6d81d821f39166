//! A chaos run: many tasks call one pool while others kill, stop and corrupt whatever it is made of. Meanwhile, and
//! afterwards, it is checked that the pool keeps what it promises.
//!
//!     cargo run --release --example chaos -- --seconds 30 --seed 1
//!
//! Without arguments it runs for 10 s. `--log` shows what the pool says about it. The seed fixes what each task does,
//! and in which order; how the tasks interleave is up to the machine.
//!
//! What is checked (a violation is counted, the first few are shown, and the run fails):
//!
//! - Every call ends, at its deadline plus [`calls::TOLERANCE`] at the latest, and none times out early.
//! - The right answer reaches the right caller, from the worker that was asked.
//! - A call ends as it should, or fails by what is injected ([`calls::collateral`]), and in no other way.
//! - No call runs twice; none runs of which `may_have_run()` is false; the work of one that timed out, or that lost
//!   its caller, stops.
//! - The sums of `Pool::stats` agree at every look, and in the end with what the callers have seen.
//! - Memory stays bounded, the pool becomes whole again, and nothing is left of it.

mod calls;
mod faults;
mod ledger;
mod system;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use snakepen::{Pool, Stats};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use calls::Caller;
use ledger::Ledger;
use system::Mark;

const HANDLERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/chaos.py");

const WORKERS: usize = 6;
const CALLERS: u64 = 24;
const INJECTORS: u64 = 3;

/// Low enough to be met now and then.
const QUEUE_LIMIT: usize = 60;
const MAX_FRAME: usize = 8 << 20;
const HEALTH_INTERVAL: Duration = Duration::from_millis(300);
const HEALTH_TIMEOUT: Duration = Duration::from_millis(700);
const GRACE: Duration = Duration::from_secs(5);

/// How long a pool is called before anything is measured: what a first pool leaves in the runtime and the allocator
/// is no leak.
const WARM_UP: Duration = Duration::from_secs(1);

/// Faults come in storms. A calm ends the series of deaths that the pool's backoffs count (20 deaths of what lived for
/// less than 10 s are free); a long run would spend its time in delays otherwise.
const STORM: Duration = Duration::from_secs(20);
const CALM: Duration = Duration::from_secs(12);

/// The longest delay of a restart is 30 s; the rest is for a slow machine.
const RECOVERY: Duration = Duration::from_secs(45);
/// Nothing else that is waited for takes so long.
const LIMIT: Duration = Duration::from_secs(30);

/// So much may the host's memory grow in between, in bytes,
const GROWTH: usize = 400 << 20;
/// and so much from before to after: the allocator keeps some for later.
const KEPT: usize = 96 << 20;

/// What the tasks of a run share.
struct Chaos {
    pool: Pool,
    mark: Mark,
    ledger: Ledger,
    seed: u64,
    start: Instant,
    /// Whether calls may fail by what is, or was just now, injected.
    faulty: AtomicBool,
    /// The most memory that the host was seen to have, in bytes.
    peak: AtomicUsize,
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let options = Options::parse(std::env::args().skip(1))?;
    if options.log {
        tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let violations = runtime.block_on(run(&options))?;
    Ok(if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Options {
    time: Duration,
    seed: u64,
    log: bool,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let (mut seconds, mut seed, mut log, mut any) = (30, 1, false, false);
        while let Some(argument) = arguments.next() {
            any = true;
            let mut number = || arguments.next().and_then(|text| text.parse().ok());
            match argument.as_str() {
                "--seconds" => seconds = number().ok_or("--seconds takes a number")?,
                "--seed" => seed = number().ok_or("--seed takes a number")?,
                "--log" => log = true,
                _ => return Err("usage: chaos [--seconds N] [--seed N] [--log]".into()),
            }
        }
        Ok(Self { time: Duration::from_secs(if any { seconds } else { 10 }), seed, log })
    }
}

async fn run(options: &Options) -> Result<u64, Box<dyn Error>> {
    let &Options { time, seed, .. } = options;
    println!("{CALLERS} tasks call {WORKERS} workers for {time:?}, with seed {seed}.");
    let warm_up = round(seed, WARM_UP, 0).await?;
    let (descriptors, memory) = (system::descriptors(), system::memory());
    let ledger = round(seed, time, INJECTORS).await?;
    if !system::eventually(LIMIT, || system::descriptors() <= descriptors).await {
        let now = system::descriptors();
        ledger.violation(&format!("descriptors are left: {descriptors} before, {now} after"));
    }
    let mib = |bytes: usize| bytes >> 20;
    let now = system::memory();
    if now > memory + KEPT {
        ledger.violation(&format!("memory grew from {} to {} MiB", mib(memory), mib(now)));
    }
    println!(
        "Afterwards: {} descriptors ({descriptors} before); the host has {} MiB ({} before).\n",
        system::descriptors(),
        mib(now),
        mib(memory),
    );
    let violations = warm_up.violations() + ledger.violations();
    let (calls, faults) = (ledger.calls(), ledger.faults());
    println!("calls {calls}, faults injected {faults}, violations {violations}");
    Ok(violations)
}

/// The life of one pool: is called for a while, under so many injectors' faults; becomes whole; is shut down.
async fn round(seed: u64, time: Duration, injectors: u64) -> Result<Ledger, Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let log = directory.path().join("log");
    std::fs::write(&log, "")?;
    let mark = Mark::new();
    let pool = Pool::builder("chaos")
        .handlers(HANDLERS)
        .preload(["asyncio", "ctypes", "subprocess", "threading"])
        .env("CHAOS_LOG", &log)
        .env(Mark::KEY, mark.value())
        .workers(WORKERS)
        .queue_limit(QUEUE_LIMIT)
        .max_frame(MAX_FRAME)
        .health_interval(HEALTH_INTERVAL)
        .health_timeout(HEALTH_TIMEOUT)
        .shutdown_grace(GRACE)
        .start()
        .await?;
    let start = Instant::now();
    let chaos = Arc::new(Chaos {
        pool,
        mark,
        ledger: Ledger::new(start),
        seed,
        start,
        faulty: AtomicBool::new(injectors > 0),
        peak: AtomicUsize::new(0),
    });

    let watching = tokio::spawn(watch(Arc::clone(&chaos), system::memory() + GROWTH));
    chaos.storm(time, injectors).await;
    let recovery = chaos.becomes_whole().await;
    watching.abort();
    let _ = watching.await;
    if injectors > 0 {
        chaos.ledger.print();
        println!(
            "The pool restarted {} workers; it was whole again {recovery:.1?} after the last call; the host had {} MiB \
             at most.",
            chaos.pool.stats().restarts,
            chaos.peak.load(Ordering::Relaxed) >> 20,
        );
    }
    chaos.ends().await;
    let chaos = Arc::into_inner(chaos).ok_or("a task is left")?;
    chaos.ledger.check_log(&log)?;
    Ok(chaos.ledger)
}

impl Chaos {
    fn is_faulty(&self) -> bool {
        self.faulty.load(Ordering::Relaxed)
    }

    /// For how long nothing is to be injected.
    fn calm(&self) -> Duration {
        let into = self.start.elapsed().as_millis() % (STORM + CALM).as_millis();
        let into = Duration::from_millis(u64::try_from(into).unwrap_or_default());
        if into < STORM { Duration::ZERO } else { STORM + CALM - into }
    }

    async fn storm(self: &Arc<Self>, time: Duration, injectors: u64) {
        let end = Instant::now() + time;
        let mut tasks = JoinSet::new();
        for task in 0..CALLERS {
            tasks.spawn(calls::call_until(end, Caller::new(Arc::clone(self), task)));
        }
        for task in CALLERS..CALLERS + injectors {
            tasks.spawn(faults::inject_until(end, Caller::new(Arc::clone(self), task)));
        }
        let ended = async {
            while let Some(ended) = tasks.join_next().await {
                if let Err(panic) = ended {
                    self.ledger.violation(&format!("a task ended by {panic}"));
                }
            }
        };
        if timeout(time + LIMIT, ended).await.is_err() {
            self.ledger.violation(&format!("{} tasks do not end", tasks.len()));
            tasks.shutdown().await;
        }
    }

    /// Every slot answers within the bound, and again once all have been pinged; from then on nothing may fail.
    async fn becomes_whole(self: &Arc<Self>) -> Duration {
        let start = Instant::now();
        let mut caller = Caller::new(Arc::clone(self), CALLERS + INJECTORS);
        let mut took = Duration::ZERO;
        let whole = async {
            let mut times = 0;
            while times < 2 {
                times = if caller.every_slot_answers().await { times + 1 } else { 0 };
                if times == 1 {
                    took = start.elapsed();
                }
                if times < 2 {
                    sleep(HEALTH_INTERVAL + HEALTH_TIMEOUT).await;
                }
            }
        };
        if timeout(RECOVERY, whole).await.is_err() {
            let (stats, workers) = (self.pool.stats(), self.pool.workers());
            self.ledger.violation(&format!("not whole after {RECOVERY:?}: {stats:?} {workers:#?}"));
        }
        self.faulty.store(false, Ordering::Relaxed);
        for _ in 0..50 {
            caller.every_slot_answers().await;
        }
        took
    }

    /// Shuts the pool down, and checks that nothing is lost and nothing is left.
    async fn ends(&self) {
        let ledger = &self.ledger;
        if timeout(GRACE + LIMIT, self.pool.shutdown()).await.is_err() {
            ledger.violation("the shutdown does not end");
        }
        let left: Vec<_> = self.mark.own_processes();
        if !left.is_empty() {
            ledger.violation(&format!("processes {left:?} are left by shutdown()"));
        }
        // What user code has forked is killed as well, but is nobody's child then.
        if !system::eventually(LIMIT, || self.mark.processes().is_empty()).await {
            ledger.violation(&format!("processes {:?} are left", self.mark.processes()));
        }
        if let zombies @ [_, ..] = &*system::children() {
            ledger.violation(&format!("children {zombies:?} are not reaped"));
        }
        for name in ractor::registry::registered() {
            ledger.violation(&format!("the name {name} is left"));
        }
        let stats = self.pool.stats();
        if (stats.queued, stats.busy, stats.ready) != (0, 0, 0) {
            ledger.violation(&format!("not at rest: {stats:?}"));
        }
        ledger.check_sums(&stats);
    }
}

/// Looks at the pool's figures, and at the host's memory, until it is aborted.
async fn watch(chaos: Arc<Chaos>, limit: usize) {
    let mut last = chaos.pool.stats();
    let mut over = false;
    for look in 0_u32.. {
        let stats = chaos.pool.stats();
        if let Err(what) = agree(&last, &stats) {
            chaos.ledger.violation(&format!("{what}: {stats:?}; before: {last:?}"));
        }
        last = stats;
        if look % 20 == 0 {
            let memory = system::memory();
            chaos.peak.fetch_max(memory, Ordering::Relaxed);
            if memory > limit && !std::mem::replace(&mut over, true) {
                chaos.ledger.violation(&format!("the host has {} MiB", memory >> 20));
            }
        }
        sleep(Duration::from_millis(5)).await;
    }
}

fn agree(before: &Stats, now: &Stats) -> Result<(), &'static str> {
    let ended = now.completed + now.failed.total();
    if now.submitted != ended + (now.queued + now.busy) as u64 {
        return Err("the sums do not agree");
    }
    if now.queued + now.busy > QUEUE_LIMIT + now.size {
        return Err("more calls than the limit");
    }
    if now.ready > now.size {
        return Err("more workers than slots");
    }
    let rises = [
        (before.submitted, now.submitted),
        (before.completed, now.completed),
        (before.failed.total(), now.failed.total()),
        (before.rejected, now.rejected),
        (before.restarts, now.restarts),
    ];
    if rises.iter().any(|(before, now)| now < before) {
        return Err("a sum has become smaller");
    }
    Ok(())
}
