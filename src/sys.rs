//! What only Linux has: the one module to rewrite for another platform, and the only one with `unsafe`.

#[cfg(not(target_os = "linux"))]
compile_error!("snakepen runs on Linux only: it needs pidfd, memfd, PDEATHSIG and SCM_RIGHTS");

mod cgroup;
mod proc;
mod segment;
mod status;

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sockopt,
};
use rustix::pipe::PipeFlags;

pub(crate) use cgroup::{Killed, PoolCgroup, WorkerCgroup};
pub(crate) use proc::{open_files, usage};
pub(crate) use segment::Segment;
pub(crate) use status::StatusPage;

/// Wanted size of a port's socket buffers in bytes; the kernel caps it at `net.core.wmem_max`.
/// 1 MiB there and back takes 811 µs with the kernel's default and 312 µs with 4 MiB.
const SOCKET_BUFFER: usize = 4 << 20;

/// The most descriptors that one control message carries: a port's six.
const MAX_FDS: usize = 6;

// === Sockets and pipes ===

/// A duplex byte stream for a port; both ends close on exec.
pub(crate) fn stream_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let pair = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    for end in [&pair.0, &pair.1] {
        sockopt::set_socket_send_buffer_size(end, SOCKET_BUFFER)?;
    }
    Ok(pair)
}

/// Writes what a stream takes of these pieces. Never blocks if the socket does not, and never raises SIGPIPE.
pub(crate) fn send_pieces(socket: impl AsFd, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    if let [piece] = pieces {
        return Ok(rustix::net::send(socket, piece, SendFlags::NOSIGNAL)?);
    }
    let mut control = SendAncillaryBuffer::default();
    Ok(rustix::net::sendmsg(socket, pieces, &mut control, SendFlags::NOSIGNAL)?)
}

/// Reads what is there, and fails where that is nothing.
pub(crate) fn receive_now(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::net::recv(socket, buffer, RecvFlags::DONTWAIT)?.1)
}

/// Likewise, from what is no socket, and whose reads never block.
pub(crate) fn read_now(file: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut *buffer))?)
}

/// Ends the stream that the other end of a socket reads.
pub(crate) fn end_writing(socket: impl AsFd) -> io::Result<()> {
    Ok(rustix::net::shutdown(socket, rustix::net::Shutdown::Write)?)
}

/// A duplex channel of messages with descriptors; both ends close on exec.
pub(crate) fn message_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// A pipe as (read end, write end). The read end never blocks; the write end blocks unless asked otherwise.
pub(crate) fn pipe(nonblocking_write: bool) -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    set_nonblocking(&read)?;
    if nonblocking_write {
        set_nonblocking(&write)?;
    }
    Ok((read, write))
}

pub(crate) fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    Ok(rustix::io::ioctl_fionbio(fd, true)?)
}

/// Registers a descriptor with the runtime.
#[allow(unsafe_code)]
pub(crate) fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` always returns the same descriptor, and owns it until it is dropped.
    let watched = unsafe { AsyncFd::register_with_interest(fd, interest) };
    Ok(watched?)
}

/// Sends one message with descriptors over a message channel. Never raises SIGPIPE.
pub(crate) fn send_message(
    socket: impl AsFd,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one message and its descriptors, which close on exec. Zero bytes mean the other end is closed.
pub(crate) fn receive_message(
    socket: impl AsFd,
    buffer: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(buffer)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "control message too long"));
    }
    let fds = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    Ok((received.bytes, fds))
}

// === Processes ===

/// Signals that Snakepen sends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Signal {
    /// Asks a worker to cancel the call that the status page names, and for its stack. Like the next one it is ignored by
    /// default, and of no use to a process without a terminal or out-of-band data.
    Urg,
    /// Asks faulthandler for the stack, which it writes in C, whatever Python is at.
    Winch,
    Term,
    Kill,
}

impl Signal {
    fn number(self) -> libc::c_int {
        match self {
            Signal::Urg => libc::SIGURG,
            Signal::Winch => libc::SIGWINCH,
            Signal::Term => libc::SIGTERM,
            Signal::Kill => libc::SIGKILL,
        }
    }
}

/// A process that leads its own process group, named by a pidfd, so that a recycled pid is never signalled.
#[derive(Debug)]
pub(crate) struct Process {
    pid: i32,
    pidfd: OwnedFd,
}

impl Process {
    pub(crate) fn new(pid: i32, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd }
    }

    /// Opens the pidfd of a child that is not reaped yet.
    pub(crate) fn of_child(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).map_err(io::Error::other)?;
        let named = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
        let pidfd = rustix::process::pidfd_open(named, rustix::process::PidfdFlags::empty())?;
        Ok(Self { pid, pidfd })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Another descriptor of the same pidfd: readable once the process has ended.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.pidfd.try_clone()
    }

    /// Whether a signal that was sent has not reached the process yet.
    pub(crate) fn awaits(&self, signal: Signal) -> bool {
        proc::is_pending(self.pid, signal.number()).unwrap_or(false)
    }

    /// Signals the process alone. A process that is gone is not an error.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        gone_is_fine(self.send(signal.number(), 0))
    }

    /// Signals the main thread of the process. Before Linux 6.9 the kernel may pick another one, where several have
    /// been stopped and go on: CPython 3.11 and earlier then don't look at the signal until the main thread takes the GIL.
    pub(crate) fn signal_main_thread(&self, signal: Signal) -> io::Result<()> {
        const PIDFD_SIGNAL_THREAD: libc::c_uint = 1 << 0;
        match self.send(signal.number(), PIDFD_SIGNAL_THREAD) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => self.signal(signal),
            answer => gone_is_fine(answer),
        }
    }

    /// Kills the whole process group, the leader's own death included.
    ///
    /// Since Linux 6.9 the pidfd names the group itself, dead leader or not. Before, the group can only be
    /// named by number, which is safe while the leader is alive or not reaped, and is left alone otherwise.
    pub(crate) fn kill_group(&self) -> io::Result<()> {
        const PIDFD_SIGNAL_PROCESS_GROUP: libc::c_uint = 1 << 2;
        match self.send(libc::SIGKILL, PIDFD_SIGNAL_PROCESS_GROUP) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            answer => return gone_is_fine(answer),
        }
        if self.send(0, 0).is_err() {
            return Ok(());
        }
        let group = rustix::process::Pid::from_raw(self.pid).ok_or(io::ErrorKind::InvalidInput)?;
        let killed = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        gone_is_fine(killed.map_err(io::Error::from))?;
        self.signal(Signal::Kill)
    }

    #[allow(unsafe_code)]
    fn send(&self, signal: libc::c_int, flags: libc::c_uint) -> io::Result<()> {
        // SAFETY: the system call takes integers and a null `siginfo`; the descriptor outlives the call.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                flags,
            )
        };
        if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

fn gone_is_fine(answer: io::Result<()>) -> io::Result<()> {
    match answer {
        Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Ok(()),
        answer => answer,
    }
}

/// Puts the child that `command` starts into a process group of its own without a terminal, and lets it ignore INT, TERM and
/// HUP, all before the program runs: Ctrl-C reaches the host only, from the first instant. A terminal that can't be given up
/// is left by a session of its own.
///
/// It stays in the host's session: to another one the kernel may give a share of the processors of its own
/// (`kernel.sched_autogroup_enabled`), and then puts the worker that has just answered aside for the host, each time.
#[allow(unsafe_code)]
pub(crate) fn detach(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: between fork and exec only async-signal-safe calls are made, and nothing is allocated.
    unsafe {
        command.pre_exec(|| {
            // A handler that asks there for a password would wait, or be stopped.
            let how = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC | libc::O_NONBLOCK;
            let terminal = libc::open(c"/dev/tty".as_ptr(), how);
            let has_none = if terminal == -1 {
                io::Error::last_os_error().raw_os_error() == Some(libc::ENXIO)
            } else {
                libc::ioctl(terminal, libc::TIOCNOTTY) == 0
            };
            if terminal != -1 {
                libc::close(terminal);
            }
            let answer = if has_none { libc::setpgid(0, 0) } else { libc::setsid() };
            if answer == -1 {
                return Err(io::Error::last_os_error());
            }
            for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
                if libc::signal(signal, libc::SIG_IGN) == libc::SIG_ERR {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
}

/// The name of a signal number, as in `SIGKILL`; the bare number where it has none.
pub(crate) fn signal_name(signal: i32) -> String {
    let name = match signal {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGUSR1 => "SIGUSR1",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGUSR2 => "SIGUSR2",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGXFSZ => "SIGXFSZ",
        libc::SIGSYS => "SIGSYS",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

// === Time ===

/// Blocks until `fd` is readable, as a pidfd is after its process has ended; whether it was so within `time`.
pub(crate) fn wait_readable(fd: &OwnedFd, time: Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let until = Instant::now() + time;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout =
            Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => return ready > 0,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// A moment as CLOCK_MONOTONIC tells it, in ns: what `time.monotonic_ns()` says in Python. An `Instant` is of the same
/// clock, but doesn't tell its number; so the two are compared once.
pub(crate) fn monotonic_ns(at: Instant) -> u64 {
    static ANCHOR: LazyLock<(Instant, Duration)> = LazyLock::new(|| {
        let anchor = Instant::now();
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        (anchor, Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0)))
    });
    let (anchor, anchor_ns) = *ANCHOR;
    let since = anchor_ns + at.saturating_duration_since(anchor);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The effective user id, to tell whose cache directory it is.
pub(crate) fn effective_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    /// A process that was killed has ended by then.
    const SOON: Duration = Duration::from_millis(100);

    /// Scenario: the process ends, is reaped, and its number is given to a stranger that leads a group of its own.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "no runtime is held up")]
    fn a_recycled_pid_is_never_signalled() {
        let sleeper = || Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
        let mut ended = sleeper();
        let pid = ended.id();
        let process = Process::of_child(pid).unwrap();
        process.signal(Signal::Kill).unwrap();
        ended.wait().unwrap();

        // The kernel gives out the next number after this one, unless somebody else is faster, or it may not be set.
        for _ in 0..200 {
            if std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).is_err() {
                return;
            }
            let mut stranger = sleeper();
            if stranger.id() == pid {
                process.signal(Signal::Kill).unwrap();
                process.kill_group().unwrap();
                let pidfd = Process::of_child(pid).unwrap().duplicate().unwrap();
                assert!(!wait_readable(&pidfd, SOON), "a stranger was killed");
            }
            stranger.kill().unwrap();
            stranger.wait().unwrap();
            if stranger.id() == pid {
                return;
            }
        }
    }
}
