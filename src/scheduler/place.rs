//! Where a request may run, and which slot a key belongs to.

use super::{Batch, Priority};

/// What a request asks of the scheduler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) priority: Priority,
    pub(crate) place: Place,
    /// The hash of the key that the slot of `place` is found by, if it is.
    pub(crate) key: Option<u64>,
    /// Its handler runs beside no other of this kind in its worker: a plain one, which holds the others up.
    pub(crate) alone: bool,
    /// The calls that it can be gathered with.
    pub(crate) batch: Option<Batch>,
    /// It is short, and may be written ahead: given to a worker that has no seat for it, if what the worker has is short as
    /// well, and with it no more than so many wait there. 0 for one that is not short.
    pub(crate) ahead: u8,
}

impl Wish {
    /// Whether it may be written ahead to a worker that has so many requests, all of them short, and so many seats.
    pub(super) fn may_be_ahead(&self, held: usize, seats: usize) -> bool {
        self.ahead > 0 && held < seats + usize::from(self.ahead)
    }

    /// Finds the key's slot among so many.
    pub(crate) fn settle(&mut self, slots: usize) {
        if let Some(key) = self.key {
            let own = slot_of(key, slots);
            match &mut self.place {
                Place::Anywhere => {}
                Place::Preferred(slot) | Place::Only(slot) | Place::Now(slot) => *slot = own,
            }
        }
    }
}

/// Where a request may run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Place {
    #[default]
    Anywhere,
    /// At this slot if its worker is free, else anywhere.
    Preferred(usize),
    /// At this slot.
    Only(usize),
    /// Likewise, and at once: it is submitted only if [`Scheduler::is_free`](super::Scheduler::is_free) says so.
    Now(usize),
}

impl Place {
    /// The slot that a request must run at, if there is one.
    pub(crate) fn bound(self) -> Option<usize> {
        match self {
            Place::Anywhere | Place::Preferred(_) => None,
            Place::Only(slot) | Place::Now(slot) => Some(slot),
        }
    }
}

/// The slot of a key's hash, by jump consistent hashing (Lamping and Veach, 2014): with one slot more, only the keys
/// that go there move; with one less, only those that were there. It needs no table that would have to be bounded.
fn slot_of(mut key: u64, slots: usize) -> usize {
    let (mut slot, mut next) = (0, 0);
    while next < slots {
        slot = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        let jump = (1_u64 << 31) as f64 / ((key >> 33) + 1) as f64;
        next = ((slot + 1) as f64 * jump) as usize;
    }
    slot
}

#[cfg(test)]
mod tests {
    use std::hash::{DefaultHasher, Hash, Hasher};

    use super::*;

    fn hash(key: u32) -> u64 {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        hasher.finish()
    }

    #[test]
    fn keys_spread_evenly_and_move_only_to_a_new_slot() {
        let mut of_slot = [0; 8];
        for key in (0..8_000).map(hash) {
            let slots: Vec<_> = (1..=8).map(|slots| slot_of(key, slots)).collect();
            for (count, pair) in slots.windows(2).enumerate() {
                assert!(pair[1] == pair[0] || pair[1] == count + 1, "{slots:?}");
            }
            of_slot[slots[7]] += 1;
        }
        assert!(of_slot.iter().all(|count| (800..1_200).contains(count)), "{of_slot:?}");
        assert!((0..100).all(|key| slot_of(hash(key), 4096) < 4096));
    }

    #[test]
    fn only_what_has_a_key_is_moved() {
        let mut wish = Wish { place: Place::Only(7), ..Wish::default() };
        wish.settle(2);
        assert_eq!(wish.place, Place::Only(7));
        wish.key = Some(1);
        wish.settle(1);
        assert_eq!(wish.place, Place::Only(0));
    }
}
