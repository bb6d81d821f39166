//! Where parts meet that each work by themselves: streams, inputs, batches, calls to Rust, sessions, actors, several calls per
//! worker.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use serde_json::Value;
use snakepen::{Builder, Call, CallContext, Error, Exit, PyActor};
use tokio::task::JoinHandle;

use crate::common::{LIMIT, eventually, finish, pids, pool, python, told, unique, within};

const SHORT: Duration = Duration::from_millis(200);

fn seams() -> Builder {
    pool("seams.py").call_timeout(LIMIT)
}

fn spawn<R>(call: Call<R>) -> JoinHandle<Result<R, Error>>
where
    R: serde::de::DeserializeOwned + Send + 'static,
{
    tokio::spawn(async move { call.await })
}

#[tokio::test]
async fn a_plain_handler_that_returns_a_coroutine_runs_where_calls_overlap() {
    let directory = tempfile::tempdir().unwrap();
    let go = directory.path().join("go");
    let pool = seams()
        .concurrency(8)
        .workers(1)
        .expose_fn("answer", async |(): ()| Ok::<_, Error>(42))
        .start()
        .await
        .unwrap();
    let waiting = spawn(pool.call::<String>("waits_for", &go));
    eventually("it runs", || pool.stats().busy == 1).await;
    // The reply is read by the loop that the handler's coroutine is run by.
    assert_eq!(pool.call::<i64>("asks", "answer").await.unwrap(), 42);
    let items: Vec<i64> = pool.stream::<i64>("counts_up", 1000).map(Result::unwrap).collect().await;
    assert_eq!(items, (0..1000).collect::<Vec<_>>());
    std::fs::write(&go, "").unwrap();
    waiting.await.unwrap().unwrap();
    assert_eq!(pool.call::<i64>("asks", "answer").await.unwrap(), 42);
    finish(pool).await;
}

#[tokio::test]
async fn a_batch_that_is_gathered_for_nobody_costs_no_worker() {
    for (concurrency, handler) in [(1, "gathered"), (4, "gathered"), (4, "gathered_later")] {
        let pool =
            seams().workers(1).concurrency(concurrency).cancel_grace(SHORT).start().await.unwrap();
        let before = pids(&pool);
        // Others would come within 3 s.
        let calls = (0..3).map(|number| {
            pool.call::<i64>(handler, number).timeout(SHORT * (number + 1)).into_future()
        });
        for answer in join_all(calls).await {
            let error = answer.unwrap_err();
            assert!(matches!(error, Error::Timeout { .. }), "{error}");
        }
        assert_eq!(
            within(LIMIT / 6, "it is free", pool.call::<i64>("count", ()).into_future())
                .await
                .unwrap(),
            1
        );
        assert_eq!(pids(&pool), before, "{concurrency} {handler}");
        // Of those that are gathered one may leave, and the rest go on.
        let left = spawn(pool.call::<i64>(handler, 0).timeout(SHORT));
        let stay: Vec<_> = (1..4).map(|number| spawn(pool.call::<i64>(handler, number))).collect();
        assert!(left.await.unwrap().is_err());
        for (number, call) in (1..).zip(stay) {
            assert_eq!(call.await.unwrap().unwrap(), number);
        }
        assert_eq!(pids(&pool), before, "{concurrency} {handler}");
        finish(pool).await;
    }
}

#[tokio::test]
async fn the_processor_time_of_a_batch_is_limited() {
    let pool = seams().workers(1).cpu_limit(SHORT).start().await.unwrap();
    let calls = (0..2).map(|number| pool.call::<i64>("burns", number).into_future());
    let answers = within(LIMIT / 2, "they are ended", join_all(calls)).await;
    for answer in answers {
        let error = answer.unwrap_err();
        assert!(matches!(error, Error::CpuTime { .. }), "{error}");
    }
    finish(pool).await;
}

#[tokio::test]
async fn what_a_batch_calls_in_rust_has_the_time_of_its_most_patient_caller() {
    let directory = tempfile::tempdir().unwrap();
    let go = directory.path().join("go");
    let left = async |(): ()| {
        let deadline = CallContext::current().and_then(|context| context.deadline());
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        Ok::<_, Error>(left.unwrap_or_default().as_secs())
    };
    let pool = seams().workers(1).expose_fn("left", left).start().await.unwrap();
    let first = spawn(pool.call::<u64>("looks_up_late", &go).timeout(SHORT));
    let second = spawn(pool.call::<u64>("looks_up_late", &go));
    assert!(first.await.unwrap().is_err());
    std::fs::write(&go, "").unwrap();
    let left = within(LIMIT / 2, "it ends", second).await.unwrap().unwrap();
    assert!(left > LIMIT.as_secs() / 2, "{left} s");
    finish(pool).await;
}

#[tokio::test]
async fn a_caller_who_is_slow_to_send_its_inputs_hears_of_what_was_taken_later() {
    let pool = seams().workers(1).start().await.unwrap();
    let item = || "x".repeat(140 << 10);
    for inputs in [1, 2] {
        let slow = move |number: i32| {
            // While it is made nothing else is looked at that this call is told.
            if inputs == 2 {
                std::thread::sleep(Duration::from_millis(30));
            }
            let _ = number;
            "x".repeat(140 << 10)
        };
        let first = futures::stream::iter(0..30).map(move |_| item());
        let second = futures::stream::iter(0..30).map(slow);
        let call = pool.call::<usize>("pairs", ()).input("first", first).input("second", second);
        let length = within(LIMIT, "all is read", call.into_future()).await.unwrap();
        assert_eq!(length, 2 * 30 * (140 << 10));
    }
    assert_eq!(pool.stats().restarts, 0);
    finish(pool).await;
}

#[tokio::test]
async fn the_end_of_an_input_is_of_no_concern_to_the_next_call() {
    let directory = tempfile::tempdir().unwrap();
    let (reads, ended) = (directory.path().join("reads"), directory.path().join("ended"));
    let pool = seams()
        .workers(1)
        .concurrency(4)
        .cancel_grace(Duration::from_secs(5))
        .start()
        .await
        .unwrap();
    let call = pool.call::<()>("reads_and_blocks", serde_json::json!({ "path": &reads }));
    let call = call.input("numbers", futures::stream::pending::<i64>()).timeout(SHORT);
    assert!(call.await.is_err());
    told(&reads).await;
    let call = pool.call::<()>("spins", &ended).timeout(SHORT).into_future();
    let error = within(LIMIT / 2, "it is answered", call).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    told(&ended).await;
    finish(pool).await;
}

#[tokio::test]
async fn a_nested_call_does_not_wait_for_the_turn_of_a_call_whose_worker_is_being_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let go = directory.path().join("go");
    let pool = seams().workers(2).concurrency(4).start().await.unwrap();
    let session = pool.session("s").in_order();
    pool.expose_fn("in_session", async |handler: String| {
        let own = CallContext::current().and_then(|context| context.pool());
        let own = own.ok_or(Error::Closed { pool: "own".to_owned() })?;
        own.session("s").in_order().call::<Value>(&handler, ()).await
    })
    .unwrap();
    let call = spawn(session.call::<String>("within_its_turn", ("count", &go)));
    eventually("it runs", || pool.stats().busy == 1).await;
    within(LIMIT, "the reload", pool.reload()).await.unwrap();
    std::fs::write(&go, "").unwrap();
    let told = within(LIMIT / 6, "it is told", call).await.unwrap().unwrap();
    assert_eq!(told, "WouldDeadlock");
    drop(session);
    finish(pool).await;
}

#[tokio::test]
async fn a_call_that_has_ended_in_time_is_no_reason_to_end_those_beside_it() {
    let pool = seams().workers(1).concurrency(4).cancel_grace(SHORT).start().await.unwrap();
    let ends = spawn(pool.call::<()>("ends", ()).timeout(SHORT));
    eventually("it runs", || pool.stats().busy == 1).await;
    let blocks = spawn(pool.call::<f64>("blocks_after_its_end", 2.0));
    let error = ends.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert_eq!(blocks.await.unwrap().unwrap(), 2.0);
    assert_eq!(pool.stats().restarts, 0);
    finish(pool).await;
}

#[tokio::test]
async fn a_call_is_not_kept_waiting_by_a_thread_that_receives() {
    let (release, gate) = tokio::sync::watch::channel(false);
    let pool = seams()
        .workers(1)
        .concurrency(4)
        .expose_fn("gate", move |(): ()| {
            let mut gate = gate.clone();
            async move { gate.wait_for(|open| *open).await.map(|_| ()).map_err(|it| it.to_string()) }
        })
        .start()
        .await
        .unwrap();
    let waiting: Vec<_> =
        (0..2).map(|_| spawn(pool.call::<()>("asks_in_a_thread", "gate"))).collect();
    eventually("they run", || pool.stats().busy == 2).await;
    for _ in 0..3000 {
        let call = pool.call::<i64>("count", ()).into_future();
        within(LIMIT / 6, "it is begun", call).await.unwrap();
    }
    release.send(true).unwrap();
    for call in waiting {
        call.await.unwrap().unwrap();
    }
    finish(pool).await;
}

#[tokio::test]
async fn a_call_is_not_kept_waiting_by_a_handler_that_receives() {
    let (release, gate) = tokio::sync::watch::channel(false);
    let pool = seams()
        .workers(1)
        .concurrency(4)
        .expose_fn("gate", move |(): ()| {
            let mut gate = gate.clone();
            async move { gate.wait_for(|open| *open).await.map(|_| ()).map_err(|it| it.to_string()) }
        })
        .start()
        .await
        .unwrap();
    // With another call that overlaps, the loop goes on.
    let sleeps = spawn(pool.call::<()>("ends", ()));
    eventually("it runs", || pool.stats().busy == 1).await;
    let asks = spawn(pool.call::<()>("asks_and_blocks", "gate"));
    eventually("it asks", || gate_is_asked(&release)).await;
    let counts = spawn(pool.call::<i64>("count", ()));
    eventually("it is sent", || pool.stats().busy == 3).await;
    release.send(true).unwrap();
    asks.await.unwrap().unwrap();
    assert_eq!(within(LIMIT / 6, "it is begun", counts).await.unwrap().unwrap(), 1);
    sleeps.abort();
    finish(pool).await;
}

/// Somebody waits, beside the function that is exposed.
fn gate_is_asked(gate: &tokio::sync::watch::Sender<bool>) -> bool {
    gate.receiver_count() == 2
}

#[tokio::test]
async fn a_slow_consumer_of_a_plain_generator_holds_up_no_call_beside_it() {
    let directory = tempfile::tempdir().unwrap();
    let pool = seams().workers(1).concurrency(4).cancel_grace(SHORT).start().await.unwrap();
    let before = pids(&pool);
    for leaves in [false, true] {
        let go = directory.path().join(leaves.to_string());
        let waiting = spawn(pool.call::<String>("waits_for", &go));
        eventually("it runs", || pool.stats().busy == 1).await;
        let given_up = spawn(pool.call::<()>("ends", ()).timeout(SHORT));
        eventually("it runs", || pool.stats().busy == 2).await;
        let mut items = pool.stream::<i64>("plain_items", (1000, 0));
        assert_eq!(items.next().await.unwrap().unwrap(), 0);
        // From here on its generator waits.
        let error = given_up.await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
        std::fs::write(&go, "").unwrap();
        within(LIMIT / 6, "it is answered", waiting).await.unwrap().unwrap();
        if !leaves {
            let rest: Vec<i64> = items.map(Result::unwrap).collect().await;
            assert_eq!(rest, (1..1000).collect::<Vec<_>>());
        }
    }
    within(LIMIT / 6, "it is free", pool.call::<i64>("count", ()).into_future()).await.unwrap();
    assert_eq!(pids(&pool), before);
    finish(pool).await;
}

#[tokio::test]
async fn what_a_generator_of_an_actor_has_changed_is_kept() {
    let name = unique("ledger");
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/handlers/seams.py");
    let target = format!("{}:Ledger", file.display());
    let ledger = PyActor::builder(&name, target)
        .with(|pool| pool.python(python()).call_timeout(LIMIT))
        .spawn()
        .await
        .unwrap();
    for (method, before) in [("add", 0), ("aadd", 3)] {
        let counts: Vec<i64> = ledger.call(method, (1, 2, 3)).await.unwrap();
        assert_eq!(counts, [before + 1, before + 2, before + 3]);
        let error = ledger.call::<()>("crash", ()).await.unwrap_err();
        assert!(
            matches!(&error, Error::WorkerDied(death) if death.exit == Exit::Code(3)),
            "{error}"
        );
        let all: Vec<i64> = ledger.call("all", ()).await.unwrap();
        assert_eq!(all.len() as i64, before + 3, "{method}");
    }
    ledger.stop().await.unwrap();
}

#[tokio::test]
async fn a_panic_of_an_input_is_its_callers_in_a_session_too() {
    let pool = seams().workers(1).start().await.unwrap();
    let session = pool.session("s").in_order();
    let words = futures::stream::poll_fn(|_| -> std::task::Poll<Option<String>> { panic!("mine") });
    let call = session
        .call::<usize>("pairs", ())
        .input("first", words)
        .input("second", futures::stream::pending::<String>());
    let error = spawn(call).await.unwrap_err();
    assert!(error.is_panic(), "{error}");
    drop(session);
    finish(pool).await;
}
