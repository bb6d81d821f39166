//! What a worker may use. Over a soft limit it is replaced between two calls; over a hard one its call is ended.

use std::time::{Duration, Instant};

use super::{Leave, Live, PortTask};
use crate::actors::worker::WorkerMsg;
use crate::config::WorkerLimits;
use crate::error::Ended;
use crate::request::Why;
use crate::sys::{self, Killed};

/// So often a worker is looked at while a call runs.
const LOOK: Duration = Duration::from_millis(50);

/// The share by which one worker's limit on requests and age is below another's at most, so that they are not all
/// replaced at once.
const JITTER: f64 = 0.1;

/// How far a worker is from its limits.
#[derive(Debug)]
pub(super) struct Meter {
    /// Requests that it may still answer.
    requests: Option<u64>,
    /// When it is too old.
    old_at: Option<Instant>,
    /// When it is looked at next; only while a call runs.
    look_at: Option<Instant>,
    /// The processor time that it had used when the call began.
    cpu: Duration,
    /// Its replacement is under way.
    asked: bool,
}

impl Meter {
    /// Of a worker that is ready now.
    pub(super) fn new(limits: &WorkerLimits) -> Self {
        let jitter = 1.0 - JITTER * fastrand::f64();
        Self {
            requests: limits.requests.map(|count| ((count as f64 * jitter) as u64).max(1)),
            old_at: limits.age.map(|age| Instant::now() + age.mul_f64(jitter)),
            look_at: None,
            cpu: Duration::ZERO,
            asked: false,
        }
    }

    /// No call is running.
    pub(super) fn rest(&mut self) {
        self.look_at = None;
    }

    /// When there is something to look at.
    pub(super) fn due(&self) -> Option<Instant> {
        let old_at = self.old_at.filter(|_| !self.asked);
        [old_at, self.look_at].into_iter().flatten().min()
    }
}

impl PortTask {
    /// A call begins, the only one.
    pub(super) fn meter_begin(&self, live: &mut Live) {
        let limits = &self.shared.config.worker_limits;
        if self.watched_memory(live).is_some() || limits.cpu.is_some() {
            live.meter.look_at = Some(Instant::now() + LOOK);
        }
        if limits.cpu.is_some() {
            live.meter.cpu = sys::usage(self.pid).map_or(live.meter.cpu, |usage| usage.cpu);
        }
    }

    /// A call has ended.
    pub(super) fn meter_end(&self, live: &mut Live) {
        let limits = &self.shared.config.worker_limits;
        let meter = &mut live.meter;
        if meter.asked {
            return;
        }
        let spent = meter.requests.as_mut().is_some_and(|left| {
            *left = left.saturating_sub(1);
            *left == 0
        });
        let fat = limits
            .resident
            .is_some_and(|limit| sys::usage(self.pid).is_ok_and(|usage| usage.resident > limit));
        let leaky = limits
            .open_files
            .is_some_and(|limit| sys::open_files(self.pid).is_ok_and(|count| count > limit));
        if spent || fat || leaky {
            self.ask_to_recycle(live);
        }
    }

    /// The next look, if it is time for one.
    pub(super) fn look(&self, live: &mut Live, now: Instant) -> Option<Leave> {
        let limits = &self.shared.config.worker_limits;
        if live.meter.old_at.is_some_and(|at| at <= now) && !live.meter.asked {
            self.ask_to_recycle(live);
        }
        if live.meter.look_at.is_none_or(|at| now < at) {
            return None;
        }
        live.meter.look_at = Some(now + LOOK);
        // One that is gone has said so.
        let usage = sys::usage(self.pid).ok()?;
        if let Some(limit) = self.watched_memory(live).filter(|limit| usage.resident > *limit) {
            return Some(Leave::Kill(Ended::Memory { resident: usage.resident, limit }));
        }
        let used = usage.cpu.saturating_sub(live.meter.cpu);
        if limits.cpu.is_some_and(|limit| used > limit) {
            // Of several it cannot be said which, but that they are of one batch: a pool whose calls overlap has no such limit.
            for id in live.calls.running_ids() {
                self.cancel(live, id, Why::Cpu(used));
            }
        }
        None
    }

    /// The limit on its memory, where the kernel does not see to that.
    fn watched_memory(&self, live: &Live) -> Option<u64> {
        self.shared.config.worker_limits.memory.filter(|_| live.child.cgroup().is_none())
    }

    /// What it held in bytes, and its limit, if the kernel has killed it for that.
    pub(super) fn over_limit(&self, live: &Live) -> Option<(u64, u64)> {
        match live.child.cgroup()?.killed()? {
            Killed::OverLimit { held } => Some((held, self.shared.config.worker_limits.memory?)),
            Killed::OutOfMemory => {
                tracing::error!(
                    worker = self.name,
                    "killed by the kernel below its `memory_limit`: the machine, or a cgroup above, is out of memory"
                );
                None
            }
        }
    }

    fn ask_to_recycle(&self, live: &mut Live) {
        live.meter.asked = true;
        let _ = self.worker.send_message(WorkerMsg::Recycle { epoch: self.epoch });
    }
}
