//! Scenario 15: a timeout of 1 999 ms fires at 1 999 ms, neither rounded down to a second nor up to two, wherever
//! the call is.

mod common;

use std::time::{Duration, Instant};

use common::{eventually, finish, pool, whole};
use snakepen::{Error, Pool, Stage};

/// So late may a timer be; far from the next thing that could be meant.
const SLACK: Duration = Duration::from_millis(250);

/// A machine that is busy with something else may be late now and then; a pool that rounds is late every time.
const TRIES: u64 = 3;

/// Makes a call that takes far too long, and checks when and how it gives up; returns how many tries it took.
async fn gives_up_on_time(pool: &Pool, timeout: Duration, stages: &[Stage]) -> u64 {
    let mut late = Vec::new();
    for tries in 1..=TRIES {
        if stages.contains(&Stage::Run) {
            whole(pool).await;
        }
        let start = Instant::now();
        let error = pool.call::<f64>("sleep", (60.0,)).timeout(timeout).await.unwrap_err();
        let measured = start.elapsed();
        let Error::Timeout { handler, stage, elapsed, timeout: had, .. } = &error else {
            panic!("{error:?}")
        };
        assert_eq!((handler.as_str(), *had), ("sleep", timeout));
        assert!(stages.contains(stage), "{error}");
        assert!(*elapsed >= timeout, "says that it gave up after {elapsed:?} of {timeout:?}");
        assert!(measured >= timeout, "gave up after {measured:?} of {timeout:?}");
        if measured < timeout + SLACK {
            return tries;
        }
        late.push(measured);
    }
    panic!("gave up after {late:?} of {timeout:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timeout_fires_to_the_millisecond() {
    let running = pool("basic.py").workers(1).start().await.unwrap();
    let queued = pool("basic.py").workers(1).start().await.unwrap();
    let hog = tokio::spawn({
        let queued = queued.clone();
        async move { queued.call::<f64>("sleep", (60.0,)).await }
    });
    eventually("the only worker is busy", || queued.stats().busy == 1).await;
    let odd = Duration::from_millis(1_999);
    let tries = tokio::join!(
        gives_up_on_time(&running, odd, &[Stage::Run]),
        gives_up_on_time(&queued, odd, &[Stage::Queue]),
    );
    assert_eq!(running.stats().failed.timeout_running, tries.0);
    assert_eq!(queued.stats().failed.timeout_queued, tries.1);
    hog.abort();
    assert!(hog.await.unwrap_err().is_cancelled());
    eventually("the call that held the worker is given up", || queued.stats().busy == 0).await;
    finish(running).await;
    finish(queued).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_timeouts_are_not_rounded_either() {
    let pool = pool("basic.py").workers(1).start().await.unwrap();
    for micros in [500, 1_500, 7_000, 33_300, 250_000] {
        // The shortest may be over before a worker is found.
        let stages = [Stage::Queue, Stage::Run];
        gives_up_on_time(&pool, Duration::from_micros(micros), &stages).await;
    }
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_earlier_deadline_is_not_held_up_by_a_later_one() {
    let pool = pool("basic.py").workers(2).start().await.unwrap();
    tokio::join!(
        gives_up_on_time(&pool, Duration::from_millis(900), &[Stage::Run]),
        gives_up_on_time(&pool, Duration::from_millis(300), &[Stage::Run]),
    );
    whole(&pool).await;
    let answer = pool.call::<f64>("sleep", (0.1,)).timeout(Duration::from_secs(30)).await;
    assert_eq!(answer.unwrap(), 0.1);
    finish(pool).await;
}
