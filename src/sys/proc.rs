//! What `/proc` tells of a process.

use std::fs;
use std::io;
use std::time::Duration;

/// What a process uses, its children not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Stopped by a signal, as by SIGSTOP; one that a debugger holds is not.
    pub(crate) stopped: bool,
    /// Resident memory in bytes.
    pub(crate) resident: u64,
    /// Time on a processor, in user and in kernel mode; counted in steps of 10 ms on most systems.
    pub(crate) cpu: Duration,
}

/// What a process uses at present.
pub(crate) fn usage(pid: i32) -> io::Result<Usage> {
    let stat = fs::read(format!("/proc/{pid}/stat"))?;
    parse(&stat).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The number of descriptors that a process has open.
pub(crate) fn open_files(pid: i32) -> io::Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// Whether a signal that was sent to the process, or to its main thread, has not reached it yet: it blocks it, or has
/// not run since.
pub(crate) fn is_pending(pid: i32, signal: libc::c_int) -> io::Result<bool> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let mask = |of: &str| {
        let mask = status.lines().find_map(|line| line.strip_prefix(of))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    };
    let pending = mask("SigPnd:").zip(mask("ShdPnd:")).map(|(thread, process)| thread | process);
    Ok(pending.ok_or(io::ErrorKind::InvalidData)? & (1 << (signal - 1)) != 0)
}

/// The fields of proc(5) after the name, which may hold anything but ends at the last parenthesis.
fn parse(stat: &[u8]) -> Option<Usage> {
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(&stat[end + 1..]).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let ticks = number(14)? + number(15)?;
    let per_second = rustix::param::clock_ticks_per_second();
    Some(Usage {
        stopped: *fields.first()? == "T",
        resident: number(24)? * rustix::param::page_size() as u64,
        cpu: Duration::from_millis(ticks * 1000 / per_second),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_anything_in_it_does_not_matter() {
        let rest = "T 1 2 3 0 -1 4 5 6 7 8 150 50 0 0 20 0 1 0 99 1000 12 18446744073709551615";
        let usage = parse(format!("42 (a) R b) {rest}\n").as_bytes()).unwrap();
        assert!(usage.stopped);
        assert_eq!(usage.resident, 12 * rustix::param::page_size() as u64);
        assert_eq!(
            usage.cpu,
            Duration::from_millis(200 * 1000 / rustix::param::clock_ticks_per_second())
        );
        assert_eq!(parse(b"garbage"), None);
        assert_eq!(parse(b"1 (x) R"), None);
    }

    #[test]
    fn this_process_is_found() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let usage = usage(pid).unwrap();
        assert!(!usage.stopped && usage.resident > 1 << 20);
        assert!(open_files(pid).unwrap() >= 3);
        assert!(!is_pending(pid, libc::SIGURG).unwrap());
    }
}
