//! Scenarios 32 and 33, and all else that holds for a session store whatever keeps it: one suite, run against each
//! backend.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use snakepen::session::{self, Expected, Key, Operation, Scope, Space, StoreBuilder, Value};
use snakepen::{SessionError, SessionStore};

use crate::common;
#[cfg(feature = "redis")]
use crate::server::Server;
use crate::suite::{Kind, suite};

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

#[cfg(feature = "redis")]
impl Kind for Server {
    async fn new() -> Self {
        Self::start().await
    }

    fn builder(&self) -> StoreBuilder {
        SessionStore::builder(common::unique("redis")).backend(self.backend())
    }
}

#[cfg(feature = "redis")]
suite!(redis, Server);

// === What is answered at once ===

/// Whether each of these is there at the first poll.
async fn at_once(store: &SessionStore, operations: Vec<Operation>) {
    for operation in operations {
        let what = format!("{operation:?}");
        assert!(common::polled(1, store.execute(operation)).await.is_some(), "{what}");
    }
}

fn key(name: &str) -> Key {
    Key { scope: Scope::session("s").unwrap(), space: Space::Value, name: name.to_owned() }
}

fn reads() -> Vec<Operation> {
    let scope = || Scope::session("s").unwrap();
    vec![
        Operation::Get { key: key("k"), known: None },
        Operation::Get { key: key("none"), known: Some(1) },
        Operation::Keys { scope: scope(), space: Space::Value },
        Operation::Info { scope: scope() },
        Operation::Touch { scope: scope() },
        // It is there.
        Operation::Create { scope: scope(), ttl: None },
    ]
}

#[tokio::test]
async fn a_table_answers_at_once() {
    let store = SessionStore::builder(common::unique("memory")).open().await.unwrap();
    let (scope, value) = (Scope::session("s").unwrap(), Value::json("v").unwrap());
    at_once(
        &store,
        vec![
            Operation::Create { scope: scope.clone(), ttl: None },
            Operation::Put { key: key("k"), value, expected: Expected::Absent },
        ],
    )
    .await;
    at_once(&store, reads()).await;
    at_once(
        &store,
        vec![
            Operation::Delete { key: key("k"), expected: Expected::Any },
            Operation::Expire { scope },
        ],
    )
    .await;
    store.close().await.unwrap();
}

#[cfg(feature = "durable")]
#[tokio::test]
async fn a_file_is_read_at_once() {
    let kind = Durable::new().await;
    let store = kind.builder().open().await.unwrap();
    store.session("s").unwrap().put("k", &1).await.unwrap();
    at_once(&store, reads()).await;
    store.close().await.unwrap();
}

/// A store without a runtime, or on one without a timer, is an error and no hang.
#[test]
fn a_store_needs_a_runtime() {
    let open = || SessionStore::builder(common::unique("memory")).open();
    let bare = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for error in
        [futures::executor::block_on(open()).unwrap_err(), bare.block_on(open()).unwrap_err()]
    {
        assert!(matches!(error, SessionError::Config { option: "open", .. }), "{error}");
    }
}

// === When it is looked after ===

/// Counts how often it is looked after.
struct Counted(session::Memory, Arc<AtomicU32>);

impl session::Backend for Counted {
    fn open(&self, settings: &session::Settings) -> session::Answer<()> {
        self.0.open(settings)
    }

    fn execute(&self, operation: Operation) -> session::Answer<session::Outcome> {
        self.0.execute(operation)
    }

    fn list(
        &self,
        prefix: String,
        after: Option<String>,
        limit: usize,
    ) -> session::Answer<Vec<String>> {
        self.0.list(prefix, after, limit)
    }

    fn usage(&self) -> session::Answer<session::Usage> {
        self.0.usage()
    }

    fn maintain(&self) -> session::Answer<Duration> {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.maintain()
    }

    fn close(&self) -> session::Answer<()> {
        self.0.close()
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_nobody_uses_sleeps() {
    let count = Arc::new(AtomicU32::new(0));
    let backend = Counted(session::Memory::new(), Arc::clone(&count));
    let builder = SessionStore::builder(common::unique("idle")).backend(backend);
    let store = builder.ttl(Duration::from_secs(7200)).open().await.unwrap();
    let after = async |time: Duration| {
        tokio::time::sleep(time).await;
        count.swap(0, Ordering::SeqCst)
    };
    assert_eq!(after(Duration::from_secs(59)).await, 1, "as it was opened");
    store.session("s").unwrap().put("k", &1).await.unwrap();
    assert_eq!(after(Duration::from_millis(999)).await, 0);
    assert_eq!(after(Duration::from_secs(59)).await, 1, "after it was used, and not again");
    assert_eq!(after(Duration::from_secs(600)).await, 10, "once a minute");
    store.close().await.unwrap();
}
