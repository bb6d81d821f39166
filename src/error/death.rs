//! How workers die.

use std::fmt;

use super::mib;
use crate::sys;

/// How a process ended.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// With this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Nobody was left who could tell: the launcher was gone.
    Unknown,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exited with status {code}"),
            Exit::Signal(signal) => write!(f, "was killed by {}", sys::signal_name(*signal)),
            Exit::Unknown => f.write_str("ended"),
        }
    }
}

/// Why Snakepen ended a worker, where the worker did not end by itself.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The worker ended by itself, or something outside of Snakepen ended it.
    Itself,
    /// It closed the descriptor of its port.
    ClosedPort,
    /// It broke the protocol, in this way.
    Protocol(String),
    /// It did not answer a ping in time.
    Unhealthy,
    /// The call that it was running ran out of time, and its handler did not end within the grace.
    TimedOut,
    /// The caller of the call that it was running went away, and its handler did not end within the grace.
    Abandoned,
    /// The call that it was running was cancelled, and its handler did not end within the grace.
    Cancelled,
    /// It held more memory than the pool's [`memory_limit`](crate::Builder::memory_limit).
    Memory {
        /// Its memory in bytes: what was resident when that was noticed, or in a cgroup the most that was charged to it,
        /// which is about the limit.
        resident: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The call that it was running used too much processor time, and its handler did not end within the grace.
    CpuTime,
    /// Another call that it was running beside this one did not end within the grace after it was given up: see
    /// [`Builder::concurrency`](crate::Builder::concurrency).
    Collateral {
        /// The handler of that other call.
        handler: String,
    },
    /// It was running several calls, and one that was given up did not end within the grace, because another kept the
    /// event loop from everything else: see [`Builder::concurrency`](crate::Builder::concurrency).
    LoopBlocked {
        /// The handler that had the event loop.
        handler: String,
    },
    /// It had been stopped by a signal, as by SIGSTOP.
    Suspended,
    /// It was to be replaced, as after a cancelled call or a `MemoryError`.
    Recycled,
    /// The pool was shut down.
    Shutdown,
    /// Its worker actor was stopped.
    Stopped,
    /// The launcher ended, and took its workers with it.
    Launcher,
}

impl Ended {
    /// The handler that kept an event loop from everything else.
    pub(crate) fn blocker(&self) -> Option<&str> {
        match self {
            Ended::LoopBlocked { handler } => Some(handler),
            _ => None,
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Itself => Ok(()),
            Ended::ClosedPort => f.write_str(
                " after it had closed the descriptor of its port (`os.close` or `os.closerange` in a handler?)",
            ),
            Ended::Protocol(what) => write!(f, " because it broke the protocol: {what}"),
            Ended::Unhealthy => f.write_str(" because it did not answer a ping"),
            Ended::TimedOut => f.write_str(" because its call ran out of time"),
            Ended::Abandoned => f.write_str(" because its caller went away"),
            Ended::Cancelled => f.write_str(" because its call was cancelled"),
            Ended::Memory { resident, limit } => {
                let (resident, limit) = (mib(*resident), mib(*limit));
                write!(f, " because it held {resident} MiB of memory, the limit is {limit} MiB")
            }
            Ended::CpuTime => f.write_str(" because its call used too much processor time"),
            Ended::Collateral { handler } => write!(
                f,
                " because a call of `{handler}` beside this one was given up and did not end (if it blocks the event loop, \
                 let it use `asyncio.to_thread`)"
            ),
            Ended::LoopBlocked { handler } => write!(
                f,
                " because `{handler}` held up the event loop, so that a call which was given up could not end: let \
                 `{handler}` do its blocking work in `asyncio.to_thread`"
            ),
            Ended::Suspended => f.write_str(" because it had been stopped by a signal (SIGSTOP?)"),
            Ended::Recycled => f.write_str(" to be replaced"),
            Ended::Shutdown => f.write_str(" because the pool was shut down"),
            Ended::Stopped => f.write_str(" because its actor was stopped"),
            Ended::Launcher => f.write_str(" because the launcher ended"),
        }
    }
}

/// The death of a worker that held a call.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct WorkerDeath {
    /// The worker's name, such as `demo/worker/3`.
    pub worker: String,
    /// Its process id.
    pub pid: i32,
    /// The handler that was called.
    pub handler: String,
    /// How the process ended.
    pub exit: Exit,
    /// Why it ended, if Snakepen ended it.
    pub ended: Ended,
    /// Whether the handler had started; known from the status page.
    pub started: bool,
    /// The last 8 KiB that it wrote to stderr.
    pub stderr: String,
    /// The Python stack that faulthandler wrote at a fatal signal; empty where there was none.
    pub python_stack: String,
}

impl fmt::Display for WorkerDeath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let when = if self.started { "while running" } else { "before it had started" };
        let Self { worker, pid, exit, ended, handler, .. } = self;
        write!(f, "worker {worker} (pid {pid}) {exit}{ended} {when} `{handler}`")?;
        if !self.python_stack.is_empty() {
            write!(f, "\n{}", self.python_stack.trim_end())?;
        }
        if !self.stderr.is_empty() {
            write!(f, "\nlast words on stderr:\n{}", self.stderr.trim_end())?;
        }
        Ok(())
    }
}
