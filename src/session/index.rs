//! The ids of a table's sessions in two orders: by name, to list them, and by the moment at which to look at them again.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

/// A session is looked at when the deadline comes that it had when it was put here. An access since then has moved its
/// deadline, and it is put back: accesses cost nothing here, and each session has one place.
#[derive(Debug, Default)]
pub(crate) struct Index {
    ids: BTreeMap<Arc<str>, u64>,
    deadlines: BTreeSet<(u64, Arc<str>)>,
}

impl Index {
    pub(crate) fn insert(&mut self, id: &Arc<str>, deadline: u64) {
        if let Some(old) = self.ids.insert(Arc::clone(id), deadline) {
            self.deadlines.remove(&(old, Arc::clone(id)));
        }
        self.deadlines.insert((deadline, Arc::clone(id)));
    }

    pub(crate) fn remove(&mut self, id: &Arc<str>) {
        if let Some(deadline) = self.ids.remove(id) {
            self.deadlines.remove(&(deadline, Arc::clone(id)));
        }
    }

    /// A session to look at, which the caller then inserts again, or removes.
    pub(crate) fn pop(&mut self, now: u64) -> Option<Arc<str>> {
        if self.next()? > now {
            return None;
        }
        self.deadlines.pop_first().map(|(_, id)| id)
    }

    /// When there is something to look at.
    pub(crate) fn next(&self) -> Option<u64> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// The ids that begin with `prefix` and come after `after`, at most `limit`.
    pub(crate) fn page(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<Arc<str>> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let following = self.ids.range::<str, _>((start, Bound::Unbounded));
        let matching = following.map(|(id, _)| id).take_while(|id| id.starts_with(prefix));
        matching.take(limit).cloned().collect()
    }
}
