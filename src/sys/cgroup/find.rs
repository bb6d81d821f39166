//! Where a process may make cgroups of its own.
//!
//! cgroup v2 lets a cgroup have processes, or hand controllers to those below it, but not both; the root of the machine
//! alone may do both. The host is never moved. So its own cgroup will not do, but the one above it does where a service
//! manager has given that to the host to divide, and has put the host into a cgroup below: `Delegate=` with
//! `DelegateSubgroup=` in systemd, or a container whose first process has made such a cgroup for itself.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::write;

/// What systemd writes on a cgroup that it has delegated; the first since 251, the other only root can read.
const MARKS: [&str; 2] = ["user.delegate", "trusted.delegate"];

/// A cgroup in which this process may make others with a memory limit, or why there is none.
pub(super) fn delegated() -> Result<PathBuf, String> {
    let read = |path: &str| fs::read(path).map_err(|error| format!("{path}: {error}"));
    let (mounts, cgroups) = (read("/proc/self/mountinfo")?, read("/proc/self/cgroup")?);
    let Some((mount, path)) = own(&mounts, &cgroups) else {
        return Err("this process's cgroup v2 is not mounted here".to_owned());
    };
    choose(&mount, &path)
}

/// Where the hierarchy is mounted, and this process's place in it, relative to that.
fn own(mounts: &[u8], cgroups: &[u8]) -> Option<(PathBuf, PathBuf)> {
    let own = lines(cgroups).find_map(|line| line.strip_prefix(b"0::"))?;
    // One that is outside of this process's cgroup namespace: nothing there is its own.
    if own.split(|&byte| byte == b'/').any(|part| part == b"..") {
        return None;
    }
    let own = path(own.to_vec());
    lines(mounts).find_map(|line| {
        // As in `30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw`, with any number of `shared:9`.
        let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
        let after = fields.iter().position(|field| *field == b"-")?;
        if *fields.get(after + 1)? != b"cgroup2" {
            return None;
        }
        let (root, mount) = (path(unescaped(fields.get(3)?)), path(unescaped(fields.get(4)?)));
        let below = own.strip_prefix(root).ok()?.to_owned();
        Some((mount, below))
    })
}

/// The one above this process's own, else its own, which serves if it is the root.
fn choose(mount: &Path, path: &Path) -> Result<PathBuf, String> {
    let own = mount.join(path);
    let Some(above) = path.parent() else {
        return offers_memory(&own).map(|()| own);
    };
    let parent = mount.join(above);
    if !is_given(&parent, above.as_os_str().is_empty()) {
        return Err(format!("{} is not delegated to this process", parent.display()));
    }
    offers_memory(&parent).map(|()| parent)
}

/// Whether a cgroup was handed to this process to divide, and is not just writable, as all are to root, and a user's slices
/// to all that this user runs: workers that were moved there would escape from their service, its limits and its end.
fn is_given(directory: &Path, is_top: bool) -> bool {
    // Nothing is above that, on this machine or in this container, that a worker could escape to.
    if is_top {
        return true;
    }
    let marked = |name: &&str| {
        let mut value = [0; 1];
        rustix::fs::getxattr(directory, *name, &mut value[..]) == Ok(1) && value == *b"1"
    };
    if MARKS.iter().any(marked) {
        return true;
    }
    let me = crate::sys::effective_uid();
    let is_mine = fs::metadata(directory).is_ok_and(|it| me != 0 && it.uid() == me);
    is_mine && directory.extension().is_none_or(|kind| kind != "slice")
}

/// Whether cgroups with a memory limit can be made below this one, and processes be moved there from where this one is.
fn offers_memory(directory: &Path) -> Result<(), String> {
    let at = |name: &str| directory.join(name);
    let refused = |why: String| Err(format!("{}: {why}", directory.display()));
    let has_memory = |name: &str| {
        let controllers = fs::read_to_string(at(name)).unwrap_or_default();
        controllers.split_ascii_whitespace().any(|controller| controller == "memory")
    };
    if !has_memory("cgroup.controllers") {
        return refused("has no memory controller".to_owned());
    }
    for place in [directory, &at("cgroup.procs")] {
        if let Err(error) = access(place, Access::WRITE_OK) {
            return refused(format!("cannot be written to: {error}"));
        }
    }
    if !has_memory("cgroup.subtree_control")
        && let Err(error) = write(&at("cgroup.subtree_control"), "+memory")
    {
        return refused(format!("cannot hand on the memory controller: {error}"));
    }
    if directory.to_str().is_none() {
        return refused("is not UTF-8".to_owned());
    }
    Ok(())
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n')
}

fn path(bytes: Vec<u8>) -> PathBuf {
    OsString::from_vec(bytes).into()
}

/// A field of mountinfo: blanks, line ends and backslashes are written as three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) if byte == b'\\' => {
                plain.push(escaped);
                rest = &after[3..];
            }
            _ => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests;
