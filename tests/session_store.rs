//! Scenarios 32 and 33, and all else that holds for a session store whatever keeps it: one suite, run against each
//! backend.

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
