//! Scenario 27, and 2: a handler that forks, or that starts processes, harms neither the next call nor the pool's end.
//!
//! In a naive worker the forked child goes on in the worker's loop: it answers the same call a second time, then
//! reads frames that were meant for its parent; and what handlers start is still there after the shutdown.

use std::time::Duration;

use serde_json::{Value, json};
use snakepen::{Error, Exit, Pool};

use crate::common::{Mark, eventually, finish, is_alive, kill, parent, pids, pool, whole, within};

/// Calls that would meet a second answer, or a reader that takes their frames away.
async fn is_unharmed(pool: &Pool, worker: i32) {
    for _ in 0..20 {
        assert_eq!(pool.call::<i32>("pid", ()).await.unwrap(), worker);
    }
    let stats = pool.stats();
    assert_eq!((stats.restarts, stats.failed.total()), (0, 0), "{stats:?}");
}

#[tokio::test]
async fn a_forked_child_answers_nothing() {
    for fresh in [false, true] {
        let pool = pool("forks.py").workers(1).fresh_interpreter(fresh).start().await.unwrap();
        let worker = pids(&pool)[0];
        let cases = [
            ("child_returns", 0),
            ("child_raises", 1),
            ("child_leaves", 5),
            ("async_child_returns", 0),
        ];
        for (handler, status) in cases {
            let call = pool.call::<Value>(handler, ()).timeout(Duration::from_secs(30));
            assert_eq!(call.await.unwrap(), json!(["parent", status]), "{handler}");
            is_unharmed(&pool, worker).await;
        }
        finish(pool).await;
    }
}

#[tokio::test]
async fn a_child_that_comes_back_late_answers_nothing() {
    let pool = pool("forks.py").workers(1).start().await.unwrap();
    let worker = pids(&pool)[0];
    let child: i32 = pool.call("late_child_returns", 0.3).await.unwrap();
    assert!(child > 0 && parent(child) == Some(worker));
    is_unharmed(&pool, worker).await;
    assert_eq!(pool.call::<i32>("collect", child).await.unwrap(), 0);
    is_unharmed(&pool, worker).await;
    finish(pool).await;
}

#[tokio::test]
async fn a_child_cannot_write_into_the_port() {
    let pool = pool("forks.py").workers(1).start().await.unwrap();
    let worker = pids(&pool)[0];
    assert_eq!(pool.call::<i32>("chatty_child", ()).await.unwrap(), 0);
    is_unharmed(&pool, worker).await;
    finish(pool).await;
}

#[tokio::test]
async fn a_child_does_not_hide_the_death_of_its_parent() {
    let mark = Mark::new();
    let pool = mark.on(pool("forks.py").workers(1)).start().await.unwrap();
    let before = mark.processes().len();
    let call = pool.call::<()>("dies_before_its_child", ()).into_future();
    let error = within(Duration::from_secs(20), "the news of the death", call).await.unwrap_err();
    let Error::WorkerDied(death) = &error else { panic!("{error:?}") };
    assert_eq!((death.exit, death.started), (Exit::Code(3), true));
    whole(&pool).await;
    eventually("the child is gone too", || mark.processes().len() == before).await;
    pool.call::<i32>("pid", ()).await.unwrap();
    finish(pool).await;
}

#[tokio::test]
async fn what_handlers_have_started_does_not_outlive_the_pool() {
    for fresh in [false, true] {
        let mark = Mark::new();
        let pool =
            mark.on(pool("forks.py").workers(2)).fresh_interpreter(fresh).start().await.unwrap();
        let mut started = Vec::new();
        for slot in 0..2 {
            let worker = pool.worker(slot).unwrap();
            started.push(worker.call::<i32>("start_process", ()).await.unwrap());
            started.push(worker.call::<i32>("double_fork", ()).await.unwrap());
            // It sleeps beyond the end of the pool, and holds the worker's output open.
            started.push(worker.call::<i32>("late_child_returns", 300).await.unwrap());
        }
        assert!(started.iter().all(|&pid| is_alive(pid)));
        finish(pool).await;
        eventually("nothing is left", || mark.processes().is_empty()).await;
        // One that is ending has no environment any more, and so no mark.
        eventually("all have ended", || !started.iter().any(|&pid| is_alive(pid))).await;
    }
}

#[tokio::test]
async fn what_a_handler_has_started_does_not_outlive_its_worker() {
    let pool = pool("forks.py").workers(2).start().await.unwrap();
    let first = pool.worker(0).unwrap().call::<i32>("start_process", ()).await.unwrap();
    let second = pool.worker(1).unwrap().call::<i32>("start_process", ()).await.unwrap();
    kill(pids(&pool)[0], 9);
    eventually("its process is gone with it", || !is_alive(first)).await;
    eventually("it is replaced", || pool.workers()[0].epoch == 2).await;
    whole(&pool).await;
    assert!(is_alive(second), "its neighbour's is not");
    finish(pool).await;
}
