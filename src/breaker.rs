//! Which handlers are not called for a while, because they keep ending their workers: one circuit per handler.
//!
//! A circuit opens when so many calls in a row have ended their worker or taken all their time. While it is open, the
//! handler is not called. After the cool-down one call is let through: its answer closes the circuit, its failure opens
//! it for another cool-down, and anything else leaves it to the next call.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::stats::OpenCircuit;

/// What the end of a call says of its handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It answered, if only with an exception: its worker lives.
    Answered,
    /// It ended its worker, or took all its time.
    Failed,
    /// Nothing.
    Unknown,
}

/// Why a handler is not called at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// So many of its calls have failed in a row.
    pub(crate) failures: u32,
    pub(crate) retry_in: Duration,
}

/// What an end changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Opened { failures: u32 },
    Closed,
}

#[derive(Debug)]
struct Circuit {
    /// In a row; at least one.
    failures: u32,
    /// When it opened, if it is not closed.
    since: Option<Instant>,
    state: State,
}

#[derive(Debug)]
enum State {
    Closed,
    Open {
        until: Instant,
    },
    /// This call was let through.
    Probing {
        id: u64,
    },
}

/// The circuits themselves, without a clock. A handler that has not failed since its last answer has none, so there are
/// at most as many as handlers.
#[derive(Debug)]
struct Circuits {
    /// 0: none ever opens.
    threshold: u32,
    cool_down: Duration,
    by_handler: HashMap<String, Circuit>,
}

impl Circuits {
    /// Why `handler` is not to be called `now`, if it isn't.
    fn refuses(&self, handler: &str, now: Instant) -> Option<Refusal> {
        let Circuit { failures, state, .. } = self.by_handler.get(handler)?;
        let retry_in = match state {
            State::Closed => return None,
            State::Open { until } => until.checked_duration_since(now).filter(|d| !d.is_zero())?,
            // If it fails too.
            State::Probing { .. } => self.cool_down,
        };
        Some(Refusal { failures: *failures, retry_in })
    }

    /// Those that are open `now`, by the handler's name.
    fn open(&self, now: Instant) -> Vec<OpenCircuit> {
        let open = |(handler, circuit): (&String, &Circuit)| {
            let retry_in = match circuit.state {
                State::Open { until } => until.saturating_duration_since(now),
                State::Closed | State::Probing { .. } => Duration::ZERO,
            };
            Some(OpenCircuit {
                handler: handler.clone(),
                failures: circuit.failures,
                open_for: now.saturating_duration_since(circuit.since?),
                retry_in,
            })
        };
        let mut found: Vec<_> = self.by_handler.iter().filter_map(open).collect();
        found.sort_unstable_by(|one, other| one.handler.cmp(&other.handler));
        found
    }

    /// Call `id` is given to a worker.
    fn begins(&mut self, handler: &str, id: u64, now: Instant) {
        if let Some(Circuit { state, .. }) = self.by_handler.get_mut(handler)
            && matches!(state, State::Open { until } if *until <= now)
        {
            *state = State::Probing { id };
        }
    }

    /// Call `id`, which had begun, has ended.
    fn ends(&mut self, handler: &str, id: u64, verdict: Verdict, now: Instant) -> Option<Change> {
        if verdict == Verdict::Failed
            && self.threshold > 0
            && !self.by_handler.contains_key(handler)
        {
            let circuit = Circuit { failures: 0, since: None, state: State::Closed };
            self.by_handler.insert(handler.to_owned(), circuit);
        }
        let Circuit { failures, since, state } = self.by_handler.get_mut(handler)?;
        let counts = match *state {
            State::Closed => true,
            State::Probing { id: probe } => probe == id,
            // It had begun before the circuit opened.
            State::Open { .. } => false,
        };
        match verdict {
            _ if !counts => None,
            Verdict::Answered => {
                let was_closed = matches!(state, State::Closed);
                self.by_handler.remove(handler);
                (!was_closed).then_some(Change::Closed)
            }
            Verdict::Failed => {
                *failures = failures.saturating_add(1);
                if *failures < self.threshold {
                    return None;
                }
                since.get_or_insert(now);
                *state = State::Open { until: now + self.cool_down };
                Some(Change::Opened { failures: *failures })
            }
            Verdict::Unknown => {
                if matches!(state, State::Probing { .. }) {
                    *state = State::Open { until: now };
                }
                None
            }
        }
    }
}

/// The circuits of a pool. As long as no handler has failed, it costs a call a look at one flag.
#[derive(Debug)]
pub(crate) struct Breaker {
    /// Whether there is any circuit.
    any: AtomicBool,
    circuits: Mutex<Circuits>,
}

impl Breaker {
    pub(crate) fn new(threshold: u32, cool_down: Duration) -> Self {
        let circuits = Circuits { threshold, cool_down, by_handler: HashMap::new() };
        Self { any: AtomicBool::new(false), circuits: Mutex::new(circuits) }
    }

    /// No other lock is taken under this one.
    fn lock(&self) -> MutexGuard<'_, Circuits> {
        self.circuits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A look that comes a moment too early or too late does no harm.
    fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// Why `handler` is not to be called `now`, if it isn't.
    pub(crate) fn refuses(&self, handler: &str, now: Instant) -> Option<Refusal> {
        if self.any() { self.lock().refuses(handler, now) } else { None }
    }

    /// Those that are open, by the handler's name.
    pub(crate) fn open(&self) -> Vec<OpenCircuit> {
        if self.any() { self.lock().open(Instant::now()) } else { Vec::new() }
    }

    /// Call `id` is given to a worker.
    pub(crate) fn begins(&self, handler: &str, id: u64, now: Instant) {
        if self.any() {
            self.lock().begins(handler, id, now);
        }
    }

    /// Call `id`, which had begun, has ended.
    pub(crate) fn ends(
        &self,
        handler: &str,
        id: u64,
        verdict: Verdict,
        now: Instant,
    ) -> Option<Change> {
        if verdict != Verdict::Failed && !self.any() {
            return None;
        }
        let mut circuits = self.lock();
        let change = circuits.ends(handler, id, verdict, now);
        self.any.store(!circuits.by_handler.is_empty(), Ordering::Relaxed);
        change
    }
}

#[cfg(test)]
mod tests;
