//! The calls that were written ahead to a worker, in the order in which Python comes to them.
#![allow(clippy::vec_box, reason = "they come and go as boxes")]

use std::collections::VecDeque;
use std::time::Instant;

use crate::request::Request;

#[derive(Debug, Default)]
pub(super) struct Line {
    entries: VecDeque<Entry>,
    /// When they have waited for too long; none if none waits.
    due: Option<Instant>,
    waiting: usize,
}

#[derive(Debug)]
enum Entry {
    Waits(Box<Request>),
    /// It was taken back, and Python has yet to pass it over. Its place in the order is still needed.
    Withdrawn(u64),
}

impl Entry {
    fn id(&self) -> u64 {
        match self {
            Entry::Waits(request) => request.ticket.id,
            Entry::Withdrawn(id) => *id,
        }
    }

    fn is(&self, id: u64) -> bool {
        matches!(self, Entry::Waits(request) if request.ticket.id == id)
    }
}

impl Line {
    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Whether one that waits is among these.
    pub(super) fn is_any_of(&self, ids: &[u64]) -> bool {
        self.waiting().any(|request| ids.contains(&request.ticket.id))
    }

    pub(super) fn waiting(&self) -> impl Iterator<Item = &Request> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Waits(request) => Some(&**request),
            Entry::Withdrawn(_) => None,
        })
    }

    /// So many are still to be passed over, and so many are there in all.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.entries.len() - self.waiting, self.entries.len())
    }

    /// When those that wait are to be taken back.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// One more, the last; all of them are taken back at `due`, unless that is set.
    pub(super) fn push(&mut self, request: Box<Request>, due: Instant) {
        self.entries.push_back(Entry::Waits(request));
        self.waiting += 1;
        self.due.get_or_insert(due);
    }

    /// The one that Python is at next; the others are taken back at `due`.
    pub(super) fn pop(&mut self, due: Instant) -> Option<Box<Request>> {
        let at = self.entries.iter().position(|entry| matches!(entry, Entry::Waits(_)))?;
        let next = self.remove(at);
        self.due = (!self.is_empty()).then_some(due);
        next
    }

    /// The one of this id, which Python has come to.
    pub(super) fn take(&mut self, id: u64) -> Option<Box<Request>> {
        let at = self.entries.iter().position(|entry| entry.is(id))?;
        self.remove(at)
    }

    /// Those up to this one, which Python has come to: they come no more into the order of the others.
    pub(super) fn take_through(&mut self, id: u64) -> Vec<Box<Request>> {
        let Some(last) = self.entries.iter().position(|entry| entry.is(id)) else {
            return Vec::new();
        };
        let ids: Vec<_> = self.entries.iter().take(last + 1).map(Entry::id).collect();
        ids.into_iter().filter_map(|id| self.take(id)).collect()
    }

    fn remove(&mut self, at: usize) -> Option<Box<Request>> {
        let Entry::Waits(request) = self.entries.remove(at)? else { return None };
        self.left();
        Some(request)
    }

    fn left(&mut self) {
        self.waiting -= 1;
        if self.waiting == 0 {
            self.due = None;
        }
    }

    /// All that wait; Python comes to none of them.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Box<Request>> {
        (self.waiting, self.due) = (0, None);
        std::mem::take(&mut self.entries).into_iter().filter_map(|entry| match entry {
            Entry::Waits(request) => Some(request),
            Entry::Withdrawn(_) => None,
        })
    }

    /// Takes those back for which `withdraw` says so, told the id of each and those after it.
    pub(super) fn withdraw(
        &mut self,
        mut withdraw: impl FnMut(&[u64]) -> bool,
    ) -> Vec<Box<Request>> {
        let ids: Vec<_> = self.entries.iter().map(Entry::id).collect();
        let mut withdrawn = Vec::new();
        for (at, entry) in self.entries.iter_mut().enumerate() {
            if matches!(entry, Entry::Waits(_)) && withdraw(&ids[at..]) {
                let entry = std::mem::replace(entry, Entry::Withdrawn(ids[at]));
                if let Entry::Waits(request) = entry {
                    withdrawn.push(request);
                }
            }
        }
        withdrawn.iter().for_each(|_| self.left());
        withdrawn
    }

    /// Python has passed this one over. Whether it had been taken back.
    pub(super) fn passed(&mut self, id: u64) -> bool {
        let withdrawn = |entry: &Entry| matches!(entry, Entry::Withdrawn(other) if *other == id);
        let at = self.entries.iter().position(withdrawn);
        at.and_then(|at| self.entries.remove(at)).is_some()
    }

    /// Those that were not taken back in time are to be taken back at `due`.
    pub(super) fn put_off(&mut self, due: Instant) {
        self.due = (!self.is_empty()).then_some(due);
    }
}
