//! A pool's options: the builder that a user fills. What the actors read is its checked form ([`checked`]).

mod checked;
mod limits;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) use checked::{ActorSpec, Config, check_workers};
pub(crate) use limits::Limits;

use ractor::{ActorRef, Message};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::expose::{self, Exposures, FromCall};
use crate::pool::Pool;
use crate::py_actor::PyActor;
use crate::session::SessionStore;

/// 30 years.
const EVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// The options of a pool, made by [`Pool::builder`] and started by [`Builder::start`].
///
/// Every option has a default but the handlers; each method says what happens when its limit is reached.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is started"]
pub struct Builder {
    name: String,
    handlers: Option<String>,
    expose: BTreeMap<String, String>,
    actor: Option<ActorSpec>,
    workers: Option<usize>,
    autoscale: Option<RangeInclusive<usize>>,
    autoscale_after: (Duration, Duration),
    python: Option<PathBuf>,
    env: BTreeMap<OsString, OsString>,
    working_dir: Option<PathBuf>,
    paths: Vec<PathBuf>,
    preload: Vec<String>,
    fresh_interpreter: bool,
    reuse_after_cancel: bool,
    sessions: Option<SessionStore>,
    exposed: Exposures,
    limits: Limits,
    worker_limits: WorkerLimits,
}

/// What one worker may use.
#[derive(Clone, Debug, Default)]
pub(crate) struct WorkerLimits {
    pub(crate) requests: Option<u64>,
    pub(crate) age: Option<Duration>,
    /// Soft, in bytes.
    pub(crate) resident: Option<u64>,
    /// Hard, in bytes.
    pub(crate) memory: Option<u64>,
    /// Of one call.
    pub(crate) cpu: Option<Duration>,
    pub(crate) open_files: Option<usize>,
}

impl Builder {
    pub(crate) fn new(name: String) -> Self {
        Self {
            name,
            handlers: None,
            expose: BTreeMap::new(),
            actor: None,
            workers: None,
            autoscale: None,
            autoscale_after: (Duration::from_millis(100), Duration::from_secs(10)),
            python: None,
            env: BTreeMap::new(),
            working_dir: None,
            paths: Vec::new(),
            preload: Vec::new(),
            fresh_interpreter: false,
            limits: Limits::default(),
            reuse_after_cancel: false,
            sessions: None,
            exposed: Exposures::default(),
            worker_limits: WorkerLimits::default(),
        }
    }

    /// Where the handlers are: a file (anything with a `/`, or that ends in `.py`), or the name of an importable
    /// module. A relative path counts from the host's working directory.
    ///
    /// A file's directory goes first on `sys.path`, and its module is named by the file's stem. Required, unless
    /// functions are [exposed](Builder::expose). A file that is missing, or that fails to load, fails
    /// [`Builder::start`] with the traceback.
    pub fn handlers(mut self, file_or_module: impl Into<String>) -> Self {
        self.handlers = Some(file_or_module.into());
        self
    }

    /// Lets callers call the Python function at `target` (`module:attribute`) by `name`, without a decorator:
    /// `.expose("sqrt", "math:sqrt")`. A target that cannot be found fails [`Builder::start`].
    pub fn expose(mut self, name: impl Into<String>, target: impl Into<String>) -> Self {
        self.expose.insert(name.into(), target.into());
        self
    }

    /// Makes it the private pool, of this name, of an actor: one worker, which holds one instance.
    pub(crate) fn of_actor(mut self, name: String, actor: ActorSpec) -> Self {
        self.name = name;
        self.actor = Some(actor);
        self
    }

    /// The number of worker processes that the pool starts with, from 1 to 4096; [`Pool::resize`] changes it. Default: the number of cores that the host may use.
    ///
    /// It is the number of calls that run at once; more wait in the [queue](Builder::queue_limit).
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers);
        self
    }

    /// Lets the number of workers follow the load, within this range. It begins with [`workers`](Builder::workers), by
    /// default with the least. Default: the number is fixed, but for [`Pool::resize`].
    ///
    /// The pool grows when all workers are busy and a call that any of them may run has waited for 100 ms: by half its size,
    /// so that any size is reached in few steps, but by no more workers than calls wait; at most every 100 ms. If a worker
    /// does not start, that is logged, and tried again after 5 s. It shrinks by one worker when for 10 s there was always
    /// one to spare, if the last slot's worker is idle then. [`autoscale_after`](Builder::autoscale_after) sets both times.
    ///
    /// Calls that any worker may run are never dropped for it. But who counts on one slot by a
    /// [`WorkerHandle`](crate::WorkerHandle) should keep to those below the least number: the others come and go. A pool that
    /// has the least number of workers and calls that do not wait is not woken for this at all; a larger one once in 10 s;
    /// one in which calls have to wait, every 100 ms.
    pub fn autoscale(mut self, range: RangeInclusive<usize>) -> Self {
        self.autoscale = Some(range);
        self
    }

    /// How long a call waits before [`autoscale`](Builder::autoscale) adds workers, and how long one is to spare before it
    /// is taken away. Default: 100 ms and 10 s.
    pub fn autoscale_after(mut self, wait: Duration, idle: Duration) -> Self {
        self.autoscale_after = (wait, idle);
        self
    }

    /// The Python interpreter: a path, or a name looked up on `PATH`. CPython 3.10 or later.
    ///
    /// Default: the first of `SNAKEPEN_PYTHON`, `$VIRTUAL_ENV/bin/python`, `.venv/bin/python` in the working
    /// directory, and `python3` on `PATH`. One that is missing or too old fails [`Builder::start`].
    pub fn python(mut self, interpreter: impl Into<PathBuf>) -> Self {
        self.python = Some(interpreter.into());
        self
    }

    /// Sets an environment variable of the workers; may be called many times. Default: the host's environment,
    /// with BLAS and OpenMP set to one thread per worker where it does not say otherwise.
    ///
    /// Of Python's own variables only `PYTHONPATH`, `PYTHONDONTWRITEBYTECODE` and `PYTHONNOUSERSITE` change what
    /// a worker does; the others stay in `os.environ` for processes that a handler starts.
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.insert(key.into(), value.into());
        self
    }

    /// The working directory of the workers. Default: the host's. One that is missing fails [`Builder::start`].
    pub fn working_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.working_dir = Some(directory.into());
        self
    }

    /// Adds a directory to the front of `sys.path`, after the handler file's own and those added before it; may
    /// be called many times. A relative path counts from the host's working directory. Default: none.
    pub fn path(mut self, directory: impl Into<PathBuf>) -> Self {
        self.paths.push(directory.into());
        self
    }

    /// Modules that the launcher imports once, before it forks the workers: all workers, and every
    /// replacement, then share that import and its memory. Default: none.
    ///
    /// A module that fails to import fails [`Builder::start`] with the traceback. A module that starts threads
    /// cannot be forked safely: that is reported, and every worker becomes a
    /// [fresh interpreter](Builder::fresh_interpreter).
    pub fn preload<S: Into<String>>(mut self, modules: impl IntoIterator<Item = S>) -> Self {
        self.preload.extend(modules.into_iter().map(Into::into));
        self
    }

    /// Starts every worker as a new interpreter instead of forking it, for code that must not be forked; each
    /// then pays for its own start and its own imports. Default: `false`.
    pub fn fresh_interpreter(mut self, fresh: bool) -> Self {
        self.fresh_interpreter = fresh;
        self
    }

    /// How often Python's threads take turns: a plain handler whose own threads compute waits for one of them each time that it
    /// comes back from a wait, and so does each call (`sys.setswitchinterval`). From 1 µs to 1 s; default: CPython's own,
    /// 5 ms.
    ///
    /// Beside one thread that computes, a small call takes one interval longer. Threads that only wait, and code that lets go
    /// of the interpreter while it computes, as NumPy does, are not concerned. `cargo bench --bench latency` has figures.
    pub fn switch_interval(mut self, interval: Duration) -> Self {
        self.limits.switch_interval = Some(interval);
        self
    }

    /// For so long a worker's task looks again and again whether the answer is there, before it waits for it: a wait lets a
    /// core go to sleep, and it takes time to wake up. Up to 1 ms; default: zero, as it holds up a thread of the runtime
    /// and keeps a core busy, for each call.
    ///
    /// Of use for handlers that take some microseconds, where few calls are made at once and cores are idle: see
    /// `cargo bench --bench latency`. Only a call that finds a worker idle, and is alone there, is looked for: not one that
    /// has waited, that was written ahead, or that is one of a batch.
    pub fn spin(mut self, time: Duration) -> Self {
        self.limits.spin = time;
        self
    }

    /// The most calls that wait while every worker is busy. Default: 1024.
    ///
    /// At the limit a call fails at once with [`Error::Saturated`], before anything is sent.
    pub fn queue_limit(mut self, calls: usize) -> Self {
        self.limits.queue = calls;
        self
    }

    /// The time that a call has, from the moment it is made until its answer, unless it says otherwise.
    /// Default: 60 s.
    ///
    /// A call that is still queued then never runs; one that runs is [cancelled](Builder::cancel_grace). Either way the
    /// caller gets [`Error::Timeout`] at that moment.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.limits.call_timeout = timeout;
        self
    }

    /// The time that a cancelled handler has to end. Default: 1 s. One that has not ended by then is killed with its
    /// process group, and its worker replaced.
    ///
    /// A call is cancelled when its time runs out, when its future is dropped, and by a
    /// [`CancelHandle`](crate::CancelHandle). Its caller is answered at once. A plain handler then sees
    /// `snakepen.Cancelled` raised, so that `finally` blocks and context managers run; an `async def` one sees its task
    /// cancelled.
    pub fn cancel_grace(mut self, grace: Duration) -> Self {
        self.limits.cancel_grace = grace;
        self
    }

    /// How many calls of `async def` handlers one worker runs at once, from 1 to 256: they overlap in its event loop where
    /// they wait, for a language model or a database. Default: 1, a worker has one call at a time.
    ///
    /// Plain handlers stay one at a time in each worker, and while one runs, so does nothing else in its process: the `async
    /// def` ones beside it go on afterwards. A call goes to the worker that holds the fewest. A worker that is replaced
    /// finishes the calls that it holds, beside its successor. The event loop runs between calls, too: tasks and connections
    /// that a call has left go on. (With a concurrency of 1 it runs only during calls of `async def` handlers.)
    ///
    /// Each call has its own deadline and is cancelled by itself. Where the event loop does not come to it within
    /// [`cancel_grace`](Builder::cancel_grace), because some handler blocks it, the process is killed, and the calls beside
    /// it end with [`Ended::Collateral`](crate::Ended::Collateral), or
    /// [`Ended::LoopBlocked`](crate::Ended::LoopBlocked), which names the handler that has the event loop.
    pub fn concurrency(mut self, calls: usize) -> Self {
        self.limits.concurrency = calls;
        self
    }

    /// How many calls are written ahead to a worker that is at work, up to 64, so that it goes on with the next without a
    /// wake-up between. Default: 0, none. A handler may say otherwise for itself, by `@snakepen.handler(prefetch=8)`.
    ///
    /// It is for handlers that take less time than a wake-up does, some 10 to 50 µs, and for many callers: calls are written
    /// ahead only while every worker is busy. Each still counts as queued, and never runs if it is cancelled or runs out of
    /// time before. If the call before it takes longer than 5 ms it is taken back, and is the next that a free worker runs; if
    /// the worker dies before it has started it, another one gets it.
    ///
    /// What handlers print while calls are written ahead is told with the request 0, and a line that one leaves unfinished may
    /// be joined to the next one's; log records name their request.
    ///
    /// Never written ahead are calls of handlers with `batch`, streams, calls with inputs or a watch on their progress, and
    /// calls that a handler waits for. Goes with a [`concurrency`](Builder::concurrency) of 1.
    pub fn prefetch(mut self, calls: u8) -> Self {
        self.limits.prefetch = calls;
        self
    }

    /// Keeps a worker in service after a plain handler was cancelled by an exception. Default: `false`, it is replaced.
    ///
    /// An exception that is raised at a random point can leave a lock held or a structure half changed, in Python's
    /// standard library as well. Opt in where handlers are known to stand it; a worker whose handler is `async def`
    /// is always kept.
    pub fn reuse_after_cancel(mut self, reuse: bool) -> Self {
        self.reuse_after_cancel = reuse;
        self
    }

    /// Where the state of sessions is. Default: a store in memory that ends with the pool. Several pools may share one, and it
    /// stays open when they are shut down.
    pub fn sessions(mut self, store: SessionStore) -> Self {
        self.sessions = Some(store);
        self
    }

    /// Lets handlers call this async function from their first request on: see [`Pool::expose_fn`]. A name that is none,
    /// or exposed twice here, fails [`Builder::start`].
    pub fn expose_fn<A, R, E, F, Fut>(mut self, name: impl Into<String>, function: F) -> Self
    where
        A: DeserializeOwned,
        R: Serialize,
        E: Display + 'static,
        F: Fn(A) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, E>> + Send + 'static,
    {
        self.exposed.insert("expose_fn", name, expose::function(function));
        self
    }

    /// Lets handlers call this actor from their first request on: see [`Pool::expose_actor`]. A name that is none, or
    /// exposed twice here, fails [`Builder::start`].
    pub fn expose_actor<M>(mut self, name: impl Into<String>, actor: ActorRef<M>) -> Self
    where
        M: FromCall + Message,
    {
        self.exposed.insert("expose_actor", name, expose::actor(actor));
        self
    }

    /// Lets handlers send messages to this Python object from their first request on: see [`Pool::expose_py_actor`]. A name
    /// that is none, or exposed twice here, fails [`Builder::start`].
    pub fn expose_py_actor(mut self, name: impl Into<String>, actor: &PyActor) -> Self {
        self.exposed.insert("expose_py_actor", name, expose::py_actor(actor.clone()));
        self
    }

    /// How often a call is tried again at most, if its caller says that this is harmless: see
    /// [`Call::idempotent`](crate::Call::idempotent). Default: 2; 0 for never.
    pub fn retries(mut self, more: u32) -> Self {
        self.limits.retries = more;
        self
    }

    /// After so many calls of one handler in a row that ended their worker, or ran out of time while they ran, the handler
    /// is not called for a [while](Builder::circuit_cool_down): its calls, those that wait included, fail with
    /// [`Error::CircuitOpen`], and the other handlers keep their workers. Default: 20; 0 for never.
    ///
    /// Any answer of the handler, an exception included, ends the row. A caller that drops its future counts for nothing.
    pub fn circuit_threshold(mut self, failures: u32) -> Self {
        self.limits.circuit_threshold = failures;
        self
    }

    /// How long a handler is not called that has reached the [threshold](Builder::circuit_threshold). Default: 5 s.
    ///
    /// After it one call is let through, while others still fail. If that one is answered, all is well again; if it fails
    /// too, the handler is not called for as long again.
    pub fn circuit_cool_down(mut self, time: Duration) -> Self {
        self.limits.circuit_cool_down = time;
        self
    }

    /// The time that the launcher has to become ready, preloading included, and after it each worker, its
    /// handler file included. Default: 30 s. After it the start has failed, with the stage named.
    pub fn startup_timeout(mut self, timeout: Duration) -> Self {
        self.limits.startup_timeout = timeout;
        self
    }

    /// The time that running and queued calls, and after them the workers' `atexit` handlers, have when the pool
    /// is shut down. Default: 30 s. What is left then is ended, its callers get [`Error::Closed`] or
    /// [`Error::WorkerDied`].
    pub fn shutdown_grace(mut self, grace: Duration) -> Self {
        self.limits.shutdown_grace = grace;
        self
    }

    /// How often an idle worker, and the launcher, are pinged. Default: 30 s.
    ///
    /// A busy worker answers no ping; it is looked at as often, and killed and replaced if a signal has stopped it (SIGSTOP).
    /// Its call has its deadline all the same: at that it fails, and the worker is killed after the
    /// [`cancel_grace`](Builder::cancel_grace). Only a call with a long deadline waits for the look.
    pub fn health_interval(mut self, interval: Duration) -> Self {
        self.limits.health_interval = interval;
        self
    }

    /// The time that a pinged worker has to answer. Default: 5 s. One that doesn't is killed and replaced.
    pub fn health_timeout(mut self, timeout: Duration) -> Self {
        self.limits.health_timeout = timeout;
        self
    }

    /// The largest frame: the most bytes that the arguments or the result of one call take. Default: 256 MiB,
    /// at most 4 GiB − 1.
    ///
    /// Larger arguments fail the call with [`Error::TooLarge`] before anything is sent; a larger result with
    /// [`Error::BadResult`].
    pub fn max_frame(mut self, bytes: usize) -> Self {
        self.limits.max_frame = bytes;
        self
    }

    /// Buffers and arrays of at least so many bytes go through memory that the host and the worker share; `None`: none do.
    /// Default: 256 KiB; below it the socket was as fast or faster (`benches/arrays.rs`, the echo of an array).
    ///
    /// Each worker has one piece of it for arguments and one for results, which grow with what goes through them, to
    /// [`max_frame`](Builder::max_frame) at most, and are there until the worker ends. Nothing is left of them in any file
    /// system. Where there is no such memory, the socket is used.
    pub fn shared_memory(mut self, from_bytes: impl Into<Option<usize>>) -> Self {
        self.limits.shared_memory = from_bytes.into();
        self
    }

    /// Replaces a worker after it has answered so many calls, up to a tenth fewer for some so that they are not all
    /// replaced at once. Default: never.
    ///
    /// The replacement is ready before the worker leaves, between two calls: no call waits for it. The same holds for
    /// [`max_age`](Builder::max_age), [`max_resident`](Builder::max_resident) and
    /// [`max_open_files`](Builder::max_open_files).
    pub fn max_requests(mut self, calls: u64) -> Self {
        self.worker_limits.requests = Some(calls);
        self
    }

    /// Replaces a worker that is older than this, up to a tenth earlier for some. Default: never.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.worker_limits.age = Some(age);
        self
    }

    /// Replaces a worker whose resident memory is above this many bytes after a call. Default: never.
    pub fn max_resident(mut self, bytes: u64) -> Self {
        self.worker_limits.resident = Some(bytes);
        self
    }

    /// Replaces a worker that has more descriptors open than this after a call. Default: never.
    pub fn max_open_files(mut self, count: usize) -> Self {
        self.worker_limits.open_files = Some(count);
        self
    }

    /// Kills a worker that holds more memory than this many bytes; its call fails with [`Error::WorkerDied`], which says
    /// so ([`Ended::Memory`](crate::Ended::Memory)). Default: no limit.
    ///
    /// Where a cgroup v2 with the memory controller is delegated to the host, the kernel sees to it, and nothing overshoots:
    /// each worker is in a cgroup of its own from before any of your code runs, and is killed with all in it at the limit,
    /// whether a call runs or not. Processes that a handler starts count, and files in memory (tmpfs) and what else the
    /// kernel charges; the swap is not used. What is [preloaded](Builder::preload) does not count until a worker writes to
    /// it: those pages stay charged to the launcher, which is in the host's cgroup. A worker that comes to its limit while it
    /// loads its handlers fails with [`StartError::Memory`](crate::StartError::Memory). When a worker ends, all that is left in its cgroup is killed, even
    /// in a session of its own. The kernel takes up to tens of milliseconds to move a worker, so one starts that much later.
    ///
    /// Delegated means that the cgroup above the host's own was given to it: under systemd by `Delegate=memory` with
    /// `DelegateSubgroup=` (since 254), in a container by a writable `/sys/fs/cgroup` whose first process has moved to a
    /// cgroup below before it starts anything. The host is never moved. Which of the two ways is taken is logged at INFO when
    /// the pool starts.
    ///
    /// Elsewhere, and for a worker whose cgroup cannot be made (a warning says so), the resident size is watched while a
    /// call runs. It is looked at every 50 ms, so a handler that allocates 1 GiB/s overshoots by some 50 MiB. What is forked
    /// from the launcher then counts in each worker; processes that a handler starts don't count.
    ///
    /// Large arguments lie in [memory that the host has made](Builder::shared_memory), and do not count, as long as Python has not
    /// read them at least. Of what a handler keeps of them, 9 pieces at most lie there, or 65 that have 64 MiB in all.
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.worker_limits.memory = Some(bytes);
        self
    }

    /// Cancels a call whose worker has used more processor time than this for it; the call fails with
    /// [`Error::CpuTime`]. Default: no limit.
    ///
    /// It is looked at every 50 ms, and counts what threads of the handler use.
    pub fn cpu_limit(mut self, time: Duration) -> Self {
        self.worker_limits.cpu = Some(time);
        self
    }

    /// Starts the pool; returns when all its workers are ready, or with the reason why they are not. In the
    /// latter case no process is left.
    ///
    /// Must be called on a tokio runtime with I/O and time enabled; the pool lives on that runtime.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for an option that cannot work, [`Error::NameTaken`] if the pool's name is in use, and
    /// [`Error::Start`] with the interpreter's or Python's own words for everything that fails while starting.
    pub async fn start(self) -> Result<Pool, Error> {
        Pool::start(self.check()?).await
    }
}

#[cfg(test)]
pub(crate) mod tests;
