//! Requests that are gathered: one call of the handler takes them all.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::{Assignment, ByNumber, Id, MAX_HELD, Place, Queued, Scheduler, Wish};

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

/// A batch that more requests may join.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gathering {
    pub(super) batch: Batch,
    /// The seat that they share.
    pub(super) seat: u64,
    room: u16,
    opened: Instant,
}

impl Gathering {
    /// Whether one that arrives may join it.
    fn is_open(&self, now: Instant) -> bool {
        self.room > 0 && now < self.opened + self.batch.wait
    }

    /// Whether one that has waited may join it: also in the moment in which it is opened, if its first does not wait.
    fn takes_waiting(&self, now: Instant) -> bool {
        self.is_open(now) || (self.room > 0 && now <= self.opened)
    }
}

impl Batch {
    /// A batch with its first request; `None` if there is no room for a second.
    pub(super) fn opened(self, seat: u64, now: Instant) -> Option<Gathering> {
        let room = self.size.saturating_sub(1);
        (room > 0).then(|| Gathering { batch: self, seat, room, opened: now })
    }
}

/// The batches of all handlers.
#[derive(Debug, Default)]
pub(super) struct Batches {
    /// Where the last batch of a handler was begun.
    gathering: HashMap<u32, usize>,
    /// What waits, by handler and, if it is bound to one, slot; beside the queues, and like there, ids that are not queued
    /// any more are passed over.
    waiting: HashMap<(u32, Option<usize>), VecDeque<Id>>,
}

impl Batches {
    pub(super) fn gather(&mut self, batch: Batch, slot: usize) {
        self.gathering.insert(batch.handler, slot);
    }

    pub(super) fn wait(&mut self, id: Id, wish: Wish, push: fn(&mut VecDeque<Id>, Id)) {
        if let Some(key) = key(wish) {
            push(self.waiting.entry(key).or_default(), id);
        }
    }

    /// One that waited does so no more. Ids that are gone are at most as many as those that wait, and a few.
    pub(super) fn tidy<R>(&mut self, wish: Wish, queued: &HashMap<Id, Queued<R>, ByNumber>) {
        if let Some(key) = key(wish)
            && let Some(waiting) = self.waiting.get_mut(&key)
        {
            if waiting.len() > 2 * queued.len() + 16 {
                waiting.retain(|id| queued.contains_key(id));
            }
            if waiting.is_empty() {
                self.waiting.remove(&key);
            }
        }
    }
}

fn key(wish: Wish) -> Option<(u32, Option<usize>)> {
    Some((wish.batch?.handler, wish.place.bound()))
}

impl<R> Scheduler<R> {
    /// The slot with a batch that such a request may join.
    pub(super) fn gathers(&self, batch: Batch, place: Place, now: Instant) -> Option<usize> {
        let slot = match place.bound() {
            Some(slot) => slot,
            None => *self.batches.gathering.get(&batch.handler)?,
        };
        let state = self.slots.get(slot).filter(|state| state.up && state.held.len() < MAX_HELD)?;
        let open = |it: &Gathering| it.batch.handler == batch.handler && it.is_open(now);
        (!self.is_closed(slot) && state.gathering.as_ref().is_some_and(open)).then_some(slot)
    }

    /// Gives the request a place in the batch that is gathered at the slot.
    pub(super) fn join(&mut self, slot: usize, id: Id, queued: Queued<R>) -> Assignment<R> {
        self.running.insert(id, slot);
        let Queued { request, deadline, wish, .. } = queued;
        self.change(slot, |slot| {
            let Some(gathering) = &mut slot.gathering else { return };
            gathering.room -= 1;
            let seat = gathering.seat;
            slot.held.push(super::Held { id, deadline, alone: wish.alone, seat });
            slot.gathering.take_if(|gathering| gathering.room == 0);
        });
        Assignment { slot, epoch: self.slots[slot].epoch, request }
    }

    /// The oldest that waits and may join the batch that is gathered at the slot.
    pub(super) fn fill_batch(&mut self, slot: usize, now: Instant) -> Option<Assignment<R>> {
        let state = &self.slots[slot];
        let gathering = state.gathering.as_ref().filter(|it| it.takes_waiting(now))?;
        let handler = gathering.batch.handler;
        if state.held.len() >= MAX_HELD || self.is_closed(slot) {
            return None;
        }
        let Self { batches, queued, .. } = self;
        let mut head = |place| {
            let queue = batches.waiting.get_mut(&(handler, place))?;
            Some((Self::head(queue, queued)?, place))
        };
        let (_, place) = [head(Some(slot)), head(None)].into_iter().flatten().min()?;
        let id = self.batches.waiting.get_mut(&(handler, place))?.pop_front()?;
        let queued = self.queued.remove(&id)?;
        self.batches.tidy(queued.wish, &self.queued);
        Some(self.join(slot, id, queued))
    }
}
