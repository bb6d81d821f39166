//! Who runs what, when: the pool's decisions as a plain struct. No I/O, no clock of its own, no actor.
//!
//! Calls of one priority run first come, first served; among priorities, [`Turns`] decides. A call that must run at one
//! slot waits for that slot's worker and holds up nobody else. News of an earlier incarnation of a worker, recognised by its
//! epoch, changes nothing. Of the slots that it knows, the first so many are open: the others are given nothing, and
//! finish what they hold.
//!
//! Invariant: while a worker is idle, nothing that it could run is queued.

mod place;
mod priority;

use std::array;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Instant;

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

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Worker {
    /// No worker takes calls here.
    #[default]
    Absent,
    Idle,
    Busy {
        id: Id,
        deadline: Instant,
    },
}

/// Queues by rank of priority. Ids that are no longer in [`Scheduler::queued`] are passed over.
type Queues = [VecDeque<Id>; Priority::COUNT];

#[derive(Debug, Default)]
struct Slot {
    epoch: u64,
    worker: Worker,
    /// Requests for this slot alone.
    queues: Queues,
    turns: Turns,
    /// The last start failed.
    broken: bool,
}

#[derive(Debug)]
pub(crate) struct Scheduler<R> {
    /// They only become more.
    slots: Vec<Slot>,
    /// How many of them are open.
    open: usize,
    idle: BTreeSet<usize>,
    broken: usize,
    /// Requests for any slot.
    queues: Queues,
    queued: HashMap<Id, Queued<R>, ByNumber>,
    /// The deadlines of all requests, queued and running.
    deadlines: BTreeSet<(Instant, Id)>,
    running: HashMap<Id, usize, ByNumber>,
    next_order: i64,
    next_front: i64,
}

impl<R> Scheduler<R> {
    pub(crate) fn new(slots: usize) -> Self {
        Self {
            slots: (0..slots).map(|_| Slot::default()).collect(),
            open: slots,
            idle: BTreeSet::new(),
            broken: 0,
            queues: Queues::default(),
            queued: HashMap::default(),
            deadlines: BTreeSet::new(),
            running: HashMap::default(),
            next_order: 0,
            next_front: -1,
        }
    }

    // === Requests ===

    /// A request arrives; it is assigned at once if a worker that may run it is idle.
    pub(crate) fn submit(
        &mut self,
        id: Id,
        deadline: Instant,
        wish: Wish,
        request: R,
    ) -> Option<Assignment<R>> {
        let order = self.next_order;
        self.next_order += 1;
        self.add(id, Queued { request, deadline, wish, order }, VecDeque::push_back)
    }

    /// A request that was assigned, and certainly not started, comes back; it is the next of its priority to run.
    pub(crate) fn resubmit(
        &mut self,
        id: Id,
        deadline: Instant,
        wish: Wish,
        request: R,
    ) -> Option<Assignment<R>> {
        self.forget_running(id);
        let order = self.next_front;
        self.next_front -= 1;
        self.add(id, Queued { request, deadline, wish, order }, VecDeque::push_front)
    }

    fn add(
        &mut self,
        id: Id,
        queued: Queued<R>,
        push: impl FnOnce(&mut VecDeque<Id>, Id),
    ) -> Option<Assignment<R>> {
        self.deadlines.insert((queued.deadline, id));
        if let Some(free) = self.idle_for(queued.wish.place) {
            return Some(self.assign(free, id, queued));
        }
        push(Self::queue(queued.wish, &mut self.slots, &mut self.queues), id);
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
    /// takes over from an earlier one.
    pub(crate) fn up(
        &mut self,
        slot: usize,
        epoch: u64,
        running: Option<(Id, Instant)>,
    ) -> Option<Assignment<R>> {
        let closed = self.is_closed(slot) && running.is_none();
        if closed || epoch <= self.slots[slot].epoch {
            return None;
        }
        self.vacate(slot);
        self.set_broken(slot, false);
        self.slots[slot].epoch = epoch;
        match running {
            Some((id, deadline)) => {
                self.slots[slot].worker = Worker::Busy { id, deadline };
                self.running.insert(id, slot);
                self.deadlines.insert((deadline, id));
                None
            }
            None => self.becomes_idle(slot),
        }
    }

    /// The worker has ended request `id`.
    pub(crate) fn idle(&mut self, slot: usize, epoch: u64, id: Id) -> Option<Assignment<R>> {
        let state = &self.slots[slot];
        if state.epoch != epoch
            || !matches!(state.worker, Worker::Busy { id: held, .. } if held == id)
        {
            return None;
        }
        self.vacate(slot);
        self.becomes_idle(slot)
    }

    /// The worker takes no more calls.
    pub(crate) fn down(&mut self, slot: usize, epoch: u64) {
        if self.slots[slot].epoch == epoch {
            self.vacate(slot);
        }
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
            if self.is_idle(slot) {
                self.vacate(slot);
            }
            self.set_broken(slot, false);
        }
        self.open = open;
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

    /// Whether the slot's worker takes a call at once.
    pub(crate) fn is_idle(&self, slot: usize) -> bool {
        self.idle.contains(&slot)
    }

    // === Inside ===

    fn idle_for(&self, place: Place) -> Option<usize> {
        match place {
            Place::Only(slot) | Place::Now(slot) => self.is_idle(slot).then_some(slot),
            Place::Preferred(slot) if self.is_idle(slot) => Some(slot),
            Place::Anywhere | Place::Preferred(_) => self.idle.first().copied(),
        }
    }

    fn assign(&mut self, slot: usize, id: Id, queued: Queued<R>) -> Assignment<R> {
        self.idle.remove(&slot);
        self.running.insert(id, slot);
        let state = &mut self.slots[slot];
        state.worker = Worker::Busy { id, deadline: queued.deadline };
        state.turns.took(queued.wish.priority.rank());
        Assignment { slot, epoch: state.epoch, request: queued.request }
    }

    /// Whatever the slot's worker was doing, it no longer does.
    fn vacate(&mut self, slot: usize) {
        self.idle.remove(&slot);
        if let Worker::Busy { id, deadline } =
            std::mem::replace(&mut self.slots[slot].worker, Worker::Absent)
        {
            self.running.remove(&id);
            self.deadlines.remove(&(deadline, id));
        }
    }

    fn forget_running(&mut self, id: Id) {
        if let Some(&slot) = self.running.get(&id) {
            self.vacate(slot);
        }
    }

    /// Where a request with this wish waits.
    fn queue<'a>(
        wish: Wish,
        slots: &'a mut [Slot],
        queues: &'a mut Queues,
    ) -> &'a mut VecDeque<Id> {
        let queues = wish.place.bound().map_or(queues, |slot| &mut slots[slot].queues);
        &mut queues[wish.priority.rank()]
    }

    /// An idle worker takes the oldest request that it may run, of the priority whose turn it is.
    fn becomes_idle(&mut self, slot: usize) -> Option<Assignment<R>> {
        if self.is_closed(slot) {
            return None;
        }
        self.idle.insert(slot);
        let Self { slots, queues, queued, .. } = self;
        let state = &mut slots[slot];
        state.worker = Worker::Idle;
        // By rank of priority, the queue with the older head.
        let mut ranks = state.queues.iter_mut().zip(queues);
        let mut oldest: [_; Priority::COUNT] = array::from_fn(|_| {
            let (own, any) = ranks.next()?;
            match (Self::head(own, queued), Self::head(any, queued)) {
                (None, None) => None,
                (Some(order), other) if other.is_none_or(|other| order < other) => Some(own),
                _ => Some(any),
            }
        });
        let waiting = array::from_fn(|rank| oldest[rank].is_some());
        let next = state.turns.next(waiting)?;
        let id = oldest[next].take()?.pop_front()?;
        let queued = self.queued.remove(&id)?;
        Some(self.assign(slot, id, queued))
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
