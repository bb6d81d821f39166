//! A `tracing` subscriber that panics does so in the task that passes Python's output on: that costs one worker, or one launcher,
//! and both are replaced.
//!
//! A naive pool waits for ever for news of a task that is gone.

mod common;

use std::fmt::Debug;
use std::fs;

use common::{
    LIMIT, Mark, eventually, finish, handler_file, kill, launcher_pid, pids, pool_over, whole,
    within,
};
use snakepen::Error;
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// Panics when it is told so.
struct Fragile;

struct Look(bool);

impl Visit for Look {
    fn record_debug(&mut self, _: &Field, value: &dyn Debug) {
        self.0 |= format!("{value:?}").contains("break the subscriber");
    }
}

impl<S: tracing::Subscriber> Layer<S> for Fragile {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut look = Look(false);
        if event.metadata().target() == "snakepen::python" {
            event.record(&mut look);
        }
        assert!(!look.0, "on purpose");
    }
}

const SOURCE: &str = "
import os, time, snakepen

@snakepen.handler
def say(text, seconds=0):
    print(text, flush=True)
    time.sleep(seconds)
    return os.getpid()
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_costs_one_worker_or_one_launcher() {
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Fragile)).unwrap();
    let (directory, file) = handler_file(SOURCE);
    let gate = directory.path().join("gate");
    fs::write(
        directory.path().join("talking.py"),
        format!(
            "import os\ndef talk():\n    if os.path.exists({gate:?}): print('break the subscriber', flush=True)\n\
             os.register_at_fork(before=talk)\n"
        ),
    )
    .unwrap();
    let mark = Mark::new();
    let builder = pool_over(&file).workers(1).path(directory.path()).preload(["talking"]);
    let pool = mark.on(builder).start().await.unwrap();
    for _ in 0..3 {
        let before = pids(&pool)[0];
        let error = pool.call::<i32>("say", ("break the subscriber", 60)).await.unwrap_err();
        assert!(matches!(error, Error::WorkerDied(_)), "{error:?}");
        let next = pool.call::<i32>("say", ("hello",)).into_future();
        assert_ne!(within(LIMIT, "the next call", next).await.unwrap(), before);
    }

    let launcher = launcher_pid(&pool);
    fs::write(&gate, "").unwrap();
    kill(pids(&pool)[0], 9);
    eventually("the launcher has ended", || !common::is_alive(launcher)).await;
    fs::remove_file(&gate).unwrap();
    eventually("all came back", || {
        pool.workers()[0].pid.is_some_and(|pid| common::parent(pid) != Some(launcher))
    })
    .await;
    whole(&pool).await;
    let next = pool.call::<i32>("say", ("hello",)).idempotent().into_future();
    assert!(within(LIMIT, "a call", next).await.is_ok());
    finish(pool).await;
    mark.nothing_is_left().await;
}
