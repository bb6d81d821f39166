//! Scenario 12: 16 kills in 2 s, under load: the pool returns to its size.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Mark, eventually, finish, is_alive, kill, pids, pool, whole};
use snakepen::{Error, Exit, Pool, WorkerState};
use tokio::task::JoinSet;

const KILLS: usize = 16;

struct Load {
    callers: JoinSet<u64>,
    stop: Arc<AtomicBool>,
}

impl Load {
    fn start(pool: &Pool) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut callers = JoinSet::new();
        for caller in 0..16_u64 {
            let (pool, stop) = (pool.clone(), Arc::clone(&stop));
            callers.spawn(async move {
                let mut died = 0;
                while !stop.load(Ordering::Relaxed) {
                    match pool.call::<u64>("work", (caller, 0.002)).await {
                        Ok(got) => assert_eq!(got, caller),
                        Err(Error::WorkerDied(death)) if death.exit == Exit::Signal(9) => died += 1,
                        Err(error) => panic!("{error}"),
                    }
                }
                died
            });
        }
        Self { callers, stop }
    }

    /// How many calls died with their worker.
    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.callers.join_all().await.into_iter().sum()
    }
}

/// After so many kills the pool has its size, of processes that live and work, and no others.
async fn is_whole(pool: &Pool, mark: &Mark, size: usize, kills: u64) {
    eventually("all that was killed is replaced", || pool.stats().restarts == kills).await;
    whole(pool).await;
    let pids = pids(pool);
    assert_eq!(pids.len(), size);
    assert!(pids.iter().all(|&pid| is_alive(pid)));
    eventually("nothing but launcher and workers", || mark.processes().len() == 1 + size).await;
    for (slot, &expected) in pids.iter().enumerate() {
        let pid = pool.worker(slot).unwrap().call::<i32>("pid", ()).await.unwrap();
        assert_eq!(pid, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_all_over_the_pool() {
    let mark = Mark::new();
    let pool = mark.on(pool("holding.py")).workers(4).start().await.unwrap();
    let load = Load::start(&pool);
    let mut beat = tokio::time::interval(Duration::from_secs(2) / u32::try_from(KILLS).unwrap());
    let mut killed = Vec::new();
    for round in 0..KILLS {
        beat.tick().await;
        let mut victim = 0;
        eventually("the slot has a worker again", || {
            let worker = pool.workers().swap_remove(round % 4);
            victim = worker.pid.unwrap_or_default();
            let ready = matches!(worker.state, WorkerState::Idle | WorkerState::Busy);
            ready && victim != 0 && !killed.contains(&victim)
        })
        .await;
        kill(victim, 9);
        killed.push(victim);
    }
    is_whole(&pool, &mark, 4, 16).await;
    let died = load.stop().await;
    let stats = pool.stats();
    assert_eq!((stats.restarts, stats.failed.worker_died), (16, died));
    assert!(died <= 16, "{died} calls died of 16 kills");
    finish(pool).await;
}

/// One slot takes it all, as fast as it comes back; its neighbour never notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_of_one_slot() {
    let mark = Mark::new();
    let pool = mark.on(pool("holding.py")).workers(2).start().await.unwrap();
    let neighbour = pids(&pool)[1];
    let load = Load::start(&pool);
    let start = Instant::now();
    let mut killed = 0;
    for _ in 0..KILLS {
        eventually("the slot has its next process", || {
            pool.workers()[0].pid.is_some_and(|pid| pid != killed && is_alive(pid))
                && pool.stats().ready == 2
        })
        .await;
        killed = pids(&pool)[0];
        kill(killed, 9);
    }
    is_whole(&pool, &mark, 2, 16).await;
    // Sixteen deaths are within what a slot survives without being held back.
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert!(load.stop().await <= 16);
    assert_eq!((pool.stats().restarts, pids(&pool)[1]), (16, neighbour));
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_of_all_workers_at_once() {
    let mark = Mark::new();
    let pool = mark.on(pool("holding.py")).workers(8).start().await.unwrap();
    let load = Load::start(&pool);
    for round in 1..=2 {
        let victims = pids(&pool);
        assert_eq!(victims.len(), 8);
        for pid in victims {
            kill(pid, 9);
        }
        is_whole(&pool, &mark, 8, 8 * round).await;
    }
    assert!(load.stop().await <= 16);
    assert_eq!(pool.stats().restarts, 16);
    finish(pool).await;
}
