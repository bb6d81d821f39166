//! When a child that ended is started again.

use std::time::Duration;

/// The first delay, once a child has used up its immediate restarts.
const FIRST: Duration = Duration::from_millis(100);
/// The longest delay.
const CAP: Duration = Duration::from_secs(30);
/// So many deaths in a series are followed by an immediate restart.
const BURST: u32 = 20;
/// A child that lived this long ends the series.
const STABLE: Duration = Duration::from_secs(10);

/// How the child had ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It never became ready.
    Start,
    /// It died by itself or by its work, so long after it had become ready.
    Death { uptime: Duration },
}

/// The restarts of one child: at once, then after delays that double up to 30 s, with jitter, while it keeps
/// failing. A child that never became ready gets one immediate second try; one that had been ready gets a
/// burst of them, so that a handler that kills its worker now and then costs the pool nothing.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    /// Failed starts since it was ready last.
    starts: u32,
    /// Deaths since it was stable last.
    deaths: u32,
}

impl Backoff {
    /// The delay before the next start. `jitter` is in `0.0..1.0`.
    pub(crate) fn next(&mut self, failure: Failure, jitter: f64) -> Duration {
        let (series, immediate) = match failure {
            Failure::Start => {
                self.starts = self.starts.saturating_add(1);
                (self.starts, 1)
            }
            Failure::Death { uptime } => {
                self.starts = 0;
                let before = if uptime >= STABLE { 0 } else { self.deaths };
                self.deaths = before.saturating_add(1);
                (self.deaths, BURST)
            }
        };
        let Some(doublings) = series.checked_sub(immediate + 1) else {
            return Duration::ZERO;
        };
        let full = FIRST.saturating_mul(1 << doublings.min(16)).min(CAP);
        // Between half and all of it, so that slots that failed together do not come back together.
        full.mul_f64(0.5 + jitter / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEATH: Failure = Failure::Death { uptime: Duration::from_millis(1) };

    #[test]
    fn a_child_that_never_starts_is_retried_at_once_and_then_ever_more_rarely() {
        let mut backoff = Backoff::default();
        let delays: Vec<_> = (0..14).map(|_| backoff.next(Failure::Start, 1.0)).collect();
        assert_eq!(delays[0], Duration::ZERO);
        assert_eq!(delays[1], FIRST);
        assert_eq!(delays[2], FIRST * 2);
        assert_eq!(delays[13], CAP);
    }

    #[test]
    fn deaths_after_a_stable_life_are_no_series() {
        let mut backoff = Backoff::default();
        for _ in 0..200 {
            let delay = backoff.next(Failure::Death { uptime: STABLE }, 0.5);
            assert_eq!(delay, Duration::ZERO);
        }
    }

    #[test]
    fn a_burst_of_deaths_is_free_and_a_flapping_slot_slows_down() {
        let mut backoff = Backoff::default();
        for _ in 0..BURST {
            assert_eq!(backoff.next(DEATH, 0.5), Duration::ZERO);
        }
        let first = backoff.next(DEATH, 0.0);
        assert_eq!(first, FIRST / 2);
        assert!(backoff.next(DEATH, 0.0) > first);
    }

    #[test]
    fn one_that_is_killed_while_it_starts_is_not_judged_by_its_deaths() {
        let mut backoff = Backoff::default();
        for _ in 0..BURST {
            backoff.next(DEATH, 0.5);
        }
        assert_eq!(backoff.next(Failure::Start, 0.5), Duration::ZERO);
        assert_eq!(backoff.next(Failure::Start, 1.0), FIRST);
    }

    #[test]
    fn jitter_never_exceeds_the_cap() {
        let mut backoff = Backoff::default();
        for n in 0..2_000_u32 {
            assert!(backoff.next(DEATH, f64::from(n % 10) / 10.0) <= CAP);
        }
    }
}
