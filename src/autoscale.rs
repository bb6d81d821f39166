//! When a pool grows and shrinks by itself ([`Scaler`]: a plain struct without a clock), and the task that does it.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::dispatcher::Dispatcher;
use crate::error::Error;
use crate::resize;
use crate::shared::Shared;

/// After a worker did not start, none is added for so long.
const RETRY: Duration = Duration::from_secs(5);

/// What the builder says.
#[derive(Clone, Debug)]
pub(crate) struct Autoscale {
    pub(crate) range: RangeInclusive<usize>,
    /// A call that waits longer than this makes the pool grow.
    pub(crate) wait: Duration,
    /// A worker that is not needed for so long makes it shrink.
    pub(crate) idle: Duration,
}

/// What the pool has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) size: usize,
    /// Workers that hold a call, if only one that was given up and has not ended yet.
    pub(crate) busy: usize,
    /// Calls that wait.
    pub(crate) queued: usize,
    /// The most calls that waited and ran at once, since the last look.
    pub(crate) peak: usize,
    /// How long the oldest call has waited that any worker may run.
    pub(crate) waited: Option<Duration>,
    /// The last slot's worker holds a call, so that it cannot leave at once.
    pub(crate) last_busy: bool,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Change the size to this.
    Resize(usize),
    /// Look again after this time.
    Look(Duration),
    /// Look again after this time, if there is one, or soon after a call has to wait.
    Rest(Option<Duration>),
}

#[derive(Debug)]
pub(crate) struct Scaler {
    plan: Autoscale,
    /// Since then there has always been a worker to spare.
    spare_since: Instant,
    /// Not to grow before.
    grow_from: Instant,
}

impl Scaler {
    pub(crate) fn new(plan: Autoscale, now: Instant) -> Self {
        Self { plan, spare_since: now, grow_from: now }
    }

    pub(crate) fn decide(&mut self, load: &Load, now: Instant) -> Step {
        let (min, max) = (*self.plan.range.start(), *self.plan.range.end());
        if load.peak >= load.size {
            self.spare_since = now;
        }
        if let Some(waited) = load.waited.filter(|_| load.size < max) {
            let left = self.plan.wait.saturating_sub(waited);
            let left = left.max(self.grow_from.saturating_duration_since(now));
            // Workers that are being replaced will take it.
            return match (left.is_zero(), load.busy >= load.size) {
                (true, true) => Step::Resize(load.size + self.more(load).min(max - load.size)),
                (true, false) => Step::Look(self.plan.wait),
                (false, _) => Step::Look(left),
            };
        }
        if load.size <= min {
            // At the maximum, too, there is nothing to be done about calls that wait.
            return if load.size < max { Step::Rest(None) } else { Step::Look(self.plan.idle) };
        }
        let left = self.plan.idle.saturating_sub(now.saturating_duration_since(self.spare_since));
        match (left.is_zero(), load.last_busy) {
            (true, false) => Step::Resize(load.size - 1),
            (true, true) => Step::Look(self.plan.idle),
            (false, _) if load.size < max => Step::Rest(Some(left)),
            (false, _) => Step::Look(left),
        }
    }

    /// Half as many again, so that any size is reached in few steps; but not more than there are calls that wait.
    fn more(&self, load: &Load) -> usize {
        (load.size / 2).min(load.queued).max(1)
    }

    /// The size was changed, or somebody else did so.
    pub(crate) fn resized(&mut self, now: Instant) {
        self.spare_since = now;
        self.grow_from = now + self.plan.wait;
    }

    /// The size could not be changed.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.spare_since = now;
        self.grow_from = now + RETRY.max(self.plan.wait);
    }
}

/// Keeps the pool's size. Sleeps without a timer while the pool has its least size and no call waits.
pub(crate) async fn run(shared: Arc<Shared>, plan: Autoscale) {
    let pool = &shared.config.name;
    let mut scaler = Scaler::new(plan.clone(), Instant::now());
    loop {
        let load = look(&shared);
        match scaler.decide(&load, Instant::now()) {
            Step::Resize(size) => {
                // In a task of its own: this one ends with the pool's actor.
                let resize = resize::scale(Arc::clone(&shared), load.size, size);
                match tokio::spawn(resize).await {
                    Ok(Ok(())) => {
                        tracing::info!(pool, from = load.size, to = size, "resized");
                        scaler.resized(Instant::now());
                    }
                    Ok(Err(Error::Closed { .. })) | Err(_) => return,
                    Ok(Err(error)) => {
                        tracing::error!(pool, from = load.size, to = size, %error, "cannot resize");
                        scaler.failed(Instant::now());
                    }
                }
            }
            Step::Look(after) => tokio::time::sleep(after).await,
            Step::Rest(after) => {
                let waits = shared.board.call_waits();
                let waits = match after {
                    Some(after) => tokio::time::timeout(after, waits).await.is_ok(),
                    None => {
                        waits.await;
                        true
                    }
                };
                if waits {
                    // However many have to wait for a moment, this task is woken once.
                    tokio::time::sleep(plan.wait).await;
                }
            }
        }
    }
}

fn look(shared: &Shared) -> Load {
    let waited = shared.dispatcher(Dispatcher::longest_wait).flatten();
    shared.board.load(waited)
}

#[cfg(test)]
mod tests;
