//! What can go wrong with sessions, and what to do about it.

use std::path::PathBuf;
use std::time::Duration;

/// Every way in which a session store can fail. Cheap to clone.
#[non_exhaustive]
#[derive(Clone, Debug, thiserror::Error)]
pub enum SessionError {
    /// An option has a value that cannot work. Nothing was opened.
    #[error("option `{option}`: {message}")]
    Config {
        /// The builder method.
        option: &'static str,
        /// What is wrong, and what would be right.
        message: String,
    },

    /// An actor of this name is registered already, by another store or pool, or by the program.
    #[error(
        "the name `{name}` is taken: give this store another name, or close the other one first"
    )]
    NameTaken {
        /// The taken name.
        name: String,
    },

    /// An id, a key or a value is none that a store takes. Nothing was done.
    #[error("session: invalid {what}: {message}")]
    Invalid {
        /// What is invalid: `id`, `key`, `value`, `scope` or `ttl`.
        what: &'static str,
        /// Why, and what would be right.
        message: String,
    },

    /// One value is larger than a value may be. Nothing was written.
    #[error(
        "session: a value of {size} bytes, the limit is {limit}: store less, or raise `max_value_bytes`"
    )]
    TooLarge {
        /// Size of the value in bytes.
        size: usize,
        /// The store's `max_value_bytes`.
        limit: usize,
    },

    /// The store is full, even without its expired sessions. Nothing was written.
    #[error(
        "session: the store is full, `{limit}` is {value}: delete or expire what is not needed, shorten `ttl`, or raise `{limit}`"
    )]
    Full {
        /// The bound that was reached: `max_sessions` or `max_total_bytes`.
        limit: &'static str,
        /// Its value, in sessions or bytes.
        value: u64,
    },

    /// The value does not have the version that was expected. Nothing was written.
    #[error("session: conflict at `{key}`: {}; read it again", found_version(*found))]
    Conflict {
        /// The key.
        key: String,
        /// The version that the value has; `None` if there is no such value.
        found: Option<u64>,
    },

    /// [`update`](super::Session::update) met a conflict at every try. Nothing was written.
    #[error(
        "session: `{key}` was changed by others at each of {tries} tries: write it less often, or try later"
    )]
    Contended {
        /// The key.
        key: String,
        /// So often it was tried.
        tries: u32,
    },

    /// There is no such program.
    #[error("session: no program `{id}`: create it first")]
    NoProgram {
        /// Its id.
        id: String,
    },

    /// The value cannot be written as JSON. Nothing was written.
    #[error("session: the value cannot become JSON: {message}")]
    Encode {
        /// What cannot be written, and where it stands.
        message: String,
    },

    /// The stored value is not what the caller expects.
    #[error("session: the value is not what the caller expects: {message}")]
    Decode {
        /// What did not fit.
        message: String,
    },

    /// The store's file cannot be used. It was left as it is.
    #[error("session: {}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and the way out.
        message: String,
    },

    /// A write could not be made durable, and is not applied. Reads go on, writes do not until the store is opened again. It
    /// finds the write then or not: nobody can tell what a failing disk has kept.
    #[error("session: {}: the write failed and is not applied: {message}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        message: String,
    },

    /// The server did not answer, or not in time. The store tries to reach it again with every call.
    #[error(
        "session: {server}: {message}{}",
        if *may_have_applied { "; a write may have been applied" } else { "; nothing was written" }
    )]
    Unavailable {
        /// The server, without its password.
        server: String,
        /// What went wrong.
        message: String,
        /// `false` only if the server certainly did not do it.
        may_have_applied: bool,
    },

    /// The server refused, for a reason that a second try does not cure.
    #[error("session: {server}: {message}")]
    Server {
        /// The server, without its password.
        server: String,
        /// What it said.
        message: String,
    },

    /// The store is closed.
    #[error("the session store `{store}` is closed")]
    Closed {
        /// Its name.
        store: String,
    },
}

impl SessionError {
    /// Whether a second try is safe and may help without anything being changed: it certainly was not applied, and the
    /// reason may pass by itself.
    pub fn is_retryable(&self) -> bool {
        match self {
            SessionError::Full { .. } | SessionError::Contended { .. } => true,
            SessionError::Unavailable { may_have_applied, .. } => !may_have_applied,
            SessionError::Config { .. }
            | SessionError::NameTaken { .. }
            | SessionError::Invalid { .. }
            | SessionError::TooLarge { .. }
            | SessionError::Conflict { .. }
            | SessionError::NoProgram { .. }
            | SessionError::Encode { .. }
            | SessionError::Decode { .. }
            | SessionError::File { .. }
            | SessionError::Write { .. }
            | SessionError::Server { .. }
            | SessionError::Closed { .. } => false,
        }
    }
}

fn found_version(found: Option<u64>) -> String {
    match found {
        Some(version) => format!("its version is {version}"),
        None => "there is no such value".to_owned(),
    }
}

/// 100 years: it can be added to any moment.
pub(crate) const MAX_TTL: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Why this cannot be a TTL.
pub(crate) fn check_ttl(ttl: Duration) -> Result<(), String> {
    if ttl < Duration::from_millis(1) {
        return Err("a session lives for 1 ms at least".to_owned());
    }
    Ok(())
}
