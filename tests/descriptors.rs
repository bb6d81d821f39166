//! Scenario 15d: a worker's descriptors are its own: standard streams, port, lane, dump pipe and status page.
//!
//! A naive pool lets workers inherit their siblings' pipes, so that one's end is hidden by another's copy, or
//! the host's files and sockets, which then stay open for as long as a worker lives.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;

use common::{descriptors, eventually, finish, kill, launcher_pid, pids, pool, whole};
use snakepen::Pool;

/// What a process's descriptors lead to, by number.
fn open(pid: i32) -> Vec<(u32, String)> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process is there");
    let mut found: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, target.to_str()?.to_owned()))
        })
        .collect();
    found.sort();
    found
}

/// The shared memory that a process has mapped: device and inode.
fn status_pages(pid: i32) -> BTreeSet<String> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("the process is there");
    let fields =
        |line: &str| -> Vec<String> { line.split_whitespace().map(str::to_owned).collect() };
    maps.lines()
        .filter(|line| line.contains("/memfd:"))
        .map(|line| fields(line)[3..5].join(" "))
        .collect()
}

/// The pipes, sockets and pages of a worker, checked for being what a worker has and no more.
fn own(pid: i32) -> BTreeSet<String> {
    let found = open(pid);
    let target = |number| &found.iter().find(|(fd, _)| *fd == number).expect("a standard stream").1;
    assert_eq!(target(0), "/dev/null");
    assert!(target(1).starts_with("pipe:") && target(2).starts_with("pipe:"), "{found:?}");
    let rest: Vec<_> = found.iter().filter(|(fd, _)| *fd > 2).map(|(_, target)| target).collect();
    let count = |kind: &str| rest.iter().filter(|target| target.starts_with(kind)).count();
    // The status page is mapped, so its descriptor may be closed.
    let (sockets, pipes, pages) = (count("socket:"), count("pipe:"), count("/memfd:"));
    assert_eq!((sockets, pipes), (2, 1), "{found:?}");
    assert!(pages <= 1 && rest.len() == 3 + pages, "{found:?}");
    let mut all: BTreeSet<_> =
        found.into_iter().filter(|(fd, _)| *fd > 0).map(|(_, target)| target).collect();
    assert_eq!(all.len(), 5 + pages, "streams share a pipe: {all:?}");
    all.retain(|target| !target.starts_with("/memfd:"));
    let mapped = status_pages(pid);
    assert_eq!(mapped.len(), 1, "one status page is mapped: {mapped:?}");
    all.extend(mapped);
    all
}

/// Checks all workers of a pool, against each other and against the launcher.
fn check(pool: &Pool) {
    let mut seen = BTreeSet::new();
    for pid in pids(pool) {
        for target in own(pid) {
            assert!(seen.insert(target.clone()), "{target} of {pid} is a sibling's too");
        }
    }
    for (fd, target) in open(launcher_pid(pool)) {
        assert!(!seen.contains(&target), "the launcher keeps {target} at {fd}");
    }
    assert!(status_pages(launcher_pid(pool)).is_empty());
}

/// A file that this process has open, inheritable as a careless library would leave it.
fn leak() -> fs::File {
    let file = tempfile::tempfile().unwrap();
    rustix::io::fcntl_setfd(file.as_fd(), rustix::io::FdFlags::empty()).unwrap();
    file
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forked_workers_have_their_own_and_no_others() {
    let _leak = leak();
    let other = pool("basic.py").workers(2).start().await.unwrap();
    let pool = pool("basic.py").workers(6).start().await.unwrap();
    check(&pool);
    check(&other);
    let launcher = open(launcher_pid(&pool)).len();
    // Replacements are born beside siblings, and no different.
    for pid in pids(&pool).into_iter().take(3) {
        kill(pid, 9);
    }
    eventually("replacements came", || {
        pool.workers().iter().filter(|worker| worker.epoch == 2).count() == 3
    })
    .await;
    whole(&pool).await;
    check(&pool);
    assert_eq!(open(launcher_pid(&pool)).len(), launcher, "the launcher leaks");
    finish(other).await;
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fresh_interpreters_have_their_own_and_no_others() {
    let _leak = leak();
    let pool = pool("basic.py").workers(4).fresh_interpreter(true).start().await.unwrap();
    check(&pool);
    kill(pids(&pool)[0], 9);
    eventually("a replacement came", || pool.workers()[0].epoch == 2).await;
    whole(&pool).await;
    check(&pool);
    finish(pool).await;
}

#[tokio::test]
async fn what_a_preloaded_module_has_open_is_not_shared() {
    let directory = tempfile::tempdir().unwrap();
    let source = "import socket\nfile = open(__file__)\npair = socket.socketpair()\nNUMBERS = \
                  [file.fileno(), pair[0].fileno(), pair[1].fileno()]\n";
    fs::write(directory.path().join("keeps_open.py"), source).unwrap();
    let (_guard, file) = common::handler_file(
        "import keeps_open, snakepen\n\n@snakepen.handler\ndef close_all():\n    keeps_open.file.close()\n    \
         [end.close() for end in keeps_open.pair]\n    return keeps_open.NUMBERS\n\n@snakepen.handler\n\
         def add(a, b): return a + b\n",
    );
    let pool = common::pool_over(&file).path(directory.path()).preload(["keeps_open"]).workers(3);
    let pool = pool.start().await.unwrap();
    let launcher = launcher_pid(&pool);
    let is_closed = || !open(launcher).iter().any(|(_, target)| target.contains("snakepen-status"));
    eventually("the launcher has closed its copies of the workers' own", is_closed).await;
    let held: Vec<_> = open(launcher).into_iter().filter(|(fd, _)| *fd > 2).collect();
    for pid in pids(&pool) {
        for (fd, target) in open(pid).into_iter().filter(|(fd, _)| *fd > 0) {
            assert!(
                target == "/dev/null" || !held.iter().any(|(_, other)| *other == target),
                "{target} at {fd}"
            );
        }
    }
    // Its objects may be closed, and close nothing of the worker's.
    for slot in 0..3 {
        let worker = pool.worker(slot).unwrap();
        assert_eq!(worker.call::<Vec<i32>>("close_all", ()).await.unwrap().len(), 3);
        assert_eq!(worker.call::<i64>("add", (1, 2)).await.unwrap(), 3);
    }
    assert_eq!(pool.stats().restarts, 0);
    finish(pool).await;
}

#[tokio::test]
async fn a_process_that_a_handler_starts_inherits_only_the_streams() {
    let (_guard, file) = common::handler_file(
        "import subprocess, snakepen\n\n@snakepen.handler\ndef listed():\n    \
         return subprocess.run(['ls', '/proc/self/fd'], close_fds=False, capture_output=True, \
         text=True, check=True).stdout.split()\n",
    );
    for fresh in [false, true] {
        let pool =
            common::pool_over(&file).workers(2).fresh_interpreter(fresh).start().await.unwrap();
        // 0, 1 and 2, and the directory that `ls` reads.
        assert_eq!(pool.call::<Vec<String>>("listed", ()).await.unwrap(), ["0", "1", "2", "3"]);
        finish(pool).await;
    }
}

/// In a process of its own, because the others here open and close descriptors meanwhile.
#[test]
fn the_host_gets_all_its_descriptors_back() {
    const CHILD: &str = "SNAKEPEN_TEST_DESCRIPTORS";
    if std::env::var_os(CHILD).is_none() {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_host_gets_all_its_descriptors_back", "--nocapture"])
            .env(CHILD, "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let round = async |fresh| {
            let pool = pool("basic.py").workers(4).fresh_interpreter(fresh).start().await.unwrap();
            kill(pids(&pool)[1], 9);
            eventually("a replacement came", || pool.workers()[1].epoch == 2).await;
            whole(&pool).await;
            assert_eq!(pool.call::<i64>("add", (1, 2)).await.unwrap(), 3);
            finish(pool).await;
        };
        round(false).await;
        let before = descriptors();
        for fresh in [false, true, false] {
            round(fresh).await;
        }
        eventually("no descriptor is left", || descriptors() <= before).await;
    });
}
