//! Scenarios 2 and 27: a handler that changes its process, or starts others, harms neither the next call nor the pool's end.
//!
//! A naive worker serves the next call in another directory, dies of somebody's alarm in its own loop, and fails the next call with it, or cannot be stopped because a
//! handler ignores TERM.

use std::time::Duration;

use snakepen::{Error, Pool};

use crate::common::{LIMIT, eventually, finish, is_alive, pids, pool, told, whole, within};

async fn serves(pool: &Pool) {
    for n in 0..20_i64 {
        assert_eq!(pool.call::<i64>("add", (n, 1)).timeout(LIMIT).await.unwrap(), n + 1);
    }
}

#[tokio::test]
async fn directory_threads_and_limits_do_not_matter() {
    let grace = Duration::from_secs(1);
    let pool = pool("side_effects.py").workers(1).shutdown_grace(grace).start().await.unwrap();
    let pid = pids(&pool)[0];
    let home: String = pool.call("directory", ()).await.unwrap();
    assert_eq!(pool.call::<String>("change_directory", ()).await.unwrap(), "/");
    assert_eq!(pool.call::<String>("directory", ()).await.unwrap(), home);
    serves(&pool).await;
    assert_eq!(pool.call::<usize>("start_threads", 4).await.unwrap(), 5);
    serves(&pool).await;
    pool.call::<()>("lower_limits", ()).await.unwrap();
    serves(&pool).await;
    assert_eq!(pids(&pool), [pid]);
    // Threads that are no daemons are waited for as long as the grace allows, and no longer.
    let shut = within(LIMIT, "shutdown", pool.shutdown());
    shut.await.unwrap();
    assert!(!is_alive(pid));
}

/// Where there is no way back, the worker is replaced.
#[tokio::test]
async fn a_directory_that_is_gone_costs_the_worker() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("home");
    std::fs::create_dir(&home).unwrap();
    let pool = pool("side_effects.py").workers(1).working_dir(&home).start().await.unwrap();
    let pid = pids(&pool)[0];
    pool.call::<()>("move_and_remove", ("/", &home)).await.unwrap();
    eventually("it is replaced", || !is_alive(pid)).await;
    whole(&pool).await;
    serves(&pool).await;
    finish(pool).await;
}

#[tokio::test]
async fn signals_that_are_ignored_hold_up_neither_deadline_nor_end() {
    let pool = pool("side_effects.py")
        .workers(1)
        .cancel_grace(Duration::from_millis(100))
        .start()
        .await
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    pool.call::<()>("install_signal_handlers", ()).await.unwrap();
    serves(&pool).await;
    let pid = pids(&pool)[0];
    let started = directory.path().join("started");
    let limit = Duration::from_millis(300);
    let error = pool.call::<()>("forever", &[&started]).timeout(limit).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
    eventually("it is killed", || !is_alive(pid)).await;
    whole(&pool).await;
    pool.call::<()>("install_signal_handlers", ()).await.unwrap();
    finish(pool).await;
}

#[tokio::test]
async fn an_alarm_between_two_calls_costs_one_worker_at_most() {
    let pool = pool("side_effects.py").workers(1).start().await.unwrap();
    for _ in 0..3 {
        let pid: i32 = pool.call("pid", ()).await.unwrap();
        pool.call::<()>("raise_in_signal_handler", ()).await.unwrap();
        // It fires in the loop, or in a call that happens to run: then that one says so.
        eventually("the alarm has fired", || !is_alive(pid) || pool.workers()[0].pid != Some(pid))
            .await;
        whole(&pool).await;
        serves(&pool).await;
    }
    finish(pool).await;
}

#[tokio::test]
async fn one_that_would_leave_later_does_not_outlive_the_pool() {
    let pool = pool("side_effects.py").workers(1).start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let [started, leave] = ["started", "leave"].map(|name| directory.path().join(name));
    let child: i32 = pool.call("start_late_leaver", (&started, &leave)).await.unwrap();
    told(&started).await;
    assert!(is_alive(child));
    finish(pool).await;
    eventually("it is gone, before it has left", || !is_alive(child)).await;
}
