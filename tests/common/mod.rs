//! What the tests share: pools over real Python processes, and the check that nothing of them is left.
#![allow(dead_code, unreachable_pub)]

pub mod host;

use std::collections::BTreeSet;
use std::fs;
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::task::Poll;
use std::time::{Duration, Instant};

use snakepen::{Builder, Pool};

/// Nothing that a test waits for takes this long; a test that gets here has found a hang.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Whether the workers' Python has this module; says so if not.
pub fn has_module(name: &str) -> bool {
    let import = format!("import {name}");
    let found = std::process::Command::new(python()).args(["-c", &import]).output().unwrap();
    if !found.status.success() {
        eprintln!("skipped in part: this Python has no {name}");
    }
    found.status.success()
}

/// The interpreter of the tests: `SNAKEPEN_PYTHON`, else the one that `python3` is in the end (a pyenv shim
/// would take 100 ms to say so at each start).
pub fn python() -> PathBuf {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON
        .get_or_init(|| match std::env::var_os("SNAKEPEN_PYTHON") {
            Some(path) => path.into(),
            None => {
                let asked = std::process::Command::new("python3")
                    .args(["-c", "import sys; print(sys.executable)"])
                    .output()
                    .expect("python3 is on PATH");
                String::from_utf8(asked.stdout).expect("a UTF-8 path").trim().into()
            }
        })
        .clone()
}

/// A name that no other test of this process uses.
pub fn unique(prefix: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}-{}", SERIAL.fetch_add(1, Ordering::Relaxed))
}

/// A pool over one of the files in `tests/handlers/`, under a name of its own.
pub fn pool(handlers: &str) -> Builder {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/handlers").join(handlers);
    let stem = handlers.trim_end_matches(".py");
    Pool::builder(unique(stem)).python(python()).handlers(file.to_str().expect("a UTF-8 path"))
}

/// A handler file made of `source`, in a directory that lives as long as the returned guard.
pub fn handler_file(source: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("made_handlers.py");
    fs::write(&file, source).expect("a written file");
    let path = file.to_str().expect("a UTF-8 path").to_owned();
    (directory, path)
}

/// Waits until `condition` holds, looking every millisecond; panics with `what` if it takes too long. For what no
/// event can tell: the state of another process in /proc.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Runs a future that must not hang.
pub async fn within<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, future).await.unwrap_or_else(|_| panic!("hangs: {what}"))
}

/// Whether a process is there and is not a zombie.
pub fn is_alive(pid: i32) -> bool {
    state(pid).is_some_and(|state| state != 'Z' && state != 'X')
}

/// The state letter of a process in /proc, if it is there.
pub fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// The parent of a process.
pub fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// The process group of a process.
pub fn group(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(2)?.parse().ok()
}

/// The children of a process, zombies included.
pub fn children(pid: i32) -> Vec<i32> {
    all_pids().into_iter().filter(|&child| parent(child) == Some(pid)).collect()
}

/// The descendants of this test's process, zombies included.
pub fn descendants() -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    let mut next = vec![std::process::id().cast_signed()];
    while let Some(pid) = next.pop() {
        for child in children(pid) {
            if found.insert(child) {
                next.push(child);
            }
        }
    }
    found
}

fn all_pids() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The session that this process is in.
pub fn session() -> i32 {
    let stat = fs::read_to_string("/proc/self/stat").expect("this process");
    let (_, fields) = stat.rsplit_once(") ").expect("a name");
    fields.split(' ').nth(3).and_then(|field| field.parse().ok()).expect("a number")
}

/// The processes of a pool's workers, by slot.
pub fn pids(pool: &Pool) -> Vec<i32> {
    pool.workers().iter().filter_map(|worker| worker.pid).collect()
}

/// The launcher's process: the parent of the workers.
pub fn launcher_pid(pool: &Pool) -> i32 {
    parent(pids(pool)[0]).expect("a worker has a parent")
}

/// Waits until every slot of the pool has a worker that takes calls.
pub async fn whole(pool: &Pool) {
    eventually("the pool is whole again", || pool.stats().ready == pool.stats().size).await;
}

pub fn kill(pid: i32, signal: i32) {
    let status = std::process::Command::new("kill")
        .args([format!("-{signal}"), pid.to_string()])
        .status()
        .expect("kill runs");
    assert!(status.success(), "cannot send {signal} to {pid}");
}

/// The open descriptors of this process.
pub fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("/proc is mounted").count()
}

/// Shuts the pool down, and checks that nothing of it is left: processes, names; and that its sums agree.
pub async fn finish(pool: Pool) {
    let name = pool.name().to_owned();
    let mut left = pids(&pool);
    left.extend(left.first().and_then(|&pid| parent(pid)));
    within(LIMIT, "shutdown", pool.shutdown()).await.expect("a clean shutdown");
    let stats = pool.stats();
    let ended = stats.completed + stats.failed.total();
    assert_eq!(stats.submitted, ended, "calls are lost: {stats:?}");
    assert_eq!((stats.queued, stats.busy, stats.ready), (0, 0, 0), "{stats:?}");
    for pid in left {
        if pid != std::process::id().cast_signed() {
            assert_eq!(state(pid), None, "process {pid} is left");
        }
    }
    for registered in ractor::registry::registered() {
        assert!(
            registered != name && !registered.starts_with(&format!("{name}/")),
            "the name {registered} is left"
        );
    }
}

/// A pool over the handler file at `path`, under a name of its own.
pub fn pool_over(path: &str) -> Builder {
    Pool::builder(unique("made")).python(python()).handlers(path)
}

/// A variable for [`Builder::env`] that marks the processes of one pool, whoever their parent is by now.
pub struct Mark(String);

impl Mark {
    const KEY: &str = "SNAKEPEN_TEST_MARK";

    pub fn new() -> Self {
        Self(format!("{}.{}", unique("mark"), std::process::id()))
    }

    pub fn on(&self, builder: Builder) -> Builder {
        builder.env(Self::KEY, &self.0)
    }

    /// Marks a process that is to be started, and with it what it starts.
    pub fn set(&self, command: &mut std::process::Command) {
        command.env(Self::KEY, &self.0);
    }

    /// The processes that have it in their environment; zombies have none.
    pub fn processes(&self) -> Vec<i32> {
        let wanted = format!("{}={}", Self::KEY, self.0);
        let has = |&pid: &i32| {
            fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|all| all.split(|&byte| byte == 0).any(|one| one == wanted.as_bytes()))
        };
        all_pids().into_iter().filter(has).collect()
    }

    /// Checks that the pool's own processes are gone, and waits for those that they had started: these are killed
    /// too, but are nobody's children then, so that nobody can tell when they have ended.
    pub async fn nothing_is_left(&self) {
        // A launcher or a worker leads its group; one that user code has forked, and not yet replaced, looks alike else.
        let is_own = |&pid: &i32| {
            fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.contains("snakepen"))
                && group(pid) == Some(pid)
        };
        let left: Vec<_> = self.processes().into_iter().filter(is_own).collect();
        assert!(left.is_empty(), "processes {left:?} are left");
        eventually("nothing is left", || self.processes().is_empty()).await;
    }
}

/// Waits for a file that a handler writes, and returns its text.
pub async fn told(path: &Path) -> String {
    eventually(&format!("{} is written", path.display()), || path.exists()).await;
    fs::read_to_string(path).expect("a readable file")
}

/// What a future gives within so many polls; then it is dropped.
pub async fn polled<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let mut polled = 0;
    poll_fn(|cx| {
        polled += 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if polled >= polls => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
