//! Sessions: named state that lives in Rust, so that workers need none.
//!
//! A [`SessionStore`] holds sessions; a [`Session`] holds values by key, and [programs](Programs) by id. Any number of
//! tasks, and of workers, read and write it at once. A worker's death loses nothing of it.
//!
//! ```
//! use std::time::Duration;
//! use snakepen::SessionStore;
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), snakepen::Error> {
//! let store = SessionStore::builder("sessions").ttl(Duration::from_secs(600)).open().await?;
//!
//! let session = store.session("user-42")?;
//! session.put("name", "Ada").await?;
//! assert_eq!(session.get::<String>("name").await?.as_deref(), Some("Ada"));
//!
//! // Read, change, write: tried again where another writer came in between.
//! let visits = session.update("visits", |old: Option<u64>| old.unwrap_or(0) + 1).await?;
//! assert_eq!(visits, 1);
//!
//! store.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Theory of operation
//!
//! Callers work on the table themselves, in their own task; no actor is on their way. Sessions are spread over shards, each
//! under a lock of its own, and each session has another: what waits for each other is who writes the same session.
//!
//! ```text
//! <name>/root      keeps the next one running
//! └─ <name>        lets sessions expire, and has persisted what may be persisted late
//! ```
//!
//! Should that actor die, calls go on, and its successor goes on where it ended: it has no state of its own.
//!
//! Every write gives its value a **version**. Versions come from one counter of the store and only grow, so that no two
//! values ever have the same, not even one that was deleted and its successor. [`Session::compare_and_set`] writes only
//! over the version that it expects.
//!
//! A session **expires** a time ([`StoreBuilder::ttl`]) after its last read or write. From that moment on nobody sees it,
//! swept or not. Looking at it from outside ([`Session::info`], [`SessionStore::list`], [`SessionStore::stats`]) is no
//! access. A write to a session that does not exist creates it; a read does not. [`SessionStore::global`] is a session
//! without a name, which always exists and never expires.
//!
//! **Bounds** hold at every moment: [sessions](StoreBuilder::max_sessions), [bytes of one
//! value](StoreBuilder::max_value_bytes), [bytes of all](StoreBuilder::max_total_bytes). At a bound a write fails with
//! [`SessionError::Full`] or [`SessionError::TooLarge`]; nothing that lives is ever evicted.
//!
//! A write whose future is dropped is applied whole, or not at all.
//!
//! # Backends
//!
//! | backend | feature | where the state is | survives |
//! | --- | --- | --- | --- |
//! | [`Memory`] | | in this process | a worker's death |

mod backend;
mod cell;
mod clock;
#[cfg(feature = "durable")]
mod durable;
mod error;
mod index;
mod memory;
mod operation;
mod programs;
mod room;
#[allow(clippy::module_inception, reason = "the handle of one session, as `store` is that of all")]
mod session;
mod store;
mod table;
mod value;

pub use backend::{Answer, Backend, Settings, Usage};
#[cfg(feature = "durable")]
pub use durable::Durable;
pub use error::SessionError;
pub use memory::Memory;
pub use operation::{Expected, Key, Operation, Outcome, Scope, SessionInfo, Space};
pub use programs::{Program, Programs};
pub use session::Session;
pub use store::{List, SessionStats, SessionStore, StoreBuilder};
pub use value::Value;

pub(crate) use store::Shared;

#[cfg(test)]
mod tests;
