//! What the board knows of one slot.

use std::sync::Arc;
use std::time::Instant;

use super::{Held, Link};
use crate::error::StartError;
use crate::scheduler::{Kept, Wish};
use crate::stats::WorkerState;

/// A slot.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) state: WorkerState,
    /// The incarnation that serves, or will be the first to.
    pub(super) epoch: u64,
    /// The last one that was started, beside it perhaps.
    pub(super) last_epoch: u64,
    pub(super) pid: Option<i32>,
    pub(super) served: u64,
    pub(super) ready: Option<Instant>,
    pub(super) last_error: Option<String>,
    pub(super) broken: Option<Arc<StartError>>,
    pub(super) link: Option<Link>,
    pub(super) running: Vec<Running>,
    /// Its next worker is the first one, again perhaps.
    pub(super) new: bool,
    /// It has had a worker that was ready, since it was taken into use.
    pub(super) proven: bool,
    /// Ports whose process is not known to be gone.
    pub(super) ports: usize,
    /// The ways to earlier incarnations that finish their calls, with their epochs.
    pub(super) draining: Vec<(u64, Link)>,
}

/// A call that a worker has.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) kept: Kept,
    /// It was written ahead, and is queued.
    pub(super) ahead: bool,
    /// It has been answered, and its handler has not ended.
    pub(super) cancelling: bool,
}

impl Running {
    pub(super) fn new(id: u64, deadline: Instant, wish: &Wish, ahead: bool) -> Self {
        let kept = Kept { id, deadline, alone: wish.alone, short: wish.ahead > 0 };
        Self { kept, ahead, cancelling: false }
    }
}

impl Slot {
    /// It no longer holds the call; `after` is what it is then.
    pub(super) fn release(&mut self, held: Held, after: WorkerState) {
        if self.epoch != held.epoch {
            return;
        }
        let Some(at) = self.running.iter().position(|running| running.kept.id == held.id) else {
            return;
        };
        // One that is being cancelled is not free yet, whoever takes over the queue.
        if after == WorkerState::Cancelling && self.link.is_some() {
            self.running[at].cancelling = true;
        } else {
            self.running.swap_remove(at);
        }
        let others = self.running.iter().any(|running| !running.cancelling && !running.ahead);
        // A slot that is going down already stays on its way.
        self.state = match (self.link.is_some(), self.pid.is_some()) {
            _ if others => WorkerState::Busy,
            (true, _) if self.running.iter().any(|it| it.cancelling) => WorkerState::Cancelling,
            (true, _) => after,
            (false, true) => WorkerState::Stopping,
            (false, false) => WorkerState::Down,
        };
    }
}
