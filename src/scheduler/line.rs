//! Requests in the order in which they wait.

use std::collections::{HashMap, VecDeque};

use super::{ByNumber, Id, Queued};

/// What is queued, by id.
pub(super) type Waiting<R> = HashMap<Id, Queued<R>, ByNumber>;

/// A queue that requests may leave from anywhere, in O(1): what has left stays where it is until it comes to the front, or
/// until such entries are more than the others, and a few.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// With the order by which a request is told from itself, should it have left and come back.
    entries: VecDeque<(i64, Id)>,
    /// How many of them wait.
    waiting: usize,
}

impl Line {
    /// At the end; one that comes back, whose order is below 0, at the front.
    pub(super) fn push(&mut self, order: i64, id: Id) {
        if order < 0 {
            self.entries.push_front((order, id));
        } else {
            self.entries.push_back((order, id));
        }
        self.waiting += 1;
    }

    /// The order and the id of the first that waits. Most lines that a worker looks at are empty.
    #[inline]
    pub(super) fn head<R>(&mut self, queued: &Waiting<R>) -> Option<(i64, Id)> {
        if self.waiting == 0 { None } else { self.find_head(queued) }
    }

    fn find_head<R>(&mut self, queued: &Waiting<R>) -> Option<(i64, Id)> {
        while let Some(&entry) = self.entries.front() {
            if waits(entry, queued) {
                return Some(entry);
            }
            self.entries.pop_front();
        }
        None
    }

    /// The request of this order, one of those here, is not in `queued` any more.
    pub(super) fn left<R>(&mut self, order: i64, queued: &Waiting<R>) {
        self.waiting -= 1;
        if self.waiting == 0 {
            self.entries.clear();
        } else if self.entries.front().is_some_and(|&(first, _)| first == order) {
            self.entries.pop_front();
        } else if self.entries.len() > 2 * self.waiting + 16 {
            // Each is moved O(1) times.
            self.entries.retain(|&entry| waits(entry, queued));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// What is kept is bounded by what waits.
    #[cfg(test)]
    pub(super) fn assert_bounded(&self) {
        let kept = self.entries.len();
        assert!(kept <= 2 * self.waiting + 17, "{kept} for {}", self.waiting);
        assert!(self.waiting > 0 || kept == 0, "{kept} are left");
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.waiting
    }
}

fn waits<R>((order, id): (i64, Id), queued: &Waiting<R>) -> bool {
    queued.get(&id).is_some_and(|queued| queued.order == order)
}
