//! What a pool's handles, actors and ports have in common, and what outlives each of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use ractor::{ActorRef, MessagingErr};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::actors::pool::PoolMsg;
use crate::board::Board;
use crate::config::Config;
use crate::error::StartError;
use crate::pool::Anchor;
use crate::request::Request;

/// Processes that do not even end after KILL (stuck in the kernel) are not waited for longer than this.
const REAP: Duration = Duration::from_secs(10);

/// Where the pool's actor is. The supervisor refills it; nobody else keeps a reference.
#[derive(Debug)]
pub(crate) enum PoolCell {
    /// It is being started, again perhaps.
    Starting,
    Up(ActorRef<PoolMsg>),
    /// It finishes the calls that it has; the pool admits no more.
    Draining(ActorRef<PoolMsg>),
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

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) board: Board,
    pub(crate) cell: watch::Sender<PoolCell>,
    pub(crate) startup: watch::Sender<Startup>,
    /// The tasks that own processes; shutting down waits for all of them.
    pub(crate) ports: TaskTracker,
    /// Likewise, of the launchers; they outlive the ports.
    pub(crate) launchers: TaskTracker,
    /// Set once the pool has started.
    pub(crate) anchor: OnceLock<Weak<Anchor>>,
    next_id: AtomicU64,
}

impl Shared {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            board: Board::new(config.workers),
            config,
            cell: watch::Sender::new(PoolCell::Starting),
            startup: watch::Sender::new(Startup::Pending),
            ports: TaskTracker::new(),
            launchers: TaskTracker::new(),
            anchor: OnceLock::new(),
            next_id: AtomicU64::new(1),
        }
    }

    /// A new request id. They start at 1: the status page's 0 is "none yet".
    pub(crate) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends to the pool's actor; gives the message back while there is none.
    pub(crate) fn to_pool(&self, message: PoolMsg) -> Result<(), PoolMsg> {
        match &*self.cell.borrow() {
            PoolCell::Up(pool) | PoolCell::Draining(pool) => {
                pool.send_message(message).map_err(|error| match error {
                    MessagingErr::SendErr(message) => message,
                    // The type of the mailbox is that of the reference, and it is local.
                    _ => unreachable!("a local actor's mailbox is open or closed"),
                })
            }
            PoolCell::Starting | PoolCell::Closed => Err(message),
        }
    }

    /// Hands a call to the pool's actor; gives it back while there is none, or none that admits calls.
    pub(crate) fn submit(&self, request: Box<Request>) -> Result<(), Box<Request>> {
        match &*self.cell.borrow() {
            PoolCell::Up(pool) => match pool.send_message(PoolMsg::Submit(request)) {
                Ok(()) => Ok(()),
                Err(MessagingErr::SendErr(PoolMsg::Submit(request))) => Err(request),
                Err(_) => unreachable!("a message comes back as it was"),
            },
            PoolCell::Starting | PoolCell::Draining(_) | PoolCell::Closed => Err(request),
        }
    }

    /// Whether the pool is being shut down, or is.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(*self.cell.borrow(), PoolCell::Draining(_) | PoolCell::Closed)
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
