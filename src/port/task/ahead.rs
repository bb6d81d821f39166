//! Calls that are written ahead: sent to a worker that is at work, which goes on with them when that has ended.
//!
//! Until then they are queued, and can be taken back: the status page says that one is not to be started, or that it has
//! been. Python passes over what was taken back, and says so when it comes to it.

use std::time::{Duration, Instant};

use super::{Leave, Live, PortTask};
use crate::request::{Request, Why};
use crate::stats::WorkerState;
use crate::sys::StatusPage;
use crate::wire::Frame;

/// What was written ahead behind a call that takes longer is taken back. Calls that are worth it take a hundredth of that.
const PATIENCE: Duration = Duration::from_millis(5);

/// Behind so many, taken back or not, nothing is written ahead: each takes a place on the status page until Python, which may
/// be at one call for long, comes to it.
const CROWD: usize = StatusPage::CALLS / 2;

/// Nor where some were taken back and so many bytes are still to be written: they go to nobody.
const CROWD_BYTES: usize = 1 << 20;

impl PortTask {
    /// Whether what was taken back has to be passed over before anything else is written ahead.
    pub(super) fn is_crowded(live: &Live) -> bool {
        let (withdrawn, all) = live.calls.ahead.counts();
        all >= CROWD || (withdrawn > 0 && live.port.unsent() > CROWD_BYTES)
    }

    /// Another call is on its way to Python, which is at work.
    pub(super) fn push_ahead(&self, live: &mut Live, request: Box<Request>, now: Instant) {
        live.calls.ahead.push(request, now + PATIENCE);
    }

    /// What Python was at has ended: it goes on with what was written ahead.
    pub(super) fn begin_next(&self, live: &mut Live, now: Instant) {
        if live.calls.is_idle()
            && let Some(mut next) = live.calls.ahead.pop(now + PATIENCE)
        {
            self.meter_begin(live);
            next.begin(now);
            live.calls.begin(next);
        }
    }

    /// A call that was written ahead is given up: answered, if it can be taken back; else it has begun, and is returned.
    pub(super) fn give_up_ahead(&self, live: &mut Live, id: u64, why: Why) -> Option<Box<Request>> {
        let Live { calls, port, .. } = &mut *live;
        let now = Instant::now();
        let withdrawn = calls.ahead.withdraw(|ids| ids[0] == id && port.withdraw(ids)).pop();
        let Some(request) = withdrawn else {
            // So have those before it, and their answers are on the way.
            for mut begun in calls.ahead.take_through(id) {
                begun.begin(now);
                calls.begin(begun);
            }
            return calls.take_running(id);
        };
        request.give_up(why, now, String::new(), WorkerState::Busy);
        // Python is at another call, so this is no moment to leave.
        if !live.draining
            && let Some(next) = self.next(id, now)
        {
            self.begin(live, next, now);
        }
        None
    }

    /// Python is at one call for so long that those behind it are better off elsewhere.
    pub(super) fn withdraw_all(&self, live: &mut Live, now: Instant) {
        let Live { calls, port, .. } = live;
        let withdrawn = calls.ahead.withdraw(|ids| port.withdraw(ids));
        calls.ahead.put_off(now + PATIENCE);
        // Each is the next to run: so the first comes last.
        for mut request in withdrawn.into_iter().rev() {
            request.ticket.unassign(WorkerState::Busy);
            request.wish.ahead = 0;
            self.shared.withdraw(request);
        }
    }

    /// The worker starts no more: what was written ahead goes to others.
    pub(super) fn give_back_ahead(&self, live: &mut Live) {
        let all: Vec<_> = live.calls.ahead.take_all().collect();
        // Each is the next to run: so the first comes last.
        all.into_iter().rev().for_each(|request| self.give_back_queued(request));
    }

    /// A call that was written ahead to a worker that is no more, or as good as, goes to another one, however often that
    /// happens: it was queued.
    pub(super) fn give_back_queued(&self, mut request: Box<Request>) {
        request.wish.ahead = 0;
        request.ticket.unassign(WorkerState::Stopping);
        self.shared.resubmit(request);
    }

    /// Likewise, in the last words of a worker.
    pub(super) fn passed_at_last(&self, live: &mut Live, id: u64) {
        if live.calls.ahead.passed(id) {
            return;
        }
        let running = live.calls.take_running(id);
        if let Some(request) = running.or_else(|| live.calls.ahead.take(id)) {
            self.give_back_queued(request);
        }
    }

    /// Python has not started a call, because its time is over or because it was taken back.
    pub(super) fn unstarted(&self, live: &mut Live, frame: &Frame) -> Option<Leave> {
        let id = frame.id;
        let given_up = live.calls.is_cancelling(id);
        if live.calls.ahead.passed(id) {
            // One that has come back since, and was given up, is to be passed over as well.
            if !given_up {
                live.port.passed(id);
            }
            return None;
        }
        if given_up {
            live.port.passed(id);
            return self.cancelled(live, frame);
        }
        let running = live.calls.take_running(id);
        let mut request = running.or_else(|| live.calls.ahead.take(id))?;
        let now = Instant::now();
        request.ticket.unassign(WorkerState::Idle);
        if request.ticket.deadline <= now {
            request.time_out(now, WorkerState::Idle);
            self.begin_next(live, now);
            return self.go_on(live, id, now);
        }
        // It was to be taken back when it had begun, or has come back since. The dispatcher sends what is next, which may be
        // this one: it must not be told once more that this one has ended.
        request.wish.ahead = 0;
        self.shared.withdraw(request);
        self.begin_next(live, now);
        self.leave_if_empty(live)
    }
}
