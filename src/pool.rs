//! The handles: of a pool, and of one of its workers.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorRef, ActorStatus, Message, SpawnErr, registry};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::actors::pool::PoolMsg;
use crate::actors::root::{Root, RootMsg};
use crate::actors::worker::WorkerMsg;
use crate::call::{Call, CallStream, Plan};
use crate::codec::Payload;
use crate::config::{Builder, Config};
use crate::dispatcher::Dispatcher;
use crate::error::Error;
use crate::expose::{self, FromCall, Target};
use crate::pool_session::PoolSession;
use crate::py_actor::PyActor;
use crate::reload;
use crate::resize;
use crate::scheduler::Place;
use crate::session::{SessionError, SessionStore};
use crate::shared::{PoolCell, Shared, Startup};
use crate::stats::{Stats, WorkerInfo};
use crate::sys::PoolCgroup;

/// The actors of a tree whose root was killed are gone within this time.
const FALL: Duration = Duration::from_secs(1);

/// Keeps a pool running; when the last handle drops it, the pool is shut down.
#[derive(Debug)]
pub(crate) struct Anchor {
    pub(crate) shared: Arc<Shared>,
    root: ActorRef<RootMsg>,
}

impl Anchor {
    /// Whether the tree itself is gone: killed, or with its runtime.
    pub(crate) fn is_dead(&self) -> bool {
        self.root.get_status() == ActorStatus::Stopped
    }

    /// Resolves when the tree is gone.
    pub(crate) async fn dead(&self) {
        let _ = self.root.wait(None).await;
    }
}

impl Drop for Anchor {
    fn drop(&mut self) {
        // A root that is gone has shut the pool down.
        let _ = self.root.send_message(RootMsg::Shutdown);
    }
}

/// A handle of a running pool. Cheap to clone; all clones mean the same pool.
///
/// When the last handle is dropped, those of workers and calls under way included, the pool shuts itself down in
/// the background, as [`Pool::shutdown`] would.
#[derive(Clone, Debug)]
pub struct Pool {
    anchor: Arc<Anchor>,
}

impl Pool {
    /// Options for a pool of this name, which is the prefix of its actors' names: `<name>` is the pool's actor,
    /// and `<name>/worker/<slot>` its workers'. Not empty, and without `/`.
    pub fn builder(name: impl Into<String>) -> Builder {
        Builder::new(name.into())
    }

    /// The running pool of this name in this process, if there is one.
    pub async fn find(name: &str) -> Option<Self> {
        let cell = registry::where_is(name)?;
        if cell.is_message_type_of::<PoolMsg>() != Some(true) {
            return None;
        }
        let found = ActorRef::<PoolMsg>::from(cell).call(PoolMsg::Handle, None).await;
        found.ok()?.success_or(()).ok()?
    }

    pub(crate) fn of(anchor: Arc<Anchor>) -> Self {
        Self { anchor }
    }

    /// Resolves when the tree is gone.
    pub(crate) async fn dead(&self) {
        self.anchor.dead().await;
    }

    /// Shuts the pool down, as [`Pool::shutdown`] does, without any grace for the calls that run or wait.
    pub(crate) async fn abort(&self) {
        let shared = &self.anchor.shared;
        shared.stop_admitting();
        shared.dispatcher(Dispatcher::abort);
        shared.board.kill_busy();
        // It has no error at present, and nobody who could be told.
        let _ = self.shutdown().await;
    }

    pub(crate) async fn start(config: Config) -> Result<Self, Error> {
        // The root's name guards those of its tree against other pools; these checks, against other actors.
        if let Some(name) =
            config.actor_names(config.workers).find(|name| registry::where_is(name).is_some())
        {
            return Err(Error::NameTaken { name });
        }
        check_runtime().await?;
        let sessions = match &config.sessions {
            Some(sessions) => sessions.clone(),
            None => match SessionStore::of_pool(config.actor_name("sessions")).await {
                Err(SessionError::NameTaken { name }) => return Err(Error::NameTaken { name }),
                opened => opened?,
            },
        };
        let cgroup = find_cgroup(&config).await;
        let shared = Arc::new(Shared::new(config, cgroup, sessions));
        let name = shared.config.actor_name("root");
        let (root, _) = match Actor::spawn(Some(name), Root, Arc::clone(&shared)).await {
            Ok(root) => root,
            Err(SpawnErr::ActorAlreadyRegistered(_)) => {
                return Err(Error::NameTaken { name: shared.config.name.clone() });
            }
            Err(error) => {
                let error = crate::error::StartError::System(error.to_string());
                return Err(error.into());
            }
        };
        let anchor = Arc::new(Anchor { shared: Arc::clone(&shared), root });
        // Set once, here.
        let _ = shared.anchor.set(Arc::downgrade(&anchor));
        let pool = Self { anchor };
        let mut startup = shared.startup.subscribe();
        let outcome = tokio::select! {
            biased;
            outcome = startup.wait_for(|startup| !matches!(startup, Startup::Pending)) => {
                outcome.map(|outcome| outcome.clone())
            }
            // Shut down by way of another handle, or killed, before it was ready.
            _ = pool.anchor.root.wait(None) => Ok(Startup::Pending),
        };
        match outcome {
            Ok(Startup::Ready) => Ok(pool),
            Ok(Startup::Failed(error)) => {
                pool.shutdown().await?;
                Err(Error::Start(error))
            }
            Ok(Startup::Pending) | Err(_) => {
                pool.shutdown().await?;
                Err(Error::Closed { pool: pool.name().to_owned() })
            }
        }
    }

    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.anchor.shared.config.name
    }

    /// Calls a handler on whichever worker is free first.
    ///
    /// `args` is anything that serializes: a tuple or an array becomes the positional arguments, a struct or a
    /// map the keyword arguments, `()` none, and anything else the one positional argument. The result is decoded
    /// into whatever type the caller asks for (`serde::de::IgnoredAny` where it doesn't matter: `()` stands for Python's
    /// `None` alone). Nothing happens before the call is awaited.
    ///
    /// # Errors
    ///
    /// See [`Error`]. [`Error::may_have_run`] tells whether the handler can have started.
    pub fn call<R: DeserializeOwned>(&self, handler: &str, args: impl Serialize) -> Call<R> {
        Call::new(Plan::new(Arc::clone(&self.anchor), Place::Anywhere, handler, &args))
    }

    /// Calls a handler that is a generator, `async def` or not, on whichever worker is free first, and takes its items one
    /// by one as they come, each decoded into `T`. A handler that is none gives a stream of one item, its result. What a
    /// generator returns at its end is lost. An ordinary [`call`](Pool::call) of a generator gives all its items as one
    /// list, if that fits a frame ([`Builder::max_frame`]).
    ///
    /// `args` is as for [`call`](Pool::call). Nothing happens before the stream is polled.
    ///
    /// # Errors
    ///
    /// As for [`call`](Pool::call), after the items that have come before; an item that cannot be written as JSON, or is
    /// larger than a frame, is [`Error::BadResult`] with its index in the path, such as `$[3].name`.
    pub fn stream<T: DeserializeOwned>(
        &self,
        handler: &str,
        args: impl Serialize,
    ) -> CallStream<T> {
        CallStream::new(Plan::new(Arc::clone(&self.anchor), Place::Anywhere, handler, &args))
    }

    /// Calls a handler with arguments that are encoded already.
    pub(crate) fn call_raw<R>(&self, handler: &str, args: Payload) -> Call<R> {
        Call::new(Plan::raw(Arc::clone(&self.anchor), handler, args))
    }

    /// A handle of the worker at `slot`, which counts from 0. After a [resize](Pool::resize) that retires the slot its calls
    /// fail with [`Error::NoSuchWorker`], until the pool grows again.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchWorker`] for a slot that the pool doesn't have.
    pub fn worker(&self, slot: usize) -> Result<WorkerHandle, Error> {
        let Shared { config, board, .. } = &*self.anchor.shared;
        let workers = board.size();
        if slot >= workers {
            let name = config.worker_name(slot);
            return Err(Error::NoSuchWorker { name, workers: Some(workers) });
        }
        Ok(WorkerHandle::new(Arc::clone(&self.anchor), slot))
    }

    /// A session of this id, for calls that belong to it. Nothing else happens: an id that is none is an error of the call.
    pub fn session(&self, id: &str) -> PoolSession {
        PoolSession::new(Arc::clone(&self.anchor), id)
    }

    /// Where the state of its sessions is: what was given to [`Builder::sessions`], else a store in memory of its own, which
    /// is closed with the pool.
    pub fn sessions(&self) -> &SessionStore {
        &self.anchor.shared.sessions
    }

    /// Lets handlers call this async function: `snakepen.actor("name").call(...)` is its answer, or raises
    /// `snakepen.ActorError` with the type and the message of its error. What was exposed by this name before is replaced;
    /// calls under way are not concerned.
    ///
    /// The function gets the arguments as any type that deserializes: a single positional argument as itself, several as a tuple,
    /// keyword arguments as a struct or a map, and `()` where there are none. It runs in a task of its own, many at once: at
    /// most 1024 calls of one worker, and 1024 casts of the pool; more are refused with an error of type `Busy`. A panic is an
    /// error of type `Panic` for who called, and of no other concern.
    ///
    /// A *call* (`.call`) is part of the request that makes it. When that ends, in whichever way, its worker's death
    /// included, or when Python leaves (a cancelled task), the future is dropped. While it is polled, [`CallContext`](crate::CallContext)
    /// tells what it is part of, and the calls of this or another pool that it makes have no more time than the request has left;
    /// those that could never be run fail with [`Error::WouldDeadlock`]. A *cast* (`.cast`) is accepted when its
    /// arguments fit, and then runs to its end, whatever becomes of the request and of the pool, with no deadline
    /// but its own. Its error is logged.
    ///
    /// A closure that keeps something clones it for each call: `move |args: A| { let kept = kept.clone(); async move { ... } }`.
    /// It should not keep a handle of this pool, which would keep the pool running: there is
    /// [`CallContext::pool`](crate::CallContext::pool).
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), snakepen::Error> {
    /// # let pool = snakepen::Pool::builder("expose-fn").handlers("examples/basics.py").workers(1).start().await?;
    /// pool.expose_fn("power", async |(base, exponent): (u64, u32)| {
    ///     base.checked_pow(exponent).ok_or("too large")
    /// })?;
    /// # pool.shutdown().await
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for a name that is none: it has 1 to 255 bytes of text without control characters.
    /// [`Error::Closed`] if the pool is shut down.
    pub fn expose_fn<A, R, E, F, Fut>(&self, name: &str, function: F) -> Result<(), Error>
    where
        A: DeserializeOwned,
        R: Serialize,
        E: Display + 'static,
        F: Fn(A) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, E>> + Send + 'static,
    {
        self.expose("expose_fn", name, expose::function(function))
    }

    /// Lets handlers call this actor by this name, which need not be its own: `snakepen.actor("name").call(...)` sends it the message
    /// that [`FromCall`] makes of the call, and waits for its [`Reply`](crate::Reply); `.cast(...)` only sends it. See
    /// [`Pool::expose_fn`] for what else holds.
    ///
    /// The reference does not keep the actor alive. When it has ended, calls fail with an error of type `ActorStopped`; whoever
    /// starts its successor exposes that by the same name. A mailbox has no limit: of the calls that wait in one, those whose
    /// [`Reply::is_closed`](crate::Reply::is_closed) may be passed over.
    ///
    /// # Errors
    ///
    /// As [`Pool::expose_fn`].
    pub fn expose_actor<M>(&self, name: &str, actor: ActorRef<M>) -> Result<(), Error>
    where
        M: FromCall + Message,
    {
        self.expose("expose_actor", name, expose::actor(actor))
    }

    /// Lets handlers send messages to this Python object by this name, which need not be its own:
    /// `snakepen.actor("name").call("method", ...)`, `.cast("method", ...)`. An exception that the method raises arrives as a
    /// `snakepen.ActorError` with its type and message. See [`Pool::expose_fn`] for what else holds; the actor is not kept
    /// alive by it.
    ///
    /// # Errors
    ///
    /// As [`Pool::expose_fn`].
    pub fn expose_py_actor(&self, name: &str, actor: &PyActor) -> Result<(), Error> {
        self.expose("expose_py_actor", name, expose::py_actor(actor.clone()))
    }

    fn expose(
        &self,
        option: &'static str,
        name: &str,
        target: Arc<dyn Target>,
    ) -> Result<(), Error> {
        let shared = &self.anchor.shared;
        if shared.is_closed() {
            return Err(Error::Closed { pool: self.name().to_owned() });
        }
        shared.exposed.insert(option, name, target)
    }

    /// Takes an exposed name back, and tells whether there was one. Calls under way are not concerned.
    pub fn unexpose(&self, name: &str) -> bool {
        self.anchor.shared.exposed.remove(name)
    }

    /// Figures of the pool, from one consistent look.
    pub fn stats(&self) -> Stats {
        let Shared { board, breaker, .. } = &*self.anchor.shared;
        let stats = board.stats();
        Stats { circuits: breaker.open(), ..stats }
    }

    /// What each of its workers is doing, by slot.
    pub fn workers(&self) -> Vec<WorkerInfo> {
        self.anchor.shared.board.workers(&self.anchor.shared.config)
    }

    /// Loads the Python code anew, as it is now: a new launcher imports what is preloaded, and then one worker after the
    /// other is replaced by one of it, between two calls. No call fails or waits for it. Goes on in the background if the
    /// future is dropped; of several reloads at once, each runs after the other.
    ///
    /// # Errors
    ///
    /// [`Error::Start`] with the traceback if the code does not load; the pool then serves with the code that it had. If the
    /// launcher that had it dies meanwhile, everything starts with the code as it is then, as after any launcher's death.
    /// [`Error::Closed`] if the pool is shut down.
    pub async fn reload(&self) -> Result<(), Error> {
        let shared = &self.anchor.shared;
        let reload = tokio::spawn(reload::reload(Arc::clone(shared)));
        match reload.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) if !shared.is_closed() => Err(Error::Start(error)),
            _ => Err(Error::Closed { pool: self.name().to_owned() }),
        }
    }

    /// Changes the number of workers, from 1 to 4096; [`Builder::workers`] is what it begins with. Goes on in the background
    /// if the future is dropped; of several changes at once, reloads included, each comes after the other.
    ///
    /// Growing adds slots at the end, and returns when all their workers are ready. They take calls as soon as they can; the
    /// pool has its new size, for [`Pool::stats`], [`Pool::worker`] and keys, once all of them are there.
    ///
    /// Shrinking retires the last slots, and returns when their processes and names are gone. Each worker finishes the call
    /// that it is running, takes no other, and leaves in order, within 2 s. Calls that wait for a retired slot by its
    /// [handle](WorkerHandle) fail with [`Error::NoSuchWorker`]; those that wait by a [key](Call::pinned) go to the slot that
    /// the key belongs to now. No other call is concerned.
    ///
    /// # Errors
    ///
    /// [`Error::Start`] if a new worker does not start, and [`Error::NameTaken`] if another actor has the name of one: the
    /// pool then has its former size again. [`Error::Config`] for a size that a pool cannot have, or that is out of the range
    /// of [`Builder::autoscale`], [`Error::Closed`] if the
    /// pool is shut down.
    pub async fn resize(&self, workers: usize) -> Result<(), Error> {
        let shared = Arc::clone(&self.anchor.shared);
        let resize = tokio::spawn(resize::resize(shared, workers));
        match resize.await {
            Ok(done) => done,
            Err(_) => Err(Error::Closed { pool: self.name().to_owned() }),
        }
    }

    /// Shuts the pool down and returns when no process of it is left.
    ///
    /// New calls fail with [`Error::Closed`] from now on. Those that run or wait have the
    /// [grace](Builder::shutdown_grace) to finish; a [stream](Pool::stream) that nobody reads does so only when it is dropped.
    /// Then each worker is asked to exit, which runs its `atexit`
    /// handlers; one that doesn't in what is left of the grace (1 s at least) gets TERM, and its process group
    /// KILL 1 s later. May be called many times, also at once: every call returns when all is done.
    ///
    /// # Errors
    ///
    /// None at present; later versions may have some.
    pub async fn shutdown(&self) -> Result<(), Error> {
        // A root that is gone has shut the pool down.
        let _ = self.anchor.root.send_message(RootMsg::Shutdown);
        let _ = self.anchor.root.wait(None).await;
        let shared = &self.anchor.shared;
        if !matches!(*shared.cell.borrow(), PoolCell::Closed) {
            // The tree was killed from outside, and is still falling.
            let fallen = async {
                for name in shared.config.actor_names(shared.board.known()) {
                    if let Some(actor) = registry::where_is(name) {
                        let _ = actor.wait(None).await;
                    }
                }
            };
            let _ = tokio::time::timeout(FALL, fallen).await;
            shared.close();
        }
        shared.ports_ended().await;
        shared.launchers_ended().await;
        shared.remove_cgroup().await;
        if shared.config.sessions.is_none() {
            shared.sessions.close().await?;
        }
        Ok(())
    }
}

/// Where the kernel is to hold workers to their memory limit, if they have one and it can.
async fn find_cgroup(config: &Config) -> Option<PoolCgroup> {
    config.worker_limits.memory?;
    let name = config.name.clone();
    let found = tokio::task::spawn_blocking(move || PoolCgroup::find(&name)).await;
    match found.unwrap_or_else(|error| Err(error.to_string())) {
        Ok(cgroup) => {
            let directory = cgroup.directory().display();
            tracing::info!(pool = config.name, cgroup = %directory, "the kernel enforces `memory_limit`");
            Some(cgroup)
        }
        Err(why) => {
            tracing::info!(
                pool = config.name,
                why,
                "no cgroup for `memory_limit`: resident sizes are watched"
            );
            None
        }
    }
}

/// Without its I/O and time drivers a tokio runtime panics in the first task that needs them.
pub(crate) async fn check_runtime() -> Result<(), Error> {
    let reject =
        |message: &str| Err(Error::Config { option: "start", message: message.to_owned() });
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        return reject("there is no tokio runtime here: await it inside of one");
    };
    let needs = async {
        tokio::time::sleep(Duration::ZERO).await;
        drop(tokio::net::UnixDatagram::unbound());
    };
    match runtime.spawn(needs).await {
        Err(error) if error.is_panic() => {
            reject("the tokio runtime has no I/O or no time driver: build it with `enable_all()`")
        }
        _ => Ok(()),
    }
}

/// A handle of one worker of a pool: its calls run on that very worker, after one another.
///
/// The handle means the slot: after a restart it reaches the worker's replacement.
#[derive(Clone, Debug)]
pub struct WorkerHandle {
    anchor: Arc<Anchor>,
    slot: usize,
}

impl WorkerHandle {
    pub(crate) fn new(anchor: Arc<Anchor>, slot: usize) -> Self {
        Self { anchor, slot }
    }

    /// The worker of this name, such as `demo/worker/3`, by way of the actor registry.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchWorker`] if no worker has this name at present.
    pub async fn find(name: &str) -> Result<Self, Error> {
        let lookup = async {
            let cell = registry::where_is(name)?;
            if cell.is_message_type_of::<WorkerMsg>() != Some(true) {
                return None;
            }
            let found = ActorRef::<WorkerMsg>::from(cell).call(WorkerMsg::Handle, None).await;
            found.ok()?.success_or(()).ok()?
        };
        lookup.await.ok_or_else(|| Error::NoSuchWorker { name: name.to_owned(), workers: None })
    }

    /// The worker's slot.
    pub fn slot(&self) -> usize {
        self.slot
    }

    /// The worker's name in the actor registry, such as `demo/worker/3`.
    pub fn name(&self) -> String {
        self.anchor.shared.config.worker_name(self.slot)
    }

    /// Calls a handler on this worker, as soon as it is free; see [`Pool::call`].
    pub fn call<R: DeserializeOwned>(&self, handler: &str, args: impl Serialize) -> Call<R> {
        Call::new(Plan::new(Arc::clone(&self.anchor), Place::Only(self.slot), handler, &args))
    }

    /// Calls a generator on this worker, as soon as it is free; see [`Pool::stream`].
    pub fn stream<T: DeserializeOwned>(
        &self,
        handler: &str,
        args: impl Serialize,
    ) -> CallStream<T> {
        let place = Place::Only(self.slot);
        CallStream::new(Plan::new(Arc::clone(&self.anchor), place, handler, &args))
    }
}
