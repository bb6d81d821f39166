//! Scenario 12, the worst case: after a series of kills one more lands while the replacement is being started.

use std::time::{Duration, Instant};

use snakepen::WorkerState;

use crate::common::{eventually, finish, kill, pool, whole};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_start_after_many_deaths() {
    let pool = pool("basic.py").workers(1).start().await.unwrap();
    let mut killed = Vec::new();
    for round in 0..16 {
        // The last one before it is ready, if that can be caught.
        let wanted = if round < 15 { WorkerState::Idle } else { WorkerState::Starting };
        let mut victim = 0;
        eventually("the next worker", || {
            let worker = pool.workers().swap_remove(0);
            victim = worker.pid.unwrap_or_default();
            let late = round == 15 && worker.state == WorkerState::Idle;
            victim != 0 && !killed.contains(&victim) && (worker.state == wanted || late)
        })
        .await;
        kill(victim, 9);
        killed.push(victim);
    }
    let start = Instant::now();
    eventually("the last one is replaced", || {
        pool.workers()[0].pid.is_some_and(|pid| !killed.contains(&pid))
    })
    .await;
    whole(&pool).await;
    assert_eq!(pool.call::<u64>("add", (1, 2)).await.unwrap(), 3);
    assert!(start.elapsed() < Duration::from_secs(5), "out for {:?}", start.elapsed());
    finish(pool).await;
}
