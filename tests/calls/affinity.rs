//! Scenario 18: pinned calls wait for their worker, keep their order, and don't hold up the others; calls with an
//! affinity prefer their worker and don't wait for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use futures::future::join_all;
use snakepen::Priority::{High, Low};
use snakepen::{Error, Pool};

use crate::common::{eventually, finish, handler_file, kill, pool, pool_over, whole};

/// Notes a number in a file once it runs, takes its time, and tells its process.
const NOTE: &str = "
import os, time, snakepen

@snakepen.handler
def note(path, number, seconds=0.0):
    with open(path, 'a') as file:
        file.write(f'{number} ')
    time.sleep(seconds)
    return os.getpid()
";

/// Two keys of different workers, with the workers' processes.
async fn two_keys(pool: &Pool) -> [(String, i32); 2] {
    let first: i32 = pool.call("pid", ()).pinned("0").await.unwrap();
    for key in 1.. {
        let key = key.to_string();
        let other: i32 = pool.call("pid", ()).pinned(&key).await.unwrap();
        if other != first {
            return [("0".to_owned(), first), (key, other)];
        }
    }
    unreachable!()
}

/// Keeps the worker of a key busy for so long.
async fn busy(pool: &Pool, key: &str, seconds: f64) -> tokio::task::JoinHandle<Result<f64, Error>> {
    let before = pool.stats().busy;
    let call = pool.call::<f64>("sleep", (seconds,)).pinned(key);
    let busy = tokio::spawn(async { call.await });
    eventually("the key's worker is busy", || pool.stats().busy == before + 1).await;
    busy
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pinned_calls_keep_their_worker_and_their_order() {
    const KEYS: usize = 8;
    const CALLS: usize = 20;
    let (_source, path) = handler_file(NOTE);
    let directory = tempfile::tempdir().unwrap();
    let pool = pool_over(&path).workers(3).start().await.unwrap();
    let file = |key: usize| directory.path().join(key.to_string());
    let mut calls = Vec::new();
    for number in 0..CALLS {
        for key in 0..KEYS {
            let call = pool.call::<i32>("note", (file(key), number, 0.002));
            calls.push((key, tokio::spawn(async move { call.pinned(key.to_string()).await })));
            let made = (number * KEYS + key + 1) as u64;
            eventually("it is submitted", || pool.stats().submitted == made).await;
        }
    }
    let mut workers: BTreeMap<usize, BTreeSet<i32>> = BTreeMap::new();
    for (key, call) in calls {
        workers.entry(key).or_default().insert(call.await.unwrap().unwrap());
    }
    let used: BTreeSet<_> = workers.values().flatten().collect();
    assert!(used.len() > 1, "all keys on one worker");
    let in_order: String = (0..CALLS).map(|number| format!("{number} ")).collect();
    for key in 0..KEYS {
        assert_eq!(workers[&key].len(), 1, "key {key} on several workers");
        assert_eq!(fs::read_to_string(file(key)).unwrap(), in_order, "key {key}");
    }
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_that_wait_for_their_worker_hold_up_no_others() {
    let pool = pool("basic.py").workers(2).start().await.unwrap();
    let [(key, mine), (other, theirs)] = two_keys(&pool).await;
    let busy = busy(&pool, &key, 1.0).await;
    let waits = join_all((0..10).map(|_| pool.call::<i32>("pid", ()).pinned(&key).into_future()));
    let waits = tokio::spawn(waits);
    eventually("ten wait", || pool.stats().queued == 10).await;
    for _ in 0..10 {
        assert_eq!(pool.call::<i32>("pid", ()).await.unwrap(), theirs);
        assert_eq!(pool.call::<i32>("pid", ()).pinned(&other).await.unwrap(), theirs);
    }
    assert!(!busy.is_finished() && pool.stats().queued == 10, "too slow to tell");
    busy.await.unwrap().unwrap();
    for outcome in waits.await.unwrap() {
        assert_eq!(outcome.unwrap(), mine);
    }
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_affine_call_goes_to_its_worker_or_else_to_an_idle_one() {
    let pool = pool("basic.py").workers(4).start().await.unwrap();
    for key in 0..16 {
        let key = key.to_string();
        let pinned: i32 = pool.call("pid", ()).pinned(&key).await.unwrap();
        for _ in 0..3 {
            assert_eq!(pool.call::<i32>("pid", ()).affinity(&key).await.unwrap(), pinned);
        }
    }
    let [(key, mine), _] = two_keys(&pool).await;
    let busy = busy(&pool, &key, 0.5).await;
    let elsewhere: i32 = pool.call("pid", ()).affinity(&key).await.unwrap();
    assert!(elsewhere != mine && !busy.is_finished());
    busy.await.unwrap().unwrap();
    assert_eq!(pool.call::<i32>("pid", ()).affinity(&key).await.unwrap(), mine, "and back");
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_does_not_wait_is_told_so_at_once() {
    let pool = pool("basic.py").workers(2).start().await.unwrap();
    let [(key, mine), (other, theirs)] = two_keys(&pool).await;
    let busy = busy(&pool, &key, 0.5).await;
    let error = pool.call::<i32>("pid", ()).pinned_now(&key).await.unwrap_err();
    let Error::WorkerBusy { worker } = &error else { panic!("{error:?}") };
    assert!(worker.starts_with(&format!("{}/worker/", pool.name())), "{worker}");
    assert!(!error.may_have_run() && error.is_retryable());
    assert!(!busy.is_finished());
    assert_eq!(pool.call::<i32>("pid", ()).pinned_now(&other).await.unwrap(), theirs);
    busy.await.unwrap().unwrap();
    for _ in 0..100 {
        // Whoever has an answer finds the worker free.
        assert_eq!(pool.call::<i32>("pid", ()).pinned_now(&key).await.unwrap(), mine);
    }
    let failed = pool.stats().failed;
    assert_eq!((failed.worker_busy, failed.total()), (1, 1));
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pinned_calls_wait_for_the_replacement_of_their_worker() {
    let pool = pool("basic.py").workers(2).start().await.unwrap();
    let [(key, mine), (other, theirs)] = two_keys(&pool).await;
    kill(mine, 9);
    let replaced: i32 = loop {
        // Until the death is known the call may go to the worker that is dead.
        match pool.call("pid", ()).pinned(&key).await {
            Ok(pid) => break pid,
            Err(Error::WorkerDied(_)) => {}
            Err(error) => panic!("{error}"),
        }
    };
    assert!(replaced != mine && replaced != theirs);
    whole(&pool).await;
    assert_eq!(pool.call::<i32>("pid", ()).pinned(&key).await.unwrap(), replaced);
    assert_eq!(pool.call::<i32>("pid", ()).pinned(&other).await.unwrap(), theirs);
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pinned_calls_of_a_key_go_by_priority_and_lose_who_leaves() {
    let (_source, path) = handler_file(NOTE);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("notes");
    let pool = pool_over(&path).workers(2).start().await.unwrap();
    let spawn = |number: usize, seconds: f64| pool.call::<i32>("note", (&file, number, seconds));
    let first = spawn(0, 0.5).pinned("k");
    let first = tokio::spawn(async { first.await });
    eventually("its worker is busy", || pool.stats().busy == 1).await;
    let mut calls = Vec::new();
    for (number, priority) in [(1, Low), (2, High), (3, Low), (4, High), (5, Low)] {
        let call = spawn(number, 0.0).pinned("k").priority(priority);
        let call = if number == 5 { call.timeout(Duration::from_millis(50)) } else { call };
        calls.push(tokio::spawn(async { call.await }));
        eventually("it is queued", || pool.stats().queued == number).await;
    }
    calls.remove(2).abort();
    let expired = calls.pop().unwrap().await.unwrap();
    assert!(matches!(expired, Err(Error::Timeout { .. })), "{expired:?}");
    let worker = first.await.unwrap().unwrap();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), worker);
    }
    assert_eq!(fs::read_to_string(file).unwrap(), "0 2 4 1 ");
    finish(pool).await;
}
