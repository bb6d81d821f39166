//! A pool that is shut down finishes what it has, lets its workers leave in order, and is gone.
//!
//! A naive pool drops queued calls, kills workers before their `atexit` handlers have run, hangs on a worker that
//! does not want to leave, or shuts down twice.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use ractor::registry;
use snakepen::{Ended, Error, Exit, Pool};

use crate::common::{
    self, LIMIT, Mark, eventually, finish, launcher_pid, pids, pool, state, within,
};

fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

fn lines(path: &Path) -> usize {
    fs::read_to_string(path).map_or(0, |all| all.lines().count())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_and_queued_calls_finish_and_new_ones_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let there = |name: &str| directory.path().join(name).exists();
    let pool = pool("held.py").workers(2).start().await.unwrap();
    let hold = |name: &str| (text(directory.path()), name.to_owned());
    let running = [0, 1].map(|slot| {
        let worker = pool.worker(slot).unwrap();
        tokio::spawn(worker.call::<String>("hold", hold(&format!("runs {slot}"))).into_future())
    });
    eventually("two run", || there("runs 0") && there("runs 1")).await;
    let mut queued: Vec<_> = (0..4)
        .map(|number| pool.call::<String>("hold", hold(&format!("waits {number}"))))
        .map(|call| tokio::spawn(call.into_future()))
        .collect();
    let pinned = pool.worker(1).unwrap().call::<String>("hold", hold("waits 4"));
    queued.push(tokio::spawn(pinned.into_future()));
    eventually("the others wait", || pool.stats().queued == 5).await;

    let closing = tokio::spawn({
        let pool = pool.clone();
        async move { pool.shutdown().await }
    });
    // At once, that is when it is first polled; a call that gets in before the door is closed is dropped again.
    eventually("the door is closed", || {
        let call = pool.call::<String>("hold", hold("too late")).into_future();
        matches!(futures::FutureExt::now_or_never(call), Some(Err(Error::Closed { .. })))
    })
    .await;
    // One was submitted, if the door was closed between its look at it and its place in the queue.
    let closed = pool.stats().failed.closed;
    assert!(closed <= 1, "{closed}");
    let error = pool.worker(0).unwrap().call::<String>("pid", ()).await.unwrap_err();
    assert!(matches!(&error, Error::Closed { pool: name } if name == pool.name()), "{error:?}");
    assert!(!error.may_have_run() && !error.is_retryable());
    assert!(!closing.is_finished() && !running.iter().any(tokio::task::JoinHandle::is_finished));

    fs::write(directory.path().join("released"), "").unwrap();
    for (slot, call) in running.into_iter().enumerate() {
        assert_eq!(call.await.unwrap().unwrap(), format!("runs {slot}"));
    }
    for (number, call) in queued.into_iter().enumerate() {
        assert_eq!(call.await.unwrap().unwrap(), format!("waits {number}"));
    }
    within(LIMIT, "shutdown", closing).await.unwrap().unwrap();
    assert!(!there("too late"));
    assert_eq!(pool.stats().failed.closed, closed, "a refused call was never submitted");
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_grace_what_is_left_is_ended() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let grace = Duration::from_millis(300);
    let pool = pool("leaving.py").workers(1).shutdown_grace(grace).start().await.unwrap();
    let worker = pids(&pool)[0];
    let running = tokio::spawn(pool.call::<()>("note", (text(&log), "runs", 300)).into_future());
    eventually("it runs", || lines(&log) == 1).await;
    let queued = tokio::spawn(pool.call::<()>("note", (text(&log), "waits")).into_future());
    eventually("it waits", || pool.stats().queued == 1).await;

    let asked = Instant::now();
    within(LIMIT, "shutdown", pool.shutdown()).await.unwrap();
    assert!(asked.elapsed() >= grace, "{:?}", asked.elapsed());
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());

    let error = queued.await.unwrap().unwrap_err();
    assert!(matches!(&error, Error::Closed { .. }), "{error:?}");
    assert!(!error.may_have_run());
    let error = running.await.unwrap().unwrap_err();
    let Error::WorkerDied(death) = &error else { panic!("{error:?}") };
    assert_eq!(death.ended, Ended::Shutdown);
    // KILL, or TERM if the request to leave got there first.
    assert!(matches!(death.exit, Exit::Signal(9 | 15)), "{death:?}");
    assert_eq!((death.pid, death.started, death.handler.as_str()), (worker, true, "note"));
    assert!(error.to_string().contains("shut down"), "{error}");
    assert!(error.may_have_run());
    assert_eq!(lines(&log), 1, "the queued call ran");
    let stats = pool.stats();
    assert_eq!((stats.failed.closed, stats.failed.worker_died), (1, 1), "{stats:?}");
    finish(pool).await;
}

#[tokio::test]
async fn exit_handlers_run_to_their_end() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    for fresh in [false, true] {
        let pool = pool("leaving.py").workers(3).fresh_interpreter(fresh).start().await.unwrap();
        for slot in 0..3 {
            let worker = pool.worker(slot).unwrap();
            worker.call::<i32>("at_exit", (text(&log), slot.to_string(), 0.2)).await.unwrap();
        }
        assert_eq!(lines(&log), 0);
        finish(pool).await;
        let mut written: Vec<_> =
            fs::read_to_string(&log).unwrap().lines().map(str::to_owned).collect();
        written.sort();
        assert_eq!(written, ["0", "1", "2"]);
        fs::remove_file(&log).unwrap();
    }
}

#[tokio::test]
async fn a_worker_that_does_not_leave_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let grace = Duration::from_millis(100);
    let pool = pool("leaving.py").workers(2).shutdown_grace(grace).start().await.unwrap();
    let stubborn: i32 = pool.worker(0).unwrap().call("hang_at_exit", text(&log)).await.unwrap();
    let orderly = directory.path().join("orderly");
    let worker = pool.worker(1).unwrap();
    worker.call::<i32>("at_exit", (text(&orderly), "left")).await.unwrap();
    let child: i32 = pool.worker(0).unwrap().call("start_process", ()).await.unwrap();
    let asked = Instant::now();
    finish(pool).await;
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    assert_eq!(fs::read_to_string(&log).unwrap(), "hangs\n", "it was not asked to leave first");
    assert_eq!(fs::read_to_string(&orderly).unwrap(), "left\n");
    assert_eq!(state(stubborn), None);
    eventually("its children are gone with it", || state(child).is_none_or(|state| state == 'Z'))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutting_down_many_times_and_at_once_is_one_shutdown() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let pool = pool("leaving.py").workers(2).start().await.unwrap();
    let processes = pids(&pool);
    pool.call::<i32>("at_exit", (text(&log), "once", 0.3)).await.unwrap();
    let closing: Vec<_> = (0..8)
        .map(|_| {
            let (pool, processes) = (pool.clone(), processes.clone());
            tokio::spawn(async move {
                pool.shutdown().await.unwrap();
                assert!(processes.iter().all(|&pid| state(pid).is_none()), "it returned too early");
            })
        })
        .collect();
    for done in closing {
        within(LIMIT, "one of many shutdowns", done).await.unwrap();
    }
    assert_eq!(fs::read_to_string(&log).unwrap(), "once\n");
    pool.shutdown().await.unwrap();
    assert!(matches!(pool.call::<()>("note", ()).await, Err(Error::Closed { .. })));
    assert!(matches!(
        pool.worker(0).unwrap().call::<()>("note", ()).await,
        Err(Error::Closed { .. })
    ));
    finish(pool).await;
}

#[tokio::test]
async fn a_shutdown_that_nobody_waits_for_goes_on() {
    let pool = pool("leaving.py").workers(2).start().await.unwrap();
    let mut left = pids(&pool);
    left.push(launcher_pid(&pool));
    let gave_up = tokio::time::timeout(Duration::ZERO, pool.shutdown()).await;
    assert!(gave_up.is_err());
    eventually("all processes are gone", || left.iter().all(|&pid| state(pid).is_none())).await;
    finish(pool).await;
}

#[tokio::test]
async fn dropping_the_last_handle_shuts_down() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let mark = Mark::new();
    let pool = mark.on(pool("leaving.py").workers(2)).start().await.unwrap();
    let name = pool.name().to_owned();
    let clone = pool.clone();
    let worker = pool.worker(0).unwrap();
    worker.call::<i32>("at_exit", (text(&log), "left")).await.unwrap();
    drop(pool);
    drop(clone);
    assert_eq!(worker.call::<String>("note", (text(&log), "alive")).await.unwrap(), "alive");
    drop(worker);
    eventually("all processes are gone", || mark.processes().is_empty()).await;
    assert_eq!(fs::read_to_string(&log).unwrap(), "alive\nleft\n");
    eventually("all names are free", || {
        let prefix = format!("{name}/");
        !registry::registered().iter().any(|taken| *taken == name || taken.starts_with(&prefix))
    })
    .await;
    assert!(Pool::find(&name).await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_under_way_keeps_the_pool_alive() {
    let directory = tempfile::tempdir().unwrap();
    let mark = Mark::new();
    let pool = mark.on(pool("held.py").workers(1)).start().await.unwrap();
    let hold = |name: &str| pool.call::<String>("hold", (text(directory.path()), name));
    let running = tokio::spawn(hold("runs").into_future());
    eventually("it runs", || directory.path().join("runs").exists()).await;
    let queued = tokio::spawn(hold("waits").into_future());
    eventually("it waits", || pool.stats().queued == 1).await;
    let unmade = hold("comes later");
    drop(pool);
    fs::write(directory.path().join("released"), "").unwrap();
    assert_eq!(running.await.unwrap().unwrap(), "runs");
    assert_eq!(queued.await.unwrap().unwrap(), "waits");
    assert_eq!(unmade.await.unwrap(), "comes later");
    eventually("all processes are gone", || mark.processes().is_empty()).await;
}

#[tokio::test]
async fn a_worker_that_died_just_before_does_not_hold_up_the_end() {
    let pool = pool("leaving.py").workers(4).start().await.unwrap();
    for pid in pids(&pool) {
        common::kill(pid, 9);
    }
    finish(pool).await;
}

#[tokio::test]
async fn the_end_of_the_runtime_leaves_no_process() {
    let mark = Mark::new();
    let builder = mark.on(pool("leaving.py").workers(2));
    let runtime = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let pool = runtime.block_on(builder.start()).unwrap();
        let call = pool.call::<()>("note", ("/dev/null", "", 300));
        let call = runtime.spawn(call.into_future());
        runtime.block_on(eventually("it runs", || pool.stats().busy == 1));
        drop(runtime);
        assert!(call.is_finished());
    });
    tokio::task::spawn_blocking(|| runtime.join().unwrap()).await.unwrap();
    eventually("all processes are gone", || mark.processes().is_empty()).await;
}
