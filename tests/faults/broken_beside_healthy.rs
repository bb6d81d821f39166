//! Scenario 20: a pool whose workers cannot be started any more fails its calls at once and with the reason, heals
//! when the reason goes away, and a healthy pool beside it notices nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use snakepen::{Builder, Error, Pool, StartError};

use crate::common::{eventually, finish, is_alive, kill, pids, pool, whole, within};

/// A pool whose handler file fails to load for as long as the returned file is there.
fn flagged(directory: &Path) -> (Builder, PathBuf) {
    let flag = directory.join("broken");
    (pool("flagged.py").env("BROKEN_WHILE", &flag), flag)
}

fn kill_all(pool: &Pool) {
    for pid in pids(pool) {
        kill(pid, 9);
    }
}

fn is_the_reason(error: &Error) -> bool {
    assert!(!error.may_have_run());
    let Error::Start(start) = error else { return false };
    let StartError::Python { stage, exception, .. } = &**start else { return false };
    stage == "handlers"
        && exception.type_name == "RuntimeError"
        && exception.message == "the model file is missing"
        && exception.traceback.contains("flagged.py")
        && error.to_string().contains("Traceback (most recent call last)")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_pool_says_why_and_heals_and_a_healthy_one_serves() {
    let directory = tempfile::tempdir().unwrap();
    let (broken, flag) = flagged(directory.path());
    let broken = broken.workers(2).start().await.unwrap();
    let healthy = pool("basic.py").workers(2).start().await.unwrap();
    let workers = pids(&healthy);
    let stop = std::sync::Arc::new(AtomicBool::new(false));
    let customer = tokio::spawn({
        let (healthy, stop) = (healthy.clone(), std::sync::Arc::clone(&stop));
        async move {
            let mut served = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(
                    healthy.call::<i64>("add", (served, 1)).await.unwrap(),
                    served as i64 + 1
                );
                served += 1;
            }
            served
        }
    });

    fs::write(&flag, "").unwrap();
    kill_all(&broken);
    // Calls that wait for a worker hear of it as soon as there is no hope; no later than their timeout, by far.
    let waited = within(Duration::from_secs(20), "a call of a broken pool", async {
        loop {
            match broken.call::<i32>("pid", ()).await {
                // The end of a worker may take a moment to be noticed.
                Err(Error::WorkerDied(_)) => {}
                other => break other,
            }
        }
    });
    let error = waited.await.unwrap_err();
    assert!(is_the_reason(&error), "{error:?}");
    // From then on, at once: none of these waits for a start or a timeout.
    let start = Instant::now();
    for slot in 0..50 {
        let error = match slot % 2 {
            0 => broken.call::<i32>("pid", ()).await.unwrap_err(),
            _ => broken.worker(1).unwrap().call::<i32>("pid", ()).await.unwrap_err(),
        };
        assert!(is_the_reason(&error), "{error:?}");
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let stats = broken.stats();
    assert_eq!((stats.ready, stats.queued, stats.busy), (0, 0, 0));
    assert!(stats.failed.start >= 51, "{stats:?}");
    for worker in broken.workers() {
        assert!(worker.last_error.is_some_and(|error| error.contains("the model file is missing")));
    }

    fs::remove_file(&flag).unwrap();
    whole(&broken).await;
    assert!(broken.call::<i32>("pid", ()).await.is_ok());
    for slot in 0..2 {
        assert!(broken.worker(slot).unwrap().call::<i32>("pid", ()).await.is_ok());
    }

    stop.store(true, Ordering::Relaxed);
    assert!(customer.await.unwrap() > 0);
    let stats = healthy.stats();
    assert_eq!((stats.failed.total(), stats.restarts, stats.rejected), (0, 0, 0));
    assert_eq!(pids(&healthy), workers);
    finish(broken).await;
    finish(healthy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_slot_does_not_break_its_neighbour() {
    let directory = tempfile::tempdir().unwrap();
    let (builder, flag) = flagged(directory.path());
    let pool = builder.workers(2).start().await.unwrap();
    let survivor = pids(&pool)[1];
    fs::write(&flag, "").unwrap();
    kill(pids(&pool)[0], 9);
    eventually("the slot is known to be broken", || {
        let last_error = pool.workers()[0].last_error.clone();
        last_error.is_some_and(|error| error.contains("the model file is missing"))
    })
    .await;
    for _ in 0..20 {
        assert_eq!(pool.call::<i32>("pid", ()).await.unwrap(), survivor);
    }
    let error = pool.worker(0).unwrap().call::<i32>("pid", ()).await.unwrap_err();
    assert!(is_the_reason(&error), "{error:?}");
    assert_eq!(pool.stats().ready, 1);
    fs::remove_file(&flag).unwrap();
    whole(&pool).await;
    assert_ne!(pool.worker(0).unwrap().call::<i32>("pid", ()).await.unwrap(), survivor);
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_pool_can_be_shut_down() {
    let directory = tempfile::tempdir().unwrap();
    let (builder, flag) = flagged(directory.path());
    let pool = builder.workers(2).start().await.unwrap();
    let old = pids(&pool);
    fs::write(&flag, "").unwrap();
    kill_all(&pool);
    eventually("the pool is broken", || {
        let broken = |error: String| error.contains("the model file is missing");
        pool.workers().into_iter().all(|worker| worker.last_error.is_some_and(broken))
    })
    .await;
    assert!(!old.into_iter().any(is_alive));
    let start = Instant::now();
    finish(pool).await;
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}
