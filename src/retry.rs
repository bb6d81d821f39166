//! Whether, and after which pause, a call whose handler is idempotent is tried again.

use std::time::Duration;

use crate::error::Error;

/// The pause before the second try; it doubles with each one after it.
const FIRST: Duration = Duration::from_millis(20);
/// The longest pause.
const CAP: Duration = Duration::from_secs(1);

/// The tries that a call has left.
#[derive(Debug)]
pub(crate) struct Retry {
    left: u32,
    pause: Duration,
}

impl Retry {
    pub(crate) fn new(more: u32) -> Self {
        Self { left: more, pause: FIRST }
    }

    /// Whether there is none.
    pub(crate) fn is_over(&self) -> bool {
        self.left == 0
    }

    /// The pause before the next try of a call that failed and has `time` left, if there is to be one. `jitter` is in
    /// `0.0..1.0`.
    pub(crate) fn after(&mut self, error: &Error, time: Duration, jitter: f64) -> Option<Duration> {
        if !may_pass(error) {
            return None;
        }
        self.left = self.left.checked_sub(1)?;
        let full = self.pause;
        self.pause = full.saturating_mul(2).min(CAP);
        // Between half and all of it, so that calls that failed together do not come back together.
        let pause = full.mul_f64(0.5 + jitter / 2.0);
        (pause < time).then_some(pause)
    }
}

/// Whether another try may fare better, and harms nobody: not where a handler has answered or taken all the time there
/// was; and not where the pool refuses calls to be spared them.
fn may_pass(error: &Error) -> bool {
    matches!(error, Error::WorkerDied(_) | Error::Restarted { .. } | Error::Start(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn restarted() -> Error {
        Error::Restarted { pool: "demo".to_owned() }
    }

    #[test]
    fn the_tries_are_counted_and_the_pauses_grow() {
        let mut retry = Retry::new(3);
        let pauses: Vec<_> =
            std::iter::from_fn(|| retry.after(&restarted(), LONG, 1.0)).take(9).collect();
        assert_eq!(pauses, [FIRST, FIRST * 2, FIRST * 4]);
        assert_eq!(Retry::new(0).after(&restarted(), LONG, 0.0), None);
    }

    #[test]
    fn the_pauses_are_jittered_and_capped() {
        let mut retry = Retry::new(u32::MAX);
        assert_eq!(retry.after(&restarted(), LONG, 0.0), Some(FIRST / 2));
        for n in 0..100_u32 {
            let pause = retry.after(&restarted(), LONG, f64::from(n % 10) / 10.0).unwrap();
            assert!(pause >= FIRST / 2 && pause <= CAP, "{pause:?}");
        }
    }

    #[test]
    fn there_is_no_pause_beyond_the_deadline() {
        assert_eq!(Retry::new(2).after(&restarted(), FIRST, 1.0), None);
        assert_eq!(Retry::new(2).after(&restarted(), Duration::ZERO, 0.0), None);
        assert!(Retry::new(2).after(&restarted(), FIRST, 0.9).is_some());
    }

    #[test]
    fn what_another_try_does_not_cure_is_not_tried_again() {
        let text = str::to_owned;
        for error in [
            Error::Saturated { limit: 1 },
            Error::Closed { pool: text("demo") },
            Error::CircuitOpen { handler: text("f"), failures: 20, retry_in: FIRST },
            Error::WorkerBusy { worker: text("demo/worker/3") },
            Error::UnknownHandler { name: text("f"), known: vec![] },
            Error::Encode { handler: text("f"), message: text("NaN") },
            Error::Decode { handler: text("f"), message: text("line 1") },
        ] {
            assert_eq!(Retry::new(2).after(&error, LONG, 0.0), None, "{error}");
        }
    }
}
