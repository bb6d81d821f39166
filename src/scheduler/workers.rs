//! News of workers, and which slots there are.

use std::time::Instant;

use super::priority::Priority;
use super::slot::{Held, Kept, Slot};
use super::{Assignment, Id, Scheduler, Wish};

impl<R> Scheduler<R> {
    // === Workers ===

    /// The worker of a slot takes calls from now on; `running` is what it holds already, where this scheduler
    /// takes over from an earlier one. What it takes now, [`Scheduler::fill`] says.
    pub(crate) fn up(&mut self, slot: usize, epoch: u64, running: &[Kept]) -> bool {
        let closed = self.is_closed(slot) && running.is_empty();
        if closed || epoch <= self.slots[slot].epoch {
            return false;
        }
        self.vacate(slot);
        self.set_broken(slot, false);
        self.slots[slot].epoch = epoch;
        for &Kept { id, deadline, alone, short } in running {
            self.running.insert(id, slot);
            self.deadlines.insert((deadline, id));
            let seat = self.next_seat;
            self.next_seat += 1;
            let state = &mut self.slots[slot];
            state.hold(Held { id, deadline, alone, short, seat });
            state.taken += 1;
        }
        self.change(slot, |slot| slot.up = true);
        true
    }

    /// The worker has ended request `id`; what it takes next. It may take more: [`Scheduler::takes_more`].
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
        self.close_empty(slot);
        self.fill(slot, now)
    }

    /// Whether the slot's worker may take more than it has just been given: others that join a batch, that have waited for
    /// one that ran alone, or that are written ahead. [`Scheduler::fill`] says.
    pub(crate) fn takes_more(&self, slot: usize) -> bool {
        let state = &self.slots[slot];
        !state.gathering.is_empty()
            || state.room.is_some()
            || (self.seats > 1 && self.has_seat(slot))
    }

    /// The worker takes no more calls.
    pub(crate) fn down(&mut self, slot: usize, epoch: u64) {
        if self.slots[slot].epoch == epoch {
            self.vacate(slot);
        }
    }

    /// The next request that the slot's worker takes now, if it has a seat for one or that may be written ahead: the oldest
    /// that it may run, of the priority whose turn it is; before that, one that joins the batch that is gathered there.
    pub(crate) fn fill(&mut self, slot: usize, now: Instant) -> Option<Assignment<R>> {
        if !self.slots[slot].gathering.is_empty()
            && let Some(next) = self.fill_batch(slot, now)
        {
            return Some(next);
        }
        let Self { slots, queues, queued, seats, .. } = self;
        let state = &mut slots[slot];
        if (state.free.is_none() && state.room.is_none()) || queued.is_empty() {
            return None;
        }
        // By rank of priority, the oldest.
        let mut oldest: [Option<(i64, Id)>; Priority::COUNT] = [None; _];
        for queues in [&mut state.queues, queues] {
            for (line, oldest) in queues.iter_mut().zip(&mut oldest) {
                if let Some(head) = line.head(queued) {
                    *oldest = Some(oldest.map_or(head, |oldest| oldest.min(head)));
                }
            }
        }
        let waiting = oldest.map(|head| head.is_some());
        let next = state.turns.next(waiting)?;
        let (_, id) = oldest[next]?;
        if state.free.is_none() {
            let wish = queued.get(&id)?.wish;
            state.room.filter(|&held| wish.may_be_ahead(held, *seats))?;
        }
        state.turns.pass(waiting);
        let queued = self.take(id)?;
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

    /// Opens the first so many slots, and closes the others. Returns the requests for those, in order of arrival. Those that
    /// are opened again may have a worker with a free seat: [`Scheduler::fill`].
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
        self.has_seat(slot) || self.gathers(slot, &wish, now)
    }

    // === Inside ===

    /// Changes a slot, and with it whether it is free.
    pub(super) fn change(&mut self, number: usize, change: impl FnOnce(&mut Slot)) {
        let closed = self.is_closed(number);
        let slot = &mut self.slots[number];
        change(slot);
        let held = slot.held.len();
        let takes = slot.up && !closed && held < self.max_held;
        let free = takes && slot.taken < self.seats && slot.alone == 0;
        self.free.set(number, &mut slot.free, free.then_some(slot.taken));
        let room = takes && !free && slot.short == held;
        self.room.set(number, &mut slot.room, room.then_some(held));
        if !takes && !slot.gathering.is_empty() {
            self.close_batches(number, |_| true);
        }
    }

    /// The worker of a closed slot leaves, now or when it has ended what it holds.
    pub(super) fn close_empty(&mut self, slot: usize) {
        if self.is_closed(slot) {
            self.change(slot, |slot| slot.up &= !slot.held.is_empty());
        }
    }

    /// Whatever the slot's worker was doing, it no longer does.
    pub(super) fn vacate(&mut self, slot: usize) {
        let mut held = Vec::new();
        self.change(slot, |slot| {
            held = std::mem::take(&mut slot.held);
            slot.up = false;
            (slot.taken, slot.alone, slot.short) = (0, 0, 0);
        });
        for Held { id, deadline, .. } in held {
            self.running.remove(&id);
            self.deadlines.remove(&(deadline, id));
        }
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
