//! Calls that wait are gathered: one call of the Python function takes them all, and each caller has its own answer.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use serde_json::{Value, json};
use snakepen::{Builder, Call, Error, Exit, Pool, Stage};
use tokio::task::JoinHandle;

use crate::common::{self, LIMIT, eventually, finish, pids, pool, within};

const SHORT: Duration = Duration::from_millis(300);

fn batching() -> Builder {
    pool("batching.py").call_timeout(LIMIT)
}

fn spawn<R>(call: Call<R>) -> JoinHandle<Result<R, Error>>
where
    R: serde::de::DeserializeOwned + Send + 'static,
{
    tokio::spawn(async move { call.await })
}

/// Keeps the only worker busy until the returned path is there.
async fn busy(pool: &Pool, directory: &Path) -> (PathBuf, JoinHandle<Result<(), Error>>) {
    let path = directory.join("go");
    let call = spawn(pool.call::<()>("waits_for", &path));
    eventually("it is busy", || pool.stats().busy == 1).await;
    (path, call)
}

#[tokio::test]
async fn what_waits_is_gathered_up_to_the_size_of_a_batch() {
    let directory = tempfile::tempdir().unwrap();
    for handler in ["double", "doubled_later"] {
        let pool = batching().workers(1).start().await.unwrap();
        let (go, first) = busy(&pool, directory.path()).await;
        let calls: Vec<_> =
            (0..80).map(|number| spawn(pool.call::<i64>(handler, number))).collect();
        eventually("they wait", || pool.stats().queued == 80).await;
        std::fs::write(&go, "").unwrap();
        first.await.unwrap().unwrap();
        for (number, call) in (0..).zip(calls) {
            assert_eq!(call.await.unwrap().unwrap(), 2 * number);
        }
        let sizes: Vec<i64> = pool.call("seen", ()).await.unwrap();
        let full = if handler == "double" { vec![32, 32, 16] } else { vec![16; 5] };
        assert_eq!(sizes, full, "{handler}");
        std::fs::remove_file(&go).unwrap();
        finish(pool).await;
    }
}

#[tokio::test]
async fn the_first_of_a_batch_waits_for_others() {
    let pool = batching().workers(2).start().await.unwrap();
    let calls = (0..4).map(|number| pool.call::<Value>("items", (number,)).into_future());
    // The batch is full long before its second is over.
    let answers = within(LIMIT, "they are gathered", try_join_all(calls)).await.unwrap();
    assert_eq!(answers, [json!(0), json!(1), json!(2), json!(3)]);
    // By itself: after its second.
    assert_eq!(pool.call::<Value>("items", ("last",)).await.unwrap(), json!("last"));
    finish(pool).await;
}

#[tokio::test]
async fn an_item_is_what_its_caller_gives() {
    let pool = batching().workers(1).start().await.unwrap();
    let call = |args: Value| spawn(pool.call::<Value>("items", args));
    let calls = [call(json!([1])), call(json!([1, "b"])), call(json!({"k": 1})), call(json!("t"))];
    let answers: Vec<_> =
        join_all(calls).await.into_iter().map(|answer| answer.unwrap().unwrap()).collect();
    assert_eq!(answers, [json!(1), json!([1, "b"]), json!({"k": 1}), json!("t")]);
    finish(pool).await;
}

#[tokio::test]
async fn without_a_time_it_takes_what_is_there() {
    let pool = batching().workers(1).start().await.unwrap();
    assert_eq!(pool.call::<i64>("at_once", 7).await.unwrap(), 7);
    assert_eq!(pool.call::<Vec<i64>>("seen", ()).await.unwrap(), [1]);
    finish(pool).await;
}

#[tokio::test]
async fn each_caller_has_its_own_error() {
    let pool = batching().workers(1).start().await.unwrap();
    let calls = (0..4).map(|number| pool.call::<i64>("some_fail", number).into_future());
    let answers = join_all(calls).await;
    assert_eq!(*answers[0].as_ref().unwrap(), 0);
    for number in [1, 3] {
        let Err(Error::Python { exception, .. }) = &answers[number] else {
            panic!("{:?}", answers[number])
        };
        assert_eq!(exception.message, format!("not {number}"));
    }
    assert!(matches!(&answers[2], Err(Error::BadResult { type_name, .. }) if type_name == "set"));

    for (handler, expected) in [
        ("all_fail", "all of [0, 1, 2, 3]"),
        ("too_few", "given a list of 4 returns a list of 4, not 3 results"),
        ("no_list", "returns a list of 4, not dict"),
    ] {
        let calls = (0..4).map(|number| pool.call::<i64>(handler, number).into_future());
        for answer in join_all(calls).await {
            let Err(Error::Python { exception, .. }) = answer else { panic!("{answer:?}") };
            assert!(exception.message.contains(expected), "{}", exception.message);
        }
    }
    assert_eq!(pool.stats().restarts, 0);
    finish(pool).await;
}

#[tokio::test]
async fn a_call_that_is_given_up_leaves_the_others_of_its_batch() {
    let pool = batching().workers(1).cancel_grace(SHORT).start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("done");
    let started = directory.path().join("done.started");
    let before = pids(&pool);
    let kept = spawn(pool.call::<i64>("until_there", &path));
    let mut call = pool.call::<i64>("until_there", &path);
    let handle = call.cancel_handle();
    let cancelled = spawn(call);
    let late = spawn(pool.call::<i64>("until_there", &path).timeout(SHORT));
    eventually("it is at work", || started.exists()).await;
    handle.cancel();
    let error = cancelled.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Cancelled { stage: Stage::Run, .. }), "{error}");
    let error = late.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Timeout { stage: Stage::Run, .. }), "{error}");
    // Longer than the grace: it isn't killed for them.
    tokio::time::sleep(2 * SHORT).await;
    std::fs::write(&path, "").unwrap();
    assert_eq!(kept.await.unwrap().unwrap(), 3);
    assert_eq!(pool.call::<Vec<i64>>("seen", ()).await.unwrap(), [0; 0]);
    assert_eq!(pids(&pool), before);
    finish(pool).await;
}

#[tokio::test]
async fn when_no_caller_waits_any_more_the_handler_is_cancelled() {
    let pool = batching().workers(1).start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("done");
    let calls: Vec<_> = (0..3).map(|_| spawn(pool.call::<i64>("until_there", &path))).collect();
    eventually("it is at work", || directory.path().join("done.started").exists()).await;
    calls.iter().for_each(JoinHandle::abort);
    eventually("it has ended", || directory.path().join("done.ended").exists()).await;
    assert_eq!(pool.call::<Vec<i64>>("seen", ()).await.unwrap(), [0; 0]);
    finish(pool).await;
}

#[tokio::test]
async fn one_that_is_given_up_while_it_is_gathered_is_not_in_the_list() {
    let pool = batching().workers(1).start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("done");
    std::fs::write(&path, "").unwrap();
    let given_up = spawn(pool.call::<i64>("until_there", &path));
    eventually("it is gathered", || pool.stats().busy == 1).await;
    given_up.abort();
    assert!(given_up.await.unwrap_err().is_cancelled());
    assert_eq!(pool.call::<i64>("until_there", &path).await.unwrap(), 1);
    finish(pool).await;
}

#[tokio::test]
async fn a_death_ends_all_calls_of_the_batch() {
    let pool = batching().workers(1).start().await.unwrap();
    let calls = (0..3).map(|_| pool.call::<i64>("dies", "x").into_future());
    for answer in join_all(calls).await {
        let Err(Error::WorkerDied(death)) = answer else { panic!("{answer:?}") };
        assert!(death.started && death.exit == Exit::Code(4), "{death}");
    }
    assert_eq!(pool.call::<i64>("double", 4).await.unwrap(), 8);
    finish(pool).await;
}

#[tokio::test]
async fn batches_run_beside_other_calls_where_calls_overlap() {
    let pool = batching().workers(2).concurrency(8).start().await.unwrap();
    let double = (0..200).map(|number| {
        let handler = ["double", "doubled_later"][number % 2];
        let call = pool.call::<usize>(handler, number);
        async move { assert_eq!(call.await.unwrap(), 2 * number) }
    });
    within(LIMIT, "all are answered", join_all(double)).await;
    let mut sizes = Vec::new();
    for slot in 0..2 {
        let seen: Vec<usize> = pool.worker(slot).unwrap().call("seen", ()).await.unwrap();
        sizes.extend(seen);
    }
    assert_eq!(sizes.iter().sum::<usize>(), 200);
    assert!(sizes.len() < 60, "{sizes:?}");
    finish(pool).await;
}

#[tokio::test]
async fn options_that_cannot_be_are_start_errors() {
    for (options, expected) in [
        ("batch=0", "is 1 to 256, not 0"),
        ("batch=257", "is 1 to 256, not 257"),
        ("batch='x'", "(batch=...) is a number, not str"),
        ("batch=2, wait_ms=-1", "(wait_ms=...) is 0 to 60000 milliseconds"),
        ("wait_ms=5", "(wait_ms=...) goes with batch=..."),
    ] {
        let source = format!("import snakepen\n@snakepen.handler({options})\ndef f(x): return x\n");
        let (_directory, path) = common::handler_file(&source);
        let error = common::pool_over(&path).workers(1).start().await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_generator_is_no_list_of_results() {
    for function in ["def f(xs):\n yield from xs\n", "async def f(xs):\n for x in xs: yield x\n"] {
        let source = format!("import snakepen\n@snakepen.handler(batch=4)\n{function}");
        let (_directory, path) = common::handler_file(&source);
        let error = common::pool_over(&path).workers(1).start().await.unwrap_err();
        assert!(error.to_string().contains("'f' can't be a generator"), "{error}");
    }
    let source = "import snakepen\n@snakepen.handler(batch=4, wait_ms=100)\ndef f(xs): return (x for x in xs)\n";
    let (_directory, path) = common::handler_file(source);
    for concurrency in [1, 8] {
        let pool =
            common::pool_over(&path).workers(1).concurrency(concurrency).start().await.unwrap();
        let calls = (0..3).map(|number| pool.call::<Value>("f", number).into_future());
        for answer in join_all(calls).await {
            let Err(Error::Python { exception, .. }) = answer else { panic!("{answer:?}") };
            assert!(exception.message.contains("not generator"), "{}", exception.message);
        }
        finish(pool).await;
    }
}
