//! Counting a process's instructions: it is traced, and stopped after each of them.
//!
//! That is slow, some hundred thousand a second, but exact, and needs neither the processor's counters, which most virtual
//! machines lack, nor an emulator that knows each system call. Of the process it counts the main thread. A repeated string
//! instruction counts once per repetition.

use std::process::Command;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// Runs a program that calls [`begin`] and [`end`], and returns the instructions of its main thread between them.
pub(crate) fn count(command: &mut Command) -> u64 {
    share_a_core();
    let mut child = command.spawn().expect("the program starts");
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    let mut steps = None;
    loop {
        let signal = match waitpid(pid, None).expect("the program is a child of this one") {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => {
                *steps.get_or_insert(0) += 1;
                None
            }
            WaitStatus::Stopped(_, Signal::SIGSTOP) if steps.is_none() => {
                // Nobody would let it go on, if this process is killed.
                let options = ptrace::Options::PTRACE_O_EXITKILL;
                ptrace::setoptions(pid, options).expect("the program is traced");
                steps = Some(0);
                None
            }
            WaitStatus::Stopped(_, Signal::SIGSTOP) => break,
            WaitStatus::Stopped(_, signal) => Some(signal),
            status => panic!("the program has not come to its end: {status:?}"),
        };
        ptrace::step(pid, signal).expect("the program can be traced");
    }
    ptrace::detach(pid, None).expect("the program is traced");
    let status = child.wait().expect("the program is a child of this one");
    assert!(status.success(), "the program failed: {status}");
    steps.unwrap_or(0)
}

/// A switch to another process is cheapest where both share a core.
fn share_a_core() {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).expect("the cores of this process");
    let core = (0..CpuSet::count()).find(|&core| allowed.is_set(core).unwrap_or(false));
    let mut one = CpuSet::new();
    one.set(core.expect("a core")).expect("a core that exists");
    sched_setaffinity(this, &one).expect("a process may keep to one of its cores");
}

/// In the program: what follows is counted.
pub(crate) fn begin() {
    ptrace::traceme().expect("the program is started by the one that counts");
    raise(Signal::SIGSTOP).expect("a process can stop itself");
}

/// In the program: what follows is not counted.
pub(crate) fn end() {
    raise(Signal::SIGSTOP).expect("a process can stop itself");
}
