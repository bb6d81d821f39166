//! Scenario 15e: several megabytes of arguments against several of result, on several workers at once and beside
//! everything else that is written: no deadlock. What is over the limit is refused, and costs no worker.

use std::fs;
use std::time::Duration;

use futures::future::join_all;
use serde_json::Value;
use snakepen::{Error, Pool};

use crate::common::{LIMIT, finish, pids, pool, within};

const LARGE: usize = 8 << 20;

async fn swap(pool: &Pool, handler: &str) {
    let text = "ab".repeat(LARGE / 2);
    let answer: String = pool.call(handler, (&text, LARGE)).await.unwrap();
    assert!(answer == text, "{} bytes came back", answer.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_arguments_against_large_results_on_all_workers() {
    let pool = pool("large.py").workers(3).start().await.unwrap();
    let before = pids(&pool);
    let calls = (0..6).map(|n| swap(&pool, if n % 3 == 0 { "swap_async" } else { "swap" }));
    within(LIMIT, "large frames both ways", join_all(calls)).await;
    assert_eq!(pids(&pool), before);
    finish(pool).await;
}

/// The worker's threads write to the very socket, and to the pipe beside it, while arguments come in and results go
/// out: no frame is split by another, and neither way waits for the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_talks_all_the_time_still_takes_large_arguments() {
    let directory = tempfile::tempdir().unwrap();
    let stop = directory.path().join("stop");
    let pool = pool("large.py").workers(1).start().await.unwrap();
    let before = pids(&pool);
    pool.call::<()>("chatter", (&stop,)).await.unwrap();
    let calls = async {
        for _ in 0..2 {
            swap(&pool, "swap").await;
        }
    };
    within(LIMIT, "large frames beside logs", calls).await;
    fs::write(&stop, "").unwrap();
    assert_eq!(pids(&pool), before);
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_calls_go_on_beside_large_ones() {
    let pool = pool("large.py").workers(2).start().await.unwrap();
    let large = tokio::spawn({
        let pool = pool.clone();
        async move {
            for _ in 0..2 {
                swap(&pool, "swap").await;
            }
        }
    });
    let mut small = 0;
    while !large.is_finished() {
        assert_eq!(pool.call::<usize>("take", ("abc",)).await.unwrap(), 3);
        small += 1;
    }
    large.await.unwrap();
    assert!(small > 2, "only {small} small calls");
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_is_exact_both_ways_and_costs_no_worker() {
    const FRAME: usize = 1 << 20;
    let pool = pool("large.py").workers(1).max_frame(FRAME).start().await.unwrap();
    let before = pids(&pool);

    // The body is the handler's name and `["…"]`.
    let room = FRAME - "take".len() - 4;
    assert_eq!(pool.call::<usize>("take", ("x".repeat(room),)).await.unwrap(), room);
    let submitted = pool.stats().submitted;
    let error = pool.call::<usize>("take", ("x".repeat(room + 1),)).await.unwrap_err();
    let Error::TooLarge { handler, size, limit } = &error else { panic!("{error:?}") };
    assert_eq!((handler.as_str(), *size, *limit), ("take", FRAME + 1, FRAME));
    assert!(!error.may_have_run() && !error.is_retryable());
    assert_eq!(pool.stats().submitted, submitted);

    // A result has no name, and is `"…"`.
    let room = FRAME - 2;
    assert_eq!(pool.call::<String>("give", (room,)).await.unwrap().len(), room);
    for size in [room + 1, 64 << 20] {
        let error = pool.call::<String>("give", (size,)).await.unwrap_err();
        let Error::BadResult { handler, type_name, path, message } = &error else {
            panic!("{error:?}")
        };
        assert_eq!((handler.as_str(), type_name.as_str(), path.as_str()), ("give", "str", "$"));
        assert!(message.contains(&(size + 2).to_string()), "{message}");
        assert!(message.contains(&FRAME.to_string()), "{message}");
    }

    // An exception is cut to size rather than lost.
    let error = pool.call::<()>("fail", (16 << 20,)).await.unwrap_err();
    let Error::Python { exception, .. } = &error else { panic!("{error:?}") };
    assert_eq!(exception.type_name, "ValueError");
    assert!(exception.message.len() <= 64 << 10, "{} bytes", exception.message.len());

    assert_eq!(pids(&pool), before);
    assert_eq!(pool.stats().restarts, 0);
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exception_fits_the_smallest_of_frames() {
    let pool = pool("large.py").workers(1).max_frame(4 << 10).start().await.unwrap();
    let error = pool.call::<()>("fail", (1 << 20,)).await.unwrap_err();
    assert!(
        matches!(&error, Error::Python { exception, .. } if exception.type_name == "ValueError")
    );
    let error = pool.call::<()>(&"no such handler".repeat(40), ()).await.unwrap_err();
    assert!(matches!(error, Error::UnknownHandler { .. }), "{error:?}");
    finish(pool).await;
}

/// A caller that leaves in the middle of a transfer, or runs out of time there, leaves no half-read frame behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_that_is_given_up_harms_no_other_call() {
    let pool = pool("large.py").workers(1).start().await.unwrap();
    let text = "ab".repeat(1 << 19);
    for timeout in [1, 2, 3, 5, 8, 13, 21] {
        let call = pool.call::<Value>("swap", (&text, LARGE / 4));
        match call.timeout(Duration::from_millis(timeout)).await {
            Ok(_) | Err(Error::Timeout { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
        assert_eq!(pool.call::<usize>("take", ("abc",)).await.unwrap(), 3);
    }
    finish(pool).await;
}
