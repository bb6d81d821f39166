//! What a call that Python makes inherits from the one that it is made in: the calls that wait for it, and their deadline.
//!
//! Nothing of it crosses the wire. The port finds the request that asks, and the future that serves it has its context
//! around it; calls that are made in there look.

use std::sync::{Arc, Weak};
use std::time::Instant;

use crate::board::Held;
use crate::error::Error;
use crate::pool::Pool;
use crate::scheduler::Place;
use crate::shared::Shared;
use crate::turns::Turn;

tokio::task_local! {
    static CURRENT: CallContext;
}

/// Where a call from Python comes from: the calls that wait for its answer, innermost first.
///
/// While a function that is exposed by [`Pool::expose_fn`](crate::Pool::expose_fn) runs, its context is there for the calls
/// that it makes itself: they have no more time than the outer call has left, and one that could never be run, as
/// the outer calls hold what it needs, fails with [`Error::WouldDeadlock`](crate::Error::WouldDeadlock). An actor's messages
/// have theirs from [`Inbound::context`](crate::Inbound::context); around what it does for them it is put with
/// [`CallContext::scope`]. A task that is spawned has none, unless its future was put into one.
#[derive(Clone, Debug)]
pub struct CallContext {
    pool: Weak<Shared>,
    /// Nobody waits for a cast.
    chain: Option<Arc<Nested>>,
}

impl CallContext {
    pub(crate) fn new(shared: &Arc<Shared>, chain: Option<Nested>) -> Self {
        Self { pool: Arc::downgrade(shared), chain: chain.map(Arc::new) }
    }

    /// The same, of what is not waited for.
    pub(crate) fn of_cast(self) -> Self {
        Self { chain: None, ..self }
    }

    /// The same, for what has until `deadline`.
    pub(crate) fn until(self, deadline: Instant) -> Self {
        let chain = self.chain.as_deref().map(|it| Arc::new(Nested { deadline, ..it.clone() }));
        Self { chain, ..self }
    }

    /// The context that this code runs in, if it runs in one.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// Runs a future in this context, wherever it is polled: spawned, for instance.
    pub fn scope<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        CURRENT.scope(self.clone(), future)
    }

    /// When the call's time runs out; `None` for a cast, which nobody waits for.
    pub fn deadline(&self) -> Option<Instant> {
        self.chain.as_ref().map(|call| call.deadline)
    }

    /// How many calls wait for this one, each within the one before; 0 for a cast.
    pub fn depth(&self) -> usize {
        Nested::chain(self.chain.as_deref()).count()
    }

    /// The pool whose worker calls, for calls back into it, if it still runs. What is exposed should not keep a handle of its own
    /// pool, which would keep that running.
    pub fn pool(&self) -> Option<Pool> {
        self.pool.upgrade()?.anchor().map(Pool::of)
    }
}

/// The calls that wait for what is done here, if any do.
pub(crate) fn chain() -> Option<Arc<Nested>> {
    CURRENT.try_with(|context| context.chain.clone()).ok().flatten()
}

/// A call that is held by a worker, and waits there for what it has called.
#[derive(Clone, Debug)]
pub(crate) struct Nested {
    pub(crate) pool: Weak<Shared>,
    pub(crate) held: Held,
    /// While its handler runs, its worker runs no other call.
    pub(crate) alone: bool,
    pub(crate) handler: String,
    /// The turn of its session, as long as somebody has it.
    pub(crate) turn: Weak<Turn>,
    pub(crate) deadline: Instant,
    pub(crate) outer: Option<Arc<Nested>>,
}

impl Nested {
    fn chain(innermost: Option<&Self>) -> impl Iterator<Item = &Self> {
        std::iter::successors(innermost, |call| call.outer.as_deref())
    }

    /// This one and those that it is in, as far as they are of the pool.
    fn of_pool(&self, shared: &Shared) -> impl Iterator<Item = &Self> {
        let pool: *const Shared = shared;
        Self::chain(Some(self)).filter(move |call| Weak::as_ptr(&call.pool) == pool)
    }

    /// The error of a call at this place that could not be run before this one has ended. `None` where it may be run: also
    /// where others hold the rest of the workers, who may wait for this chain in their turn.
    pub(crate) fn blocks(&self, shared: &Shared, place: Place, handler: &str) -> Option<Error> {
        // A pool that grows by itself does so for a call that waits.
        let most = shared.config.autoscale.as_ref().map_or(0, |it| *it.range.end());
        let held = self.of_pool(shared).map(|call| (call.held, call.alone));
        let bound = place.bound();
        if !shared.board.hold_all(held, bound, most) {
            return None;
        }
        let waits_for = match bound {
            Some(slot) => format!("worker {}", shared.config.worker_name(slot)),
            None => format!("a free worker of pool `{}`", shared.config.name),
        };
        Some(self.would_deadlock(handler, waits_for))
    }

    /// Likewise of one that waits for the turn of a session.
    pub(crate) fn blocks_turn(
        &self,
        shared: &Shared,
        session: &str,
        handler: &str,
    ) -> Option<Error> {
        // Also where its worker finishes its calls beside another that has taken over its slot.
        let has_turn =
            |call: &Self| call.turn.upgrade().is_some_and(|turn| turn.session() == session);
        let blocked = self.of_pool(shared).any(has_turn);
        blocked.then(|| self.would_deadlock(handler, format!("the turn of session `{session}`")))
    }

    fn would_deadlock(&self, handler: &str, waits_for: String) -> Error {
        let mut chain: Vec<_> = Self::chain(Some(self)).map(|it| it.handler.clone()).collect();
        chain.reverse();
        Error::WouldDeadlock { handler: handler.to_owned(), waits_for, chain }
    }
}
