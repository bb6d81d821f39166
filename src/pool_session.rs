//! A session, as calls of a pool see it.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::call::{Call, CallStream, Plan};
use crate::pool::Anchor;
use crate::session::{Session, SessionError};

/// A session whose calls any worker of a pool may run: `snakepen.session()` is this session in their handlers. Made by
/// [`Pool::session`](crate::Pool::session); cheap to clone.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), snakepen::Error> {
/// # let pool = snakepen::Pool::builder("pool-session").handlers("examples/basics.py").workers(2).start().await?;
/// let session = pool.session("user-42");
/// session.state()?.put("limit", &3).await?;
/// let sum: i64 = session.call("add", (2, 3)).await?;
/// # assert_eq!(sum, 5);
/// # pool.shutdown().await
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct PoolSession {
    anchor: Arc<Anchor>,
    session: Result<Session, SessionError>,
    in_order: bool,
}

impl PoolSession {
    pub(crate) fn new(anchor: Arc<Anchor>, id: &str) -> Self {
        let session = anchor.shared.sessions.session(id);
        Self { anchor, session, in_order: false }
    }

    /// A handle whose calls run one at a time, in the order in which they are awaited first: each begins when the handler
    /// of the one before has ended, which for a call that was given up may be later than its answer. They may be of
    /// several handles of the pool; calls that are not made in order are not concerned.
    ///
    /// A call that waits for its turn counts as one that is queued, with its deadline and all.
    pub fn in_order(mut self) -> Self {
        self.in_order = true;
        self
    }

    /// Calls a handler on whichever worker is free first; see [`Pool::call`](crate::Pool::call). The call does not create
    /// the session, nor does it put its expiry off; what the handler reads and writes does.
    ///
    /// # Errors
    ///
    /// [`Error::Session`](crate::Error::Session) if the session's id is none; else see [`Error`](crate::Error).
    pub fn call<R: DeserializeOwned>(&self, handler: &str, args: impl Serialize) -> Call<R> {
        Call::new(self.plan(handler, &args))
    }

    /// Calls a generator likewise; see [`Pool::stream`](crate::Pool::stream). One that runs in order has its turn until it
    /// has ended, however slow its consumer is.
    ///
    /// # Errors
    ///
    /// As for [`call`](PoolSession::call).
    pub fn stream<T: DeserializeOwned>(
        &self,
        handler: &str,
        args: impl Serialize,
    ) -> CallStream<T> {
        CallStream::new(self.plan(handler, &args))
    }

    fn plan(&self, handler: &str, args: &impl Serialize) -> Plan {
        let id = self.session.as_ref().map(|it| it.id().unwrap_or_default()).map_err(Clone::clone);
        Plan::in_session(Arc::clone(&self.anchor), id, self.in_order, handler, args)
    }

    /// The session's state: its values and programs.
    ///
    /// # Errors
    ///
    /// [`SessionError::Invalid`] if its id is none.
    pub fn state(&self) -> Result<Session, SessionError> {
        self.session.clone()
    }
}
