//! A pool is resized, reloaded and robbed of workers and launchers all at once, while calls of every kind run: each call ends
//! once, the pool has its last size in the end, and nothing is left.
//!
//! A naive pool keeps a retired slot's worker, or a key's calls behind it; waits for ever for a worker that died while it was
//! being replaced; or counts a call twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use snakepen::{Error, Pool};

use crate::common::{self, LIMIT, Mark, eventually, finish, parent, pids, pool, whole, within};

/// Sends KILL to a process that may be gone by now.
fn kill_if_there(pid: i32) {
    let _ = std::process::Command::new("kill")
        .args(["-9", &pid.to_string()])
        .stderr(std::process::Stdio::null())
        .status()
        .expect("kill runs");
}

/// What may become of a call meanwhile.
fn is_expected(error: &Error) -> bool {
    matches!(
        error,
        Error::WorkerDied(_)
            | Error::Restarted { .. }
            // A worker was killed while it started, too.
            | Error::Start(_)
            | Error::NoSuchWorker { .. }
            | Error::WorkerBusy { .. }
            | Error::Timeout { .. }
            | Error::Cancelled { .. }
    )
}

fn callers(pool: &Pool, over: &Arc<AtomicBool>) -> Vec<tokio::task::JoinHandle<u64>> {
    (0..10_u64)
        .map(|number| {
            let (pool, over) = (pool.clone(), Arc::clone(over));
            tokio::spawn(async move {
                let mut made = 0;
                while !over.load(Ordering::Relaxed) {
                    made += 1;
                    let value = made * 10 + number;
                    let key = (made % 13).to_string();
                    let call = pool.call::<u64>("echo", (value,));
                    let mut call = match number {
                        0 | 1 => call,
                        2 => call.pinned(key),
                        3 => call.pinned_now(key),
                        4 => call.affinity(key),
                        5 => call.idempotent(),
                        6 => call.timeout(Duration::from_millis(made % 5)),
                        7 => match pool.worker(made as usize % 6) {
                            Ok(worker) => worker.call("echo", (value,)),
                            Err(_) => continue,
                        },
                        _ => call.pinned(key).idempotent(),
                    };
                    if number == 8 && made % 3 == 0 {
                        call.cancel_handle().cancel();
                    }
                    let call = call.into_future();
                    if number == 9 && made % 4 == 0 {
                        let _ = common::polled(1 + made as usize % 3, call).await;
                        continue;
                    }
                    match within(LIMIT, "a call", call).await {
                        Ok(answer) => assert_eq!(answer, value),
                        Err(error) => assert!(is_expected(&error), "{error:?}"),
                    }
                }
                made
            })
        })
        .collect()
}

/// Changes a pool's size and code again and again, while `harm` is done to it, and calls run; then it must be well.
async fn survives(harm: impl Fn(&Pool, usize) + Send + 'static) {
    let mark = Mark::new();
    let builder = pool("basic.py").workers(3).max_requests(50).circuit_threshold(0);
    let pool = mark.on(builder).start().await.unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let callers = callers(&pool, &over);
    let harming = {
        let (pool, over) = (pool.clone(), Arc::clone(&over));
        tokio::spawn(async move {
            let is_over = || over.load(Ordering::Relaxed);
            let mut done = 0;
            while !is_over() {
                let before = pool.stats().completed;
                harm(&pool, done);
                done += 1;
                let goes_on = || is_over() || pool.stats().completed > before + 200;
                eventually("calls go on", goes_on).await;
            }
            done
        })
    };
    for size in [5, 1, 6, 2] {
        // What was started, or was to start others, may have been ended: then either is an error.
        let changes = async { tokio::join!(pool.resize(size), pool.reload()) };
        let (resized, _) = within(LIMIT, "a change", changes).await;
        if resized.is_ok() {
            assert_eq!(pool.stats().size, size);
        }
    }
    over.store(true, Ordering::Relaxed);
    for caller in callers {
        assert!(within(LIMIT, "a caller", caller).await.unwrap() > 0);
    }
    assert!(harming.await.unwrap() > 0);

    pool.resize(2).await.unwrap();
    pool.reload().await.unwrap();
    whole(&pool).await;
    eventually("no more than that is left", || mark.processes().len() == 3).await;
    for slot in 0..2 {
        let pid = pool.worker(slot).unwrap().call::<i32>("pid", ()).idempotent();
        assert!(pids(&pool).contains(&pid.await.unwrap()));
    }
    finish(pool).await;
    mark.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_and_launchers_are_killed() {
    survives(|pool, done| {
        let workers = pids(pool);
        let Some(&worker) = workers.get(done % workers.len().max(1)) else { return };
        let ours = |&pid: &i32| parent(pid) == Some(std::process::id().cast_signed());
        let launcher = parent(worker).filter(ours).filter(|_| done % 7 == 6);
        kill_if_there(launcher.unwrap_or(worker));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn actors_are_killed() {
    const PARTS: [&str; 8] =
        ["", "/worker/0", "/workers", "/worker/1", "/launcher", "", "/worker/2", "/supervisor"];
    survives(|pool, done| {
        let name = format!("{}{}", pool.name(), PARTS[done % PARTS.len()]);
        if let Some(actor) = ractor::registry::where_is(name) {
            actor.kill();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_grows_and_shrinks_by_itself_is_shut_down_at_any_moment() {
    let mark = Mark::new();
    for round in 0..15_usize {
        let short = Duration::from_millis(1);
        let builder = pool("basic.py").autoscale(1..=5).autoscale_after(short, 5 * short);
        let pool = mark.on(builder).start().await.unwrap();
        let calls: Vec<_> = (0..12)
            .map(|_| tokio::spawn(pool.call::<f64>("sleep", (0.004,)).into_future()))
            .collect();
        eventually("some are done", || pool.stats().completed as usize >= round % 13).await;
        if round % 5 == 4 {
            for call in &calls {
                call.abort();
            }
        }
        finish(pool).await;
        for call in calls {
            match call.await {
                Ok(Err(Error::Closed { .. })) | Ok(Ok(_)) => {}
                Ok(Err(error)) => panic!("{error:?}"),
                Err(error) => assert!(error.is_cancelled()),
            }
        }
    }
    mark.nothing_is_left().await;
}
