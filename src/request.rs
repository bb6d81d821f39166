//! A call on its way: the frame to send, and the ticket that counts and answers it exactly once.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::board::{Held, Outcome};
use crate::breaker::{Change, Refusal, Verdict};
use crate::codec::Payload;
use crate::context::{CallContext, Nested};
use crate::error::{Ended, Error, Exit, Stage, WorkerDeath};
use crate::exchange::PortSide;
use crate::scheduler::Wish;
use crate::shared::Shared;
use crate::stats::WorkerState;
use crate::turns::Turn;
use crate::wire::Message;

/// What a caller gets: the result, still encoded, or why there is none.
pub(crate) type Answer = Result<Payload, Error>;

/// How often a request that certainly did not start is given to another worker, before its caller hears of it.
const REASSIGNMENTS: u8 = 2;

/// Why a call is given up before it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Its time ran out.
    Expired,
    /// Its caller went away.
    Abandoned,
    /// Its caller asked for it.
    Asked,
    /// It has used so much processor time.
    Cpu(Duration),
    /// Its next item did not come within this time.
    Stalled(Duration),
}

impl Why {
    /// Why its worker is ended, if it comes to that.
    pub(crate) fn ended(self) -> Ended {
        match self {
            Why::Expired | Why::Stalled(_) => Ended::TimedOut,
            Why::Abandoned => Ended::Abandoned,
            Why::Asked => Ended::Cancelled,
            Why::Cpu(_) => Ended::CpuTime,
        }
    }
}

/// An admitted call.
#[derive(Debug)]
pub(crate) struct Request {
    /// When and where it is to run.
    pub(crate) wish: Wish,
    pub(crate) ticket: Ticket,
    /// Kept until its handler has ended.
    pub(crate) turn: Option<Arc<Turn>>,
    /// What goes to and fro beside it.
    pub(crate) side: PortSide,
    /// The calls that wait for this one.
    pub(crate) outer: Option<Arc<Nested>>,
    reassigned: u8,
}

impl Request {
    /// Boxed once: on its way it moves through half a dozen messages and tables.
    pub(crate) fn new(frame: Message, wish: Wish, mut ticket: Ticket) -> Box<Self> {
        ticket.frame = frame;
        let side = PortSide::default();
        Box::new(Self { wish, ticket, turn: None, side, outer: None, reassigned: 0 })
    }

    /// The encoded CALL frame.
    pub(crate) fn frame(&self) -> Message {
        self.ticket.frame.clone()
    }

    pub(crate) fn handler(&self) -> &str {
        &self.ticket.handler
    }

    /// The call is given to a worker: to be run now or, if it is written ahead, after what that has.
    pub(crate) fn assign(&mut self, slot: usize, epoch: u64, ahead: bool, now: Instant) {
        let Self { ticket, wish, .. } = self;
        let held = Held { slot, epoch, id: ticket.id };
        if ahead {
            ticket.shared.board.write_ahead(held, ticket.deadline, wish);
            ticket.place = Place::Ahead(held);
        } else {
            ticket.assign(held, wish, now);
        }
        ticket.shared.breaker.begins(&ticket.handler, ticket.id, now);
    }

    /// What was written ahead begins.
    pub(crate) fn begin(&mut self, now: Instant) {
        if let Place::Ahead(held) = self.ticket.place {
            self.ticket.assign(held, &self.wish, now);
        }
        self.side.begin(now);
    }

    /// When its time runs out, or that of its next item.
    pub(crate) fn due(&self) -> Instant {
        let item = self.side.item_due().map(|(at, _)| at);
        item.map_or(self.ticket.deadline, |at| at.min(self.ticket.deadline))
    }

    /// Whether, and how, its time has run out by `now`.
    pub(crate) fn expired(&self, now: Instant) -> Option<Why> {
        if self.ticket.deadline <= now {
            return Some(Why::Expired);
        }
        let (at, timeout) = self.side.item_due()?;
        (at <= now).then_some(Why::Stalled(timeout))
    }

    /// Whether the request may be given to another worker: its caller still waits, and it has not been passed
    /// on too often, as one that kills every worker before it starts would be.
    pub(crate) fn may_be_reassigned(&mut self) -> bool {
        self.reassigned += 1;
        self.reassigned <= REASSIGNMENTS && !self.ticket.is_abandoned()
    }

    /// Ends the call because the pool is shut down.
    pub(crate) fn close(self) {
        let pool = self.ticket.shared.config.name.clone();
        self.ticket.answer(Err(Error::Closed { pool }), WorkerState::Down);
    }

    /// Ends the call if its handler is not to be called `now`; gives it back if it is.
    pub(crate) fn unless_circuit_open(self: Box<Self>, now: Instant) -> Option<Box<Self>> {
        let handler = self.handler();
        let Some(refusal) = self.ticket.shared.breaker.refuses(handler, now) else {
            return Some(self);
        };
        let Refusal { failures, retry_in } = refusal;
        let error = Error::CircuitOpen { handler: handler.to_owned(), failures, retry_in };
        self.ticket.answer(Err(error), WorkerState::Down);
        None
    }

    /// The context of what its handler calls in Rust, while a worker has it.
    pub(crate) fn context(&self) -> Option<CallContext> {
        let shared = &self.ticket.shared;
        let nested = Nested {
            pool: Arc::downgrade(shared),
            held: self.ticket.held()?,
            alone: self.wish.alone,
            handler: self.handler().to_owned(),
            turn: self.turn.as_ref().map_or_else(Weak::new, Arc::downgrade),
            deadline: self.ticket.deadline,
            outer: self.outer.clone(),
        };
        Some(CallContext::new(shared, Some(nested)))
    }

    /// Why the call can never be run, if the calls that wait for it hold what it needs.
    pub(crate) fn would_deadlock(&self) -> Option<Error> {
        let outer = self.outer.as_ref()?;
        outer.blocks(&self.ticket.shared, self.wish.place, self.handler())
    }

    /// Ends the call because the worker of its slot is not free, and it does not wait.
    pub(crate) fn refuse(self, slot: usize) {
        let worker = self.ticket.shared.config.worker_name(slot);
        self.ticket.answer(Err(Error::WorkerBusy { worker }), WorkerState::Down);
    }

    /// Ends the call because its slot is not in use any more, as only `slots` are.
    pub(crate) fn no_such_worker(self, slot: usize, slots: usize) {
        let name = self.ticket.shared.config.worker_name(slot);
        let error = Error::NoSuchWorker { name, workers: Some(slots) };
        self.ticket.answer(Err(error), WorkerState::Down);
    }

    /// Ends a call that Python has not seen, for want of time.
    pub(crate) fn time_out(self, now: Instant, after: WorkerState) {
        self.give_up(Why::Expired, now, String::new(), after);
    }

    /// Ends the call, wherever it is; `python_stack` is where Python was.
    pub(crate) fn give_up(
        mut self,
        why: Why,
        now: Instant,
        python_stack: String,
        after: WorkerState,
    ) {
        self.ticket.blameless = self.side.is_held_up();
        let Ticket { ref place, submitted, timeout, .. } = self.ticket;
        let handler = self.handler().to_owned();
        let stage = match place {
            Place::Queue | Place::Ahead(_) => Stage::Queue,
            Place::Worker { .. } => Stage::Run,
        };
        let elapsed = now.saturating_duration_since(submitted);
        let error = match why {
            Why::Expired => Error::Timeout { handler, stage, elapsed, timeout, python_stack },
            Why::Stalled(timeout) => {
                let stage = Stage::Item;
                Error::Timeout { handler, stage, elapsed, timeout, python_stack }
            }
            Why::Asked => Error::Cancelled { handler, stage, elapsed, python_stack },
            Why::Cpu(used) => {
                let limit = self.ticket.shared.config.worker_limits.cpu.unwrap_or_default();
                Error::CpuTime { handler, used, limit, python_stack }
            }
            Why::Abandoned => return self.ticket.abandon(after),
        };
        self.ticket.answer(Err(error), after);
    }
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Queue,
    /// Written ahead to a worker, and queued all the same.
    Ahead(Held),
    Worker {
        held: Held,
        since: Instant,
    },
}

/// The place of a call in the pool's sums, and the way to its caller.
///
/// It is answered once. One that is dropped unanswered was lost with an actor: its caller hears so.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) id: u64,
    pub(crate) deadline: Instant,
    handler: Arc<str>,
    timeout: Duration,
    submitted: Instant,
    place: Place,
    /// Kept until the call has ended: a worker may die before it starts it.
    frame: Message,
    reply: Option<oneshot::Sender<Answer>>,
    /// Whatever becomes of it is not its handler's fault.
    blameless: bool,
    shared: Arc<Shared>,
}

impl Ticket {
    /// Admits a call, or refuses it because the queue is full.
    pub(crate) fn admit(
        shared: &Arc<Shared>,
        handler: &Arc<str>,
        id: u64,
        submitted: Instant,
        timeout: Duration,
    ) -> Result<(Self, oneshot::Receiver<Answer>), Error> {
        let limit = shared.config.limits.queue;
        if !shared.board.admit(limit) {
            return Err(Error::Saturated { limit });
        }
        let (reply, answer) = oneshot::channel();
        let ticket = Self {
            id,
            handler: Arc::clone(handler),
            deadline: deadline_after(submitted, timeout),
            timeout,
            submitted,
            place: Place::Queue,
            frame: Message::default(),
            reply: Some(reply),
            blameless: false,
            shared: Arc::clone(shared),
        };
        Ok((ticket, answer))
    }

    /// The call is given to a worker.
    fn assign(&mut self, held: Held, wish: &Wish, now: Instant) {
        let waited = now.saturating_duration_since(self.submitted);
        self.shared.board.assign(held, self.deadline, wish, waited);
        self.place = Place::Worker { held, since: now };
    }

    /// The call goes back to the queue; `after` is what its worker is then.
    pub(crate) fn unassign(&mut self, after: WorkerState) {
        match std::mem::replace(&mut self.place, Place::Queue) {
            Place::Queue => return,
            Place::Ahead(held) => self.shared.board.withdraw(held),
            Place::Worker { held, .. } => self.shared.board.unassign(held, after),
        }
        // It has not started.
        self.judge(Verdict::Unknown, Instant::now());
    }

    /// Tells the handler's circuit how a call has ended that a worker had.
    fn judge(&self, verdict: Verdict, now: Instant) {
        let (pool, handler) = (&self.shared.config.name, &*self.handler);
        match self.shared.breaker.ends(handler, self.id, verdict, now) {
            Some(Change::Opened { failures }) => {
                tracing::warn!(
                    pool,
                    handler,
                    failures,
                    "keeps failing, and is not called for a while"
                );
            }
            Some(Change::Closed) => tracing::info!(pool, handler, "is called again"),
            None => {}
        }
    }

    /// How long ago the call was made.
    pub(crate) fn age(&self) -> Duration {
        self.submitted.elapsed()
    }

    /// The slot and incarnation that it is with; not of one that was written ahead.
    pub(crate) fn held(&self) -> Option<Held> {
        match self.place {
            Place::Queue | Place::Ahead(_) => None,
            Place::Worker { held, .. } => Some(held),
        }
    }

    /// Whether it was written ahead, and has not begun.
    pub(crate) fn is_ahead(&self) -> bool {
        matches!(self.place, Place::Ahead(_))
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    /// Counts the call and frees its worker on the board; sending the answer is left for later, so that Python
    /// can be given its next call first.
    pub(crate) fn settle(mut self, answer: Answer, after: WorkerState, now: Instant) -> Settled {
        let outcome = match &answer {
            Ok(_) => Outcome::Completed,
            Err(error) => Outcome::Failed(error),
        };
        self.count(outcome, after, now);
        Settled { answer, reply: self.reply.take() }
    }

    /// Counts the call and answers it; `after` is what its worker is then, if it has one.
    pub(crate) fn answer(self, answer: Answer, after: WorkerState) {
        self.settle(answer, after, Instant::now()).send();
    }

    /// Counts a call that nobody waits for.
    pub(crate) fn abandon(mut self, after: WorkerState) {
        self.count(Outcome::Abandoned, after, Instant::now());
        self.reply = None;
    }

    /// Why nobody has answered the call: what held it is gone, with its runtime perhaps.
    fn lost(&self) -> Error {
        let config = &self.shared.config;
        match self.place {
            Place::Ahead(held) | Place::Worker { held, .. } => {
                Error::WorkerDied(Arc::new(WorkerDeath {
                    worker: config.worker_name(held.slot),
                    pid: self.shared.board.pid(held.slot, held.epoch).unwrap_or_default(),
                    handler: (*self.handler).to_owned(),
                    exit: Exit::Unknown,
                    ended: Ended::Stopped,
                    started: true,
                    stderr: String::new(),
                    python_stack: String::new(),
                }))
            }
            Place::Queue if self.shared.is_closed() => Error::Closed { pool: config.name.clone() },
            Place::Queue => Error::Restarted { pool: config.name.clone() },
        }
    }

    fn count(&self, outcome: Outcome<'_>, after: WorkerState, now: Instant) {
        match self.place {
            Place::Queue => self.shared.board.ended_queued(outcome),
            Place::Ahead(held) => {
                self.judge(Verdict::Unknown, now);
                self.shared.board.withdraw(held);
                self.shared.board.ended_queued(outcome);
            }
            Place::Worker { held, since } => {
                // First: whoever finds the call counted finds its circuit open.
                let verdict = if self.blameless { Verdict::Unknown } else { verdict(outcome) };
                self.judge(verdict, now);
                let took = now.saturating_duration_since(since);
                self.shared.board.ended_running(held, outcome, took, after);
            }
        }
    }
}

/// What the end of a call that a worker had says of its handler.
fn verdict(outcome: Outcome<'_>) -> Verdict {
    let error = match outcome {
        Outcome::Completed => return Verdict::Answered,
        Outcome::Failed(error) => error,
        Outcome::Abandoned => return Verdict::Unknown,
    };
    match error {
        Error::Python { .. } | Error::BadResult { .. } => Verdict::Answered,
        Error::Timeout { stage: Stage::Run | Stage::Item, .. } | Error::CpuTime { .. } => {
            Verdict::Failed
        }
        Error::WorkerDied(death) if death.started => match death.ended {
            Ended::Itself
            | Ended::ClosedPort
            | Ended::Protocol(_)
            | Ended::Memory { .. }
            | Ended::TimedOut
            | Ended::CpuTime => Verdict::Failed,
            _ if death.ended.blocker() == Some(&*death.handler) => Verdict::Failed,
            _ => Verdict::Unknown,
        },
        _ => Verdict::Unknown,
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Some(reply) = self.reply.take() else {
            return;
        };
        if reply.is_closed() {
            self.count(Outcome::Abandoned, WorkerState::Stopping, Instant::now());
            return;
        }
        let error = self.lost();
        self.count(Outcome::Failed(&error), WorkerState::Stopping, Instant::now());
        let _ = reply.send(Err(error));
    }
}

/// A counted call whose caller is not answered yet.
#[must_use]
pub(crate) struct Settled {
    answer: Answer,
    reply: Option<oneshot::Sender<Answer>>,
}

impl Settled {
    pub(crate) fn send(self) {
        if let Some(reply) = self.reply {
            // A caller that is gone needs no answer.
            let _ = reply.send(self.answer);
        }
    }
}

/// A deadline that cannot overflow: 30 years are never.
fn deadline_after(start: Instant, timeout: Duration) -> Instant {
    const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
    start + timeout.min(NEVER)
}

#[cfg(test)]
mod tests;
