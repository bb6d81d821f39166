//! The tries of a call: admit, send, wait; and again, if it may be.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::line::Line;
use crate::context::Nested;
use crate::error::{Error, Stage};
use crate::exchange::CallerSide;
use crate::pool::Anchor;
use crate::port::Command;
use crate::request::{Answer, Request, Ticket, Why};
use crate::retry::Retry;
use crate::scheduler::{Place, Wish};
use crate::shared::{PoolCell, Shared};
use crate::stats::WorkerState;
use crate::wire::Message;

/// A cancelled call that has not ended by then is cancelled again.
const CANCEL_AGAIN: Duration = Duration::from_millis(20);

/// What a call gets when it is made.
pub(super) struct Made {
    pub(super) id: u64,
    pub(super) handler: Arc<str>,
    pub(super) at: Instant,
    pub(super) timeout: Duration,
    pub(super) cancel: Option<CancellationToken>,
    /// The calls that wait for this one.
    pub(super) outer: Option<Arc<Nested>>,
}

impl Made {
    /// The error of a call that was cancelled before this try is made.
    fn not_if_cancelled(&self) -> Result<(), Error> {
        if self.cancel.as_ref().is_none_or(|cancel| !cancel.is_cancelled()) {
            return Ok(());
        }
        let handler = (*self.handler).to_owned();
        let (elapsed, python_stack) = (Duration::ZERO, String::new());
        Err(Error::Cancelled { handler, stage: Stage::Queue, elapsed, python_stack })
    }

    /// Resolves when the call is cancelled by a handle.
    pub(super) async fn cancelled(&self) {
        match &self.cancel {
            Some(cancel) => cancel.cancelled().await,
            None => std::future::pending().await,
        }
    }
}

/// A call that is being made, and made again as `retry` says.
pub(super) struct Tries {
    pub(super) anchor: Arc<Anchor>,
    pub(super) wish: Wish,
    pub(super) frame: Message,
    pub(super) made: Made,
    pub(super) line: Option<Line>,
    pub(super) retry: Retry,
    pub(super) side: CallerSide,
}

impl Tries {
    /// Makes it, and waits for its end.
    pub(super) async fn run(&mut self) -> Answer {
        let Made { at, timeout, .. } = self.made;
        // Of the last try that may have run, else of the last one.
        let mut worst: Option<Box<Error>> = None;
        loop {
            let outcome = match self.made.not_if_cancelled() {
                Ok(()) => self.make().await,
                Err(error) => Err(error),
            };
            let error = match outcome {
                Ok(payload) => return Ok(payload),
                Err(error) => error,
            };
            Box::pin(self.after(error, (at, timeout), &mut worst)).await?;
        }
    }

    /// Likewise, once it is its turn. In a task of its own: a future that is kept and not polled must not hold up those
    /// behind it: not with its turn, nor past its deadline.
    pub(super) async fn run_in_line(mut self) -> Answer {
        let pool = self.anchor.shared.config.name.clone();
        match AbortOnDropHandle::new(tokio::spawn(async move { self.run().await })).await {
            Ok(answer) => answer,
            // A stream of the user's that was an input.
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(Error::Closed { pool }),
            },
        }
    }

    /// A try has failed: the pause before the next one, or the error of the call, which has had `timeout` since `at`.
    async fn after(
        &mut self,
        mut error: Error,
        (at, timeout): (Instant, Duration),
        worst: &mut Option<Box<Error>>,
    ) -> Result<(), Error> {
        let before = self.made.at - at;
        match &mut error {
            Error::Timeout { elapsed, stage: Stage::Item, .. } => *elapsed += before,
            Error::Timeout { elapsed, timeout: had, .. } => {
                // This try has had what the earlier ones had left.
                *elapsed += before;
                *had = timeout;
            }
            Error::Cancelled { elapsed, stage, .. } => {
                *elapsed += before;
                // Who cancelled hears that it was, and is told of any try that it may have run.
                if worst.as_ref().is_some_and(|worst| worst.may_have_run()) {
                    *stage = Stage::Run;
                }
            }
            _ => {}
        }
        let left = timeout.saturating_sub(at.elapsed());
        let pause = match self.side.is_used() {
            true => None,
            false => self.retry.after(&error, left, fastrand::f64()),
        };
        let error = match worst.take() {
            Some(worst) if worst.may_have_run() && !error.may_have_run() => worst,
            _ => Box::new(error),
        };
        let Some(pause) = pause else { return Err(*error) };
        *worst = Some(error);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // The next try is not made.
            () = self.made.cancelled() => {}
        }
        let now = Instant::now();
        let left = timeout.saturating_sub(now - at);
        let id = self.anchor.shared.next_id();
        (self.made.id, self.made.at, self.made.timeout) = (id, now, left);
        self.frame = std::mem::take(&mut self.frame).renamed(id);
        Ok(())
    }

    async fn make(&mut self) -> Answer {
        let Self { anchor, made, side, .. } = self;
        let (anchor, made, mut wish) = (&**anchor, &*made, self.wish);
        let shared = &anchor.shared;
        let &Made { id, at, timeout, .. } = made;
        if shared.is_closed() {
            return Err(Error::Closed { pool: shared.config.name.clone() });
        }
        if wish.key.is_some() {
            wish.settle(shared.board.size());
        }
        let blocks = |outer: &Arc<Nested>| outer.blocks(shared, wish.place, &made.handler);
        if let Some(error) = made.outer.as_ref().and_then(blocks) {
            return Err(error);
        }
        // Before the answer's receiver, so that it is dropped after it: whoever is told finds that closed.
        let mut guard = AbandonOnDrop { shared, id, armed: false };
        let (ticket, mut answer) = Ticket::admit(shared, &made.handler, id, at, timeout)?;
        guard.armed = true;
        shared.kinds.apply(&made.handler, &mut wish);
        if !side.is_plain() || made.outer.is_some() {
            // What a handler waits for must not wait for that handler.
            wish.ahead = 0;
        }
        let (ports, mut wants) = side.open();
        // Another try needs it as well.
        let frame = match self.retry.is_over() {
            true => std::mem::take(&mut self.frame),
            false => self.frame.clone(),
        };
        let mut request = Request::new(frame, wish, ticket);
        request.side = ports;
        request.outer.clone_from(&made.outer);
        let mut request = Some(request);
        if let Some(line) = &mut self.line {
            request = Box::pin(line.wait(anchor, request, made)).await;
        }
        if let Some(request) = request
            && let Err(request) = shared.submit(request)
        {
            Box::pin(submit_later(anchor, request, made)).await;
        }
        // What few calls need is apart, so that the others' futures are small.
        let answer = match (&made.cancel, &mut wants) {
            (None, None) => answer.await,
            (Some(_), None) => Box::pin(answer_or_cancel(shared, &mut answer, made)).await,
            (_, Some(wants)) => {
                let pump = side.inputs.pump(id, wants, shared.config.limits.max_frame);
                Box::pin(async {
                    tokio::select! {
                        biased;
                        answer = answer_or_cancel(shared, &mut answer, made) => answer,
                        never = pump => match never {},
                    }
                })
                .await
            }
        };
        guard.disarm();
        // A ticket answers before it is dropped; there is no other way for it to go.
        answer.unwrap_or_else(|_| Err(Error::Closed { pool: shared.config.name.clone() }))
    }
}

/// A call that is queued or runs, and whose caller has gone on. If it is dropped, the call is given up.
#[derive(Debug)]
pub(crate) struct Placed {
    answer: oneshot::Receiver<Answer>,
    pool: String,
}

impl Placed {
    pub(super) async fn new(
        anchor: &Anchor,
        wish: Wish,
        frame: Message,
        made: &Made,
    ) -> Result<Self, Error> {
        let shared = &anchor.shared;
        let pool = shared.config.name.clone();
        if shared.is_closed() {
            return Err(Error::Closed { pool });
        }
        let (ticket, answer) =
            Ticket::admit(shared, &made.handler, made.id, made.at, made.timeout)?;
        if let Err(request) = shared.submit(Request::new(frame, wish, ticket)) {
            submit_later(anchor, request, made).await;
        }
        Ok(Self { answer, pool })
    }

    /// The result.
    pub(crate) async fn ended(self) -> Answer {
        self.answer.await.unwrap_or(Err(Error::Closed { pool: self.pool }))
    }
}

async fn answer_or_cancel(
    shared: &Shared,
    answer: &mut oneshot::Receiver<Answer>,
    made: &Made,
) -> Result<Answer, oneshot::error::RecvError> {
    tokio::select! {
        biased;
        answer = &mut *answer => return answer,
        () = made.cancelled() => {}
    }
    loop {
        cancel(shared, made.id, Why::Asked);
        tokio::select! {
            biased;
            answer = &mut *answer => return answer,
            // A call that its worker just gave back was nobody's at that moment; it must not run now.
            () = tokio::time::sleep(CANCEL_AGAIN) => {}
        }
    }
}

/// Waits for the pool's actor to be restarted, for as long as the call has. The request is answered if it doesn't
/// come to that.
async fn submit_later(anchor: &Anchor, request: Box<Request>, made: &Made) {
    let shared = &anchor.shared;
    let mut cell = shared.cell.subscribe();
    let deadline = tokio::time::Instant::from_std(request.ticket.deadline);
    let mut waiting = Waiting(Some(request));
    while let Some(request) = waiting.0.take() {
        let error = match &*cell.borrow_and_update() {
            PoolCell::Starting | PoolCell::Up(_) if !anchor.is_dead() => {
                shared.board.why_broken(request.wish.place.bound()).map(Error::Start)
            }
            _ => Some(Error::Closed { pool: shared.config.name.clone() }),
        };
        if let (None, Place::Now(slot)) = (&error, request.wish.place) {
            request.refuse(slot);
            return;
        }
        if let Some(error) = error {
            request.ticket.answer(Err(error), WorkerState::Down);
            return;
        }
        let Err(request) = shared.submit(request) else {
            return;
        };
        waiting.0 = Some(request);
        tokio::select! {
            biased;
            _ = cell.changed() => {}
            () = anchor.dead() => {}
            () = made.cancelled() => {
                if let Some(request) = waiting.0.take() {
                    request.give_up(Why::Asked, Instant::now(), String::new(), WorkerState::Down);
                }
            }
            () = tokio::time::sleep_until(deadline) => {
                if let Some(request) = waiting.0.take() {
                    request.time_out(Instant::now(), WorkerState::Down);
                }
            }
        }
    }
}

/// A request that no dispatcher has yet; its caller may go away.
pub(super) struct Waiting(pub(super) Option<Box<Request>>);

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(request) = self.0.take() {
            request.ticket.abandon(WorkerState::Down);
        }
    }
}

/// Tells whoever has the call that it is given up.
fn cancel(shared: &Shared, id: u64, why: Why) {
    if !shared.dispatcher(|dispatcher| dispatcher.cancel(id, why)).unwrap_or(false) {
        // It has ended, or a worker has it that the queue's owner does not know yet.
        for link in shared.board.links_of(id) {
            let _ = link.send(Command::Cancel(id, why));
        }
    }
}

/// Tells whoever has the call that its caller went away.
struct AbandonOnDrop<'a> {
    shared: &'a Shared,
    id: u64,
    armed: bool,
}

impl AbandonOnDrop<'_> {
    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for AbandonOnDrop<'_> {
    fn drop(&mut self) {
        if self.armed {
            cancel(self.shared, self.id, Why::Abandoned);
        }
    }
}
