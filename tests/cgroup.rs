//! Where a cgroup v2 is delegated to the host, the kernel holds each worker to its memory limit, the error says so, and no
//! directory is left, whoever dies. Elsewhere these tests say that they are skipped, or fail if `SNAKEPEN_TEST_CGROUP` is
//! set.
//!
//! A naive pool moves its host about to get a cgroup, forgets directories when it is killed, and tells of a SIGKILL.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::host::{self, Host};
use common::{
    children, eventually, finish, handler_file, is_alive, kill, launcher_pid, pids, pool,
    pool_over, python, whole,
};
use snakepen::{Builder, Ended, Error, Exit, Pool, StartError};
use tokio::sync::{Mutex, MutexGuard};

const MIB: u64 = 1 << 20;
const LIMIT: u64 = 128 * MIB;

/// One after the other: one of them forbids cgroups for a while.
static ALONE: Mutex<()> = Mutex::const_new(());

fn limited() -> Builder {
    pool("cgroup.py").workers(1).memory_limit(LIMIT)
}

/// The cgroups of the first worker: while site was set up, while handlers were loaded, and now.
async fn places(pool: &Pool) -> [String; 3] {
    pool.call("places", ()).await.unwrap()
}

/// The directory of a cgroup in the hierarchy of version 2.
fn directory(cgroup: &str) -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).unwrap();
    Path::new(mount.split(' ').nth(1).unwrap()).join(cgroup.trim_start_matches('/'))
}

/// The directory of the pool's cgroups, if the kernel limits its workers.
async fn cgroups_of(pool: &Pool) -> Option<PathBuf> {
    let [_, _, now] = places(pool).await;
    let pool = Path::new(&now).parent()?;
    let ours = format!("snakepen-{}-", std::process::id());
    let found = pool.file_name()?.to_str()?.starts_with(&ours);
    found.then(|| directory(pool.to_str().unwrap()))
}

/// Whether the machine delegates a cgroup to this process; no other test of this file runs meanwhile.
async fn delegated() -> Option<MutexGuard<'static, ()>> {
    let alone = ALONE.lock().await;
    let pool = limited().start().await.unwrap();
    let found = cgroups_of(&pool).await;
    finish(pool).await;
    if found.is_none() {
        assert!(std::env::var_os("SNAKEPEN_TEST_CGROUP").is_none(), "no cgroup is delegated");
        eprintln!("skipped: no cgroup v2 with a memory controller is delegated to this process");
    }
    found.map(|_| alone)
}

/// Shuts the pool down, and checks that its cgroups went with it.
async fn finish_with(pool: Pool, cgroups: &Path) {
    assert!(cgroups.exists());
    finish(pool).await;
    assert!(!cgroups.exists(), "{} is left", cgroups.display());
}

#[track_caller]
fn assert_memory(error: &Error) {
    let Error::WorkerDied(death) = error else { panic!("{error:?}") };
    let Ended::Memory { resident, limit } = death.ended else { panic!("{error:?}") };
    assert!(limit == LIMIT && (LIMIT - MIB..=LIMIT).contains(&resident), "{error}");
    assert_eq!(death.exit, Exit::Signal(9));
    let text = error.to_string();
    assert!(text.contains("held 128 MiB of memory, the limit is 128 MiB"), "{text}");
}

#[tokio::test]
async fn one_that_takes_too_much_is_killed_by_the_kernel_and_its_caller_told() {
    let Some(_alone) = delegated().await else { return };
    for fresh in [false, true] {
        let pool = limited().fresh_interpreter(fresh).start().await.unwrap();
        let cgroups = cgroups_of(&pool).await.unwrap();
        for (round, handler) in [(1, "hoard"), (2, "hoard_in_a_child")] {
            let error = pool.call::<()>(handler, ()).await.unwrap_err();
            assert_memory(&error);
            assert!(error.may_have_run() && !error.is_retryable());
            whole(&pool).await;
            assert_eq!(pool.stats().restarts, round);
        }
        eventually("only the one that serves has a cgroup", || subdirectories(&cgroups) == 1).await;
        finish_with(pool, &cgroups).await;
    }
}

fn subdirectories(cgroup: &Path) -> usize {
    fs::read_dir(cgroup).unwrap().flatten().filter(|it| it.path().is_dir()).count()
}

#[tokio::test]
async fn a_worker_is_limited_before_any_of_the_user_s_code_runs() {
    let Some(_alone) = delegated().await else { return };
    let (site, _) = handler_file("");
    let code = "import sys\n\
                (sys.cgroup_at_site,) = (l[3:-1] for l in open('/proc/self/cgroup') if l[0] == '0')\n";
    fs::write(site.path().join("sitecustomize.py"), code).unwrap();
    for fresh in [false, true] {
        let builder = limited().env("PYTHONPATH", site.path()).fresh_interpreter(fresh);
        let pool = builder.start().await.unwrap();
        let [at_site, at_load, now] = places(&pool).await;
        // A forked one has that from the launcher, which is where its host is.
        assert_eq!(at_site == now, fresh, "{at_site}");
        assert_eq!(at_load, now);
        let read = |file: &str| fs::read_to_string(directory(&now).join(file)).unwrap();
        assert_eq!(read("memory.max").trim(), LIMIT.to_string());
        assert_eq!(read("memory.oom.group").trim(), "1");
        if directory(&now).join("memory.swap.max").exists() {
            assert_eq!(read("memory.swap.max").trim(), "0");
        }
        assert_eq!(read("cgroup.procs").trim(), pids(&pool)[0].to_string());
        finish(pool).await;
    }
}

#[tokio::test]
async fn one_that_takes_too_much_before_it_is_ready_says_so() {
    let Some(_alone) = delegated().await else { return };
    let (_directory, path) = handler_file("kept = bytearray(b'x' * (1 << 30))\n");
    let error = pool_over(&path).memory_limit(LIMIT).start().await.unwrap_err();
    let Error::Start(start) = &error else { panic!("{error:?}") };
    assert!(matches!(**start, StartError::Memory { limit: LIMIT, .. }), "{error:?}");
    assert!(error.to_string().contains("the limit is 128 MiB (`memory_limit`)"), "{error}");
}

#[tokio::test]
async fn one_that_takes_too_much_while_no_call_runs_is_replaced() {
    let Some(_alone) = delegated().await else { return };
    let pool = limited().start().await.unwrap();
    pool.call::<()>("hoard_later", ()).await.unwrap();
    eventually("it is killed", || pool.stats().restarts == 1).await;
    whole(&pool).await;
    let last = pool.workers()[0].last_error.clone().unwrap();
    assert!(last.contains("held 128 MiB of memory"), "{last}");
    assert_eq!(pool.stats().failed.total(), 0);
    finish(pool).await;
}

#[tokio::test]
async fn what_has_left_the_worker_s_session_ends_with_it() {
    let Some(_alone) = delegated().await else { return };
    let pool = limited().start().await.unwrap();
    let cgroups = cgroups_of(&pool).await.unwrap();
    if !cgroups.join("cgroup.kill").exists() {
        return finish(pool).await;
    }
    for _ in 0..2 {
        let stray: i32 = pool.call("start_in_a_session", ()).await.unwrap();
        kill(pids(&pool)[0], 9);
        eventually("it is killed", || !is_alive(stray)).await;
        whole(&pool).await;
    }
    let stray: i32 = pool.call("start_in_a_session", ()).await.unwrap();
    finish_with(pool, &cgroups).await;
    assert!(!is_alive(stray));
}

#[tokio::test]
async fn nothing_is_left_of_a_killed_launcher_and_of_a_reload() {
    let Some(_alone) = delegated().await else { return };
    let pool = limited().workers(2).start().await.unwrap();
    let cgroups = cgroups_of(&pool).await.unwrap();
    kill(launcher_pid(&pool), 9);
    eventually("all are replaced", || pool.workers().iter().all(|worker| worker.epoch >= 2)).await;
    whole(&pool).await;
    pool.reload().await.unwrap();
    eventually("only those that serve have a cgroup", || subdirectories(&cgroups) == 2).await;
    assert_memory(&pool.call::<()>("hoard", ()).await.unwrap_err());
    finish_with(pool, &cgroups).await;
}

#[tokio::test]
#[ignore = "the host that the next test starts"]
async fn host() {
    if host::part().is_none() {
        return;
    }
    let pool = limited().workers(2).start().await.unwrap();
    let stray: i32 = pool.call("start_in_a_session", ()).await.unwrap();
    let cgroups = cgroups_of(&pool).await.unwrap();
    let holding = pool.clone();
    tokio::spawn(async move { holding.call::<()>("hold", 1_000.0).await });
    host::tell("stray", &stray.to_string());
    host::tell("ready", cgroups.to_str().unwrap());
    std::future::pending().await
}

#[tokio::test]
async fn nothing_is_left_of_a_killed_host() {
    let Some(_alone) = delegated().await else { return };
    let mut host = Host::start("any");
    let cgroups = PathBuf::from(host.tells("ready").await);
    let stray = host.tells("stray").await.parse().unwrap();
    assert!(subdirectories(&cgroups) == 2 && is_alive(stray));
    host.kill();
    eventually("all processes have ended", || host.processes().is_empty()).await;
    assert!(!cgroups.exists(), "the launcher leaves last");
    assert!(!is_alive(stray));
}

/// Takes the cgroups away from the workers that are started while it lives.
struct Forbidden(PathBuf);

impl Forbidden {
    fn new(parent: &Path) -> Self {
        let limit = parent.join("cgroup.max.descendants");
        fs::write(&limit, "0").unwrap();
        Self(limit)
    }
}

impl Drop for Forbidden {
    fn drop(&mut self) {
        fs::write(&self.0, "max").unwrap();
    }
}

#[tokio::test]
async fn a_worker_without_one_is_watched() {
    let Some(_alone) = delegated().await else { return };
    let pool = limited().start().await.unwrap();
    let cgroups = cgroups_of(&pool).await.unwrap();
    let forbidden = Forbidden::new(&cgroups);
    kill(pids(&pool)[0], 9);
    eventually("it is replaced", || pool.workers()[0].epoch >= 2).await;
    whole(&pool).await;
    assert_eq!(subdirectories(&cgroups), 0);
    let error = pool.call::<()>("hoard", ()).await.unwrap_err();
    let Error::WorkerDied(death) = &error else { panic!("{error:?}") };
    let Ended::Memory { resident, limit } = death.ended else { panic!("{error:?}") };
    assert!(resident > limit, "watched, and over the limit when that was seen");
    drop(forbidden);
    whole(&pool).await;
    kill(pids(&pool)[0], 9);
    eventually("the next one has one again", || subdirectories(&cgroups) == 1).await;
    whole(&pool).await;
    assert_memory(&pool.call::<()>("hoard", ()).await.unwrap_err());
    finish_with(pool, &cgroups).await;
}

#[tokio::test]
async fn nothing_is_left_of_a_start_that_is_given_up() {
    let Some(_alone) = delegated().await else { return };
    let pool = limited().start().await.unwrap();
    let parent = cgroups_of(&pool).await.unwrap().parent().unwrap().to_owned();
    finish(pool).await;
    let left = || {
        let of_this_process = format!("snakepen-{}-", std::process::id());
        let names = fs::read_dir(&parent).unwrap().flatten().map(|entry| entry.file_name());
        names.filter(|name| name.to_str().unwrap().starts_with(&of_this_process)).count()
    };
    assert_eq!(left(), 0);
    let (directory, path) = handler_file(
        "import pathlib, time\n(pathlib.Path(__file__).parent / 'loads').touch()\ntime.sleep(1000)\n",
    );
    let start = tokio::spawn(pool_over(&path).workers(2).memory_limit(LIMIT).start());
    eventually("it loads", || directory.path().join("loads").exists()).await;
    assert_eq!(left(), 1);
    start.abort();
    eventually("its cgroups are gone", || left() == 0).await;
}

#[tokio::test]
async fn pools_of_one_name_after_one_another_do_not_meet() {
    let Some(_alone) = delegated().await else { return };
    let mut seen = Vec::new();
    for _ in 0..2 {
        let handlers = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/handlers/cgroup.py");
        let builder = Pool::builder("again").python(python()).handlers(handlers).workers(1);
        let pool = builder.memory_limit(LIMIT).start().await.unwrap();
        seen.extend(cgroups_of(&pool).await);
        // Shut down in the background.
        let launcher = launcher_pid(&pool);
        drop(pool);
        eventually("it has ended", || {
            !children(std::process::id().cast_signed()).contains(&launcher)
        })
        .await;
    }
    assert!(seen.len() == 2 && seen[0] != seen[1], "{seen:?}");
    eventually("both have gone", || !seen.iter().any(|directory| directory.exists())).await;
}
