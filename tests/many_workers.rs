//! Scenario 6: 64 workers start at once, and after the shutdown processes, threads and descriptors are what they
//! were before; also when that happens again and again.
//!
//! One test, alone in its process: nothing else opens descriptors or starts threads while it counts.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use common::{
    Mark, descendants, descriptors, eventually, finish, is_alive, kill, pids, pool, told,
};
use tokio::task::JoinSet;

const WORKERS: usize = 64;

#[test]
fn everything_is_back_after_the_shutdown() {
    // Found once, for all pools.
    common::python();
    // The first one opens tokio's pipe for signals, which stays.
    let alone = Resources::now().threads;
    drop(runtime());
    while Resources::now().threads > alone {
        std::thread::yield_now();
    }
    let before = Resources::now();
    let runtime = runtime();
    runtime.block_on(async {
        let with_runtime = Resources::now();
        sixty_four_at_once().await;
        with_runtime.are_back().await;
        again_and_again(&with_runtime).await;
        with_deaths(&with_runtime).await;
        with_runtime.are_back().await;
    });
    drop(runtime);
    before.are_back_in_time();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_keep_alive(Duration::from_millis(100))
        .enable_all()
        .build()
        .unwrap()
}

/// What this process has.
#[derive(Debug, PartialEq, Eq)]
struct Resources {
    descriptors: usize,
    threads: usize,
    descendants: BTreeSet<i32>,
    /// Status pages.
    shared_mappings: usize,
}

impl Resources {
    fn now() -> Self {
        let mappings = fs::read_to_string("/proc/self/maps").unwrap();
        Self {
            descriptors: descriptors(),
            threads: fs::read_dir("/proc/self/task").unwrap().count(),
            descendants: descendants(),
            shared_mappings: mappings.lines().filter(|line| line.contains("memfd:")).count(),
        }
    }

    /// A thread that was joined may be seen for a moment longer.
    fn are_back_in_time(&self) {
        let patience = Instant::now() + Duration::from_secs(20);
        while Resources::now() != *self && Instant::now() < patience {
            std::thread::yield_now();
        }
        assert_eq!(*self, Resources::now());
    }

    /// Waits for idle threads of the runtime to end; all else is back at once.
    async fn are_back(&self) {
        let now = Resources::now();
        assert_eq!(
            (now.descriptors, &now.descendants, now.shared_mappings),
            (self.descriptors, &self.descendants, self.shared_mappings)
        );
        eventually("the threads are back", || Resources::now() == *self).await;
    }
}

async fn sixty_four_at_once() {
    let mark = Mark::new();
    let pool = mark.on(pool("holding.py")).workers(WORKERS).start().await.unwrap();
    let started: BTreeSet<i32> = pids(&pool).into_iter().collect();
    assert_eq!(started.len(), WORKERS);
    assert_eq!(mark.processes().len(), 1 + WORKERS);
    assert_eq!(pool.stats().restarts, 0, "a worker had to be started twice");
    // All of them work at the same time.
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    let mut calls = JoinSet::new();
    for n in 0..WORKERS {
        let files = (file(&format!("started-{n}")), file("release"));
        calls.spawn(pool.call::<i32>("hold", files).into_future());
    }
    for n in 0..WORKERS {
        told(&file(&format!("started-{n}"))).await;
    }
    assert_eq!(pool.stats().busy, WORKERS);
    fs::write(file("release"), "").unwrap();
    let answered: BTreeSet<i32> = calls.join_all().await.into_iter().map(Result::unwrap).collect();
    assert_eq!(answered, started);
    finish(pool).await;
    assert!(mark.processes().is_empty());
}

async fn again_and_again(resources: &Resources) {
    for round in 0..20 {
        let pool = pool("holding.py").workers(2).start().await.unwrap();
        assert_eq!(pool.call::<u64>("work", round).await.unwrap(), round);
        finish(pool).await;
        let now = Resources::now();
        assert_eq!(now.descriptors, resources.descriptors, "in round {round}");
        assert_eq!(now.shared_mappings, resources.shared_mappings, "in round {round}");
    }
}

/// A replacement takes the place of its predecessor in every respect.
async fn with_deaths(resources: &Resources) {
    let pool = pool("holding.py").workers(2).start().await.unwrap();
    let full = (descriptors(), descendants().len());
    for round in 1..=10 {
        kill(pids(&pool)[0], 9);
        eventually("the worker is replaced", || {
            let stats = pool.stats();
            stats.restarts == round && stats.ready == 2
        })
        .await;
        eventually("descriptors and processes are as many as before", || {
            (descriptors(), descendants().len()) == full
        })
        .await;
    }
    assert!(pids(&pool).into_iter().all(is_alive));
    finish(pool).await;
    assert_eq!(descriptors(), resources.descriptors);
}
