//! Whose turn it is where calls of several priorities wait.

/// Which of the calls that wait goes first. Default: [`Priority::Normal`].
///
/// A worker that becomes free takes the oldest call of the highest priority that it may run; calls of one priority are
/// taken in order of arrival. No priority starves: once a worker has passed one over eight times, since it took a call
/// of it last, the oldest call of that priority is the next, the lowest priority first where two are due. So a worker
/// passes a priority over nine times at most, and each priority that waits gets a tenth of the calls at least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// After all others: work that can wait.
    Low,
    /// Where a call says nothing.
    #[default]
    Normal,
    /// Before all others.
    High,
}

impl Priority {
    pub(super) const COUNT: usize = 3;

    /// The highest has the first.
    pub(super) fn rank(self) -> usize {
        match self {
            Priority::High => 0,
            Priority::Normal => 1,
            Priority::Low => 2,
        }
    }
}

/// A priority that has been passed over so often is due.
const PATIENCE: u8 = 8;

/// How often a worker has passed each priority over since it took a request of it last, by rank.
#[derive(Debug, Default)]
pub(super) struct Turns([u8; Priority::COUNT]);

impl Turns {
    /// The rank that is next, of those that wait.
    pub(super) fn next(&self, waiting: [bool; Priority::COUNT]) -> Option<usize> {
        let due = |&rank: &usize| waiting[rank] && self.0[rank] >= PATIENCE;
        let mut ranks = 0..Priority::COUNT;
        ranks.clone().rev().find(due).or_else(|| ranks.find(|&rank| waiting[rank]))
    }

    /// One of those that wait is taken; the others are passed over.
    pub(super) fn pass(&mut self, waiting: [bool; Priority::COUNT]) {
        for (passed, _) in self.0.iter_mut().zip(waiting).filter(|&(_, waits)| waits) {
            *passed = passed.saturating_add(1);
        }
    }

    /// The worker took a request of this rank.
    pub(super) fn took(&mut self, rank: usize) {
        self.0[rank] = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rank that is taken while these wait.
    fn take(turns: &mut Turns, waiting: [bool; 3]) -> Option<usize> {
        let next = turns.next(waiting)?;
        turns.pass(waiting);
        turns.took(next);
        Some(next)
    }

    /// The ranks that are taken, one after another, while these wait.
    fn taken(turns: &mut Turns, waiting: [bool; 3], times: usize) -> Vec<usize> {
        (0..times).map(|_| take(turns, waiting).unwrap()).collect()
    }

    #[test]
    fn the_highest_that_waits_goes_first() {
        let mut turns = Turns::default();
        assert_eq!(take(&mut turns, [false; 3]), None);
        assert_eq!(take(&mut turns, [false, false, true]), Some(2));
        assert_eq!(take(&mut turns, [false, true, true]), Some(1));
        assert_eq!(take(&mut turns, [true; 3]), Some(0));
    }

    #[test]
    fn one_that_waits_is_passed_over_eight_times() {
        let mut turns = Turns::default();
        let ranks = taken(&mut turns, [true, false, true], 27);
        let low: Vec<_> = (0..27).filter(|&n| ranks[n] == 2).collect();
        assert_eq!(low, [8, 17, 26]);
    }

    #[test]
    fn none_is_passed_over_more_than_nine_times_whatever_waits() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut turns = Turns::default();
            let mut passed = [0; 3];
            for _ in 0..1_000 {
                // The first is almost always there; what has begun to wait stays.
                let waiting = std::array::from_fn(|rank| {
                    passed[rank] > 0 || random.u8(..10) < [9, 5, 5][rank]
                });
                let Some(next) = take(&mut turns, waiting) else { continue };
                assert!(waiting[next]);
                for rank in (0..3).filter(|&rank| waiting[rank]) {
                    passed[rank] += 1;
                }
                passed[next] = 0;
                assert!(passed.iter().all(|&times| times <= 9), "{passed:?}");
            }
        }
    }

    #[test]
    fn all_three_share_a_worker() {
        let mut turns = Turns::default();
        let ranks = taken(&mut turns, [true; 3], 1_000);
        for rank in 1..3 {
            let share = ranks.iter().filter(|&&next| next == rank).count();
            assert!((100..=112).contains(&share), "rank {rank} got {share}");
        }
    }
}
