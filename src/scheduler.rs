//! Who runs what, when: the pool's decisions as a plain struct. No I/O, no clock of its own, no actor.
//!
//! Calls of one priority run first come, first served; among priorities, [`Turns`] decides. A call that must run at one
//! slot waits for that slot's worker and holds up nobody else. News of an earlier incarnation of a worker, recognised by its
//! epoch, changes nothing. Of the slots that it knows, the first so many are open: the others are given nothing, and
//! finish what they hold.
//!
//! A worker has so many *seats*. A request takes one; requests of one *batch* share one. One that runs *alone* takes a seat
//! of a worker that has no other such request. Where several workers are free, the one with the fewest seats taken is next.
//!
//! Invariant: while a worker has a seat for it, nothing that it could run is queued.

mod batch;
mod place;
mod priority;

use std::array;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Instant;

pub(crate) use batch::Batch;
use batch::{Batches, Gathering};
pub(crate) use place::{Place, Wish};
pub use priority::Priority;
use priority::Turns;

/// A request's id; unique within the pool.
pub(crate) type Id = u64;

/// Ids are numbers in sequence, of our own making: one multiplication spreads them well enough, and takes a tenth of
/// the time of the default hash, which guards against keys that an attacker chooses.
#[derive(Clone, Copy, Debug, Default)]
struct NumberHasher(u64);

type ByNumber = BuildHasherDefault<NumberHasher>;

impl Hasher for NumberHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(byte.into());
        }
    }

    fn write_u64(&mut self, number: u64) {
        // 2^64 divided by the golden ratio; the high bits, which the table uses as well, are the best spread.
        self.0 = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}

/// A decision: give `request` to this worker.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Assignment<R> {
    pub(crate) slot: usize,
    pub(crate) epoch: u64,
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

/// A request that a worker has.
#[derive(Debug, Clone, Copy)]
struct Held {
    id: Id,
    deadline: Instant,
    alone: bool,
    /// Those of one batch have the same.
    seat: u64,
}

/// The most requests that a worker has, batches included.
pub(crate) const MAX_HELD: usize = 256;

/// Queues by rank of priority, of requests that run beside others, and of those that run alone. Ids that are no longer in
/// [`Scheduler::queued`] are passed over.
type Queues = [[VecDeque<Id>; Priority::COUNT]; 2];

#[derive(Debug, Default)]
struct Slot {
    epoch: u64,
    /// Its worker takes requests.
    up: bool,
    held: Vec<Held>,
    /// How many seats are taken.
    taken: usize,
    /// The batch that more may join.
    gathering: Option<Gathering>,
    /// Requests for this slot alone.
    queues: Queues,
    turns: Turns,
    /// The last start failed.
    broken: bool,
}

impl Slot {
    fn runs_alone(&self) -> bool {
        self.held.iter().any(|held| held.alone)
    }
}

#[derive(Debug)]
pub(crate) struct Scheduler<R> {
    /// They only become more.
    slots: Vec<Slot>,
    /// How many of them are open.
    open: usize,
    /// The seats of each.
    seats: usize,
    /// The workers with a free seat, as (seats taken, slot).
    free: BTreeSet<(usize, usize)>,
    /// Likewise, those that have nothing that runs alone; kept only where there is more than one seat.
    free_alone: BTreeSet<(usize, usize)>,
    broken: usize,
    /// Requests for any slot.
    queues: Queues,
    queued: HashMap<Id, Queued<R>, ByNumber>,
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
            free: BTreeSet::new(),
            free_alone: BTreeSet::new(),
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
        self.add(id, Queued { request, deadline, wish, order }, now, VecDeque::push_back)
    }

    /// A request that was assigned, and certainly not started, comes back, as its worker takes no more; it is the next of
    /// its priority to run.
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
        self.add(id, Queued { request, deadline, wish, order }, now, VecDeque::push_front)
    }

    fn add(
        &mut self,
        id: Id,
        queued: Queued<R>,
        now: Instant,
        push: fn(&mut VecDeque<Id>, Id),
    ) -> Option<Assignment<R>> {
        self.deadlines.insert((queued.deadline, id));
        if let Some(batch) = queued.wish.batch
            && let Some(slot) = self.gathers(batch, queued.wish.place, now)
        {
            return Some(self.join(slot, id, queued));
        }
        if let Some(free) = self.free_for(queued.wish) {
            return Some(self.assign(free, id, queued, now));
        }
        push(Self::queue(queued.wish, &mut self.slots, &mut self.queues), id);
        self.batches.wait(id, queued.wish, push);
        self.queued.insert(id, queued);
        None
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
        let orders = queues
            .iter_mut()
            .flatten()
            .filter_map(|queue| Some((Self::head(queue, queued)?, *queue.front()?)));
        let (_, id) = orders.min()?;
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

    // === Workers ===

    /// The worker of a slot takes calls from now on; `running` is what it holds already, where this scheduler
    /// takes over from an earlier one. What it takes now, [`Scheduler::fill`] says.
    pub(crate) fn up(&mut self, slot: usize, epoch: u64, running: &[(Id, Instant)]) -> bool {
        let closed = self.is_closed(slot) && running.is_empty();
        if closed || epoch <= self.slots[slot].epoch {
            return false;
        }
        self.vacate(slot);
        self.set_broken(slot, false);
        self.slots[slot].epoch = epoch;
        for &(id, deadline) in running {
            self.running.insert(id, slot);
            self.deadlines.insert((deadline, id));
            let seat = self.next_seat;
            self.next_seat += 1;
            let state = &mut self.slots[slot];
            state.held.push(Held { id, deadline, alone: false, seat });
            state.taken += 1;
        }
        self.change(slot, |slot| slot.up = true);
        true
    }

    /// The worker has ended request `id`; what it takes next.
    pub(crate) fn idle(
        &mut self,
        slot: usize,
        epoch: u64,
        id: Id,
        now: Instant,
    ) -> Option<Assignment<R>> {
        if self.slots[slot].epoch != epoch || self.running.get(&id) != Some(&slot) {
            return None;
        }
        self.release(id);
        if self.is_closed(slot) {
            // It leaves, now or when it has ended the others.
            self.change(slot, |slot| slot.up &= !slot.held.is_empty());
        }
        self.fill(slot, now)
    }

    /// The worker takes no more calls.
    pub(crate) fn down(&mut self, slot: usize, epoch: u64) {
        if self.slots[slot].epoch == epoch {
            self.vacate(slot);
        }
    }

    /// The next request that the slot's worker takes now, if it has a seat for one: the oldest that it may run, of the
    /// priority whose turn it is; before that, one that joins the batch that is gathered there.
    pub(crate) fn fill(&mut self, slot: usize, now: Instant) -> Option<Assignment<R>> {
        if let Some(next) = self.fill_batch(slot, now) {
            return Some(next);
        }
        if !self.free.contains(&(self.slots[slot].taken, slot)) {
            return None;
        }
        let alone = self.seats == 1 || !self.slots[slot].runs_alone();
        let Self { slots, queues, queued, .. } = self;
        let state = &mut slots[slot];
        let kinds = if alone { 2 } else { 1 };
        // By rank of priority, the queue with the oldest head.
        let mut oldest: [Option<(i64, &mut VecDeque<Id>)>; Priority::COUNT] = [const { None }; _];
        let both = state.queues.iter_mut().take(kinds).chain(queues.iter_mut().take(kinds));
        for of_kind in both {
            for (rank, queue) in of_kind.iter_mut().enumerate() {
                if let Some(order) = Self::head(queue, queued)
                    && oldest[rank].as_ref().is_none_or(|(oldest, _)| order < *oldest)
                {
                    oldest[rank] = Some((order, queue));
                }
            }
        }
        let waiting = array::from_fn(|rank| oldest[rank].is_some());
        let next = state.turns.next(waiting)?;
        let (_, queue) = oldest[next].take()?;
        let id = queue.pop_front()?;
        let queued = self.queued.remove(&id)?;
        self.batches.tidy(queued.wish, &self.queued);
        Some(self.assign(slot, id, queued, now))
    }

    /// The slot's worker cannot be started. Returns the requests that now can't run: those for this slot, or all
    /// if no slot is left.
    pub(crate) fn broken(&mut self, slot: usize) -> Vec<R> {
        self.vacate(slot);
        if self.is_closed(slot) {
            return Vec::new();
        }
        self.set_broken(slot, true);
        if self.all_broken() {
            self.drain()
        } else {
            self.drain_where(|queued| queued.wish.place.bound() == Some(slot))
        }
    }

    // === Slots ===

    /// Knows so many slots from now on, if they are more than before; those are closed.
    pub(crate) fn know(&mut self, slots: usize) {
        self.slots.resize_with(self.slots.len().max(slots), Slot::default);
    }

    /// Opens the first so many slots, and closes the others. Returns the requests for those, in order of arrival.
    pub(crate) fn resize(&mut self, open: usize) -> Vec<R> {
        self.know(open);
        for slot in open..self.open {
            if self.slots[slot].held.is_empty() {
                self.vacate(slot);
            }
            self.set_broken(slot, false);
        }
        let (less, more) = (open.min(self.open), open.max(self.open));
        self.open = open;
        for slot in less..more {
            self.change(slot, |_| {});
        }
        self.drain_where(|queued| queued.wish.place.bound().is_some_and(|slot| slot >= open))
    }

    /// Whether the slot is given nothing; one that is not known is not, either.
    pub(crate) fn is_closed(&self, slot: usize) -> bool {
        slot >= self.open
    }

    /// How many slots are open.
    pub(crate) fn size(&self) -> usize {
        self.open
    }

    /// Whether no worker can be started at all.
    pub(crate) fn all_broken(&self) -> bool {
        self.broken == self.open
    }

    pub(crate) fn is_broken(&self, slot: usize) -> bool {
        self.slots[slot].broken
    }

    /// Whether the slot's worker takes a request of this wish at once.
    pub(crate) fn is_free(&self, slot: usize, wish: Wish, now: Instant) -> bool {
        let joins = |batch| self.gathers(batch, Place::Only(slot), now).is_some();
        self.is_free_for(slot, wish.alone) || wish.batch.is_some_and(joins)
    }

    // === Inside ===

    fn is_free_for(&self, slot: usize, alone: bool) -> bool {
        self.slots.get(slot).is_some_and(|state| self.free_of(alone).contains(&(state.taken, slot)))
    }

    /// The workers that have a seat.
    fn free_of(&self, alone: bool) -> &BTreeSet<(usize, usize)> {
        if alone && self.seats > 1 { &self.free_alone } else { &self.free }
    }

    fn free_for(&self, wish: Wish) -> Option<usize> {
        match wish.place {
            Place::Only(slot) | Place::Now(slot) => {
                self.is_free_for(slot, wish.alone).then_some(slot)
            }
            Place::Preferred(slot) if self.is_free_for(slot, wish.alone) => Some(slot),
            Place::Anywhere | Place::Preferred(_) => {
                self.free_of(wish.alone).first().map(|&(_, slot)| slot)
            }
        }
    }

    /// Changes a slot, and with it whether it is free.
    fn change(&mut self, number: usize, change: impl FnOnce(&mut Slot)) {
        let closed = self.is_closed(number);
        let slot = &mut self.slots[number];
        let several = self.seats > 1;
        self.free.remove(&(slot.taken, number));
        if several {
            self.free_alone.remove(&(slot.taken, number));
        }
        change(slot);
        if slot.up && !closed && slot.taken < self.seats && slot.held.len() < MAX_HELD {
            self.free.insert((slot.taken, number));
            if several && !slot.runs_alone() {
                self.free_alone.insert((slot.taken, number));
            }
        }
    }

    /// Gives the request a seat.
    fn assign(&mut self, slot: usize, id: Id, queued: Queued<R>, now: Instant) -> Assignment<R> {
        let seat = self.next_seat;
        self.next_seat += 1;
        let wish = queued.wish;
        let gathering = wish.batch.and_then(|batch| batch.opened(seat, now));
        if let Some(gathering) = &gathering {
            self.batches.gather(gathering.batch, slot);
        }
        self.running.insert(id, slot);
        let held = Held { id, deadline: queued.deadline, alone: wish.alone, seat };
        self.change(slot, |slot| {
            slot.held.push(held);
            slot.taken += 1;
            slot.turns.took(wish.priority.rank());
            if gathering.is_some() {
                slot.gathering = gathering;
            }
        });
        Assignment { slot, epoch: self.slots[slot].epoch, request: queued.request }
    }

    /// The slot's worker does not have the request any more; returns the slot.
    fn release(&mut self, id: Id) -> Option<usize> {
        let slot = self.running.remove(&id)?;
        let mut deadline = None;
        self.change(slot, |slot| {
            let Some(at) = slot.held.iter().position(|held| held.id == id) else { return };
            let held = slot.held.swap_remove(at);
            deadline = Some(held.deadline);
            // A batch is at work, or over, once one of it has ended.
            slot.gathering.take_if(|gathering| gathering.seat == held.seat);
            if !slot.held.iter().any(|other| other.seat == held.seat) {
                slot.taken -= 1;
            }
        });
        self.deadlines.remove(&(deadline?, id));
        Some(slot)
    }

    /// Whatever the slot's worker was doing, it no longer does.
    fn vacate(&mut self, slot: usize) {
        let mut held = Vec::new();
        self.change(slot, |slot| {
            held = std::mem::take(&mut slot.held);
            slot.up = false;
            slot.taken = 0;
            slot.gathering = None;
        });
        for Held { id, deadline, .. } in held {
            self.running.remove(&id);
            self.deadlines.remove(&(deadline, id));
        }
    }

    /// Where a request with this wish waits.
    fn queue<'a>(
        wish: Wish,
        slots: &'a mut [Slot],
        queues: &'a mut Queues,
    ) -> &'a mut VecDeque<Id> {
        let queues = wish.place.bound().map_or(queues, |slot| &mut slots[slot].queues);
        &mut queues[usize::from(wish.alone)][wish.priority.rank()]
    }

    /// The order of the first request of a queue that is still queued.
    fn head(queue: &mut VecDeque<Id>, queued: &HashMap<Id, Queued<R>, ByNumber>) -> Option<i64> {
        while let Some(id) = queue.front() {
            if let Some(found) = queued.get(id) {
                return Some(found.order);
            }
            queue.pop_front();
        }
        None
    }

    fn unqueue(&mut self, id: Id) -> Option<R> {
        let Queued { request, deadline, wish, .. } = self.queued.remove(&id)?;
        self.deadlines.remove(&(deadline, id));
        let queue = Self::queue(wish, &mut self.slots, &mut self.queues);
        // Ids that are gone stay where they are until they are more than the living: each is moved O(1) times.
        if queue.len() > 2 * self.queued.len() + 16 {
            queue.retain(|id| self.queued.contains_key(id));
        }
        self.batches.tidy(wish, &self.queued);
        Some(request)
    }

    fn set_broken(&mut self, slot: usize, broken: bool) {
        let state = &mut self.slots[slot];
        if state.broken != broken {
            state.broken = broken;
            if broken {
                self.broken += 1;
            } else {
                self.broken -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests;
