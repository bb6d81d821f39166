//! What the board tells.

use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::{Board, Link, Slot, SlotView};
use crate::config::Config;
use crate::error::{Ended, StartError};
use crate::port::Command;
use crate::stats::{Quantiles, Stats, WorkerInfo, WorkerState};

impl Board {
    pub(crate) fn slots(&self) -> Vec<SlotView> {
        let view = |slot: &Slot| SlotView {
            epoch: slot.epoch,
            link: slot.link.clone(),
            running: slot.running.iter().map(|held| held.kept).collect(),
            broken: slot.broken.clone(),
        };
        self.lock().slots.iter().map(view).collect()
    }

    /// Why no worker can be started at this slot, or at all, if that is so.
    pub(crate) fn why_broken(&self, slot: Option<usize>) -> Option<Arc<StartError>> {
        let inner = self.lock();
        if let Some(slot) = slot {
            return inner.slots[slot].broken.clone();
        }
        if inner.in_use().iter().all(|slot| slot.broken.is_some()) {
            inner.in_use().iter().find_map(|slot| slot.broken.clone())
        } else {
            None
        }
    }

    /// Calls that a worker runs at once.
    pub(crate) fn concurrency(&self) -> usize {
        self.lock().concurrency
    }

    /// Waits until every call that was admitted has ended.
    pub(crate) async fn drained(&self) {
        loop {
            // Before the look, so that an end between the two is not missed.
            let ended = self.last_ended.notified();
            if self.lock().is_drained() {
                return;
            }
            ended.await;
        }
    }

    /// The process of an incarnation, while it lives.
    pub(crate) fn pid(&self, slot: usize, epoch: u64) -> Option<i32> {
        let inner = self.lock();
        inner.slots[slot].pid.filter(|_| inner.slots[slot].epoch == epoch)
    }

    /// Ends the workers that hold a call: the pool is being shut down.
    pub(crate) fn kill_busy(&self) {
        for slot in &self.lock().slots {
            let busy = slot.link.as_ref().filter(|_| !slot.running.is_empty());
            for link in slot.draining.iter().map(|(_, link)| link).chain(busy) {
                // A worker that is gone has nothing to give up.
                let _ = link.send(Command::Kill(Ended::Shutdown));
            }
        }
    }

    /// The ways to the workers that may hold call `id`, where the dispatcher does not know it: those that finish their calls
    /// know themselves what they hold.
    pub(crate) fn links_of(&self, id: u64) -> Vec<Link> {
        let inner = self.lock();
        let holds = |slot: &&Slot| slot.running.iter().any(|running| running.kept.id == id);
        if let Some(link) = inner.slots.iter().find(holds).and_then(|slot| slot.link.clone()) {
            return vec![link];
        }
        let draining = inner.slots.iter().flat_map(|slot| &slot.draining);
        draining.map(|(_, link)| link.clone()).collect()
    }

    /// Without what the breaker knows.
    pub(crate) fn stats(&self) -> Stats {
        let inner = self.lock();
        let ready = |slot: &&Slot| matches!(slot.state, WorkerState::Idle | WorkerState::Busy);
        let stats = Stats {
            size: inner.size,
            ready: inner.slots[..inner.size].iter().filter(ready).count(),
            busy: inner.busy,
            queued: inner.queued,
            submitted: inner.submitted,
            completed: inner.completed,
            failed: inner.failed,
            rejected: inner.rejected,
            restarts: inner.restarts,
            queue_time: Quantiles::default(),
            service_time: Quantiles::default(),
            circuits: Vec::new(),
        };
        // Searching them takes longer than copying them; calls wait for neither.
        let (queue_time, service_time) = (inner.queue_time.clone(), inner.service_time.clone());
        drop(inner);
        Stats {
            queue_time: quantiles(&queue_time),
            service_time: quantiles(&service_time),
            ..stats
        }
    }

    pub(crate) fn workers(&self, config: &Config) -> Vec<WorkerInfo> {
        let inner = self.lock();
        let info = |(number, slot): (usize, &Slot)| WorkerInfo {
            slot: number,
            name: config.worker_name(number),
            pid: slot.pid,
            state: slot.state,
            epoch: slot.epoch,
            served: slot.served,
            age: slot.ready.map_or(Duration::ZERO, |ready| ready.elapsed()),
            last_error: slot.last_error.clone(),
        };
        inner.slots[..inner.size].iter().enumerate().map(info).collect()
    }
}

fn quantiles(histogram: &Histogram<u64>) -> Quantiles {
    let at = |quantile| Duration::from_micros(histogram.value_at_quantile(quantile));
    Quantiles {
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        max: Duration::from_micros(histogram.max()),
    }
}
