//! Named actors that are instances of Python classes: the handle. How one is made is [`builder`]'s; what keeps its
//! process, [`home`]'s.

mod builder;
pub(crate) mod home;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ractor::{ActorCell, ActorRef, registry};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use crate::actors::py_actor::PyActorMsg;
use crate::call::Call;
use crate::codec::Payload;
use crate::error::Error;
use crate::pool::Pool;
use crate::stats::Stats;
pub use builder::PyActorBuilder;

/// A Python object that is an actor: an instance of a class in a supervised process of its own, found by its name, which
/// does one message at a time. Cheap to clone.
///
/// ```python
/// # examples/python_actor.py
/// class Counter:
///     def __init__(self, start: float = 0) -> None:
///         self.count = start
///
///     def add(self, amount: float) -> float:
///         self.count += amount
///         return self.count
///
///     def dump_state(self) -> float:
///         return self.count
///
///     def load_state(self, state: float) -> None:
///         self.count = state
/// ```
///
/// ```
/// use snakepen::PyActor;
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), snakepen::Error> {
/// let counter = PyActor::spawn("counter", "examples/python_actor.py:Counter", (40,)).await?;
/// counter.cast("add", (1,)).await?;
/// let count: i64 = counter.call("add", (1,)).await?;
/// assert_eq!(count, 42);
///
/// let same = PyActor::find("counter").await.expect("it is registered");
/// same.stop().await
/// # }
/// ```
///
/// # Methods
///
/// What can be called is each public method of the class, `async def` or not, inherited or not: functions, class methods
/// and static methods whose names don't begin with `_`, but for `dump_state` and `load_state`. Another name is
/// [`Error::UnknownHandler`], which tells those that there are. Arguments and results are those of [`Pool::call`].
///
/// # Death and state
///
/// When the process dies, the message that it was running fails with [`Error::WorkerDied`]. Those that wait go on with a
/// new instance, made with the same arguments, as soon as that is there; the actor, its name and its handles stay. A plain
/// method that is cancelled, as when its time runs out, costs its process too, as in a pool. If a new instance cannot be
/// made, as its `__init__` raises now, the pool goes on trying, at most every 30 s, and calls meanwhile fail at once with
/// that error.
///
/// An instance's attributes end with it. What is to last, a class returns from `dump_state(self)`, as JSON, bytes or a NumPy
/// array, and takes back in `load_state(self, state)`, which is called after `__init__` when there is such a state. It is saved
/// after each message that ends without an exception, before that is answered: **what was answered is kept**. It is not
/// written where it is what was written before.
/// [`save_every`](PyActorBuilder::save_every) saves less often. What a message had changed that raised is in the instance and
/// is saved with the next. If the save fails, the call fails with a `snakepen.StateError`, which says that the method has run.
///
/// State is in a [session store](crate::session), under the key `actor/<name>` of its [global](crate::SessionStore::global)
/// session, which does not expire. By default that is a store of the actor's own, which ends with the actor;
/// [`sessions`](PyActorBuilder::sessions) gives another, in which the next actor of this name finds it. To begin anew, delete
/// the key while there is no such actor. If somebody else writes it meanwhile, the next message fails, and the instance is
/// built anew from what was written. A state that `load_state` refuses fails the start.
///
/// # Supervision
///
/// It is an actor like others: [`PyActor::get_cell`] is its cell, to be monitored or stopped; [`PyActorBuilder::spawn_linked`]
/// puts it under a supervisor of yours, which hears of its end, from wherever that comes, and may spawn it anew. A supervisor
/// that ends takes it along. It is not ended by the end of its process, which is replaced, nor by that of its handles.
/// Stopped, by [`PyActor::stop`] or otherwise, it ends when its process has. Killed, its name is free at once and its process
/// is killed; a successor waits until it is gone.
#[derive(Clone, Debug)]
pub struct PyActor {
    instance: Arc<Instance>,
}

impl PyActor {
    /// Spawns an actor of this name, an instance of the class at `target`, made with these arguments; returns when it is
    /// ready for messages. See [`PyActor::builder`] for what each means, and for options.
    ///
    /// # Errors
    ///
    /// As [`PyActorBuilder::spawn`].
    pub async fn spawn(
        name: impl Into<String>,
        target: impl Into<String>,
        args: impl Serialize,
    ) -> Result<Self, Error> {
        Self::builder(name, target).args(args).spawn().await
    }

    /// Options for an actor of this name in ractor's registry: not empty, and without `/`.
    ///
    /// `target` is the class: `path/file.py:Class` or `module:Class`, or a path of attributes, such as `module:Outer.Inner`.
    /// What is said of [`Builder::handlers`](crate::Builder::handlers) goes for the file and the module.
    pub fn builder(name: impl Into<String>, target: impl Into<String>) -> PyActorBuilder {
        PyActorBuilder::new(name.into(), target.into())
    }

    /// The actor of this name in this process, if there is one. One that is being spawned is waited for.
    pub async fn find(name: &str) -> Option<Self> {
        let cell = registry::where_is(name)?;
        if cell.is_message_type_of::<PyActorMsg>() != Some(true) {
            return None;
        }
        let found = ActorRef::<PyActorMsg>::from(cell).call(PyActorMsg::Find, None).await;
        found.ok()?.success_or(()).ok()
    }

    pub(crate) fn of(instance: Arc<Instance>) -> Self {
        Self { instance }
    }

    /// The actor's name.
    pub fn name(&self) -> String {
        self.instance.actor.get_name().unwrap_or_default()
    }

    /// Calls a method. The call is one of a [pool](Pool::call) in every respect: it has a time, is cancelled by being dropped,
    /// and waits while another message is being done; up to [`queue_limit`](crate::Builder::queue_limit) messages wait.
    ///
    /// Messages are done in the order in which they are first awaited.
    ///
    /// # Errors
    ///
    /// See [`Error`]; [`Error::Closed`] once the actor has ended.
    pub fn call<R: DeserializeOwned>(&self, method: &str, args: impl Serialize) -> Call<R> {
        self.instance.call(method, &args)
    }

    /// Calls a method and does not wait for its end: returns when the message has its place in the queue. It has the time
    /// of a call.
    ///
    /// How it ends nobody is told: an error, also that there is no such method, is logged (at WARN) and
    /// [counted](PyActor::failed_casts). If the future is dropped before it returns, the method never runs.
    ///
    /// # Errors
    ///
    /// What keeps it from being queued: [`Error::Saturated`], [`Error::Closed`], [`Error::Encode`], [`Error::TooLarge`].
    pub async fn cast(&self, method: &str, args: impl Serialize) -> Result<(), Error> {
        self.instance.cast(method, &args).await
    }

    /// Calls a method with arguments that are encoded already.
    pub(crate) fn call_raw(&self, method: &str, args: Payload) -> Call<()> {
        self.instance.pool.call_raw(method, args)
    }

    /// Likewise, without waiting for its end.
    pub(crate) async fn cast_raw(&self, method: &str, args: Payload) -> Result<(), Error> {
        self.instance.go_on(method, self.call_raw(method, args)).await
    }

    /// How many casts have ended with an error.
    pub fn failed_casts(&self) -> u64 {
        self.instance.failed_casts.load(Ordering::Relaxed)
    }

    /// Figures of the private pool: its `size` is 1, and its calls are the messages.
    pub fn stats(&self) -> Stats {
        self.instance.pool.stats()
    }

    /// The process, while there is one that takes messages.
    pub fn pid(&self) -> Option<i32> {
        self.instance.pool.workers().first().and_then(|worker| worker.pid)
    }

    /// The actor, for messages of ractor's kind.
    pub fn actor_ref(&self) -> ActorRef<PyActorMsg> {
        self.instance.actor.clone()
    }

    /// The actor's cell, for monitors and supervisors.
    pub fn get_cell(&self) -> ActorCell {
        self.instance.actor.get_cell()
    }

    /// Stops the actor, and returns when its process is gone and its name is free. Messages that are queued or run have the
    /// [`shutdown_grace`](crate::Builder::shutdown_grace) to end; others fail with [`Error::Closed`] from now on. Goes on if
    /// the future is dropped; may be called many times.
    ///
    /// # Errors
    ///
    /// None at present; later versions may have some.
    pub async fn stop(&self) -> Result<(), Error> {
        self.instance.actor.stop(None);
        let _ = self.instance.actor.wait(None).await;
        self.instance.pool.shutdown().await
    }
}

/// What the actor and its handles share.
#[derive(Debug)]
pub(crate) struct Instance {
    actor: ActorRef<PyActorMsg>,
    pool: Pool,
    failed_casts: AtomicU64,
}

impl Instance {
    pub(crate) fn new(actor: ActorRef<PyActorMsg>, pool: Pool) -> Self {
        Self { actor, pool, failed_casts: AtomicU64::new(0) }
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(crate) fn call<R: DeserializeOwned>(&self, method: &str, args: &impl Serialize) -> Call<R> {
        self.pool.call(method, args)
    }

    pub(crate) async fn cast(
        self: &Arc<Self>,
        method: &str,
        args: &impl Serialize,
    ) -> Result<(), Error> {
        self.go_on(method, self.call(method, args)).await
    }

    /// Places the call of a method that nobody waits for.
    async fn go_on(self: &Arc<Self>, method: &str, call: Call<()>) -> Result<(), Error> {
        let placed = call.place().await?;
        let (instance, method) = (Arc::clone(self), method.to_owned());
        tokio::spawn(async move {
            if let Err(error) = placed.ended().await {
                instance.cast_failed(&method, &error);
            }
        });
        Ok(())
    }

    pub(crate) fn cast_failed(&self, method: &str, error: &Error) {
        self.failed_casts.fetch_add(1, Ordering::Relaxed);
        let actor = self.actor.get_name();
        tracing::warn!(actor, method, %error, "a cast failed");
    }
}
