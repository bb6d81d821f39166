//! From one call to the next: a call is sent to Python, has its answer, and another follows.

use std::time::Instant;

use super::{Leave, Live, PortTask, TERM_GRACE};
use crate::actors::worker::WorkerMsg;
use crate::error::Ended;
use crate::port::answer::answer;
use crate::port::task::Successor;
use crate::request::Request;
use crate::stats::WorkerState;
use crate::wire::{FLAG_RECYCLE, Frame};

impl PortTask {
    /// Writes a request; one that nobody waits for any more is passed over for the next.
    pub(super) fn begin(&self, live: &mut Live, request: Box<Request>, now: Instant) {
        let mut next = Some(request);
        while let Some(mut request) = next.take() {
            let id = request.ticket.id;
            if live.draining {
                self.give_back(request);
            } else if request.ticket.is_abandoned() {
                request.ticket.abandon(WorkerState::Idle);
                next = self.next(id, now);
            } else if request.ticket.deadline <= now {
                request.ticket.unassign(WorkerState::Idle);
                request.time_out(now, WorkerState::Idle);
                next = self.next(id, now);
            } else {
                if request.ticket.is_ahead() && !live.calls.is_idle() {
                    if Self::is_crowded(live) {
                        request.ticket.unassign(WorkerState::Busy);
                        request.wish.ahead = 0;
                        self.shared.withdraw(request);
                        return;
                    }
                    live.port.push(request.frame());
                    self.push_ahead(live, request, now);
                    return;
                }
                live.port.send(request.frame());
                if live.calls.is_empty() {
                    self.meter_begin(live);
                }
                request.begin(now);
                live.calls.begin(request);
                return;
            }
        }
    }

    /// Request `id` has ended, and the board knows; what is there to run next? Without a dispatcher, nothing: the next
    /// one reads on the board that this worker is idle.
    pub(super) fn next(&self, id: u64, now: Instant) -> Option<Box<Request>> {
        let Self { slot, epoch, .. } = *self;
        self.shared.dispatcher(|dispatcher| dispatcher.next(slot, epoch, id, now))?
    }

    /// A call has its answer. It is counted, then Python gets its next call, then the caller its answer: whoever has an
    /// answer finds it counted.
    pub(super) fn finish(
        &self,
        live: &mut Live,
        request: Box<Request>,
        frame: &Frame,
    ) -> Option<Leave> {
        let id = request.ticket.id;
        let answer = match answer(&request, frame.kind, frame) {
            Ok(answer) => answer,
            Err(error) => {
                live.calls.begin(request);
                return Some(Leave::Kill(Ended::Protocol(error.to_string())));
            }
        };
        live.desk.abandon(id);
        if frame.flags & FLAG_RECYCLE != 0 {
            self.shared.board.stopping(self.slot, self.epoch);
            request.ticket.answer(answer, WorkerState::Stopping);
            return self.recycle(live);
        }
        let now = Instant::now();
        let settled = request.ticket.settle(answer, WorkerState::Idle, now);
        if !live.calls.ahead.is_empty() {
            self.begin_next(live, now);
        }
        let leave = self.proceed(live, id, now);
        settled.send();
        leave
    }

    /// It is not to serve again: it leaves as soon as no call is running.
    pub(super) fn recycle(&self, live: &mut Live) -> Option<Leave> {
        // Python starts none of them after such an answer.
        self.give_back_ahead(live);
        if live.calls.is_empty() {
            return Some(Leave::Recycle);
        }
        if !live.draining {
            self.drain(live, WorkerMsg::Leaving { epoch: self.epoch });
        }
        None
    }

    /// Call `id` has ended, and the board knows: what next?
    pub(super) fn proceed(&self, live: &mut Live, id: u64, now: Instant) -> Option<Leave> {
        self.meter_end(live);
        self.go_on(live, id, now)
    }

    pub(super) fn go_on(&self, live: &mut Live, id: u64, now: Instant) -> Option<Leave> {
        let leave = self.leave_if_empty(live);
        if leave.is_none()
            && !live.draining
            && let Some(next) = self.next(id, now)
        {
            self.begin(live, next, now);
        }
        leave
    }

    /// A call has ended: was it the last that this port waited for?
    pub(super) fn leave_if_empty(&self, live: &mut Live) -> Option<Leave> {
        if !live.calls.is_empty() {
            return None;
        }
        live.meter.rest();
        if live.retiring {
            return Some(Leave::Exit { grace: TERM_GRACE });
        }
        if live.draining {
            return Some(Leave::Recycle);
        }
        let successor = live.successor.take().filter(Successor::is_there)?;
        Some(Leave::Replaced(successor))
    }
}
