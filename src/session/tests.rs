//! The memory backend with a clock that the test moves, and against a model; what holds for every backend is in
//! `tests/sessions/store.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::clock::Clock;
use super::{Expected, Memory, SessionError, SessionStore, StoreBuilder, Value};

const TTL: Duration = Duration::from_secs(10);

/// A clock that stands.
pub(super) struct Time(Arc<AtomicU64>);

impl Time {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicU64::new(1_000_000)))
    }

    pub(super) fn clock(&self) -> Clock {
        Clock::Manual(Arc::clone(&self.0))
    }

    pub(super) fn pass(&self, millis: u64) {
        self.0.fetch_add(millis, Ordering::SeqCst);
    }
}

pub(super) fn unique() -> String {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    format!("session-unit-{}", SERIAL.fetch_add(1, Ordering::Relaxed))
}

fn builder(time: &Time) -> StoreBuilder {
    SessionStore::builder(unique()).ttl(TTL).backend(Memory::with_clock(time.clock()))
}

#[tokio::test]
async fn a_session_lives_for_its_ttl_to_the_millisecond() {
    let time = Time::new();
    let store = builder(&time).open().await.unwrap();
    let session = store.session("s").unwrap();
    session.put("k", &1).await.unwrap();
    time.pass(9_999);
    assert!(session.info().await.unwrap().is_some());
    assert_eq!(session.get::<u8>("k").await.unwrap(), Some(1));
    time.pass(9_999);
    assert!(session.touch().await.unwrap());
    time.pass(10_000);
    assert_eq!(session.info().await.unwrap(), None);
    assert_eq!(session.get::<u8>("k").await.unwrap(), None);
    let error = session.compare_and_set("k", Expected::Version(1), &2).await.unwrap_err();
    assert!(matches!(error, SessionError::Conflict { found: None, .. }), "{error}");
    assert_eq!(store.list().await.unwrap(), [""; 0]);
    // Once gone, a clock that goes back does not bring it back.
    time.0.fetch_sub(10_000, Ordering::SeqCst);
    assert!(!session.touch().await.unwrap());
    session.put("l", &1).await.unwrap();
    assert_eq!(session.keys().await.unwrap(), ["l"]);
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_full_store_has_room_as_soon_as_a_session_has_expired() {
    let time = Time::new();
    let store = builder(&time).max_sessions(100).max_total_bytes(1000).open().await.unwrap();
    let value = Value::Bytes(Bytes::from_static(&[0; 9]));
    for number in 0..100 {
        let session = store.session(format!("{number}")).unwrap();
        session.put_value("k", value.clone()).await.unwrap();
        time.pass(1);
    }
    let next = store.session("next").unwrap();
    let put = || next.put_value("k", value.clone());
    assert!(matches!(put().await, Err(SessionError::Full { limit: "max_sessions", .. })));
    // 0 expires at 10 000, and is kept by an access; then it is the turn of 1.
    time.pass(9_899);
    assert!(store.session("0").unwrap().touch().await.unwrap());
    time.pass(1);
    assert!(put().await.is_err());
    time.pass(1);
    put().await.unwrap();
    assert!(store.session("0").unwrap().info().await.unwrap().is_some());
    assert!(store.session("1").unwrap().info().await.unwrap().is_none());
    let bytes = Value::Bytes(Bytes::from_static(&[0; 10]));
    let full = next.put_value("k", bytes.clone()).await;
    assert!(matches!(full, Err(SessionError::Full { limit: "max_total_bytes", .. })), "{full:?}");
    time.pass(1);
    next.put_value("k", bytes).await.unwrap();
    let stats = store.stats().await.unwrap();
    assert_eq!((stats.sessions, stats.values, stats.bytes), (99, 99, 991));
    store.close().await.unwrap();
}

/// Sweeping a hundred thousand sessions leaves readers their turn.
#[tokio::test]
async fn a_great_sweep_stalls_nobody() {
    const MANY: u64 = 100_000;
    let time = Time::new();
    let store = builder(&time).max_sessions(200_000).open().await.unwrap();
    for number in 0..MANY {
        store.session(format!("{number}")).unwrap().put("k", &number).await.unwrap();
    }
    let reader = store.session("reader").unwrap();
    reader.create_with_ttl(TTL * 10).await.unwrap();
    time.pass(20_000);
    // One thread runs this test: each turn that the reader gets is one that the sweep has left to it.
    let mut turns = 0;
    loop {
        let left = store.stats().await.unwrap().sessions;
        if left == 1 {
            break;
        }
        if left < MANY + 1 {
            turns += 1;
        }
        assert!(reader.touch().await.unwrap());
        tokio::task::yield_now().await;
    }
    assert!(turns > 100, "{turns}");
    assert_eq!(store.stats().await.unwrap().expired, MANY);
    store.close().await.unwrap();
}

// === Against a model ===

mod model;
