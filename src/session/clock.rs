//! The store's time: milliseconds since 1970 that never go back.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Wall-clock time when it was made, and from then on that of the monotonic clock: setting the clock of a running host
/// lets no session expire, and a deadline still means something after a restart.
#[derive(Clone, Debug)]
pub(crate) enum Clock {
    System {
        /// Milliseconds since 1970 at `start`.
        base: u64,
        start: Instant,
    },
    /// For tests: it stands until it is moved.
    #[cfg(test)]
    Manual(std::sync::Arc<std::sync::atomic::AtomicU64>),
}

impl Clock {
    pub(crate) fn system() -> Self {
        let base = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock::System { base: millis(base), start: Instant::now() }
    }

    pub(crate) fn now(&self) -> u64 {
        match self {
            Clock::System { base, start } => base.saturating_add(millis(start.elapsed())),
            #[cfg(test)]
            Clock::Manual(now) => now.load(std::sync::atomic::Ordering::SeqCst),
        }
    }
}

pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn system_time(millis: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis)
}
