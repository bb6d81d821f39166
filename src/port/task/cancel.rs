//! The ladder that ends a call before its time: its caller is answered, its Python stack is taken, its handler is asked
//! to end, and after the grace its worker is killed.
//!
//! The worker takes no other call before it has answered this one, and then a ping from the top of its loop: whatever
//! signal was sent has been delivered by then, and cannot meet the next call.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Leave, Live, PortTask};
use crate::board::Held;
use crate::context::CallContext;
use crate::error::Ended;
use crate::request::{Request, Why};
use crate::stats::WorkerState;
use crate::sys::Signal;
use crate::turns::Turn;
use crate::wire::{FLAG_RECYCLE, Frame, FrameBuilder, Kind};

/// A caller waits at most so long for the Python stack,
const STACK: Duration = Duration::from_millis(5);

/// or so long while the signal waits for the worker to run: the machine is busy, and the stack still to come.
const STACK_BUSY: Duration = Duration::from_millis(25);

/// A worker that has seen the signal and not written its stack by then is in C code, and faulthandler writes it. Not at
/// once: while the interpreter runs, reading its frames from a signal handler can crash it (python/cpython#116008).
const DUMP: Duration = Duration::from_millis(4);

/// One that has not run since is looked at again after this time.
const LATER: Duration = Duration::from_millis(5);

/// So often the handler is asked again: it defers the exception within an import, a finalizer or a shield.
const AGAIN: Duration = Duration::from_millis(20);

/// The top of the loop is this near.
const FENCE: Duration = Duration::from_secs(1);

/// Tokens of pings that follow a cancelled call, apart from those of the worker actor.
const FENCE_TOKEN: u64 = 1 << 63;

/// A call that is being ended.
#[derive(Debug)]
pub(super) struct Cancelling {
    held: Held,
    handler: String,
    /// The number of its handler, if that takes it with other calls.
    batch: Option<u32>,
    why: Why,
    /// The next call of its session waits until its handler has ended.
    turn: Option<Arc<Turn>>,
    /// Of what its handler still calls in Rust.
    context: Option<CallContext>,
    /// Its caller still waits, for the Python stack.
    caller: Option<Box<Request>>,
    answer_at: Instant,
    answer_by: Instant,
    dump_at: Option<Instant>,
    again_at: Instant,
    kill_at: Instant,
    /// The handler has ended; the worker has to answer a ping.
    fenced: bool,
}

impl Cancelling {
    pub(super) fn id(&self) -> u64 {
        self.held.id
    }

    pub(super) fn handler(&self) -> &str {
        &self.handler
    }

    /// The number of its handler, if that takes several calls.
    pub(super) fn batch(&self) -> Option<u32> {
        self.batch
    }

    /// Whether its grace is over.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.kill_at <= now
    }

    /// Whether its handler has.
    pub(super) fn has_ended(&self) -> bool {
        self.fenced
    }

    /// None once its handler has ended.
    pub(super) fn context(&self) -> Option<CallContext> {
        self.context.clone()
    }

    /// When there is something to do next.
    pub(super) fn due(&self) -> Instant {
        let answer_at = self.caller.as_ref().map(|_| self.answer_at);
        let again_at = (!self.fenced).then_some(self.again_at);
        [answer_at, self.dump_at, again_at].into_iter().flatten().fold(self.kill_at, Instant::min)
    }

    /// The turn of its session, for whoever sees its handler to its end.
    pub(super) fn take_turn(&mut self) -> Option<Arc<Turn>> {
        self.turn.take()
    }

    /// What is left of the grace.
    pub(super) fn left(&self) -> Duration {
        self.kill_at.saturating_duration_since(Instant::now())
    }

    /// Answers a caller who still waits for the stack.
    pub(super) fn answer(&mut self, stack: String) {
        if let Some(request) = self.caller.take() {
            request.give_up(self.why, Instant::now(), stack, WorkerState::Cancelling);
        }
    }
}

impl PortTask {
    /// Begins to end the call, if it is one of those that are running and whose callers wait.
    pub(super) fn cancel(&self, live: &mut Live, id: u64, why: Why) {
        let mut request = match live.calls.take_running(id) {
            Some(request) => request,
            None => match self.give_up_ahead(live, id, why) {
                Some(request) => request,
                None => return,
            },
        };
        let Some(held) = request.ticket.held() else {
            return;
        };
        live.port.renew_holder();
        live.port.ask_to_cancel(held.id);
        live.early.again();
        if request.side.is_waited_for() || request.wish.batch.is_some() {
            // No signal ends the wait for room in a window, for an input, or for others of a batch.
            live.port.send(FrameBuilder::bare(Kind::Cancel, held.id).into());
        }
        live.child.signal_main_thread(Signal::Urg);
        let now = Instant::now();
        let kill_at = now + self.shared.config.limits.cancel_grace.max(STACK);
        let mut cancelling = Cancelling {
            held,
            handler: request.handler().to_owned(),
            batch: request.wish.batch.map(|batch| batch.handler),
            why,
            context: request.context().map(|context| context.until(kill_at)),
            turn: request.turn.take(),
            caller: Some(request),
            answer_at: now + STACK,
            answer_by: now + STACK_BUSY,
            dump_at: Some(now + DUMP),
            again_at: now + AGAIN,
            kill_at,
            fenced: false,
        };
        if why == Why::Abandoned {
            cancelling.answer(String::new());
        }
        live.calls.all_cancelling().push(cancelling);
    }

    /// The Python stack of a call that is being ended; faulthandler's, which names none, is of those without one.
    pub(super) fn stack(&self, live: &mut Live, id: u64, stack: String) {
        let Some(cancelling) = live.calls.cancelling(id) else {
            return;
        };
        cancelling.dump_at = None;
        if cancelling.caller.is_some() {
            cancelling.answer(stack);
        } else {
            let worker = &*self.name;
            let stack = stack.trim_end();
            tracing::debug!(
                worker,
                request = id,
                "Python was here when its call was given up:\n{stack}"
            );
        }
    }

    /// The next step of each, if it is time for one.
    pub(super) fn climb(&self, live: &mut Live, now: Instant) -> Option<Leave> {
        let Live { calls, port, child, .. } = live;
        let grace = self.shared.config.limits.cancel_grace;
        let (batches, others) = (calls.running_batches(), !calls.is_idle());
        // Of the process, and so looked at and done once, however many are being ended.
        let (mut awaits, mut dumped, mut again) = (None, false, false);
        let mut overdue = None;
        // One that comes after them has begun: they have ended, and their answers are there to be read.
        let is_over = calls.is_any_overdue(now)
            && port.started().is_some_and(|started| calls.ahead.is_any_of(&started));
        for cancelling in calls.all_cancelling() {
            // The handler is at work for other callers, too: it is not interrupted, and has its time.
            if cancelling.batch.is_some_and(|batch| batches.contains(&batch)) {
                cancelling.kill_at = now + grace.max(2 * AGAIN);
            }
            // Its handler has ended, and what still keeps the worker from its ping is another's, which has a time of its own.
            if cancelling.fenced && others {
                cancelling.kill_at = now + FENCE;
            }
            if cancelling.dump_at.take_if(|at| *at <= now).is_some() {
                if *awaits.get_or_insert_with(|| child.awaits(Signal::Urg)) {
                    // It has not run since.
                    cancelling.dump_at = Some(now + LATER);
                } else {
                    // Also if this looks later than it was to.
                    cancelling.answer_at = cancelling.answer_at.max(now + (STACK - DUMP));
                    if !std::mem::replace(&mut dumped, true) {
                        // The first again, before it: what faulthandler's signal interrupts must not go on.
                        child.signal_main_thread(Signal::Urg);
                        child.signal_main_thread(Signal::Winch);
                    }
                }
            }
            if cancelling.answer_at <= now && cancelling.caller.is_some() {
                let may_wait = now < cancelling.answer_by;
                if may_wait && *awaits.get_or_insert_with(|| child.awaits(Signal::Urg)) {
                    cancelling.answer_at = cancelling.answer_by.min(now + LATER);
                } else {
                    cancelling.answer(port.take_dump());
                }
            }
            if is_over && cancelling.is_overdue(now) {
                cancelling.kill_at = now + FENCE;
            }
            if cancelling.is_overdue(now) {
                overdue = Some((cancelling.why.ended(), cancelling.handler.clone()));
                break;
            }
            if cancelling.again_at <= now && !cancelling.fenced {
                cancelling.again_at = now + AGAIN;
                again = true;
            }
        }
        if let Some((ended, handler)) = overdue {
            let beside = calls.collateral(now, port.holder());
            tracing::warn!(
                worker = self.name,
                handler,
                blocked_by = beside.as_ref().and_then(Ended::blocker),
                "its call was given up, did not end within `cancel_grace`, and is killed with its worker"
            );
            return Some(Leave::Kill(ended));
        }
        if again {
            port.renew_holder();
            child.signal_main_thread(Signal::Urg);
        }
        None
    }

    /// The handler of a cancelled call has ended, one way or another; nobody waits for how.
    pub(super) fn cancelled(&self, live: &mut Live, frame: &Frame) -> Option<Leave> {
        let Live { calls, port, desk, .. } = live;
        let cancelling = calls.cancelling(frame.id)?;
        cancelling.dump_at = None;
        cancelling.context = None;
        cancelling.answer(port.take_dump());
        desk.abandon(cancelling.id());
        if frame.flags & FLAG_RECYCLE != 0 {
            let held = cancelling.held;
            calls.all_cancelling().retain(|cancelling| cancelling.held != held);
            self.shared.board.stopping(self.slot, self.epoch);
            self.shared.board.freed(held);
            return self.recycle(live);
        }
        cancelling.fenced = true;
        let now = Instant::now();
        cancelling.kill_at = cancelling.kill_at.max(now + FENCE);
        let token = FENCE_TOKEN | cancelling.id();
        port.send(FrameBuilder::bare(Kind::Ping, token).into());
        self.begin_next(live, now);
        None
    }

    /// The cancelled call after which this PONG says that the worker is free.
    pub(super) fn fenced(&self, live: &mut Live, token: u64) -> Option<u64> {
        let all = live.calls.all_cancelling();
        let at = all.iter().position(|it| it.fenced && token == FENCE_TOKEN | it.id())?;
        let Cancelling { held, .. } = all.swap_remove(at);
        live.port.cancelled(held.id);
        self.shared.board.freed(held);
        Some(held.id)
    }
}
