//! One call, from the caller's side: encode, admit, send, wait, decode.

mod attempt;
mod line;
mod options;
mod plan;
mod stream;

use std::fmt::Display;
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::codec::{self, Payload};
use crate::context::{self, Nested};
use crate::error::Error;
use crate::exchange::{Item, ProgressWatch};
use crate::request::Answer;
use crate::scheduler::{Place, Priority};
pub(crate) use attempt::Placed;
use options::options;
pub(crate) use plan::Plan;
pub use stream::CallStream;

/// A call that is not made yet: await it. Made by [`Pool::call`](crate::Pool::call) and
/// [`WorkerHandle::call`](crate::WorkerHandle::call).
///
/// Its future is `Send` and may be dropped at any point: a call that is queued then never runs, and one that runs
/// is cancelled.
#[must_use = "a call is made when it is awaited"]
#[derive(Debug)]
pub struct Call<R> {
    plan: Box<Plan>,
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
    pub(crate) fn new(plan: Plan) -> Self {
        Self { plan: Box::new(plan), result: PhantomData }
    }

    fn change(mut self, change: impl FnOnce(&mut Plan)) -> Self {
        change(&mut self.plan);
        self
    }

    /// The time that the call has, from when it is awaited until its answer. Default: the pool's
    /// [`call_timeout`](crate::Builder::call_timeout).
    pub fn timeout(self, timeout: Duration) -> Self {
        self.change(|plan| plan.timeout = timeout)
    }

    /// A handle that cancels this call from anywhere, while it waits or runs.
    pub fn cancel_handle(&mut self) -> CancelHandle {
        self.plan.cancel_handle()
    }

    /// What the handler tells with `snakepen.progress()`, for whoever watches it while the call is awaited. Handlers whose
    /// callers do not watch tell nothing.
    pub fn progress(&mut self) -> ProgressWatch {
        self.plan.progress()
    }

    /// Makes the call and does not wait for its end: when this returns it has its place in the queue, after those that had
    /// theirs before. Dropped before that, the call never runs; what is returned must be kept until the end.
    pub(crate) async fn place(self) -> Result<Placed, Error> {
        self.plan.place().await
    }

    options!();
}

impl Call<()> {
    /// The result as it is.
    pub(crate) async fn payload(self) -> Answer {
        Ok(make(self.plan, None, context::chain()).await?.0)
    }
}

impl<R: DeserializeOwned> IntoFuture for Call<R> {
    type Output = Result<R, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (payload, handler) = make(self.plan, None, context::chain()).await?;
            codec::decode(&payload).map_err(|message| undecoded(&handler, message))
        })
    }
}

/// Makes a call, and waits for its end: the result, and the handler that it is of. Its items, if it has any, go to
/// `items`; `outer` are the calls that wait for it.
async fn make(
    plan: Box<Plan>,
    items: Option<mpsc::UnboundedSender<Item>>,
    outer: Option<Arc<Nested>>,
) -> Result<(Payload, Arc<str>), Error> {
    let mut tries = plan.tries(items, outer)?;
    let handler = Arc::clone(&tries.made.handler);
    // What few calls need is apart, so that the others' futures are small.
    let answer = match tries.line {
        None => tries.run().await,
        Some(_) => Box::pin(tries.run_in_line()).await,
    };
    Ok((answer?, handler))
}

fn undecoded(handler: &str, mut message: String) -> Error {
    if message.contains("expected unit") {
        message += "; `()` stands for None, and `serde::de::IgnoredAny` takes whatever comes";
    }
    Error::Decode { handler: handler.to_owned(), message }
}
