//! What becomes of workers; news of an earlier incarnation changes nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::slot::Slot;
use super::{Board, Link};
use crate::error::StartError;
use crate::stats::WorkerState;

impl Board {
    /// A new incarnation is being started; returns its epoch.
    pub(crate) fn starting(&self, slot: usize) -> u64 {
        let mut inner = self.lock();
        let restart = !std::mem::take(&mut inner.slots[slot].new);
        inner.restarts += u64::from(restart);
        let slot = &mut inner.slots[slot];
        slot.last_epoch += 1;
        slot.epoch = slot.last_epoch;
        slot.state = WorkerState::Starting;
        slot.pid = None;
        slot.served = 0;
        slot.ready = None;
        slot.link = None;
        slot.running.clear();
        slot.epoch
    }

    /// The epoch of an incarnation that is started beside the one that serves; it counts once it takes over.
    pub(crate) fn next_epoch(&self, slot: usize) -> u64 {
        let slot = &mut self.lock().slots[slot];
        slot.last_epoch += 1;
        slot.last_epoch
    }

    /// The incarnation that serves, or will be the first to.
    pub(crate) fn epoch(&self, slot: usize) -> u64 {
        self.lock().slots[slot].epoch
    }

    pub(crate) fn spawned(&self, slot: usize, epoch: u64, pid: i32) {
        self.with(slot, epoch, |slot| slot.pid = Some(pid));
    }

    /// This incarnation takes calls from now on, in the place of an earlier one perhaps. Returns whether now all slots
    /// are ready.
    pub(crate) fn ready(&self, slot: usize, epoch: u64, pid: i32, link: Link) -> bool {
        let mut inner = self.lock();
        let held = &mut inner.slots[slot];
        if epoch < held.epoch {
            return false;
        }
        let replaces = epoch > held.epoch;
        held.epoch = epoch;
        held.state = WorkerState::Idle;
        held.pid = Some(pid);
        held.ready = Some(Instant::now());
        held.link = Some(link);
        held.broken = None;
        held.proven = true;
        if replaces {
            held.served = 0;
            held.running.clear();
        }
        inner.restarts += u64::from(replaces);
        self.news.notify_waiters();
        inner.in_use().iter().all(|slot| slot.link.is_some())
    }

    pub(crate) fn is_busy(&self, slot: usize) -> bool {
        !self.lock().slots[slot].running.is_empty()
    }

    /// An incarnation finishes its calls beside the one that takes over.
    pub(crate) fn draining(&self, slot: usize, epoch: u64, link: &Link) {
        self.lock().slots[slot].draining.push((epoch, link.clone()));
        self.stopping(slot, epoch);
    }

    /// The worker takes no more calls.
    pub(crate) fn stopping(&self, slot: usize, epoch: u64) {
        self.with(slot, epoch, |slot| {
            slot.running.retain(|running| !running.cancelling);
            if slot.state != WorkerState::Busy {
                slot.state = WorkerState::Stopping;
            }
            slot.link = None;
        });
    }

    /// The worker's process is gone; returns how long it had been ready.
    pub(crate) fn down(&self, slot: usize, epoch: u64, reason: Option<String>) -> Option<Duration> {
        let mut uptime = None;
        self.lock().slots[slot].draining.retain(|&(draining, _)| draining != epoch);
        self.with(slot, epoch, |slot| {
            if slot.state != WorkerState::Busy {
                slot.state = WorkerState::Down;
            }
            slot.pid = None;
            slot.link = None;
            uptime = slot.ready.map(|ready| ready.elapsed());
            slot.last_error = reason.or(slot.last_error.take());
        });
        uptime
    }

    /// The slot's worker cannot be started.
    pub(crate) fn broken(&self, slot: usize, error: &Arc<StartError>) {
        let slot = &mut self.lock().slots[slot];
        slot.last_error = Some(error.to_string());
        slot.broken = Some(Arc::clone(error));
        self.news.notify_waiters();
    }

    /// No worker can be started.
    pub(crate) fn all_broken(&self, error: &Arc<StartError>) {
        let mut inner = self.lock();
        let active = inner.active;
        for slot in &mut inner.slots[..active] {
            slot.last_error = Some(error.to_string());
            slot.broken = Some(Arc::clone(error));
        }
        self.news.notify_waiters();
    }

    pub(super) fn with(&self, slot: usize, epoch: u64, change: impl FnOnce(&mut Slot)) {
        let slot = &mut self.lock().slots[slot];
        if slot.epoch == epoch {
            change(slot);
        }
    }
}
