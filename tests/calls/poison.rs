//! Scenario 28: a request that kills its worker every time runs once per call, never again behind the caller's back,
//! and the pool keeps its size.

use std::fs;
use std::path::Path;

use futures::future::join_all;
use snakepen::{Error, Exit};

use crate::common::{finish, pids, pool, whole};

fn marks(path: &Path) -> usize {
    fs::read(path).map_or(0, |marks| marks.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_call_runs_once_and_fails_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("marks");
    let pool = pool("deaths.py").workers(2).start().await.unwrap();
    for calls in 1..=6 {
        let error = pool.call::<()>("mark_and_die", (&file,)).await.unwrap_err();
        let Error::WorkerDied(death) = &error else { panic!("{error:?}") };
        assert_eq!((death.exit, death.started), (Exit::Signal(9), true));
        assert!(error.may_have_run() && !error.is_retryable());
        whole(&pool).await;
        assert_eq!(marks(&file), calls);
        assert_eq!(pids(&pool).len(), 2);
    }
    let stats = pool.stats();
    assert_eq!((stats.failed.worker_died, stats.restarts, stats.size), (6, 6, 2));
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_beside_good_calls() {
    const POISONED: usize = 16;
    const GOOD: usize = 400;
    let directory = tempfile::tempdir().unwrap();
    let pool = pool("deaths.py").workers(3).start().await.unwrap();
    let files: Vec<_> = (0..POISONED).map(|n| directory.path().join(n.to_string())).collect();
    let poisoned = join_all(files.iter().enumerate().map(async |(n, file)| {
        let outcome = match n % 3 {
            0 => pool.call::<()>("mark_and", (file, "exit")).await,
            1 => pool.call::<()>("mark_and", (file, "abort")).await,
            _ => pool.call::<()>("mark_and_die", (file,)).await,
        };
        assert!(matches!(outcome, Err(Error::WorkerDied(_))), "{outcome:?}");
    }));
    let good = join_all((0..GOOD).map(async |_| {
        // Good calls never feel the others.
        assert!(pool.call::<i32>("pid", ()).await.unwrap() > 0);
    }));
    tokio::join!(poisoned, good);
    whole(&pool).await;
    for file in &files {
        assert_eq!(marks(file), 1);
    }
    let mut workers = pids(&pool);
    workers.dedup();
    assert_eq!(workers.len(), 3);
    let stats = pool.stats();
    assert_eq!(
        (stats.failed.worker_died, stats.failed.total()),
        (POISONED as u64, POISONED as u64)
    );
    assert_eq!((stats.completed, stats.restarts), (GOOD as u64, POISONED as u64));
    assert_eq!(stats.submitted, (GOOD + POISONED) as u64);
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_of_its_own_gets_it_no_second_run_either() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("marks");
    let pool = pool("deaths.py").workers(2).start().await.unwrap();
    let worker = pool.worker(1).unwrap();
    for calls in 1..=3 {
        let error = worker.call::<()>("mark_and_die", (&file,)).await.unwrap_err();
        assert!(matches!(error, Error::WorkerDied(_)), "{error:?}");
        // Queued for the replacement.
        assert!(worker.call::<i32>("pid", ()).await.is_ok());
        assert_eq!(marks(&file), calls);
    }
    finish(pool).await;
}
