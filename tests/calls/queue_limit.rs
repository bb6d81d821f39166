//! Scenario 17: one worker, room for five to wait, ten slow calls at once: some succeed, some time out, the rest
//! are turned away at the door, and the statistics say the same.

use std::time::{Duration, Instant};

use futures::future::join_all;
use snakepen::{Error, Stage};

use crate::common::{eventually, finish, pool};

const LIMIT: usize = 5;
const CALLS: usize = 10;
/// Two or so fit into the time; six don't, whatever the machine does meanwhile.
const WORK: f64 = 0.4;
const TIME: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn some_succeed_some_time_out_and_the_rest_is_rejected_at_once() {
    let pool = pool("basic.py").workers(1).queue_limit(LIMIT).start().await.unwrap();
    let start = Instant::now();
    let calls = (0..CALLS).map(async |_| {
        let outcome = pool.call::<f64>("sleep", (WORK,)).timeout(TIME).await;
        (outcome, start.elapsed())
    });
    let outcomes = join_all(calls).await;

    let (mut completed, mut rejected, mut queued, mut running) = (Vec::new(), Vec::new(), 0, 0);
    for (outcome, at) in outcomes {
        match outcome {
            Ok(answer) => {
                assert_eq!(answer, WORK);
                completed.push(at);
            }
            Err(error) => {
                match &error {
                    Error::Saturated { limit } => {
                        assert_eq!(*limit, LIMIT);
                        assert!(!error.may_have_run() && error.is_retryable());
                        rejected.push(at);
                    }
                    Error::Timeout { stage: Stage::Queue, .. } => queued += 1,
                    Error::Timeout { stage: Stage::Run, .. } => running += 1,
                    _ => panic!("{error:?}"),
                }
                assert_eq!(
                    error.may_have_run(),
                    matches!(error, Error::Timeout { stage: Stage::Run, .. })
                );
            }
        }
    }
    assert_eq!(rejected.len(), CALLS - LIMIT - 1);
    assert!(!completed.is_empty() && queued + running > 0, "{completed:?} {queued} {running}");
    // At once means: before any of the work was done.
    assert!(rejected.iter().max() < completed.iter().min(), "{rejected:?} {completed:?}");

    let stats = pool.stats();
    assert_eq!(stats.completed, completed.len() as u64);
    assert_eq!(stats.rejected, rejected.len() as u64);
    assert_eq!((stats.failed.timeout_queued, stats.failed.timeout_running), (queued, running));
    assert_eq!(stats.failed.total(), queued + running);
    assert_eq!(stats.submitted, stats.completed + stats.failed.total());
    assert_eq!(stats.submitted + stats.rejected, CALLS as u64);
    assert_eq!((stats.queued, stats.busy), (0, 0));

    // Room is free again.
    assert_eq!(pool.call::<i64>("add", (1, 2)).await.unwrap(), 3);
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_is_free_as_soon_as_somebody_leaves() {
    let pool = pool("basic.py").workers(1).queue_limit(1).start().await.unwrap();
    let spawn = |seconds: f64| {
        let pool = pool.clone();
        tokio::spawn(async move { pool.call::<f64>("sleep", (seconds,)).await })
    };
    let runs = spawn(60.0);
    eventually("one runs", || pool.stats().busy == 1).await;
    let waits = spawn(60.0);
    eventually("one waits", || pool.stats().queued == 1).await;
    let error = pool.call::<f64>("sleep", (0.0,)).await.unwrap_err();
    assert!(matches!(error, Error::Saturated { limit: 1 }), "{error:?}");
    // A call for one worker takes a place like any other.
    let error = pool.worker(0).unwrap().call::<f64>("sleep", (0.0,)).await.unwrap_err();
    assert!(matches!(error, Error::Saturated { limit: 1 }), "{error:?}");

    waits.abort();
    eventually("its place is free", || pool.stats().queued == 0).await;
    let last = spawn(0.0);
    eventually("another waits", || pool.stats().queued == 1).await;
    runs.abort();
    assert_eq!(last.await.unwrap().unwrap(), 0.0);
    let stats = pool.stats();
    assert_eq!((stats.rejected, stats.failed.abandoned, stats.completed), (2, 2, 1));
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_of_nothing_still_runs_one_call_per_worker() {
    let pool = pool("basic.py").workers(2).queue_limit(0).start().await.unwrap();
    let calls = (0..5).map(async |_| pool.call::<f64>("sleep", (0.3,)).await);
    let outcomes = join_all(calls).await;
    let rejected =
        outcomes.iter().filter(|outcome| matches!(outcome, Err(Error::Saturated { limit: 0 })));
    assert_eq!((rejected.count(), outcomes.iter().filter(|o| o.is_ok()).count()), (3, 2));
    finish(pool).await;
}
