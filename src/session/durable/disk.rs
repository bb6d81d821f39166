//! What is in the file: three tables of a `redb` database.

use std::sync::Arc;

use bytes::Bytes;
use redb::{Database, ReadableTable, TableDefinition, TableError};

use crate::session::cell::{Cell, Entries, Entry};
use crate::session::{Space, Value};

/// `format` of the tables, and the last `version` that was given.
const META: TableDefinition<&str, u64> = TableDefinition::new("snakepen.meta");

/// By id: incarnation, time of creation, last access (both in ms since 1970), TTL in ms.
const SESSIONS: TableDefinition<&str, (u64, u64, u64, u64)> =
    TableDefinition::new("snakepen.sessions");

/// By incarnation (0 is the global session), space, and name: version, kind, contents. By incarnation and not by id, so that
/// what is left of an expired session never belongs to its successor.
const ENTRIES: TableDefinition<EntryKey, EntryRow> = TableDefinition::new("snakepen.entries");

type EntryKey = (u64, u8, &'static str);
type EntryRow = (u64, u8, &'static [u8]);

const FORMAT: u64 = 1;

#[derive(Debug, thiserror::Error)]
pub(super) enum DiskError {
    #[error("it is no session store")]
    Foreign,
    #[error("format {0}")]
    Newer(u64),
    #[error("{0}")]
    Damaged(String),
    #[error("{0}")]
    Database(Box<redb::Error>),
}

impl<E: Into<redb::Error>> From<E> for DiskError {
    fn from(error: E) -> Self {
        DiskError::Database(Box::new(error.into()))
    }
}

/// One change to what is stored.
pub(super) enum Change<'a> {
    /// Of a session's times, or a new one.
    Session {
        id: &'a str,
        incarnation: u64,
        created: u64,
        accessed: u64,
        ttl: u64,
    },
    /// The end of a session with all its entries.
    End {
        id: &'a str,
        incarnation: u64,
    },
    Put {
        incarnation: u64,
        space: Space,
        name: &'a str,
        entry: &'a Entry,
    },
    Delete {
        incarnation: u64,
        space: Space,
        name: &'a str,
    },
}

#[derive(Debug)]
pub(super) struct Disk(Database);

impl Disk {
    /// Of an empty database.
    pub(super) fn create(database: Database) -> Result<Self, DiskError> {
        let transaction = database.begin_write()?;
        {
            let mut meta = transaction.open_table(META)?;
            meta.insert("format", FORMAT)?;
            meta.insert("version", 0)?;
            transaction.open_table(SESSIONS)?;
            transaction.open_table(ENTRIES)?;
        }
        transaction.commit()?;
        Ok(Self(database))
    }

    pub(super) fn open(database: Database) -> Result<Self, DiskError> {
        let transaction = database.begin_read()?;
        let foreign = |error: TableError| match error {
            TableError::Storage(error) => error.into(),
            _ => DiskError::Foreign,
        };
        let meta = transaction.open_table(META).map_err(foreign)?;
        match meta.get("format")?.map(|format| format.value()) {
            Some(FORMAT) => {}
            Some(newer) => return Err(DiskError::Newer(newer)),
            None => return Err(DiskError::Foreign),
        }
        transaction.open_table(SESSIONS).map_err(foreign)?;
        transaction.open_table(ENTRIES).map_err(foreign)?;
        drop((meta, transaction));
        Ok(Self(database))
    }

    /// Reads all sessions that live at `now`, the global one first, and the last version.
    pub(super) fn load(
        &self,
        now: u64,
        mut session: impl FnMut(Cell),
        version: impl FnOnce(u64),
    ) -> Result<(), DiskError> {
        let transaction = self.0.begin_read()?;
        let entries = transaction.open_table(ENTRIES)?;
        let entries_of = |incarnation: u64| -> Result<(Entries, u64), DiskError> {
            let (mut found, mut last) = (Entries::default(), incarnation);
            for row in entries.range((incarnation, 0, "")..(incarnation + 1, 0, ""))? {
                let (key, row) = row?;
                let (_, space, name) = key.value();
                let (version, kind, data) = row.value();
                let (Some(space), Some(value)) = (space_of(space), decode(kind, data)) else {
                    return Err(DiskError::Damaged(format!("the value {name:?} makes no sense")));
                };
                last = last.max(version);
                found.insert(space, name, Entry { value, version });
            }
            Ok((found, last))
        };
        let meta = transaction.open_table(META)?;
        let mut last = meta.get("version")?.map_or(0, |version| version.value());
        let (found, highest) = entries_of(0)?;
        last = last.max(highest);
        session(Cell::new("".into(), 0, (now, now), u64::MAX, found));
        for row in transaction.open_table(SESSIONS)?.iter()? {
            let (id, row) = row?;
            let (incarnation, created, accessed, ttl) = row.value();
            // The clock of the machine may have been set back.
            let (created, accessed) = (created.min(now), accessed.min(now));
            let (found, highest) = entries_of(incarnation)?;
            last = last.max(highest);
            if accessed.saturating_add(ttl) > now || now == 0 {
                session(Cell::new(id.value().into(), incarnation, (created, accessed), ttl, found));
            }
        }
        version(last);
        Ok(())
    }

    /// Deletes what expired before `now`, and what belongs to no session.
    pub(super) fn clean(&self, now: u64) -> Result<(), DiskError> {
        let transaction = self.0.begin_write()?;
        {
            let mut sessions = transaction.open_table(SESSIONS)?;
            let mut living = std::collections::HashSet::from([0]);
            sessions.retain(|_, (incarnation, _, accessed, ttl)| {
                let lives = accessed.min(now).saturating_add(ttl) > now;
                if lives {
                    living.insert(incarnation);
                }
                lives
            })?;
            let mut entries = transaction.open_table(ENTRIES)?;
            entries.retain(|(incarnation, ..), _| living.contains(&incarnation))?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Makes all changes in one transaction, which is on disk when this returns.
    pub(super) fn commit<'a>(
        &self,
        version: u64,
        changes: impl IntoIterator<Item = Change<'a>>,
    ) -> Result<(), DiskError> {
        let transaction = self.0.begin_write()?;
        {
            let mut sessions = transaction.open_table(SESSIONS)?;
            let mut entries = transaction.open_table(ENTRIES)?;
            for change in changes {
                match change {
                    Change::Session { id, incarnation, created, accessed, ttl } => {
                        sessions.insert(id, (incarnation, created, accessed, ttl))?;
                    }
                    Change::End { id, incarnation } => {
                        // The id may be that of its successor by now.
                        let is_it =
                            sessions.get(id)?.is_some_and(|row| row.value().0 == incarnation);
                        if is_it {
                            sessions.remove(id)?;
                        }
                        let all = (incarnation, 0, "")..(incarnation + 1, 0, "");
                        entries.retain_in(all, |_, _| false)?;
                    }
                    Change::Put { incarnation, space, name, entry } => {
                        let (kind, data) = encode(&entry.value);
                        let row = (entry.version, kind, data.as_ref());
                        entries.insert((incarnation, space as u8, name), row)?;
                    }
                    Change::Delete { incarnation, space, name } => {
                        entries.remove((incarnation, space as u8, name))?;
                    }
                }
            }
            transaction.open_table(META)?.insert("version", version)?;
        }
        transaction.commit()?;
        Ok(())
    }
}

/// A session's times, for its row.
pub(super) fn times(cell: &Arc<Cell>, accessed: u64) -> Change<'_> {
    Change::Session {
        id: &cell.id,
        incarnation: cell.incarnation,
        created: cell.created,
        accessed,
        ttl: cell.ttl,
    }
}

// === Values as bytes ===

fn space_of(number: u8) -> Option<Space> {
    [Space::Value, Space::Program].into_iter().find(|&space| space as u8 == number)
}

/// An array is: u16 length of the dtype, dtype, u8 number of dimensions, u64 each, data; little-endian.
fn encode(value: &Value) -> (u8, Bytes) {
    match value {
        Value::Json(text) => (0, text.clone()),
        Value::Bytes(data) => (1, data.clone()),
        Value::Array { dtype, shape, data } => {
            let mut row = Vec::with_capacity(3 + value.size());
            // Both are checked when a value comes in.
            row.extend((dtype.len() as u16).to_le_bytes());
            row.extend(dtype.as_bytes());
            row.push(shape.len() as u8);
            for extent in shape {
                row.extend((*extent as u64).to_le_bytes());
            }
            row.extend(data);
            (2, row.into())
        }
    }
}

fn decode(kind: u8, data: &[u8]) -> Option<Value> {
    let own = Bytes::copy_from_slice;
    match kind {
        0 => Some(Value::Json(own(data))),
        1 => Some(Value::Bytes(own(data))),
        2 => {
            let (len, rest) = data.split_first_chunk()?;
            let (dtype, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
            let (dimensions, rest) = rest.split_first()?;
            let (shape, data) = rest.split_at_checked(8 * usize::from(*dimensions))?;
            let shape = shape
                .chunks_exact(8)
                .map(|extent| usize::try_from(u64::from_le_bytes(extent.try_into().ok()?)).ok())
                .collect::<Option<_>>()?;
            let dtype = std::str::from_utf8(dtype).ok()?.to_owned();
            Some(Value::Array { dtype, shape, data: own(data) })
        }
        _ => None,
    }
}
