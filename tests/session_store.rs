//! Scenarios 32 and 33, and all else that holds for a session store whatever keeps it: one suite, run against each
//! backend.

#![allow(unreachable_pub)]

mod common;
#[path = "sessions/suite.rs"]
mod suite;

use snakepen::SessionStore;
use snakepen::session::StoreBuilder;
use suite::{Kind, suite};

struct Memory;

impl Kind for Memory {
    async fn new() -> Self {
        Self
    }

    fn builder(&self) -> StoreBuilder {
        SessionStore::builder(common::unique("memory"))
    }
}

suite!(memory, Memory);

#[cfg(feature = "durable")]
struct Durable(tempfile::TempDir);

#[cfg(feature = "durable")]
impl Kind for Durable {
    async fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn builder(&self) -> StoreBuilder {
        let backend = snakepen::session::Durable::new(self.0.path().join("sessions.redb"));
        SessionStore::builder(common::unique("durable")).backend(backend)
    }
}

#[cfg(feature = "durable")]
suite!(durable, Durable);
