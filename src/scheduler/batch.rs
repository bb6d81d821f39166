//! Requests that are gathered: one call of the handler takes them all.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::line::{Line, Waiting};
use super::{Assignment, ByNumber, Held, Id, Priority, Queued, Scheduler, Wish};

/// What may be gathered with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    /// A number of the handler.
    pub(crate) handler: u32,
    /// The most requests of one batch.
    pub(crate) size: u16,
    /// How long the first of a batch waits for others.
    pub(crate) wait: Duration,
}

/// Requests of one kind may share a seat: those of one handler, unless it has become a different one by a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Kind {
    handler: u32,
    alone: bool,
}

impl Wish {
    pub(super) fn kind(&self) -> Option<Kind> {
        self.batch.map(|batch| Kind { handler: batch.handler, alone: self.alone })
    }
}

/// A batch that more requests may join.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gathering {
    kind: Kind,
    /// The seat that they share.
    pub(super) seat: u64,
    room: u16,
    opened: Instant,
    wait: Duration,
}

impl Gathering {
    /// A batch with its first request; `None` if there is no room for a second.
    pub(super) fn open(wish: &Wish, seat: u64, now: Instant) -> Option<Self> {
        let (batch, kind) = (wish.batch?, wish.kind()?);
        let room = batch.size.saturating_sub(1);
        (room > 0).then_some(Self { kind, seat, room, opened: now, wait: batch.wait })
    }

    /// Whether more may join it: always in the moment in which it is opened, so that what has waited does, if its first does
    /// not wait.
    fn is_open(&self, now: Instant) -> bool {
        now <= self.opened || now < self.opened + self.wait
    }
}

/// The batches of all handlers.
#[derive(Debug, Default)]
pub(super) struct Batches {
    /// Where batches are gathered, or were a short time ago; a slot has one of a kind.
    gathering: BTreeSet<(Kind, usize)>,
    /// What waits, by kind and, if it is bound to one, slot, by rank of priority; beside the queues.
    waiting: HashMap<(Kind, Option<usize>), [Line; Priority::COUNT], ByNumber>,
}

impl Batches {
    pub(super) fn waits(&mut self, wish: &Wish, order: i64, id: Id) {
        if let Some(kind) = wish.kind() {
            let lines = self.waiting.entry((kind, wish.place.bound())).or_default();
            lines[wish.priority.rank()].push(order, id);
        }
    }

    /// One that waited does so no more.
    pub(super) fn left<R>(&mut self, wish: &Wish, order: i64, queued: &Waiting<R>) {
        let Some(kind) = wish.kind() else { return };
        let key = (kind, wish.place.bound());
        if let Some(lines) = self.waiting.get_mut(&key) {
            lines[wish.priority.rank()].left(order, queued);
            if lines.iter().all(Line::is_empty) {
                self.waiting.remove(&key);
            }
        }
    }

    /// The first of this kind that waits and may run at the slot, by priority; with its rank and order.
    fn head<R>(
        &mut self,
        kind: Kind,
        slot: usize,
        queued: &Waiting<R>,
    ) -> Option<(usize, i64, Id)> {
        let mut first = None;
        for place in [Some(slot), None] {
            let Some(lines) = self.waiting.get_mut(&(kind, place)) else { continue };
            let heads = lines
                .iter_mut()
                .enumerate()
                .filter_map(|(rank, line)| line.head(queued).map(|(order, id)| (rank, order, id)));
            first = first.into_iter().chain(heads).min();
        }
        first
    }
}

impl<R> Scheduler<R> {
    /// Whether a batch is gathered at the slot that such a request may join.
    pub(super) fn gathers(&self, slot: usize, wish: &Wish, now: Instant) -> bool {
        let (Some(kind), Some(state)) = (wish.kind(), self.slots.get(slot)) else { return false };
        state.gathering.iter().any(|it| it.kind == kind && it.is_open(now))
    }

    /// The first slot with a batch that such a request may join. Those whose time is over are forgotten on the way.
    pub(super) fn gathers_anywhere(&mut self, wish: &Wish, now: Instant) -> Option<usize> {
        let kind = wish.kind()?;
        let mut from = 0;
        loop {
            let &(_, slot) =
                self.batches.gathering.range((kind, from)..=(kind, usize::MAX)).next()?;
            if self.gathers(slot, wish, now) {
                return Some(slot);
            }
            self.close_batches(slot, |it| it.kind == kind && !it.is_open(now));
            from = slot + 1;
        }
    }

    /// Gives the request a place in the batch that is gathered at the slot.
    pub(super) fn join(&mut self, slot: usize, id: Id, queued: Queued<R>) -> Option<Assignment<R>> {
        let Queued { request, deadline, wish, .. } = queued;
        let kind = wish.kind()?;
        let gathering = self.slots[slot].gathering.iter_mut().find(|it| it.kind == kind)?;
        gathering.room -= 1;
        let (seat, full) = (gathering.seat, gathering.room == 0);
        self.running.insert(id, slot);
        let held = Held { id, deadline, alone: wish.alone, short: wish.ahead > 0, seat };
        // This is nobody's turn: it keeps no seat from anyone.
        self.change(slot, |slot| slot.hold(held));
        self.close_batches(slot, |it| full && it.seat == seat);
        Some(Assignment { slot, epoch: self.slots[slot].epoch, ahead: false, request })
    }

    /// A batch is gathered at the slot, instead of an earlier one of its kind, unless the worker holds as much as it can.
    pub(super) fn gather(&mut self, slot: usize, gathering: Gathering) {
        self.close_batches(slot, |it| it.kind == gathering.kind);
        if self.slots[slot].held.len() < self.max_held {
            self.slots[slot].gathering.push(gathering);
            self.batches.gathering.insert((gathering.kind, slot));
        }
    }

    /// Nothing joins these batches of the slot any more.
    pub(super) fn close_batches(&mut self, slot: usize, which: impl Fn(&Gathering) -> bool) {
        let Self { slots, batches, .. } = self;
        if slots[slot].gathering.is_empty() {
            return;
        }
        slots[slot].gathering.retain(|it| {
            let closed = which(it);
            if closed {
                batches.gathering.remove(&(it.kind, slot));
            }
            !closed
        });
    }

    /// The first that waits and may join a batch that is gathered at the slot.
    pub(super) fn fill_batch(&mut self, slot: usize, now: Instant) -> Option<Assignment<R>> {
        let Self { slots, batches, queued, .. } = self;
        let mut gathering = slots[slot].gathering.iter().filter(|it| it.is_open(now));
        let (_, _, id) = gathering.find_map(|it| batches.head(it.kind, slot, queued))?;
        let queued = self.take(id)?;
        self.join(slot, id, queued)
    }
}

#[cfg(test)]
impl<R> Scheduler<R> {
    /// What is kept of batches is in order, and bounded.
    pub(super) fn assert_batches(&self) {
        let mut gathering = BTreeSet::new();
        for (number, slot) in self.slots.iter().enumerate() {
            assert!(slot.gathering.len() <= slot.taken, "slot {number}");
            for it in &slot.gathering {
                assert!(it.room > 0 && slot.up && !self.is_closed(number), "slot {number}");
                assert!(slot.held.iter().any(|held| held.seat == it.seat), "nobody sits there");
                assert!(gathering.insert((it.kind, number)), "two of a kind");
            }
        }
        assert_eq!(self.batches.gathering, gathering);
        let mut waiting = 0;
        for lines in self.batches.waiting.values() {
            assert!(!lines.iter().all(Line::is_empty));
            lines.iter().for_each(Line::assert_bounded);
            waiting += lines.iter().map(Line::len).sum::<usize>();
        }
        assert_eq!(waiting, self.queued.values().filter(|it| it.wish.batch.is_some()).count());
    }

    pub(super) fn assert_nothing_is_gathered(&self) {
        assert!(self.batches.gathering.is_empty() && self.batches.waiting.is_empty());
    }
}
