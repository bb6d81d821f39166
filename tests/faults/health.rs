//! Scenario 10: a worker, or a launcher, that is there but does not answer is replaced, and the pool is whole again.
//!
//! A naive pool goes on counting a stopped worker as available, kills it and never starts another, or takes a busy
//! worker's silence for an illness.

use std::time::{Duration, Instant};

use snakepen::{Builder, Ended, Error};

use crate::common::{eventually, finish, is_alive, kill, launcher_pid, pids, pool, state, whole};

/// Pinged often; with time enough that a noisy machine makes nobody ill.
fn watched(workers: usize) -> Builder {
    pool("basic.py").workers(workers).health_interval(INTERVAL).health_timeout(TIMEOUT)
}

const INTERVAL: Duration = Duration::from_millis(50);
const TIMEOUT: Duration = Duration::from_millis(700);

/// So late may a busy machine be.
const LATE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_stopped_idle_worker_is_replaced() {
    let pool = watched(3).start().await.unwrap();
    let before = pids(&pool);
    kill(before[1], 19);
    let stopped = Instant::now();
    eventually("the stopped worker is gone", || !is_alive(before[1])).await;
    eventually("its slot has another", || pool.workers()[1].epoch == 2).await;
    whole(&pool).await;
    assert!(stopped.elapsed() < INTERVAL + TIMEOUT + LATE, "{:?}", stopped.elapsed());

    let after = pids(&pool);
    assert_eq!((after[0], after[2]), (before[0], before[2]), "its neighbours are not touched");
    assert_ne!(after[1], before[1]);
    let error = pool.workers()[1].last_error.clone().unwrap();
    assert!(error.contains("ping") && error.contains(&before[1].to_string()), "{error}");
    assert_eq!(pool.stats().restarts, 1);
    for (slot, &pid) in after.iter().enumerate() {
        assert_eq!(pool.worker(slot).unwrap().call::<i32>("pid", ()).await.unwrap(), pid);
    }
    finish(pool).await;
}

#[tokio::test]
async fn every_worker_may_be_stopped_at_once() {
    let pool = watched(3).start().await.unwrap();
    let before = pids(&pool);
    for &pid in &before {
        kill(pid, 19);
    }
    eventually("all are replaced", || pool.workers().iter().all(|worker| worker.epoch == 2)).await;
    whole(&pool).await;
    assert!(before.iter().all(|&pid| state(pid).is_none()));
    assert_eq!(pool.call::<i64>("add", (1, 2)).await.unwrap(), 3);
    finish(pool).await;
}

#[tokio::test]
async fn a_call_to_a_worker_that_stops_answering_runs_on_its_replacement() {
    // Pinged already when the call arrives, so that the worker never sees it.
    let pool = pool("basic.py")
        .workers(1)
        .health_interval(Duration::from_millis(50))
        .health_timeout(Duration::from_millis(1500))
        .start()
        .await
        .unwrap();
    let before = pids(&pool)[0];
    kill(before, 19);
    tokio::time::sleep(Duration::from_millis(300)).await; // several intervals, one of which pings
    let after: i32 = pool.call("pid", ()).await.unwrap();
    assert_ne!(after, before);
    finish(pool).await;
}

/// It answers no ping, so it is looked at; a call of hours must not wait for its deadline.
#[tokio::test]
async fn a_stopped_busy_worker_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let marker = directory.path().join("marker");
    let pool = watched(1).start().await.unwrap();
    let before = pids(&pool)[0];
    let call = pool.call::<()>("touch", (&marker, 1_000.0)).timeout(Duration::from_secs(3_600));
    let call = tokio::spawn(call.into_future());
    eventually("it runs", || marker.exists()).await;
    kill(before, 19);
    let error = call.await.unwrap().unwrap_err();
    let Error::WorkerDied(death) = &error else { panic!("{error:?}") };
    assert_eq!((death.pid, &death.ended, death.started), (before, &Ended::Suspended, true));
    assert!(error.to_string().contains("SIGSTOP"), "{error}");
    whole(&pool).await;
    assert_ne!(pool.call::<i32>("pid", ()).await.unwrap(), before);
    finish(pool).await;
}

/// Nobody looks at it in this time: the deadline holds, and the grace.
#[tokio::test]
async fn a_stopped_busy_worker_keeps_no_call_beyond_its_deadline() {
    let directory = tempfile::tempdir().unwrap();
    let marker = directory.path().join("marker");
    let pool = pool("basic.py")
        .workers(1)
        .health_interval(Duration::from_secs(3_600))
        .cancel_grace(Duration::from_millis(300))
        .start()
        .await
        .unwrap();
    let before = pids(&pool)[0];
    let call = pool.call::<()>("touch", (&marker, 1_000.0)).timeout(Duration::from_secs(2));
    let call = tokio::spawn(call.into_future());
    eventually("it runs", || marker.exists()).await;
    kill(before, 19);
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(&error, Error::Timeout { .. }) && error.may_have_run(), "{error:?}");
    let next = pool.call::<i32>("pid", ()).await.unwrap();
    assert_ne!(next, before);
    assert!(!is_alive(before));
    finish(pool).await;
}

#[tokio::test]
async fn a_busy_worker_is_not_judged_by_its_silence() {
    let pool = pool("basic.py")
        .workers(2)
        .health_interval(Duration::from_millis(50))
        .health_timeout(Duration::from_millis(400))
        .start()
        .await
        .unwrap();
    let before = pids(&pool);
    // Longer than many intervals and timeouts.
    let calls =
        (0..2).map(|slot| pool.worker(slot).unwrap().call::<f64>("sleep", 1.0).into_future());
    for answer in futures::future::join_all(calls).await {
        assert_eq!(answer.unwrap(), 1.0);
    }
    assert_eq!((pids(&pool), pool.stats().restarts), (before, 0));
    finish(pool).await;
}

#[tokio::test]
async fn a_waiting_async_handler_answers_for_its_worker() {
    let pool = watched(1).start().await.unwrap();
    let before = pids(&pool);
    assert_eq!(pool.call::<f64>("async_sleep", 1.0).await.unwrap(), 1.0);
    assert_eq!((pids(&pool), pool.stats().restarts), (before, 0));
    finish(pool).await;
}

#[tokio::test]
async fn a_healthy_pool_is_left_alone() {
    let pool = watched(4).start().await.unwrap();
    let before = pids(&pool);
    let launcher = launcher_pid(&pool);
    tokio::time::sleep(Duration::from_millis(1000)).await; // some 20 pings of everybody
    assert_eq!((pids(&pool), launcher_pid(&pool), pool.stats().restarts), (before, launcher, 0));
    finish(pool).await;
}

#[tokio::test]
async fn a_stopped_launcher_and_its_workers_come_back() {
    let pool = watched(3).start().await.unwrap();
    let before = pids(&pool);
    let launcher = launcher_pid(&pool);
    kill(launcher, 19);
    eventually("the launcher is gone", || state(launcher).is_none()).await;
    eventually("its workers are gone", || before.iter().all(|&pid| !is_alive(pid))).await;
    eventually("others came", || pool.workers().iter().all(|worker| worker.epoch >= 2)).await;
    whole(&pool).await;
    assert_ne!(launcher_pid(&pool), launcher);
    assert_eq!(pool.call::<i64>("add", (1, 2)).await.unwrap(), 3);
    finish(pool).await;
}

#[tokio::test]
async fn a_killed_launcher_takes_its_workers_along_and_all_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let marker = directory.path().join("marker");
    // Nobody pings: its end is seen by itself.
    let pool = pool("basic.py").workers(2).start().await.unwrap();
    let before = pids(&pool);
    let launcher = launcher_pid(&pool);
    let call = pool.worker(0).unwrap().call::<()>("touch", (marker.to_str().unwrap(), 60.0));
    let call = tokio::spawn(call.into_future());
    eventually("the call runs", || marker.exists()).await;
    kill(launcher, 9);
    let error = call.await.unwrap().unwrap_err();
    let Error::WorkerDied(death) = &error else { panic!("{error:?}") };
    assert_eq!((death.pid, death.started), (before[0], true));
    assert!(matches!(death.ended, Ended::Launcher | Ended::Itself), "{death:?}");
    assert!(error.may_have_run() && !error.is_retryable());
    eventually("the old workers are gone", || before.iter().all(|&pid| !is_alive(pid))).await;
    eventually("others came", || pool.workers().iter().all(|worker| worker.epoch >= 2)).await;
    whole(&pool).await;
    assert_eq!(pool.call::<i64>("add", (1, 2)).await.unwrap(), 3);
    finish(pool).await;
}

#[tokio::test]
async fn a_stopped_launcher_does_not_keep_a_worker_alive() {
    let pool = pool("basic.py")
        .workers(2)
        // Later than the call's end.
        .health_interval(Duration::from_secs(2))
        .start()
        .await
        .unwrap();
    let before = pids(&pool);
    kill(launcher_pid(&pool), 19);
    let call =
        pool.worker(0).unwrap().call::<f64>("sleep", 60.0).timeout(Duration::from_millis(300));
    let error = call.await.unwrap_err();
    assert!(matches!(&error, Error::Timeout { .. }), "{error:?}");
    eventually("the worker is ended without the launcher", || !is_alive(before[0])).await;
    eventually("all came back", || pool.workers().iter().all(|worker| worker.epoch >= 2)).await;
    whole(&pool).await;
    assert_eq!(pool.call::<i64>("add", (1, 2)).await.unwrap(), 3);
    finish(pool).await;
}

#[tokio::test]
async fn a_replacement_that_is_being_started_is_not_pinged() {
    let pool = pool("slow_start.py")
        .workers(1)
        .health_interval(Duration::from_millis(50))
        .health_timeout(Duration::from_millis(400))
        .start()
        .await
        .unwrap();
    let before: i32 = pool.call("pid", ()).await.unwrap();
    // The worker is replaced by its own actor, which looks after it already.
    let late = pool.call::<()>("sleep", [100]).timeout(Duration::from_millis(50)).await;
    assert!(matches!(late, Err(Error::Timeout { .. })), "{late:?}");
    let after: i32 = pool.call("pid", ()).await.unwrap();
    assert_ne!(after, before);
    // What was sent while it started would be missed by now.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(pool.call::<i32>("pid", ()).await.unwrap(), after);
    let worker = &pool.workers()[0];
    assert_eq!((worker.epoch, pool.stats().restarts), (2, 1), "{worker:?}");
    finish(pool).await;
}
