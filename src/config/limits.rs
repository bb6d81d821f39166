//! The numbers among the options.

use std::time::Duration;

use super::EVER;

/// The numbers among the options.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) queue: usize,
    /// Calls that a worker runs at once.
    pub(crate) concurrency: usize,
    /// Short calls that are written ahead to a worker.
    pub(crate) prefetch: u8,
    pub(crate) call_timeout: Duration,
    pub(crate) retries: u32,
    pub(crate) circuit_threshold: u32,
    pub(crate) circuit_cool_down: Duration,
    pub(crate) startup_timeout: Duration,
    pub(crate) shutdown_grace: Duration,
    pub(crate) health_interval: Duration,
    pub(crate) health_timeout: Duration,
    pub(crate) max_frame: usize,
    pub(crate) shared_memory: Option<usize>,
    pub(crate) cancel_grace: Duration,
    /// How long a port looks for the answer before it waits for it.
    pub(crate) spin: Duration,
    /// Between two switches of Python's threads; that of CPython for none.
    pub(crate) switch_interval: Option<Duration>,
}

impl Limits {
    /// Durations that can be added to any moment.
    pub(super) fn clamped(self) -> Self {
        Self {
            call_timeout: self.call_timeout.min(EVER),
            circuit_cool_down: self.circuit_cool_down.min(EVER),
            startup_timeout: self.startup_timeout.min(EVER),
            shutdown_grace: self.shutdown_grace.min(EVER),
            health_interval: self.health_interval.min(EVER),
            health_timeout: self.health_timeout.min(EVER),
            cancel_grace: self.cancel_grace.min(EVER),
            ..self
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue: 1024,
            concurrency: 1,
            prefetch: 0,
            call_timeout: Duration::from_secs(60),
            retries: 2,
            circuit_threshold: 20,
            circuit_cool_down: Duration::from_secs(5),
            startup_timeout: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(30),
            health_interval: Duration::from_secs(30),
            health_timeout: Duration::from_secs(5),
            max_frame: 256 << 20,
            shared_memory: Some(256 << 10),
            cancel_grace: Duration::from_secs(1),
            spin: Duration::ZERO,
            switch_interval: None,
        }
    }
}
