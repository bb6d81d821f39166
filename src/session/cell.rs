//! One session of a table: when it was accessed, and what it holds.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use super::clock::system_time;
use super::{SessionInfo, Space, Value};

/// In the place of the last access: the session has ended.
const ENDED: u64 = 0;

/// The TTL of what never expires.
pub(crate) const FOREVER: u64 = u64::MAX;

/// A session. It ends once, by a compare-and-swap on its last access that is also what an access is: whoever finds it
/// expired ends it, so that nobody can prolong a session that somebody else has already found to be gone.
#[derive(Debug)]
pub(crate) struct Cell {
    /// Empty for the global session.
    pub(crate) id: Arc<str>,
    /// Tells it from others of the same id, before and after it, where that matters.
    #[cfg_attr(not(feature = "durable"), allow(dead_code))]
    pub(crate) incarnation: u64,
    pub(crate) created: u64,
    pub(crate) ttl: u64,
    accessed: AtomicU64,
    /// The last access that is on disk, or on its way there.
    #[cfg(feature = "durable")]
    persisted: AtomicU64,
    entries: RwLock<Entries>,
}

impl Cell {
    pub(crate) fn new(
        id: Arc<str>,
        incarnation: u64,
        (created, accessed): (u64, u64),
        ttl: u64,
        entries: Entries,
    ) -> Self {
        Self {
            id,
            incarnation,
            created,
            ttl,
            accessed: AtomicU64::new(accessed.max(ENDED + 1)),
            #[cfg(feature = "durable")]
            persisted: AtomicU64::new(accessed),
            entries: RwLock::new(entries),
        }
    }

    /// An access: whether the session lives, which it then does for its whole TTL from `now`.
    pub(crate) fn access(&self, now: u64) -> bool {
        self.look(now, now)
    }

    /// Whether it lives.
    pub(crate) fn lives(&self, now: u64) -> bool {
        self.look(now, 0)
    }

    fn look(&self, now: u64, access: u64) -> bool {
        let mut accessed = self.accessed.load(Ordering::Acquire);
        loop {
            if accessed == ENDED {
                return false;
            }
            let expired = accessed.saturating_add(self.ttl) <= now;
            if !expired && access <= accessed {
                return true;
            }
            let new = if expired { ENDED } else { access };
            match self.accessed.compare_exchange_weak(
                accessed,
                new,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return !expired,
                Err(other) => accessed = other,
            }
        }
    }

    /// Ends it; whether it lived.
    pub(crate) fn end(&self, now: u64) -> bool {
        let accessed = self.accessed.swap(ENDED, Ordering::AcqRel);
        accessed != ENDED && accessed.saturating_add(self.ttl) > now
    }

    /// The last access; 0 once it has ended.
    pub(crate) fn accessed(&self) -> u64 {
        self.accessed.load(Ordering::Acquire)
    }

    /// When it expires, if nobody accesses it.
    pub(crate) fn deadline(&self) -> u64 {
        self.accessed().saturating_add(self.ttl)
    }

    /// Whether the last access that is on disk is too old to stay there. Says so once.
    #[cfg(feature = "durable")]
    pub(crate) fn is_to_persist(&self, now: u64) -> bool {
        let old = self.persisted.load(Ordering::Relaxed);
        let late = self.ttl != FOREVER && now.saturating_sub(old) > self.ttl / 8;
        let swap = || {
            self.persisted.compare_exchange(old, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        };
        late && swap()
    }

    #[cfg(feature = "durable")]
    pub(crate) fn note_persisted(&self, accessed: u64) {
        self.persisted.fetch_max(accessed, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Entries> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Entries> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn info(&self) -> SessionInfo {
        let ttl = (self.ttl != FOREVER).then(|| Duration::from_millis(self.ttl));
        let (created, accessed) = (system_time(self.created), system_time(self.accessed()));
        let entries = self.read();
        SessionInfo::new(&*self.id, created, accessed, ttl, entries.len(), entries.bytes)
    }
}

// === What it holds ===

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) value: Value,
    pub(crate) version: u64,
}

/// The entries of a session.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    spaces: [BTreeMap<Box<str>, Entry>; 2],
    /// Of keys and values.
    pub(crate) bytes: u64,
}

/// The bytes that an entry takes of the bounds.
pub(crate) fn size_of(name: &str, value: &Value) -> u64 {
    (name.len() + value.size()) as u64
}

impl Entries {
    pub(crate) fn get(&self, space: Space, name: &str) -> Option<&Entry> {
        self.spaces[space as usize].get(name)
    }

    pub(crate) fn insert(&mut self, space: Space, name: &str, entry: Entry) -> Option<Entry> {
        self.bytes += size_of(name, &entry.value);
        let space = &mut self.spaces[space as usize];
        let old = match space.get_mut(name) {
            Some(place) => Some(std::mem::replace(place, entry)),
            None => space.insert(name.into(), entry),
        };
        if let Some(old) = &old {
            self.bytes -= size_of(name, &old.value);
        }
        old
    }

    pub(crate) fn remove(&mut self, space: Space, name: &str) -> Option<Entry> {
        let old = self.spaces[space as usize].remove(name);
        if let Some(old) = &old {
            self.bytes -= size_of(name, &old.value);
        }
        old
    }

    pub(crate) fn keys(&self, space: Space) -> Vec<String> {
        self.spaces[space as usize].keys().map(|name| (**name).to_owned()).collect()
    }

    pub(crate) fn len(&self) -> u64 {
        self.spaces.iter().map(|space| space.len() as u64).sum()
    }
}
