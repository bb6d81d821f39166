//! The pool's scheduler by itself, and calls to be put in.
#![allow(dead_code, unreachable_pub)]

// Private in the crate; as a module of an inline one it keeps its own directory for what is nested in it.
#[path = "../../src"]
#[allow(unused_imports)]
mod crate_source {
    pub mod scheduler;
}

use std::hint::black_box;
use std::time::{Duration, Instant};

pub use crate_source::scheduler;
use scheduler::{Scheduler, Wish};

/// As large as a request of the pool.
pub type Request = [u64; 20];
const REQUEST: Request = [0; 20];

/// What the calls are made with: deadlines a minute ahead, in steps, as calls with one time-out have them.
pub struct Load {
    pub scheduler: Scheduler<Request>,
    wish: Wish,
    /// The id of the next call.
    pub next: u64,
    /// When all calls are made.
    pub base: Instant,
}

impl Load {
    /// With that many workers, all idle.
    pub fn new(slots: usize, seats: usize, wish: Wish) -> Self {
        let mut scheduler = Scheduler::new(slots, seats);
        for slot in 0..slots {
            assert!(scheduler.up(slot, 1, &[]));
        }
        Self { scheduler, wish, next: 1, base: Instant::now() }
    }

    /// Every seat taken, and `queued` calls that wait.
    pub fn loaded(slots: usize, seats: usize, queued: u64) -> Self {
        let mut load = Self::new(slots, seats, Wish::default());
        for _ in 0..(slots * seats) as u64 + queued {
            load.submit();
        }
        load
    }

    /// That of a call.
    pub fn deadline(&self, id: u64) -> Instant {
        self.base + Duration::from_secs(60) + Duration::from_micros(10 * id)
    }

    /// Submits a call; returns the slot if it runs at once.
    pub fn submit(&mut self) -> Option<usize> {
        let id = self.next;
        self.next += 1;
        let (deadline, now) = (self.deadline(id), self.base);
        let given = self.scheduler.submit(id, deadline, self.wish, now, black_box(REQUEST));
        black_box(given).map(|next| next.slot)
    }

    /// A worker has ended a call; returns whether it has another one now.
    pub fn idle(&mut self, slot: usize, id: u64) -> bool {
        black_box(self.scheduler.idle(slot, 1, id, self.base)).is_some()
    }

    /// The ids of the queued calls, shuffled.
    pub fn waiting(&self, running: usize) -> Vec<u64> {
        let mut ids: Vec<u64> = (running as u64 + 1..self.next).collect();
        fastrand::Rng::with_seed(7).shuffle(&mut ids);
        ids
    }
}
