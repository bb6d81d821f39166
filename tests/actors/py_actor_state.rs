//! The state of Python actors: what was answered is kept, whatever dies.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use snakepen::session::{
    Answer, Backend, Expected, Key, Memory, Operation, Outcome, Scope, Settings, Space, Usage,
};
use snakepen::{Error, PyActor, PyActorBuilder, SessionError, SessionStore, StartError};

use crate::common::{self, LIMIT, kill, python, state, told, unique, within};

fn builder(class: &str) -> PyActorBuilder {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/handlers/actors.py");
    let target = format!("{}:{class}", file.display());
    PyActor::builder(unique("actor"), target).with(|pool| pool.python(python()))
}

async fn store() -> SessionStore {
    SessionStore::builder(unique("store")).open().await.unwrap()
}

async fn finish(actor: PyActor) {
    let pid = actor.pid();
    within(LIMIT, "stop", actor.stop()).await.expect("a clean stop");
    assert!(pid.is_none_or(|pid| state(pid).is_none()), "process {pid:?} is left");
}

/// Kills the process, and waits until that is known.
async fn crash(actor: &PyActor) {
    let pid = actor.pid().expect("a process");
    kill(pid, libc::SIGKILL);
    common::eventually("its death is known", || actor.pid() != Some(pid)).await;
}

fn state_error(error: &Error) -> &str {
    let Error::Python { exception, .. } = error else { panic!("{error}") };
    assert_eq!(exception.module, "snakepen", "{exception}");
    assert!(exception.message.contains("has run"), "{exception}");
    assert!(error.may_have_run());
    &exception.message
}

// === Deaths ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_increment_is_lost_under_fifty_kills() {
    let actor = builder("Counter").with(|pool| pool.circuit_threshold(0)).spawn().await.unwrap();
    let acknowledged = Arc::new(AtomicI64::new(0));
    let unclear = Arc::new(AtomicI64::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let callers = (0..4).map(|caller| {
        let (actor, over) = (actor.clone(), Arc::clone(&over));
        let (acknowledged, unclear) = (Arc::clone(&acknowledged), Arc::clone(&unclear));
        let method = if caller % 2 == 0 { "add" } else { "add_async" };
        tokio::spawn(async move {
            while !over.load(Ordering::Acquire) {
                match actor.call::<i64>(method, 1).await {
                    Ok(_) => acknowledged.fetch_add(1, Ordering::SeqCst),
                    Err(error) if error.may_have_run() => unclear.fetch_add(1, Ordering::SeqCst),
                    Err(_) => 0,
                };
            }
        })
    });
    let callers: Vec<_> = callers.collect();
    let mut killed = 0;
    while killed < 50 {
        let before = acknowledged.load(Ordering::SeqCst);
        common::eventually("calls are answered", || {
            acknowledged.load(Ordering::SeqCst) > before + 3
        })
        .await;
        if let Some(pid) = actor.pid() {
            let launcher = common::parent(pid).filter(|_| killed % 10 == 9);
            // One whose launcher was just killed may be gone by itself.
            let target = launcher.unwrap_or(pid).to_string();
            let killer = std::process::Command::new("kill").args(["-9", &target]).output();
            killed += u32::from(killer.expect("kill runs").status.success());
        }
    }
    over.store(true, Ordering::Release);
    futures::future::join_all(callers).await.into_iter().for_each(Result::unwrap);
    // The last kill may not have been noticed yet.
    let count = async {
        loop {
            match actor.call::<i64>("get", ()).await {
                Err(Error::WorkerDied(_)) => {}
                count => return count.unwrap(),
            }
        }
    };
    let count = within(LIMIT, "the count", count).await;
    let least = acknowledged.load(Ordering::SeqCst);
    let most = least + unclear.load(Ordering::SeqCst);
    assert!((least..=most).contains(&count), "{count} is not from {least} to {most}");
    finish(actor).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_message_had_done_that_was_not_answered_is_not_there() {
    let directory = tempfile::tempdir().unwrap();
    let started = directory.path().join("started");
    let actor = builder("Counter").spawn().await.unwrap();
    assert_eq!(actor.call::<i64>("add", 1).await.unwrap(), 1);
    let error = actor.call::<Value>("add_and_die", 10).await.unwrap_err();
    assert!(matches!(error, Error::WorkerDied(_)), "{error}");
    assert_eq!(actor.call::<i64>("get", ()).await.unwrap(), 1);

    let mut call = actor.call::<Value>("add_and_hang", (10, &started));
    let cancel = call.cancel_handle();
    let running = tokio::spawn(call.into_future());
    told(&started).await;
    cancel.cancel();
    assert!(matches!(running.await.unwrap(), Err(Error::Cancelled { .. })));
    assert_eq!(actor.call::<i64>("get", ()).await.unwrap(), 1);

    // One that raises leaves its instance as it is: it is not of those that are saved, until the next is.
    actor.call::<Value>("add_and_fail", 10).await.unwrap_err();
    assert_eq!(actor.call::<i64>("get", ()).await.unwrap(), 11);
    crash(&actor).await;
    assert_eq!(actor.call::<i64>("get", ()).await.unwrap(), 11);
    actor.call::<Value>("add_and_fail", 10).await.unwrap_err();
    crash(&actor).await;
    assert_eq!(actor.call::<i64>("get", ()).await.unwrap(), 11);
    finish(actor).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_may_be_json_or_bytes() {
    let actor = builder("Anything").spawn().await.unwrap();
    assert_eq!(actor.call::<String>("found", ()).await.unwrap(), "'nothing'");
    crash(&actor).await;
    assert_eq!(actor.call::<String>("found", ()).await.unwrap(), "None", "that was saved");
    for (state, found) in [
        (json!({"a": [1, 2.5, null]}), "{'a': [1, 2.5, None]}"),
        (json!("é"), "'é'"),
        (json!(0), "0"),
    ] {
        actor.call::<()>("put", (state,)).await.unwrap();
        crash(&actor).await;
        assert_eq!(actor.call::<String>("found", ()).await.unwrap(), found);
    }
    actor.call::<()>("put_bytes", 3 << 20).await.unwrap();
    crash(&actor).await;
    assert_eq!(actor.call::<String>("found", ()).await.unwrap(), "3145728 bytes");
    finish(actor).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_store_that_was_given_it_outlives_the_actor() {
    let store = store().await;
    let builder = builder("Counter").args((5,)).sessions(store.clone());
    for expected in 6..9 {
        let actor = builder.clone().spawn().await.unwrap();
        assert_eq!(actor.call::<i64>("add", 1).await.unwrap(), expected);
        actor.stop().await.unwrap();
    }
    let keys = store.global().keys().await.unwrap();
    let [key] = &keys[..] else { panic!("{keys:?}") };
    assert!(key.starts_with("actor/actor-"), "{key}");
    assert!(store.global().delete(key).await.unwrap());
    let actor = builder.spawn().await.unwrap();
    assert_eq!(actor.call::<i64>("add", 1).await.unwrap(), 6, "begun anew");
    finish(actor).await;
    store.close().await.unwrap();
}

// === When it is written ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_written_when_it_has_changed_and_only_then() {
    let store = store().await;
    let actor = builder("Counter").sessions(store.clone()).spawn().await.unwrap();
    let writes = || async { store.stats().await.unwrap().writes };
    for (method, argument, expected) in [
        ("add", json!(1), 1),
        ("get", json!(null), 1),
        ("add", json!(0), 1),
        ("add_async", json!(0), 1),
        ("add_async", json!(1), 2),
        ("add_and_fail", json!(1), 2),
        ("get", json!(null), 3),
    ] {
        let _ = actor.call::<Value>(method, argument).await;
        assert_eq!(writes().await, expected, "after {method}");
    }
    crash(&actor).await;
    actor.call::<i64>("get", ()).await.unwrap();
    assert_eq!(writes().await, 3, "what was loaded is what is kept");
    finish(actor).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn saved_every_so_many_messages_it_is_also_saved_at_the_end() {
    let store = store().await;
    let builder = builder("Counter").sessions(store.clone()).save_every(10);
    let actor = builder.clone().spawn().await.unwrap();
    let key = format!("actor/{}", actor.name());
    let kept = || async { store.global().get::<i64>(&key).await.unwrap() };
    for _ in 0..9 {
        actor.call::<i64>("add", 1).await.unwrap();
    }
    assert_eq!(kept().await, None);
    actor.call::<i64>("add", 1).await.unwrap();
    assert_eq!(kept().await, Some(10));
    actor.call::<i64>("add", 1).await.unwrap();
    crash(&actor).await;
    assert_eq!(actor.call::<i64>("add", 2).await.unwrap(), 12, "what was not saved is lost");
    finish(actor).await;
    assert_eq!(kept().await, Some(12));

    // A message that was cut off leaves nothing to be saved.
    let actor = builder.clone().spawn().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let call = actor.call::<Value>("add_and_hang", (100, directory.path().join("started")));
    call.timeout(Duration::from_millis(100)).await.unwrap_err();
    finish(actor).await;
    assert_eq!(kept().await, Some(12));

    let actor = builder.save_every(0).spawn().await.unwrap();
    assert_eq!(actor.call::<i64>("add", 1).await.unwrap(), 13, "it is loaded");
    finish(actor).await;
    assert_eq!(kept().await, Some(12), "and never saved");
    store.close().await.unwrap();
}

// === What cannot be kept ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_is_no_value_fails_the_message_and_says_that_it_has_run() {
    let actor = builder("Anything").spawn().await.unwrap();
    actor.call::<()>("put", ("kept",)).await.unwrap();
    let pid = actor.pid();
    let error = actor.call::<Value>("put_object", ()).await.unwrap_err();
    let message = state_error(&error);
    assert!(message.contains("object at $.rows[1]"), "{message}");
    assert!(message.contains("`put_object`"), "{message}");
    assert_eq!(actor.pid(), pid, "no reason to die");
    crash(&actor).await;
    assert_eq!(actor.call::<String>("found", ()).await.unwrap(), "'kept'");
    finish(actor).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_the_store_refuses_fails_the_message_until_it_fits() {
    let store = SessionStore::builder(unique("store")).max_value_bytes(1000).open().await.unwrap();
    let actor = builder("Anything").sessions(store.clone()).spawn().await.unwrap();
    let error = actor.call::<Value>("put_bytes", 1001).await.unwrap_err();
    let message = state_error(&error);
    assert!(message.contains("1001 bytes"), "{message}");
    actor.call::<Value>("put_bytes", 1000).await.unwrap();
    crash(&actor).await;
    assert_eq!(actor.call::<String>("found", ()).await.unwrap(), "1000 bytes");
    finish(actor).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_somebody_else_has_written_is_not_overwritten() {
    let store = store().await;
    let actor = builder("Counter").sessions(store.clone()).spawn().await.unwrap();
    let key = format!("actor/{}", actor.name());
    assert_eq!(actor.call::<i64>("add", 1).await.unwrap(), 1);
    store.global().put(&key, &50).await.unwrap();
    let error = actor.call::<i64>("add", 1).await.unwrap_err();
    assert!(state_error(&error).contains("somebody else"), "{error}");
    assert_eq!(actor.call::<i64>("add", 1).await.unwrap(), 51, "built anew from it");
    assert_eq!(store.global().get(&key).await.unwrap(), Some(51));
    store.global().delete(&key).await.unwrap();
    actor.call::<i64>("add_async", 1).await.unwrap_err();
    assert_eq!(actor.call::<i64>("add_async", 1).await.unwrap(), 1);
    finish(actor).await;
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_state_that_load_state_refuses_fails_the_start() {
    let store = store().await;
    let builder = builder("Fussy").sessions(store.clone());
    let actor = builder.clone().spawn().await.unwrap();
    actor.call::<i64>("add", 7).await.unwrap();
    finish(actor).await;
    let error = builder.spawn().await.unwrap_err();
    let Error::Start(start) = &error else { panic!("{error}") };
    let StartError::Python { stage, exception, .. } = &**start else { panic!("{error}") };
    assert_eq!(stage, "`Fussy.load_state`");
    assert_eq!(exception.message, "7 is no state of mine");
    store.close().await.unwrap();
}

// === A store that fails ===

/// In memory; fails what it is told to fail, before or after it has done it.
#[derive(Default)]
struct Failing {
    memory: Memory,
    before: Arc<AtomicBool>,
    after: Arc<AtomicBool>,
}

fn down() -> SessionError {
    SessionError::Server { server: "the test's".to_owned(), message: "it is down".to_owned() }
}

impl Backend for Failing {
    fn open(&self, settings: &Settings) -> Answer<()> {
        self.memory.open(settings)
    }

    fn execute(&self, operation: Operation) -> Answer<Outcome> {
        if self.before.load(Ordering::SeqCst) {
            return Answer::now(Err(down()));
        }
        let is_put = matches!(operation, Operation::Put { .. });
        let done = self.memory.execute(operation);
        if is_put && self.after.swap(false, Ordering::SeqCst) {
            return Answer::later(async move { done.await.and(Err(down())) });
        }
        done
    }

    fn list(&self, prefix: String, after: Option<String>, limit: usize) -> Answer<Vec<String>> {
        self.memory.list(prefix, after, limit)
    }

    fn usage(&self) -> Answer<Usage> {
        self.memory.usage()
    }

    fn maintain(&self) -> Answer<Duration> {
        self.memory.maintain()
    }

    fn close(&self) -> Answer<()> {
        self.memory.close()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_fails_for_a_while_loses_nothing_that_was_answered() {
    let (before, after) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let backend =
        Failing { before: Arc::clone(&before), after: Arc::clone(&after), ..Failing::default() };
    let store = SessionStore::builder(unique("store")).backend(backend).open().await.unwrap();
    let builder = builder("Counter").sessions(store.clone());
    let actor = builder.clone().spawn().await.unwrap();
    for method in ["add", "add_async"] {
        let count: i64 = actor.call("get", ()).await.unwrap();
        before.store(true, Ordering::SeqCst);
        let error = actor.call::<i64>(method, 1).await.unwrap_err();
        assert!(state_error(&error).contains("it is down"), "{error}");
        before.store(false, Ordering::SeqCst);
        assert_eq!(
            actor.call::<i64>(method, 1).await.unwrap(),
            count + 2,
            "the next one saves both"
        );
        // Written, and nobody knows: not taken for somebody else's write.
        after.store(true, Ordering::SeqCst);
        let error = actor.call::<i64>(method, 1).await.unwrap_err();
        assert!(state_error(&error).contains("it is down"), "{error}");
        let pid = actor.pid();
        assert_eq!(actor.call::<i64>(method, 1).await.unwrap(), count + 4);
        assert_eq!(actor.pid(), pid);
        crash(&actor).await;
        assert_eq!(actor.call::<i64>("get", ()).await.unwrap(), count + 4);
    }
    let key =
        Key { scope: Scope::Global, space: Space::Value, name: format!("actor/{}", actor.name()) };
    finish(actor).await;
    before.store(true, Ordering::SeqCst);
    let error = builder.clone().spawn().await.unwrap_err();
    assert!(error.to_string().contains("it is down"), "{error}");
    before.store(false, Ordering::SeqCst);
    let delete = Operation::Delete { key, expected: Expected::Any };
    store.execute(delete).await.unwrap();
    let actor = builder.spawn().await.unwrap();
    assert_eq!(actor.call::<i64>("get", ()).await.unwrap(), 0);
    finish(actor).await;
    store.close().await.unwrap();
}
