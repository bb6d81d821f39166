//! A table that is also on disk: what is applied to it once it is there, and what may go there later.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use super::Table;
use crate::session::cell::{Cell, Entry, FOREVER};
use crate::session::clock::Clock;
use crate::session::{Settings, Space};

/// What is known here and not on disk yet.
#[derive(Debug, Default)]
pub(crate) struct Late {
    /// Sessions that were accessed long after what is on disk.
    pub(crate) accessed: Vec<Arc<Cell>>,
    /// Ids and incarnations of sessions that have expired.
    pub(crate) gone: Vec<(Arc<str>, u64)>,
    /// There is more of it.
    pub(crate) more: bool,
}

impl Table {
    pub(crate) fn persisted(settings: &Settings, clock: Clock) -> Self {
        Self { late: Some(Mutex::default()), ..Self::new(settings, clock) }
    }

    fn late(&self, act: impl FnOnce(&mut Late)) {
        if let Some(late) = &self.late {
            act(&mut late.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    pub(super) fn note_access(&self, cell: &Arc<Cell>, now: u64) {
        if self.late.is_some() && cell.is_to_persist(now) {
            self.late(|late| late.accessed.push(Arc::clone(cell)));
        }
    }

    pub(super) fn note_gone(&self, cell: &Cell) {
        self.late(|late| late.gone.push((Arc::clone(&cell.id), cell.incarnation)));
    }

    /// At most so many of each.
    pub(crate) fn take_late(&self, most: usize) -> Late {
        let mut taken = Late::default();
        self.late(|late| {
            let kept = |len: usize| len.saturating_sub(most);
            taken.accessed = late.accessed.split_off(kept(late.accessed.len()));
            taken.gone = late.gone.split_off(kept(late.gone.len()));
            taken.more = !late.accessed.is_empty() || !late.gone.is_empty();
        });
        taken
    }

    pub(crate) fn put_back(&self, gone: Vec<(Arc<str>, u64)>) {
        self.late(|late| late.gone.extend(gone));
    }

    pub(crate) fn has_late(&self) -> bool {
        let mut has = false;
        self.late(|late| has = !late.accessed.is_empty() || !late.gone.is_empty());
        has
    }

    /// The last version that was given.
    pub(crate) fn version(&self) -> u64 {
        self.versions.load(Ordering::Relaxed)
    }

    /// Versions come after this one.
    pub(crate) fn begin_at(&self, version: u64) {
        self.versions.fetch_max(version, Ordering::Relaxed);
    }

    /// Puts a session in, and counts it; or fills the global one.
    pub(crate) fn put_in(&self, cell: Cell) {
        let (count, bytes) = (cell.read().len(), cell.read().bytes);
        if cell.ttl == FOREVER {
            self.room.add(0, count, bytes);
            std::mem::swap(&mut *self.global.write(), &mut *cell.write());
            return;
        }
        self.room.add(1, count, bytes);
        let cell = Arc::new(cell);
        let mut shard = self.write_shard(&cell.id);
        let old = shard.insert(Arc::clone(&cell.id), Arc::clone(&cell));
        self.index().insert(&cell.id, cell.deadline());
        drop(shard);
        if let Some(old) = old {
            self.bury(&old, true);
        }
    }

    /// Ends a session that is no more on disk, unless it is gone already.
    pub(crate) fn unlink(&self, cell: &Arc<Cell>) {
        let mut shard = self.write_shard(&cell.id);
        if !shard.get(&cell.id).is_some_and(|found| Arc::ptr_eq(found, cell)) {
            return;
        }
        shard.remove(&cell.id);
        self.index().remove(&cell.id);
        drop(shard);
        cell.end(0);
        self.bury(cell, false);
    }

    /// Puts and deletes entries, unless the session has expired meanwhile.
    pub(crate) fn change(&self, cell: &Cell, changes: HashMap<(Space, String), Option<Entry>>) {
        let mut replaced = Vec::with_capacity(changes.len());
        let mut entries = cell.write();
        if cell.accessed() == 0 {
            return;
        }
        let (count, bytes) = (entries.len(), entries.bytes);
        for ((space, name), entry) in changes {
            replaced.push(match entry {
                Some(entry) => entries.insert(space, &name, entry),
                None => entries.remove(space, &name),
            });
        }
        // Counted under the lock: who removes it gives back what has been counted.
        self.room.add(0, entries.len(), entries.bytes);
        self.room.give_back(0, count, bytes);
    }
}
