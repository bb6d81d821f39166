//! The handle of one session.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{
    Expected, Key, Operation, Outcome, Programs, Scope, SessionError, SessionInfo, SessionStore,
    Space, Value,
};

/// How often `update` tries.
const TRIES: u32 = 200;

/// The delay before the second try is at most this; it doubles with each, up to the longest.
const FIRST: Duration = Duration::from_micros(50);
const LONGEST: Duration = Duration::from_millis(50);

/// A handle of one session, or of the global one. Cheap to clone; it means the id, whether there is such a session or not.
///
/// Keys have 1 to 1024 bytes of UTF-8; another is [`SessionError::Invalid`]. All methods can fail with
/// [`SessionError::Closed`] once the store is closed, and with what its backend says. Nothing happens before a future is
/// awaited; dropped before its end, it leaves its write done whole or not at all.
#[derive(Clone)]
pub struct Session {
    store: SessionStore,
    scope: Scope,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("store", &self.store.name())
            .field("id", &self.id())
            .finish()
    }
}

impl Session {
    pub(crate) fn new(store: SessionStore, scope: Scope) -> Self {
        Self { store, scope }
    }

    /// Its id; `None` for the global one.
    pub fn id(&self) -> Option<&str> {
        match &self.scope {
            Scope::Global => None,
            Scope::Session(id) => Some(id),
        }
    }

    /// What it is to [`SessionStore::execute`].
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The store that it belongs to.
    pub fn store(&self) -> &SessionStore {
        &self.store
    }

    // === The session ===

    /// Creates it, unless it exists: then this is an access, and nothing changes. Of many that do so at once, one creates
    /// it.
    ///
    /// # Errors
    ///
    /// [`SessionError::Full`].
    pub async fn create(&self) -> Result<SessionInfo, SessionError> {
        self.create_as(None).await
    }

    /// Creates it with a TTL of its own, at least 1 ms. If it exists, this is an access, and its TTL stays what it is.
    ///
    /// # Errors
    ///
    /// [`SessionError::Full`]; [`SessionError::Invalid`] for the global session.
    pub async fn create_with_ttl(&self, ttl: Duration) -> Result<SessionInfo, SessionError> {
        self.create_as(Some(ttl)).await
    }

    async fn create_as(&self, ttl: Option<Duration>) -> Result<SessionInfo, SessionError> {
        match self.store.run(Operation::Create { scope: self.scope.clone(), ttl }).await? {
            Outcome::Info(Some(info)) => Ok(info),
            other => Err(unexpected(&other)),
        }
    }

    /// What is known of it, if it exists. No access.
    ///
    /// # Errors
    ///
    /// See [`Session`].
    pub async fn info(&self) -> Result<Option<SessionInfo>, SessionError> {
        match self.store.run(Operation::Info { scope: self.scope.clone() }).await? {
            Outcome::Info(info) => Ok(info),
            other => Err(unexpected(&other)),
        }
    }

    /// An access and nothing else: it lives for its whole TTL from now. `false` if there is no such session.
    ///
    /// # Errors
    ///
    /// See [`Session`].
    pub async fn touch(&self) -> Result<bool, SessionError> {
        self.done(Operation::Touch { scope: self.scope.clone() }).await
    }

    /// Ends it now, with all its values and programs. `false` if there was none.
    ///
    /// # Errors
    ///
    /// [`SessionError::Invalid`] for the global session.
    pub async fn expire(&self) -> Result<bool, SessionError> {
        self.done(Operation::Expire { scope: self.scope.clone() }).await
    }

    async fn done(&self, operation: Operation) -> Result<bool, SessionError> {
        match self.store.run(operation).await? {
            Outcome::Done(done) => Ok(done),
            other => Err(unexpected(&other)),
        }
    }

    // === Its values ===

    /// Reads a value.
    ///
    /// # Errors
    ///
    /// [`SessionError::Decode`] if it does not fit the type, or is not JSON.
    pub async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, SessionError> {
        Ok(self.get_versioned(key).await?.map(|(value, _)| value))
    }

    /// Reads a value with its version.
    ///
    /// # Errors
    ///
    /// As [`Session::get`].
    pub async fn get_versioned<T: DeserializeOwned>(
        &self,
        key: &str,
    ) -> Result<Option<(T, u64)>, SessionError> {
        let found = self.get_value(key).await?;
        found.map(|(value, version)| Ok((value.decode()?, version))).transpose()
    }

    /// Reads a value of any kind, with its version.
    ///
    /// # Errors
    ///
    /// See [`Session`].
    pub async fn get_value(&self, key: &str) -> Result<Option<(Value, u64)>, SessionError> {
        self.read(Space::Value, key).await
    }

    /// Writes a value, as JSON; gives its version. A session that does not exist is created.
    ///
    /// # Errors
    ///
    /// [`SessionError::Encode`], [`SessionError::TooLarge`], [`SessionError::Full`].
    pub async fn put<T: Serialize + ?Sized>(
        &self,
        key: &str,
        value: &T,
    ) -> Result<u64, SessionError> {
        self.write(Space::Value, key, Value::json(value)?, Expected::Any).await
    }

    /// Writes a value of any kind; gives its version. The store keeps the [`Bytes`](bytes::Bytes) as they are: a slice of a
    /// larger buffer keeps all of that.
    ///
    /// # Errors
    ///
    /// [`SessionError::Invalid`] if it is not what its kind says; else as [`Session::put`].
    pub async fn put_value(&self, key: &str, value: Value) -> Result<u64, SessionError> {
        value.check()?;
        self.write(Space::Value, key, value, Expected::Any).await
    }

    /// Writes a value if the present one is the expected one; gives its version.
    ///
    /// # Errors
    ///
    /// [`SessionError::Conflict`] with the version that was found; else as [`Session::put`].
    pub async fn compare_and_set<T: Serialize + ?Sized>(
        &self,
        key: &str,
        expected: Expected,
        value: &T,
    ) -> Result<u64, SessionError> {
        self.write(Space::Value, key, Value::json(value)?, expected).await
    }

    /// Reads a value, has it changed, and writes the result; gives what was written. Where another writer came in between,
    /// it reads again and calls the closure again, after a short random delay, which grows from 50 µs to 50 ms.
    ///
    /// # Errors
    ///
    /// [`SessionError::Contended`] after 200 tries; else as [`Session::get`] and [`Session::put`].
    pub async fn update<T, F>(&self, key: &str, mut change: F) -> Result<T, SessionError>
    where
        T: Serialize + DeserializeOwned,
        F: FnMut(Option<T>) -> T,
    {
        let changed = self.change(Space::Value, key, |old| {
            let old = old.map(|(value, _)| value.decode()).transpose()?;
            let new = change(old);
            Ok((Value::json(&new)?, new))
        });
        changed.await.map(|(new, _)| new)
    }

    /// Deletes a value; whether there was one.
    ///
    /// # Errors
    ///
    /// See [`Session`].
    pub async fn delete(&self, key: &str) -> Result<bool, SessionError> {
        self.remove(Space::Value, key).await
    }

    /// The keys of its values, sorted; none if there is no such session.
    ///
    /// # Errors
    ///
    /// See [`Session`].
    pub async fn keys(&self) -> Result<Vec<String>, SessionError> {
        self.names(Space::Value).await
    }

    /// Its programs.
    pub fn programs(&self) -> Programs {
        Programs::new(self.clone())
    }

    // === Both spaces ===

    fn key(&self, space: Space, name: &str) -> Key {
        Key { scope: self.scope.clone(), space, name: name.to_owned() }
    }

    pub(crate) async fn read(
        &self,
        space: Space,
        name: &str,
    ) -> Result<Option<(Value, u64)>, SessionError> {
        let key = self.key(space, name);
        match self.store.run(Operation::Get { key, known: None }).await? {
            Outcome::Missing => Ok(None),
            Outcome::Value { value, version } => Ok(Some((value, version))),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn write(
        &self,
        space: Space,
        name: &str,
        value: Value,
        expected: Expected,
    ) -> Result<u64, SessionError> {
        let key = self.key(space, name);
        match self.store.run(Operation::Put { key, value, expected }).await? {
            Outcome::Written { version } => Ok(version),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn remove(&self, space: Space, name: &str) -> Result<bool, SessionError> {
        let key = self.key(space, name);
        match self.store.run(Operation::Delete { key, expected: Expected::Any }).await? {
            Outcome::Deleted(deleted) => Ok(deleted),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn names(&self, space: Space) -> Result<Vec<String>, SessionError> {
        match self.store.run(Operation::Keys { scope: self.scope.clone(), space }).await? {
            Outcome::Keys(keys) => Ok(keys),
            other => Err(unexpected(&other)),
        }
    }

    /// Reads, changes and writes until no other writer comes in between.
    pub(crate) async fn change<R>(
        &self,
        space: Space,
        name: &str,
        mut change: impl FnMut(Option<(Value, u64)>) -> Result<(Value, R), SessionError>,
    ) -> Result<(R, u64), SessionError> {
        for attempt in 0..TRIES {
            if attempt > 0 {
                let most = FIRST.saturating_mul(1 << attempt.min(16)).min(LONGEST);
                tokio::time::sleep(most.mul_f64(fastrand::f64())).await;
            }
            let old = self.read(space, name).await?;
            let expected = match &old {
                None => Expected::Absent,
                Some((_, version)) => Expected::Version(*version),
            };
            let (value, result) = change(old)?;
            match self.write(space, name, value, expected).await {
                Ok(version) => return Ok((result, version)),
                Err(SessionError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(SessionError::Contended { key: name.to_owned(), tries: TRIES })
    }
}

/// A backend of somebody else's has answered something else than was asked.
fn unexpected(outcome: &Outcome) -> SessionError {
    SessionError::Server {
        server: "the backend".to_owned(),
        message: format!("unexpected answer {outcome:?}"),
    }
}
