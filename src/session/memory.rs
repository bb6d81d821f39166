//! The default backend: a table in this process.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::clock::Clock;
use super::table::Table;
use super::{Answer, Backend, Operation, Outcome, SessionError, Settings, Usage};

/// Keeps sessions in the memory of this process, as long as it runs. The default.
///
/// Every operation is done when its future is first polled.
#[derive(Debug)]
pub struct Memory {
    table: OnceLock<Arc<Table>>,
    clock: Clock,
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Memory {
    /// An empty one.
    pub fn new() -> Self {
        Self { table: OnceLock::new(), clock: Clock::system() }
    }

    #[cfg(test)]
    pub(crate) fn with_clock(clock: Clock) -> Self {
        Self { table: OnceLock::new(), clock }
    }

    fn with<T>(&self, act: impl FnOnce(&Table) -> Result<T, SessionError>) -> Answer<T> {
        Answer::now(match self.table.get() {
            Some(table) => act(table),
            None => Err(SessionError::Closed { store: "not opened".to_owned() }),
        })
    }
}

impl Backend for Memory {
    fn open(&self, settings: &Settings) -> Answer<()> {
        let table = Arc::new(Table::new(settings, self.clock.clone()));
        Answer::now(self.table.set(table).map_err(|_| SessionError::Config {
            option: "backend",
            message: "it belongs to a store already".to_owned(),
        }))
    }

    fn execute(&self, operation: Operation) -> Answer<Outcome> {
        self.with(|table| table.execute(operation))
    }

    fn list(&self, prefix: String, after: Option<String>, limit: usize) -> Answer<Vec<String>> {
        self.with(|table| Ok(table.list(&prefix, after, limit)))
    }

    fn usage(&self) -> Answer<Usage> {
        self.with(|table| Ok(table.usage()))
    }

    fn maintain(&self) -> Answer<Duration> {
        match self.table.get().cloned() {
            Some(table) => Answer::later(async move { Ok(table.maintain().await) }),
            None => self.with(|_| Ok(Duration::MAX)),
        }
    }

    fn close(&self) -> Answer<()> {
        Answer::now(Ok(()))
    }
}
