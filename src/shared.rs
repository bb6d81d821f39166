//! What a pool's handles, actors and ports have in common, and what outlives each of them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use ractor::ActorRef;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::actors::pool::PoolMsg;
use crate::board::Board;
use crate::breaker::Breaker;
use crate::config::Config;
use crate::dispatcher::{Dispatcher, Submitted};
use crate::error::StartError;
use crate::expose::Exposed;
use crate::kinds::Kinds;
use crate::pool::Anchor;
use crate::request::Request;
use crate::session::SessionStore;
use crate::sys::PoolCgroup;
use crate::turns::Turns;

/// Processes that do not even end after KILL (stuck in the kernel) are not waited for longer than this.
const REAP: Duration = Duration::from_secs(10);

/// Where the pool's actor is. The supervisor refills it; nobody else keeps a reference.
#[derive(Debug)]
pub(crate) enum PoolCell {
    /// It is being started, again perhaps.
    Starting,
    Up(PoolRef),
    /// It finishes the calls that it has; the pool admits no more.
    Draining(PoolRef),
    /// The pool is shut down.
    Closed,
}

/// How far the pool's first start is.
#[derive(Clone, Debug)]
pub(crate) enum Startup {
    Pending,
    Ready,
    Failed(Arc<StartError>),
}

/// An incarnation of the pool's actor, and its queue.
#[derive(Clone, Debug)]
pub(crate) struct PoolRef {
    pub(crate) actor: ActorRef<PoolMsg>,
    pub(crate) dispatcher: Arc<Dispatcher>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    /// Where the kernel holds workers to their memory limit, if there is one and the machine lets it.
    pub(crate) cgroup: Option<PoolCgroup>,
    pub(crate) board: Board,
    pub(crate) breaker: Breaker,
    pub(crate) kinds: Kinds,
    /// Where the state of its sessions is.
    pub(crate) sessions: SessionStore,
    /// What its handlers may call in Rust.
    pub(crate) exposed: Exposed,
    /// Whose calls run one at a time.
    pub(crate) turns: Turns,
    pub(crate) cell: watch::Sender<PoolCell>,
    pub(crate) startup: watch::Sender<Startup>,
    /// The tasks that own processes; shutting down waits for all of them.
    pub(crate) ports: TaskTracker,
    /// Likewise, of the launchers; they outlive the ports.
    pub(crate) launchers: TaskTracker,
    /// Set once the pool has started.
    pub(crate) anchor: OnceLock<Weak<Anchor>>,
    /// Held by the reload, or the change of size, that is under way.
    pub(crate) reloading: tokio::sync::Mutex<()>,
    next_id: AtomicU64,
    closed: AtomicBool,
}

impl Shared {
    pub(crate) fn new(
        mut config: Config,
        cgroup: Option<PoolCgroup>,
        sessions: SessionStore,
    ) -> Self {
        Self {
            exposed: Exposed::new(std::mem::take(&mut config.exposed)),
            cgroup,
            board: Board::new(config.workers, config.limits.concurrency),
            breaker: Breaker::new(config.limits.circuit_threshold, config.limits.circuit_cool_down),
            kinds: Kinds::new(&config.limits),
            config,
            sessions,
            turns: Turns::default(),
            cell: watch::Sender::new(PoolCell::Starting),
            startup: watch::Sender::new(Startup::Pending),
            ports: TaskTracker::new(),
            launchers: TaskTracker::new(),
            anchor: OnceLock::new(),
            reloading: tokio::sync::Mutex::new(()),
            next_id: AtomicU64::new(1),
            closed: AtomicBool::new(false),
        }
    }

    /// A new request id. They start at 1: the status page's 0 is "none yet".
    pub(crate) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Acts on the dispatcher that serves at present, if there is one.
    pub(crate) fn dispatcher<T>(&self, act: impl FnOnce(&Dispatcher) -> T) -> Option<T> {
        match &*self.cell.borrow() {
            PoolCell::Up(pool) | PoolCell::Draining(pool) => Some(act(&pool.dispatcher)),
            PoolCell::Starting | PoolCell::Closed => None,
        }
    }

    /// Submits a call; gives it back while there is no dispatcher, or none that admits calls.
    pub(crate) fn submit(&self, request: Box<Request>) -> Result<(), Box<Request>> {
        match &*self.cell.borrow() {
            PoolCell::Up(pool) => self.settled(pool, pool.dispatcher.submit(&self.board, request)),
            PoolCell::Starting | PoolCell::Draining(_) | PoolCell::Closed => Err(request),
        }
    }

    /// Gives a request that certainly did not start back to the queue. Without a queue it is dropped, which answers
    /// its caller.
    pub(crate) fn resubmit(&self, request: Box<Request>) {
        let lost = match &*self.cell.borrow() {
            PoolCell::Up(pool) | PoolCell::Draining(pool) => {
                self.settled(pool, pool.dispatcher.resubmit(&self.board, request))
            }
            PoolCell::Starting | PoolCell::Closed => Err(request),
        };
        // Only now that the cell is free again: nothing else may be answered for under its lock.
        drop(lost);
    }

    /// Gives a request that was written ahead back to the queue; as above.
    pub(crate) fn withdraw(&self, request: Box<Request>) {
        let lost = match &*self.cell.borrow() {
            PoolCell::Up(pool) | PoolCell::Draining(pool) => {
                self.settled(pool, pool.dispatcher.withdraw(&self.board, request))
            }
            PoolCell::Starting | PoolCell::Closed => Err(request),
        };
        drop(lost);
    }

    fn settled(&self, pool: &PoolRef, submitted: Submitted) -> Result<(), Box<Request>> {
        match submitted {
            Submitted::Done => Ok(()),
            Submitted::Hurry => {
                // An actor that is gone takes its queue with it, deadlines and all.
                let _ = pool.actor.send_message(PoolMsg::Tick);
                Ok(())
            }
            Submitted::Closed(request) => Err(request),
        }
    }

    /// Whether the pool is being shut down, or is. Takes no lock: tickets ask, wherever they are dropped.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Refills the cell, unless the pool is being shut down.
    pub(crate) fn refill(&self, cell: PoolCell) {
        self.cell.send_if_modified(|current| {
            let open = matches!(current, PoolCell::Starting | PoolCell::Up(_));
            if open {
                *current = cell;
            }
            open
        });
    }

    /// Admits no more calls.
    pub(crate) fn stop_admitting(&self) {
        self.closed.store(true, Ordering::Release);
        self.cell.send_modify(|cell| {
            *cell = match std::mem::replace(cell, PoolCell::Closed) {
                PoolCell::Up(pool) => PoolCell::Draining(pool),
                PoolCell::Starting => PoolCell::Closed,
                other => other,
            };
        });
    }

    /// Waits until all workers' processes are ended and reaped.
    pub(crate) async fn ports_ended(&self) {
        self.ports.close();
        if tokio::time::timeout(REAP, self.ports.wait()).await.is_err() {
            tracing::error!(
                pool = self.config.name,
                "a worker's process does not end, not even killed"
            );
        }
    }

    /// Waits until all launchers are ended and reaped.
    pub(crate) async fn launchers_ended(&self) {
        self.launchers.close();
        if tokio::time::timeout(REAP, self.launchers.wait()).await.is_err() {
            tracing::error!(
                pool = self.config.name,
                "the launcher's process does not end, not even killed"
            );
        }
    }

    /// Removes the pool's cgroup, when all of its processes have ended.
    pub(crate) async fn remove_cgroup(&self) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove().await;
        }
    }

    /// The tree has ended.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.cell.send_replace(PoolCell::Closed);
        self.exposed.clear();
    }

    /// What keeps the pool alive, while a handle of it is left.
    pub(crate) fn anchor(&self) -> Option<Arc<Anchor>> {
        self.anchor.get().and_then(Weak::upgrade)
    }

    /// The first start failed; later news of it changes nothing.
    pub(crate) fn startup_failed(&self, error: &Arc<StartError>) {
        self.startup.send_if_modified(|startup| {
            let pending = matches!(startup, Startup::Pending);
            if pending {
                *startup = Startup::Failed(Arc::clone(error));
            }
            pending
        });
    }

    /// Whether the first start failed, so that there is nothing to come back to.
    pub(crate) fn has_failed_to_start(&self) -> bool {
        matches!(*self.startup.borrow(), Startup::Failed(_))
    }

    /// The first start succeeded.
    pub(crate) fn startup_ready(&self) {
        self.startup.send_if_modified(|startup| {
            let pending = matches!(startup, Startup::Pending);
            if pending {
                *startup = Startup::Ready;
            }
            pending
        });
    }
}
