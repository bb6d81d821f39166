//! The durable backend: a table in this process, every write of which is in a file before it is acknowledged.
//!
//! Reads are the table's. Writes go to one thread ([`writer`]), which takes all that wait, checks what each expects against
//! the table and those before it ([`batch`]), commits them in one transaction with one `fsync` ([`disk`]), and only then puts
//! them into the table and answers.

mod batch;
mod disk;
mod file;
mod overlay;
mod writer;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::clock::{Clock, millis};
use super::table::Table;
use super::{Answer, Backend, Operation, Outcome, SessionError, Settings, Usage};
use writer::Writer;

/// Keeps sessions in a file, which one process has open at a time: an acknowledged write is there after the host was killed
/// with `-9`, or, as far as the file system keeps its word about `fsync`, after the machine lost its power.
///
/// All sessions are in memory, too, and reads are as fast as [`Memory`](super::Memory)'s; opening reads and checks the whole
/// file. Writes that are made at once share an `fsync`. A write that fails ([`SessionError::Write`]) is not applied; as no one
/// can tell what a failed disk has kept, the store takes no more writes then until it is opened again, and finds them or not.
///
/// Every write to a session, and its creation, brings its last access to the file. Reads are persisted when they have
/// prolonged its life by an eighth of its TTL, at the next sweep: after a restart, a session expires at its time, or up to an
/// eighth of its TTL and a second too early. While no process has the file open, time passes by the clock of the machine.
///
/// The file is one of `redb`, in its format 3. It does not shrink; what is deleted makes room in it. One that is damaged, or
/// not a session store's, fails [`open`](super::StoreBuilder::open) with [`SessionError::File`], and is left as it is.
#[derive(Debug)]
pub struct Durable {
    path: PathBuf,
    clock: Clock,
    opened: OnceLock<Opened>,
}

#[derive(Debug)]
struct Opened {
    table: Arc<Table>,
    writer: Writer,
    default_ttl: u64,
}

impl Durable {
    /// In this file, which is created if it is missing; its directory must exist. While it is created there is a second file
    /// with `.new` at the end of its name.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), clock: Clock::system(), opened: OnceLock::new() }
    }

    #[cfg(test)]
    pub(crate) fn with_clock(path: impl Into<PathBuf>, clock: Clock) -> Self {
        Self { path: path.into(), clock, opened: OnceLock::new() }
    }

    fn opened(&self) -> Result<&Opened, SessionError> {
        self.opened.get().ok_or_else(|| SessionError::Closed { store: "not opened".to_owned() })
    }
}

impl Backend for Durable {
    fn open(&self, settings: &Settings) -> Answer<()> {
        let (path, table) =
            (self.path.clone(), Arc::new(Table::persisted(settings, self.clock.clone())));
        let loaded = Arc::clone(&table);
        let store = settings.name.clone();
        // Before anything waits: the borrow of `self` ends here, and the cell is filled by the future.
        let opened = Writer::opening(store, path, loaded);
        let default_ttl = millis(settings.ttl);
        match opened {
            Ok(writer) => {
                let mut writer_ready = writer.ready();
                let set = self.opened.set(Opened { table, writer, default_ttl });
                Answer::later(async move {
                    if set.is_err() {
                        return Err(SessionError::Config {
                            option: "backend",
                            message: "it belongs to a store already".to_owned(),
                        });
                    }
                    writer_ready.wait().await
                })
            }
            Err(error) => Answer::now(Err(error)),
        }
    }

    fn execute(&self, operation: Operation) -> Answer<Outcome> {
        let Opened { table, writer, default_ttl } = match self.opened() {
            Ok(opened) => opened,
            Err(error) => return Answer::now(Err(error)),
        };
        if !operation.is_write() {
            return Answer::now(Ok(table.read(&operation)));
        }
        if let Operation::Create { scope, .. } = &operation
            && let Some(cell) = table.access(scope, table.now())
        {
            return Answer::now(Ok(Outcome::Info(Some(cell.info()))));
        }
        Answer::later(writer.write(operation, *default_ttl))
    }

    fn list(&self, prefix: String, after: Option<String>, limit: usize) -> Answer<Vec<String>> {
        Answer::now(self.opened().map(|opened| opened.table.list(&prefix, after, limit)))
    }

    fn usage(&self) -> Answer<Usage> {
        Answer::now(self.opened().map(|opened| opened.table.usage()))
    }

    fn maintain(&self) -> Answer<Duration> {
        let Opened { table, writer, .. } = match self.opened() {
            Ok(opened) => opened,
            Err(error) => return Answer::now(Err(error)),
        };
        let (table, tidy) = (Arc::clone(table), writer.tidying());
        Answer::later(async move {
            let next = table.maintain().await;
            if !table.has_late() {
                return Ok(next);
            }
            tidy();
            // To see whether that went well.
            Ok(next.min(Duration::from_secs(1)))
        })
    }

    fn close(&self) -> Answer<()> {
        match self.opened.get() {
            Some(opened) => {
                let closed = opened.writer.close();
                Answer::later(async move {
                    closed.await;
                    Ok(())
                })
            }
            None => Answer::now(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests;
