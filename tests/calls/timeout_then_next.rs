//! Scenarios 7 and 9: a call times out, or its caller goes away, and the very next call succeeds, on a worker that
//! nothing of the given up call is left in.

use std::time::{Duration, Instant};

use snakepen::{Error, Stage};

use crate::common::{LIMIT, eventually, finish, is_alive, pids, pool, told, whole};

/// Far shorter than what the calls would take that are given up.
const SHORT: Duration = Duration::from_millis(50);
const FOREVER: f64 = 1_000.0;

#[tokio::test]
async fn the_call_after_a_timeout_succeeds_on_a_fresh_worker() {
    let pool = pool("holding.py").workers(1).start().await.unwrap();
    for round in 1..=10 {
        let old = pool.call::<i32>("pid", ()).await.unwrap();
        let error = pool.call::<()>("remember", (round, FOREVER)).timeout(SHORT).await.unwrap_err();
        let Error::Timeout { stage, timeout, elapsed, handler, .. } = &error else {
            panic!("{error:?}")
        };
        assert_eq!((*stage, *timeout, handler.as_str()), (Stage::Run, SHORT, "remember"));
        assert!(*elapsed >= SHORT);
        assert!(error.may_have_run() && !error.is_retryable());
        // No pause: the very next call.
        assert_eq!(pool.call::<Option<i64>>("recall", ()).await.unwrap(), None);
        assert_ne!(pool.call::<i32>("pid", ()).await.unwrap(), old);
        assert!(!is_alive(old), "what timed out still runs");
        let stats = pool.stats();
        assert_eq!((stats.failed.timeout_running, stats.restarts), (round, round));
    }
    finish(pool).await;
}

#[tokio::test]
async fn the_call_after_a_dropped_one_succeeds_on_a_fresh_worker() {
    let pool = pool("holding.py").workers(1).start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    for round in 1..=10 {
        let started = directory.path().join(format!("started-{round}"));
        let never = directory.path().join("never");
        let call = pool.call::<i32>("hold", (&started, never));
        let old: i32 = tokio::select! {
            answer = call => panic!("{answer:?}"),
            pid = told(&started) => pid.parse().unwrap(),
        };
        assert_ne!(pool.call::<i32>("pid", ()).await.unwrap(), old);
        assert!(!is_alive(old), "what nobody waits for still runs");
        let stats = pool.stats();
        assert_eq!((stats.failed.abandoned, stats.restarts), (round, round));
    }
    finish(pool).await;
}

#[tokio::test]
async fn a_call_that_is_dropped_in_the_queue_never_runs_and_costs_no_worker() {
    let pool = pool("holding.py").workers(1).start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = |name| directory.path().join(name);
    let holding =
        tokio::spawn(pool.call::<i32>("hold", (file("started"), file("release"))).into_future());
    told(&file("started")).await;
    let queued =
        tokio::spawn(pool.call::<i32>("hold", (file("ran"), file("release"))).into_future());
    eventually("the call is queued", || pool.stats().queued == 1).await;
    queued.abort();
    eventually("the call is dropped", || pool.stats().queued == 0).await;
    std::fs::write(file("release"), "").unwrap();
    let pid = holding.await.unwrap().unwrap();
    assert_eq!(pool.call::<i32>("pid", ()).await.unwrap(), pid, "the worker was not to blame");
    assert!(!file("ran").exists());
    assert_eq!((pool.stats().failed.abandoned, pool.stats().restarts), (1, 0));
    finish(pool).await;
}

/// The queue does not suffer from what happens to the call before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_behind_a_timeout_all_succeed() {
    let pool = pool("holding.py").workers(1).start().await.unwrap();
    let stuck = tokio::spawn(pool.call::<()>("work", (0, FOREVER)).timeout(SHORT).into_future());
    eventually("the call runs", || pool.stats().busy == 1).await;
    let behind: Vec<_> = (0..32)
        .map(|n| tokio::spawn(pool.call::<i64>("work", n).timeout(LIMIT).into_future()))
        .collect();
    assert!(matches!(stuck.await.unwrap(), Err(Error::Timeout { stage: Stage::Run, .. })));
    for (n, call) in behind.into_iter().enumerate() {
        assert_eq!(call.await.unwrap().unwrap(), i64::try_from(n).unwrap());
    }
    finish(pool).await;
}

/// Timeouts and drops that fall together with the answer: whoever gets one gets their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timeout_at_the_moment_of_the_answer_mixes_nothing_up() {
    const CALLERS: i64 = 16;
    const ROUNDS: i64 = 20;
    let pool = pool("holding.py").workers(4).start().await.unwrap();
    let end = Instant::now() + Duration::from_secs(4);
    let callers = (0..CALLERS).map(|caller| {
        let pool = pool.clone();
        tokio::spawn(async move {
            let (mut answered, mut given_up) = (0, 0);
            for round in 0..ROUNDS {
                if Instant::now() > end {
                    break;
                }
                let value = caller * ROUNDS + round;
                let call = pool.call::<i64>("work", (value, 0.005));
                // Around the time that the handler takes, and more often than not in its favour.
                let limit = Duration::from_micros(5_000 + 700 * u64::try_from(value % 16).unwrap());
                let answer = if round % 2 == 0 {
                    call.timeout(limit).await
                } else {
                    match tokio::time::timeout(limit, call.into_future()).await {
                        Ok(answer) => answer,
                        Err(_) => {
                            given_up += 1;
                            continue;
                        }
                    }
                };
                match answer {
                    Ok(got) => {
                        assert_eq!(got, value, "somebody else's answer");
                        answered += 1;
                    }
                    Err(Error::Timeout { .. }) => given_up += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            (answered, given_up)
        })
    });
    let (mut answered, mut given_up) = (0, 0);
    for caller in callers.collect::<Vec<_>>() {
        let (a, g) = caller.await.unwrap();
        (answered, given_up) = (answered + a, given_up + g);
    }
    assert!(given_up > 0, "nothing was given up");
    // A flapping slot comes back later, and then whole.
    whole(&pool).await;
    assert_eq!(pids(&pool).len(), 4);
    for value in 0..16 {
        assert_eq!(pool.call::<i64>("work", value).await.unwrap(), value);
    }
    eventually("every call has ended", || {
        let stats = pool.stats();
        stats.queued + stats.busy == 0
    })
    .await;
    let stats = pool.stats();
    assert_eq!(stats.submitted, answered + given_up + 16);
    finish(pool).await;
}
