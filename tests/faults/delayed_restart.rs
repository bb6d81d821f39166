//! Scenario 12, one level up: the pool's actor is ended so often that its restart is delayed; what happens meanwhile
//! must not harm the pool, nor those who wait.

use std::time::{Duration, Instant};

use ractor::registry::where_is;
use snakepen::{Error, Pool};

use crate::common::{eventually, finish, kill, launcher_pid, pool, whole, within};

/// So many ends of the actor are followed by an immediate restart.
const BURST: usize = 20;

async fn kill_actor(name: &str) {
    eventually("the actor is there", || where_is(name).is_some()).await;
    if let Some(actor) = where_is(name) {
        let _ = actor.kill_and_wait(None).await;
    }
}

/// Kills the pool's actor until it doesn't come back at once; `extra` more kills make the delay longer.
async fn delay_restart(pool: &Pool, extra: usize) {
    for _ in 0..=BURST + extra {
        kill_actor(pool.name()).await;
    }
}

/// Kills the launcher, and waits until its workers' successors are ready, which takes a new launcher.
async fn kill_launcher(pool: &Pool, launcher: i32) {
    let epoch = pool.workers()[0].epoch;
    kill(launcher, 9);
    eventually("a new launcher has a new worker", || pool.workers()[0].epoch > epoch).await;
    whole(pool).await;
}

/// The launcher's death restarts everything; the actor's own restart, which is still on its timer, comes too late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_that_another_one_has_overtaken() {
    let pool = pool("basic.py").workers(1).start().await.unwrap();
    let launcher = launcher_pid(&pool);
    delay_restart(&pool, 2).await;
    kill_launcher(&pool, launcher).await;
    // The overtaken restart has fired by now: it is at most 100 ms late. It must change nothing, which no event tells; a
    // machine so slow that it fires later still makes the test weaker, never false.
    tokio::time::sleep(Duration::from_secs(1)).await;
    kill_launcher(&pool, launcher_pid(&pool)).await;
    assert_eq!(pool.call::<u64>("add", (1, 2)).await.unwrap(), 3);
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_call_keeps_its_deadline() {
    let pool = pool("basic.py").workers(1).start().await.unwrap();
    delay_restart(&pool, 4).await;
    eventually("the actor is back", || where_is(pool.name()).is_some()).await;
    let start = Instant::now();
    let call = pool.call::<f64>("sleep", (60.0,)).timeout(Duration::from_millis(300));
    let call = tokio::spawn(call.into_future());
    eventually("it runs", || pool.stats().busy == 1).await;
    kill_actor(pool.name()).await;
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    finish(pool).await;
}

/// A call waits for the actor, which may never come back: its whole tree is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_waits_while_the_root_is_killed() {
    let pool = pool("basic.py").workers(1).start().await.unwrap();
    delay_restart(&pool, 0).await;
    let call = loop {
        // Until one is caught waiting: the actor may be back before anybody looks.
        kill_actor(pool.name()).await;
        let call = tokio::spawn(pool.call::<u64>("add", (1, 2)).into_future());
        eventually("it waits or is answered", || pool.stats().queued == 1 || call.is_finished())
            .await;
        if !call.is_finished() {
            break call;
        }
    };
    where_is(format!("{}/root", pool.name())).unwrap().kill();
    let answer = within(Duration::from_secs(10), "the waiting call", call).await.unwrap();
    // It may have been given to the worker in the last moment.
    assert!(!matches!(answer, Err(Error::Timeout { .. })), "{answer:?}");
    finish(pool).await;
}

/// A caller that leaves while it waits for the actor has left, and was not sent away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_leaves_while_it_waits() {
    let pool = pool("basic.py").workers(1).start().await.unwrap();
    delay_restart(&pool, 0).await;
    let mut left = 0;
    while left == 0 {
        kill_actor(pool.name()).await;
        let call = tokio::spawn(pool.call::<u64>("add", (1, 2)).into_future());
        eventually("it waits or is answered", || pool.stats().queued == 1 || call.is_finished())
            .await;
        call.abort();
        left += u64::from(call.await.is_err());
    }
    let failed = pool.stats().failed;
    assert_eq!((failed.abandoned, failed.restarted), (left, 0), "{failed:?}");
    finish(pool).await;
}
