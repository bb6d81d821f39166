//! How much may be on its way that its consumer has not taken.

use std::collections::VecDeque;

/// Items; see `_stream.py`, which has the same numbers.
const ITEMS: usize = 64;

/// Bytes: one more item is let through as long as there are less, however large it is.
const BYTES: usize = 1 << 20;

/// What was taken is told after so many items,
pub(crate) const HALF_ITEMS: u64 = ITEMS as u64 / 2;

/// or so many bytes. A side that waits has used up its window, which is more than either: so it never waits for what the
/// other side has not told yet.
pub(crate) const HALF_BYTES: usize = BYTES / 2;

#[derive(Debug, Default)]
pub(crate) struct Window {
    /// All that were ever sent.
    sent: u64,
    /// The sizes of those that were not taken yet.
    sizes: VecDeque<usize>,
    bytes: usize,
}

impl Window {
    pub(crate) fn has_room(&self) -> bool {
        self.sizes.len() < ITEMS && self.bytes < BYTES
    }

    /// Counts an item, and returns its number, from 1.
    pub(crate) fn send(&mut self, bytes: usize) -> u64 {
        self.sent += 1;
        self.sizes.push_back(bytes);
        self.bytes += bytes;
        self.sent
    }

    /// So many items were taken in all; never more than were sent.
    pub(crate) fn take(&mut self, taken: u64) {
        while self.sent - (self.sizes.len() as u64) < taken
            && let Some(bytes) = self.sizes.pop_front()
        {
            self.bytes -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_items_are_let_through_and_then_as_many_as_are_taken() {
        let mut window = Window::default();
        for number in 1..=ITEMS as u64 {
            assert!(window.has_room());
            assert_eq!(window.send(1), number);
        }
        assert!(!window.has_room());
        window.take(1);
        assert!(window.has_room());
        window.send(1);
        assert!(!window.has_room());
        window.take(1);
        assert!(!window.has_room(), "it is the sum that counts");
        window.take(u64::MAX);
        assert!(window.has_room() && window.sizes.is_empty() && window.bytes == 0);
    }

    #[test]
    fn one_item_is_let_through_however_large_it_is() {
        let mut window = Window::default();
        window.send(BYTES - 1);
        assert!(window.has_room());
        window.send(100 * BYTES);
        assert!(!window.has_room());
        window.take(1);
        assert!(!window.has_room());
        window.take(2);
        assert!(window.has_room());
    }

    #[test]
    fn one_side_never_waits_for_what_the_other_has_not_told() {
        let mut random = fastrand::Rng::with_seed(3);
        for round in 0..200 {
            let mut window = Window::default();
            let (mut taken, mut told, mut bytes) = (0, 0, 0);
            for _ in 0..500 {
                let mut sizes = Vec::new();
                while window.has_room() {
                    let most = BYTES >> random.u32(0..18);
                    let size = random.usize(0..=most);
                    window.send(size);
                    sizes.push(size);
                }
                for size in sizes {
                    taken += 1;
                    bytes += size;
                    if taken - told >= HALF_ITEMS || bytes >= HALF_BYTES {
                        window.take(taken);
                        (told, bytes) = (taken, 0);
                    }
                }
                assert!(window.has_room(), "round {round}: both wait");
            }
        }
    }
}
