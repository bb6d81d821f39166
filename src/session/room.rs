//! How much a store holds, and how much it may.

use std::sync::atomic::{AtomicU64, Ordering};

use super::SessionError;

/// The sums of a table. Room is taken before a write and given back after a removal: the bounds hold at every moment.
#[derive(Debug)]
pub(crate) struct Room {
    max_sessions: u64,
    max_bytes: u64,
    sessions: AtomicU64,
    values: AtomicU64,
    bytes: AtomicU64,
}

impl Room {
    pub(crate) fn new(max_sessions: usize, max_bytes: u64) -> Self {
        Self {
            max_sessions: max_sessions as u64,
            max_bytes,
            sessions: AtomicU64::new(0),
            values: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    pub(crate) fn take_session(&self) -> Result<(), SessionError> {
        if take(&self.sessions, 1, self.max_sessions) {
            return Ok(());
        }
        Err(SessionError::Full { limit: "max_sessions", value: self.max_sessions })
    }

    pub(crate) fn take_bytes(&self, more: u64) -> Result<(), SessionError> {
        // A value that shrinks needs no room, also where the bound was lowered below what there is.
        if more == 0 || take(&self.bytes, more, self.max_bytes) {
            return Ok(());
        }
        Err(SessionError::Full { limit: "max_total_bytes", value: self.max_bytes })
    }

    /// For a session that comes with one value.
    pub(crate) fn take_session_with(&self, bytes: u64) -> Result<(), SessionError> {
        self.take_session()?;
        if let Err(full) = self.take_bytes(bytes) {
            self.give_back(1, 0, 0);
            return Err(full);
        }
        self.add(0, 1, 0);
        Ok(())
    }

    /// Counts what is there already, bound or not.
    pub(crate) fn add(&self, sessions: u64, values: u64, bytes: u64) {
        self.sessions.fetch_add(sessions, Ordering::Relaxed);
        self.values.fetch_add(values, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn give_back(&self, sessions: u64, values: u64, bytes: u64) {
        self.sessions.fetch_sub(sessions, Ordering::Relaxed);
        self.values.fetch_sub(values, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Sessions, values and bytes.
    pub(crate) fn used(&self) -> (u64, u64, u64) {
        let read = |sum: &AtomicU64| sum.load(Ordering::Relaxed);
        (read(&self.sessions), read(&self.values), read(&self.bytes))
    }
}

fn take(sum: &AtomicU64, more: u64, max: u64) -> bool {
    let grown = |used: u64| used.checked_add(more).filter(|&sum| sum <= max);
    sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok()
}
