//! Only a call whose handler is said to be idempotent is tried again, after what a second try may cure, so many times,
//! and within its own time.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use snakepen::{Error, Stage};

use crate::common::{eventually, finish, handler_file, pool, pool_over, whole};

const SOURCE: &str = "
import os, time, snakepen

def mark(path):
    with open(path, 'a') as file:
        file.write('x')
    return os.path.getsize(path)

@snakepen.handler
def die_times(path, times, seconds=0.0):
    marks = mark(path)
    time.sleep(seconds)
    if marks <= times:
        os._exit(1)
    return marks

@snakepen.handler
def die_then_hang(path):
    if mark(path) == 1:
        os._exit(1)
    time.sleep(60)

@snakepen.handler
def fail(path):
    mark(path)
    raise ValueError(path)
";

fn marks(path: &Path) -> usize {
    fs::read(path).map_or(0, |marks| marks.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deaths_are_survived_and_each_try_is_counted() {
    let (directory, path) = handler_file(SOURCE);
    let pool = pool_over(&path).workers(2).start().await.unwrap();
    let file = directory.path().join("marks");
    let runs: usize = pool.call("die_times", (&file, 2)).idempotent().await.unwrap();
    assert_eq!((runs, marks(&file)), (3, 3));
    let stats = pool.stats();
    assert_eq!((stats.submitted, stats.completed, stats.failed.worker_died), (3, 1, 2));
    whole(&pool).await;
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tries_are_bounded() {
    let (directory, path) = handler_file(SOURCE);
    for (retries, runs) in [(None, 3), (Some(0), 1), (Some(4), 5)] {
        let file = directory.path().join(format!("marks {runs}"));
        let builder = pool_over(&path).workers(2);
        let builder = match retries {
            Some(retries) => builder.retries(retries),
            None => builder,
        };
        let pool = builder.start().await.unwrap();
        let call = pool.call::<usize>("die_times", (&file, 100)).idempotent();
        let error = call.await.unwrap_err();
        assert!(matches!(error, Error::WorkerDied(_)) && error.may_have_run(), "{error:?}");
        assert_eq!((marks(&file), pool.stats().failed.worker_died), (runs, runs as u64));

        let without = directory.path().join(format!("without {runs}"));
        let error = pool.call::<usize>("die_times", (&without, 100)).await.unwrap_err();
        assert!(matches!(error, Error::WorkerDied(_)), "{error:?}");
        assert_eq!(marks(&without), 1, "it was not said to be idempotent");
        finish(pool).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_handler_answers_is_an_answer() {
    let (directory, path) = handler_file(SOURCE);
    let pool = pool_over(&path).workers(1).start().await.unwrap();
    let file = directory.path().join("marks");
    let error = pool.call::<()>("fail", (&file,)).idempotent().await.unwrap_err();
    assert!(matches!(error, Error::Python { .. }), "{error:?}");
    assert_eq!(marks(&file), 1);
    // A result that the caller can't read is one as well.
    let good = directory.path().join("good");
    let call = pool.call::<String>("die_times", (&good, 0)).idempotent();
    assert!(matches!(call.await, Err(Error::Decode { .. })));
    assert_eq!(marks(&good), 1);
    assert!(matches!(
        pool.call::<()>("none", ()).idempotent().await,
        Err(Error::UnknownHandler { .. })
    ));
    assert_eq!(pool.stats().submitted, 3);
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_tries_share_the_time_of_the_call() {
    const TIME: Duration = Duration::from_millis(500);
    let (directory, path) = handler_file(SOURCE);
    let pool = pool_over(&path).workers(2).retries(100).start().await.unwrap();
    let file = directory.path().join("marks");
    let start = Instant::now();
    let call = pool.call::<usize>("die_times", (&file, 100, 0.02)).idempotent().timeout(TIME);
    let error = call.await.unwrap_err();
    assert!(start.elapsed() < TIME + Duration::from_millis(200), "{:?}", start.elapsed());
    assert!(error.may_have_run(), "{error:?}");
    assert!(marks(&file) > 1);

    // The time-out of a later try tells of the whole call, and is not tried again.
    let file = directory.path().join("hangs");
    let error = pool.call::<()>("die_then_hang", (&file,)).idempotent().timeout(TIME).await;
    let Err(Error::Timeout { stage: Stage::Run, elapsed, timeout, .. }) = error else {
        panic!("{error:?}")
    };
    assert_eq!((timeout, marks(&file)), (TIME, 2));
    assert!(elapsed >= TIME, "{elapsed:?}");
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_is_not_asked_again() {
    let pool = pool("basic.py").workers(1).queue_limit(0).start().await.unwrap();
    let busy = tokio::spawn(pool.call::<f64>("sleep", (0.3,)).into_future());
    eventually("the worker is busy", || pool.stats().busy == 1).await;
    let refused = pool.call::<i64>("add", (1, 2)).idempotent().await;
    assert!(matches!(refused, Err(Error::Saturated { .. })), "{refused:?}");
    assert_eq!(pool.stats().rejected, 1);
    busy.await.unwrap().unwrap();
    finish(pool).await;
}

/// The last try was refused, but an earlier one had started: that is what the caller must hear.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_says_that_any_try_may_have_run() {
    let (directory, path) = handler_file(SOURCE);
    let file = directory.path().join("marks");
    let pool = pool_over(&path).workers(1).shutdown_grace(Duration::ZERO).start().await.unwrap();
    let call = pool.call::<usize>("die_times", (&file, 100, 0.2)).idempotent();
    let call = tokio::spawn(async { call.await });
    eventually("it runs", || marks(&file) == 1).await;
    finish(pool).await;
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::WorkerDied(_)) && error.may_have_run(), "{error:?}");
}

/// Between two tries as well as while a later one waits: the caller hears of its own wish, and of what may have run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_cancelled_between_two_tries_says_so_and_is_not_tried_again() {
    let (directory, path) = handler_file(SOURCE);
    let pool = pool_over(&path).workers(1).retries(100).start().await.unwrap();
    for round in 0..10 {
        let file = directory.path().join(format!("marks {round}"));
        let mut call = pool.call::<usize>("die_times", (&file, 100)).idempotent();
        let cancel = call.cancel_handle();
        let before = pool.stats();
        let call = tokio::spawn(call.into_future());
        // Then the pause is under way, or a later try on a busy machine.
        let died = || pool.stats().failed.worker_died > before.failed.worker_died;
        eventually("it has died", died).await;
        cancel.cancel();
        let error = call.await.unwrap().unwrap_err();
        let after = pool.stats();
        assert!(matches!(error, Error::Cancelled { stage: Stage::Run, .. }), "{error:?}");
        assert!(error.may_have_run(), "the first try has");
        let good = directory.path().join(format!("good {round}"));
        assert_eq!(pool.call::<usize>("die_times", (good, 0)).await.unwrap(), 1);
        assert_eq!(pool.stats().submitted, after.submitted + 1, "it was tried again");
        whole(&pool).await;
    }
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_try_that_is_cancelled_in_the_queue_says_that_an_earlier_one_ran() {
    let (directory, path) = handler_file(SOURCE);
    let pool = pool_over(&path).workers(1).retries(1).start().await.unwrap();
    let [file, hung] = ["marks", "hung"].map(|name| directory.path().join(name));
    fs::write(&hung, "x").unwrap();
    let mut call = pool.call::<usize>("die_times", (&file, 100, 0.2)).idempotent();
    let cancel = call.cancel_handle();
    let call = tokio::spawn(call.into_future());
    eventually("it runs", || marks(&file) == 1).await;
    // The next one to run, so that the second try waits.
    let next = tokio::spawn(pool.call::<()>("die_then_hang", (&hung,)).into_future());
    eventually("the second try waits", || {
        let stats = pool.stats();
        (stats.failed.worker_died, stats.queued, stats.busy) == (1, 1, 1)
    })
    .await;
    cancel.cancel();
    let error = call.await.unwrap().unwrap_err();
    let Error::Cancelled { stage: Stage::Run, elapsed, .. } = error else { panic!("{error:?}") };
    assert!(elapsed >= Duration::from_millis(200), "of the whole call: {elapsed:?}");
    assert_eq!(marks(&file), 1);
    next.abort();
    finish(pool).await;
}

/// A wish that was said before the call was made.
#[tokio::test]
async fn a_call_that_is_cancelled_before_it_is_made_never_runs() {
    let (directory, path) = handler_file(SOURCE);
    let pool = pool_over(&path).workers(1).start().await.unwrap();
    let file = directory.path().join("marks");
    for _ in 0..20 {
        let mut call = pool.call::<usize>("die_times", (&file, 0));
        call.cancel_handle().cancel();
        let error = call.await.unwrap_err();
        assert!(matches!(error, Error::Cancelled { stage: Stage::Queue, .. }), "{error:?}");
    }
    assert!(pool.call::<()>("fail", (directory.path().join("other"),)).await.is_err());
    assert_eq!(marks(&file), 0);
    finish(pool).await;
}
