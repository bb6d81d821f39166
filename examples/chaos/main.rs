//! A chaos run: many tasks call one pool while others kill, stop and corrupt whatever it is made of. Meanwhile, and
//! afterwards, it is checked that the pool keeps what it promises.
//!
//!     cargo run --release --example chaos -- --seconds 30 --seed 1
//!
//! Without arguments it runs for 10 s. The seed fixes what each task does, and in which order; how the tasks
//! interleave is up to the machine. For hunting: `--only TEXT` injects only the faults with this in their names,
//! `--cut` shuts the pool down while it is called and harmed, and `--log` shows what the pool says about it.
//!
//! What is checked (a violation is counted, the first few are shown, and the run fails):
//!
//! - Every call ends, at its deadline plus [`calls::TOLERANCE`] at the latest, and none times out early.
//! - The right answer reaches the right caller, from the worker that was asked.
//! - A call ends as it should, or fails by what is injected ([`calls::collateral`]), and in no other way.
//! - No call runs twice; none runs of which `may_have_run()` is false; the work of one that timed out, was
//!   cancelled, or lost its caller, stops. Only an idempotent one may run again.
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

use snakepen::{Pool, SessionError, SessionStore, Stats};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use calls::Caller;
use ledger::Ledger;
use system::Mark;

const HANDLERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/chaos.py");

const WORKERS: usize = 6;
/// A resize adds so many at most.
const MORE: usize = 2;
const CALLERS: u64 = 24;
const INJECTORS: u64 = 3;

/// Low enough to be met now and then.
const QUEUE_LIMIT: usize = 60;
const MAX_FRAME: usize = 8 << 20;
/// After this a worker that is stopped while it starts is given up.
const STARTUP: Duration = Duration::from_secs(5);
const HEALTH_INTERVAL: Duration = Duration::from_millis(300);
const HEALTH_TIMEOUT: Duration = Duration::from_millis(700);
const GRACE: Duration = Duration::from_secs(5);
const CANCEL_GRACE: Duration = Duration::from_millis(500);
/// More than the handlers that may have some take, in bytes.
const MEMORY_LIMIT: u64 = 350 << 20;

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

/// Calls and faults go on for so long after a shutdown has begun.
const AFTER_CUT: Duration = Duration::from_millis(500);

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
    /// Whether the pool is being shut down while it is called.
    cut: AtomicBool,
    /// The most memory that the host was seen to have, in bytes.
    peak: AtomicUsize,
    /// The slot that each key was seen to belong to.
    slots: [AtomicUsize; calls::KEYS],
    /// Since the pool had another size for a while, keys may have had other slots.
    resized: AtomicBool,
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
    /// Which faults are injected: those with this in their names.
    only: String,
    cut: bool,
    log: bool,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let mut options = Self {
            time: Duration::from_secs(10),
            seed: 1,
            only: String::new(),
            cut: false,
            log: false,
        };
        let (mut seconds, mut any) = (30, false);
        while let Some(argument) = arguments.next() {
            any = true;
            let mut value = || arguments.next().ok_or(format!("{argument} takes a value"));
            match argument.as_str() {
                "--seconds" => seconds = value()?.parse()?,
                "--seed" => options.seed = value()?.parse()?,
                "--only" => options.only = value()?,
                "--cut" => options.cut = true,
                "--log" => options.log = true,
                _ => {
                    let usage = "[--seconds N] [--seed N] [--only TEXT] [--cut] [--log]";
                    return Err(format!("{argument}? usage: chaos {usage}").into());
                }
            }
        }
        if any {
            options.time = Duration::from_secs(seconds);
        }
        Ok(options)
    }
}

async fn run(options: &Options) -> Result<u64, Box<dyn Error>> {
    let &Options { time, seed, cut, .. } = options;
    println!("{CALLERS} tasks call {WORKERS} workers for {time:?}, with seed {seed}.");
    let warm_up = round(seed, WARM_UP, None, false).await?;
    let (descriptors, memory) = (system::descriptors(), system::memory());
    let ledger = round(seed, time, Some(&options.only), cut).await?;
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

/// The life of one pool: it is called for a while, under some faults perhaps; becomes whole, unless it is cut short; and
/// is shut down.
async fn round(
    seed: u64,
    time: Duration,
    faults: Option<&str>,
    cut: bool,
) -> Result<Ledger, Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let log = directory.path().join("log");
    std::fs::write(&log, "")?;
    let mark = Mark::new();
    let sessions = SessionStore::builder("chaos-sessions").open().await?;
    let pool = Pool::builder("chaos")
        .sessions(sessions.clone())
        .handlers(HANDLERS)
        .preload(["asyncio", "ctypes", "subprocess", "threading"])
        .env("CHAOS_LOG", &log)
        .env(Mark::KEY, mark.value())
        .workers(WORKERS)
        .queue_limit(QUEUE_LIMIT)
        .max_frame(MAX_FRAME)
        .startup_timeout(STARTUP)
        .health_interval(HEALTH_INTERVAL)
        .health_timeout(HEALTH_TIMEOUT)
        .shutdown_grace(GRACE)
        .cancel_grace(CANCEL_GRACE)
        .circuit_threshold(0)
        .max_requests(200)
        .max_age(Duration::from_secs(4))
        .memory_limit(MEMORY_LIMIT)
        .start()
        .await?;
    let start = Instant::now();
    let chaos = Arc::new(Chaos {
        pool,
        mark,
        ledger: Ledger::new(start),
        seed,
        start,
        faulty: AtomicBool::new(faults.is_some()),
        cut: AtomicBool::new(false),
        peak: AtomicUsize::new(0),
        slots: std::array::from_fn(|_| AtomicUsize::new(calls::NO_SLOT)),
        resized: AtomicBool::new(false),
    });

    let watching = tokio::spawn(watch(Arc::clone(&chaos), system::memory() + GROWTH));
    if cut {
        let cut = async {
            sleep(time).await;
            chaos.shut_down().await;
        };
        tokio::join!(chaos.storm(time + AFTER_CUT, faults), cut);
    } else {
        chaos.storm(time, faults).await;
        chaos.becomes_whole().await;
    }
    watching.abort();
    let _ = watching.await;
    chaos.shut_down().await;
    if faults.is_some() {
        chaos.ledger.print();
        println!(
            "The pool restarted {} workers; the host had {} MiB at most.",
            chaos.pool.stats().restarts,
            chaos.peak.load(Ordering::Relaxed) >> 20,
        );
    }
    chaos.ledger.check_counted(counted(&sessions).await?);
    sessions.close().await?;
    drop(sessions);
    chaos.ends().await;
    let chaos = Arc::into_inner(chaos).ok_or("a task is left")?;
    chaos.ledger.check_log(&log)?;
    Ok(chaos.ledger)
}

/// What all sessions have counted.
async fn counted(sessions: &SessionStore) -> Result<u64, SessionError> {
    let mut sum = 0;
    for id in sessions.list().await? {
        sum += sessions.session(id)?.get::<u64>("count").await?.unwrap_or(0);
    }
    Ok(sum)
}

impl Chaos {
    fn is_faulty(&self) -> bool {
        self.faulty.load(Ordering::Relaxed)
    }

    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// For how long nothing is to be injected.
    fn calm(&self) -> Duration {
        let into = self.start.elapsed().as_millis() % (STORM + CALM).as_millis();
        let into = Duration::from_millis(u64::try_from(into).unwrap_or_default());
        if into < STORM { Duration::ZERO } else { STORM + CALM - into }
    }

    async fn storm(self: &Arc<Self>, time: Duration, faults: Option<&str>) {
        let end = Instant::now() + time;
        let mut tasks = JoinSet::new();
        for task in 0..CALLERS {
            tasks.spawn(calls::call_until(end, Caller::new(Arc::clone(self), task)));
        }
        for task in CALLERS..CALLERS + INJECTORS {
            if let Some(only) = faults {
                let caller = Caller::new(Arc::clone(self), task);
                tasks.spawn(faults::inject_until(end, caller, only.to_owned()));
            }
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
    async fn becomes_whole(self: &Arc<Self>) {
        let start = Instant::now();
        let mut caller = Caller::new(Arc::clone(self), CALLERS + INJECTORS);
        let whole = async {
            let mut times = 0;
            while times < 2 {
                times = if caller.every_slot_answers().await { times + 1 } else { 0 };
                if times == 1 && self.is_faulty() {
                    println!("Whole again after {:.1?}.", start.elapsed());
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
    }

    /// Also while the pool is called, and what it is made of killed. No process is left when it returns.
    async fn shut_down(&self) {
        self.cut.store(true, Ordering::Relaxed);
        let start = Instant::now();
        if timeout(GRACE + LIMIT, self.pool.shutdown()).await.is_err() {
            self.ledger.violation("the shutdown does not end");
        }
        if start.elapsed() > Duration::from_secs(1) {
            println!("The shutdown took {:.1?}.", start.elapsed());
        }
        let left = self.mark.own_processes();
        if !left.is_empty() {
            let start = Instant::now();
            let what: Vec<_> = left.iter().map(|&pid| system::describe(pid)).collect();
            let gone = system::eventually(LIMIT, || self.mark.own_processes().is_empty()).await;
            let when = if gone { format!("{:.1?}", start.elapsed()) } else { "never".to_owned() };
            self.ledger.violation(&format!("left by shutdown(), gone after {when}: {what:?}"));
        }
    }

    /// Checks that of a pool that is shut down nothing is lost and nothing is left.
    async fn ends(&self) {
        let ledger = &self.ledger;
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
    // Those of slots that have just been retired run on.
    if now.queued + now.busy > QUEUE_LIMIT + now.size + MORE {
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
