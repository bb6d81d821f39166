//! Python objects as named actors: one process, one message at a time, back after any death.

use std::path::Path;
use std::time::Duration;

use ractor::{ActorRef, registry};
use serde_json::{Value, json};
use snakepen::{Error, PyActor, PyActorBuilder, PyActorMsg, StartError};

use crate::common::{
    self, LIMIT, eventually, handler_file, is_alive, kill, parent, python, state, told, unique,
    within,
};

fn target(class: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/handlers/actors.py");
    format!("{}:{class}", file.display())
}

fn builder(class: &str) -> PyActorBuilder {
    named(&unique("actor"), class)
}

fn named(name: &str, class: &str) -> PyActorBuilder {
    PyActor::builder(name, target(class)).with(|pool| pool.python(python()))
}

/// Stops the actor, and checks that nothing of it is left.
async fn finish(actor: PyActor) {
    let name = actor.name();
    let pid = actor.pid();
    within(LIMIT, "stop", actor.stop()).await.expect("a clean stop");
    nothing_is_left(&name, pid.into_iter().chain(pid.and_then(parent)));
    let stats = actor.stats();
    let ended = stats.completed + stats.failed.total();
    assert_eq!(stats.submitted, ended, "messages are lost: {stats:?}");
    let late = actor.call::<Value>("pid", ()).await;
    assert!(matches!(late, Err(Error::Closed { .. })), "{late:?}");
}

fn nothing_is_left(name: &str, pids: impl IntoIterator<Item = i32>) {
    for pid in pids {
        if pid != std::process::id().cast_signed() {
            assert_eq!(state(pid), None, "process {pid} is left");
        }
    }
    assert_eq!(names(name), Vec::<String>::new());
}

fn names(name: &str) -> Vec<String> {
    let pool = format!("{name}.pool");
    let ours = |one: &String| *one == name || *one == pool || one.starts_with(&format!("{pool}/"));
    registry::registered().into_iter().filter(ours).collect()
}

async fn file_in(directory: &tempfile::TempDir, name: &str) -> String {
    directory.path().join(name).to_str().expect("a UTF-8 path").to_owned()
}

// === Messages ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn public_methods_are_called_by_their_names() {
    let actor = builder("Derived").args(("a", json!({"b": 1}))).spawn().await.unwrap();
    assert_eq!(actor.call::<Value>("all", ()).await.unwrap(), json!(["a", {"b": 1}]));
    assert_eq!(actor.call::<u64>("add", 2).await.unwrap(), 3);
    assert_eq!(actor.call::<u64>("add", json!({"item": null})).await.unwrap(), 4);
    assert_eq!(actor.call::<u64>("double", 4).await.unwrap(), 8);
    assert_eq!(actor.call::<String>("kind", ()).await.unwrap(), "Derived");
    assert_eq!(actor.call::<String>("more", ()).await.unwrap(), "more");
    let error = actor.call::<Value>("fail", "so").await.unwrap_err();
    let Error::Python { exception, .. } = &error else { panic!("{error}") };
    assert_eq!(exception.message, "so");
    assert!(!exception.traceback.contains("_actors.py"), "{}", exception.traceback);
    finish(actor).await;
}

#[tokio::test]
async fn nothing_else_can_be_called() {
    let actor = builder("Derived").spawn().await.unwrap();
    let methods = [
        "add",
        "add_slowly",
        "all",
        "die",
        "double",
        "fail",
        "hang",
        "kind",
        "leave",
        "more",
        "pid",
        "wait_for",
    ];
    for name in ["_private", "__init__", "decorated", "label", "broken", "Inner", "nothing"] {
        let error = actor.call::<Value>(name, ()).await.unwrap_err();
        let Error::UnknownHandler { known, .. } = &error else { panic!("{name}: {error}") };
        assert_eq!(*known, methods);
        let says_why = error.to_string().contains("`_` is private");
        assert_eq!(says_why, name.starts_with('_'), "{error}");
        assert!(!error.may_have_run());
    }
    finish(actor).await;
}

#[tokio::test]
async fn init_gets_positional_or_keyword_arguments() {
    for (args, items) in [
        (json!(null), json!([])),
        (json!([1, [2]]), json!([1, [2]])),
        (json!({"a": 1}), json!([["a", 1]])),
        (json!("text"), json!(["text"])),
    ] {
        let actor = builder("Log").args(&args).spawn().await.unwrap();
        assert_eq!(actor.call::<Value>("all", ()).await.unwrap(), items, "{args}");
        finish(actor).await;
    }
}

#[tokio::test]
async fn a_class_may_be_in_a_module_or_another_class() {
    let module = PyActor::builder(unique("actor"), "string:Template")
        .args(("$a and $b",))
        .with(|pool| pool.python(python()))
        .spawn()
        .await
        .unwrap();
    let text: String = module.call("substitute", json!({"a": "x", "b": "y"})).await.unwrap();
    assert_eq!(text, "x and y");
    finish(module).await;
    let inner = builder("Derived.Inner").spawn().await.unwrap();
    assert_eq!(inner.call::<String>("where", ()).await.unwrap(), "inside");
    finish(inner).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_casts_come_before_the_call_after_them() {
    let actor = builder("Log").spawn().await.unwrap();
    for number in 0..1000 {
        actor.cast("add", number).await.unwrap();
    }
    let all: Vec<u32> = actor.call("all", ()).await.unwrap();
    assert!(all.iter().copied().eq(0..1000), "{all:?}");
    assert_eq!(actor.failed_casts(), 0);
    finish(actor).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_message_is_done_at_a_time_also_where_methods_are_async() {
    let actor = builder("Log").spawn().await.unwrap();
    let calls = (0..20).map(|number| actor.call::<u32>("add_slowly", number).into_future());
    let most = futures::future::try_join_all(calls).await.unwrap();
    assert!(most.iter().all(|&open| open == 1), "{most:?}");
    let all: Vec<u32> = actor.call("all", ()).await.unwrap();
    assert!(all.iter().copied().eq(0..20), "{all:?}");
    finish(actor).await;
}

#[tokio::test]
async fn a_cast_that_fails_is_counted() {
    let actor = builder("Log").spawn().await.unwrap();
    actor.cast("fail", "so").await.unwrap();
    actor.cast("no_such_method", ()).await.unwrap();
    actor.cast("add", 1).await.unwrap();
    assert_eq!(actor.call::<u64>("add", 2).await.unwrap(), 2);
    eventually("both are counted", || actor.failed_casts() == 2).await;
    finish(actor).await;
}

#[tokio::test]
async fn a_full_mailbox_refuses_casts_and_calls() {
    let directory = tempfile::tempdir().unwrap();
    let (started, go) = (file_in(&directory, "started").await, file_in(&directory, "go").await);
    let actor = builder("Log").with(|pool| pool.queue_limit(3)).spawn().await.unwrap();
    actor.cast("wait_for", (&started, &go)).await.unwrap();
    told(Path::new(&started)).await;
    for number in 0..3 {
        actor.cast("add", number).await.unwrap();
    }
    let error = actor.cast("add", 3).await.unwrap_err();
    assert!(matches!(error, Error::Saturated { limit: 3 }), "{error}");
    let error = actor.call::<Value>("add", 3).await.unwrap_err();
    assert!(matches!(error, Error::Saturated { limit: 3 }), "{error}");
    std::fs::write(&go, "").unwrap();
    eventually("there is room", || actor.stats().queued == 0).await;
    assert_eq!(actor.call::<Value>("all", ()).await.unwrap(), json!([0, 1, 2]));
    finish(actor).await;
}

// === Names ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_found_by_its_name_by_rust_and_by_ractor() {
    let actor = builder("Log").spawn().await.unwrap();
    let name = actor.name();
    let found = PyActor::find(&name).await.expect("it is there");
    assert_eq!(found.call::<u64>("add", 1).await.unwrap(), 1);
    assert!(PyActor::find("nobody").await.is_none());
    assert!(PyActor::find(&format!("{name}.pool")).await.is_none(), "a pool is no actor");
    assert!(snakepen::Pool::find(&format!("{name}.pool")).await.is_none(), "it is private");
    assert!(snakepen::WorkerHandle::find(&format!("{name}.pool/worker/0")).await.is_err());

    let cell = registry::where_is(name).expect("it is registered");
    let actor_ref = ActorRef::<PyActorMsg>::from(cell);
    for number in 2..100 {
        let cast = PyActorMsg::Cast { method: "add".into(), args: json!([number]) };
        actor_ref.send_message(cast).unwrap();
    }
    let call = |method: &str, args| {
        let method = method.to_owned();
        actor_ref.call(move |reply| PyActorMsg::Call { method, args, reply }, Some(LIMIT))
    };
    let all = call("all", json!(null)).await.unwrap().unwrap().unwrap();
    assert_eq!(all, json!((1..100).collect::<Vec<_>>()));
    let error = call("fail", json!({"message": "so"})).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error, Error::Python { .. }), "{error}");
    let cast = PyActorMsg::Cast { method: "_private".into(), args: Value::Null };
    actor_ref.send_message(cast).unwrap();
    eventually("it is counted", || actor.failed_casts() == 1).await;
    finish(actor).await;
}

#[tokio::test]
async fn a_message_of_ractors_has_the_time_of_its_reply() {
    let directory = tempfile::tempdir().unwrap();
    let started = file_in(&directory, "started").await;
    let actor = builder("Log").spawn().await.unwrap();
    let call = |reply| PyActorMsg::Call { method: "hang".into(), args: json!([started]), reply };
    let time = Duration::from_millis(200);
    // Whichever of the two time-outs comes first, the method is cancelled, and the actor goes on.
    let _ = actor.actor_ref().call(call, Some(time)).await.unwrap();
    assert_eq!(actor.call::<u64>("add", 1).await.unwrap(), 1);
    assert_eq!(actor.stats().failed.total(), 1);
    finish(actor).await;
}

#[tokio::test]
async fn a_name_is_given_once() {
    let actor = builder("Log").spawn().await.unwrap();
    let name = actor.name();
    let error = named(&name, "Log").spawn().await.unwrap_err();
    assert!(matches!(&error, Error::NameTaken { name: taken } if *taken == name), "{error}");
    assert_eq!(actor.call::<u64>("add", 1).await.unwrap(), 1, "the first is not concerned");
    finish(actor).await;

    let pool = common::pool("basic.py").workers(1).start().await.unwrap();
    let error = named(pool.name(), "Log").spawn().await.unwrap_err();
    assert!(matches!(&error, Error::NameTaken { .. }), "{error}");
    common::finish(pool).await;

    let name = unique("actor");
    let pool = snakepen::Pool::builder(format!("{name}.pool")).python(python());
    let pool = pool.expose("sqrt", "math:sqrt").workers(1).start().await.unwrap();
    let error = named(&name, "Log").spawn().await.unwrap_err();
    assert!(matches!(&error, Error::NameTaken { name } if name == pool.name()), "{error}");
    assert!(registry::where_is(name).is_none());
    common::finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_take_a_name_at_once_one_gets_it() {
    let name = unique("actor");
    let spawns = (0..8).map(|number| tokio::spawn(named(&name, "Log").args((number,)).spawn()));
    let mut spawned = Vec::new();
    for outcome in futures::future::join_all(spawns).await {
        match outcome.unwrap() {
            Ok(actor) => spawned.push(actor),
            Err(error) => assert!(matches!(error, Error::NameTaken { .. }), "{error}"),
        }
    }
    assert_eq!(spawned.len(), 1);
    finish(spawned.remove(0)).await;
}

// === What cannot start ===

fn exception_of(error: &Error) -> (&str, &snakepen::PythonException) {
    let Error::Start(start) = error else { panic!("{error}") };
    let StartError::Python { stage, exception, .. } = &**start else { panic!("{error}") };
    (stage, exception)
}

#[tokio::test]
async fn what_python_refuses_fails_the_spawn_with_its_traceback() {
    let directory = tempfile::tempdir().unwrap();
    let file = file_in(&directory, "start").await;
    std::fs::write(&file, "raise").unwrap();
    for (class, args, stage, says) in [
        ("Startless", json!([file]), "`Startless.__init__`", "not today"),
        ("Log.Nothing", json!([]), "the class `Log.Nothing`", "Nothing"),
        ("decorated", json!([]), "the class `decorated`", "is function"),
        ("Empty", json!([]), "the class `Empty`", "no public method"),
        ("Half", json!([]), "the class `Half`", "load_state"),
        ("Counter", json!([1, 2]), "`Counter.__init__`", "takes from 1 to 2"),
    ] {
        let name = unique("actor");
        let error = named(&name, class).args(args).spawn().await.unwrap_err();
        let (at, exception) = exception_of(&error);
        assert_eq!(at, stage);
        assert!(exception.message.contains(says), "{class}: {exception}");
        nothing_is_left(&name, []);
    }
    let (_directory, path) = handler_file("import no_such_module\n");
    let spawn = PyActor::builder(unique("actor"), format!("{path}:Any"));
    let error = spawn.with(|pool| pool.python(python())).spawn().await.unwrap_err();
    let (stage, exception) = exception_of(&error);
    assert_eq!((stage, &*exception.type_name), ("handlers", "ModuleNotFoundError"));
    assert!(exception.traceback.contains("made_handlers.py"), "{}", exception.traceback);
}

#[tokio::test]
async fn options_that_cannot_work_are_named() {
    let option = |error: &Error| match error {
        Error::Config { option, .. } => *option,
        other => panic!("{other}"),
    };
    for (name, target, wrong) in [
        ("", "a.py:A", "builder"),
        ("a/b", "a.py:A", "builder"),
        ("a", "a.py", "target"),
        ("a", ":A", "target"),
        ("a", "a:", "target"),
        ("a", "a:B..C", "target"),
        ("a", "no_such_file.py:A", "target"),
    ] {
        let error = PyActor::spawn(name, target, ()).await.unwrap_err();
        assert_eq!(option(&error), wrong, "{name} {target}: {error}");
    }
    for (wrong, builder) in [
        ("workers", builder("Log").with(|pool| pool.workers(2))),
        ("autoscale", builder("Log").with(|pool| pool.autoscale(1..=2))),
        ("concurrency", builder("Log").with(|pool| pool.concurrency(2))),
        ("handlers", builder("Log").with(|pool| pool.handlers("math"))),
        ("expose", builder("Log").with(|pool| pool.expose("sqrt", "math:sqrt"))),
    ] {
        let error = builder.spawn().await.unwrap_err();
        assert_eq!(option(&error), wrong, "{error}");
    }
    let error = builder("Log").args((f64::NAN,)).spawn().await.unwrap_err();
    assert!(matches!(error, Error::Encode { .. }), "{error}");
    let large = "x".repeat(5000);
    let small_frames = builder("Log").with(|pool| pool.max_frame(4096));
    let error = small_frames.args((large,)).spawn().await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: 4096, .. }), "{error}");
}

#[test]
fn without_a_runtime_the_spawn_says_so() {
    let spawn = builder("Log").spawn();
    let error = futures::executor::block_on(spawn).unwrap_err();
    assert!(matches!(error, Error::Config { option: "start", .. }), "{error}");
}

#[tokio::test]
async fn large_init_arguments_reach_every_instance() {
    let text = "x".repeat(3 << 20);
    let actor = builder("Log").args((&text,)).spawn().await.unwrap();
    let error = actor.call::<Value>("leave", 3).await.unwrap_err();
    assert!(matches!(error, Error::WorkerDied(_)), "{error}");
    let all: Vec<String> = actor.call("all", ()).await.unwrap();
    assert!(all.len() == 1 && all[0] == text);
    finish(actor).await;
}

// === Deaths ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_method_that_ends_the_process_fails_alone() {
    let actor = builder("Log").args(("first",)).spawn().await.unwrap();
    for (method, argument) in [("die", libc::SIGKILL), ("die", libc::SIGSEGV), ("leave", 3)] {
        assert_eq!(actor.call::<u64>("add", "lost").await.unwrap(), 2);
        let before: i32 = actor.call("pid", ()).await.unwrap();
        let (died, after, all) = tokio::join!(
            actor.call::<Value>(method, argument).into_future(),
            actor.call::<i32>("pid", ()).into_future(),
            actor.call::<Value>("all", ()).into_future(),
        );
        let error = died.unwrap_err();
        assert!(matches!(error, Error::WorkerDied(_)) && error.may_have_run(), "{error}");
        assert_ne!(after.unwrap(), before);
        assert_eq!(all.unwrap(), json!(["first"]), "an instance of the same arguments");
    }
    finish(actor).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_in_the_middle_of_a_message_fails_that_one_only() {
    let directory = tempfile::tempdir().unwrap();
    let started = file_in(&directory, "started").await;
    let actor = builder("Log").spawn().await.unwrap();
    let running = tokio::spawn(actor.call::<Value>("hang", &started).into_future());
    told(Path::new(&started)).await;
    let waiting = tokio::spawn(actor.call::<u64>("add", 1).into_future());
    eventually("it waits", || actor.stats().queued == 1).await;
    kill(actor.pid().expect("a process"), libc::SIGKILL);
    assert!(matches!(running.await.unwrap(), Err(Error::WorkerDied(_))));
    assert_eq!(waiting.await.unwrap().unwrap(), 1);
    finish(actor).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_comes_back_when_its_launcher_is_killed() {
    let actor = builder("Counter").spawn().await.unwrap();
    assert_eq!(actor.call::<i64>("add", 5).await.unwrap(), 5);
    let pid = actor.pid().expect("a process");
    kill(parent(pid).expect("a launcher"), libc::SIGKILL);
    eventually("the process is gone with it", || !is_alive(pid)).await;
    // A call that was queued with the pool's actor is told so; it was not run.
    let count = loop {
        match actor.call::<i64>("add", 1).await {
            Ok(count) => break count,
            Err(error) => assert!(!error.may_have_run(), "{error}"),
        }
    };
    assert_eq!(count, 6, "with its state");
    finish(actor).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_runs_out_of_time_is_cancelled_and_the_next_has_a_new_instance() {
    let directory = tempfile::tempdir().unwrap();
    let started = file_in(&directory, "started").await;
    let actor = builder("Counter").args((10,)).spawn().await.unwrap();
    assert_eq!(actor.call::<i64>("add", 1).await.unwrap(), 11);
    let call = actor.call::<Value>("add_and_hang", (100, &started));
    let error = call.timeout(Duration::from_millis(200)).await.unwrap_err();
    let Error::Timeout { python_stack, .. } = &error else { panic!("{error}") };
    // On a busy machine it may not be had in time.
    assert!(python_stack.is_empty() || python_stack.contains("add_and_hang"), "{python_stack}");
    assert_eq!(actor.call::<i64>("get", ()).await.unwrap(), 11, "built anew, with its state");
    finish(actor).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_it_cannot_be_built_calls_say_why_and_it_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let file = file_in(&directory, "start").await;
    std::fs::write(&file, "well").unwrap();
    let actor = builder("Startless").args((&file,)).spawn().await.unwrap();
    std::fs::write(&file, "raise").unwrap();
    kill(actor.pid().expect("a process"), libc::SIGKILL);
    let error = loop {
        match actor.call::<i32>("pid", ()).await {
            Err(Error::Start(error)) => break error,
            Ok(_) | Err(_) => tokio::task::yield_now().await,
        }
    };
    assert!(error.to_string().contains("not today"), "{error}");
    std::fs::write(&file, "well").unwrap();
    eventually("it is back", || actor.pid().is_some_and(is_alive) && actor.stats().ready == 1)
        .await;
    assert!(actor.call::<i32>("pid", ()).await.is_ok());
    finish(actor).await;
}

/// `max_requests` in a pool starts the successor before the predecessor leaves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recycled_instance_has_left_before_the_next_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let (_keep, path) = handler_file(
        "import os\n\
         class Alone:\n\
         \x20   def __init__(self, lock):\n\
         \x20       self.lock = os.open(lock, os.O_CREAT | os.O_EXCL)\n\
         \x20       import atexit\n\
         \x20       atexit.register(os.unlink, lock)\n\
         \x20       self.count = 0\n\
         \x20   def dump_state(self): return self.count\n\
         \x20   def load_state(self, count): self.count = count\n\
         \x20   def add(self):\n\
         \x20       self.count += 1\n\
         \x20       return [self.count, os.getpid()]\n",
    );
    let lock = file_in(&directory, "lock").await;
    let actor = PyActor::builder(unique("actor"), format!("{path}:Alone"))
        .args((lock,))
        .save_every(1000)
        .with(|pool| pool.python(python()).max_requests(5))
        .spawn()
        .await
        .unwrap();
    let mut pids = std::collections::BTreeSet::new();
    for expected in 1..=60_i64 {
        let (count, pid): (i64, i32) = actor.call("add", ()).await.unwrap();
        assert_eq!(count, expected);
        pids.insert(pid);
    }
    assert!(pids.len() > 3, "{pids:?}");
    finish(actor).await;
}

// === From Python ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_and_other_actors_reach_one_by_its_name() {
    let actor = builder("Derived").args(("a", json!({"b": 1}))).spawn().await.unwrap();
    let pool = common::pool("calling.py").workers(2).expose_py_actor("list", &actor);
    let pool = pool.start().await.unwrap();
    assert_eq!(pool.call::<u64>("forward", ("list", "add", 2)).await.unwrap(), 3);
    assert_eq!(pool.call::<u64>("forward_async", ("list", "add", 2)).await.unwrap(), 4);
    pool.call::<()>("cast", ("list", "add", [1, 2])).await.unwrap();
    let all = pool.call::<Value>("forward", ("list", "all")).await.unwrap();
    assert_eq!(all, json!(["a", {"b": 1}, 2, 2, [1, 2]]));
    let buffer = snakepen::Buffer::from(vec![7_u8; 100_000]);
    assert_eq!(pool.call::<u64>("forward", ("list", "add", &buffer)).await.unwrap(), 6);

    for (args, type_name, message) in [
        (json!(["list", "nope"]), "UnknownHandler", "nope"),
        (json!(["list"]), "Arguments", "its first argument is a method's name"),
        (json!(["list", 5]), "Arguments", "its first argument is a method's name"),
        (json!(["list", "add", 1, 2, 3]), "TypeError", "positional argument"),
    ] {
        let told: Vec<String> = pool.call("failure", &args).await.unwrap();
        assert_eq!(told[1], type_name, "{args}: {told:?}");
        assert!(told[2].contains(message), "{args}: {told:?}");
    }
    let name = actor.name();
    finish(actor).await;
    let told: Vec<String> = pool.call("failure", ("list", "all")).await.unwrap();
    assert_eq!(told[1], "Closed", "{name}: {told:?}");
    common::finish(pool).await;
}
