//! One call, from the caller's side: encode, admit, send, wait, decode.

use std::future::{Future, IntoFuture};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::error::{Error, Stage};
use crate::pool::Anchor;
use crate::port::Command;
use crate::request::{Answer, Request, Ticket, Why, handler_of};
use crate::retry::Retry;
use crate::scheduler::{Place, Priority, Wish};
use crate::session::SessionError;
use crate::shared::{PoolCell, Shared};
use crate::stats::WorkerState;
use crate::sys;
use crate::turns::{Turn, Turns};
use crate::wire::{FrameBuilder, Kind, json};

/// A cancelled call that has not ended by then is cancelled again.
const CANCEL_AGAIN: Duration = Duration::from_millis(20);

/// A call that is not made yet: await it. Made by [`Pool::call`](crate::Pool::call) and
/// [`WorkerHandle::call`](crate::WorkerHandle::call).
///
/// Its future is `Send` and may be dropped at any point: a call that is queued then never runs, and one that runs
/// is cancelled.
#[must_use = "a call is made when it is awaited"]
#[derive(Debug)]
pub struct Call<R> {
    anchor: Arc<Anchor>,
    wish: Wish,
    frame: Result<FrameBuilder, Error>,
    timeout: Duration,
    /// The session in whose line it waits.
    line: Option<Arc<str>>,
    cancel: Option<CancellationToken>,
    idempotent: bool,
    result: PhantomData<fn() -> R>,
}

/// Cancels the call that it was taken from: see [`Call::cancel_handle`].
#[derive(Clone, Debug)]
pub struct CancelHandle(CancellationToken);

impl CancelHandle {
    /// Cancels the call. Its caller gets [`Error::Cancelled`] at once; a handler that is running has the pool's
    /// [`cancel_grace`](crate::Builder::cancel_grace) to end. A call that has ended is not concerned; one that is not
    /// made yet fails when it is awaited, and never runs.
    pub fn cancel(&self) {
        self.0.cancel();
    }
}

impl<R> Call<R> {
    pub(crate) fn new(
        anchor: Arc<Anchor>,
        place: Place,
        handler: &str,
        args: &impl Serialize,
    ) -> Self {
        Self::encoded(anchor, place, encode(handler, None, args))
    }

    /// A call that belongs to a session, in line with the others or not.
    pub(crate) fn in_session(
        anchor: Arc<Anchor>,
        session: Result<&str, SessionError>,
        in_order: bool,
        handler: &str,
        args: &impl Serialize,
    ) -> Self {
        let line = session.as_ref().ok().filter(|_| in_order).map(|&id| id.into());
        let frame = session.map_err(Error::from).and_then(|id| encode(handler, Some(id), args));
        Self { line, ..Self::encoded(anchor, Place::Anywhere, frame) }
    }

    fn encoded(anchor: Arc<Anchor>, place: Place, frame: Result<FrameBuilder, Error>) -> Self {
        Self {
            frame,
            timeout: anchor.shared.config.limits.call_timeout,
            anchor,
            wish: Wish { place, ..Wish::default() },
            line: None,
            cancel: None,
            idempotent: false,
            result: PhantomData,
        }
    }

    /// The time that the call has, from when it is awaited until its answer. Default: the pool's
    /// [`call_timeout`](crate::Builder::call_timeout).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// A handle that cancels this call from anywhere, while it waits or runs.
    pub fn cancel_handle(&mut self) -> CancelHandle {
        CancelHandle(self.cancel.get_or_insert_default().clone())
    }

    /// Says that the handler may be run more than once without harm: a call whose worker dies, that is lost with the
    /// pool's actor, or for which no worker can be started, is tried again after a short pause, up to
    /// [`Builder::retries`](crate::Builder::retries) times, within its own time. Default: a handler that may have started is
    /// never run again.
    ///
    /// Nothing else is tried again: not what the handler answers, an exception included; not a time-out, as there is no
    /// time left; and no refusal ([`Error::Saturated`], [`Error::WorkerBusy`], [`Error::CircuitOpen`], [`Error::Closed`]), which asks for fewer
    /// calls and not for more. Each try counts as a call in [`Stats`](crate::Stats). The error is that of the last try
    /// that may have run, else of the last one; a call that was cancelled gets [`Error::Cancelled`], whichever try that met.
    pub fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// Which of the calls that wait goes first. Default: [`Priority::Normal`].
    pub fn priority(mut self, priority: Priority) -> Self {
        self.wish.priority = priority;
        self
    }

    /// Runs the call on the worker that `key` belongs to if that one is idle, else on any other: for handlers that
    /// keep something of their own, such as a cache. Calls that wait are run in order by whichever worker is free first.
    ///
    /// A key belongs to the same slot for as long as the pool has the same number of them; when it is
    /// [resized](crate::Pool::resize), no more keys move than have to. Nothing is kept of a key. Of this method and the next two the last
    /// one that is called counts, also over [`WorkerHandle::call`](crate::WorkerHandle::call).
    pub fn affinity(self, key: impl AsRef<str>) -> Self {
        self.at(Place::Preferred(0), key.as_ref())
    }

    /// Runs the call on the worker that `key` belongs to (see [`Call::affinity`]), and waits for that one: calls of one
    /// key and priority run one after another, in the order in which they were made. They hold up no call of another
    /// worker.
    ///
    /// Like a [`WorkerHandle`](crate::WorkerHandle), the key means the slot: it survives the worker's restart, what the
    /// worker keeps in memory doesn't. While the slot's worker can't be started, the call fails with [`Error::Start`].
    /// When the pool is [resized](crate::Pool::resize) a key may move: a call that waits for a slot that is retired goes to
    /// the one that its key belongs to then. Calls from before and after such a move are not ordered.
    pub fn pinned(self, key: impl AsRef<str>) -> Self {
        self.at(Place::Only(0), key.as_ref())
    }

    /// Like [`Call::pinned`], and does not wait: if the worker is not free at this moment, the call fails at once with
    /// [`Error::WorkerBusy`].
    pub fn pinned_now(self, key: impl AsRef<str>) -> Self {
        self.at(Place::Now(0), key.as_ref())
    }

    /// At such a place; the slot is found by the key when the call is made.
    fn at(mut self, place: Place, key: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        self.wish.place = place;
        self.wish.key = Some(hasher.finish());
        self
    }
}

impl<R: DeserializeOwned> IntoFuture for Call<R> {
    type Output = Result<R, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { anchor, wish, frame, timeout, line, cancel, idempotent, .. } = self;
        Box::pin(async move {
            let shared = &anchor.shared;
            let line = line.map(|session| Line::up(&shared.turns, &session));
            let made = Made { id: shared.next_id(), at: Instant::now(), timeout, cancel };
            let frame = finish(frame?, &made, shared.config.limits.max_frame)?;
            let retry = Retry::new(if idempotent { shared.config.limits.retries } else { 0 });
            let json = if line.is_some() {
                // A future that is kept and not polled must not hold up those behind it: not with its turn, nor past its
                // deadline.
                let pool = shared.config.name.clone();
                let frame = frame.clone();
                let made = async move { attempt(&anchor, wish, frame, made, line, retry).await };
                let made = AbortOnDropHandle::new(tokio::spawn(made)).await;
                made.unwrap_or(Err(Error::Closed { pool }))?
            } else {
                attempt(&anchor, wish, frame.clone(), made, None, retry).await?
            };
            serde_json::from_slice(&json).map_err(|error| undecoded(handler_of(&frame), &error))
        })
    }
}

fn undecoded(handler: &str, error: &serde_json::Error) -> Error {
    let mut message = error.to_string();
    if message.contains("expected unit") {
        message += "; `()` stands for None, and `serde::de::IgnoredAny` takes whatever comes";
    }
    Error::Decode { handler: handler.to_owned(), message }
}

/// What a call gets when it is made.
struct Made {
    id: u64,
    at: Instant,
    timeout: Duration,
    cancel: Option<CancellationToken>,
}

impl Made {
    /// The error of a call that was cancelled before this try is made.
    fn not_if_cancelled(&self, frame: &[u8]) -> Result<(), Error> {
        if self.cancel.as_ref().is_none_or(|cancel| !cancel.is_cancelled()) {
            return Ok(());
        }
        let handler = handler_of(frame).to_owned();
        let (elapsed, python_stack) = (Duration::ZERO, String::new());
        Err(Error::Cancelled { handler, stage: Stage::Queue, elapsed, python_stack })
    }

    /// Resolves when the call is cancelled by a handle.
    async fn cancelled(&self) {
        match &self.cancel {
            Some(cancel) => cancel.cancelled().await,
            None => std::future::pending().await,
        }
    }
}

fn encode(
    handler: &str,
    session: Option<&str>,
    args: &impl Serialize,
) -> Result<FrameBuilder, Error> {
    // Two bytes count them, and a session's id has 255 at most.
    const LONGEST: usize = 65_000;
    let refuse = |message: String| {
        let handler = format!("{}…", handler.chars().take(40).collect::<String>());
        Err(Error::Encode { handler, message })
    };
    if handler.len() > LONGEST {
        return refuse(format!(
            "the handler's name takes {} bytes, at most {LONGEST} fit",
            handler.len()
        ));
    }
    if handler.contains('\0') {
        return refuse("a handler's name has no zero byte".to_owned());
    }
    let mut frame = match session {
        None => FrameBuilder::new(Kind::Call, handler),
        Some(id) => FrameBuilder::new(Kind::Call, &format!("{handler}\0{id}")),
    };
    json::to_writer(frame.json(), args).map_err(|error| Error::Encode {
        handler: handler.to_owned(),
        message: error.to_string(),
    })?;
    Ok(frame)
}

fn finish(mut frame: FrameBuilder, made: &Made, limit: usize) -> Result<Bytes, Error> {
    let deadline = sys::monotonic_ns(made.at).saturating_add(nanos(made.timeout));
    match frame.finish(made.id, deadline, limit) {
        Ok(frame) => Ok(frame.into()),
        Err(size) => {
            Err(Error::TooLarge { handler: handler_of(frame.bytes()).to_owned(), size, limit })
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Makes the call, and makes it again as `retry` says.
async fn attempt(
    anchor: &Anchor,
    wish: Wish,
    mut frame: Bytes,
    mut made: Made,
    mut line: Option<Line>,
    mut retry: Retry,
) -> Result<Bytes, Error> {
    let Made { at, timeout, .. } = made;
    // Of the last try that may have run, else of the last one.
    let mut worst: Option<Error> = None;
    loop {
        let outcome = match made.not_if_cancelled(&frame) {
            Ok(()) => make(anchor, wish, frame.clone(), &made, line.as_mut()).await,
            Err(error) => Err(error),
        };
        let mut error = match outcome {
            Ok(json) => return Ok(json),
            Err(error) => error,
        };
        match &mut error {
            Error::Timeout { elapsed, timeout: had, .. } => {
                // This try has had what the earlier ones had left.
                *elapsed += made.at - at;
                *had = timeout;
            }
            Error::Cancelled { elapsed, stage, .. } => {
                *elapsed += made.at - at;
                // Who cancelled hears that it was, and is told of any try that it may have run.
                if worst.as_ref().is_some_and(Error::may_have_run) {
                    *stage = Stage::Run;
                }
            }
            _ => {}
        }
        let left = timeout.saturating_sub(at.elapsed());
        let pause = retry.after(&error, left, fastrand::f64());
        let error = match worst {
            Some(worst) if worst.may_have_run() && !error.may_have_run() => worst,
            _ => error,
        };
        let Some(pause) = pause else { return Err(error) };
        worst = Some(error);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // The next try is not made.
            () = made.cancelled() => {}
        }
        let now = Instant::now();
        let left = timeout.saturating_sub(now - at);
        made = Made { id: anchor.shared.next_id(), at: now, timeout: left, ..made };
        frame = FrameBuilder::renamed(frame, made.id);
    }
}

async fn make(
    anchor: &Anchor,
    mut wish: Wish,
    frame: Bytes,
    made: &Made,
    line: Option<&mut Line>,
) -> Result<Bytes, Error> {
    let shared = &anchor.shared;
    let &Made { id, at, timeout, .. } = made;
    if shared.is_closed() {
        return Err(Error::Closed { pool: shared.config.name.clone() });
    }
    // Before the answer's receiver, so that it is dropped after it: whoever is told finds that closed.
    let mut guard = AbandonOnDrop { shared, id, armed: false };
    let (ticket, mut answer) = Ticket::admit(shared, id, at, timeout)?;
    guard.armed = true;
    if wish.key.is_some() {
        wish.settle(shared.board.size());
    }
    let mut request = Some(Request::new(frame, wish, ticket));
    if let Some(line) = line {
        request = line.wait(anchor, request, made).await;
    }
    if let Some(request) = request
        && let Err(request) = shared.submit(request)
    {
        submit_later(anchor, request, made).await;
    }
    let answer = match &made.cancel {
        None => answer.await,
        Some(_) => answer_or_cancel(shared, &mut answer, made).await,
    };
    guard.disarm();
    // A ticket answers before it is dropped; there is no other way for it to go.
    answer.unwrap_or_else(|_| Err(Error::Closed { pool: shared.config.name.clone() }))
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

/// The line of a session, and the call's turn once it has come: kept until the last try has ended.
struct Line {
    /// Until it has come.
    waits: Option<oneshot::Receiver<Turn>>,
    turn: Option<Arc<Turn>>,
}

impl Line {
    /// Takes the last place.
    fn up(turns: &Turns, session: &str) -> Self {
        Self { waits: Some(turns.line_up(session)), turn: None }
    }

    /// Waits for the call's turn; the request is answered if it doesn't come to that.
    async fn wait(
        &mut self,
        anchor: &Anchor,
        request: Option<Box<Request>>,
        made: &Made,
    ) -> Option<Box<Request>> {
        let mut waiting = Waiting(request);
        let deadline = waiting.0.as_ref()?.ticket.deadline.into();
        if let Some(turn) = self.waits.take() {
            tokio::select! {
                biased;
                turn = turn => self.turn = turn.ok().map(Arc::new),
                () = anchor.dead() => {}
                () = made.cancelled() => {
                    let request = waiting.0.take()?;
                    request.give_up(Why::Asked, Instant::now(), String::new(), WorkerState::Down);
                }
                () = tokio::time::sleep_until(deadline) => {
                    waiting.0.take()?.time_out(Instant::now(), WorkerState::Down);
                }
            }
        }
        let mut request = waiting.0.take()?;
        request.turn.clone_from(&self.turn);
        Some(request)
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
struct Waiting(Option<Box<Request>>);

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
