//! Who runs what, when: the pool's decisions as a plain struct. No I/O, no clock of its own, no actor.
//!
//! Calls of one priority run first come, first served; among priorities, [`Turns`](priority::Turns) decides. A call that
//! must run at one slot waits for that slot's worker and holds up nobody else. News of an earlier incarnation of a worker,
//! recognised by its epoch, changes nothing. Of the slots that it knows, the first so many are open: the others are given
//! nothing, and finish what they hold.
//!
//! A worker has so many *seats*. A request takes one; requests of one *batch* share one. While a worker has one that runs
//! *alone*, it is given no other: that would only wait for it, and for ever where it is what that one waits for. Where
//! several workers are free, the one with the fewest seats taken is next. A batch is begun by a request whose turn it is,
//! and may be joined for a time, by those of the highest priority first; that is nobody's turn, as it keeps no seat from
//! anyone.
//!
//! Where every seat is taken, a request that is *short* may be written ahead: given to a worker that is at work, to be run
//! when that has ended, if all that the worker has is short and if nothing waits that would come before it.
//!
//! Invariant: while a worker has a seat for it, or a batch that it may join, nothing that it could run is queued.
//!
//! Each operation is O(log n) in the number of requests, for their deadlines, and O(1) in all else, where what is bounded
//! counts as constant: what a worker holds ([`MAX_HELD`]) and 64 slots or seats at a time. What has left a queue early is
//! cleared away in O(1) each. Submit and idle together take 115 ns with nothing queued, 140 with 16 seats; 210 and 240 with
//! 100 queued, 700 to 800 with 100 000 (`benches/scheduler.rs`, where a request is 160 bytes; best of many short rounds).

mod batch;
mod free;
mod hasher;
mod line;
mod place;
mod priority;
mod slot;
mod workers;

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

pub(crate) use batch::Batch;
use batch::{Batches, Gathering};
use free::Free;
use hasher::ByNumber;
use line::{Line, Waiting};
pub(crate) use place::{Place, Wish};
pub use priority::Priority;
pub(crate) use slot::Kept;
use slot::{Held, Queues, Slot};

/// A request's id; unique within the pool.
pub(crate) type Id = u64;

/// A decision: give `request` to this worker.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Assignment<R> {
    pub(crate) slot: usize,
    pub(crate) epoch: u64,
    /// It is written ahead.
    pub(crate) ahead: bool,
    pub(crate) request: R,
}

/// What became of a request that was cancelled, or that ran out of time.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Removed<R> {
    /// It was queued, and never runs.
    Queued(R),
    /// This worker has it.
    Running { slot: usize, epoch: u64, id: Id },
}

#[derive(Debug)]
struct Queued<R> {
    request: R,
    deadline: Instant,
    wish: Wish,
    /// The order of arrival, over all queues. Requests that come back are ahead of all others.
    order: i64,
}

/// The most requests that a worker has, batches included.
pub(crate) const MAX_HELD: usize = 256;

/// Where a request is run at once.
enum Found {
    /// In the batch that is gathered at this slot.
    Batch(usize),
    /// On a seat of its own.
    Seat(usize),
}

#[derive(Debug)]
pub(crate) struct Scheduler<R> {
    /// They only become more.
    slots: Vec<Slot>,
    /// How many of them are open.
    open: usize,
    /// The seats of each.
    seats: usize,
    /// [`MAX_HELD`].
    max_held: usize,
    /// The workers with a free seat.
    free: Free,
    /// The workers without one that requests may be written ahead to, by how many they have.
    room: Free,
    broken: usize,
    /// Requests for any slot.
    queues: Queues,
    queued: Waiting<R>,
    /// The deadlines of all requests, queued and running.
    deadlines: BTreeSet<(Instant, Id)>,
    running: HashMap<Id, usize, ByNumber>,
    batches: Batches,
    next_seat: u64,
    next_order: i64,
    next_front: i64,
}

impl<R> Scheduler<R> {
    pub(crate) fn new(slots: usize, seats: usize) -> Self {
        Self {
            slots: (0..slots).map(|_| Slot::default()).collect(),
            open: slots,
            seats,
            max_held: MAX_HELD,
            free: Free::default(),
            room: Free::default(),
            broken: 0,
            queues: Queues::default(),
            queued: HashMap::default(),
            deadlines: BTreeSet::new(),
            running: HashMap::default(),
            batches: Batches::default(),
            next_seat: 1,
            next_order: 0,
            next_front: -1,
        }
    }

    // === Requests ===

    /// A request arrives; it is assigned at once if a worker has a seat for it.
    pub(crate) fn submit(
        &mut self,
        id: Id,
        deadline: Instant,
        wish: Wish,
        now: Instant,
        request: R,
    ) -> Option<Assignment<R>> {
        let order = self.next_order;
        self.next_order += 1;
        self.add(id, Queued { request, deadline, wish, order }, now)
    }

    /// A request that was written ahead is its worker's no more, which goes on: to be submitted again. Returns the slot.
    pub(crate) fn withdraw(&mut self, id: Id) -> Option<usize> {
        let slot = self.release(id)?;
        self.close_empty(slot);
        Some(slot)
    }

    /// A request that was assigned, and certainly not started, comes back; it is the next of its priority to run. A worker
    /// that still has it takes no more.
    pub(crate) fn resubmit(
        &mut self,
        id: Id,
        deadline: Instant,
        wish: Wish,
        now: Instant,
        request: R,
    ) -> Option<Assignment<R>> {
        if let Some(slot) = self.release(id) {
            self.change(slot, |slot| slot.up = false);
        }
        let order = self.next_front;
        self.next_front -= 1;
        self.add(id, Queued { request, deadline, wish, order }, now)
    }

    fn add(&mut self, id: Id, queued: Queued<R>, now: Instant) -> Option<Assignment<R>> {
        self.deadlines.insert((queued.deadline, id));
        match self.find(&queued.wish, now) {
            Some(Found::Batch(slot)) => self.join(slot, id, queued),
            Some(Found::Seat(slot)) => Some(self.assign(slot, id, queued, now)),
            None => {
                let (wish, order) = (&queued.wish, queued.order);
                Self::line(wish, &mut self.slots, &mut self.queues).push(order, id);
                self.batches.waits(wish, order, id);
                self.queued.insert(id, queued);
                None
            }
        }
    }

    /// The caller of a request went away.
    pub(crate) fn cancel(&mut self, id: Id) -> Option<Removed<R>> {
        if let Some(request) = self.unqueue(id) {
            return Some(Removed::Queued(request));
        }
        let slot = *self.running.get(&id)?;
        let epoch = self.slots[slot].epoch;
        Some(Removed::Running { slot, epoch, id })
    }

    /// The next request whose deadline is not after `now`. Each is told of once; call it until there is none.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Removed<R>> {
        let &(deadline, id) = self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        self.deadlines.remove(&(deadline, id));
        self.cancel(id)
    }

    /// When [`Scheduler::expire`] has something to tell next.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// The request that has waited longest of those that any worker may run.
    pub(crate) fn oldest(&mut self) -> Option<&R> {
        let Self { queues, queued, .. } = self;
        let heads = queues.iter_mut().filter_map(|line| line.head(queued));
        let (_, id) = heads.min()?;
        self.queued.get(&id).map(|queued| &queued.request)
    }

    /// Takes out everything that is queued, in order of arrival.
    pub(crate) fn drain(&mut self) -> Vec<R> {
        self.drain_where(|_| true)
    }

    /// Takes out those that are queued of which this is true, in order of arrival.
    pub(crate) fn take_where(&mut self, matches: impl Fn(&R) -> bool) -> Vec<R> {
        self.drain_where(|queued| matches(&queued.request))
    }

    fn drain_where(&mut self, matches: impl Fn(&Queued<R>) -> bool) -> Vec<R> {
        let mut ids: Vec<_> = self
            .queued
            .iter()
            .filter(|(_, queued)| matches(queued))
            .map(|(&id, queued)| (queued.order, id))
            .collect();
        ids.sort_unstable();
        ids.into_iter().filter_map(|(_, id)| self.unqueue(id)).collect()
    }

    // === Inside ===

    fn has_seat(&self, slot: usize) -> bool {
        self.slots.get(slot).is_some_and(|slot| slot.free.is_some())
    }

    /// Where a request that arrives is run at once. To join a batch comes before a seat, but a preferred slot before all.
    fn find(&mut self, wish: &Wish, now: Instant) -> Option<Found> {
        if let Place::Only(slot) | Place::Now(slot) | Place::Preferred(slot) = wish.place {
            if self.gathers(slot, wish, now) {
                return Some(Found::Batch(slot));
            }
            if self.has_seat(slot) {
                return Some(Found::Seat(slot));
            }
        }
        if wish.place.bound().is_none() {
            if let Some(slot) = self.gathers_anywhere(wish, now) {
                return Some(Found::Batch(slot));
            }
            if let Some(slot) = self.free.first() {
                return Some(Found::Seat(slot));
            }
        }
        self.find_ahead(wish).map(Found::Seat)
    }

    /// Where a request may be written ahead, behind as few as possible: not before any that waits.
    fn find_ahead(&mut self, wish: &Wish) -> Option<usize> {
        if wish.ahead == 0 {
            return None;
        }
        let slot = match wish.place {
            Place::Anywhere | Place::Preferred(_) => self.room.first()?,
            Place::Only(slot) => slot,
            Place::Now(_) => return None,
        };
        let Self { slots, queues, seats, .. } = self;
        let state = slots.get(slot)?;
        let none_waits = queues.iter().chain(&state.queues).all(Line::is_empty);
        (none_waits && wish.may_be_ahead(state.room?, *seats)).then_some(slot)
    }

    /// Gives the request a seat.
    fn assign(&mut self, slot: usize, id: Id, queued: Queued<R>, now: Instant) -> Assignment<R> {
        let seat = self.next_seat;
        self.next_seat += 1;
        let wish = queued.wish;
        let ahead = self.slots[slot].free.is_none();
        self.running.insert(id, slot);
        let deadline = queued.deadline;
        let held = Held { id, deadline, alone: wish.alone, short: wish.ahead > 0, seat };
        self.change(slot, |slot| {
            slot.hold(held);
            slot.taken += 1;
            slot.turns.took(wish.priority.rank());
        });
        if wish.alone {
            self.close_batches(slot, |_| true);
        }
        if let Some(gathering) = Gathering::open(&wish, seat, now) {
            self.gather(slot, gathering);
        }
        Assignment { slot, epoch: self.slots[slot].epoch, ahead, request: queued.request }
    }

    /// The slot's worker does not have the request any more; returns the slot.
    fn release(&mut self, id: Id) -> Option<usize> {
        let slot = self.running.remove(&id)?;
        let mut released = None;
        self.change(slot, |slot| released = slot.release(id));
        let Held { deadline, seat, .. } = released?;
        self.deadlines.remove(&(deadline, id));
        // A batch is at work, or over, once one of it has ended.
        self.close_batches(slot, |it| it.seat == seat);
        Some(slot)
    }

    /// Where a request with this wish waits.
    fn line<'a>(wish: &Wish, slots: &'a mut [Slot], queues: &'a mut Queues) -> &'a mut Line {
        let queues = wish.place.bound().map_or(queues, |slot| &mut slots[slot].queues);
        &mut queues[wish.priority.rank()]
    }

    /// Takes a request out of the queue.
    fn take(&mut self, id: Id) -> Option<Queued<R>> {
        let taken = self.queued.remove(&id)?;
        let (wish, order) = (&taken.wish, taken.order);
        Self::line(wish, &mut self.slots, &mut self.queues).left(order, &self.queued);
        self.batches.left(wish, order, &self.queued);
        Some(taken)
    }

    fn unqueue(&mut self, id: Id) -> Option<R> {
        let Queued { request, deadline, .. } = self.take(id)?;
        self.deadlines.remove(&(deadline, id));
        Some(request)
    }
}

#[cfg(test)]
mod tests;
