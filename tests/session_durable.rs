//! Scenario 34, and what else can happen to the file of a durable store: the host is killed, the disk is full, the file is
//! damaged, foreign, or in use.
#![cfg(feature = "durable")]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use common::host::{self, Host};
use common::{LIMIT, eventually, unique, within};
use futures::future::join_all;
use snakepen::session::{Durable, Expected, StoreBuilder, Value};
use snakepen::{SessionError, SessionStore};

const WRITERS: usize = 64;

fn builder(path: &Path) -> StoreBuilder {
    SessionStore::builder(unique("durable")).backend(Durable::new(path))
}

async fn open(path: &Path) -> SessionStore {
    within(LIMIT, "open", builder(path).open()).await.unwrap()
}

/// Why it cannot be opened; the file must be what it was.
async fn refused(path: &Path) -> String {
    let before = fs::read(path).ok();
    let error = within(LIMIT, "open", builder(path).open()).await.unwrap_err();
    let SessionError::File { path: named, .. } = &error else { panic!("{error}") };
    assert_eq!(named, path);
    assert!(before == fs::read(path).ok(), "the file has changed: {error}");
    error.to_string()
}

// === The host ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the host that the other tests start"]
async fn host() {
    let Some(part) = host::part() else { return };
    let (part, path) = part.split_once(' ').unwrap();
    match part {
        "write" => write_forever(Path::new(path)).await,
        "hold" => {
            let _store = open(Path::new(path)).await;
            host::tell("ready", "");
            std::future::pending().await
        }
        "fill" => fill(Path::new(path)).await,
        part => panic!("no part {part}"),
    }
}

/// Each task writes to a session of its own, to one that all share, and counts in one value; and says so, once it is
/// acknowledged, in a file of its own.
async fn write_forever(path: &Path) {
    let store = open(path).await;
    let begin =
        store.global().update("runs", |old: Option<u64>| old.unwrap_or(0) + 1).await.unwrap();
    host::tell("ready", "");
    let tasks = (0..WRITERS).map(|task| {
        let store = store.clone();
        let told = host::shared_file(&format!("acknowledged-{task}"));
        tokio::spawn(async move {
            let mut told = OpenOptions::new().create(true).append(true).open(told).unwrap();
            // In one write: a killed process leaves all of a line, or nothing of it.
            let mut tell = |what: &str, version: u64, value: &str| {
                told.write_all(format!("{what} {version} {value}\n").as_bytes()).unwrap();
            };
            let own = store.session(format!("own-{task}")).unwrap();
            let shared = store.session("shared").unwrap();
            for number in 0_u64.. {
                let value = format!("{begin}-{number}");
                let version = own.put("last", &value).await.unwrap();
                tell("own", version, &value);
                let key = format!("{task}-{begin}-{number}");
                let version = shared.put(&key, &number).await.unwrap();
                tell("shared", version, &key);
                if number % 3 == 2 {
                    let key = format!("{task}-{begin}-{}", number - 1);
                    assert!(shared.delete(&key).await.unwrap());
                    tell("deleted", 0, &key);
                }
                if number % 8 == 0 {
                    let global = store.global();
                    global.update("sum", |old: Option<u64>| old.unwrap_or(0) + 1).await.unwrap();
                    tell("sum", 0, "-");
                }
            }
        })
    });
    join_all(tasks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_after_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sessions.redb");
    let mut sum = 0;
    let mut last_version = 0;
    for round in 1..=3_u64 {
        let mut host = Host::start(&format!("write {}", path.display()));
        host.tells("ready").await;
        let acknowledged = |host: &Host| -> Vec<Vec<String>> {
            let lines = |task| fs::read_to_string(host.file(&format!("acknowledged-{task}")));
            let of = |task| lines(task).unwrap_or_default().lines().map(str::to_owned).collect();
            (0..WRITERS).map(of).collect()
        };
        eventually("all write", || acknowledged(&host).iter().all(|lines| lines.len() > 4)).await;
        tokio::time::sleep(Duration::from_micros(fastrand::u64(0..20_000))).await;
        host.kill();

        let store = open(&path).await;
        let shared = store.session("shared").unwrap();
        let mut unsure = 0;
        for (task, lines) in acknowledged(&host).into_iter().enumerate() {
            let mut own = None;
            let mut keys = BTreeMap::new();
            for line in &lines {
                let mut words = line.splitn(3, ' ');
                let mut word = || words.next().unwrap().to_owned();
                let (what, version, rest) = (word(), word().parse::<u64>().unwrap(), word());
                assert!(what == "deleted" || what == "sum" || version > last_version);
                match &*what {
                    "own" => own = Some((rest, version)),
                    "shared" => {
                        keys.insert(rest, Some(version));
                    }
                    "deleted" => {
                        keys.insert(rest, None);
                    }
                    _ => sum += 1,
                }
            }
            // The last write may have been applied, and not acknowledged.
            let session = store.session(format!("own-{task}")).unwrap();
            let (found, version) = session.get_versioned::<String>("last").await.unwrap().unwrap();
            let (value, acknowledged) = own.unwrap();
            if (&found, version) != (&value, acknowledged) {
                assert!(version > acknowledged, "{found} after {value}");
                let number = |value: &str| value.split_once('-').unwrap().1.parse::<u64>().unwrap();
                assert_eq!(number(&found), number(&value) + 1);
                unsure += 1;
            }
            for (key, expected) in keys {
                let found = shared.get_versioned::<u64>(&key).await.unwrap();
                if found.map(|(_, version)| version) != expected {
                    // Only a delete can have come after what was acknowledged.
                    assert!(expected.is_some() && found.is_none(), "{key}: {found:?}");
                    unsure += 1;
                }
            }
        }
        assert!(unsure <= WRITERS, "{unsure} writes were lost");
        let global = store.global();
        let found = global.get::<u64>("sum").await.unwrap().unwrap();
        assert!((sum..=sum + WRITERS as u64).contains(&found), "{found} of {sum}");
        sum = found;
        assert_eq!(global.get::<u64>("runs").await.unwrap(), Some(round));
        // Versions go on after those that were given.
        let next = global.put("next", &round).await.unwrap();
        for key in shared.keys().await.unwrap() {
            let (_, version) = shared.get_value(&key).await.unwrap().unwrap();
            assert!(version < next);
        }
        last_version = next;
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_host_killed_while_it_creates_the_store_leaves_one_that_opens() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..6 {
        let path = directory.path().join(format!("{round}.redb"));
        let mut host = Host::start(&format!("hold {}", path.display()));
        eventually("it is being created", || path.exists()).await;
        tokio::time::sleep(Duration::from_micros(round * 1000)).await;
        host.kill();
        let store = open(&path).await;
        store.global().put("k", &round).await.unwrap();
        store.close().await.unwrap();
        assert_eq!(open(&path).await.global().get("k").await.unwrap(), Some(round));
    }
}

// === A full disk ===

/// With a limit on the size of its files, which does not kill it: writes fail as on a full disk.
async fn fill(path: &Path) {
    let store = open(path).await;
    let session = store.session("s").unwrap();
    let value = |byte: u8| Value::Bytes(Bytes::from(vec![byte; 50_000]));
    // What is written at once may be of one transaction, or of several.
    let mut acknowledged = Vec::new();
    let error = loop {
        let round = u8::try_from(acknowledged.len() / 4).unwrap();
        let puts = (0..4).map(|number| {
            let (session, key) = (session.clone(), format!("{round}-{number}"));
            async move { (session.put_value(&key, value(round)).await, key) }
        });
        let mut failed = None;
        for (done, key) in join_all(puts).await {
            match done {
                Ok(_) => acknowledged.push(key),
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            break error;
        }
    };
    assert!(acknowledged.len() > 4);
    let SessionError::Write { path: named, .. } = &error else { panic!("{error}") };
    assert_eq!(named, path);
    // Nothing of it is there, what was there is, and no more is taken.
    acknowledged.sort();
    assert_eq!(session.keys().await.unwrap(), acknowledged);
    assert_eq!(store.stats().await.unwrap().values, acknowledged.len() as u64);
    let error = session.put("small", &1).await.unwrap_err();
    assert!(error.to_string().contains("until it is opened again"), "{error}");
    assert_eq!(session.get::<u8>("small").await.unwrap(), None);
    assert!(session.get_value("0-0").await.unwrap().is_some());
    store.close().await.unwrap();
    fs::write(host::shared_file("acknowledged"), acknowledged.join("\n")).unwrap();
}

#[tokio::test]
async fn a_full_disk_fails_writers_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sessions.redb");
    open(&path).await.close().await.unwrap();
    // Blocks of 512 bytes: 4 MiB.
    let script = "trap '' XFSZ; ulimit -f 8192; exec \"$0\" --exact host --ignored --nocapture";
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .env("SNAKEPEN_TEST_PART", format!("fill {}", path.display()))
        .env("SNAKEPEN_TEST_DIRECTORY", directory.path())
        .stdin(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The host ends with this end of it.
    let _stdin = child.stdin.take();
    let ended = tokio::task::spawn_blocking(move || child.wait());
    assert!(within(LIMIT, "the host", ended).await.unwrap().unwrap().success());
    let acknowledged = fs::read_to_string(directory.path().join("acknowledged")).unwrap();
    let store = open(&path).await;
    let session = store.session("s").unwrap();
    for key in acknowledged.lines() {
        let found = session.get_value(key).await.unwrap().unwrap().0;
        let round = key.split_once('-').unwrap().0.parse().unwrap();
        assert_eq!(found, Value::Bytes(Bytes::from(vec![round; 50_000])));
    }
    session.put("small", &1).await.unwrap();
    store.close().await.unwrap();
}

// === The file ===

#[tokio::test]
async fn all_of_it_is_there_when_it_is_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sessions.redb");
    let store = open(&path).await;
    let session = store.session("s").unwrap();
    let created = session.create_with_ttl(Duration::from_secs(100)).await.unwrap();
    let array = Value::Array { dtype: "<f8".to_owned(), shape: vec![2, 0, 3], data: Bytes::new() };
    let mut versions = Vec::new();
    for (key, value) in [
        ("json", Value::json(&[1, 2]).unwrap()),
        ("bytes", Value::Bytes(Bytes::from_static(b"\0\xff"))),
        ("array", array),
    ] {
        versions.push((key, value.clone(), session.put_value(key, value).await.unwrap()));
    }
    let program = snakepen::session::Program::new("p", "k", serde_json::json!({"a": 1}));
    let program = session.programs().create(program).await.unwrap();
    let global = store.global().put("json", "g").await.unwrap();
    let gone = store.session("gone").unwrap();
    gone.put("k", &1).await.unwrap();
    gone.expire().await.unwrap();
    session.put("deleted", &1).await.unwrap();
    session.delete("deleted").await.unwrap();
    let last = session.put("last", &1).await.unwrap();
    session.delete("last").await.unwrap();
    let (stats, info) = (store.stats().await.unwrap(), session.info().await.unwrap().unwrap());
    store.close().await.unwrap();

    let store = open(&path).await;
    let session = store.session("s").unwrap();
    let again = session.info().await.unwrap().unwrap();
    assert_eq!((again.created, again.ttl), (created.created, created.ttl));
    assert_eq!((again.entries, again.bytes), (info.entries, info.bytes));
    for (key, value, version) in versions {
        assert_eq!(session.get_value(key).await.unwrap(), Some((value, version)));
    }
    assert_eq!(session.keys().await.unwrap(), ["array", "bytes", "json"]);
    assert_eq!(session.programs().get("p").await.unwrap(), Some(program));
    assert_eq!(store.global().get_versioned("json").await.unwrap(), Some(("g".to_owned(), global)));
    assert_eq!(store.list().await.unwrap(), ["s"]);
    let found = store.stats().await.unwrap();
    assert_eq!(
        (found.sessions, found.values, found.bytes),
        (stats.sessions, stats.values, stats.bytes)
    );
    // Not even the version of what was deleted last is used again.
    assert!(session.put("last", &1).await.unwrap() > last);
    let error = session.compare_and_set("last", Expected::Version(last), &1).await.unwrap_err();
    assert!(matches!(error, SessionError::Conflict { .. }), "{error}");
    drop((session, store));
    eventually("the file is closed", || {
        let file = fs::File::open(&path).unwrap();
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_file_in_use_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sessions.redb");
    let store = open(&path).await;
    store.global().put("k", &1).await.unwrap();
    let text = refused(&path).await;
    assert!(text.contains("close that one first"), "{text}");
    store.global().put("k", &2).await.unwrap();
    store.close().await.unwrap();

    let mut host = Host::start(&format!("hold {}", path.display()));
    host.tells("ready").await;
    let text = refused(&path).await;
    assert!(text.contains("another process"), "{text}");
    host.kill();
    assert_eq!(open(&path).await.global().get::<u8>("k").await.unwrap(), Some(2));
}

#[tokio::test]
async fn a_foreign_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sessions.redb");
    for contents in [&b"a"[..], b"SQLite format 3\0", &[0; 10_000], b"redb\x1A\x0A\xA9\x0D"] {
        fs::write(&path, contents).unwrap();
        let text = refused(&path).await;
        assert!(text.contains("no session store of Snakepen"), "{text}");
    }
    fs::write(&path, b"redb\x1A\x0A\xA9\x0D\x0A").unwrap();
    let text = refused(&path).await;
    assert!(text.contains("damaged"), "{text}");

    // One of somebody else's.
    let other = directory.path().join("other.redb");
    let database = redb::Database::create(&other).unwrap();
    let transaction = database.begin_write().unwrap();
    let table = redb::TableDefinition::<&str, u64>::new("theirs");
    transaction.open_table(table).unwrap().insert("k", 1).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let text = refused(&other).await;
    assert!(text.contains("no session store of Snakepen"), "{text}");

    let text = refused(&directory.path().join("missing/sessions.redb")).await;
    assert!(text.contains("create its directory"), "{text}");
    let error = builder(directory.path()).open().await.unwrap_err();
    assert!(error.to_string().contains("the path of a file"), "{error}");
    // An empty file is none.
    fs::write(&path, "").unwrap();
    open(&path).await.close().await.unwrap();
}

#[tokio::test]
async fn a_damaged_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let whole = directory.path().join("whole.redb");
    let store = open(&whole).await;
    let expected: Vec<_> =
        (0..200).map(|number| (format!("{number:03}"), vec![number; 500])).collect();
    for (key, value) in &expected {
        store.session("s").unwrap().put(key, value).await.unwrap();
    }
    store.close().await.unwrap();
    let bytes = fs::read(&whole).unwrap();
    let path = directory.path().join("sessions.redb");
    let refusals = std::cell::Cell::new(0);
    // Each opens with all that was there, or is refused and left as it is.
    let check = async |damaged: &[u8], what: String| {
        fs::write(&path, damaged).unwrap();
        match within(LIMIT, "open", builder(&path).open()).await {
            Ok(store) => {
                let session = store.session("s").unwrap();
                for (key, value) in &expected {
                    let found = session.get::<Vec<i32>>(key).await.unwrap();
                    assert_eq!(found.as_ref(), Some(value), "{what}");
                }
                store.close().await.unwrap();
            }
            Err(SessionError::File { path: named, message }) => {
                assert_eq!(named, path);
                assert!(message.contains("move") && message.contains("away"), "{message}");
                assert!(fs::read(&path).unwrap() == damaged, "{what}: the file has changed");
                refusals.set(refusals.get() + 1);
            }
            Err(error) => panic!("{what}: {error}"),
        }
    };
    for cut in [10, 100, 4096, 50_000, bytes.len() - 1, bytes.len() - 4096] {
        check(&bytes[..cut], format!("cut at {cut}")).await;
    }
    let pages: Vec<_> = (0..bytes.len() / 4096)
        .filter(|page| bytes[page * 4096..][..4096].iter().any(|&byte| byte != 0))
        .collect();
    assert!(pages.len() > 20);
    for round in 0..40 {
        let page = pages[round * pages.len() / 40];
        let used: Vec<_> = (page * 4096..page * 4096 + 4096).filter(|&at| bytes[at] != 0).collect();
        let at = used[fastrand::usize(..used.len())];
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << fastrand::u8(..8);
        check(&damaged, format!("a bit at {at}")).await;
    }
    let mut damaged = bytes.clone();
    damaged[4096..].fill(0xA5);
    check(&damaged, "all but the head".to_owned()).await;
    assert!(refusals.get() > 8, "{refusals:?}");
    check(&bytes, "whole".to_owned()).await;
}
