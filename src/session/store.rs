//! The store: its builder, its handle, and what its actors see of it.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use ractor::{Actor, ActorRef, SpawnErr, registry};
use tokio::sync::Notify;

use super::backend::{Backend, Settings};
use super::error::{MAX_TTL, check_ttl};
use super::{Memory, Operation, Outcome, Scope, Session, SessionError};
use crate::actors::session_root::{SessionRoot, SessionRootMsg};
use crate::actors::session_store::SessionStoreMsg;

/// Of a list without a limit, so many ids are asked for at a time.
const PAGE: usize = 1000;

/// The options of a store, made by [`SessionStore::builder`] and opened by [`StoreBuilder::open`].
///
/// Every option has a default; each method says what happens when its limit is reached.
#[must_use = "a builder does nothing until it is opened"]
pub struct StoreBuilder {
    settings: Settings,
    backend: Arc<dyn Backend>,
}

impl std::fmt::Debug for StoreBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreBuilder").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl StoreBuilder {
    /// How long a session lives after its last read or write. Default: 1 h; at least 1 ms, and counted in milliseconds.
    ///
    /// [`Session::create_with_ttl`] gives one session another.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.settings.ttl = ttl.min(MAX_TTL);
        self
    }

    /// The most sessions, the global one not counted. Default: 100 000.
    ///
    /// At the limit, once what has expired is removed, a session that does not exist can be neither created nor written:
    /// [`SessionError::Full`].
    pub fn max_sessions(mut self, sessions: usize) -> Self {
        self.settings.max_sessions = sessions;
        self
    }

    /// The most bytes of one value, or of one program. Default: 16 MiB. A larger one is refused with
    /// [`SessionError::TooLarge`].
    pub fn max_value_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_value_bytes = bytes;
        self
    }

    /// The most bytes of all keys and values together. Default: 1 GiB. A write that goes beyond, once what has expired is
    /// removed, is refused with [`SessionError::Full`]; one that makes a value smaller never is.
    ///
    /// What the store takes beside them is not counted: some 200 bytes a session, and 150 a value.
    pub fn max_total_bytes(mut self, bytes: u64) -> Self {
        self.settings.max_total_bytes = bytes;
        self
    }

    /// What keeps the sessions. Default: [`Memory`].
    pub fn backend(mut self, backend: impl Backend) -> Self {
        self.backend = Arc::new(backend);
        self
    }

    /// Opens the store. If the future is dropped, what it has opened by then is closed.
    ///
    /// Must be called on a tokio runtime with time enabled, and with I/O for a backend that needs it; the store lives on
    /// that runtime.
    ///
    /// # Errors
    ///
    /// [`SessionError::Config`] for an option that cannot work, [`SessionError::NameTaken`] if the store's name is in use,
    /// and what the backend says.
    pub async fn open(self) -> Result<SessionStore, SessionError> {
        self.check()?;
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return Err(SessionError::Config {
                option: "open",
                message: "there is no tokio runtime here: await it inside of one".to_owned(),
            });
        };
        let name = self.settings.name.clone();
        // In a task: it comes to an end, and a store that nobody waits for any more is closed by being dropped.
        match runtime.spawn(self.start()).await {
            Ok(opened) => opened,
            Err(error) if error.is_panic() => Err(SessionError::Config {
                option: "open",
                message: "the tokio runtime has no time driver: build it with `enable_all()`"
                    .to_owned(),
            }),
            Err(_) => Err(SessionError::Closed { store: name }),
        }
    }

    async fn start(self) -> Result<SessionStore, SessionError> {
        let Self { settings, backend } = self;
        // Without its driver this panics, here and not in a task of its own.
        tokio::time::sleep(Duration::ZERO).await;
        let taken = || SessionError::NameTaken { name: settings.name.clone() };
        let root = format!("{}/root", settings.name);
        if registry::where_is(&settings.name).is_some() || registry::where_is(&root).is_some() {
            return Err(taken());
        }
        backend.open(&settings).await?;
        let shared = Arc::new(Shared::new(settings.clone(), backend));
        let root = match Actor::spawn(Some(root), SessionRoot, Arc::clone(&shared)).await {
            Ok((root, _)) => root,
            Err(error) => {
                shared.backend.close().await?;
                return Err(match error {
                    SpawnErr::ActorAlreadyRegistered(_) => taken(),
                    SpawnErr::StartupFailed(error) if error.is::<SpawnErr>() => taken(),
                    error => SessionError::Config { option: "open", message: error.to_string() },
                });
            }
        };
        let anchor = Arc::new(Anchor { shared, root });
        // Set once, here.
        let _ = anchor.shared.anchor.set(Arc::downgrade(&anchor));
        Ok(SessionStore { anchor })
    }

    fn check(&self) -> Result<(), SessionError> {
        let reject = |option, message: String| Err(SessionError::Config { option, message });
        let Settings { name, ttl, max_value_bytes, max_sessions, .. } = &self.settings;
        if name.is_empty() || name.contains('/') {
            return reject("builder", "a store's name is not empty and has no `/`".to_owned());
        }
        if let Err(message) = check_ttl(*ttl) {
            return reject("ttl", message);
        }
        if *max_sessions == 0 {
            return reject("max_sessions", "at least one".to_owned());
        }
        if *max_value_bytes == 0 || *max_value_bytes > 1 << 30 {
            return reject("max_value_bytes", "a value's limit is from 1 byte to 1 GiB".to_owned());
        }
        Ok(())
    }
}

// === The handle ===

/// Keeps a store's actors running; when the last handle drops it, they end.
#[derive(Debug)]
pub(crate) struct Anchor {
    shared: Arc<Shared>,
    root: ActorRef<SessionRootMsg>,
}

impl Drop for Anchor {
    fn drop(&mut self) {
        // A root that is gone has ended what there was.
        let _ = self.root.send_message(SessionRootMsg::Shutdown);
    }
}

/// A handle of a store of sessions. Cheap to clone; all clones mean the same store.
///
/// When the last handle is dropped, those of [sessions](Session) and operations under way included, the store ends in the
/// background, as after [`SessionStore::close`]. See the [module](super) for how it works.
#[derive(Clone, Debug)]
pub struct SessionStore {
    anchor: Arc<Anchor>,
}

impl SessionStore {
    /// Options for a store of this name, which is the name of its actor; `<name>/root` is that of its supervisor. Not
    /// empty, and without `/`.
    pub fn builder(name: impl Into<String>) -> StoreBuilder {
        let settings = Settings {
            name: name.into(),
            ttl: Duration::from_secs(3600),
            max_sessions: 100_000,
            max_value_bytes: 16 << 20,
            max_total_bytes: 1 << 30,
        };
        StoreBuilder { settings, backend: Arc::new(Memory::new()) }
    }

    /// A store in memory for one pool; its name is below the pool's.
    pub(crate) async fn of_pool(name: String) -> Result<Self, SessionError> {
        Self::builder(name).start().await
    }

    /// The open store of this name in this process, if there is one.
    pub async fn find(name: &str) -> Option<Self> {
        let cell = registry::where_is(name)?;
        if cell.is_message_type_of::<SessionStoreMsg>() != Some(true) {
            return None;
        }
        let actor = ActorRef::<SessionStoreMsg>::from(cell);
        actor.call(SessionStoreMsg::Handle, None).await.ok()?.success_or(()).ok()?
    }

    pub(crate) fn of(anchor: Arc<Anchor>) -> Self {
        Self { anchor }
    }

    #[cfg(test)]
    pub(crate) async fn maintain(&self) {
        self.anchor.shared.backend.maintain().await.unwrap();
    }

    /// The store's name.
    pub fn name(&self) -> &str {
        &self.anchor.shared.settings.name
    }

    /// A handle of the session with this id: 1 to 255 bytes of UTF-8 without control characters. Does nothing else: the
    /// session need not exist, and is created by the first write.
    ///
    /// # Errors
    ///
    /// [`SessionError::Invalid`] if it is no id.
    pub fn session(&self, id: impl Into<Arc<str>>) -> Result<Session, SessionError> {
        Ok(Session::new(self.clone(), Scope::session(id)?))
    }

    /// A handle of the global session, which always exists and never expires. Its values count for the bounds on bytes.
    pub fn global(&self) -> Session {
        Session::new(self.clone(), Scope::Global)
    }

    /// The ids of the sessions, sorted; the global one has none. No access.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), snakepen::SessionError> {
    /// # let store = snakepen::SessionStore::builder("listed").open().await?;
    /// for id in ["a-1", "b-1", "b-2", "b-3"] {
    ///     store.session(id)?.create().await?;
    /// }
    /// assert_eq!(store.list().await?.len(), 4);
    /// assert_eq!(store.list().prefix("b-").after("b-1").limit(1).await?, ["b-2"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn list(&self) -> List {
        List { store: self.clone(), prefix: String::new(), after: None, limit: usize::MAX }
    }

    /// Figures of the store. Each is exact; as others go on working, they may be of slightly different moments.
    ///
    /// # Errors
    ///
    /// What the backend says; none for one in this process, until the store is closed.
    pub async fn stats(&self) -> Result<SessionStats, SessionError> {
        let shared = &self.anchor.shared;
        shared.check_open()?;
        let usage = shared.backend.usage().await?;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Ok(SessionStats {
            sessions: usage.sessions,
            values: usage.values,
            bytes: usage.bytes,
            reads: read(&shared.reads),
            writes: read(&shared.writes),
            conflicts: read(&shared.conflicts),
            expired: usage.expired,
        })
    }

    /// Does one operation: the way in for callers that have no use for a [`Session`]. Nothing happens before it is polled.
    ///
    /// Where the backend keeps its table in this process, all but writes of a durable one is done at the first poll. A
    /// value is copied into memory of its own.
    ///
    /// # Errors
    ///
    /// See [`SessionError`].
    pub fn execute(
        &self,
        operation: Operation,
    ) -> impl Future<Output = Result<Outcome, SessionError>> + Send + 'static + use<> {
        let anchor = Arc::clone(&self.anchor);
        async move {
            operation.check()?;
            let operation = match operation {
                Operation::Put { key, value, expected } => {
                    anchor.shared.check_size(&value)?;
                    value.check()?;
                    Operation::Put { key, value: value.detached(), expected }
                }
                operation => operation,
            };
            anchor.shared.run(operation).await
        }
    }

    /// Does an operation whose value is known to be what its kind says.
    pub(crate) async fn run(&self, operation: Operation) -> Result<Outcome, SessionError> {
        operation.check()?;
        if let Operation::Put { value, .. } = &operation {
            self.anchor.shared.check_size(value)?;
        }
        self.anchor.shared.run(operation).await
    }

    /// Closes the store, and returns when its actors have ended and all that it has acknowledged is where the backend
    /// keeps it. Operations that come later fail with [`SessionError::Closed`]; those under way are finished first, or fail
    /// so. May be called many times, also at once.
    ///
    /// # Errors
    ///
    /// What the backend says.
    pub async fn close(&self) -> Result<(), SessionError> {
        let Anchor { shared, root } = &*self.anchor;
        shared.closed.store(true, Ordering::Release);
        // A root that is gone has ended what there was.
        let _ = root.send_message(SessionRootMsg::Shutdown);
        let _ = root.wait(None).await;
        shared.backend.close().await
    }
}

/// Figures of a store since it was opened, from [`SessionStore::stats`].
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionStats {
    /// Sessions that have not expired, or not been swept yet, which happens within a second or so. The global one is not
    /// counted.
    pub sessions: u64,
    /// Values and programs, the global ones included.
    pub values: u64,
    /// The bytes of their keys and contents.
    pub bytes: u64,
    /// Operations of this host that write nothing.
    pub reads: u64,
    /// Operations of this host that write, or would have.
    pub writes: u64,
    /// Writes that met another version than they expected.
    pub conflicts: u64,
    /// Sessions that have expired and were swept by this host; on a server, by all hosts.
    pub expired: u64,
}

/// The ids of a store's sessions, once awaited; from [`SessionStore::list`].
#[derive(Clone, Debug)]
#[must_use = "a list does nothing until it is awaited"]
pub struct List {
    store: SessionStore,
    prefix: String,
    after: Option<String>,
    limit: usize,
}

impl List {
    /// Only ids that begin so. Default: all.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Only ids that come after this one: the last of the page before. Default: from the first.
    pub fn after(mut self, id: impl Into<String>) -> Self {
        self.after = Some(id.into());
        self
    }

    /// At most so many. Default: all.
    pub fn limit(mut self, ids: usize) -> Self {
        self.limit = ids;
        self
    }
}

impl IntoFuture for List {
    type Output = Result<Vec<String>, SessionError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { store, prefix, mut after, limit } = self;
        Box::pin(async move {
            let shared = &store.anchor.shared;
            let mut ids = Vec::new();
            while ids.len() < limit {
                shared.check_open()?;
                let wanted = PAGE.min(limit - ids.len());
                let page = shared.backend.list(prefix.clone(), after, wanted).await?;
                let ended = page.len() < wanted;
                after = page.last().cloned();
                ids.extend(page);
                if ended {
                    break;
                }
                tokio::task::yield_now().await;
            }
            Ok(ids)
        })
    }
}

// === What handles and actors share ===

pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) backend: Arc<dyn Backend>,
    anchor: OnceLock<Weak<Anchor>>,
    closed: AtomicBool,
    reads: AtomicU64,
    writes: AtomicU64,
    conflicts: AtomicU64,
    /// Nothing was done to it since it was maintained last.
    resting: AtomicBool,
    used: Notify,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Shared {
    fn new(settings: Settings, backend: Arc<dyn Backend>) -> Self {
        Self {
            settings,
            backend,
            anchor: OnceLock::new(),
            closed: AtomicBool::new(false),
            reads: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            conflicts: AtomicU64::new(0),
            resting: AtomicBool::new(false),
            used: Notify::new(),
        }
    }

    /// From now on [`used`](Self::used) tells of the next operation.
    pub(crate) fn rest(&self) {
        self.resting.store(true, Ordering::Relaxed);
    }

    /// Resolves when an operation was executed since it was to rest.
    pub(crate) async fn used(&self) {
        self.used.notified().await;
    }

    /// What keeps the store, while there is a handle.
    pub(crate) fn anchor(&self) -> Option<Arc<Anchor>> {
        self.anchor.get()?.upgrade()
    }

    fn check_open(&self) -> Result<(), SessionError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(SessionError::Closed { store: self.settings.name.clone() });
        }
        Ok(())
    }

    fn check_size(&self, value: &super::Value) -> Result<(), SessionError> {
        let (size, limit) = (value.size(), self.settings.max_value_bytes);
        if size > limit { Err(SessionError::TooLarge { size, limit }) } else { Ok(()) }
    }

    async fn run(&self, operation: Operation) -> Result<Outcome, SessionError> {
        self.check_open()?;
        let operation = match operation {
            Operation::Create { scope, ttl: Some(ttl) } => {
                Operation::Create { scope, ttl: Some(ttl.min(MAX_TTL)) }
            }
            operation => operation,
        };
        let counter = if operation.is_write() { &self.writes } else { &self.reads };
        counter.fetch_add(1, Ordering::Relaxed);
        let outcome = self.backend.execute(operation).await;
        if self.resting.load(Ordering::Relaxed) && self.resting.swap(false, Ordering::Relaxed) {
            self.used.notify_one();
        }
        if let Err(SessionError::Conflict { .. }) = outcome {
            self.conflicts.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }
}
