//! Every actor of a pool can be found by its name, one pool has a name at a time, and a handle of a worker reaches
//! that very worker.
//!
//! A naive pool lets a second pool take over the first one's names, leaves names behind, or runs a pinned call on
//! whichever worker is free.

use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, registry};
use snakepen::{Builder, Error, Pool, WorkerHandle, WorkerState};

use crate::common::{
    self, LIMIT, Mark, eventually, finish, kill, pids, pool, python, unique, whole, within,
};

fn named(name: &str) -> Builder {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/handlers/basic.py");
    Pool::builder(name).python(python()).handlers(file)
}

/// An actor of the program's own, which happens to have one of the pool's names.
struct Stranger;

impl Actor for Stranger {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

#[tokio::test]
async fn every_actor_is_registered() {
    let name = unique("registered");
    let pool = named(&name).workers(3).start().await.unwrap();
    assert_eq!(pool.name(), name);
    let parts = ["", "/supervisor", "/launcher", "/worker/0", "/worker/1", "/worker/2"];
    for part in parts {
        assert!(registry::where_is(format!("{name}{part}")).is_some(), "no {name}{part}");
    }
    assert!(registry::where_is(format!("{name}/worker/3")).is_none());
    for (slot, worker) in pool.workers().iter().enumerate() {
        assert_eq!((worker.slot, &worker.name), (slot, &format!("{name}/worker/{slot}")));
    }
    finish(pool).await;
}

#[tokio::test]
async fn a_replacement_has_the_name_of_the_worker_that_it_replaces() {
    let pool = pool("basic.py").workers(2).start().await.unwrap();
    let name = format!("{}/worker/1", pool.name());
    let first = registry::where_is(&name).unwrap().get_id();
    let handle = pool.worker(1).unwrap();
    let before: i32 = handle.call("pid", ()).await.unwrap();
    kill(before, 9);
    eventually("the slot has a new worker", || {
        let worker = &pool.workers()[1];
        worker.epoch == 2 && worker.state == WorkerState::Idle
    })
    .await;
    assert_ne!(registry::where_is(&name).unwrap().get_id(), first);
    let after: i32 = handle.call("pid", ()).await.unwrap();
    assert_ne!(after, before);
    assert_eq!(after, pids(&pool)[1]);
    finish(pool).await;
}

#[tokio::test]
async fn a_taken_name_is_refused_and_the_first_pool_lives_on() {
    let name = unique("taken");
    let first = named(&name).workers(2).start().await.unwrap();
    let before = pids(&first);
    let mark = Mark::new();
    let error = mark.on(named(&name).workers(2)).start().await.unwrap_err();
    assert!(matches!(&error, Error::NameTaken { name: taken } if *taken == name), "{error:?}");
    assert!(!error.may_have_run() && !error.is_retryable());
    assert!(mark.processes().is_empty());
    assert_eq!(pids(&first), before);
    assert_eq!(first.call::<i64>("add", (1, 2)).await.unwrap(), 3);
    finish(first).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_pools_that_start_at_once_one_gets_the_name() {
    for _ in 0..5 {
        let name = unique("race");
        let starts = (0..4).map(|_| tokio::spawn(named(&name).workers(1).start()));
        let mut started = Vec::new();
        for start in starts.collect::<Vec<_>>() {
            match within(LIMIT, "a start", start).await.unwrap() {
                Ok(pool) => started.push(pool),
                Err(error) => assert!(matches!(error, Error::NameTaken { .. }), "{error:?}"),
            }
        }
        assert_eq!(started.len(), 1);
        let pool = started.remove(0);
        assert_eq!(pool.call::<i64>("add", (1, 2)).await.unwrap(), 3);
        finish(pool).await;
    }
}

#[tokio::test]
async fn a_name_that_the_program_uses_is_taken() {
    for part in ["", "/supervisor", "/launcher", "/worker/1"] {
        let name = unique("stranger");
        let taken = format!("{name}{part}");
        let (stranger, done) = Actor::spawn(Some(taken.clone()), Stranger, ()).await.unwrap();
        let mark = Mark::new();
        let start = mark.on(named(&name).workers(2)).start();
        let error = within(Duration::from_secs(20), &taken, start).await.unwrap_err();
        assert!(
            matches!(&error, Error::NameTaken { name } if *name == taken),
            "{taken}: {error:?}"
        );
        assert!(mark.processes().is_empty());
        stranger.stop(None);
        done.await.unwrap();
        finish(named(&name).workers(2).start().await.unwrap()).await;
    }
}

#[tokio::test]
async fn a_name_is_free_after_shutdown() {
    let name = unique("reused");
    let mut seen = Vec::new();
    for _ in 0..3 {
        let pool = named(&name).workers(2).start().await.unwrap();
        let pid: i32 = pool.call("pid", ()).await.unwrap();
        assert!(!seen.contains(&pid));
        seen.push(pid);
        finish(pool).await;
        assert!(Pool::find(&name).await.is_none());
    }
}

#[tokio::test]
async fn handles_are_found_by_name() {
    let name = unique("found");
    assert!(Pool::find(&name).await.is_none());
    let pool = named(&name).workers(2).start().await.unwrap();

    let found = Pool::find(&name).await.unwrap();
    assert_eq!(found.name(), name);
    assert_eq!(found.call::<i64>("add", (1, 2)).await.unwrap(), 3);
    assert!(Pool::find(&format!("{name}/worker/0")).await.is_none());
    assert!(Pool::find(&format!("{name}/launcher")).await.is_none());

    for slot in 0..2 {
        let worker = WorkerHandle::find(&format!("{name}/worker/{slot}")).await.unwrap();
        assert_eq!((worker.slot(), worker.name()), (slot, format!("{name}/worker/{slot}")));
        assert_eq!(worker.call::<i32>("pid", ()).await.unwrap(), pids(&pool)[slot]);
    }
    for wrong in
        [format!("{name}/worker/2"), name.clone(), format!("{name}/launcher"), "nobody".into()]
    {
        let error = WorkerHandle::find(&wrong).await.unwrap_err();
        assert!(matches!(&error, Error::NoSuchWorker { name, .. } if *name == wrong), "{error:?}");
    }
    drop(found);
    finish(pool).await;
    assert!(WorkerHandle::find(&format!("{name}/worker/0")).await.is_err());
}

#[tokio::test]
async fn there_is_no_worker_beyond_the_last_slot() {
    let pool = pool("basic.py").workers(2).start().await.unwrap();
    let error = pool.worker(2).unwrap_err();
    let wanted = format!("{}/worker/2", pool.name());
    assert!(matches!(&error, Error::NoSuchWorker { name, .. } if *name == wanted), "{error:?}");
    assert!(!error.may_have_run() && !error.is_retryable());
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_a_worker_run_on_it() {
    let pool = pool("basic.py").workers(4).start().await.unwrap();
    let expected = pids(&pool);
    let mut calls = tokio::task::JoinSet::new();
    for round in 0..50 {
        for (slot, &pid) in expected.iter().enumerate() {
            let call = pool.worker(slot).unwrap().call::<i32>("pid", ());
            calls.spawn(async move {
                assert_eq!(call.await.unwrap(), pid, "slot {slot}, round {round}")
            });
        }
    }
    while let Some(done) = calls.join_next().await {
        done.unwrap();
    }
    assert_eq!(pids(&pool), expected);
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_waits_for_its_busy_worker_and_holds_up_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let pool = pool("held.py").workers(3).start().await.unwrap();
    let expected = pids(&pool);
    let second = pool.worker(1).unwrap();
    let busy = second.call::<String>("hold", directory.path().to_str().unwrap());
    let busy = tokio::spawn(busy.into_future());
    eventually("worker 1 is busy", || directory.path().join("held").exists()).await;

    let pinned = tokio::spawn(second.call::<i32>("pid", ()).into_future());
    eventually("the pinned call is queued", || pool.stats().queued == 1).await;
    for _ in 0..50 {
        let other: i32 = pool.call("pid", ()).await.unwrap();
        assert_ne!(other, expected[1], "a worker ran two calls at once");
    }
    assert_eq!(pool.stats().queued, 1, "the pinned call did not wait");
    assert!(!busy.is_finished() && !pinned.is_finished());

    std::fs::write(directory.path().join("released"), "").unwrap();
    assert_eq!(pinned.await.unwrap().unwrap(), expected[1]);
    assert_eq!(busy.await.unwrap().unwrap(), "held");
    finish(pool).await;
}

#[tokio::test]
async fn calls_of_a_worker_keep_their_order() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let (_guard, file) = common::handler_file(
        "import snakepen\n\n@snakepen.handler\ndef note(path, number):\n    \
         with open(path, 'a') as file:\n        file.write(f'{number}\\n')\n",
    );
    let pool = common::pool_over(&file).workers(2).start().await.unwrap();
    let worker = pool.worker(1).unwrap();
    let calls = (0..50)
        .map(|number| worker.call::<()>("note", (log.to_str().unwrap(), number)).into_future());
    for done in futures::future::join_all(calls).await {
        done.unwrap();
    }
    let noted = std::fs::read_to_string(&log).unwrap();
    let expected: String = (0..50).map(|number| format!("{number}\n")).collect();
    assert_eq!(noted, expected);
    whole(&pool).await;
    finish(pool).await;
}
