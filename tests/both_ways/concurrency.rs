//! One worker, several calls: those of `async def` handlers overlap; each is answered, cancelled and counted by itself.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{join_all, try_join_all};
use snakepen::{Builder, Ended, Error, Exit, Pool, Stage};

use crate::common::{LIMIT, eventually, finish, is_alive, kill, pids, pool, told, whole, within};

const SHORT: Duration = Duration::from_millis(200);

fn overlapping(concurrency: usize) -> Builder {
    pool("overlapping.py").concurrency(concurrency).call_timeout(LIMIT)
}

/// A call that is made at once, in a task of its own.
fn spawn<R>(call: snakepen::Call<R>) -> tokio::task::JoinHandle<Result<R, Error>>
where
    R: serde::de::DeserializeOwned + Send + 'static,
{
    tokio::spawn(async move { call.await })
}

async fn arrived(pool: &Pool, gate: &str, number: u32) {
    let wait = async { while pool.call::<u32>("count", gate).await.unwrap() < number {} };
    within(LIMIT, "they arrive", wait).await;
}

#[tokio::test]
async fn calls_of_one_worker_overlap() {
    let pool = overlapping(64).workers(1).start().await.unwrap();
    let calls = (0..64).map(|_| async { pool.call::<u64>("meet", ("all", 64)).await });
    let ids = within(LIMIT, "all meet", try_join_all(calls)).await.unwrap();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 64, "each has its own answer");
    assert_eq!(pool.stats().size, 1);
    finish(pool).await;
}

#[tokio::test]
async fn no_more_calls_are_at_a_worker_than_it_may_have() {
    let pool = overlapping(3).workers(1).queue_limit(2).start().await.unwrap();
    let waiting: Vec<_> =
        (0..5).map(|_| spawn(pool.call::<(String, u64, i32)>("wait_for", "open"))).collect();
    eventually("three run and two wait", || {
        let stats = pool.stats();
        (stats.busy, stats.queued) == (3, 2)
    })
    .await;
    let error = pool.call::<()>("open_gate", "open").await.unwrap_err();
    assert!(matches!(error, Error::Saturated { limit: 2 }), "{error}");
    waiting[0].abort();
    eventually("one has left", || pool.stats().busy + pool.stats().queued == 4).await;
    // It goes to the end of the queue; so another one has to leave.
    waiting[1..4].iter().for_each(tokio::task::JoinHandle::abort);
    pool.call::<()>("open_gate", "open").await.unwrap();
    for call in waiting.into_iter().skip(4) {
        assert_eq!(call.await.unwrap().unwrap().0, "open");
    }
    finish(pool).await;
}

#[tokio::test]
async fn a_call_goes_to_the_worker_that_holds_the_fewest() {
    let pool = overlapping(8).workers(4).start().await.unwrap();
    let calls: Vec<_> =
        (0..8).map(|_| spawn(pool.call::<(String, u64, i32)>("wait_for", "open"))).collect();
    eventually("all run", || pool.stats().busy == 8).await;
    for slot in 0..4 {
        let worker = pool.worker(slot).unwrap();
        worker.call::<()>("open_gate", "open").await.unwrap();
    }
    let mut by_pid = std::collections::BTreeMap::new();
    for call in calls {
        *by_pid.entry(call.await.unwrap().unwrap().2).or_insert(0) += 1;
    }
    assert_eq!(by_pid.into_values().collect::<Vec<_>>(), [2; 4]);
    finish(pool).await;
}

#[tokio::test]
async fn plain_handlers_stay_one_at_a_time_and_may_run_a_loop_of_their_own() {
    let pool = overlapping(16).workers(2).start().await.unwrap();
    let waiting = spawn(pool.call::<(String, u64, i32)>("wait_for", "open"));
    let alone = (0..200).map(|_| async { pool.call::<u64>("alone", ()).await });
    let counted = (0..200).map(|_| async { pool.call::<u32>("count", "nobody").await });
    let (alone, counted) = tokio::join!(try_join_all(alone), try_join_all(counted));
    assert_eq!(alone.unwrap().into_iter().collect::<BTreeSet<_>>().len(), 200);
    assert_eq!(counted.unwrap(), [0; 200]);
    for slot in 0..2 {
        pool.worker(slot).unwrap().call::<()>("open_gate", "open").await.unwrap();
    }
    waiting.await.unwrap().unwrap();
    finish(pool).await;
}

#[tokio::test]
async fn each_call_is_cancelled_by_itself_and_shows_its_own_stack() {
    let pool = overlapping(32).workers(1).start().await.unwrap();
    let pid: i32 = pool.call("pid", ()).await.unwrap();
    let waiting: Vec<_> =
        (0..20).map(|_| spawn(pool.call::<(String, u64, i32)>("wait_for", "open"))).collect();
    let directory = tempfile::tempdir().unwrap();
    let mut stacks = 0;
    for round in 0..10 {
        let path = directory.path().join(format!("tidied-{round}"));
        let gate = format!("gate-{round}");
        let mut call = pool.call::<()>("tidies", (&path, &gate));
        let handle = call.cancel_handle();
        let call = spawn(call);
        arrived(&pool, &gate, 1).await;
        handle.cancel();
        let error = call.await.unwrap().unwrap_err();
        let Error::Cancelled { stage: Stage::Run, python_stack, .. } = &error else {
            panic!("{error:?}")
        };
        assert!(python_stack.is_empty() || python_stack.contains("in tidies"), "{error}");
        assert!(!python_stack.contains("wait_for"), "{error}");
        stacks += usize::from(!python_stack.is_empty());
        assert_eq!(told(&path).await, "True");
    }
    assert!(stacks > 0, "no stack came in time");
    pool.call::<()>("open_gate", "open").await.unwrap();
    for call in waiting {
        assert_eq!(call.await.unwrap().unwrap().2, pid);
    }
    assert_eq!(pool.stats().restarts, 0);
    finish(pool).await;
}

#[tokio::test]
async fn many_that_run_out_of_time_at_once_end_at_once_and_the_worker_is_kept() {
    let pool = overlapping(128).workers(1).circuit_threshold(0).start().await.unwrap();
    let pid: i32 = pool.call("pid", ()).await.unwrap();
    for _ in 0..3 {
        let calls = (0..128).map(|_| {
            let call = pool.call::<(String, u64, i32)>("wait_for", "never").timeout(SHORT);
            async move { call.await }
        });
        for outcome in within(LIMIT, "all end", join_all(calls)).await {
            assert!(matches!(outcome, Err(Error::Timeout { .. })), "{outcome:?}");
        }
    }
    assert_eq!(pool.call::<i32>("pid", ()).await.unwrap(), pid);
    assert_eq!(pool.stats().restarts, 0);
    finish(pool).await;
}

#[tokio::test]
async fn calls_that_are_dropped_at_any_time_leave_the_others_alone() {
    let pool = overlapping(16).workers(1).start().await.unwrap();
    let pid: i32 = pool.call("pid", ()).await.unwrap();
    for turns in 0..200 {
        let dropped = spawn(pool.call::<u64>("meet", ("dropped", 1_000_000)));
        for _ in 0..turns % 20 {
            tokio::task::yield_now().await;
        }
        dropped.abort();
        assert_eq!(pool.call::<u32>("count", "nobody").await.unwrap(), 0);
    }
    eventually("none of them is left", || pool.stats().busy == 0).await;
    assert_eq!(pool.call::<i32>("pid", ()).await.unwrap(), pid);
    finish(pool).await;
}

#[tokio::test]
async fn a_shield_holds_a_cancellation_off() {
    let pool = overlapping(4).workers(1).cancel_grace(LIMIT).start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("written");
    let mut call = pool.call::<()>("shielded", (&path, "gate"));
    let handle = call.cancel_handle();
    let call = spawn(call);
    arrived(&pool, "gate", 1).await;
    handle.cancel();
    assert!(matches!(call.await.unwrap(), Err(Error::Cancelled { .. })));
    let whole = || std::fs::read_to_string(&path).is_ok_and(|text| text == "whole");
    eventually("it has ended", whole).await;
    assert_eq!(pool.stats().restarts, 0);
    finish(pool).await;
}

#[tokio::test]
async fn a_loop_that_is_stuck_is_ended_and_the_calls_beside_are_told_why() {
    let pool = overlapping(8).workers(1).cancel_grace(SHORT).start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blocks");
    let beside = spawn(pool.call::<(String, u64, i32)>("wait_for", "open"));
    eventually("it runs", || pool.stats().busy == 1).await;
    // Sent and not started: no call of it was ever at work.
    let error = loop {
        let error = pool.call::<()>("blocks", &path).timeout(SHORT).await.unwrap_err();
        if path.exists() {
            break error;
        }
    };
    assert!(matches!(error, Error::Timeout { stage: Stage::Run, .. }), "{error}");
    let error = beside.await.unwrap().unwrap_err();
    let Error::WorkerDied(death) = &error else { panic!("{error:?}") };
    assert_eq!(death.ended, Ended::Collateral { handler: "blocks".into() }, "{error}");
    assert!(death.started && error.to_string().contains("a call of `blocks` beside"), "{error}");
    whole(&pool).await;
    pool.call::<()>("open_gate", "open").await.unwrap();
    finish(pool).await;
}

#[tokio::test]
async fn the_one_that_blocks_the_loop_is_named_and_not_the_one_that_could_not_end() {
    let pool = overlapping(8).workers(1).cancel_grace(SHORT).start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blocks");
    let mut waiting = pool.call::<(String, u64, i32)>("wait_for", "never");
    let handle = waiting.cancel_handle();
    let waiting = spawn(waiting);
    let beside = spawn(pool.call::<(String, u64, i32)>("wait_for", "open"));
    eventually("they run", || pool.stats().busy == 2).await;
    let blocking = spawn(pool.call::<()>("blocks", &path));
    eventually("it blocks", || path.exists()).await;
    handle.cancel();
    assert!(matches!(waiting.await.unwrap(), Err(Error::Cancelled { .. })));
    for call in [beside.await.unwrap().map(drop), blocking.await.unwrap()] {
        let error = call.unwrap_err();
        let Error::WorkerDied(death) = &error else { panic!("{error:?}") };
        assert_eq!(death.ended, Ended::LoopBlocked { handler: "blocks".into() }, "{error}");
        assert!(error.to_string().contains("because `blocks` held up the event loop"), "{error}");
    }
    whole(&pool).await;
    finish(pool).await;
}

/// It has the loop's thread, and keeps nobody from it.
#[tokio::test]
async fn a_generator_that_waits_for_its_consumer_is_not_blamed() {
    let pool =
        overlapping(8).workers(1).cancel_grace(Duration::from_secs(1)).start().await.unwrap();
    let mut stubborn = pool.call::<()>("stubborn", "gate");
    let handle = stubborn.cancel_handle();
    let stubborn = spawn(stubborn);
    arrived(&pool, "gate", 1).await;
    let mut slow = pool.stream::<u64>("counts_plainly", ());
    assert_eq!(slow.next().await.unwrap().unwrap(), 0);
    handle.cancel();
    assert!(matches!(stubborn.await.unwrap(), Err(Error::Cancelled { .. })));
    eventually("it is killed", || pool.stats().restarts == 1).await;
    let error = loop {
        if let Err(error) = slow.next().await.unwrap() {
            break error;
        }
    };
    let Error::WorkerDied(death) = &error else { panic!("{error:?}") };
    assert_eq!(death.ended, Ended::Collateral { handler: "stubborn".into() }, "{error}");
    finish(pool).await;
}

#[tokio::test]
async fn who_runs_out_of_time_sees_what_holds_up_the_loop() {
    let pool = overlapping(8).workers(1).circuit_threshold(0).start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    // On a busy machine the stack may come too late.
    for round in 0.. {
        let path = directory.path().join(format!("blocks-{round}"));
        let waiting = pool.call::<(String, u64, i32)>("wait_for", "never").timeout(SHORT);
        let waiting = spawn(waiting);
        eventually("it runs", || pool.stats().busy == 1 || waiting.is_finished()).await;
        let blocking = spawn(pool.call::<()>("blocks", &path));
        let error = waiting.await.unwrap().unwrap_err();
        pids(&pool).into_iter().for_each(|pid| kill(pid, 9));
        assert!(blocking.await.unwrap().is_err());
        whole(&pool).await;
        let Error::Timeout { python_stack, .. } = &error else { panic!("{error:?}") };
        if python_stack.contains("in wait_for") && python_stack.contains("in blocks") {
            assert!(python_stack.contains("the event loop runs blocks, here"), "{python_stack}");
            break;
        }
        assert!(round < 100, "{error}");
    }
    finish(pool).await;
}

#[tokio::test]
async fn a_handler_that_swallows_its_cancellation_is_ended_too() {
    let pool = overlapping(8).workers(1).cancel_grace(SHORT).start().await.unwrap();
    let old: i32 = pool.call("pid", ()).await.unwrap();
    let call = spawn(pool.call::<()>("stubborn", "gate"));
    arrived(&pool, "gate", 1).await;
    call.abort();
    eventually("it has been ended", || !is_alive(old)).await;
    whole(&pool).await;
    assert_ne!(pool.call::<i32>("pid", ()).await.unwrap(), old);
    finish(pool).await;
}

#[tokio::test]
async fn what_had_not_started_when_its_worker_died_goes_to_the_next() {
    let pool = overlapping(8).workers(1).start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blocks");
    let blocking = spawn(pool.call::<()>("blocks", &path));
    eventually("it blocks the loop", || path.exists()).await;
    let unread: Vec<_> = (0..7).map(|_| spawn(pool.call::<i32>("pid", ()))).collect();
    eventually("they are sent", || pool.stats().busy == 8).await;
    let old = pids(&pool)[0];
    kill(old, 9);
    let error = blocking.await.unwrap().unwrap_err();
    let Error::WorkerDied(death) = &error else { panic!("{error:?}") };
    assert_eq!((death.exit, &death.ended), (Exit::Signal(9), &Ended::Itself));
    for call in unread {
        assert_ne!(call.await.unwrap().unwrap(), old);
    }
    finish(pool).await;
}

#[tokio::test]
async fn a_worker_that_dies_or_leaves_takes_only_its_calls_with_it() {
    let pool = overlapping(8).workers(2).start().await.unwrap();
    let ways =
        [("dies", Exit::Code(3)), ("leaves", Exit::Code(5)), ("leaves_plain", Exit::Code(6))];
    for (handler, exit) in ways {
        let first = pool.worker(0).unwrap();
        let beside = spawn(first.call::<(String, u64, i32)>("wait_for", "open"));
        let other = spawn(pool.worker(1).unwrap().call::<(String, u64, i32)>("wait_for", handler));
        eventually("both run", || pool.stats().busy == 2).await;
        while first.call::<i32>("pid", ()).await.is_err() {}
        for error in
            [first.call::<()>(handler, ()).await.unwrap_err(), beside.await.unwrap().unwrap_err()]
        {
            let Error::WorkerDied(death) = &error else { panic!("{error:?}") };
            assert_eq!(death.exit, exit, "{error}");
        }
        pool.worker(1).unwrap().call::<()>("open_gate", handler).await.unwrap();
        other.await.unwrap().unwrap();
        whole(&pool).await;
    }
    finish(pool).await;
}

#[tokio::test]
async fn a_plain_handler_is_cancelled_while_others_wait_and_the_worker_is_replaced_after_them() {
    let pool = overlapping(8).workers(1).start().await.unwrap();
    let old: i32 = pool.call("pid", ()).await.unwrap();
    let waiting = spawn(pool.call::<u64>("meet", ("gate", 2)));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("holds");
    let mut call = pool.call::<()>("holds", &path);
    let handle = call.cancel_handle();
    let call = spawn(call);
    eventually("it is at work", || path.exists()).await;
    handle.cancel();
    assert!(matches!(call.await.unwrap(), Err(Error::Cancelled { stage: Stage::Run, .. })));
    // An exception was raised in it, so another process takes the next calls.
    eventually("there is another worker", || pids(&pool) != [old] && pool.stats().ready == 1).await;
    assert_ne!(pool.call::<i32>("pid", ()).await.unwrap(), old);
    assert!(is_alive(old), "it finishes the call that it has");
    // That one can be given up, too.
    waiting.abort();
    eventually("and leaves", || !is_alive(old)).await;
    assert_eq!(pool.stats().busy, 0);
    finish(pool).await;
}

#[tokio::test]
async fn a_reload_lets_calls_end_that_overlap_it() {
    let pool = overlapping(8).workers(2).start().await.unwrap();
    let before = pids(&pool);
    let waiting: Vec<_> = (0..2)
        .map(|slot| pool.worker(slot).unwrap().call::<u64>("meet", ("gate", 2)).timeout(LIMIT))
        .map(spawn)
        .collect();
    eventually("both run", || pool.stats().busy == 2).await;
    within(LIMIT, "the reload", pool.reload()).await.unwrap();
    let after = pids(&pool);
    assert!(
        before.iter().all(|pid| is_alive(*pid) && !after.contains(pid)),
        "{before:?} {after:?}"
    );
    for (slot, &new) in after.iter().enumerate() {
        assert_eq!(pool.worker(slot).unwrap().call::<i32>("pid", ()).await.unwrap(), new);
    }
    waiting.into_iter().for_each(|call| call.abort());
    eventually("they have left", || !before.iter().any(|&pid| is_alive(pid))).await;
    finish(pool).await;
}

#[tokio::test]
async fn retired_workers_finish_the_calls_that_they_hold() {
    let pool = overlapping(8).workers(2).start().await.unwrap();
    let last = pool.worker(1).unwrap();
    let waiting = spawn(last.call::<u64>("meet", ("gate", 2)));
    eventually("it runs", || pool.stats().busy == 1).await;
    let shrink = tokio::spawn({
        let pool = pool.clone();
        async move { pool.resize(1).await }
    });
    eventually("it has one less", || pool.stats().size == 1).await;
    assert!(!shrink.is_finished());
    waiting.abort();
    within(LIMIT, "the resize", shrink).await.unwrap().unwrap();
    finish(pool).await;
}

#[tokio::test]
async fn sessions_and_errors_are_each_calls_own() {
    let pool = overlapping(32).workers(2).start().await.unwrap();
    let sums = (0..20).map(|number| {
        let session = pool.session(&format!("s{}", number % 4));
        async move { session.call::<i64>("remembers", number).await }
    });
    let fails = (0..20).map(|number| {
        let call = pool.call::<()>("fails", number);
        async move { (number, call.await) }
    });
    let (sums, fails) = tokio::join!(try_join_all(sums), join_all(fails));
    assert_eq!(sums.unwrap().len(), 20);
    for (number, outcome) in fails {
        let Err(Error::Python { exception, .. }) = outcome else { panic!("{outcome:?}") };
        assert_eq!(exception.message, format!("number {number}"));
    }
    for (at, sum) in [(0, 400), (1, 450), (2, 500), (3, 550)] {
        let session = pool.session(&format!("s{at}")).state().unwrap();
        assert_eq!(session.get::<i64>("sum").await.unwrap(), Some(sum));
    }
    finish(pool).await;
}

#[tokio::test]
async fn shutting_down_in_the_middle_ends_all_calls() {
    let pool = overlapping(32).workers(2).shutdown_grace(SHORT).start().await.unwrap();
    let waiting: Vec<_> =
        (0..40).map(|_| spawn(pool.call::<(String, u64, i32)>("wait_for", "never"))).collect();
    eventually("all run", || pool.stats().busy == 40).await;
    finish(pool).await;
    for call in waiting {
        let error = call.await.unwrap().unwrap_err();
        assert!(matches!(error, Error::WorkerDied(_) | Error::Closed { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn numbers_that_cannot_be_are_refused() {
    for wrong in [0, 257] {
        let error = overlapping(wrong).start().await.unwrap_err();
        assert!(matches!(error, Error::Config { option: "concurrency", .. }), "{error}");
    }
    let error = overlapping(2).cpu_limit(SHORT).start().await.unwrap_err();
    assert!(matches!(error, Error::Config { option: "cpu_limit", .. }), "{error}");
}
