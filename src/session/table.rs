//! The table: sessions in memory that many threads read and write at once.
//!
//! Locks are taken in this order: a shard, then the index; and a session's own, under which no other is taken. Values are
//! dropped under none.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use super::cell::{Cell, Entries, Entry, FOREVER, size_of};
use super::clock::{Clock, millis};
use super::index::Index;
use super::room::Room;
use super::{Expected, Key, Operation, Outcome, Scope, SessionError, Settings, Usage, Value};

/// Enough that threads which write different sessions seldom meet.
const SHARDS: usize = 64;

/// Of the expired sessions, so many are removed before other tasks have their turn.
const SWEEP: usize = 256;

/// The table is swept at most so often.
const OFTEN: Duration = Duration::from_millis(100);

type Shard = HashMap<Arc<str>, Arc<Cell>>;

#[cfg(feature = "durable")]
mod persist;
#[cfg(feature = "durable")]
use persist::Late;

#[derive(Debug)]
pub(crate) struct Table {
    shards: Box<[RwLock<Shard>]>,
    hasher: RandomState,
    index: Mutex<Index>,
    global: Arc<Cell>,
    pub(crate) room: Room,
    /// The last version, and the last incarnation, that was given.
    versions: AtomicU64,
    default_ttl: u64,
    clock: Clock,
    expired: AtomicU64,
    /// What a backend that persists has to see to.
    #[cfg(feature = "durable")]
    late: Option<Mutex<Late>>,
}

impl Table {
    pub(crate) fn new(settings: &Settings, clock: Clock) -> Self {
        let now = clock.now();
        let global = Cell::new("".into(), 0, (now, now), FOREVER, Entries::default());
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            hasher: RandomState::new(),
            index: Mutex::default(),
            global: Arc::new(global),
            room: Room::new(settings.max_sessions, settings.max_total_bytes),
            versions: AtomicU64::new(0),
            default_ttl: millis(settings.ttl),
            clock,
            expired: AtomicU64::new(0),
            #[cfg(feature = "durable")]
            late: None,
        }
    }

    pub(crate) fn now(&self) -> u64 {
        self.clock.now()
    }

    fn shard(&self, id: &str) -> &RwLock<Shard> {
        &self.shards[self.hasher.hash_one(id) as usize % SHARDS]
    }

    fn write_shard(&self, id: &str) -> RwLockWriteGuard<'_, Shard> {
        self.shard(id).write().unwrap_or_else(PoisonError::into_inner)
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn next_version(&self) -> u64 {
        self.versions.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn find(&self, scope: &Scope) -> Option<Arc<Cell>> {
        match scope {
            Scope::Global => Some(Arc::clone(&self.global)),
            Scope::Session(id) => {
                let shard = self.shard(id).read().unwrap_or_else(PoisonError::into_inner);
                shard.get(id).cloned()
            }
        }
    }

    /// The living session of this scope; finding it is an access.
    pub(crate) fn access(&self, scope: &Scope, now: u64) -> Option<Arc<Cell>> {
        let cell = self.find(scope).filter(|cell| cell.access(now))?;
        #[cfg(feature = "durable")]
        self.note_access(&cell, now);
        Some(cell)
    }

    // === Operations ===

    /// Does everything but writes.
    pub(crate) fn read(&self, operation: &Operation) -> Outcome {
        let now = self.now();
        match operation {
            Operation::Get { key, known } => {
                let Some(cell) = self.access(&key.scope, now) else { return Outcome::Missing };
                let entries = cell.read();
                match entries.get(key.space, &key.name) {
                    None => Outcome::Missing,
                    Some(entry) if Some(entry.version) == *known => Outcome::Unchanged,
                    Some(Entry { value, version }) => {
                        Outcome::Value { value: value.clone(), version: *version }
                    }
                }
            }
            Operation::Keys { scope, space } => {
                let cell = self.access(scope, now);
                Outcome::Keys(cell.map(|cell| cell.read().keys(*space)).unwrap_or_default())
            }
            Operation::Info { scope } => {
                let cell = self.find(scope).filter(|cell| cell.lives(now));
                Outcome::Info(cell.map(|cell| cell.info()))
            }
            _ => Outcome::Done(self.access(operation.scope(), now).is_some()),
        }
    }

    /// Does any operation.
    pub(crate) fn execute(&self, operation: Operation) -> Result<Outcome, SessionError> {
        match operation {
            Operation::Put { key, value, expected } => {
                self.put(&key, value, expected).map(|version| Outcome::Written { version })
            }
            Operation::Delete { key, expected } => {
                self.delete(&key, expected).map(Outcome::Deleted)
            }
            Operation::Create { scope, ttl } => {
                let cell = self.create(&scope, ttl.map_or(self.default_ttl, millis))?;
                Ok(Outcome::Info(Some(cell.info())))
            }
            Operation::Expire { scope } => Ok(Outcome::Done(self.end(&scope))),
            read => Ok(self.read(&read)),
        }
    }

    fn put(&self, key: &Key, value: Value, expected: Expected) -> Result<u64, SessionError> {
        let size = size_of(&key.name, &value);
        loop {
            let now = self.now();
            let Some(cell) = self.access(&key.scope, now) else {
                if let Expected::Version(_) = expected {
                    return Err(key.conflict(None));
                }
                self.take(now, |room| room.take_session_with(size))?;
                let version = self.next_version();
                let mut entries = Entries::default();
                entries.insert(key.space, &key.name, Entry { value: value.clone(), version });
                if self.link(&self.new_cell(&key.scope, self.default_ttl, now, entries), now) {
                    return Ok(version);
                }
                self.room.give_back(1, 1, size);
                continue;
            };
            let mut entries = cell.write();
            // It may have ended while the lock was waited for; whoever ends it takes the lock after that.
            if !cell.access(now) {
                continue;
            }
            let old = entries.get(key.space, &key.name);
            let found = old.map(|entry| entry.version);
            if !expected.is_met_by(found) {
                return Err(key.conflict(found));
            }
            let old_size = old.map_or(0, |entry| size_of(&key.name, &entry.value));
            if let Err(full) = self.room.take_bytes(size.saturating_sub(old_size)) {
                drop(entries);
                self.free(now, full)?;
                continue;
            }
            let version = self.next_version();
            let old = entries.insert(key.space, &key.name, Entry { value, version });
            // Counted under the lock: who removes it gives back what has been counted.
            self.room.add(0, u64::from(old.is_none()), 0);
            self.room.give_back(0, 0, old_size.saturating_sub(size));
            drop(entries);
            return Ok(version);
        }
    }

    fn delete(&self, key: &Key, expected: Expected) -> Result<bool, SessionError> {
        let now = self.now();
        let missing = || {
            if let Expected::Version(_) = expected { Err(key.conflict(None)) } else { Ok(false) }
        };
        let Some(cell) = self.access(&key.scope, now) else { return missing() };
        let mut entries = cell.write();
        if !cell.access(now) {
            return missing();
        }
        let Some(found) = entries.get(key.space, &key.name).map(|entry| entry.version) else {
            return missing();
        };
        if !expected.is_met_by(Some(found)) {
            return Err(key.conflict(Some(found)));
        }
        let old = entries.remove(key.space, &key.name);
        drop(entries);
        if let Some(old) = old {
            self.room.give_back(0, 1, size_of(&key.name, &old.value));
        }
        Ok(true)
    }

    fn create(&self, scope: &Scope, ttl: u64) -> Result<Arc<Cell>, SessionError> {
        loop {
            let now = self.now();
            if let Some(cell) = self.access(scope, now) {
                return Ok(cell);
            }
            self.take(now, Room::take_session)?;
            let cell = self.new_cell(scope, ttl, now, Entries::default());
            if self.link(&cell, now) {
                return Ok(cell);
            }
            self.room.give_back(1, 0, 0);
        }
    }

    /// Ends a session with all its values; whether it lived.
    fn end(&self, scope: &Scope) -> bool {
        let Scope::Session(id) = scope else { return false };
        let now = self.now();
        let mut shard = self.write_shard(id);
        let Some(cell) = shard.remove(id) else { return false };
        self.index().remove(id);
        drop(shard);
        let lived = cell.end(now);
        self.bury(&cell, !lived);
        lived
    }

    // === Coming and going of sessions ===

    fn new_cell(&self, scope: &Scope, ttl: u64, now: u64, entries: Entries) -> Arc<Cell> {
        let id = match scope {
            Scope::Global => Arc::clone(&self.global.id),
            Scope::Session(id) => Arc::clone(id),
        };
        Arc::new(Cell::new(id, self.next_version(), (now, now), ttl, entries))
    }

    /// Puts a session in, unless one of its id lives. The caller has taken its room.
    fn link(&self, cell: &Arc<Cell>, now: u64) -> bool {
        let mut shard = self.write_shard(&cell.id);
        if shard.get(&cell.id).is_some_and(|other| other.lives(now)) {
            return false;
        }
        let old = shard.insert(Arc::clone(&cell.id), Arc::clone(cell));
        self.index().insert(&cell.id, cell.deadline());
        drop(shard);
        if let Some(old) = old {
            self.bury(&old, true);
        }
        true
    }

    /// Empties a session that has ended and is out of the table, and gives its room back.
    fn bury(&self, cell: &Cell, expired: bool) {
        let entries = std::mem::take(&mut *cell.write());
        self.room.give_back(1, entries.len(), entries.bytes);
        if expired {
            self.expired.fetch_add(1, Ordering::Relaxed);
            #[cfg(feature = "durable")]
            self.note_gone(cell);
        }
    }

    /// Takes room, where need be that of expired sessions.
    pub(crate) fn take(
        &self,
        now: u64,
        take: impl Fn(&Room) -> Result<(), SessionError>,
    ) -> Result<(), SessionError> {
        loop {
            match take(&self.room) {
                Ok(()) => return Ok(()),
                Err(full) => self.free(now, full)?,
            }
        }
    }

    /// Removes expired sessions: looks at so many that may have, and says how many it has looked at, and removed.
    fn sweep(&self, now: u64, most: usize) -> (usize, usize) {
        let (mut seen, mut removed) = (0, 0);
        while seen < most {
            // Apart from the lock of the shard, which comes first in the order.
            let next = self.index().pop(now);
            let Some(id) = next else { break };
            seen += 1;
            let mut shard = self.write_shard(&id);
            let Some(cell) = shard.get(&id) else { continue };
            if cell.lives(now) {
                self.index().insert(&id, cell.deadline());
                continue;
            }
            let cell = shard.remove(&id);
            self.index().remove(&id);
            drop(shard);
            if let Some(cell) = cell {
                self.bury(&cell, true);
                removed += 1;
            }
        }
        (seen, removed)
    }

    /// Frees room by removing an expired session or more; the error if there is none.
    fn free(&self, now: u64, full: SessionError) -> Result<(), SessionError> {
        loop {
            match self.sweep(now, 16) {
                (_, 1..) => return Ok(()),
                (0, 0) => return Err(full),
                _ => {}
            }
        }
    }

    /// Removes all that has expired, a part at a time; gives the time until there may be more.
    pub(crate) async fn maintain(&self) -> Duration {
        while self.sweep(self.now(), SWEEP).0 == SWEEP {
            tokio::task::yield_now().await;
        }
        let next = self.index().next().unwrap_or(u64::MAX);
        Duration::from_millis(next.saturating_sub(self.now())).max(OFTEN)
    }

    // === Looking at it from outside ===

    /// The ids of living sessions, sorted.
    pub(crate) fn list(&self, prefix: &str, after: Option<String>, limit: usize) -> Vec<String> {
        let now = self.now();
        let mut found = Vec::new();
        let mut after = after.map(Arc::<str>::from);
        while found.len() < limit {
            let wanted = limit - found.len();
            let page = self.index().page(prefix, after.as_deref(), wanted);
            let lives = |id: &&Arc<str>| {
                let cell = self.find(&Scope::Session(Arc::clone(id)));
                cell.is_some_and(|cell| cell.lives(now))
            };
            found.extend(page.iter().filter(lives).map(|id| (**id).to_owned()));
            if page.len() < wanted {
                break;
            }
            after = page.last().cloned();
        }
        found
    }

    pub(crate) fn usage(&self) -> Usage {
        let (sessions, values, bytes) = self.room.used();
        Usage { sessions, values, bytes, expired: self.expired.load(Ordering::Relaxed) }
    }
}
