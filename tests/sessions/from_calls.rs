//! Scenario 33 and what goes with it: state that handlers keep in sessions is seen by every worker and by Rust, is never
//! lost to another's write or to a worker's death, and calls of a session can be had one at a time.
//!
//! A naive pool keeps state in its workers, where the next call does not find it.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};
use snakepen::{Builder, Error, SessionError, SessionStore, Stage, session};

use crate::common::{self, LIMIT, eventually, finish, kill, pids, pool, unique, whole, within};

fn sessions() -> Builder {
    pool("sessions.py")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_worker_sees_what_another_wrote() {
    let pool = sessions().workers(3).start().await.unwrap();
    let user = pool.session("user-42");
    for (slot, fact) in ["a", "b", "c"].into_iter().enumerate() {
        let handler = if slot == 1 { "remember_async" } else { "remember" };
        let facts: Vec<String> = user.call(handler, fact).affinity(fact).await.unwrap();
        assert_eq!(facts.len(), slot + 1);
    }
    kill(pids(&pool)[0], 9);
    whole(&pool).await;
    let facts = join_all((0..6).map(|_| user.call::<Vec<String>>("recall", "facts").into_future()));
    for facts in facts.await {
        assert_eq!(facts.unwrap(), ["a", "b", "c"]);
    }
    let state = user.state().unwrap();
    assert_eq!(state.get::<Vec<String>>("facts").await.unwrap().unwrap(), ["a", "b", "c"]);
    // Another session has none of it.
    let error = pool.session("user-43").call::<Value>("recall", "facts").await.unwrap_err();
    let Error::Python { exception, .. } = &error else { panic!("{error:?}") };
    assert_eq!(exception.type_name, "KeyError");
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_update_is_lost() {
    let pool = sessions().workers(4).start().await.unwrap();
    let session = pool.session("s");
    let state = session.state().unwrap();
    let calls = join_all((0..16).map(|n| {
        let handler = if n % 2 == 0 { "increment" } else { "increment_async" };
        session.call::<i64>(handler, 25).timeout(LIMIT).into_future()
    }));
    let threads = session.call::<()>("increment_by_threads", (4, 25)).timeout(LIMIT);
    let rust = async {
        for _ in 0..100 {
            state.update("count", |count: Option<i64>| count.unwrap_or(0) + 1).await.unwrap();
        }
    };
    let (calls, threads, ()) = tokio::join!(calls, threads.into_future(), rust);
    assert!(calls.iter().all(Result::is_ok), "{calls:?}");
    threads.unwrap();
    assert_eq!(state.get::<i64>("count").await.unwrap(), Some(16 * 25 + 5 * 25 + 100));
    finish(pool).await;
}

#[tokio::test]
async fn all_kinds_of_values() {
    let pool = sessions().workers(1).start().await.unwrap();
    let session = pool.session("s");
    let kinds: Value = session.call("kinds", ()).await.unwrap();
    assert_eq!(kinds, json!([["bytes", "json"], {"a": [1, 2.5, null, "é"]}]));
    let global = pool.sessions().global();
    let info: Value = session.call("life", ()).await.unwrap();
    assert_eq!((&info[0]["entries"], &info[0]["ttl"]), (&json!(1), &json!(3600.0)), "{info}");
    assert_eq!(info[1], Value::Null);
    assert_eq!(global.get::<String>("seen by").await.unwrap().unwrap(), "s");
    let state = session.state().unwrap();
    let (value, _) = state.get_value("bytes").await.unwrap().unwrap();
    assert_eq!(value, session::Value::Bytes(vec![0, 255].into()));

    let numpy = std::process::Command::new(common::python()).args(["-c", "import numpy"]).output();
    if numpy.unwrap().status.success() {
        let array: Value = session.call("array", ()).await.unwrap();
        assert_eq!(array, json!([[[1, 3], [5, 7], [9, 11]], ">i4"]));
        let (value, _) = state.get_value("array").await.unwrap().unwrap();
        let session::Value::Array { dtype, shape, data } = value else { panic!("{value:?}") };
        assert_eq!(
            (&*dtype, &*shape, &data[..8]),
            (">i4", &[3, 2][..], &[0, 0, 0, 0, 0, 0, 0, 2][..])
        );
    }
    finish(pool).await;
}

#[tokio::test]
async fn errors_say_what_to_do() {
    let store =
        SessionStore::builder(unique("store")).max_value_bytes(1 << 20).open().await.unwrap();
    let pool =
        sessions().workers(1).sessions(store.clone()).max_frame(1600 << 10).start().await.unwrap();
    let seen: Vec<(String, String)> = pool.session("s").call("errors", ()).await.unwrap();
    let expected = [
        ("TypeError", "set at $"),
        ("SessionError", "invalid key"),
        ("SessionError", "invalid key"),
        ("SessionError", "max_frame"),
        ("SessionError", "max_frame"),
        ("SessionError", "invalid id"),
        ("TypeError", "float at $"),
        ("TypeError", "a version is an int"),
        ("TypeError", "a version is an int"),
        ("ValueError", "a version is one"),
        ("TypeError", "program's id is a str"),
        ("TypeError", "program's id is a str"),
        ("TypeError", "kind is a str"),
        ("TypeError", "session's id is a str"),
        ("ValueError", "a key is text"),
    ];
    assert_eq!(seen.len(), expected.len(), "{seen:?}");
    for ((name, message), (wanted, text)) in seen.iter().zip(expected) {
        assert!(
            name == wanted && message.contains(text),
            "{name}: {message}, not {wanted}: {text}"
        );
    }
    assert_eq!(pool.stats().restarts, 0);
    let error = pool.session("").call::<()>("kinds", ()).await.unwrap_err();
    assert!(matches!(error, Error::Session(SessionError::Invalid { .. })), "{error:?}");
    assert!(!error.may_have_run());
    let error = pool.call::<()>("recall", "k").await.unwrap_err();
    assert!(error.to_string().contains("belongs to no session"), "{error}");
    let error = pool.session("s").call::<()>("nothing", ()).await.unwrap_err();
    assert!(matches!(&error, Error::UnknownHandler { name, .. } if name == "nothing"), "{error:?}");

    // A value that no frame of this pool can hold, though the store can.
    store.session("s").unwrap().put("large", &"x".repeat(1 << 19)).await.unwrap();
    let small =
        sessions().workers(1).sessions(store.clone()).max_frame(1 << 16).start().await.unwrap();
    let error = small.session("s").call::<Value>("recall", "large").await.unwrap_err();
    assert!(error.to_string().contains("max_frame"), "{error}");
    finish(small).await;
    finish(pool).await;
    // It was lent to the pools.
    assert!(store.session("s").unwrap().get::<String>("large").await.unwrap().is_some());
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_store_of_the_pools_own_ends_with_it() {
    let pool = sessions().workers(1).start().await.unwrap();
    let store = pool.sessions().clone();
    pool.session("s").call::<()>("at_exit", ()).await.unwrap();
    finish(pool).await;
    let error = store.global().get::<i64>("k").await.unwrap_err();
    assert!(matches!(error, SessionError::Closed { .. }), "{error:?}");
}

#[tokio::test]
async fn a_worker_that_leaves_can_still_write() {
    let store = SessionStore::builder(unique("store")).open().await.unwrap();
    let pool = sessions().workers(1).sessions(store.clone()).start().await.unwrap();
    let pid = i64::from(pids(&pool)[0]);
    pool.session("s").call::<()>("at_exit", ()).await.unwrap();
    finish(pool).await;
    assert_eq!(store.session("s").unwrap().get::<i64>("last words").await.unwrap(), Some(pid));
    store.close().await.unwrap();
}

/// Lines of a file that handlers append to.
fn lines(path: &std::path::Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_a_session_run_one_at_a_time_and_in_order() {
    let pool = sessions().workers(4).start().await.unwrap();
    let files = tempfile::tempdir().unwrap();
    let mut all = Vec::new();
    for id in ["a", "b"] {
        let session = pool.session(id).in_order();
        let path = files.path().join(id);
        all.extend((0..40).map(|number| {
            session
                .call::<()>("note", (path.clone(), number.to_string()))
                .timeout(LIMIT)
                .into_future()
        }));
    }
    for answer in join_all(all).await {
        answer.unwrap();
    }
    let expected: Vec<String> = (0..40).map(|number| number.to_string()).collect();
    for id in ["a", "b"] {
        assert_eq!(lines(&files.path().join(id)), expected);
    }
    finish(pool).await;
}

/// The one before has been given up, and its handler is still at work: the next one waits for it.
#[tokio::test]
async fn a_turn_ends_with_the_handler() {
    let pool = sessions().workers(3).cancel_grace(LIMIT).start().await.unwrap();
    let files = tempfile::tempdir().unwrap();
    let (log, gate) = (files.path().join("log"), files.path().join("gate"));
    let made = std::process::Command::new("mkfifo").arg(&gate).status().unwrap();
    assert!(made.success());
    let session = pool.session("s").in_order();
    let first =
        session.call::<()>("hold", (&log, &gate)).timeout(Duration::from_millis(300)).into_future();
    let first = tokio::spawn(first);
    eventually("it has begun", || lines(&log).len() == 1).await;
    let waiting =
        session.call::<()>("note", (&log, "late")).timeout(Duration::from_millis(1)).await;
    assert!(matches!(waiting, Err(Error::Timeout { stage: Stage::Queue, .. })), "{waiting:?}");
    let mut dropped = Box::pin(session.call::<()>("note", (&log, "dropped")).into_future());
    assert!(futures::poll!(&mut dropped).is_pending());
    let second = session.call::<()>("note", (&log, "second")).timeout(LIMIT).into_future();
    let second = tokio::spawn(second);
    eventually("both wait", || pool.stats().queued == 2).await;
    drop(dropped);
    let mut third = session.call::<()>("note", (&log, "third"));
    let cancel = third.cancel_handle();
    let third = tokio::spawn(third.into_future());
    eventually("both wait", || pool.stats().queued == 2).await;
    cancel.cancel();
    let error = within(LIMIT, "third", third).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Cancelled { stage: Stage::Queue, .. }), "{error:?}");
    let error = within(LIMIT, "first", first).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Timeout { stage: Stage::Run, .. }), "{error:?}");
    within(LIMIT, "second", second).await.unwrap().unwrap();
    let seen: BTreeMap<_, _> = lines(&log).into_iter().enumerate().collect();
    assert_eq!(seen.len(), 3, "{seen:?}");
    assert!(seen[&1].starts_with("end ") && seen[&2] == "second", "{seen:?}");
    finish(pool).await;
}

/// A future that is polled once and then kept does not hold up those that come after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_future_that_is_not_polled_holds_up_nobody() {
    let pool = sessions().workers(2).start().await.unwrap();
    let files = tempfile::tempdir().unwrap();
    let (log, gate) = (files.path().join("log"), files.path().join("gate"));
    assert!(std::process::Command::new("mkfifo").arg(&gate).status().unwrap().success());
    let session = pool.session("s").in_order();
    let first = tokio::spawn(session.call::<()>("hold", (&log, &gate)).into_future());
    eventually("it has begun", || lines(&log).len() == 1).await;
    let kept = session.call::<()>("note", (&log, "kept")).timeout(LIMIT).into_future();
    let mut kept = Box::pin(kept);
    assert!(futures::poll!(&mut kept).is_pending());
    eventually("it waits", || pool.stats().queued == 1).await;
    let last = tokio::spawn(session.call::<()>("note", (&log, "last")).into_future());
    eventually("both wait", || pool.stats().queued == 2).await;
    std::fs::write(&gate, "").unwrap();
    within(LIMIT, "the first", first).await.unwrap().unwrap();
    within(LIMIT, "the last", last).await.unwrap().unwrap();
    assert_eq!(lines(&log)[2..], ["kept", "last"]);
    kept.await.unwrap();
    finish(pool).await;
}

/// A worker that dies with the turn gives it up.
#[tokio::test]
async fn a_turn_ends_with_the_worker() {
    let pool = sessions().workers(2).start().await.unwrap();
    let files = tempfile::tempdir().unwrap();
    let (log, gate) = (files.path().join("log"), files.path().join("gate"));
    assert!(std::process::Command::new("mkfifo").arg(&gate).status().unwrap().success());
    let session = pool.session("s").in_order();
    let first = tokio::spawn(session.call::<()>("hold", (&log, &gate)).into_future());
    eventually("it has begun", || lines(&log).len() == 1).await;
    let second = tokio::spawn(session.call::<()>("note", (&log, "second")).into_future());
    eventually("it waits", || pool.stats().queued == 1).await;
    let pid = lines(&log)[0].split(' ').nth(1).unwrap().parse().unwrap();
    kill(pid, 9);
    let error = within(LIMIT, "first", first).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::WorkerDied(_)), "{error:?}");
    within(LIMIT, "second", second).await.unwrap().unwrap();
    finish(pool).await;
}

#[tokio::test]
async fn programs_are_built_once_a_version_and_worker() {
    let pool = sessions().workers(2).start().await.unwrap();
    let session = pool.session("s");
    let said: Value = session.call("programs", ()).await.unwrap();
    assert!(said[0].as_str().unwrap().contains("no program 'p'"), "{said}");

    let programs = session.state().unwrap().programs();
    let new = session::Program::new("p", "echo", json!({"text": "a"}));
    let mut version = programs.create(new).await.unwrap().version;
    let mut builds = BTreeMap::new();
    for round in 1..=3 {
        for slot in [0, 1, 0, 1] {
            let call = session.call::<(Value, u64, i32, u64)>("program", "p");
            let (definition, seen, pid, built) = call.pinned(slot.to_string()).await.unwrap();
            assert_eq!((definition["text"].as_str(), seen), (Some("a"), version), "round {round}");
            builds.insert(pid, built);
        }
        let newer = programs.update("p", |program| program.state = json!(round)).await;
        version = newer.unwrap().version;
    }
    assert!(builds.values().all(|&built| built == 3), "{builds:?}");
    finish(pool).await;
}

#[tokio::test]
async fn many_questions_at_once() {
    let pool = sessions().workers(2).start().await.unwrap();
    for (id, handler) in [("a", "flood"), ("b", "flood_async")] {
        let keys: usize = pool.session(id).call(handler, 5000).timeout(LIMIT).await.unwrap();
        assert_eq!(keys, 5000);
    }
    finish(pool).await;
}

/// A handler that is killed, or cancelled, between question and answer harms nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_worker_in_the_middle() {
    let pool = sessions().workers(2).reuse_after_cancel(true).start().await.unwrap();
    let session = pool.session("s");
    let state = session.state().unwrap();
    for round in 0..20 {
        let call = tokio::spawn(
            session.call::<()>("forever", ()).timeout(Duration::from_millis(50)).into_future(),
        );
        if round % 4 == 0 {
            eventually("it writes", || pool.stats().busy == 1).await;
            let busy = pool
                .workers()
                .into_iter()
                .find(|worker| worker.state == snakepen::WorkerState::Busy);
            if let Some(pid) = busy.and_then(|worker| worker.pid) {
                kill(pid, 9);
            }
        }
        let error = within(LIMIT, "the call", call).await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Timeout { .. } | Error::WorkerDied(_)), "{error:?}");
        let before = state.get::<i64>("number").await.unwrap();
        assert!(before.is_some() || round < 2);
        let facts: Vec<String> = session.call("remember", round.to_string()).await.unwrap();
        assert_eq!(facts.len(), round + 1);
    }
    finish(pool).await;
}

/// The package is interrupted nowhere; what it calls of the user's is.
#[tokio::test]
async fn what_a_session_calls_back_is_cancelled() {
    let pool = sessions().workers(1).cancel_grace(LIMIT).start().await.unwrap();
    for handler in ["slow_update", "slow_build"] {
        let files = tempfile::tempdir().unwrap();
        let (started, ended) = (files.path().join("started"), files.path().join("ended"));
        let mut call = pool.session("s").call::<()>(handler, (&started, &ended)).timeout(LIMIT);
        let cancel = call.cancel_handle();
        let call = tokio::spawn(call.into_future());
        eventually("it has begun", || started.exists()).await;
        cancel.cancel();
        let error = within(LIMIT, "the call", call).await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Cancelled { .. }), "{error:?}");
        eventually("it has cleaned up", || ended.exists()).await;
        let facts: Vec<String> = pool.session(handler).call("remember", "a").await.unwrap();
        assert_eq!(facts, ["a"]);
    }
    finish(pool).await;
}

/// A backend that answers late, and does not survive being asked for some keys.
struct Treacherous(session::Memory);

impl session::Backend for Treacherous {
    fn open(&self, settings: &session::Settings) -> session::Answer<()> {
        self.0.open(settings)
    }

    fn execute(&self, operation: session::Operation) -> session::Answer<session::Outcome> {
        let fatal =
            matches!(&operation, session::Operation::Get { key, .. } if key.name == "fatal");
        let answer = self.0.execute(operation);
        session::Answer::later(async move {
            tokio::task::yield_now().await;
            assert!(!fatal, "asked for it");
            answer.await
        })
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
        self.0.maintain()
    }

    fn close(&self) -> session::Answer<()> {
        self.0.close()
    }
}

#[tokio::test]
async fn a_backend_that_panics_costs_one_answer() {
    let backend = Treacherous(session::Memory::new());
    let store = SessionStore::builder(unique("store")).backend(backend).open().await.unwrap();
    let pool = sessions().workers(1).sessions(store.clone()).start().await.unwrap();
    let session = pool.session("s");
    let facts: Vec<String> = session.call("remember", "a").await.unwrap();
    assert_eq!(facts, ["a"]);
    let error = session.call::<Value>("recall", "fatal").timeout(LIMIT).await.unwrap_err();
    let Error::Python { exception, .. } = &error else { panic!("{error:?}") };
    assert!(exception.message.contains("the store failed"), "{error}");
    let facts: Vec<String> = session.call("remember", "b").await.unwrap();
    assert_eq!(facts, ["a", "b"]);
    assert_eq!(pool.stats().restarts, 0);
    finish(pool).await;
    store.close().await.unwrap();
}
