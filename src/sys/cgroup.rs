//! A pool's cgroups: one directory for the pool, and in it one for each worker that the kernel is to hold to its memory
//! limit. The launcher makes them (`_cgroup.py`); here they are looked at, and removed.
//!
//! All of this is blocking work on cgroupfs, which never waits for a device.

mod find;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// A process that was killed has left its cgroup long before; one that is stuck in the kernel is not waited for longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// From one try to remove a cgroup to the next, at first and at most.
const TRY_AGAIN: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));

/// The longest part of a pool's name in that of its directory; 255 bytes are the most for all of it.
const LONGEST_NAME: usize = 64;

// === Of a pool ===

/// The directory of a pool's cgroups, which is there while workers are. Dropping it kills what is in it and removes it.
#[derive(Debug)]
pub(crate) struct PoolCgroup(Cgroup);

impl PoolCgroup {
    /// One in a cgroup that was delegated to this process, or why there is none.
    pub(crate) fn find(pool: &str) -> Result<Self, String> {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let parent = find::delegated()?;
        // A name that no other pool has, of this process or of another, one that has the same name later included.
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("snakepen-{}-{serial}-{}", std::process::id(), file_name(pool));
        Ok(Self(Cgroup { directory: parent.join(name) }))
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.0.directory
    }

    /// The cgroup of a worker, which the launcher makes before it starts that.
    pub(crate) fn worker(&self, slot: usize, epoch: u64) -> WorkerCgroup {
        WorkerCgroup(Cgroup { directory: self.0.directory.join(format!("{slot}.{epoch}")) })
    }

    /// Removes it, with what workers have left there; returns when that is done.
    pub(crate) async fn remove(&self) {
        remove_in_time(&self.0.directory).await;
    }
}

/// What can be part of a cgroup's name, whatever somebody has called a pool.
fn file_name(pool: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_';
    pool.chars().map(|it| if plain(it) { it } else { '_' }).take(LONGEST_NAME).collect()
}

// === Of a worker ===

/// A worker's cgroup, if the launcher could make it. Dropping it kills what is left in it, whatever session that is in,
/// and removes it.
#[derive(Debug)]
pub(crate) struct WorkerCgroup(Cgroup);

impl WorkerCgroup {
    /// Whether this process is in it.
    pub(crate) fn holds(&self, pid: i32) -> bool {
        let processes = fs::read_to_string(self.0.directory.join("cgroup.procs"));
        processes.is_ok_and(|text| text.lines().any(|line| line.parse() == Ok(pid)))
    }

    /// Whether the kernel has killed what is in it, and why. Asked when the worker has ended.
    pub(crate) fn killed(&self) -> Option<Killed> {
        let events = fs::read_to_string(self.0.directory.join("memory.events")).ok()?;
        if count(&events, "oom_kill") == 0 {
            return None;
        }
        if count(&events, "oom") == 0 {
            return Some(Killed::OutOfMemory);
        }
        let number = |file| {
            let text = fs::read_to_string(self.0.directory.join(file)).ok()?;
            text.trim().parse::<u64>().ok()
        };
        // The first is there since 5.19.
        let held = number("memory.peak").or_else(|| number("memory.max"))?;
        Some(Killed::OverLimit { held })
    }
}

/// Why the kernel has killed a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Killed {
    /// It came to its own limit. It held so many bytes at most.
    OverLimit { held: u64 },
    /// There was no memory left on the machine, or in a cgroup above.
    OutOfMemory,
}

/// A line of `memory.events`.
fn count(events: &str, event: &str) -> u64 {
    let count = |line: &str| line.strip_prefix(event)?.strip_prefix(' ')?.parse().ok();
    events.lines().find_map(count).unwrap_or(0)
}

// === Removing ===

/// A directory in cgroupfs that need not be there. Dropping it removes it: at once if it is empty, else in the background.
#[derive(Debug)]
struct Cgroup {
    directory: PathBuf,
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if remove(&self.directory).is_ok() {
            return;
        }
        // Without a runtime the host ends, and the launcher removes it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let directory = std::mem::take(&mut self.directory);
            runtime.spawn(async move { remove_in_time(&directory).await });
        }
    }
}

async fn remove_in_time(directory: &Path) {
    let end = Instant::now() + PATIENCE;
    let (mut pause, longest) = TRY_AGAIN;
    while let Err(error) = remove(directory) {
        if Instant::now() >= end {
            tracing::warn!(cgroup = %directory.display(), %error, "a cgroup cannot be removed");
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

/// Kills all processes in a cgroup, and removes it and those below it; one that is not there is no error. Processes are
/// not gone at once, so that it may have to be done again.
fn remove(directory: &Path) -> io::Result<()> {
    // It is there since 5.14. Without it, what has left the worker's process group lives on, as it does without a cgroup.
    let _ = write(&directory.join("cgroup.kill"), "1");
    gone_is_fine(remove_below(directory))
}

fn remove_below(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            gone_is_fine(remove_below(&entry.path()))?;
        }
    }
    fs::remove_dir(directory)
}

fn gone_is_fine(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        // The second while the directory is read.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        removed => removed,
    }
}

/// Writes to a file of cgroupfs, which takes a value in one piece and lets nobody make files.
fn write(file: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(file)?.write_all(value.as_bytes())
}

#[cfg(test)]
mod tests;
