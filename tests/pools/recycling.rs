//! A worker that has served its time, or holds too much, is replaced between two calls, and the slot is never without one;
//! a call that takes too much is ended, and says what it took.
//!
//! A naive pool kills the old worker first and lets calls wait for the new one, or lets it grow until the machine does it.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use snakepen::{Builder, Ended, Error, Exit};

use crate::common::{
    LIMIT, eventually, finish, handler_file, is_alive, kill, launcher_pid, pids, pool, pool_over,
    state, whole,
};

fn limited() -> Builder {
    pool("limits.py")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_are_replaced_after_so_many_calls_and_capacity_never_drops() {
    let pool = limited().workers(2).max_requests(20).start().await.unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let watch = {
        let (pool, over) = (pool.clone(), Arc::clone(&over));
        tokio::spawn(async move {
            let mut least = usize::MAX;
            while !over.load(Ordering::Relaxed) {
                least = least.min(pool.stats().ready);
                tokio::task::yield_now().await;
            }
            least
        })
    };
    let mut seen = BTreeSet::new();
    let mut calls = 0;
    let end = Instant::now() + LIMIT;
    while seen.len() < 6 {
        assert!(Instant::now() < end, "only {} processes for {calls} calls", seen.len());
        seen.insert(pool.call::<i32>("pid", ()).await.unwrap());
        calls += 1;
    }
    over.store(true, Ordering::Relaxed);
    assert_eq!(watch.await.unwrap(), 2, "a slot was without a worker");
    let stats = pool.stats();
    assert_eq!((stats.completed, stats.failed.total()), (calls, 0));
    assert!(stats.restarts >= 4, "{stats:?}");
    let now = pids(&pool);
    eventually("the former ones have left", || {
        seen.iter().all(|pid| now.contains(pid) || pids(&pool).contains(pid) || !is_alive(*pid))
    })
    .await;
    finish(pool).await;
}

#[tokio::test]
async fn an_old_worker_is_replaced() {
    let pool = limited().workers(2).max_age(Duration::from_secs(1)).start().await.unwrap();
    let before = pids(&pool);
    eventually("all are replaced", || pool.workers().iter().all(|worker| worker.epoch >= 2)).await;
    eventually("the old ones have left", || before.iter().all(|&pid| !is_alive(pid))).await;
    assert_eq!(pool.stats().failed.total(), 0);
    finish(pool).await;
}

#[tokio::test]
async fn one_that_holds_too_much_is_replaced_after_its_call() {
    for builder in [limited().max_resident(200 << 20), limited().max_open_files(64)] {
        let pool = builder.workers(1).start().await.unwrap();
        let first: i32 = pool.call("keep", 1).await.unwrap();
        let fat: i32 = pool.call("keep", 300).await.unwrap();
        let leaky: i32 = pool.call("open_many", 100).await.unwrap();
        assert_eq!(first, fat, "not before");
        eventually("it is replaced", || pool.workers()[0].epoch >= 2).await;
        assert_ne!(pool.call::<i32>("pid", ()).await.unwrap(), first);
        eventually("it has left", || !is_alive(first) && (leaky == first || fat == first)).await;
        assert_eq!(pool.stats().failed.total(), 0);
        finish(pool).await;
    }
}

#[tokio::test]
async fn one_that_takes_too_much_memory_is_killed_and_its_caller_told() {
    const LIMIT: u64 = 256 << 20;
    let pool = limited().workers(2).memory_limit(LIMIT).start().await.unwrap();
    for round in 1..=3 {
        let error = pool.call::<()>("hoard", ()).await.unwrap_err();
        let Error::WorkerDied(death) = &error else { panic!("{error:?}") };
        let Ended::Memory { resident, limit } = death.ended else { panic!("{error:?}") };
        // In a cgroup it comes to the limit, give or take some pages; one that is watched is over it when that is seen.
        assert!(resident > limit - (1 << 20) && limit == LIMIT, "{error}");
        assert_eq!(death.exit, Exit::Signal(9));
        assert!(error.to_string().contains("the limit is 256 MiB"), "{error}");
        assert!(error.may_have_run() && !error.is_retryable());
        whole(&pool).await;
        assert_eq!(pool.stats().restarts, round);
    }
    assert!(pool.call::<i32>("keep", 8).await.is_ok());
    finish(pool).await;
}

#[tokio::test]
async fn processor_time_is_limited_and_sleep_is_not() {
    let pool = limited().workers(1).cpu_limit(Duration::from_millis(300)).start().await.unwrap();
    pool.call::<i32>("nap", 0.6).await.unwrap();
    for _ in 0..3 {
        // Each call has all of it.
        pool.call::<i32>("spin", 0.1).await.unwrap();
    }
    let error = pool.call::<i32>("spin", 1_000).await.unwrap_err();
    let Error::CpuTime { handler, used, limit, python_stack } = &error else { panic!("{error:?}") };
    assert_eq!((handler.as_str(), *limit), ("spin", Duration::from_millis(300)));
    assert!(used > limit);
    // On a busy machine it may not be had in time.
    assert!(python_stack.is_empty() || python_stack.contains("in spin"), "{error}");
    pool.call::<i32>("spin", 0.1).await.unwrap();
    assert_eq!(pool.stats().failed.cpu_time, 1);
    finish(pool).await;
}

#[tokio::test]
async fn limits_that_cannot_work_are_option_errors() {
    for (builder, named) in [
        (limited().max_requests(0), "max_requests"),
        (limited().max_age(Duration::ZERO), "max_age"),
    ] {
        let error = builder.start().await.unwrap_err();
        assert!(matches!(&error, Error::Config { option, .. } if *option == named), "{error:?}");
    }
}

/// The replacement that a reload had begun fails, and so does the one that was to take it back: the limit holds on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_was_spent_during_a_failed_reload_is_replaced_after_it() {
    let source = "import os, snakepen\n@snakepen.handler\ndef pid(): return os.getpid()\n";
    let (directory, file) = handler_file(source);
    let [started, release] = ["started", "release"].map(|name| directory.path().join(name));
    let pool = pool_over(&file).workers(1).max_requests(10).start().await.unwrap();
    let before = pids(&pool)[0];
    let broken = format!(
        "import os, time\nopen({started:?}, 'w').close()\nwhile not os.path.exists({release:?}): time.sleep(0.001)\n\
         raise LookupError('broken on purpose')\n"
    );
    fs::write(&file, broken).unwrap();
    let reload = tokio::spawn({
        let pool = pool.clone();
        async move { pool.reload().await }
    });
    eventually("its replacement is under way", || started.exists()).await;
    for _ in 0..10 {
        assert_eq!(pool.call::<i32>("pid", ()).await.unwrap(), before);
    }
    fs::write(&release, "").unwrap();
    assert!(matches!(reload.await.unwrap(), Err(Error::Start(_))));
    assert_eq!(pool.call::<i32>("pid", ()).await.unwrap(), before, "it serves on");
    fs::write(&file, source).unwrap();
    eventually("it is replaced", || pids(&pool).iter().all(|&pid| pid != before)).await;
    assert_ne!(pool.call::<i32>("pid", ()).await.unwrap(), before);
    assert_eq!(pool.stats().failed.total(), 0);
    finish(pool).await;
}

/// The worker dies while its replacement starts, and nobody tells of its end: who is ready takes over at once.
///
/// A launcher that is stopped is found after a second, and all start anew; on a busy machine it may come to that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replacement_does_not_wait_for_the_end_of_a_worker_that_dies() {
    let mut tries = 1..=5;
    while tries.next().is_some() {
        if takes_over_from_a_dying_one().await {
            return;
        }
    }
    panic!("it never took over");
}

async fn takes_over_from_a_dying_one() -> bool {
    let source = "import os, snakepen\n@snakepen.handler\ndef pid(): return os.getpid()\n";
    let (directory, file) = handler_file(source);
    let [started, release] = ["started", "release"].map(|name| directory.path().join(name));
    let pool = pool_over(&file).workers(1).max_requests(1).start().await.unwrap();
    let slow = format!(
        "import os, time\nopen({started:?}, 'w').write(str(os.getpid()))\n\
         while not os.path.exists({release:?}): time.sleep(0.001)\n{source}"
    );
    fs::write(&file, slow).unwrap();
    let before: i32 = pool.call("pid", ()).await.unwrap();
    let written = || fs::read_to_string(&started).is_ok_and(|text| !text.is_empty());
    eventually("its replacement is under way", written).await;
    let next: i32 = fs::read_to_string(&started).unwrap().parse().unwrap();
    kill(launcher_pid(&pool), 19);
    kill(before, 9);
    eventually("that is seen", || pool.stats().ready == 0).await;
    fs::write(&release, "").unwrap();
    let served = pool.call::<i32>("pid", ()).idempotent().await.unwrap();
    let took_over = served == next && state(before) == Some('Z');
    eventually("the stopped launcher is replaced, and all with it", || state(before).is_none())
        .await;
    whole(&pool).await;
    finish(pool).await;
    took_over
}
