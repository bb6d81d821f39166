//! What is asked of a store, and what it answers: the one form that handles, workers and backends share.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::error::check_ttl;
use super::{SessionError, Value};

/// The longest id of a session, in bytes.
const MAX_ID: usize = 255;

/// The longest key, in bytes.
const MAX_KEY: usize = 1024;

/// Whose state is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// The store's own, which always exists and never expires.
    Global,
    /// That of the session with this id: 1 to 255 bytes of UTF-8 without control characters.
    Session(Arc<str>),
}

impl Scope {
    /// That of the session with this id.
    ///
    /// # Errors
    ///
    /// [`SessionError::Invalid`] if it is no id.
    pub fn session(id: impl Into<Arc<str>>) -> Result<Self, SessionError> {
        let scope = Scope::Session(id.into());
        scope.check()?;
        Ok(scope)
    }

    fn check(&self) -> Result<(), SessionError> {
        let Scope::Session(id) = self else { return Ok(()) };
        let message = if id.is_empty() {
            "it is empty"
        } else if id.len() > MAX_ID {
            "it is longer than 255 bytes"
        } else if id.chars().any(char::is_control) {
            "it has control characters"
        } else {
            return Ok(());
        };
        Err(SessionError::Invalid { what: "id", message: message.to_owned() })
    }
}

/// The two key spaces of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Space {
    /// Plain values, by key.
    Value,
    /// Programs, by id.
    Program,
}

/// Names one value of the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Whose it is.
    pub scope: Scope,
    /// In which of its key spaces.
    pub space: Space,
    /// 1 to 1024 bytes of UTF-8.
    pub name: String,
}

impl Key {
    pub(crate) fn conflict(&self, found: Option<u64>) -> SessionError {
        SessionError::Conflict { key: self.name.clone(), found }
    }

    fn check(&self) -> Result<(), SessionError> {
        self.scope.check()?;
        if self.name.is_empty() || self.name.len() > MAX_KEY {
            let message = format!("it has {} bytes, and may have 1 to {MAX_KEY}", self.name.len());
            return Err(SessionError::Invalid { what: "key", message });
        }
        Ok(())
    }
}

/// What a write expects to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expected {
    /// Anything, or nothing.
    Any,
    /// No value.
    Absent,
    /// The value of this version.
    Version(u64),
}

impl Expected {
    pub(crate) fn is_met_by(self, found: Option<u64>) -> bool {
        match self {
            Expected::Any => true,
            Expected::Absent => found.is_none(),
            Expected::Version(version) => found == Some(version),
        }
    }
}

/// One operation on a store.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub enum Operation {
    /// Read a value. Answered by [`Outcome::Value`], [`Outcome::Missing`], or [`Outcome::Unchanged`] if its version is `known`.
    Get {
        /// Which one.
        key: Key,
        /// The version that the caller has already.
        known: Option<u64>,
    },
    /// Write a value; a session that does not exist is created with the store's TTL. Answered by [`Outcome::Written`].
    Put {
        /// Which one.
        key: Key,
        /// The new value.
        value: Value,
        /// What it is to replace; else nothing is written, and the error is [`SessionError::Conflict`].
        expected: Expected,
    },
    /// Delete a value. Answered by [`Outcome::Deleted`].
    Delete {
        /// Which one.
        key: Key,
        /// What it is to delete; else nothing is deleted, and the error is [`SessionError::Conflict`].
        expected: Expected,
    },
    /// The keys of a space. Answered by [`Outcome::Keys`].
    Keys {
        /// Whose.
        scope: Scope,
        /// In which space.
        space: Space,
    },
    /// What is known of a session; no access. Answered by [`Outcome::Info`].
    Info {
        /// Which session.
        scope: Scope,
    },
    /// Create a session, unless it exists: then that is an access, and its TTL stays. Answered by [`Outcome::Info`].
    Create {
        /// Which session.
        scope: Scope,
        /// Its TTL; without one the store's.
        ttl: Option<Duration>,
    },
    /// An access without anything else. Answered by [`Outcome::Done`], `false` if there is no such session.
    Touch {
        /// Which session.
        scope: Scope,
    },
    /// End a session now, with all its values. Answered by [`Outcome::Done`], `false` if there is no such session.
    Expire {
        /// Which session; not the global one.
        scope: Scope,
    },
}

impl Operation {
    /// Whether it can be done, as far as that can be told without a store. Says nothing of values.
    pub(crate) fn check(&self) -> Result<(), SessionError> {
        let global = |message: &str| {
            Err(SessionError::Invalid { what: "scope", message: message.to_owned() })
        };
        match self {
            Operation::Get { key, .. }
            | Operation::Put { key, .. }
            | Operation::Delete { key, .. } => key.check(),
            Operation::Create { scope: Scope::Global, ttl: Some(_) } => {
                global("the global session has no TTL")
            }
            Operation::Expire { scope: Scope::Global } => {
                global("the global session never expires: delete its values")
            }
            Operation::Create { scope, ttl } => {
                scope.check()?;
                if let Some(Err(message)) = ttl.map(check_ttl) {
                    return Err(SessionError::Invalid { what: "ttl", message });
                }
                Ok(())
            }
            Operation::Keys { scope, .. }
            | Operation::Info { scope }
            | Operation::Touch { scope }
            | Operation::Expire { scope } => scope.check(),
        }
    }

    pub(crate) fn scope(&self) -> &Scope {
        match self {
            Operation::Get { key, .. }
            | Operation::Put { key, .. }
            | Operation::Delete { key, .. } => &key.scope,
            Operation::Keys { scope, .. }
            | Operation::Info { scope }
            | Operation::Create { scope, .. }
            | Operation::Touch { scope }
            | Operation::Expire { scope } => scope,
        }
    }

    pub(crate) fn is_write(&self) -> bool {
        match self {
            Operation::Put { .. }
            | Operation::Delete { .. }
            | Operation::Create { .. }
            | Operation::Expire { .. } => true,
            Operation::Get { .. }
            | Operation::Keys { .. }
            | Operation::Info { .. }
            | Operation::Touch { .. } => false,
        }
    }
}

/// What a store answers to an [`Operation`].
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There is no such value.
    Missing,
    /// The value has the version that the caller knows.
    Unchanged,
    /// The value.
    Value {
        /// What it is.
        value: Value,
        /// Its version.
        version: u64,
    },
    /// It is written.
    Written {
        /// The version of the new value.
        version: u64,
    },
    /// Whether there was a value to delete.
    Deleted(bool),
    /// The keys, sorted.
    Keys(Vec<String>),
    /// The session, if it exists.
    Info(Option<SessionInfo>),
    /// Whether there was such a session.
    Done(bool),
}

/// What is known of a session.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// Its id; empty for the global one.
    pub id: String,
    /// When it was created.
    pub created: SystemTime,
    /// Its last access, to the millisecond.
    pub accessed: SystemTime,
    /// It expires so long after its last access; `None` for the global one, which doesn't.
    pub ttl: Option<Duration>,
    /// The number of its values and programs.
    pub entries: u64,
    /// The bytes of their keys and contents.
    pub bytes: u64,
}

impl SessionInfo {
    /// For backends.
    pub fn new(
        id: impl Into<String>,
        created: SystemTime,
        accessed: SystemTime,
        ttl: Option<Duration>,
        entries: u64,
        bytes: u64,
    ) -> Self {
        Self { id: id.into(), created, accessed, ttl, entries, bytes }
    }
}
