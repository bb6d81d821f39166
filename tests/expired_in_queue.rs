//! Scenarios 16 and 9: a call that expires in the queue, or whose caller goes away while it waits, never runs and
//! is counted once, however many of them there are.

mod common;

use std::fs;
use std::future::IntoFuture;
use std::path::Path;
use std::task::Poll;
use std::time::Duration;

use common::{eventually, finish, pool};
use futures::future::join_all;
use snakepen::{Error, Pool, Stage};
use tokio::task::JoinHandle;

fn marks(path: &Path) -> usize {
    fs::read(path).map_or(0, |marks| marks.len())
}

/// Keeps the pool's only worker busy until the handle is aborted.
async fn hog(pool: &Pool) -> JoinHandle<Result<f64, Error>> {
    let busy = tokio::spawn({
        let pool = pool.clone();
        async move { pool.call::<f64>("sleep", (60.0,)).await }
    });
    eventually("the only worker is busy", || pool.stats().busy == 1).await;
    busy
}

/// Frees the worker, and sees that it gets through to the end of the queue.
async fn release(pool: &Pool, hog: JoinHandle<Result<f64, Error>>) {
    hog.abort();
    assert!(hog.await.unwrap_err().is_cancelled());
    assert_eq!(pool.call::<i64>("add", (1, 2)).await.unwrap(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_expires_in_the_queue_never_runs() {
    const CALLS: u32 = 50;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("marks");
    let pool = pool("basic.py").workers(1).start().await.unwrap();
    let busy = hog(&pool).await;
    let calls = (0..CALLS).map(|n| {
        let timeout = Duration::from_millis(20 + u64::from(n % 5) * 20);
        pool.call::<()>("touch", (&file,)).timeout(timeout).into_future()
    });
    for outcome in join_all(calls).await {
        let error = outcome.unwrap_err();
        assert!(matches!(error, Error::Timeout { stage: Stage::Queue, .. }), "{error:?}");
        assert!(!error.may_have_run() && error.is_retryable());
    }
    let stats = pool.stats();
    assert_eq!((stats.queued, stats.busy), (0, 1));
    release(&pool, busy).await;
    assert_eq!(marks(&file), 0);
    let stats = pool.stats();
    assert_eq!(stats.failed.timeout_queued, u64::from(CALLS));
    assert_eq!((stats.failed.timeout_running, stats.failed.abandoned), (0, 1));
    assert_eq!((stats.completed, stats.submitted), (1, u64::from(CALLS) + 2));
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_caller_goes_away_in_the_queue_never_runs() {
    const CALLS: u64 = 50;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("marks");
    let pool = pool("basic.py").workers(1).start().await.unwrap();
    let busy = hog(&pool).await;
    let mut calls: Vec<_> =
        (0..=CALLS).map(|_| pool.call::<()>("touch", (&file,)).into_future()).collect();
    for call in &mut calls {
        assert!(futures::poll!(call).is_pending());
    }
    eventually("all are queued", || pool.stats().queued as u64 == CALLS + 1).await;
    // One in the middle stays.
    let stays = calls.remove(calls.len() / 2);
    drop(calls);
    eventually("all but one have left", || pool.stats().queued == 1).await;
    release(&pool, busy).await;
    stays.await.unwrap();
    assert_eq!(marks(&file), 1);
    let stats = pool.stats();
    // The one that kept the worker busy was dropped too.
    assert_eq!((stats.failed.abandoned, stats.completed), (CALLS + 1, 2));
    assert_eq!(stats.failed.total(), CALLS + 1);
    finish(pool).await;
}

#[tokio::test]
async fn a_call_that_is_never_awaited_is_never_made() {
    let pool = pool("basic.py").workers(1).start().await.unwrap();
    drop(pool.call::<i64>("add", (1, 2)));
    drop(pool.call::<i64>("add", (1, 2)).into_future());
    assert_eq!(pool.stats().submitted, 0);
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_time_at_all_is_a_timeout_and_no_run() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("marks");
    let pool = pool("basic.py").workers(1).start().await.unwrap();
    let call = pool.call::<()>("touch", (&file,)).timeout(Duration::ZERO);
    let error = call.await.unwrap_err();
    assert!(matches!(error, Error::Timeout { stage: Stage::Queue, .. }), "{error:?}");
    assert_eq!(pool.call::<i64>("add", (1, 2)).await.unwrap(), 3);
    assert_eq!(marks(&file), 0);
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bookkeeping_of_callers_that_left_is_bounded() {
    const CALLS: u64 = 10_000;
    /// Each call carries so many bytes; kept, they would take 40 MB.
    const BYTES: usize = 4 << 10;
    const ALLOWED: usize = 12 << 20;
    let text = "a".repeat(BYTES);
    let pool = pool("basic.py").workers(1).queue_limit(256).start().await.unwrap();
    let busy = hog(&pool).await;
    let all_have_left = async || {
        eventually("all have left", || pool.stats().queued == 0).await;
    };
    let churn = async |calls: u64| {
        let mut left = calls;
        while left > 0 {
            let mut call = pool.call::<String>("echo", (&text,)).into_future();
            match futures::poll!(&mut call) {
                Poll::Pending => left -= 1,
                // Who has left is struck off by the pool's actor, and that may have some catching up to do.
                Poll::Ready(Err(Error::Saturated { .. })) => all_have_left().await,
                Poll::Ready(other) => panic!("{other:?}"),
            }
        }
        all_have_left().await;
    };
    churn(1_000).await;
    let before = resident();
    churn(CALLS).await;
    let grown = resident().saturating_sub(before);
    assert!(grown < ALLOWED, "{} MiB are kept of calls that nobody waits for", grown >> 20);
    assert_eq!(pool.stats().failed.abandoned, CALLS + 1_000);
    release(&pool, busy).await;
    assert_eq!(pool.stats().completed, 1);
    finish(pool).await;
}

/// The memory of this process, in bytes.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}
