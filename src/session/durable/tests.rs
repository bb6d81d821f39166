//! What lives how long in a file, with a clock that the test moves; and the file that is only rehearsed.

use std::fs;
use std::time::Duration;

use redb::StorageBackend;

use super::Durable;
use super::overlay::Overlay;
use crate::session::tests::{Time, unique};
use crate::session::{SessionStore, StoreBuilder};

const TTL: Duration = Duration::from_secs(80);

fn builder(time: &Time, directory: &tempfile::TempDir) -> StoreBuilder {
    let backend = Durable::with_clock(directory.path().join("sessions.redb"), time.clock());
    SessionStore::builder(unique()).ttl(TTL).backend(backend)
}

#[tokio::test]
async fn a_deadline_survives_a_restart() {
    let (time, directory) = (Time::new(), tempfile::tempdir().unwrap());
    let store = builder(&time, &directory).open().await.unwrap();
    let (read, written) = (store.session("read").unwrap(), store.session("written").unwrap());
    let brief = store.session("brief").unwrap();
    brief.create_with_ttl(TTL / 2).await.unwrap();
    for session in [&read, &written] {
        session.put("k", &1).await.unwrap();
    }
    time.pass(5_000);
    // Not yet an eighth of its TTL: this access is not persisted.
    assert!(read.touch().await.unwrap());
    written.put("k", &2).await.unwrap();
    store.close().await.unwrap();

    time.pass(36_000);
    let store = builder(&time, &directory).open().await.unwrap();
    let session = |id| store.session(id).unwrap();
    // Of the whole TTL 36 s, and 41 s, have passed.
    assert_eq!(store.list().await.unwrap(), ["read", "written"]);
    time.pass(38_999);
    assert!(session("read").info().await.unwrap().is_some());
    time.pass(1);
    assert!(session("read").info().await.unwrap().is_none());
    assert!(session("written").info().await.unwrap().is_some());
    time.pass(4_999);
    assert_eq!(session("written").get::<u8>("k").await.unwrap(), Some(2));
    // That one was: the sweep has it persisted.
    store.maintain().await;
    store.close().await.unwrap();

    time.pass(79_999);
    let store = builder(&time, &directory).open().await.unwrap();
    assert_eq!(store.list().await.unwrap(), ["written"]);
    assert_eq!(store.stats().await.unwrap().sessions, 1);
    store.close().await.unwrap();
    time.pass(1);
    let store = builder(&time, &directory).open().await.unwrap();
    let stats = store.stats().await.unwrap();
    assert_eq!((stats.sessions, stats.values, stats.bytes), (0, 0, 0));
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_successor_has_nothing_of_an_expired_session() {
    let (time, directory) = (Time::new(), tempfile::tempdir().unwrap());
    for round in 0..3 {
        let store = builder(&time, &directory).open().await.unwrap();
        let session = store.session("s").unwrap();
        assert_eq!(session.keys().await.unwrap(), [""; 0]);
        session.put(&format!("old-{round}"), &1).await.unwrap();
        time.pass(80_000);
        if round == 1 {
            store.maintain().await;
        }
        session.put("new", &round).await.unwrap();
        assert_eq!(session.keys().await.unwrap(), ["new"]);
        store.close().await.unwrap();
        let store = builder(&time, &directory).open().await.unwrap();
        let session = store.session("s").unwrap();
        assert_eq!(session.keys().await.unwrap(), ["new"]);
        assert_eq!(store.stats().await.unwrap().values, 1);
        session.expire().await.unwrap();
        store.close().await.unwrap();
    }
}

#[test]
fn a_rehearsal_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let contents: Vec<u8> = (0..10_000).map(|number| (number % 251) as u8).collect();
    fs::write(&path, &contents).unwrap();
    let overlay = Overlay::new(fs::File::open(&path).unwrap()).unwrap();
    let mut model = contents.clone();
    for round in 0..2_000 {
        let at = fastrand::usize(..model.len().max(1));
        match round % 8 {
            0 => {
                let len = fastrand::usize(..30_000);
                model.resize(len, 0);
                overlay.set_len(len as u64).unwrap();
            }
            1..4 => {
                let len = fastrand::usize(..=(model.len() - at.min(model.len())).min(9_000));
                let data: Vec<_> = (0..len).map(|_| fastrand::u8(..)).collect();
                model[at..at + len].copy_from_slice(&data);
                overlay.write(at as u64, &data).unwrap();
            }
            _ => {
                let len = fastrand::usize(..=(model.len() - at.min(model.len())).min(9_000));
                assert!(overlay.read(at as u64, len).unwrap() == model[at..at + len]);
            }
        }
        assert_eq!(overlay.len().unwrap(), model.len() as u64);
    }
    assert!(overlay.read(model.len() as u64, 1).is_err());
    assert!(fs::read(&path).unwrap() == contents);
}
