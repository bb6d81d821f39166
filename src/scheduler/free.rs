//! The workers that have a free seat.

/// Slots by how many of their seats are taken: a bit for each, and one for each number of which there is a slot. With up to
/// 64 seats and 64 slots the first is found in two looks; another 64 of either are one look more.
#[derive(Debug, Default)]
pub(super) struct Free {
    levels: Vec<Level>,
    /// The levels that have any.
    any: Bits,
}

#[derive(Debug, Default)]
struct Level {
    slots: Bits,
    count: usize,
}

#[derive(Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn first(&self) -> Option<usize> {
        let (at, word) = self.0.iter().enumerate().find(|&(_, &word)| word != 0)?;
        Some(64 * at + word.trailing_zeros() as usize)
    }

    fn set(&mut self, number: usize, on: bool) {
        let (at, bit) = (number / 64, 1 << (number % 64));
        if at >= self.0.len() {
            self.0.resize(at + 1, 0);
        }
        if on {
            self.0[at] |= bit;
        } else {
            self.0[at] &= !bit;
        }
    }
}

impl Free {
    /// The slot with the fewest seats taken, the lowest of several.
    pub(super) fn first(&self) -> Option<usize> {
        self.levels[self.any.first()?].slots.first()
    }

    /// So many seats of the slot are taken now, or it is not free; `at` is where it stands, which is kept with the slot.
    pub(super) fn set(&mut self, slot: usize, at: &mut Option<usize>, to: Option<usize>) {
        if *at == to {
            return;
        }
        if let Some(taken) = std::mem::replace(at, to) {
            self.put(slot, taken, false);
        }
        if let Some(taken) = to {
            self.put(slot, taken, true);
        }
    }

    fn put(&mut self, slot: usize, taken: usize, on: bool) {
        if taken >= self.levels.len() {
            self.levels.resize_with(taken + 1, Level::default);
        }
        let level = &mut self.levels[taken];
        level.slots.set(slot, on);
        if on {
            level.count += 1;
        } else {
            level.count -= 1;
        }
        let any = level.count > 0;
        self.any.set(taken, any);
    }

    /// How many seats of the slot are taken, if it is here.
    #[cfg(test)]
    pub(super) fn of(&self, slot: usize) -> Option<usize> {
        let has = |level: &Level| {
            level.slots.0.get(slot / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
        };
        let at = self.levels.iter().position(has)?;
        assert!(!self.levels[at + 1..].iter().any(has), "slot {slot} is there twice");
        Some(at)
    }
}
