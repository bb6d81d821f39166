//! A future of the crate may be dropped at every one of its await points: nothing is lost, nothing is left, and the next
//! call is right.
//!
//! A naive pool leaks the worker of a call that is dropped between two awaits, or counts it for ever.

mod common;

use std::future::IntoFuture;
use std::time::Duration;

use common::{LIMIT, eventually, finish, kill, pids, polled, pool, whole, within};
use futures::{StreamExt, stream};
use ractor::registry;
use snakepen::{Error, Pool, Priority};

/// Drops what `future` makes after one poll, after two, … until it is done before; checks the pool after each. Returns how
/// often it was dropped.
async fn dropped_at_every_poll<F: Future>(
    pool: &Pool,
    mut before: impl AsyncFnMut(&Pool),
    future: impl Fn(&Pool) -> F,
) -> usize {
    for polls in 1.. {
        before(pool).await;
        let done = within(LIMIT, "the future", polled(polls, future(pool))).await.is_some();
        let answer = pool.call::<i64>("add", (polls, 1)).timeout(LIMIT).idempotent().await;
        assert_eq!(answer.unwrap(), i64::try_from(polls).unwrap() + 1, "after {polls} polls");
        eventually("the sums agree", || {
            let stats = pool.stats();
            let ended = stats.completed + stats.failed.total();
            stats.submitted == ended && stats.busy + stats.queued == 0
        })
        .await;
        if done {
            return polls - 1;
        }
    }
    unreachable!("an endless range")
}

async fn nothing(_pool: &Pool) {}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call() {
    let pool = pool("basic.py").workers(2).start().await.unwrap();
    let dropped = dropped_at_every_poll(&pool, nothing, |pool| {
        pool.call::<f64>("sleep", 0.005).into_future()
    })
    .await;
    assert!(dropped >= 1, "it never waits, so nothing was dropped");
    dropped_at_every_poll(&pool, nothing, |pool| {
        pool.call::<f64>("async_sleep", 0.005).priority(Priority::High).into_future()
    })
    .await;
    dropped_at_every_poll(&pool, nothing, |pool| {
        let mut call = pool.call::<f64>("sleep", 0.005).affinity("key");
        let _handle = call.cancel_handle();
        call.into_future()
    })
    .await;
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_cancelled_meanwhile() {
    let pool = pool("basic.py").workers(1).start().await.unwrap();
    dropped_at_every_poll(&pool, nothing, |pool| {
        let mut call = pool.call::<f64>("sleep", 60.0);
        let handle = call.cancel_handle();
        let cancel = tokio::spawn(async move {
            tokio::task::yield_now().await;
            handle.cancel();
        });
        async move {
            let error = call.await.unwrap_err();
            assert!(matches!(error, Error::Cancelled { .. }), "{error:?}");
            cancel.await.unwrap();
        }
    })
    .await;
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_worker_dies_and_that_is_tried_again() {
    let pool = pool("basic.py").workers(1).start().await.unwrap();
    dropped_at_every_poll(&pool, whole, |pool| {
        let (pid, call) = (pids(pool)[0], pool.call::<f64>("sleep", 0.02).idempotent());
        let pool = pool.clone();
        tokio::spawn(async move {
            eventually("the call runs, or has ended", || {
                pool.stats().busy == 1 || pool.stats().completed > 0
            })
            .await;
            if pids(&pool) == [pid] {
                kill(pid, 9);
            }
        });
        call.into_future()
    })
    .await;
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_while_the_pools_actor_is_restarted() {
    let pool = pool("basic.py").workers(1).start().await.unwrap();
    let kill_actor = async |pool: &Pool| {
        if let Some(actor) = registry::where_is(pool.name()) {
            let _ = actor.kill_and_wait(None).await;
        }
    };
    dropped_at_every_poll(&pool, kill_actor, |pool| {
        pool.call::<f64>("sleep", 0.002).timeout(LIMIT).idempotent().into_future()
    })
    .await;
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream() {
    let pool = pool("basic.py").workers(2).start().await.unwrap();
    for handler in ["count_up", "async_count_up"] {
        let dropped = dropped_at_every_poll(&pool, nothing, |pool| {
            let stream = pool.stream::<usize>(handler, 300);
            async {
                assert!(stream.map(Result::unwrap).collect::<Vec<_>>().await.into_iter().eq(0..300))
            }
        })
        .await;
        assert!(dropped >= 1, "it never waits, so nothing was dropped");
    }
    assert_eq!(pool.stats().restarts, 0, "{:?}", pool.workers());
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_with_an_input_and_a_stream_with_one() {
    let pool = pool("basic.py").workers(2).start().await.unwrap();
    // An item comes when it is polled once more.
    let numbers = || {
        stream::iter(0..200).then(async |number| {
            tokio::task::yield_now().await;
            number
        })
    };
    dropped_at_every_poll(&pool, nothing, |pool| {
        let call = pool.call::<i64>("total", ()).input("numbers", numbers()).into_future();
        async { assert_eq!(call.await.unwrap(), 199 * 100) }
    })
    .await;
    dropped_at_every_poll(&pool, nothing, |pool| {
        let stream = pool.stream::<usize>("pass_on", ()).input("numbers", numbers());
        async {
            assert!(stream.map(Result::unwrap).collect::<Vec<_>>().await.into_iter().eq(0..200))
        }
    })
    .await;
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload() {
    let pool = pool("basic.py").workers(2).start().await.unwrap();
    let dropped = dropped_at_every_poll(&pool, nothing, |pool| {
        let pool = pool.clone();
        async move { pool.reload().await.unwrap() }
    })
    .await;
    assert!(dropped >= 1, "it never waits, so nothing was dropped");
    whole(&pool).await;
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown() {
    for polls in 1.. {
        let pool = pool("basic.py").workers(1).start().await.unwrap();
        let held = tokio::spawn(pool.call::<f64>("sleep", 0.02).into_future());
        let done = polled(polls, pool.shutdown()).await.is_some();
        // What was begun goes on; the call has an answer either way.
        let _ = within(Duration::from_secs(30), "the call", held).await.unwrap();
        finish(pool).await;
        if done {
            return;
        }
    }
}
