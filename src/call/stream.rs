//! A call whose handler gives items: a stream of them.

use std::fmt::Display;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::options::options;
use super::plan::Plan;
use super::{CancelHandle, make, undecoded};
use crate::codec::{self, Payload};
use crate::context;
use crate::error::Error;
use crate::exchange::{HALF_BYTES, HALF_ITEMS, Item, ProgressWatch};
use crate::port::Command;
use crate::request::Answer;
use crate::scheduler::{Place, Priority};

/// The items of a generator, as they come. Made by [`Pool::stream`](crate::Pool::stream),
/// [`WorkerHandle::stream`](crate::WorkerHandle::stream) and [`PoolSession::stream`](crate::PoolSession::stream).
///
/// The call is made when the stream is polled first; options that are given after that change nothing. It goes on in the
/// background, at most 64 items, or 1 MiB and one item, ahead of what was taken: then the generator waits at its `yield`.
/// The first error ends the stream, after the items that came before it.
///
/// It may be dropped at any point. A generator that waits at a `yield` is then closed, as by its `close()` or `aclose()`:
/// its `finally` runs, and its worker goes on to other calls. One whose own code is running has 100 ms to come to its next
/// `yield`; then it is cancelled like any handler.
///
/// ```
/// use futures::StreamExt;
/// # use snakepen::{Error, Pool};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Error> {
/// # let pool = Pool::builder("streams").handlers("examples/stream.py").workers(1).start().await?;
/// let mut tokens = pool.stream::<String>("generate", ("Tell me of snakes.", 4));
/// while let Some(token) = tokens.next().await {
///     print!("{}", token?);
/// }
/// # pool.shutdown().await
/// # }
/// ```
#[must_use = "a stream does nothing unless it is polled"]
#[derive(Debug)]
pub struct CallStream<T> {
    state: State,
    cancel: CancelHandle,
    progress: Option<ProgressWatch>,
    item: PhantomData<fn() -> T>,
}

#[derive(Debug)]
enum State {
    Planned(Box<Plan>),
    Running(Running),
    Ended,
}

#[derive(Debug)]
struct Running {
    pool: String,
    handler: Arc<str>,
    items: mpsc::UnboundedReceiver<Item>,
    call: AbortOnDropHandle<Answer>,
    /// How the call has ended. There may be items from before that.
    end: Option<Answer>,
    taken: u64,
    /// Of these the worker was told.
    told: u64,
    /// The bytes of the others.
    bytes: usize,
}

impl<T> CallStream<T> {
    pub(crate) fn new(mut plan: Plan) -> Self {
        let cancel = plan.cancel_handle();
        let state = State::Planned(Box::new(plan));
        Self { state, cancel, progress: None, item: PhantomData }
    }

    fn change(mut self, change: impl FnOnce(&mut Plan)) -> Self {
        if let State::Planned(plan) = &mut self.state {
            change(plan);
        }
        self
    }

    /// The time that the whole stream has, from when it is polled first until its end, whoever it waits for: its generator,
    /// or its consumer. When it runs out, the items that have come are still given, and then [`Error::Timeout`]. Default:
    /// the pool's [`call_timeout`](crate::Builder::call_timeout).
    pub fn timeout(self, timeout: Duration) -> Self {
        self.change(|plan| plan.timeout = timeout)
    }

    /// The time that the generator has for each item: until the first one, from when a worker has the call; from one to
    /// the next; and from the last one to its end. It does not run while the generator is held up by the consumer, who has
    /// yet to take what is there. When it runs out, the items that have come are still given, and then [`Error::Timeout`]
    /// with [`Stage::Item`](crate::Stage::Item). Default: none but that of the whole stream.
    pub fn item_timeout(self, timeout: Duration) -> Self {
        self.change(|plan| plan.side.item_timeout = Some(timeout))
    }

    /// A handle that cancels this stream from anywhere, at any time: it gives the items that have come, and then
    /// [`Error::Cancelled`].
    pub fn cancel_handle(&self) -> CancelHandle {
        self.cancel.clone()
    }

    /// What the handler tells with `snakepen.progress()`. Taken before the stream is polled first; one that is taken later
    /// is the same as an earlier one, or has ended.
    pub fn progress(&mut self) -> ProgressWatch {
        if let State::Planned(plan) = &mut self.state {
            self.progress.get_or_insert_with(|| plan.progress());
        }
        self.progress.clone().unwrap_or_else(ProgressWatch::ended)
    }

    options!();
}

impl<T: DeserializeOwned> Stream for CallStream<T> {
    type Item = Result<T, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        this.state = match std::mem::replace(&mut this.state, State::Ended) {
            State::Planned(plan) => match Running::begin(plan) {
                Ok(running) => State::Running(running),
                Err(error) => return Poll::Ready(Some(Err(error))),
            },
            state => state,
        };
        let State::Running(running) = &mut this.state else {
            return Poll::Ready(None);
        };
        let next = ready!(running.poll_next(cx));
        if !matches!(next, Some(Ok(_))) {
            this.state = State::Ended;
        }
        Poll::Ready(next)
    }
}

impl Running {
    /// In a task of its own, so that deadlines, cancellation and inputs do not wait for a consumer who is busy.
    fn begin(plan: Box<Plan>) -> Result<Self, Error> {
        let Ok(runtime) = Handle::try_current() else {
            let message = "there is no tokio runtime here: poll it inside of one".to_owned();
            return Err(Error::Config { option: "stream", message });
        };
        let (pool, handler) = (plan.pool().to_owned(), Arc::clone(&plan.handler));
        let (sender, items) = mpsc::unbounded_channel();
        let call = make(plan, Some(sender), context::chain());
        let call = AbortOnDropHandle::new(runtime.spawn(async { Ok(call.await?.0) }));
        Ok(Self { pool, handler, items, call, end: None, taken: 0, told: 0, bytes: 0 })
    }

    fn poll_next<T: DeserializeOwned>(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<T, Error>>> {
        loop {
            if let Some(end) = &self.end {
                // What has come before the end is there by now. Not `poll_recv`, which has a budget.
                let next = match (self.items.try_recv(), end) {
                    (Ok(item), _) => Some(self.take(&item)),
                    (Err(_), Err(error)) => Some(Err(error.clone())),
                    (Err(_), Ok(result)) => self.result(result.clone()),
                };
                return Poll::Ready(next);
            }
            if let Poll::Ready(Some(item)) = self.items.poll_recv(cx) {
                return Poll::Ready(Some(self.take(&item)));
            }
            let end = ready!(Pin::new(&mut self.call).poll(cx));
            self.end = Some(match end {
                Ok(end) => end,
                // A stream of the user's that was an input.
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => Err(Error::Closed { pool: self.pool.clone() }),
                },
            });
        }
    }

    /// Decodes an item, and lets the worker know, now and then, what was taken.
    fn take<T: DeserializeOwned>(&mut self, item: &Item) -> Result<T, Error> {
        self.taken += 1;
        self.bytes += item.payload.len();
        if self.taken - self.told >= HALF_ITEMS || self.bytes >= HALF_BYTES {
            (self.told, self.bytes) = (self.taken, 0);
            // A worker that is gone needs no credit.
            let _ = item.link.send(Command::Credit(item.id, self.taken));
        }
        self.decode(&item.payload)
    }

    /// The item that a handler gives which is no generator. The answer of one that is has nothing in it.
    fn result<T: DeserializeOwned>(&mut self, result: Payload) -> Option<Result<T, Error>> {
        self.end = Some(Ok(Payload::default()));
        (!result.json.is_empty()).then(|| {
            self.taken += 1;
            self.decode(&result)
        })
    }

    fn decode<T: DeserializeOwned>(&self, payload: &Payload) -> Result<T, Error> {
        codec::decode(payload).map_err(|message| {
            let mut error = undecoded(&self.handler, message);
            if let Error::Decode { message, .. } = &mut error {
                *message = format!("item {}: {message}", self.taken - 1);
            }
            error
        })
    }
}
