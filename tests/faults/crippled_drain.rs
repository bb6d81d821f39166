//! Scenarios 5 and 15b: what a pool loses while it is being shut down must not make anybody wait for the grace.

use std::time::{Duration, Instant};

use ractor::registry::where_is;
use snakepen::{Error, Pool};

use crate::common::{eventually, finish, kill, launcher_pid, pids, pool, state};

/// Starts to shut down; returns once the pool admits no more calls.
async fn closing(pool: &Pool) {
    let shared = pool.clone();
    tokio::spawn(async move { shared.shutdown().await });
    loop {
        let call = pool.call::<u64>("add", (1, 2)).timeout(Duration::ZERO);
        if let Err(Error::Closed { .. }) = call.await {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pool_actor_is_killed() {
    let pool = pool("basic.py").workers(2).shutdown_grace(Duration::from_secs(20)).start().await;
    let pool = pool.unwrap();
    let start = Instant::now();
    let call = pool.call::<f64>("sleep", (60.0,)).timeout(Duration::from_secs(1));
    let call = tokio::spawn(call.into_future());
    eventually("it runs", || pool.stats().busy == 1).await;
    closing(&pool).await;
    where_is(pool.name()).unwrap().kill();
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    finish(pool).await;
}

/// Workers that were stopped before they could start their calls die with the launcher, and give the calls back: there
/// is nobody left to run them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_launcher_is_killed() {
    let pool = pool("basic.py").workers(3).shutdown_grace(Duration::from_secs(20)).start().await;
    let pool = pool.unwrap();
    let launcher = launcher_pid(&pool);
    for pid in pids(&pool) {
        kill(pid, 19);
        eventually("it is stopped", || state(pid) == Some('T')).await;
    }
    let calls: Vec<_> =
        (0..3).map(|_| tokio::spawn(pool.call::<u64>("add", (1, 2)).into_future())).collect();
    eventually("all are sent", || pool.stats().busy == 3).await;
    closing(&pool).await;
    let start = Instant::now();
    kill(launcher, 9);
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        assert!(!error.may_have_run(), "{error}");
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    finish(pool).await;
}
