//! The scheduler against a simple model, over random sequences of events.

mod trial;

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// What a worker holds at most here, so that it comes to that.
const MOST: usize = 6;

/// What the scheduler should do, written to be obviously right: one list, looked through from its front.
#[derive(Debug)]
struct Model {
    seats: usize,
    /// In the order in which they would run on one worker, were their priorities the same.
    queue: Vec<(Id, Instant, Wish)>,
    workers: Vec<Worker>,
    /// The workers before this one are given requests.
    open: usize,
    now: Instant,
    next_seat: u64,
}

#[derive(Debug, Default)]
struct Worker {
    epoch: u64,
    up: bool,
    broken: bool,
    held: Vec<Holding>,
    /// In the order in which they were opened.
    batches: Vec<Gathered>,
    /// How often requests of a priority have been passed over, since one was given a seat.
    passed: BTreeMap<Priority, usize>,
}

#[derive(Debug)]
struct Holding {
    id: Id,
    deadline: Instant,
    alone: bool,
    short: bool,
    seat: u64,
    /// The end of its time has been told.
    told: bool,
}

/// A batch that has not begun, as far as is known.
#[derive(Debug)]
struct Gathered {
    kind: (u32, bool),
    seat: u64,
    room: u16,
    opened: Instant,
    until: Instant,
}

impl Worker {
    fn vacate(&mut self) {
        self.up = false;
        self.held.clear();
        self.batches.clear();
    }

    fn seats_taken(&self) -> usize {
        self.held.iter().map(|held| held.seat).collect::<BTreeSet<_>>().len()
    }

    /// Its request has ended, or comes back; returns whether it had it.
    fn release(&mut self, id: Id) -> bool {
        let Some(at) = self.held.iter().position(|held| held.id == id) else { return false };
        let seat = self.held.remove(at).seat;
        self.batches.retain(|batch| batch.seat != seat);
        true
    }
}

/// Whether the slot's worker may run it.
fn mine(wish: Wish, slot: usize) -> bool {
    wish.place.bound().is_none_or(|bound| bound == slot)
}

fn kind(wish: Wish) -> Option<(u32, bool)> {
    wish.batch.map(|batch| (batch.handler, wish.alone))
}

impl Model {
    fn new(slots: usize, seats: usize) -> Self {
        let workers = std::iter::repeat_with(Worker::default).take(slots).collect();
        Self { seats, queue: Vec::new(), workers, open: slots, now: at(0), next_seat: 0 }
    }

    /// Batches that nothing may join any more are none.
    fn tidy(&mut self) {
        for (number, worker) in self.workers.iter_mut().enumerate() {
            let gives = worker.up && number < self.open && worker.held.len() < MOST;
            worker.batches.retain(|batch| gives && batch.room > 0);
        }
    }

    fn has_seat(&self, slot: usize) -> bool {
        let worker = &self.workers[slot];
        slot < self.open
            && worker.up
            && worker.seats_taken() < self.seats
            && worker.held.len() < MOST
            && !worker.held.iter().any(|held| held.alone)
    }

    /// Whether the worker has no seat, and nothing but short requests.
    fn has_room(&self, slot: usize) -> bool {
        let worker = &self.workers[slot];
        let takes = slot < self.open && worker.up && worker.held.len() < MOST;
        takes && !self.has_seat(slot) && worker.held.iter().all(|held| held.short)
    }

    /// Whether such a request may be written ahead to the slot's worker.
    fn may_be_ahead(&self, slot: usize, wish: Wish) -> bool {
        let held = self.workers[slot].held.len();
        self.has_room(slot) && wish.ahead > 0 && held < self.seats + usize::from(wish.ahead)
    }

    /// Where such a request is written ahead when it arrives: not before any that waits for the same worker.
    fn ahead(&self, wish: Wish) -> Option<usize> {
        let behind_fewest = (0..self.workers.len())
            .filter(|&slot| self.has_room(slot))
            .min_by_key(|&slot| self.workers[slot].held.len());
        let slot = match wish.place {
            Place::Only(slot) => Some(slot),
            Place::Now(_) => None,
            _ => behind_fewest,
        }?;
        let waits = self.queue.iter().filter(|queued| mine(queued.2, slot)).count();
        (waits == 0 && self.may_be_ahead(slot, wish)).then_some(slot)
    }

    /// Which batch of the slot such a request may join.
    fn batch(&self, slot: usize, wish: Wish) -> Option<usize> {
        self.workers[slot].batches.iter().position(|batch| {
            let in_time = self.now < batch.until || self.now == batch.opened;
            Some(batch.kind) == kind(wish) && in_time
        })
    }

    /// Whether the slot's worker would take such a request at once.
    fn takes(&self, slot: usize, wish: Wish) -> bool {
        self.has_seat(slot) || self.batch(slot, wish).is_some()
    }

    /// Whether anything that is queued could run.
    fn is_settled(&self) -> bool {
        self.queue.iter().all(|&(_, _, wish)| {
            self.slots_for(wish)
                .all(|slot| !self.has_seat(slot) && self.batch(slot, wish).is_none())
        })
    }

    fn slots_for(&self, wish: Wish) -> impl Iterator<Item = usize> {
        let bound = wish.place.bound();
        (0..self.workers.len()).filter(move |&slot| bound.is_none_or(|bound| bound == slot))
    }

    /// Where a request that arrives is run, if at once.
    fn arrives(
        &mut self,
        id: Id,
        deadline: Instant,
        wish: Wish,
        back: bool,
    ) -> Option<(usize, u64, Id)> {
        let ahead = self.ahead(wish);
        let at = if back { 0 } else { self.queue.len() };
        self.queue.insert(at, (id, deadline, wish));
        let preferred = match wish.place {
            Place::Preferred(slot) => self.takes(slot, wish).then_some(slot),
            _ => None,
        };
        let gathers = |&slot: &usize| self.batch(slot, wish).is_some();
        let free = |&slot: &usize| self.has_seat(slot);
        let slot = preferred
            .or_else(|| self.slots_for(wish).find(gathers))
            .or_else(|| {
                let free = self.slots_for(wish).filter(free);
                free.min_by_key(|&slot| self.workers[slot].seats_taken())
            })
            .or(ahead)?;
        match self.batch(slot, wish) {
            Some(batch) => Some(self.join(slot, batch, at)),
            None => Some(self.sit(slot, at)),
        }
    }

    /// What the slot's worker takes next: one that has waited for the batch that is gathered there, or the first that it can
    /// run, of the priority whose turn it is.
    fn fill(&mut self, slot: usize) -> Option<(usize, u64, Id)> {
        let mine = |wish: Wish| mine(wish, slot);
        for priority in [High, Normal, Low] {
            let joins = |queued: &(Id, Instant, Wish)| {
                let wish = queued.2;
                mine(wish) && wish.priority == priority && self.batch(slot, wish).is_some()
            };
            if let Some(at) = self.queue.iter().position(joins) {
                let batch = self.batch(slot, self.queue[at].2)?;
                return Some(self.join(slot, batch, at));
            }
        }
        if !self.has_seat(slot) && !self.has_room(slot) {
            return None;
        }
        let waiting: BTreeSet<_> =
            self.queue.iter().filter(|q| mine(q.2)).map(|q| q.2.priority).collect();
        let passed = &self.workers[slot].passed;
        let due = waiting.iter().find(|&priority| passed.get(priority).is_some_and(|&n| n >= 8));
        let turn = *due.or(waiting.last())?;
        let at = self.queue.iter().position(|q| mine(q.2) && q.2.priority == turn)?;
        if !self.has_seat(slot) && !self.may_be_ahead(slot, self.queue[at].2) {
            return None;
        }
        for priority in waiting {
            *self.workers[slot].passed.entry(priority).or_default() += 1;
        }
        Some(self.sit(slot, at))
    }

    /// What is at this place of the queue gets a seat.
    fn sit(&mut self, slot: usize, at: usize) -> (usize, u64, Id) {
        let wish = self.queue[at].2;
        self.next_seat += 1;
        let (seat, opened) = (self.next_seat, self.now);
        let worker = &mut self.workers[slot];
        worker.passed.remove(&wish.priority);
        if wish.alone {
            worker.batches.clear();
        }
        if let Some(Batch { handler, size, wait }) = wish.batch {
            let kind = (handler, wish.alone);
            worker.batches.retain(|batch| batch.kind != kind);
            let until = opened + wait;
            worker.batches.push(Gathered { kind, seat, room: size - 1, opened, until });
        }
        self.hold(slot, seat, at)
    }

    fn join(&mut self, slot: usize, batch: usize, at: usize) -> (usize, u64, Id) {
        let batch = &mut self.workers[slot].batches[batch];
        batch.room -= 1;
        let seat = batch.seat;
        self.hold(slot, seat, at)
    }

    fn hold(&mut self, slot: usize, seat: u64, at: usize) -> (usize, u64, Id) {
        let (id, deadline, wish) = self.queue.remove(at);
        let worker = &mut self.workers[slot];
        let (alone, short) = (wish.alone, wish.ahead > 0);
        worker.held.push(Holding { id, deadline, alone, short, seat, told: false });
        let epoch = worker.epoch;
        self.tidy();
        (slot, epoch, id)
    }

    /// A worker takes over what it held already.
    fn adopt(&mut self, slot: usize, running: &[Kept]) {
        for &Kept { id, deadline, alone, short } in running {
            self.next_seat += 1;
            let seat = self.next_seat;
            let held = Holding { id, deadline, alone, short, seat, told: false };
            self.workers[slot].held.push(held);
        }
    }

    fn holder(&self, id: Id) -> Option<usize> {
        self.workers.iter().position(|worker| worker.held.iter().any(|held| held.id == id))
    }

    /// The end of time of whatever is still to be told of, first the earliest.
    fn deadlines(&self) -> Vec<(Instant, Id)> {
        let queued = self.queue.iter().map(|&(id, deadline, _)| (deadline, id));
        let held = self.workers.iter().flat_map(|worker| &worker.held);
        let running = held.filter(|held| !held.told).map(|held| (held.deadline, held.id));
        let mut all: Vec<_> = queued.chain(running).collect();
        all.sort_unstable();
        all
    }

    fn removed(&mut self, id: Id) -> Option<Removed<Id>> {
        if let Some(position) = self.queue.iter().position(|&(queued, ..)| queued == id) {
            self.queue.remove(position);
            return Some(Removed::Queued(id));
        }
        let slot = self.holder(id)?;
        Some(Removed::Running { slot, epoch: self.workers[slot].epoch, id })
    }

    fn expire(&mut self, now: Instant) -> Option<Removed<Id>> {
        let (_, id) = self.deadlines().into_iter().find(|&(deadline, _)| deadline <= now)?;
        for held in self.workers.iter_mut().flat_map(|worker| &mut worker.held) {
            held.told |= held.id == id;
        }
        self.removed(id)
    }
}
