//! What /proc tells of processes, descriptors and memory.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getpid, kill_process};
use tokio::time::sleep;

/// A variable that marks the processes of one pool, whoever their parent is by now.
pub(crate) struct Mark(String);

impl Mark {
    pub(crate) const KEY: &str = "SNAKEPEN_CHAOS_MARK";

    pub(crate) fn new() -> Self {
        Self(format!("{}.{:x}", std::process::id(), fastrand::u64(..)))
    }

    pub(crate) fn value(&self) -> &str {
        &self.0
    }

    /// Whether the process has it in its environment; a zombie has none.
    fn is_on(&self, pid: i32) -> bool {
        let wanted = format!("{}={}", Self::KEY, self.0);
        fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|all| all.split(|&byte| byte == 0).any(|one| one == wanted.as_bytes()))
    }

    pub(crate) fn processes(&self) -> Vec<i32> {
        all_pids().into_iter().filter(|&pid| self.is_on(pid)).collect()
    }

    /// The launcher and the workers, which lead their groups, and not what they have forked.
    pub(crate) fn own_processes(&self) -> Vec<i32> {
        let is_snakepen = |pid: i32| {
            fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.contains("snakepen"))
        };
        let mut own = self.processes();
        own.retain(|&pid| stat(pid, GROUP) == Some(pid) && is_snakepen(pid));
        own
    }

    /// Signals a process that has the mark; no other, whatever has become of the number.
    pub(crate) fn signal(&self, pid: i32, signal: Signal) -> bool {
        let marked = Pid::from_raw(pid).filter(|_| self.is_on(pid));
        marked.is_some_and(|pid| kill_process(pid, signal).is_ok())
    }
}

/// Places in /proc/<pid>/stat, counted from after the name.
const PARENT: usize = 1;
const GROUP: usize = 2;

fn stat(pid: i32, field: usize) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(field)?.parse().ok()
}

pub(crate) fn parent(pid: i32) -> Option<i32> {
    stat(pid, PARENT)
}

/// A process in words: pid, state, parent, group, and what it sleeps in.
pub(crate) fn describe(pid: i32) -> String {
    let read = |file| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let stat = read("stat");
    let stat: Vec<_> = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
    let status = read("status");
    let signals = status.lines().filter(|line| line.starts_with("Sig") || line.starts_with("Shd"));
    let (seen, signals) = (stat.get(..3).unwrap_or_default(), signals.collect::<Vec<_>>());
    format!("{pid} {seen:?} {} {signals:?}", read("wchan"))
}

/// This process's children, zombies included.
pub(crate) fn children() -> Vec<i32> {
    let me = getpid().as_raw_nonzero().get();
    all_pids().into_iter().filter(|&pid| parent(pid) == Some(me)).collect()
}

fn all_pids() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The open descriptors of this process.
pub(crate) fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// This process's resident memory in bytes.
pub(crate) fn memory() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<usize>().ok());
    kib.unwrap_or_default() << 10
}

/// Waits until the condition holds; whether it did in time.
pub(crate) async fn eventually(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > limit {
            return false;
        }
        sleep(Duration::from_millis(5)).await;
    }
    true
}
