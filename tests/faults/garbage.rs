//! A worker that writes what is not the protocol to its port is ended with an error that says which rule it broke;
//! no other worker and no other call notices.

use std::fmt::Debug;
use std::sync::Arc;

use futures::StreamExt;
use serde::Serialize;
use snakepen::{Ended, Error, Exit, Pool, WorkerDeath};

use crate::common::{self, LIMIT, eventually, finish, is_alive, pids, pool, whole, within};

/// Calls a handler on the first of two workers that breaks the protocol, beside a call on the other.
async fn breaks(pool: &Pool, handler: &str, args: impl Serialize + Debug) -> Arc<WorkerDeath> {
    whole(pool).await;
    let [victim, neighbour] = pids(pool)[..] else { panic!("two workers") };
    let sleeps = tokio::spawn({
        let worker = pool.worker(1).unwrap();
        async move { worker.call::<f64>("sleep", (0.1,)).await }
    });
    let call = pool.worker(0).unwrap().call::<()>(handler, &args);
    let error = within(LIMIT / 2, "a call that broke the protocol", async { call.await }).await;
    let error = error.unwrap_err();
    let Error::WorkerDied(death) = &error else { panic!("{handler}{args:?}: {error:?}") };
    assert_eq!((death.handler.as_str(), death.pid, death.started), (handler, victim, true));
    assert!(error.may_have_run() && !error.is_retryable());

    // Next calls are fine: on the slot, and anywhere.
    let successor = pool.worker(0).unwrap().call::<i32>("pid", ()).await.unwrap();
    assert_ne!(successor, victim);
    assert!(!is_alive(victim));
    assert!(pool.call::<i32>("pid", ()).await.is_ok());
    assert_eq!(sleeps.await.unwrap().unwrap(), 0.1);
    assert_eq!(pids(pool)[1], neighbour);
    Arc::clone(death)
}

fn is_for(death: &WorkerDeath, rule: &str) {
    let Ended::Protocol(message) = &death.ended else { panic!("{rule}: {death:?}") };
    assert!(message.contains(rule), "{message:?} does not say {rule:?}");
    assert_eq!(death.exit, Exit::Signal(9));
    let text = death.to_string();
    assert!(text.contains("broke the protocol") && text.contains(rule), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_broken_rule_is_named() {
    let pool = pool("garbage.py").workers(2).start().await.unwrap();
    for (name, rule) in [
        ("noise", "unknown kind 255"),
        ("text", "unknown kind"),
        ("wrong_direction", "goes the other way"),
        ("oversized", "over the limit"),
        ("reserved_flags", "reserved flags"),
        ("long_name", "name of 3 bytes in a body of 2"),
        ("name_not_utf8", "not UTF-8"),
        ("buffer_table", "buffer table"),
        ("strange_id", "unexpected"),
        ("second_ready", "unexpected"),
    ] {
        is_for(&*breaks(&pool, "garbage", (name,)).await, rule);
    }
    let stats = pool.stats();
    assert_eq!((stats.failed.worker_died, stats.failed.total(), stats.restarts), (10, 10, 10));
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_makes_no_sense_is_a_broken_rule() {
    let pool = pool("garbage.py").workers(2).start().await.unwrap();
    is_for(&*breaks(&pool, "bad_answer", ("no such status", "{}")).await, "no such status");
    is_for(&*breaks(&pool, "bad_answer", ("exception", "{not json")).await, "exception");
    is_for(&*breaks(&pool, "bad_answer", ("result", "[]")).await, "result");
    finish(pool).await;
}

/// On one thread: nothing comes before the test lets it.
#[tokio::test]
async fn items_that_make_no_sense_are_a_broken_rule() {
    let pool = pool("garbage.py").workers(1).start().await.unwrap();
    let (item, progress, want) = (72, 73, 74);
    let many: Vec<u64> = (1..=65).collect();
    for (died, (kind, numbers, body, name, items, rule)) in [
        (item, vec![1, 2, 4], "1", "", 2, "item 4 for id"),
        (item, many, "1", "", 64, "its window is full"),
        (item, vec![0], "1", "", 0, "it is not the next one"),
        (progress, vec![0], "[1,2]", "", 0, "progress of id"),
        (want, vec![0], "", "numbers", 0, "the call has no inputs"),
    ]
    .into_iter()
    .enumerate()
    {
        whole(&pool).await;
        let mut stream = pool.stream::<i64>("bad_item", (kind, numbers, body, name));
        // It is made, and nothing is taken until its end.
        assert!(futures::poll!(stream.next()).is_pending());
        eventually("it ends", || pool.stats().failed.worker_died > died as u64).await;
        let all = within(LIMIT, "the end", stream.collect::<Vec<_>>()).await;
        let (last, before) = all.split_last().unwrap();
        assert!(
            before.len() == items && before.iter().all(|item| matches!(item, Ok(1))),
            "{all:?}"
        );
        let Err(Error::WorkerDied(death)) = last else { panic!("{rule}: {last:?}") };
        is_for(death, rule);
    }
    whole(&pool).await;
    let error = pool.call::<i64>("bad_item", (item, [1], "1", "")).await.unwrap_err();
    let Error::WorkerDied(death) = &error else { panic!("{error:?}") };
    is_for(death, "its caller takes none");
    whole(&pool).await;
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_ends_within_a_frame_is_a_broken_rule() {
    let pool = pool("garbage.py").workers(2).start().await.unwrap();
    is_for(&*breaks(&pool, "truncated", ()).await, "before the end of a frame");
    finish(pool).await;
}

/// As when the system runs out of memory while a large result is on its way: the signal is what happened, and no
/// rule was broken by anybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_within_a_frame_died_of_its_signal() {
    let pool = pool("garbage.py").workers(2).start().await.unwrap();
    for signal in [9, 15] {
        let death = breaks(&pool, "die_within_a_frame", (signal,)).await;
        assert_eq!((death.exit, &death.ended), (Exit::Signal(signal), &Ended::Itself));
    }
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_answer_ends_its_worker_and_reaches_nobody() {
    let pool = pool("garbage.py").workers(1).start().await.unwrap();
    for restarts in 1..=3 {
        let victim = pids(&pool)[0];
        // The forged one was there first, and nothing tells it from a real one.
        assert_eq!(pool.call::<String>("answer_twice", ()).await.unwrap(), "forged");
        common::eventually("its worker is replaced", || pool.stats().restarts == restarts).await;
        assert_ne!(pool.call::<i32>("pid", ()).await.unwrap(), victim);
    }
    assert_eq!(pool.stats().failed.total(), 0);
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_means_nothing_does_no_harm() {
    let pool = pool("garbage.py").workers(1).start().await.unwrap();
    let before = pids(&pool);
    assert_eq!(pool.call::<String>("harmless", ()).await.unwrap(), "fine");
    assert_eq!(pool.call::<i32>("pid", ()).await.unwrap(), before[0]);
    assert_eq!(pool.stats().restarts, 0);
    finish(pool).await;
}
