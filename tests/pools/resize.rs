//! A pool grows and shrinks while it works: no call fails that did not ask for a worker which is gone, and nothing of a
//! retired worker is left.
//!
//! A naive pool that shrinks ends workers with their calls, or leaves their queues behind; one that grows into a broken
//! handler file is left half-grown.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ractor::registry;
use snakepen::{Error, Pool, StartError, WorkerHandle, WorkerState};

use crate::common::{
    Mark, eventually, finish, handler_file, is_alive, kill, launcher_pid, pids, pool, pool_over,
    whole,
};

/// Checks that the pool has this size, and no more processes and names than that.
fn assert_size(pool: &Pool, mark: &Mark, size: usize) {
    assert_eq!((pool.stats().size, pool.workers().len()), (size, size));
    assert_eq!(mark.processes().len(), size + 1, "with the launcher");
    for slot in 0..10 {
        let name = format!("{}/worker/{slot}", pool.name());
        assert_eq!(registry::where_is(name).is_some(), slot < size, "slot {slot}");
        assert_eq!(pool.worker(slot).is_ok(), slot < size, "slot {slot}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_while_the_pool_grows_and_shrinks() {
    let mark = Mark::new();
    let pool = mark.on(pool("basic.py").workers(2)).start().await.unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..12)
        .map(|number| {
            let (pool, over) = (pool.clone(), Arc::clone(&over));
            tokio::spawn(async move {
                let mut made = 0;
                while !over.load(Ordering::Relaxed) {
                    let key = format!("key {}", made % 10);
                    let call = pool.call::<i64>("add", (made, number));
                    let sum = match number % 3 {
                        0 => call,
                        1 => call.affinity(key),
                        _ => call.pinned(key),
                    };
                    assert_eq!(sum.await.expect("no call fails"), made + number);
                    made += 1;
                }
                made
            })
        })
        .collect();
    for size in [6, 1, 4, 3, 8, 2, 9, 1, 2] {
        let before = pids(&pool);
        pool.resize(size).await.unwrap();
        assert_size(&pool, &mark, size);
        let kept = before.len().min(size);
        assert_eq!(pids(&pool)[..kept], before[..kept], "those are not concerned");
        assert!(before[kept..].iter().all(|&pid| !is_alive(pid)));
    }
    over.store(true, Ordering::Relaxed);
    for caller in callers {
        assert!(caller.await.unwrap() > 0);
    }
    let stats = pool.stats();
    assert_eq!((stats.failed.total(), stats.restarts), (0, 0), "{stats:?}");
    finish(pool).await;
    mark.nothing_is_left().await;
}

fn held(directory: &Path, name: &str) -> impl FnMut() -> bool + use<> {
    let path = directory.join(name);
    move || path.exists()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_call_is_waited_for_and_those_bound_behind_it_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let mark = Mark::new();
    let pool = mark.on(pool("held.py").workers(2)).start().await.unwrap();
    let last = pool.worker(1).unwrap();
    let hold = |handle: &WorkerHandle, name| {
        tokio::spawn(handle.call::<String>("hold", (directory.path(), name)).into_future())
    };
    let running = [hold(&pool.worker(0).unwrap(), "zero"), hold(&last, "one")];
    eventually("one runs", held(directory.path(), "one")).await;
    eventually("zero runs", held(directory.path(), "zero")).await;
    let mut waiting: Vec<_> =
        (0..3).map(|_| tokio::spawn(last.call::<i32>("pid", ()).into_future())).collect();
    // Of so many keys some belong to the slot that is retired.
    let others: Vec<_> = (0..20)
        .map(|key| {
            let call = pool.call::<i32>("pid", ());
            let call = if key < 15 { call.pinned(key.to_string()) } else { call };
            tokio::spawn(call.into_future())
        })
        .collect();
    eventually("they wait", || pool.stats().queued == 23).await;

    let shrink = tokio::spawn({
        let pool = pool.clone();
        async move { pool.resize(1).await }
    });
    for waiting in waiting.drain(..) {
        let error = waiting.await.unwrap().unwrap_err();
        let Error::NoSuchWorker { name, workers: Some(1) } = &error else { panic!("{error:?}") };
        assert_eq!(*name, format!("{}/worker/1", pool.name()));
        assert!(!error.may_have_run());
    }
    assert!(matches!(last.call::<i32>("pid", ()).await, Err(Error::NoSuchWorker { .. })));
    assert!(!shrink.is_finished() && running.iter().all(|call| !call.is_finished()));
    assert_eq!((pool.stats().size, pool.stats().busy, pool.stats().queued), (1, 2, 20));
    fs::write(directory.path().join("released"), "").unwrap();
    for (call, name) in running.into_iter().zip(["zero", "one"]) {
        assert_eq!(call.await.unwrap().unwrap(), name);
    }
    shrink.await.unwrap().unwrap();
    assert_size(&pool, &mark, 1);
    for other in others {
        assert_eq!(other.await.unwrap().unwrap(), pids(&pool)[0]);
    }
    assert_eq!(pool.stats().failed.no_such_worker, 4);

    pool.resize(2).await.unwrap();
    assert_eq!(
        last.call::<i32>("pid", ()).await.unwrap(),
        pids(&pool)[1],
        "the handle means the slot"
    );
    finish(pool).await;
}

#[tokio::test]
async fn a_worker_that_does_not_start_leaves_the_pool_as_it_was() {
    let source = "import snakepen\n@snakepen.handler\ndef one(): return 1\n";
    let (_directory, file) = handler_file(source);
    let mark = Mark::new();
    let pool = mark.on(pool_over(&file).workers(2)).start().await.unwrap();
    let before = pids(&pool);
    fs::write(&file, "raise LookupError('broken on purpose')\n").unwrap();
    let error = pool.resize(5).await.unwrap_err();
    let Error::Start(start) = &error else { panic!("{error:?}") };
    let StartError::Python { exception, .. } = &**start else { panic!("{error:?}") };
    assert_eq!(exception.type_name, "LookupError");
    assert_size(&pool, &mark, 2);
    assert_eq!(pids(&pool), before);
    assert_eq!(pool.call::<u8>("one", ()).await.unwrap(), 1);

    fs::write(&file, source).unwrap();
    pool.resize(3).await.unwrap();
    assert_size(&pool, &mark, 3);
    finish(pool).await;
}

#[tokio::test]
async fn impossible_sizes_and_taken_names_are_refused() {
    let pool = pool("basic.py").workers(1).start().await.unwrap();
    for size in [0, 4097] {
        let error = pool.resize(size).await.unwrap_err();
        assert!(matches!(error, Error::Config { option: "resize", .. }), "{error:?}");
        assert!(error.to_string().contains(&format!("1 to 4096 workers, not {size}")), "{error}");
    }
    pool.resize(1).await.unwrap();
    assert_eq!(pool.stats().size, 1);
    finish(pool.clone()).await;
    assert!(matches!(pool.resize(2).await, Err(Error::Closed { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_size_outlives_the_launcher_and_the_actors() {
    let mark = Mark::new();
    let pool = mark.on(pool("basic.py").workers(3)).start().await.unwrap();
    for size in [5, 2, 4] {
        pool.resize(size).await.unwrap();
        for part in ["launcher", "/workers", ""] {
            if part == "launcher" {
                let before = pids(&pool);
                kill(launcher_pid(&pool), 9);
                eventually("its workers are gone", || before.iter().all(|&pid| !is_alive(pid)))
                    .await;
            } else {
                let actor = registry::where_is(format!("{}{part}", pool.name())).unwrap();
                actor.kill_and_wait(None).await.unwrap();
            }
            whole(&pool).await;
            eventually("all are there", || pids(&pool).len() == size).await;
            for slot in 0..size {
                let pid = pool.worker(slot).unwrap().call::<i32>("pid", ());
                // The pool's actor may be on its way.
                let _ = pid.idempotent().await;
            }
            assert!(pool.worker(size).is_err());
            eventually("and no more", || mark.processes().len() == size + 1).await;
        }
    }
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_at_once_come_one_after_another() {
    let mark = Mark::new();
    let pool = mark.on(pool("basic.py").workers(2)).start().await.unwrap();
    let changes: Vec<_> = [4, 1, 3, 2]
        .into_iter()
        .map(|size| {
            let pool = pool.clone();
            tokio::spawn(async move {
                pool.resize(size).await?;
                pool.reload().await
            })
        })
        .collect();
    for change in changes {
        change.await.unwrap().unwrap();
    }
    eventually("the former launchers have left", || {
        mark.processes().len() == pool.stats().size + 1
    })
    .await;
    assert!(pool.workers().iter().all(|worker| worker.state == WorkerState::Idle));
    // A resize whose pool is shut down meanwhile has an answer.
    let resize = tokio::spawn({
        let pool = pool.clone();
        async move { pool.resize(9).await }
    });
    tokio::task::yield_now().await;
    finish(pool).await;
    let _ = resize.await.unwrap();
    mark.nothing_is_left().await;
}
