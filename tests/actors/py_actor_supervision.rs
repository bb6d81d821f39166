//! Python objects as actors under supervisors of the user's, and every way in which they end: nothing is left of them.

use std::path::Path;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent, registry};
use serde_json::Value;
use snakepen::{Error, PyActor, PyActorBuilder, PyActorMsg, SessionStore};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::common::{
    LIMIT, Mark, eventually, handler_file, kill, parent, polled, python, state, told, unique,
    within,
};

fn named(name: &str, class: &str) -> PyActorBuilder {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/handlers/actors.py");
    let target = format!("{}:{class}", file.display());
    PyActor::builder(name, target).with(|pool| pool.python(python()))
}

fn names(name: &str) -> Vec<String> {
    let pool = format!("{name}.pool");
    let ours = |one: &String| *one == name || *one == pool || one.starts_with(&format!("{pool}/"));
    registry::registered().into_iter().filter(ours).collect()
}

/// Its worker's process, and its launcher's.
fn processes(actor: &PyActor) -> [i32; 2] {
    let pid = actor.pid().expect("a process");
    [pid, parent(pid).expect("a launcher")]
}

fn are_gone(pids: [i32; 2]) -> bool {
    pids.iter().all(|&pid| state(pid).is_none())
}

async fn nothing_is_left(name: &str, pids: [i32; 2]) {
    eventually("the processes are gone", || are_gone(pids)).await;
    eventually("the names are free", || names(name).is_empty()).await;
}

// === A supervisor of the user's ===

/// Keeps one counter running, and tells what it hears of it.
struct Supervisor;

struct Keeper {
    builder: PyActorBuilder,
    news: UnboundedSender<News>,
}

#[derive(Debug)]
enum News {
    Started,
    Ended { name: Option<String>, how: Option<String> },
    Spawned(Result<PyActor, Error>),
}

impl Actor for Supervisor {
    type Msg = ();
    type State = Keeper;
    type Arguments = Keeper;

    async fn pre_start(
        &self,
        _myself: ActorRef<()>,
        keeper: Keeper,
    ) -> Result<Keeper, ActorProcessingErr> {
        Ok(keeper)
    }

    async fn post_start(
        &self,
        myself: ActorRef<()>,
        keeper: &mut Keeper,
    ) -> Result<(), ActorProcessingErr> {
        keeper.spawn(&myself).await;
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<()>,
        event: SupervisionEvent,
        keeper: &mut Keeper,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorStarted(_) => {
                let _ = keeper.news.send(News::Started);
            }
            SupervisionEvent::ActorTerminated(ref cell, _, ref how) => {
                let ended = News::Ended { name: cell.get_name(), how: how.clone() };
                let _ = keeper.news.send(ended);
                // While the event, and the state in it, is still there.
                keeper.spawn(&myself).await;
            }
            _ => {}
        }
        Ok(())
    }
}

impl Keeper {
    async fn spawn(&self, myself: &ActorRef<()>) {
        let spawned = self.builder.clone().spawn_linked(myself.get_cell()).await;
        let _ = self.news.send(News::Spawned(spawned));
    }
}

async fn supervised(builder: PyActorBuilder) -> (ActorRef<()>, UnboundedReceiver<News>) {
    let (news, heard) = unbounded_channel();
    let (supervisor, _) = Actor::spawn(None, Supervisor, Keeper { builder, news }).await.unwrap();
    (supervisor, heard)
}

async fn spawned(heard: &mut UnboundedReceiver<News>) -> PyActor {
    loop {
        let news = within(LIMIT, "news of a spawn", heard.recv()).await.expect("a supervisor");
        if let News::Spawned(spawned) = news {
            return spawned.expect("it starts");
        }
    }
}

async fn ended(heard: &mut UnboundedReceiver<News>) -> (Option<String>, Option<String>) {
    loop {
        let news = within(LIMIT, "news of an end", heard.recv()).await.expect("a supervisor");
        if let News::Ended { name, how } = news {
            return (name, how);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_supervisor_hears_of_its_end_and_may_spawn_it_anew() {
    let name = unique("supervised");
    let store = SessionStore::builder(unique("store")).open().await.unwrap();
    let builder = named(&name, "Counter").args((10,)).sessions(store.clone());
    let (supervisor, mut heard) = supervised(builder).await;
    let mut actor = spawned(&mut heard).await;
    let mut expected = 10;
    for round in 0..6 {
        expected += 1;
        assert_eq!(actor.call::<i64>("add", 1).await.unwrap(), expected, "round {round}");
        let pids = processes(&actor);
        match round % 3 {
            0 => within(LIMIT, "stop", actor.stop()).await.unwrap(),
            1 => actor.get_cell().kill(),
            _ => actor.actor_ref().stop(Some("enough".to_owned())),
        }
        let (who, how) = ended(&mut heard).await;
        assert_eq!(who.as_deref(), Some(&*name));
        if round % 3 == 2 {
            assert_eq!(how.as_deref(), Some("enough"));
        }
        let next = spawned(&mut heard).await;
        assert!(are_gone(pids), "the next instance is made when the one before is gone");
        let late = actor.call::<i64>("get", ()).await;
        assert!(matches!(late, Err(Error::Closed { .. })), "{late:?}");
        actor = next;
    }
    let pids = processes(&actor);
    supervisor.stop(None);
    nothing_is_left(&name, pids).await;
    let error = named(&name, "Counter").spawn_linked(supervisor.get_cell()).await.unwrap_err();
    assert!(matches!(error, Error::Start(_)), "{error}");
    eventually("its names are free", || names(&name).is_empty()).await;
    assert_eq!(store.global().get::<i64>(&format!("actor/{name}")).await.unwrap(), Some(expected));
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_supervisor_is_not_troubled_by_the_death_of_its_process() {
    let name = unique("supervised");
    let (supervisor, mut heard) = supervised(named(&name, "Counter")).await;
    let actor = spawned(&mut heard).await;
    for count in 1..=3 {
        kill(actor.pid().expect("a process"), libc::SIGKILL);
        let counted = async {
            loop {
                // One that was killed with the call in its hands fails it.
                match actor.call::<i64>("add", 1).await {
                    Ok(counted) => break counted,
                    Err(error) => assert!(matches!(error, Error::WorkerDied(_)), "{error}"),
                }
            }
        };
        assert_eq!(within(LIMIT, "its return", counted).await, count);
    }
    while let Ok(news) = heard.try_recv() {
        assert!(matches!(news, News::Started), "{news:?}");
    }
    let pids = processes(&actor);
    supervisor.kill();
    nothing_is_left(&name, pids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_supervisor_that_spawns_what_cannot_start_gets_the_error_and_no_event() {
    let (_directory, file) =
        handler_file("class Bad:\n def __init__(self): 1 / 0\n def m(self): 0\n");
    let name = unique("supervised");
    let builder = PyActor::builder(&name, format!("{file}:Bad")).with(|pool| pool.python(python()));
    let (supervisor, mut heard) = supervised(builder).await;
    let news = within(LIMIT, "the error", heard.recv()).await.unwrap();
    let News::Spawned(Err(Error::Start(error))) = news else { panic!("{news:?}") };
    assert!(error.to_string().contains("ZeroDivisionError"), "{error}");
    assert!(names(&name).is_empty(), "{:?}", names(&name));
    supervisor.stop_and_wait(None, None).await.unwrap();
    assert!(heard.recv().await.is_none(), "nothing else was heard");
}

// === Ends ===

/// An actor in the middle of a message that ends when the file is there.
async fn in_a_message(
    builder: PyActorBuilder,
    directory: &tempfile::TempDir,
) -> (PyActor, tokio::task::JoinHandle<Result<String, Error>>, std::path::PathBuf) {
    let actor = builder.spawn().await.unwrap();
    let (started, go) = (directory.path().join("started"), directory.path().join("go"));
    let running = actor.call::<String>("wait_for", (&started, &go));
    let running = tokio::spawn(running.into_future());
    told(&started).await;
    (actor, running, go)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_in_the_middle_of_a_message_it_ends_that_and_those_that_wait() {
    let name = unique("ends");
    let directory = tempfile::tempdir().unwrap();
    let (actor, running, go) = in_a_message(named(&name, "Log"), &directory).await;
    let pids = processes(&actor);
    let waiting = tokio::spawn(actor.call::<u64>("add", 1).into_future());
    eventually("it waits", || actor.stats().queued == 1).await;
    // Given up, and done all the same.
    assert!(polled(1, actor.stop()).await.is_none());
    let refused = || async { actor.call::<u64>("add", 2).await };
    let late = async {
        loop {
            match refused().await {
                Err(Error::Closed { .. }) => break,
                other => assert!(other.is_ok(), "{other:?}"),
            }
        }
    };
    tokio::time::timeout(LIMIT, async {
        std::fs::write(&go, "").unwrap();
        late.await;
    })
    .await
    .expect("new messages are refused");
    assert_eq!(running.await.unwrap().unwrap(), "ended");
    assert_eq!(waiting.await.unwrap().unwrap(), 1);
    within(LIMIT, "both stops", async { tokio::join!(actor.stop(), actor.stop()) })
        .await
        .0
        .unwrap();
    assert!(are_gone(pids) && names(&name).is_empty(), "{:?}", names(&name));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_in_a_message_that_does_not_end_it_waits_for_its_grace_and_no_longer() {
    let name = unique("ends");
    let directory = tempfile::tempdir().unwrap();
    let builder = named(&name, "Log").with(|pool| pool.shutdown_grace(Duration::from_millis(100)));
    let (actor, running, _go) = in_a_message(builder, &directory).await;
    let pids = processes(&actor);
    let waiting = tokio::spawn(actor.call::<u64>("add", 1).into_future());
    eventually("it waits", || actor.stats().queued == 1).await;
    within(LIMIT, "stop", actor.stop()).await.unwrap();
    assert!(are_gone(pids) && names(&name).is_empty(), "{:?}", names(&name));
    assert!(matches!(running.await.unwrap(), Err(Error::WorkerDied(_))));
    assert!(matches!(waiting.await.unwrap(), Err(Error::Closed { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_the_middle_of_a_message_it_ends_at_once() {
    let name = unique("ends");
    let directory = tempfile::tempdir().unwrap();
    let (actor, running, _go) = in_a_message(named(&name, "Log"), &directory).await;
    let pids = processes(&actor);
    let waiting = tokio::spawn(actor.call::<u64>("add", 1).into_future());
    eventually("it waits", || actor.stats().queued == 1).await;
    actor.get_cell().kill();
    // Its grace is 30 s.
    within(Duration::from_secs(15), "its end", nothing_is_left(&name, pids)).await;
    assert!(matches!(running.await.unwrap(), Err(Error::WorkerDied(_))));
    assert!(matches!(waiting.await.unwrap(), Err(Error::Closed { .. })));
    // And a second time, from whatever is left.
    within(LIMIT, "stop", actor.stop()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_can_be_taken_again_at_once_however_its_actor_ended() {
    let name = unique("again");
    for round in 0..10 {
        let actor = named(&name, "Counter").args((round,)).spawn().await.unwrap();
        let pids = processes(&actor);
        assert_eq!(
            actor.call::<i64>("add", 0).await.unwrap(),
            round,
            "its own store ended with it"
        );
        if round % 2 == 0 {
            actor.get_cell().kill_and_wait(None).await.unwrap();
        } else {
            actor.get_cell().stop_and_wait(None, None).await.unwrap();
            assert!(are_gone(pids), "who is told of its stop finds it gone");
        }
        if round == 9 {
            within(LIMIT, "stop", actor.stop()).await.unwrap();
        }
    }
    assert!(names(&name).is_empty(), "{:?}", names(&name));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_outlives_its_handles_and_ends_with_its_private_pool() {
    let name = unique("ends");
    drop(named(&name, "Counter").spawn().await.unwrap());
    let actor = PyActor::find(&name).await.expect("no handle is needed");
    assert_eq!(actor.call::<i64>("add", 1).await.unwrap(), 1);
    let pids = processes(&actor);
    let root = registry::where_is(format!("{name}.pool/root")).expect("the pool's root");
    root.kill();
    within(LIMIT, "its end", actor.get_cell().wait(None)).await.unwrap();
    nothing_is_left(&name, pids).await;
}

// === Spawns that are given up ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spawn_dropped_after_so_many_polls_leaves_nothing() {
    let name = unique("dropped");
    let mark = Mark::new();
    for polls in 1.. {
        let spawn = named(&name, "Counter").with(|pool| mark.on(pool)).spawn();
        if let Some(spawned) = within(LIMIT, "spawn", polled(polls, spawn)).await {
            let actor = spawned.unwrap();
            actor.stop().await.unwrap();
            assert!(polls > 1, "spawn() never waits, so nothing was dropped");
            break;
        }
        // The next one waits for what is left of it.
        if polls % 2 == 0 {
            eventually("nothing is left", || {
                mark.processes().is_empty() && names(&name).is_empty()
            })
            .await;
        }
    }
    mark.nothing_is_left().await;
    assert!(names(&name).is_empty(), "{:?}", names(&name));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spawn_dropped_after_some_time_leaves_nothing() {
    let name = unique("dropped");
    let mark = Mark::new();
    for micros in (0..60_000).step_by(2_300) {
        let spawn = named(&name, "Counter").with(|pool| mark.on(pool)).spawn();
        match tokio::time::timeout(Duration::from_micros(micros), spawn).await {
            Ok(spawned) => spawned.unwrap().stop().await.unwrap(),
            Err(_) => {
                eventually("nothing is left", || {
                    mark.processes().is_empty() && names(&name).is_empty()
                })
                .await;
            }
        }
    }
    mark.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spawn_given_up_while_init_hangs_ends_its_process() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("start");
    std::fs::write(&file, "hang").unwrap();
    let (name, mark) = (unique("dropped"), Mark::new());
    let builder = named(&name, "Startless").args((&file,)).with(|pool| mark.on(pool));
    let spawn = tokio::spawn(builder.spawn());
    told(&directory.path().join("start.tries")).await;
    assert_eq!(mark.processes().len(), 2);
    // Whoever looks for it waits with it.
    let (finder, wanted) = (name.clone(), name.clone());
    let found = tokio::spawn(async move { PyActor::find(&finder).await });
    spawn.abort();
    within(LIMIT, "its end", async {
        eventually("nothing is left", || mark.processes().is_empty()).await;
        eventually("its names are free", || names(&wanted).is_empty()).await;
        assert!(found.await.unwrap().is_none());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_that_ends_takes_its_actors_with_it() {
    let (name, mark) = (unique("runtime"), Mark::new());
    let builder = named(&name, "Counter").with(|pool| mark.on(pool));
    let of_its_own = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let actor = runtime.block_on(builder.spawn()).unwrap();
        drop(runtime);
        actor
    });
    let actor = tokio::task::spawn_blocking(|| of_its_own.join().unwrap()).await.unwrap();
    eventually("nothing is left", || mark.processes().is_empty()).await;
    drop(actor);
    let again = within(LIMIT, "spawn", named(&name, "Counter").spawn()).await.unwrap();
    assert_eq!(again.call::<Value>("get", ()).await.unwrap(), 0);
    let cast = PyActorMsg::Cast { method: "add".to_owned(), args: Value::from(2) };
    again.actor_ref().send_message(cast).unwrap();
    eventually("it is done", || again.stats().completed == 2).await;
    again.stop().await.unwrap();
}

/// The end of a large process takes a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_instances_are_never_there_at_once_whatever_actor_is_killed() {
    let (directory, file) = handler_file(
        "import fcntl, os\n\
         class Alone:\n\
         \x20   def __init__(self, path):\n\
         \x20       self.lock = open(path, 'w')\n\
         \x20       fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)\n\
         \x20       self.ballast = b'x' * (200 << 20)\n\
         \x20   def pid(self): return os.getpid()\n",
    );
    let name = unique("alone");
    let actor = PyActor::builder(&name, format!("{file}:Alone"))
        .args((directory.path().join("lock"),))
        .with(|pool| pool.python(python()).cancel_grace(Duration::ZERO))
        .spawn()
        .await
        .unwrap();
    for part in ["worker/0", "launcher", "workers", "supervisor", "worker/0", "worker/0"] {
        let before: i32 = actor.call("pid", ()).await.unwrap();
        let killed = registry::where_is(format!("{name}.pool/{part}")).expect("it runs");
        killed.kill();
        let next = async {
            loop {
                match actor.call::<i32>("pid", ()).await {
                    Ok(pid) if pid != before => break,
                    Ok(_) | Err(Error::WorkerDied(_) | Error::Restarted { .. }) => {}
                    Err(error) => panic!("after the end of {part}: {error}"),
                }
            }
        };
        within(LIMIT, "the next instance", next).await;
    }
    let pids = processes(&actor);
    actor.stop().await.unwrap();
    nothing_is_left(&name, pids).await;
}
