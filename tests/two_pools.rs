//! Scenario 3: two pools, or two hosts, on one machine: stopping or killing one leaves the other's workers alone.

mod common;

use std::path::{Path, PathBuf};

use common::host::{self, Host};
use common::{eventually, finish, is_alive, kill, launcher_pid, pids, pool, told, whole};
use snakepen::{Builder, Error, Pool};
use tokio::task::JoinHandle;

const WORKERS: usize = 3;

/// A pool whose first worker holds a call, in a directory for its files.
struct Holding {
    pool: Pool,
    call: JoinHandle<Result<i32, Error>>,
    pids: Vec<i32>,
    launcher: i32,
    directory: tempfile::TempDir,
}

impl Holding {
    async fn start(builder: Builder) -> Self {
        let pool = builder.workers(WORKERS).start().await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let call = hold(&pool, directory.path());
        told(&directory.path().join("started")).await;
        Self { pids: pids(&pool), launcher: launcher_pid(&pool), pool, call, directory }
    }

    /// Nothing has happened to its workers: they are the same, and the call that one of them held is answered.
    async fn ends_untouched(self) {
        self.was_untouched_so_far();
        std::fs::write(self.directory.path().join("release"), "").unwrap();
        let answer = self.call.await.unwrap().unwrap();
        assert!(self.pids.contains(&answer));
        assert_eq!(self.pool.stats().restarts, 0);
        finish(self.pool).await;
    }

    fn was_untouched_so_far(&self) {
        assert_eq!(pids(&self.pool), self.pids);
        assert!(self.pids.iter().chain([&self.launcher]).all(|&pid| is_alive(pid)));
        assert!(!self.call.is_finished());
    }
}

fn hold(pool: &Pool, directory: &Path) -> JoinHandle<Result<i32, Error>> {
    let files: Vec<PathBuf> = ["started", "release"].map(|name| directory.join(name)).into();
    let pool = pool.clone();
    tokio::spawn(async move { pool.call("hold", files).await })
}

#[tokio::test]
#[ignore = "the host that the other tests start"]
async fn host() {
    let Some(_) = host::part() else { return };
    // Both at once: what one of them passes on to its launcher is open while the other starts.
    let start = || pool("holding.py").workers(WORKERS).start();
    let (one, other) = tokio::try_join!(start(), start()).unwrap();
    host::tell("ready", &format!("{} {}", one.name(), other.name()));
    while !Path::new(&host::shared_file("stop")).exists() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    one.shutdown().await.unwrap();
    host::tell("stopped one", "");
    std::future::pending().await
}

/// All processes of the host: a launcher and its workers, twice.
async fn start_host() -> Host {
    let mut host = Host::start("two pools");
    host.tells("ready").await;
    assert_eq!(host.processes().len(), 2 * (1 + WORKERS));
    host
}

#[tokio::test]
async fn shutting_one_pool_down_leaves_the_other_alone() {
    let (one, other) =
        tokio::join!(Holding::start(pool("holding.py")), Holding::start(pool("holding.py")));
    std::fs::write(one.directory.path().join("release"), "").unwrap();
    finish(one.pool).await;
    other.ends_untouched().await;
}

#[tokio::test]
async fn dropping_one_pool_leaves_the_other_alone() {
    let (one, other) = tokio::join!(
        Holding::start(pool("holding.py")),
        Holding::start(pool("holding.py").fresh_interpreter(true))
    );
    one.call.abort();
    let gone = [one.pids, vec![one.launcher]].concat();
    drop(one.pool);
    eventually("the dropped pool's processes end", || !gone.iter().any(|&pid| is_alive(pid))).await;
    other.ends_untouched().await;
}

#[tokio::test]
async fn killing_all_of_one_pool_leaves_the_other_alone() {
    let (one, other) =
        tokio::join!(Holding::start(pool("holding.py")), Holding::start(pool("holding.py")));
    kill(one.pids[1], 9);
    kill(one.launcher, 9);
    assert!(matches!(one.call.await.unwrap(), Err(Error::WorkerDied(_))));
    let gone = [one.pids, vec![one.launcher]].concat();
    eventually("the killed processes end", || !gone.iter().any(|&pid| is_alive(pid))).await;
    whole(&one.pool).await;
    finish(one.pool).await;
    other.ends_untouched().await;
}

#[tokio::test]
async fn killing_one_host_leaves_the_others_alone() {
    let (mut one, other) = tokio::join!(start_host(), start_host());
    let ours = Holding::start(pool("holding.py")).await;
    let theirs = other.processes();
    one.kill();
    eventually("the killed host's processes end", || one.processes().is_empty()).await;
    assert_eq!(other.processes(), theirs);
    ours.ends_untouched().await;
    assert_eq!(other.processes(), theirs);
}

#[tokio::test]
async fn stopping_one_hosts_pool_leaves_its_other_pool_and_other_hosts_alone() {
    let mut host = start_host().await;
    let before = host.processes();
    let ours = Holding::start(pool("holding.py")).await;
    std::fs::write(host.file("stop"), "").unwrap();
    host.tells("stopped one").await;
    let left = host.processes();
    assert_eq!(left.len(), 1 + WORKERS);
    assert!(left.iter().all(|pid| before.contains(pid)));
    ours.was_untouched_so_far();
    ours.ends_untouched().await;
    assert_eq!(host.processes(), left);
}
