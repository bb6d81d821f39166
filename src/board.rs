//! What is known of a pool's calls and slots, in one place and under one lock, so that the sums always agree.
//!
//! It outlives every actor. Slots only become more; the first so many are in use. A restarted pool actor rebuilds its idle and busy sets from it.

mod news;
mod sizes;
mod slot;
mod views;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

use crate::autoscale::Load;
use crate::error::{Error, Stage, StartError};
use crate::port::Command;
use crate::scheduler::{Kept, Wish};
use crate::stats::{Failures, WorkerState};
use slot::{Running, Slot};

/// The longest duration that the histograms tell apart, in µs: an hour.
const LONGEST: u64 = 3_600_000_000;

/// The way to a worker's port.
pub(crate) type Link = UnboundedSender<Command>;

/// What a pool actor that takes over needs to know of a slot.
#[derive(Clone, Debug)]
pub(crate) struct SlotView {
    pub(crate) epoch: u64,
    /// Set while its worker can take calls or is running one.
    pub(crate) link: Option<Link>,
    /// The calls that it holds.
    pub(crate) running: Vec<Kept>,
    /// Why its last start failed, until one succeeds.
    pub(crate) broken: Option<Arc<StartError>>,
}

/// A call in the hands of a slot's worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) slot: usize,
    pub(crate) epoch: u64,
    pub(crate) id: u64,
}

/// How a call ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome<'a> {
    Completed,
    Failed(&'a Error),
    /// Nobody waits for it any more.
    Abandoned,
}

#[derive(Debug)]
pub(crate) struct Board {
    inner: Mutex<Inner>,
    /// Told when a call has ended and no other is left.
    last_ended: Notify,
    /// Told when a call has to wait for a worker.
    waits: Notify,
    /// Told when a slot's worker is ready, cannot be started, or is gone.
    news: Notify,
}

#[derive(Debug)]
struct Inner {
    /// Calls that a worker runs at once.
    concurrency: usize,
    queued: usize,
    busy: usize,
    submitted: u64,
    completed: u64,
    failed: Failures,
    rejected: u64,
    restarts: u64,
    queue_time: Histogram<u64>,
    service_time: Histogram<u64>,
    slots: Vec<Slot>,
    /// How many slots are to have a worker.
    active: usize,
    /// How many the pool has, for all to see: as many, but for those that have yet to become ready.
    size: usize,
    /// The most calls that were queued and busy at once, since the last look.
    peak: usize,
}

impl Board {
    pub(crate) fn new(slots: usize, concurrency: usize) -> Self {
        let inner = Inner {
            concurrency,
            queued: 0,
            busy: 0,
            submitted: 0,
            completed: 0,
            failed: Failures::default(),
            rejected: 0,
            restarts: 0,
            queue_time: histogram(),
            service_time: histogram(),
            slots: Vec::new(),
            active: 0,
            size: 0,
            peak: 0,
        };
        let board = Self {
            inner: Mutex::new(inner),
            last_ended: Notify::new(),
            waits: Notify::new(),
            news: Notify::new(),
        };
        board.plan(slots);
        board.resized();
        board
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every critical section is a few assignments; none can leave the board half-written.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // === Calls; only a ticket changes these, so each call is counted once ===

    /// Admits a call, unless `limit` calls wait already beside those that the workers can run.
    pub(crate) fn admit(&self, limit: usize) -> bool {
        let mut inner = self.lock();
        if inner.queued + inner.busy >= limit.saturating_add(inner.size * inner.concurrency) {
            inner.rejected += 1;
            return false;
        }
        inner.submitted += 1;
        inner.queued += 1;
        inner.peak = inner.peak.max(inner.queued + inner.busy);
        true
    }

    /// A queued call was given to the worker of a slot.
    pub(crate) fn assign(&self, held: Held, deadline: Instant, wish: &Wish, waited: Duration) {
        let mut inner = self.lock();
        inner.queued -= 1;
        inner.busy += 1;
        inner.queue_time.saturating_record(micros(waited));
        let slot = &mut inner.slots[held.slot];
        if slot.epoch != held.epoch {
            return;
        }
        slot.state = WorkerState::Busy;
        match slot.running.iter_mut().find(|running| running.kept.id == held.id) {
            Some(running) => running.ahead = false,
            None => slot.running.push(Running::new(held.id, deadline, wish, false)),
        }
    }

    /// A queued call was written ahead to the worker of a slot. It stays queued.
    pub(crate) fn write_ahead(&self, held: Held, deadline: Instant, wish: &Wish) {
        self.with(held.slot, held.epoch, |slot| {
            slot.running.push(Running::new(held.id, deadline, wish, true));
        });
    }

    /// A call that was written ahead is with no worker any more.
    pub(crate) fn withdraw(&self, held: Held) {
        self.with(held.slot, held.epoch, |slot| {
            slot.running.retain(|running| running.kept.id != held.id);
        });
    }

    /// A call that was given to a worker goes back to the queue.
    pub(crate) fn unassign(&self, held: Held, after: WorkerState) {
        let mut inner = self.lock();
        inner.busy -= 1;
        inner.queued += 1;
        inner.slots[held.slot].release(held, after);
    }

    /// A queued call ended without a worker.
    pub(crate) fn ended_queued(&self, outcome: Outcome<'_>) {
        let mut inner = self.lock();
        inner.queued -= 1;
        inner.count(outcome);
        self.tell_drained(&inner);
    }

    /// The call that a worker held ended; `after` is what its slot is then.
    pub(crate) fn ended_running(
        &self,
        held: Held,
        outcome: Outcome<'_>,
        took: Duration,
        after: WorkerState,
    ) {
        let mut inner = self.lock();
        inner.busy -= 1;
        inner.count(outcome);
        inner.service_time.saturating_record(micros(took));
        let slot = &mut inner.slots[held.slot];
        slot.served += u64::from(slot.epoch == held.epoch);
        slot.release(held, after);
        self.tell_drained(&inner);
    }

    /// A worker has answered for a call that was cancelled: it is free.
    pub(crate) fn freed(&self, held: Held) {
        self.lock().slots[held.slot].release(held, WorkerState::Idle);
    }

    pub(crate) fn tell_call_waits(&self) {
        self.waits.notify_one();
    }

    /// Resolves when a call has to wait for a worker, or had to since the last time; for one to ask.
    pub(crate) async fn call_waits(&self) {
        self.waits.notified().await;
    }

    /// What the pool has to do, and had to since the last look.
    pub(crate) fn load(&self, waited: Option<Duration>) -> Load {
        let mut inner = self.lock();
        let now = inner.queued + inner.busy;
        // Also with a call that was given up, and that Python has yet to end.
        let holds = |slot: &Slot| !slot.running.is_empty();
        let slots = &inner.slots[..inner.size];
        Load {
            size: inner.size,
            busy: slots.iter().filter(|slot| holds(slot)).count(),
            queued: inner.queued,
            last_busy: slots.last().is_some_and(holds),
            peak: std::mem::replace(&mut inner.peak, now),
            waited,
        }
    }

    /// Whether these calls, as far as they still are with their workers, hold all that a call could be run by: the slot that
    /// it is bound to, else every slot, of which there are to be `most` at least. One that runs alone holds all of its worker.
    pub(crate) fn hold_all(
        &self,
        calls: impl IntoIterator<Item = (Held, bool)>,
        bound: Option<usize>,
        most: usize,
    ) -> bool {
        let inner = self.lock();
        let seats = inner.concurrency;
        let counts = |held: &Held| inner.holds(held) && bound.is_none_or(|slot| slot == held.slot);
        let mut by_slot = HashMap::new();
        for (held, alone) in calls.into_iter().filter(|(held, _)| counts(held)) {
            let taken: &mut usize = by_slot.entry(held.slot).or_default();
            *taken = seats.min(*taken + if alone { seats } else { 1 });
        }
        let full = by_slot.values().filter(|&&taken| taken == seats).count();
        full > 0 && full >= bound.map_or(inner.active.max(most), |_| 1)
    }

    fn tell_drained(&self, inner: &Inner) {
        if inner.is_drained() {
            self.last_ended.notify_waiters();
        }
    }
}

impl Inner {
    /// The slots that are to have a worker.
    fn in_use(&self) -> &[Slot] {
        &self.slots[..self.active]
    }

    fn holds(&self, held: &Held) -> bool {
        self.in_use().get(held.slot).is_some_and(|slot| {
            slot.epoch == held.epoch
                && slot.running.iter().any(|running| running.kept.id == held.id)
        })
    }

    fn is_drained(&self) -> bool {
        self.queued + self.busy == 0
    }

    fn count(&mut self, outcome: Outcome<'_>) {
        let failed = &mut self.failed;
        let error = match outcome {
            Outcome::Completed => {
                self.completed += 1;
                return;
            }
            Outcome::Abandoned => {
                failed.abandoned += 1;
                return;
            }
            Outcome::Failed(error) => error,
        };
        *match error {
            Error::Python { .. } => &mut failed.exception,
            Error::UnknownHandler { .. } => &mut failed.unknown_handler,
            Error::Timeout { stage: Stage::Queue, .. } => &mut failed.timeout_queued,
            Error::Timeout { .. } => &mut failed.timeout_running,
            Error::CpuTime { .. } => &mut failed.cpu_time,
            Error::Cancelled { .. } => &mut failed.cancelled,
            Error::WorkerDied(_) => &mut failed.worker_died,
            Error::CircuitOpen { .. } => &mut failed.circuit_open,
            Error::WorkerBusy { .. } => &mut failed.worker_busy,
            Error::WouldDeadlock { .. } => &mut failed.would_deadlock,
            Error::NoSuchWorker { .. } => &mut failed.no_such_worker,
            Error::Start(_) => &mut failed.start,
            Error::Closed { .. } => &mut failed.closed,
            Error::Restarted { .. } => &mut failed.restarted,
            // What is left is about the answer itself; the others never reach an admitted call.
            _ => &mut failed.bad_result,
        } += 1;
    }
}

fn histogram() -> Histogram<u64> {
    // Two significant digits are what `Quantiles` promises. Bounds that are constants cannot be refused.
    #[allow(clippy::expect_used)]
    Histogram::new_with_bounds(1, LONGEST, 2).expect("valid bounds")
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
