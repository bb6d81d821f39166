//! What the scheduler knows of one slot and its worker.

use std::time::Instant;

use super::Id;
use super::batch::Gathering;
use super::line::Line;
use super::priority::{Priority, Turns};

/// A request that a worker has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) id: Id,
    pub(super) deadline: Instant,
    pub(super) alone: bool,
    pub(super) short: bool,
    /// Those of one batch have the same.
    pub(super) seat: u64,
}

/// What is known of a request that a worker has, by whoever takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) id: Id,
    pub(crate) deadline: Instant,
    /// As its [`Wish`](super::Wish) says.
    pub(crate) alone: bool,
    pub(crate) short: bool,
}

/// Queues by rank of priority.
pub(super) type Queues = [Line; Priority::COUNT];

/// A slot.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) epoch: u64,
    /// Its worker takes requests.
    pub(super) up: bool,
    pub(super) held: Vec<Held>,
    /// How many seats are taken.
    pub(super) taken: usize,
    /// How many of `held` run alone.
    pub(super) alone: usize,
    /// How many of `held` are short.
    pub(super) short: usize,
    /// The batches that more may join, one of a kind; none unless it takes requests.
    pub(super) gathering: Vec<Gathering>,
    /// Where it stands in [`Scheduler::free`](super::Scheduler).
    pub(super) free: Option<usize>,
    /// Where it stands in [`Scheduler::room`](super::Scheduler).
    pub(super) room: Option<usize>,
    /// Requests for this slot alone.
    pub(super) queues: Queues,
    pub(super) turns: Turns,
    /// The last start failed.
    pub(super) broken: bool,
}

impl Slot {
    pub(super) fn hold(&mut self, held: Held) {
        self.alone += usize::from(held.alone);
        self.short += usize::from(held.short);
        self.held.push(held);
    }

    /// What was held is not any more, and its seat is free unless others of its batch sit there.
    pub(super) fn release(&mut self, id: Id) -> Option<Held> {
        let at = self.held.iter().position(|held| held.id == id)?;
        let released = self.held.swap_remove(at);
        self.alone -= usize::from(released.alone);
        self.short -= usize::from(released.short);
        if !self.held.iter().any(|other| other.seat == released.seat) {
            self.taken -= 1;
        }
        Some(released)
    }
}
