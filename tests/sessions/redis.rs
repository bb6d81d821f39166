//! A store in a Redis server: several hosts at once, and a server that stops, dies, forgets and comes back.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use snakepen::session::{Redis, StoreBuilder, Value};
use snakepen::{SessionError, SessionStore};

use crate::common::{self, LIMIT, kill, unique, within};
use crate::server::Server;

fn builder(backend: Redis) -> StoreBuilder {
    SessionStore::builder(unique("redis")).backend(backend)
}

/// Two stores are as two hosts: they share nothing but the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_share_sessions() {
    let server = Server::start().await;
    let hosts = [
        builder(server.backend()).open().await.unwrap(),
        builder(server.backend()).max_sessions(3).max_total_bytes(1000).open().await.unwrap(),
    ];
    let other = builder(server.backend().prefix("another")).open().await.unwrap();
    hosts[0].session("s").unwrap().put("k", "from 0").await.unwrap();
    let session = hosts[1].session("s").unwrap();
    assert_eq!(session.get::<String>("k").await.unwrap().unwrap(), "from 0");
    assert_eq!(other.list().await.unwrap(), [""; 0]);
    assert_eq!(other.session("s").unwrap().get::<String>("k").await.unwrap(), None);

    let tasks = (0..64).map(|number| {
        let session = hosts[number % 2].session("s").unwrap();
        let add = move |old: Option<u64>| old.unwrap_or(0) + 1;
        tokio::spawn(async move {
            for _ in 0..3 {
                session.update("sum", add).await.unwrap();
            }
            session.put(&format!("k-{number}"), &0).await.unwrap()
        })
    });
    let versions: BTreeSet<_> = join_all(tasks).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(versions.len(), 64);
    assert_eq!(session.get::<u64>("sum").await.unwrap(), Some(64 * 3));

    // Each write is held to the bounds of its host, over all there is.
    for id in ["a", "b"] {
        hosts[0].session(id).unwrap().create().await.unwrap();
    }
    let error = hosts[1].session("c").unwrap().create().await.unwrap_err();
    assert!(matches!(error, SessionError::Full { limit: "max_sessions", .. }), "{error}");
    hosts[0].session("c").unwrap().create().await.unwrap();
    let large = Value::Bytes(Bytes::from(vec![0; 990]));
    let error = hosts[1].global().put_value("k", large.clone()).await.unwrap_err();
    assert!(matches!(error, SessionError::Full { limit: "max_total_bytes", .. }), "{error}");
    hosts[0].global().put_value("k", large).await.unwrap();
    let stats = hosts[1].stats().await.unwrap();
    assert_eq!((stats.sessions, stats.values), (4, 67));
    // One host closes; the other goes on.
    hosts[0].close().await.unwrap();
    assert_eq!(session.get::<u64>("sum").await.unwrap(), Some(64 * 3));
}

#[tokio::test]
async fn a_server_that_stops_is_an_error_in_time() {
    let server = Server::start().await;
    let timeout = Duration::from_millis(300);
    let store = builder(server.backend().timeout(timeout)).open().await.unwrap();
    let session = store.session("s").unwrap();
    session.put("k", &1).await.unwrap();
    kill(server.pid(), 19);
    for write in [false, true] {
        let start = Instant::now();
        let error = if write {
            session.put("k", &2).await.unwrap_err()
        } else {
            session.get::<u8>("k").await.unwrap_err()
        };
        assert!(start.elapsed() < timeout * 4, "{:?}", start.elapsed());
        let SessionError::Unavailable { may_have_applied, server: named, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!((*may_have_applied, error.is_retryable()), (write, !write), "{error}");
        assert!(named.contains("socket"), "{named}");
    }
    kill(server.pid(), 18);
    recovers(&session, 3).await;
    store.close().await.unwrap();
}

/// Within a few calls; none takes longer than its time-out.
async fn recovers(session: &snakepen::Session, value: u8) {
    let calls = async {
        while session.put("k", &value).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(LIMIT, "recovery", calls).await;
    assert_eq!(session.get::<u8>("k").await.unwrap(), Some(value));
}

#[tokio::test]
async fn a_server_that_dies_is_an_error_until_it_is_back() {
    let mut server = Server::start().await;
    let backend = server.backend().timeout(Duration::from_secs(2));
    let store = builder(backend.clone()).open().await.unwrap();
    let session = store.session("s").unwrap();
    let version = session.put("kept", &1).await.unwrap();
    server.kill();
    for _ in 0..3 {
        let start = Instant::now();
        let error = session.put("k", &2).await.unwrap_err();
        assert!(matches!(error, SessionError::Unavailable { .. }), "{error}");
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
        session.get::<u8>("k").await.unwrap_err();
    }
    // What was certainly not sent says so.
    let error = session.put("k", &2).await.unwrap_err();
    assert!(matches!(error, SessionError::Unavailable { may_have_applied: false, .. }), "{error}");
    assert!(error.is_retryable(), "{error}");
    server.restart().await;
    recovers(&session, 3).await;
    // The scripts of the server are gone, its data is not.
    assert_eq!(session.get_versioned("kept").await.unwrap(), Some((1, version)));
    assert!(session.put("kept", &2).await.unwrap() > version);
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_not_there_fails_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("redis+unix://{}/none", directory.path().display());
    let open = |url: &str| builder(Redis::new(url).timeout(Duration::from_secs(1))).open();
    let error = within(LIMIT, "open", open(&url)).await.unwrap_err();
    assert!(matches!(error, SessionError::Unavailable { .. }), "{error}");
    let error = within(LIMIT, "open", open("redis://user:secret@127.0.0.1:1/")).await.unwrap_err();
    assert!(matches!(error, SessionError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
    assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    let error = open("http://example.org").await.unwrap_err();
    assert!(matches!(error, SessionError::Config { option: "backend", .. }), "{error}");
    // A port that takes connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", silent.local_addr().unwrap());
    let start = Instant::now();
    let error = within(LIMIT, "open", open(&url)).await.unwrap_err();
    assert!(matches!(error, SessionError::Unavailable { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_server_that_forgets_uses_no_version_twice() {
    let server = Server::start().await;
    let store = builder(server.backend()).open().await.unwrap();
    let session = store.session("s").unwrap();
    let mut last = 0;
    for round in 0..5 {
        let version = session.put("k", &round).await.unwrap();
        assert!(version > last, "{version} after {last}");
        last = version;
        server.cli(&["FLUSHALL"]);
        assert_eq!(session.get::<u8>("k").await.unwrap(), None);
    }
    // One key that the server has evicted: the session is gone, and so is what is counted of it.
    session.put("k", &1).await.unwrap();
    server.cli(&["DEL", "{snakepen}:s:s"]);
    assert_eq!(session.get::<u8>("k").await.unwrap(), None);
    let stats = store.stats().await.unwrap();
    assert_eq!((stats.sessions, stats.values, stats.bytes), (0, 0, 0));
    // Keys of somebody else's.
    server.cli(&["SET", "{snakepen}:deadlines", "x"]);
    let error = session.put("k", &1).await.unwrap_err();
    assert!(matches!(error, SessionError::Server { .. }), "{error}");
    assert!(!error.is_retryable());
    store.close().await.unwrap();
}

/// As with snapshots only, or with an append-only file whose last second is lost: what a worker has built of one version must
/// not pass for another.
#[tokio::test]
async fn a_server_that_comes_back_with_an_older_state_uses_no_version_twice() {
    let mut server = Server::start().await;
    let store = builder(server.backend()).open().await.unwrap();
    let session = store.session("s").unwrap();
    session.put("k", &1).await.unwrap();
    let files = server.directory().join("appendonlydir");
    let copy = server.directory().join("copy");
    assert!(Command::new("cp").arg("-r").args([&files, &copy]).status().unwrap().success());
    let lost = session.put("k", &2).await.unwrap();
    server.kill();
    std::fs::remove_dir_all(&files).unwrap();
    std::fs::rename(&copy, &files).unwrap();
    server.restart().await;
    let read = async {
        loop {
            match session.get::<u8>("k").await {
                Ok(found) => break found,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    assert_eq!(within(LIMIT, "recovery", read).await, Some(1));
    assert!(session.put("k", &3).await.unwrap() > lost);
    store.close().await.unwrap();
}

/// The server lets a session expire by itself, whether a host is there to sweep or not.
#[tokio::test]
async fn sessions_expire_without_a_host() {
    let server = Server::start().await;
    let store = builder(server.backend()).open().await.unwrap();
    let session = store.session("s").unwrap();
    session.create_with_ttl(Duration::from_millis(200)).await.unwrap();
    session.put("k", &1).await.unwrap();
    assert_eq!(server.cli(&["EXISTS", "{snakepen}:s:s"]).trim(), "1");
    store.close().await.unwrap();
    common::eventually("it has expired", || {
        server.cli(&["EXISTS", "{snakepen}:s:s"]).trim() == "0"
    })
    .await;
    let store = builder(server.backend()).open().await.unwrap();
    assert_eq!(store.list().await.unwrap(), [""; 0]);
    let swept = async {
        while store.stats().await.unwrap().values > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(LIMIT, "the sweep of another host", swept).await;
    store.close().await.unwrap();
}
