//! What holds for every backend.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures::future::join_all;
use ractor::registry::where_is;
use serde_json::json;
use snakepen::session::{
    Expected, Key, Operation, Outcome, Program, Scope, Space, StoreBuilder, Value,
};
use snakepen::{Error, SessionError, SessionStore};

use crate::common::{LIMIT, polled, unique, within};

/// A backend under test, with what it needs.
pub trait Kind: Sized {
    async fn new() -> Self;

    /// A store that is empty when it is opened first; of this `Kind`, always the same one, under another name.
    fn builder(&self) -> StoreBuilder;
}

macro_rules! suite {
    ($name:ident, $kind:ty) => {
        suite!($name, $kind:
            values_of_each_kind, versions_are_never_used_twice, writes_that_expect, sessions,
            the_global_session, what_is_invalid, sessions_expire, brief_sessions, accesses_keep_it, a_full_store,
            ten_thousand_sessions, bounds_of_bytes, expired_sessions_free_their_bytes, concurrent_creation,
            no_lost_update, lists, programs, programs_are_not_lost, figures, dropped_writes, names, closing,
            dropping_closes, the_actor_dies, known_versions, many_keys);
    };
    ($name:ident, $kind:ty: $($case:ident),*) => {
        mod $name {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let kind = <$kind as $crate::suite::Kind>::new().await;
                    $crate::suite::run(stringify!($case), $crate::suite::$case(&kind)).await;
                }
            )*
        }
    };
}
pub(crate) use suite;

pub async fn run(what: &str, case: impl Future<Output = ()>) {
    within(LIMIT, what, case).await;
}

/// For what no event tells: that a deadline has passed, here or in a server.
async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < LIMIT, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn found(error: SessionError) -> Option<u64> {
    match error {
        SessionError::Conflict { found, .. } => found,
        error => panic!("not a conflict: {error}"),
    }
}

// === Values ===

pub async fn values_of_each_kind(kind: &impl Kind) {
    let store = kind.builder().open().await.unwrap();
    let session = store.session("user-42").unwrap();
    assert_eq!(session.get::<String>("name").await.unwrap(), None);
    session.put("name", "Ada").await.unwrap();
    session.put("näme\n\0 of a key", &vec![1, 2]).await.unwrap();
    assert_eq!(session.get::<String>("name").await.unwrap().unwrap(), "Ada");
    assert_eq!(session.get::<Vec<u8>>("näme\n\0 of a key").await.unwrap().unwrap(), [1, 2]);

    let bytes = Value::Bytes(Bytes::from((0..=255).collect::<Vec<u8>>()));
    let array = Value::Array {
        dtype: "<f4".to_owned(),
        shape: vec![2, 3],
        data: Bytes::from_static(&[7; 24]),
    };
    let scalar =
        Value::Array { dtype: "|b1".into(), shape: vec![], data: Bytes::from_static(&[1]) };
    let empty = Value::Array { dtype: "<i8".into(), shape: vec![0, 9], data: Bytes::new() };
    for value in [bytes, array, scalar, empty, Value::Bytes(Bytes::new())] {
        let version = session.put_value("it", value.clone()).await.unwrap();
        assert_eq!(session.get_value("it").await.unwrap(), Some((value, version)));
        let error = session.get::<u8>("it").await.unwrap_err();
        assert!(matches!(error, SessionError::Decode { .. }), "{error}");
    }
    assert_eq!(session.keys().await.unwrap(), ["it", "name", "näme\n\0 of a key"]);
    assert!(session.delete("it").await.unwrap());
    assert!(!session.delete("it").await.unwrap());
    assert_eq!(session.keys().await.unwrap(), ["name", "näme\n\0 of a key"]);

    let error = session.get::<u64>("name").await.unwrap_err();
    assert!(matches!(error, SessionError::Decode { .. }), "{error}");
    let error = session.put("name", &f64::NAN).await.unwrap_err();
    assert!(matches!(error, SessionError::Encode { .. }), "{error}");
    assert_eq!(session.get::<String>("name").await.unwrap().unwrap(), "Ada");

    // 4 MiB, and another session's value of the same key.
    let large = Value::Bytes(Bytes::from(vec![3; 4 << 20]));
    session.put_value("large", large.clone()).await.unwrap();
    store.session("user-43").unwrap().put("large", &1).await.unwrap();
    assert_eq!(session.get_value("large").await.unwrap().unwrap().0, large);
    store.close().await.unwrap();
}

pub async fn versions_are_never_used_twice(kind: &impl Kind) {
    let store = kind.builder().open().await.unwrap();
    let session = store.session("s").unwrap();
    let mut seen = BTreeSet::new();
    let mut last = 0;
    for round in 0..4 {
        for key in ["a", "b"] {
            let version = session.put(key, &round).await.unwrap();
            assert!(version > last && seen.insert(version), "{version} after {last}");
            assert_eq!(session.get_versioned(key).await.unwrap(), Some((round, version)));
            last = version;
        }
        match round {
            0 => {
                let _ = session.delete("a").await.unwrap();
            }
            1 => {
                let _ = session.expire().await.unwrap();
            }
            _ => {}
        }
    }
    let all = join_all((0..64).map(|number| {
        let session = store.session(format!("s-{}", number % 8)).unwrap();
        async move { session.put("k", &number).await.unwrap() }
    }));
    for version in all.await {
        assert!(seen.insert(version), "{version} is used twice");
    }
    store.close().await.unwrap();
}

pub async fn writes_that_expect(kind: &impl Kind) {
    let store = kind.builder().open().await.unwrap();
    let session = store.session("s").unwrap();
    let error = session.compare_and_set("k", Expected::Version(1), &0).await.unwrap_err();
    assert!(error.to_string().contains("no such value"), "{error}");
    assert_eq!(found(error), None);
    assert_eq!(session.info().await.unwrap(), None, "a write that failed has created it");

    let first = session.compare_and_set("k", Expected::Absent, &1).await.unwrap();
    let error = session.compare_and_set("k", Expected::Absent, &2).await.unwrap_err();
    assert_eq!(found(error), Some(first));
    let second = session.compare_and_set("k", Expected::Version(first), &3).await.unwrap();
    let error = session.compare_and_set("k", Expected::Version(first), &4).await.unwrap_err();
    assert_eq!(found(error), Some(second));
    session.compare_and_set("k", Expected::Any, &5).await.unwrap();
    assert_eq!(session.get::<u8>("k").await.unwrap(), Some(5));

    // The same value again, deleted in between: still another version.
    let old = session.put("k", &6).await.unwrap();
    session.delete("k").await.unwrap();
    let error = session.compare_and_set("k", Expected::Version(old), &7).await.unwrap_err();
    assert_eq!(found(error), None);
    let new = session.put("k", &6).await.unwrap();
    let error = session.compare_and_set("k", Expected::Version(old), &7).await.unwrap_err();
    assert_eq!(found(error), Some(new));

    let key = Key { scope: session.scope().clone(), space: Space::Value, name: "k".to_owned() };
    let delete = |expected| store.execute(Operation::Delete { key: key.clone(), expected });
    assert_eq!(found(delete(Expected::Version(old)).await.unwrap_err()), Some(new));
    assert_eq!(found(delete(Expected::Absent).await.unwrap_err()), Some(new));
    assert_eq!(delete(Expected::Version(new)).await.unwrap(), Outcome::Deleted(true));
    assert_eq!(delete(Expected::Absent).await.unwrap(), Outcome::Deleted(false));
    assert_eq!(found(delete(Expected::Version(new)).await.unwrap_err()), None);
    store.close().await.unwrap();
}

pub async fn known_versions(kind: &impl Kind) {
    let store = kind.builder().open().await.unwrap();
    let session = store.session("s").unwrap();
    let version = session.put("k", &1).await.unwrap();
    let key = Key { scope: session.scope().clone(), space: Space::Value, name: "k".to_owned() };
    let get = |known| store.execute(Operation::Get { key: key.clone(), known });
    assert_eq!(get(Some(version)).await.unwrap(), Outcome::Unchanged);
    let value = Value::Json(Bytes::from_static(b"1"));
    let whole = Outcome::Value { value, version };
    assert_eq!(get(Some(version + 1)).await.unwrap(), whole);
    assert_eq!(get(None).await.unwrap(), whole);
    session.delete("k").await.unwrap();
    assert_eq!(get(Some(version)).await.unwrap(), Outcome::Missing);
    store.close().await.unwrap();
}

pub async fn many_keys(kind: &impl Kind) {
    let store = kind.builder().open().await.unwrap();
    let session = store.session("s").unwrap();
    let puts = (0..2000).map(|number| {
        let session = session.clone();
        async move { session.put(&format!("{number:04}"), &number).await.unwrap() }
    });
    join_all(puts).await;
    let expected: Vec<_> = (0..2000).map(|number| format!("{number:04}")).collect();
    assert_eq!(session.keys().await.unwrap(), expected);
    let info = session.info().await.unwrap().unwrap();
    // Four digits of key, and the number.
    assert_eq!((info.entries, info.bytes), (2000, 8000 + 10 + 180 + 2700 + 4000));
    assert!(session.expire().await.unwrap());
    let stats = store.stats().await.unwrap();
    assert_eq!((stats.sessions, stats.values, stats.bytes), (0, 0, 0));
    store.close().await.unwrap();
}

// === Sessions ===

pub async fn sessions(kind: &impl Kind) {
    let store = kind.builder().open().await.unwrap();
    let session = store.session("user-42").unwrap();
    assert_eq!(session.id(), Some("user-42"));
    // A read does not create it.
    assert_eq!(session.get::<u8>("k").await.unwrap(), None);
    assert_eq!(session.keys().await.unwrap(), [""; 0]);
    assert!(!session.touch().await.unwrap());
    assert!(!session.expire().await.unwrap());
    assert!(!session.delete("k").await.unwrap());
    assert_eq!(session.info().await.unwrap(), None);
    assert_eq!(store.stats().await.unwrap().sessions, 0);

    let before = SystemTime::now() - Duration::from_secs(1);
    let first = session.create().await.unwrap();
    assert_eq!((&*first.id, first.entries, first.bytes), ("user-42", 0, 0));
    assert_eq!(first.ttl, Some(Duration::from_secs(3600)));
    assert!(first.created > before && first.created < SystemTime::now() + Duration::from_secs(1));
    let again = session.create().await.unwrap();
    assert_eq!(again.created, first.created);
    // Its TTL stays.
    let ttl = Duration::from_secs(5);
    assert_eq!(session.create_with_ttl(ttl).await.unwrap().ttl, first.ttl);
    session.put("key", "é").await.unwrap();
    let info = session.info().await.unwrap().unwrap();
    assert_eq!((info.entries, info.bytes), (1, 3 + 4));
    assert!(info.accessed >= info.created);
    assert!(session.touch().await.unwrap());

    assert!(session.expire().await.unwrap());
    assert!(!session.expire().await.unwrap());
    assert_eq!(session.info().await.unwrap(), None);
    assert_eq!(session.get::<String>("key").await.unwrap(), None);
    let other = session.create_with_ttl(ttl).await.unwrap();
    assert_eq!((other.ttl, other.entries), (Some(ttl), 0));
    // A write creates it with the default TTL.
    session.expire().await.unwrap();
    session.put("key", &1).await.unwrap();
    assert_eq!(session.info().await.unwrap().unwrap().ttl, first.ttl);
    assert_eq!(session.keys().await.unwrap(), ["key"]);
    store.close().await.unwrap();
}

pub async fn the_global_session(kind: &impl Kind) {
    let store = kind.builder().ttl(Duration::from_millis(1)).open().await.unwrap();
    let global = store.global();
    assert_eq!(global.id(), None);
    assert!(global.touch().await.unwrap());
    let info = global.create().await.unwrap();
    assert_eq!((&*info.id, info.ttl, info.entries), ("", None, 0));
    let version = global.put("k", &1).await.unwrap();
    global.programs().create(Program::new("k", "p", json!(2))).await.unwrap();
    for error in [
        global.expire().await.unwrap_err(),
        global.create_with_ttl(Duration::from_secs(1)).await.unwrap_err(),
    ] {
        assert!(matches!(error, SessionError::Invalid { what: "scope", .. }), "{error}");
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(global.get_versioned("k").await.unwrap(), Some((1, version)));
    assert_eq!(global.keys().await.unwrap(), ["k"]);
    let info = global.info().await.unwrap().unwrap();
    assert_eq!(info.entries, 2);
    let stats = store.stats().await.unwrap();
    assert_eq!((stats.sessions, stats.values, stats.bytes), (0, 2, info.bytes));
    assert_eq!(store.list().await.unwrap(), [""; 0]);
    assert!(global.delete("k").await.unwrap());
    store.close().await.unwrap();
}

pub async fn what_is_invalid(kind: &impl Kind) {
    let store = kind.builder().open().await.unwrap();
    for id in [String::new(), "a\nb".into(), "\u{7f}".into(), "é".repeat(128)] {
        let error = store.session(id).unwrap_err();
        assert!(matches!(error, SessionError::Invalid { what: "id", .. }), "{error}");
    }
    for id in ["x".repeat(255), "a b/c:{d} *é\u{1f40d}".to_owned()] {
        let session = store.session(id.clone()).unwrap();
        session.put("k", &1).await.unwrap();
        assert_eq!(session.info().await.unwrap().unwrap().id, id);
    }
    let session = store.session("s").unwrap();
    for key in [String::new(), "x".repeat(1025)] {
        let error = session.put(&key, &1).await.unwrap_err();
        assert!(matches!(error, SessionError::Invalid { what: "key", .. }), "{error}");
    }
    session.put(&"x".repeat(1024), &1).await.unwrap();
    let array = |dtype: &str, shape: Vec<usize>, bytes: usize| Value::Array {
        dtype: dtype.to_owned(),
        shape,
        data: Bytes::from(vec![0; bytes]),
    };
    for value in [
        Value::Json(Bytes::from_static(b"{]")),
        Value::Json(Bytes::new()),
        array("<f8", vec![2], 15),
        array("<f8", vec![2], 0),
        array("<f8", vec![0], 8),
        array("<f8", vec![usize::MAX, 3], 8),
        array("", vec![1], 8),
        array("<f8", vec![1; 65], 8),
    ] {
        let error = session.put_value("bad", value.clone()).await.unwrap_err();
        assert!(matches!(error, SessionError::Invalid { what: "value", .. }), "{error}");
        let key = Key { scope: session.scope().clone(), space: Space::Value, name: "bad".into() };
        let put = store.execute(Operation::Put { key, value, expected: Expected::Any });
        assert!(matches!(put.await, Err(SessionError::Invalid { what: "value", .. })));
    }
    assert_eq!(session.get_value("bad").await.unwrap(), None);
    let scope = Scope::Session("".into());
    let error = store.execute(Operation::Touch { scope }).await.unwrap_err();
    assert!(matches!(error, SessionError::Invalid { what: "id", .. }), "{error}");
    let error = session.create_with_ttl(Duration::from_micros(999)).await.unwrap_err();
    assert!(matches!(error, SessionError::Invalid { what: "ttl", .. }), "{error}");
    store.session("ever").unwrap().create_with_ttl(Duration::MAX).await.unwrap();
    store.close().await.unwrap();
}

pub async fn sessions_expire(kind: &impl Kind) {
    let store = kind.builder().ttl(Duration::from_millis(300)).open().await.unwrap();
    let session = store.session("brief").unwrap();
    let lasting = store.session("lasting").unwrap();
    lasting.create_with_ttl(Duration::from_secs(60)).await.unwrap();
    session.put("k", &1).await.unwrap();
    let accessed = Instant::now();
    session.programs().create(Program::new("p", "k", json!({}))).await.unwrap();
    // Looking at it from outside is no access.
    until("it expires", || async {
        store.list().await.unwrap();
        session.info().await.unwrap().is_none()
    })
    .await;
    let lived = accessed.elapsed();
    assert!(lived > Duration::from_millis(290), "{lived:?}");
    assert_eq!(session.get::<u8>("k").await.unwrap(), None);
    assert_eq!(session.programs().list().await.unwrap(), [""; 0]);
    assert!(!session.touch().await.unwrap() && !session.expire().await.unwrap());
    assert_eq!(store.list().await.unwrap(), ["lasting"]);
    until("it is swept", || async {
        let stats = store.stats().await.unwrap();
        (stats.sessions, stats.values, stats.bytes, stats.expired) == (1, 0, 0, 1)
    })
    .await;
    // Its successor has nothing of it.
    session.put("other", &2).await.unwrap();
    assert_eq!(session.keys().await.unwrap(), ["other"]);
    store.close().await.unwrap();
}

/// Where an operation takes longer than the session lives, it is answered all the same.
pub async fn brief_sessions(kind: &impl Kind) {
    let store = kind.builder().ttl(Duration::from_millis(1)).open().await.unwrap();
    for number in 0..1000 {
        let session = store.session(format!("s{number}")).unwrap();
        session.create().await.unwrap();
        session.put("k", &number).await.unwrap();
        session.touch().await.unwrap();
        session.get::<u64>("k").await.unwrap();
    }
    until("they are swept", || async {
        let stats = store.stats().await.unwrap();
        (stats.sessions, stats.values, stats.bytes) == (0, 0, 0)
    })
    .await;
    store.close().await.unwrap();
}

pub async fn accesses_keep_it(kind: &impl Kind) {
    let store = kind.builder().ttl(Duration::from_millis(1500)).open().await.unwrap();
    let names = ["get", "put", "delete", "keys", "touch", "create", "conflict"];
    for name in names {
        store.session(name).unwrap().put("k", &1).await.unwrap();
    }
    store.session("none").unwrap().put("k", &1).await.unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(2500) {
        for name in names {
            let session = store.session(name).unwrap();
            match name {
                "get" => {
                    let _ = session.get::<u8>("other").await.unwrap();
                }
                "put" => {
                    let _ = session.put("other", &1).await.unwrap();
                }
                "delete" => {
                    let _ = session.delete("other").await.unwrap();
                }
                "keys" => {
                    let _ = session.keys().await.unwrap();
                }
                "touch" => {
                    let _ = session.touch().await.unwrap();
                }
                "create" => {
                    let _ = session.create().await.unwrap();
                }
                _ => {
                    let _ = session.compare_and_set("k", Expected::Absent, &2).await.unwrap_err();
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for name in names {
        let session = store.session(name).unwrap();
        assert_eq!(session.get::<u8>("k").await.unwrap(), Some(1), "{name} is no access");
    }
    assert_eq!(store.session("none").unwrap().get::<u8>("k").await.unwrap(), None);
    store.close().await.unwrap();
}

// === Bounds ===

fn full(error: SessionError) -> (&'static str, u64) {
    match error {
        SessionError::Full { limit, value } => (limit, value),
        error => panic!("not full: {error}"),
    }
}

pub async fn a_full_store(kind: &impl Kind) {
    let store = kind.builder().max_sessions(2).open().await.unwrap();
    let session = |id| store.session(id).unwrap();
    session("a").create_with_ttl(Duration::from_millis(300)).await.unwrap();
    session("b").put("k", &1).await.unwrap();
    let error = session("c").create().await.unwrap_err();
    assert!(error.to_string().contains("`max_sessions` is 2"), "{error}");
    assert!(error.is_retryable());
    assert_eq!(full(error), ("max_sessions", 2));
    assert_eq!(full(session("c").put("k", &1).await.unwrap_err()), ("max_sessions", 2));
    // What exists can be written, and so can the global session.
    session("b").put("l", &1).await.unwrap();
    session("a").create().await.unwrap();
    store.global().put("k", &1).await.unwrap();
    // Nothing is evicted; an expired one makes room, swept or not.
    until("there is room", || async {
        let created = session("c").create().await;
        assert_eq!(session("b").keys().await.unwrap(), ["k", "l"]);
        created.is_ok()
    })
    .await;
    assert_eq!(session("a").info().await.unwrap(), None);
    assert_eq!(full(session("d").create().await.unwrap_err()), ("max_sessions", 2));
    assert!(session("b").expire().await.unwrap());
    session("d").create().await.unwrap();
    assert_eq!(store.list().await.unwrap(), ["c", "d"]);
    store.close().await.unwrap();
}

pub async fn ten_thousand_sessions(kind: &impl Kind) {
    const SESSIONS: usize = 10_000;
    let store = kind.builder().max_sessions(SESSIONS).open().await.unwrap();
    let tasks = (0..100).map(|task| {
        let store = store.clone();
        tokio::spawn(async move {
            let ids = (0..SESSIONS / 100).map(|number| format!("{task:02}-{number:02}"));
            join_all(ids.map(|id| {
                let session = store.session(id).unwrap();
                async move { session.create().await.unwrap() }
            }))
            .await;
        })
    });
    for task in join_all(tasks).await {
        task.unwrap();
    }
    assert_eq!(store.stats().await.unwrap().sessions, SESSIONS as u64);
    let next = store.session("next").unwrap();
    assert_eq!(full(next.create().await.unwrap_err()), ("max_sessions", SESSIONS as u64));
    let brief = store.session("42-42").unwrap();
    assert!(brief.expire().await.unwrap());
    next.create_with_ttl(Duration::from_millis(50)).await.unwrap();
    assert_eq!(full(brief.create().await.unwrap_err()), ("max_sessions", SESSIONS as u64));
    until("expiry frees room", || async { brief.create().await.is_ok() }).await;
    assert_eq!(store.list().await.unwrap().len(), SESSIONS);
    store.close().await.unwrap();
}

pub async fn bounds_of_bytes(kind: &impl Kind) {
    let builder = kind.builder().max_value_bytes(100).max_total_bytes(200);
    let store = builder.open().await.unwrap();
    let session = store.session("s").unwrap();
    let bytes = |size| Value::Bytes(Bytes::from(vec![0; size]));
    let error = session.put_value("k", bytes(101)).await.unwrap_err();
    assert!(matches!(error, SessionError::TooLarge { size: 101, limit: 100 }), "{error}");
    assert_eq!(session.info().await.unwrap(), None);
    session.put_value("k", bytes(100)).await.unwrap();
    // 101 are used: 99 are left.
    assert_eq!(
        full(session.put_value("l", bytes(99)).await.unwrap_err()),
        ("max_total_bytes", 200)
    );
    let other = store.session("other").unwrap();
    assert_eq!(full(other.put_value("l", bytes(99)).await.unwrap_err()), ("max_total_bytes", 200));
    assert_eq!(other.info().await.unwrap(), None, "a write that failed has created it");
    store.global().put_value("l", bytes(98)).await.unwrap();
    assert_eq!(store.stats().await.unwrap().bytes, 200);
    // What does not grow needs no room.
    session.put_value("k", bytes(100)).await.unwrap();
    session.put_value("k", bytes(99)).await.unwrap();
    store.global().put_value("l", bytes(99)).await.unwrap();
    full(session.put_value("k", bytes(100)).await.unwrap_err());
    assert!(session.delete("k").await.unwrap());
    assert_eq!(store.stats().await.unwrap().bytes, 100);
    other.put_value("m", bytes(99)).await.unwrap();
    full(session.put_value("k", bytes(0)).await.unwrap_err());
    assert!(other.expire().await.unwrap());
    session.put_value("k", bytes(0)).await.unwrap();
    let stats = store.stats().await.unwrap();
    assert_eq!((stats.sessions, stats.values, stats.bytes), (1, 2, 101));
    store.close().await.unwrap();
}

pub async fn expired_sessions_free_their_bytes(kind: &impl Kind) {
    let store = kind.builder().max_total_bytes(1000).open().await.unwrap();
    let bytes = Value::Bytes(Bytes::from(vec![0; 900]));
    let brief = store.session("brief").unwrap();
    brief.create_with_ttl(Duration::from_millis(200)).await.unwrap();
    brief.put_value("k", bytes.clone()).await.unwrap();
    let next = store.session("next").unwrap();
    next.create().await.unwrap();
    full(next.put_value("k", bytes.clone()).await.unwrap_err());
    until("expiry frees room", || async { next.put_value("k", bytes.clone()).await.is_ok() }).await;
    assert_eq!(brief.info().await.unwrap(), None);
    store.close().await.unwrap();
}

// === At once ===

pub async fn concurrent_creation(kind: &impl Kind) {
    let store = kind.builder().open().await.unwrap();
    for round in 0..10 {
        let tasks = (0..64).map(|number: u64| {
            let session = store.session(format!("round-{round}")).unwrap();
            tokio::spawn(async move {
                match number % 3 {
                    0 => {
                        let _ = session.put(&format!("k-{number}"), &number).await.unwrap();
                    }
                    1 => {
                        let _ = session.create().await.unwrap();
                    }
                    _ => {
                        let ttl = Duration::from_secs(100 + number);
                        let _ = session.create_with_ttl(ttl).await.unwrap();
                    }
                }
                session.create().await.unwrap()
            })
        });
        let infos: Vec<_> = join_all(tasks).await.into_iter().map(Result::unwrap).collect();
        let alike: BTreeSet<_> = infos.iter().map(|info| (info.created, info.ttl)).collect();
        assert_eq!(alike.len(), 1, "{alike:?}");
        let info = store.session(format!("round-{round}")).unwrap().info().await.unwrap();
        assert_eq!(info.unwrap().entries, 22);
        let stats = store.stats().await.unwrap();
        assert_eq!((stats.sessions, stats.values), (round + 1, 22 * (round + 1)));
    }
    store.close().await.unwrap();
}

pub async fn no_lost_update(kind: &impl Kind) {
    const TASKS: u64 = 64;
    const EACH: u64 = 5;
    let store = kind.builder().open().await.unwrap();
    let session = store.session("s").unwrap();
    let tasks = (0..TASKS).map(|_| {
        let session = session.clone();
        tokio::spawn(async move {
            let mut last = 0;
            for _ in 0..EACH {
                let new = session.update("sum", |old: Option<u64>| old.unwrap_or(0) + 1);
                let new = new.await.unwrap();
                assert!(new > last, "{new} after {last}");
                last = new;
            }
        })
    });
    for task in join_all(tasks).await {
        task.unwrap();
    }
    assert_eq!(session.get::<u64>("sum").await.unwrap(), Some(TASKS * EACH));
    let stats = store.stats().await.unwrap();
    assert_eq!(stats.writes, TASKS * EACH + stats.conflicts);
    assert_eq!(stats.values, 1);
    store.close().await.unwrap();
}

pub async fn dropped_writes(kind: &impl Kind) {
    let store = kind.builder().open().await.unwrap();
    let value = Value::Bytes(Bytes::from(vec![9; 1000]));
    let mut answered = Vec::new();
    for number in 0..60 {
        // Every third writes to a session of its own, which the write creates.
        let id = if number % 3 == 0 { format!("s-{number}") } else { "s".to_owned() };
        let session = store.session(id).unwrap();
        let key = format!("{number}");
        let put = session.put_value(&key, value.clone());
        let done = polled(number % 4 + 1, put).await.map(|result| result.unwrap());
        answered.push((session.clone(), key.clone(), done));
    }
    // What is under way comes to an end before this is answered, or in the time after it.
    let mut last = store.stats().await.unwrap();
    until("nothing is under way", || async { store.global().put("end", &1).await.is_ok() }).await;
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = store.stats().await.unwrap();
        if now.bytes == std::mem::replace(&mut last, now).bytes {
            break;
        }
    }
    let (mut values, mut bytes) = (1, 3 + 1);
    for (session, key, done) in answered {
        let found = session.get_value(&key).await.unwrap();
        if let Some(version) = done {
            assert_eq!(found.as_ref().map(|found| found.1), Some(version));
        }
        match found {
            Some((found, _)) => {
                assert_eq!(found, value, "half a write");
                values += 1;
                bytes += 1000 + key.len() as u64;
            }
            None => {
                let info = session.info().await.unwrap();
                assert!(session.id() == Some("s") || info.is_none(), "half a write");
            }
        }
    }
    let stats = store.stats().await.unwrap();
    assert_eq!((stats.values, stats.bytes), (values, bytes));
    store.close().await.unwrap();
}

// === From outside ===

pub async fn lists(kind: &impl Kind) {
    let store = kind.builder().open().await.unwrap();
    assert_eq!(store.list().await.unwrap(), [""; 0]);
    for id in ["b-2", "a", "b-", "c", "b-10", "b-1", "b", "é"] {
        store.session(id).unwrap().create().await.unwrap();
    }
    let all = ["a", "b", "b-", "b-1", "b-10", "b-2", "c", "é"];
    assert_eq!(store.list().await.unwrap(), all);
    assert_eq!(store.list().prefix("b-").await.unwrap(), all[2..6]);
    assert_eq!(store.list().prefix("b-1").await.unwrap(), all[3..5]);
    assert_eq!(store.list().prefix("d").await.unwrap(), [""; 0]);
    assert_eq!(store.list().prefix("é").await.unwrap(), ["é"]);
    assert_eq!(store.list().after("b-").await.unwrap(), all[3..]);
    assert_eq!(store.list().after("b-").prefix("b").limit(2).await.unwrap(), all[3..5]);
    assert_eq!(store.list().after("z").prefix("b").await.unwrap(), [""; 0]);
    assert_eq!(store.list().after("a").prefix("c").await.unwrap(), ["c"]);
    assert_eq!(store.list().limit(0).await.unwrap(), [""; 0]);
    let mut paged = Vec::new();
    loop {
        let mut list = store.list().limit(3);
        if let Some(last) = paged.last() {
            list = list.after(last);
        }
        let page = list.await.unwrap();
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, all);
    // More than the store asks its backend for at a time.
    let ids: Vec<_> = (0..2500).map(|number| format!("many-{number:04}")).collect();
    join_all(ids.iter().map(|id| {
        let session = store.session(id.clone()).unwrap();
        async move { session.create().await.unwrap() }
    }))
    .await;
    assert_eq!(store.list().prefix("many-").await.unwrap(), ids);
    assert_eq!(store.list().prefix("many-").limit(1001).await.unwrap(), ids[..1001]);
    store.close().await.unwrap();
}

pub async fn programs(kind: &impl Kind) {
    let store = kind.builder().open().await.unwrap();
    let session = store.session("s").unwrap();
    let programs = session.programs();
    assert_eq!(programs.get("qa").await.unwrap(), None);
    let error = programs.update("qa", |_| {}).await.unwrap_err();
    assert!(matches!(error, SessionError::NoProgram { .. }), "{error}");
    let draft = Program::new("qa", "dspy.Predict", json!({"signature": "question -> answer"}))
        .with_metadata(json!({"owner": "ada"}));
    let first = programs.create(draft.clone()).await.unwrap();
    assert_eq!(
        (&*first.id, &*first.kind, &first.definition),
        ("qa", "dspy.Predict", &draft.definition)
    );
    assert_eq!((&first.state, &first.metadata), (&json!(null), &draft.metadata));
    assert!(first.version > 0);
    assert_eq!(found(programs.create(draft).await.unwrap_err()), Some(first.version));
    assert_eq!(programs.get("qa").await.unwrap().as_ref(), Some(&first));

    let second = programs.update("qa", |program| program.state = json!([1, 2.5])).await.unwrap();
    assert!(second.version > first.version);
    assert_eq!(second.state, json!([1, 2.5]));
    assert_eq!(second.metadata, json!({"owner": "ada"}));
    let stale = programs.replace(first.clone().with_state(json!(0))).await.unwrap_err();
    assert_eq!(found(stale), Some(second.version));
    let third = programs.replace(second.clone().with_state(json!(3))).await.unwrap();
    assert_eq!(programs.get("qa").await.unwrap().as_ref(), Some(&third));

    // Plain values are elsewhere, and so are the programs of others.
    session.put("qa", "a value").await.unwrap();
    store.global().programs().create(Program::new("rag", "k", json!(null))).await.unwrap();
    assert_eq!(programs.list().await.unwrap(), ["qa"]);
    assert_eq!(session.keys().await.unwrap(), ["qa"]);
    assert_eq!(store.global().programs().list().await.unwrap(), ["rag"]);
    assert_eq!(store.global().keys().await.unwrap(), [""; 0]);
    assert!(programs.delete("qa").await.unwrap());
    assert!(!programs.delete("qa").await.unwrap());
    assert_eq!(session.get::<String>("qa").await.unwrap().unwrap(), "a value");
    store.close().await.unwrap();
}

pub async fn programs_are_not_lost(kind: &impl Kind) {
    let store = kind.builder().open().await.unwrap();
    let programs = store.global().programs();
    programs.create(Program::new("p", "k", json!(null)).with_state(json!([]))).await.unwrap();
    let tasks = (0..32).map(|number| {
        let programs = programs.clone();
        tokio::spawn(async move {
            let add = |program: &mut Program| {
                program.state.as_array_mut().unwrap().push(json!(number));
                program.id = "another".to_owned();
            };
            programs.update("p", add).await.unwrap()
        })
    });
    let versions: BTreeSet<_> =
        join_all(tasks).await.into_iter().map(|program| program.unwrap().version).collect();
    assert_eq!(versions.len(), 32);
    let program = programs.get("p").await.unwrap().unwrap();
    assert_eq!(program.state.as_array().unwrap().len(), 32);
    assert_eq!(Some(&program.version), versions.last());
    assert_eq!(programs.list().await.unwrap(), ["p"]);
    store.close().await.unwrap();
}

pub async fn figures(kind: &impl Kind) {
    let store = kind.builder().open().await.unwrap();
    let session = store.session("s").unwrap();
    session.put("a", &1).await.unwrap();
    session.put("a", &10).await.unwrap();
    session.programs().create(Program::new("p", "k", json!(1))).await.unwrap();
    session.get::<u8>("a").await.unwrap();
    session.keys().await.unwrap();
    session.compare_and_set("a", Expected::Absent, &3).await.unwrap_err();
    session.delete("none").await.unwrap();
    let stats = store.stats().await.unwrap();
    let info = session.info().await.unwrap().unwrap();
    assert_eq!((stats.sessions, stats.values, stats.bytes), (1, 2, info.bytes));
    assert_eq!((stats.reads, stats.writes, stats.conflicts, stats.expired), (2, 5, 1, 0));
    store.close().await.unwrap();
}

// === The store ===

pub async fn names(kind: &impl Kind) {
    for name in ["", "a/b"] {
        let error = SessionStore::builder(name).open().await.unwrap_err();
        assert!(matches!(error, SessionError::Config { option: "builder", .. }), "{error}");
    }
    let error = kind.builder().ttl(Duration::ZERO).open().await.unwrap_err();
    assert!(matches!(error, SessionError::Config { option: "ttl", .. }), "{error}");
    let error = kind.builder().max_sessions(0).open().await.unwrap_err();
    assert!(matches!(error, SessionError::Config { option: "max_sessions", .. }), "{error}");
    let store = kind.builder().open().await.unwrap();
    store.global().put("k", &1).await.unwrap();
    let error = SessionStore::builder(store.name()).open().await.unwrap_err();
    assert!(matches!(error, SessionError::NameTaken { .. }), "{error}");
    let error: Error = error.into();
    assert!(!error.may_have_run() && !error.is_retryable());
    let same = SessionStore::find(store.name()).await.unwrap();
    assert_eq!(same.global().get::<u8>("k").await.unwrap(), Some(1));
    assert!(SessionStore::find(&unique("nobody")).await.is_none());
    store.close().await.unwrap();
}

pub async fn closing(kind: &impl Kind) {
    let store = kind.builder().open().await.unwrap();
    let (name, session) = (store.name().to_owned(), store.session("s").unwrap());
    session.put("k", &1).await.unwrap();
    let closes = join_all((0..3).map(|_| store.close())).await;
    assert!(closes.into_iter().all(|closed| closed.is_ok()));
    for name in [name.clone(), format!("{name}/root")] {
        assert!(where_is(&name).is_none(), "the name {name} is left");
    }
    let closed = |error| assert!(matches!(error, SessionError::Closed { .. }), "{error}");
    closed(session.put("k", &1).await.unwrap_err());
    closed(session.get::<u8>("k").await.unwrap_err());
    closed(session.create().await.unwrap_err());
    closed(store.list().await.unwrap_err());
    closed(store.stats().await.unwrap_err());
    store.close().await.unwrap();
    // Its place is free.
    kind.builder().open().await.unwrap().close().await.unwrap();
}

pub async fn dropping_closes(kind: &impl Kind) {
    let store = kind.builder().open().await.unwrap();
    let root = where_is(format!("{}/root", store.name())).unwrap();
    let actor = where_is(store.name()).unwrap();
    let session = store.session("s").unwrap();
    drop(store);
    // A session is a handle too.
    session.put("k", &1).await.unwrap();
    assert!(where_is(root.get_name().unwrap()).is_some());
    let get = session.store().execute(Operation::Get {
        key: Key { scope: session.scope().clone(), space: Space::Value, name: "k".to_owned() },
        known: None,
    });
    drop(session);
    // And so is an operation.
    assert!(matches!(get.await.unwrap(), Outcome::Value { .. }));
    root.wait(None).await.unwrap();
    actor.wait(None).await.unwrap();
    assert!(where_is(actor.get_name().unwrap()).is_none());
}

pub async fn the_actor_dies(kind: &impl Kind) {
    let store = kind.builder().ttl(Duration::from_secs(60)).open().await.unwrap();
    let session = store.session("s").unwrap();
    session.put("k", &0).await.unwrap();
    let brief = store.session("brief").unwrap();
    brief.create_with_ttl(Duration::from_millis(1)).await.unwrap();
    for round in 1..4 {
        let actor = where_is(store.name()).unwrap();
        actor.kill();
        // Nobody needs it.
        assert_eq!(session.get::<u8>("k").await.unwrap(), Some(round - 1));
        session.put("k", &round).await.unwrap();
        actor.wait(None).await.unwrap();
        session.get::<u8>("k").await.unwrap();
        until("it is back", || async {
            where_is(store.name()).is_some_and(|new| new.get_id() != actor.get_id())
        })
        .await;
    }
    until("its successor sweeps", || async { store.stats().await.unwrap().sessions == 1 }).await;
    // Without the root there is no successor, and no other loss.
    where_is(format!("{}/root", store.name())).unwrap().kill_and_wait(None).await.unwrap();
    session.put("k", &9).await.unwrap();
    assert_eq!(session.get::<u8>("k").await.unwrap(), Some(9));
    store.close().await.unwrap();
    until("the names are free", || async { where_is(store.name()).is_none() }).await;
}
