//! What a pool tells about itself.

use std::time::Duration;

/// Figures of a pool, from one consistent look: see [`Pool::stats`](crate::Pool::stats).
///
/// `submitted == completed + failed.total() + queued + busy`, always. A call that was refused at the door
/// ([`rejected`](Stats::rejected)) was never submitted.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Slots of the pool: see [`Pool::resize`](crate::Pool::resize).
    pub size: usize,
    /// Slots whose worker can take calls, or is running one.
    pub ready: usize,
    /// Workers that hold a call; while the pool is resized, those that come and go as well.
    pub busy: usize,
    /// Calls that wait for a worker.
    pub queued: usize,
    /// Calls that were admitted, since the pool started.
    pub submitted: u64,
    /// Calls whose handler returned a result.
    pub completed: u64,
    /// Calls that ended in any other way, by kind.
    pub failed: Failures,
    /// Calls that were refused because the queue was full.
    pub rejected: u64,
    /// Workers that were started in the place of one that ended.
    pub restarts: u64,
    /// From the call until a worker was found for it.
    pub queue_time: Quantiles,
    /// From then until its end.
    pub service_time: Quantiles,
    /// Handlers that are not called at present, by name; looked at right after all the others.
    pub circuits: Vec<OpenCircuit>,
}

/// A handler that is not called at present, as it keeps ending its workers or running out of time: see
/// [`Builder::circuit_threshold`](crate::Builder::circuit_threshold).
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenCircuit {
    /// The name that it is called by.
    pub handler: String,
    /// So many of its calls have failed in a row.
    pub failures: u32,
    /// How long it has been open, through all calls that were let through.
    pub open_for: Duration,
    /// The time after which a call is let through. Zero if the next one is, or if one is running: its answer closes the
    /// circuit, and until then the others fail.
    pub retry_in: Duration,
}

/// Calls that did not return a result, by what happened to them.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// The handler raised an exception.
    pub exception: u64,
    /// The result could not be written as JSON.
    pub bad_result: u64,
    /// There is no such handler.
    pub unknown_handler: u64,
    /// Timed out in the queue.
    pub timeout_queued: u64,
    /// Timed out while running.
    pub timeout_running: u64,
    /// Used too much processor time.
    pub cpu_time: u64,
    /// Cancelled by a handle; not those that were cancelled before they were made.
    pub cancelled: u64,
    /// The caller dropped its future.
    pub abandoned: u64,
    /// The worker died.
    pub worker_died: u64,
    /// Its handler is not called at present: its circuit is open.
    pub circuit_open: u64,
    /// It was to run at once, and its worker was not free.
    pub worker_busy: u64,
    /// It waited for a worker when the pool shrank, and those that are left are held by the calls that wait for it.
    pub would_deadlock: u64,
    /// The slot that it was to run at is not the pool's any more.
    pub no_such_worker: u64,
    /// No worker can be started at present.
    pub start: u64,
    /// The pool's actor restarted.
    pub restarted: u64,
    /// The pool was shut down.
    pub closed: u64,
}

impl Failures {
    /// All of them.
    pub fn total(&self) -> u64 {
        let Self {
            exception,
            bad_result,
            unknown_handler,
            timeout_queued,
            timeout_running,
            cpu_time,
            cancelled,
            abandoned,
            worker_died,
            circuit_open,
            worker_busy,
            would_deadlock,
            no_such_worker,
            start,
            restarted,
            closed,
        } = self;
        exception
            + bad_result
            + unknown_handler
            + timeout_queued
            + timeout_running
            + cpu_time
            + cancelled
            + abandoned
            + worker_died
            + circuit_open
            + worker_busy
            + would_deadlock
            + no_such_worker
            + start
            + restarted
            + closed
    }
}

/// A distribution of durations; each is exact to 1 %. All zero where nothing was recorded.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quantiles {
    /// Half are shorter.
    pub p50: Duration,
    /// Nine in ten are shorter.
    pub p90: Duration,
    /// 99 in 100 are shorter.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

/// What a slot's worker is doing.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WorkerState {
    /// Its process is being started.
    Starting,
    /// It waits for a call.
    Idle,
    /// It holds a call.
    Busy,
    /// Its call was cancelled; it takes no other before it has answered.
    Cancelling,
    /// It is being ended.
    Stopping,
    /// It ended; the next one is not being started yet.
    #[default]
    Down,
}

/// One slot of a pool: see [`Pool::workers`](crate::Pool::workers).
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerInfo {
    /// The slot, from 0.
    pub slot: usize,
    /// The worker's name in the actor registry, such as `demo/worker/3`.
    pub name: String,
    /// Its process, while there is one.
    pub pid: Option<i32>,
    /// What it is doing.
    pub state: WorkerState,
    /// Which incarnation this is: 1 for the first worker at the slot.
    pub epoch: u64,
    /// Calls that this incarnation has answered.
    pub served: u64,
    /// Time since this incarnation became ready; zero before.
    pub age: Duration,
    /// How the slot's last incarnation ended, or why the last start failed.
    pub last_error: Option<String>,
}
