//! What keeps the sessions: the trait between a store and its backends.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::{Operation, Outcome, SessionError};

/// Keeps the state of a store. [`Memory`](super::Memory) is the default.
///
/// A backend sees operations whose ids, keys and values are valid and not larger than
/// [`max_value_bytes`](Settings::max_value_bytes). It holds the other bounds, lets sessions expire, and gives each value that
/// it writes a version that it has never given before. Each operation is atomic.
pub trait Backend: Send + Sync + 'static {
    /// Called once, before anything else, on a tokio runtime.
    fn open(&self, settings: &Settings) -> Answer<()>;

    /// Does it. An answer that is dropped before its end leaves the operation done or not done, and never half.
    fn execute(&self, operation: Operation) -> Answer<Outcome>;

    /// The ids of living sessions, sorted: those that begin with `prefix` and come after `after`, at most `limit` of them.
    fn list(&self, prefix: String, after: Option<String>, limit: usize) -> Answer<Vec<String>>;

    /// What it holds.
    fn usage(&self) -> Answer<Usage>;

    /// Sweeps what has expired, and persists what was left for later. Gives the time until it is to be called again, as long
    /// as nothing is executed: once something was, it is called within a second, and after a minute in any case.
    fn maintain(&self) -> Answer<Duration>;

    /// Ends it: what is under way is finished, later operations fail. Called once or more, or, if all handles are dropped,
    /// never.
    fn close(&self) -> Answer<()>;
}

/// The checked options of a store, for its backend.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct Settings {
    /// The store's name.
    pub name: String,
    /// The TTL of a session that has none of its own; at least 1 ms.
    pub ttl: Duration,
    /// The most sessions, the global one not counted.
    pub max_sessions: usize,
    /// The most bytes of one value.
    pub max_value_bytes: usize,
    /// The most bytes of all keys and values.
    pub max_total_bytes: u64,
}

/// What a backend holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Sessions that have not expired, or have not been swept yet; the global one is not counted.
    pub sessions: u64,
    /// Values and programs, the global ones included.
    pub values: u64,
    /// The bytes of their keys and contents.
    pub bytes: u64,
    /// Sessions that have expired and been swept by this host.
    pub expired: u64,
}

/// The future of a backend's answer: one that is there already, or one that is waited for.
#[must_use = "a future does nothing until it is awaited"]
pub struct Answer<T>(Inner<T>);

enum Inner<T> {
    Now(Option<Result<T, SessionError>>),
    Later(Pin<Box<dyn Future<Output = Result<T, SessionError>> + Send>>),
}

impl<T> Answer<T> {
    /// It is there at the first poll.
    pub fn now(result: Result<T, SessionError>) -> Self {
        Self(Inner::Now(Some(result)))
    }

    /// It takes a future to get it.
    pub fn later(future: impl Future<Output = Result<T, SessionError>> + Send + 'static) -> Self {
        Self(Inner::Later(Box::pin(future)))
    }
}

/// Nothing in it is pinned in place.
impl<T> Unpin for Answer<T> {}

impl<T> Future for Answer<T> {
    type Output = Result<T, SessionError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Inner::Now(result) => result.take().map_or(Poll::Pending, Poll::Ready),
            Inner::Later(future) => future.as_mut().poll(cx),
        }
    }
}

impl<T> fmt::Debug for Answer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").finish_non_exhaustive()
    }
}
