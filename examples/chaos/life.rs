//! The life of one pool, and what its calls and faults share.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use snakepen::{Pool, SessionError, SessionStore, Stats};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::caller::{Caller, KEYS, NO_SLOT};
use crate::ledger::Ledger;
use crate::system::{self, Mark};
use crate::{
    AFTER_CUT, CALM, CANCEL_GRACE, EXAMPLES, GRACE, GROWTH, HEALTH_INTERVAL, HEALTH_TIMEOUT, LIMIT,
    MAX_FRAME, MORE, Options, RECOVERY, STARTUP, STORM, exposed, faults, kinds, values,
};

/// Low enough to be met now and then.
const QUEUE_LIMIT: usize = 60;

/// A port looks for an answer so long before it waits for it.
const SPIN: Duration = Duration::from_micros(50);

/// More than the handlers that may have some take, in bytes.
const MEMORY_LIMIT: u64 = 400 << 20;

/// A pool, and who calls and harms it.
pub(crate) struct Shape {
    name: &'static str,
    workers: usize,
    concurrency: usize,
    callers: u64,
    injectors: u64,
    /// So many calls within calls each take a worker at most; so many such chains are made at once.
    depth: u64,
    chains: usize,
}

pub(crate) const PLAIN: Shape = Shape {
    name: "chaos",
    workers: 6,
    concurrency: 1,
    callers: 18,
    injectors: 2,
    depth: 2,
    chains: 2,
};

/// Calls overlap here.
pub(crate) const OVERLAPPING: Shape = Shape {
    name: "chaos-overlapping",
    workers: 3,
    concurrency: 16,
    callers: 16,
    injectors: 1,
    depth: 1,
    chains: 2,
};

/// What the pools and the actors of a round have in common.
pub(crate) struct Setting {
    pub(crate) time: Duration,
    pub(crate) seed: u64,
    /// Which faults are injected, if any are: those with this in their names.
    pub(crate) faults: Option<String>,
    pub(crate) cut: bool,
    pub(crate) directory: PathBuf,
    pub(crate) pattern: Bytes,
}

impl Setting {
    pub(crate) fn new(options: &Options, faults: bool, directory: &Path) -> std::io::Result<Self> {
        let pattern = values::pattern(options.seed, &directory.join("pattern"))?;
        let &Options { time, seed, cut, .. } = options;
        let faults = faults.then(|| options.only.clone());
        Ok(Self { time, seed, faults, cut, directory: directory.to_owned(), pattern })
    }

    /// A file for the notes of one pool's handlers.
    pub(crate) fn log(&self, name: &str) -> std::io::Result<PathBuf> {
        let log = self.directory.join(name);
        std::fs::write(&log, "")?;
        Ok(log)
    }
}

/// For how long nothing is to be injected.
pub(crate) fn calm(start: Instant) -> Duration {
    let into = start.elapsed().as_millis() % (STORM + CALM).as_millis();
    let into = Duration::from_millis(u64::try_from(into).unwrap_or_default());
    if into < STORM { Duration::ZERO } else { STORM + CALM - into }
}

/// What the tasks of a pool share.
pub(crate) struct Chaos {
    pub(crate) pool: Pool,
    pub(crate) mark: Mark,
    pub(crate) ledger: Ledger,
    pub(crate) seed: u64,
    /// What the pool has when nobody resizes it.
    pub(crate) workers: usize,
    pub(crate) overlaps: bool,
    pub(crate) depth: u64,
    pub(crate) nests: Semaphore,
    pub(crate) pattern: Bytes,
    /// Kept by what has to end with its call.
    pub(crate) alive: Arc<()>,
    /// The slot that each key was seen to belong to.
    pub(crate) slots: [AtomicUsize; KEYS],
    /// Since the pool had another size for a while, keys may have had other slots.
    pub(crate) resized: AtomicBool,
    /// The number of the next task that is none of the callers'.
    pub(crate) inner: AtomicU64,
    /// Cancelled when the pool is shut down.
    pub(crate) over: CancellationToken,
    callers: u64,
    injectors: u64,
    /// Calls that one worker has at most.
    seats: usize,
    start: Instant,
    log: PathBuf,
    sessions: SessionStore,
    mortal: std::sync::Mutex<Option<JoinHandle<()>>>,
    /// Whether calls may fail by what is, or was just now, injected.
    faulty: AtomicBool,
    /// Whether the pool is being shut down while it is called.
    cut: AtomicBool,
    /// The most memory that the host was seen to have, in bytes.
    peak: AtomicUsize,
    /// When garbage was last written to a port: ms from the start, 0 for never.
    garbled: AtomicU64,
}

impl Chaos {
    pub(crate) async fn start(
        shape: &Shape,
        setting: &Setting,
        start: Instant,
    ) -> Result<Arc<Self>, Box<dyn Error>> {
        let &Shape { name, workers, concurrency, callers, injectors, depth, chains } = shape;
        let log = setting.log(name)?;
        let mark = Mark::new();
        let sessions = SessionStore::builder(format!("{name}-sessions")).open().await?;
        let pool = Pool::builder(name)
            .sessions(sessions.clone())
            .handlers(format!("{EXAMPLES}/chaos.py"))
            .path(EXAMPLES)
            .preload(["asyncio", "ctypes", "subprocess", "threading"])
            .env("CHAOS_LOG", &log)
            .env("CHAOS_PATTERN", setting.directory.join("pattern"))
            .env(Mark::KEY, mark.value())
            .workers(workers)
            .concurrency(concurrency)
            .spin(SPIN)
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
        let chaos = Arc::new(Self {
            pool,
            mark,
            ledger: Ledger::new(name, start),
            seed: setting.seed ^ u64::from(concurrency > 1) << 32,
            workers,
            overlaps: concurrency > 1,
            depth,
            nests: Semaphore::new(chains),
            pattern: setting.pattern.clone(),
            alive: Arc::new(()),
            slots: std::array::from_fn(|_| AtomicUsize::new(NO_SLOT)),
            resized: AtomicBool::new(false),
            inner: AtomicU64::new(1000),
            over: CancellationToken::new(),
            callers,
            injectors,
            seats: concurrency,
            start,
            log,
            sessions,
            mortal: std::sync::Mutex::default(),
            faulty: AtomicBool::new(setting.faults.is_some()),
            cut: AtomicBool::new(false),
            peak: AtomicUsize::new(0),
            garbled: AtomicU64::new(0),
        });
        exposed::expose(&chaos)?;
        let mortal = exposed::keep_mortal(&chaos).await?;
        *chaos.mortal.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(mortal);
        Ok(chaos)
    }

    /// From its first call until it is shut down.
    pub(crate) async fn live(self: &Arc<Self>, setting: &Setting) {
        let watching = tokio::spawn(watch(Arc::clone(self), system::memory() + GROWTH));
        let faults = setting.faults.as_deref();
        if setting.cut {
            let cut = async {
                sleep(setting.time).await;
                self.shut_down().await;
            };
            tokio::join!(self.storm(setting.time + AFTER_CUT, faults), cut);
        } else {
            self.storm(setting.time, faults).await;
            self.becomes_whole().await;
        }
        watching.abort();
        let _ = watching.await;
        self.shut_down().await;
    }

    /// What is left is checked: nothing may be.
    pub(crate) async fn end(self: Arc<Self>) -> Result<Ledger, Box<dyn Error>> {
        let mortal = self.mortal.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(mortal) = mortal {
            mortal.await?;
        }
        // Casts run to their end.
        if !system::eventually(LIMIT, || Arc::strong_count(&self) == 1).await {
            self.ledger.violation("something keeps the run");
        }
        if Arc::strong_count(&self.alive) > 1 {
            let left = Arc::strong_count(&self.alive) - 1;
            self.ledger.violation(&format!("{left} inputs, or calls to Rust, are left"));
        }
        if self.injected() {
            self.ledger.print();
            println!(
                "The pool restarted {} workers; the host had {} MiB at most.",
                self.pool.stats().restarts,
                self.peak.load(Ordering::Relaxed) >> 20,
            );
        }
        self.ledger.check_counted("counts", counted(&self.sessions).await?);
        self.sessions.close().await?;
        self.ends().await;
        let chaos = Arc::into_inner(self).ok_or("a task is left")?;
        chaos.ledger.check_log(&chaos.log)?;
        drop(chaos.sessions);
        Ok(chaos.ledger)
    }

    fn injected(&self) -> bool {
        self.ledger.faults() > 0
    }
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
    pub(crate) fn is_faulty(&self) -> bool {
        self.faulty.load(Ordering::Relaxed)
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// For how long nothing is to be injected.
    pub(crate) fn calm(&self) -> Duration {
        calm(self.start)
    }

    /// Garbage is about to be written to a port; it may meet a frame that is just being written.
    pub(crate) fn garbles(&self) {
        self.garbled.store(self.millis(), Ordering::Relaxed);
    }

    /// Whether it may have been just now, by a call that may have waited in the queue.
    pub(crate) fn is_garbled(&self) -> bool {
        let garbled = self.garbled.load(Ordering::Relaxed);
        garbled > 0 && self.millis() < garbled + 12_000
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or_default().max(1)
    }

    async fn storm(self: &Arc<Self>, time: Duration, faults: Option<&str>) {
        let end = Instant::now() + time;
        let mut tasks = JoinSet::new();
        let (callers, injectors) = (self.callers, self.injectors);
        for task in 0..callers {
            tasks.spawn(kinds::call_until(end, Caller::new(Arc::clone(self), task)));
        }
        for task in callers..callers + injectors {
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
        let mut caller = Caller::new(Arc::clone(self), self.callers + self.injectors);
        let whole = async {
            let mut times = 0;
            while times < 2 {
                times = if caller.every_slot_answers().await { times + 1 } else { 0 };
                if times == 1 && self.is_faulty() {
                    println!("{}: whole again after {:.1?}.", self.pool.name(), start.elapsed());
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
        self.over.cancel();
        let start = Instant::now();
        if timeout(GRACE + LIMIT, self.pool.shutdown()).await.is_err() {
            self.ledger.violation("the shutdown does not end");
        }
        if start.elapsed() > Duration::from_secs(1) {
            println!("{}: the shutdown took {:.1?}.", self.pool.name(), start.elapsed());
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
        if let Err(what) = agree(&last, &stats, chaos.seats) {
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

fn agree(before: &Stats, now: &Stats, seats: usize) -> Result<(), &'static str> {
    let ended = now.completed + now.failed.total();
    if now.submitted != ended + (now.queued + now.busy) as u64 {
        return Err("the sums do not agree");
    }
    // Those of slots that have just been retired run on.
    if now.queued + now.busy > QUEUE_LIMIT + (now.size + MORE) * seats {
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
