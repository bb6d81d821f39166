//! How many slots there are, and are to be. Only a resize changes that, one after another.

use std::sync::Arc;

use super::{Board, Inner, Slot};
use crate::error::StartError;

impl Board {
    /// The first so many slots are to have a worker. Those that are not in use any more are no longer the pool's, from
    /// this moment on; those that are new, once it is [said](Board::resized).
    pub(crate) fn plan(&self, active: usize) {
        let mut inner = self.lock();
        let (known, former) = (inner.slots.len(), inner.active);
        inner.slots.resize_with(known.max(active), Slot::default);
        if let Some(opened) = inner.slots.get_mut(former..active) {
            for slot in opened {
                slot.new = true;
                slot.proven = false;
                slot.broken = None;
                slot.last_error = None;
            }
        }
        inner.active = active;
        inner.size = inner.size.min(active);
    }

    /// All slots that are in use are the pool's.
    pub(crate) fn resized(&self) {
        let mut inner = self.lock();
        inner.size = inner.active;
    }

    /// How many slots the pool has.
    pub(crate) fn size(&self) -> usize {
        self.lock().size
    }

    /// How many slots are to have a worker.
    pub(crate) fn active(&self) -> usize {
        self.lock().active
    }

    /// How many slots there have ever been.
    pub(crate) fn known(&self) -> usize {
        self.lock().slots.len()
    }

    /// Waits until each slot that is in use has had a worker that was ready, or one of those cannot be started.
    pub(crate) async fn proven(&self) -> Result<(), Arc<StartError>> {
        self.wait(|inner| {
            let mut unproven = inner.in_use().iter().filter(|slot| !slot.proven).peekable();
            if unproven.peek().is_none() {
                return Some(Ok(()));
            }
            unproven.find_map(|slot| slot.broken.clone()).map(Err)
        })
        .await
    }

    /// Waits until no process of a slot is left.
    pub(crate) async fn vacated(&self, slot: usize) {
        self.wait(|inner| (inner.slots[slot].ports == 0).then_some(())).await;
    }

    /// Waits until a slot has no process but that of one port.
    pub(crate) async fn alone(&self, slot: usize) {
        self.wait(|inner| (inner.slots[slot].ports <= 1).then_some(())).await;
    }

    async fn wait<T>(&self, look: impl Fn(&Inner) -> Option<T>) -> T {
        loop {
            // Before the look, so that news between the two is not missed.
            let news = self.news.notified();
            let found = look(&self.lock());
            if let Some(found) = found {
                return found;
            }
            news.await;
        }
    }

    /// A port of this slot is going to have a process.
    pub(crate) fn port_opened(&self, slot: usize) {
        self.lock().slots[slot].ports += 1;
    }

    /// Its process is gone, and reaped.
    pub(crate) fn port_closed(&self, slot: usize) {
        self.lock().slots[slot].ports -= 1;
        self.news.notify_waiters();
    }
}
