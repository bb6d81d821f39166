//! The writes of one transaction: what each comes to, seen over the table and the writes before it.

use std::collections::HashMap;
use std::collections::hash_map;
use std::sync::Arc;

use super::disk::{Change, times};
use crate::session::cell::{Cell, Entries, Entry, FOREVER, size_of};
use crate::session::clock::{millis, system_time};
use crate::session::room::Room;
use crate::session::table::Table;
use crate::session::{Expected, Key, Operation, Outcome, Scope, SessionError, SessionInfo, Space};

/// Nothing of it is in the table before it is applied. Room is taken from the table at once, so that the bounds hold, and
/// given back if it comes to nothing.
pub(super) struct Batch<'t> {
    table: &'t Table,
    now: u64,
    scopes: HashMap<Scope, Pending>,
    /// Sessions and bytes.
    taken: (u64, u64),
}

/// What becomes of one scope.
struct Pending {
    /// The session that lived in the table.
    base: Option<Arc<Cell>>,
    /// That one is to end.
    ends: bool,
    /// One that takes its place.
    new: Option<New>,
    /// What is put, and (`None`) deleted, in whichever lives at last.
    entries: HashMap<(Space, String), Option<Entry>>,
}

struct New {
    incarnation: u64,
    ttl: u64,
}

/// What a write is answered once all is applied.
pub(super) enum Reply {
    Outcome(Outcome),
    /// The session of this scope, as it is then; as it was, if it ended again in the same batch.
    Info(Scope, SessionInfo),
}

impl Pending {
    fn lives(&self) -> bool {
        self.new.is_some() || (self.base.is_some() && !self.ends)
    }

    /// The version and size of a value.
    fn find(&self, key: &Key) -> Option<(u64, u64)> {
        let of = |entry: &Entry| (entry.version, size_of(&key.name, &entry.value));
        if let Some(entry) = self.entries.get(&(key.space, key.name.clone())) {
            return entry.as_ref().map(of);
        }
        if self.new.is_some() || self.ends {
            return None;
        }
        self.base.as_ref()?.read().get(key.space, &key.name).map(of)
    }

    /// The incarnation of whichever lives.
    fn incarnation(&self) -> u64 {
        match (&self.new, &self.base) {
            (Some(new), _) => new.incarnation,
            (None, Some(base)) => base.incarnation,
            (None, None) => 0,
        }
    }
}

impl<'t> Batch<'t> {
    pub(super) fn new(table: &'t Table) -> Self {
        Self { table, now: table.now(), scopes: HashMap::new(), taken: (0, 0) }
    }

    /// Decides what a write comes to.
    pub(super) fn add(
        &mut self,
        operation: Operation,
        default_ttl: u64,
    ) -> Result<Reply, SessionError> {
        match operation {
            Operation::Put { key, value, expected } => {
                let size = size_of(&key.name, &value);
                let found = self.find(&key, expected)?;
                if !self.pending(&key.scope).lives() {
                    self.start(&key.scope, default_ttl, size)?;
                } else {
                    self.take_bytes(size.saturating_sub(found.map_or(0, |(_, size)| size)))?;
                }
                let version = self.table.next_version();
                let pending = self.pending(&key.scope);
                pending.entries.insert((key.space, key.name), Some(Entry { value, version }));
                Ok(Reply::Outcome(Outcome::Written { version }))
            }
            Operation::Delete { key, expected } => {
                let found = self.find(&key, expected)?;
                if found.is_some() {
                    self.pending(&key.scope).entries.insert((key.space, key.name), None);
                }
                Ok(Reply::Outcome(Outcome::Deleted(found.is_some())))
            }
            Operation::Create { scope, ttl } => {
                if !self.pending(&scope).lives() {
                    self.start(&scope, ttl.map_or(default_ttl, millis), 0)?;
                }
                let now = system_time(self.now);
                let (Scope::Session(id), Some(New { ttl, .. })) =
                    (&scope, &self.pending(&scope).new)
                else {
                    let info = self.table.read(&Operation::Info { scope });
                    return Ok(Reply::Outcome(info));
                };
                let ttl = std::time::Duration::from_millis(*ttl);
                let info = SessionInfo::new(&**id, now, now, Some(ttl), 0, 0);
                Ok(Reply::Info(scope, info))
            }
            Operation::Expire { scope } => {
                let pending = self.pending(&scope);
                let lived = pending.lives();
                pending.ends = pending.base.is_some();
                pending.new = None;
                pending.entries.clear();
                Ok(Reply::Outcome(Outcome::Done(lived)))
            }
            read => Ok(Reply::Outcome(self.table.read(&read))),
        }
    }

    fn pending(&mut self, scope: &Scope) -> &mut Pending {
        match self.scopes.entry(scope.clone()) {
            hash_map::Entry::Occupied(entry) => entry.into_mut(),
            hash_map::Entry::Vacant(entry) => entry.insert(Pending {
                base: self.table.access(scope, self.now),
                ends: false,
                new: None,
                entries: HashMap::new(),
            }),
        }
    }

    fn find(&mut self, key: &Key, expected: Expected) -> Result<Option<(u64, u64)>, SessionError> {
        let found = self.pending(&key.scope).find(key);
        let version = found.map(|(version, _)| version);
        if expected.is_met_by(version) { Ok(found) } else { Err(key.conflict(version)) }
    }

    fn start(&mut self, scope: &Scope, ttl: u64, bytes: u64) -> Result<(), SessionError> {
        self.take_bytes(bytes)?;
        self.table.take(self.now, Room::take_session)?;
        self.taken.0 += 1;
        let incarnation = self.table.next_version();
        self.pending(scope).new = Some(New { incarnation, ttl });
        Ok(())
    }

    fn take_bytes(&mut self, bytes: u64) -> Result<(), SessionError> {
        self.table.take(self.now, |room| room.take_bytes(bytes))?;
        self.taken.1 += bytes;
        Ok(())
    }

    /// What is to be written to disk.
    pub(super) fn changes(&self) -> Vec<Change<'_>> {
        let mut changes = Vec::new();
        for (scope, pending) in &self.scopes {
            if let (Scope::Session(id), Some(base), true) = (scope, &pending.base, pending.ends) {
                changes.push(Change::End { id, incarnation: base.incarnation });
            }
            let is_changed = pending.new.is_some() || !pending.entries.is_empty();
            match (scope, &pending.new, &pending.base) {
                (Scope::Session(id), Some(New { incarnation, ttl }), _) => {
                    let (created, accessed) = (self.now, self.now);
                    let (incarnation, ttl) = (*incarnation, *ttl);
                    changes.push(Change::Session { id, incarnation, created, accessed, ttl });
                }
                (Scope::Session(_), None, Some(base)) if !pending.ends && is_changed => {
                    changes.push(times(base, self.now));
                }
                _ => {}
            }
            let incarnation = pending.incarnation();
            changes.extend(pending.entries.iter().map(|((space, name), entry)| match entry {
                Some(entry) => Change::Put { incarnation, space: *space, name, entry },
                None => Change::Delete { incarnation, space: *space, name },
            }));
        }
        changes
    }

    /// Puts it into the table, once it is on disk.
    pub(super) fn apply(mut self) {
        // Only one thread takes room: nobody comes in between.
        self.give_back();
        // A session lives for its TTL from when its writer hears of it, however long the disk has taken.
        let now = self.table.now();
        for (scope, pending) in std::mem::take(&mut self.scopes) {
            let Pending { base, ends, new, entries } = pending;
            if let (Some(base), true) = (&base, ends) {
                self.table.unlink(base);
            }
            match (scope, new, base) {
                (Scope::Session(id), Some(New { incarnation, ttl }), _) => {
                    let mut all = Entries::default();
                    for ((space, name), entry) in entries {
                        if let Some(entry) = entry {
                            all.insert(space, &name, entry);
                        }
                    }
                    let cell = Cell::new(id, incarnation, (self.now, now), ttl, all);
                    self.table.put_in(cell);
                }
                (_, None, Some(base)) if !ends && !entries.is_empty() => {
                    if base.ttl != FOREVER {
                        base.access(now);
                        base.note_persisted(self.now);
                    }
                    self.table.change(&base, entries);
                }
                _ => {}
            }
        }
    }

    fn give_back(&mut self) {
        let (sessions, bytes) = std::mem::take(&mut self.taken);
        self.table.room.give_back(sessions, 0, bytes);
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.give_back();
    }
}
