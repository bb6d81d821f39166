//! What can go wrong, where it went wrong, and what to do about it.

mod death;
mod exception;
mod start;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use death::{Ended, Exit, WorkerDeath};
pub use exception::PythonException;
pub use start::StartError;

use crate::array::ArrayError;
use crate::session::SessionError;

/// Where a call was when its time ran out.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// It waited for a worker; Python never saw it.
    Queue,
    /// A worker was running it.
    Run,
    /// A worker was running it, and the next item of its stream, or its end, was due.
    Item,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Queue => "in the queue",
            Stage::Run => "while running",
            Stage::Item => "between items",
        })
    }
}

/// Every way in which a pool or a call can fail. Cheap to clone.
#[non_exhaustive]
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A builder option has a value that cannot work. Nothing was started.
    #[error("option `{option}`: {message}")]
    Config {
        /// The builder method.
        option: &'static str,
        /// What is wrong, and what would be right.
        message: String,
    },

    /// An actor of this name is registered already, by another pool or by the program.
    #[error(
        "the name `{name}` is taken: choose another one, or end the pool or actor that has it first"
    )]
    NameTaken {
        /// The taken name.
        name: String,
    },

    /// A worker, or the launcher of all of them, could not be started.
    ///
    /// From `start()`: why the pool did not start. From a call: no worker of the pool can be started at
    /// present; the pool goes on trying.
    #[error("start: {0}")]
    Start(Arc<StartError>),

    /// The arguments cannot be written as JSON, or Python cannot read them (a number that it refuses, a nesting that is
    /// too deep for it). The handler did not start.
    #[error("arguments of `{handler}`: {message}")]
    Encode {
        /// The handler that was to be called.
        handler: String,
        /// What cannot be written, and where it stands in the arguments.
        message: String,
    },

    /// The arguments are larger than the pool's largest frame. Nothing was sent.
    #[error(
        "arguments of `{handler}` take {size} bytes, the limit is {limit}: send less, or raise `max_frame`"
    )]
    TooLarge {
        /// The handler that was to be called.
        handler: String,
        /// Size of the encoded call in bytes.
        size: usize,
        /// The pool's `max_frame` in bytes.
        limit: usize,
    },

    /// The queue is full. Nothing was sent.
    #[error(
        "queue: saturated, {limit} calls are waiting: try later, send less, or raise `queue_limit` or `workers`"
    )]
    Saturated {
        /// The pool's `queue_limit` in calls.
        limit: usize,
    },

    /// The workers know no handler of this name.
    #[error("run: no handler or method `{name}`; {}", known_handlers(name, known))]
    UnknownHandler {
        /// The name that was called.
        name: String,
        /// The names that can be called, sorted.
        known: Vec<String>,
    },

    /// The handler raised an exception.
    #[error("run: `{handler}` raised {exception}")]
    Python {
        /// The handler that raised it.
        handler: String,
        /// The exception, with traceback and causes.
        exception: Arc<PythonException>,
    },

    /// The handler's result cannot be written as JSON. The worker lives.
    #[error(
        "run: result of `{handler}` can't become JSON, for the {type_name} at {path}: {message}"
    )]
    BadResult {
        /// The handler that returned it.
        handler: String,
        /// The Python type of the value that is in the way.
        type_name: String,
        /// The path to that value, such as `$.rows[3]`.
        path: String,
        /// What is wrong with it, and what to return instead.
        message: String,
    },

    /// The handler ran to its end, and its result does not fit the type that the caller asked for.
    #[error("decode: result of `{handler}` is not what the caller expects: {message}")]
    Decode {
        /// The handler that returned it.
        handler: String,
        /// What did not fit, with line and column in the JSON.
        message: String,
    },

    /// The call's time ran out. One that was running is being cancelled: its handler sees `snakepen.Cancelled` or
    /// `asyncio.CancelledError`, and has the pool's [`cancel_grace`](crate::Builder::cancel_grace) to end.
    #[error("timeout {stage} after {elapsed:.1?}: `{handler}` had {timeout:?}{}", stack(*stage, python_stack))]
    Timeout {
        /// The handler that was called.
        handler: String,
        /// Where the call was.
        stage: Stage,
        /// Time since the call was made.
        elapsed: Duration,
        /// The time that the call had; or each item, for [`Stage::Item`].
        timeout: Duration,
        /// Where Python was, as faulthandler writes it, innermost frame first. Empty for a call in the queue, and where
        /// it could not be had within 5 ms, or 25 ms while a signal waits for the worker: user code blocks all signals, or
        /// the machine is busy.
        python_stack: String,
    },

    /// The call was cancelled by its [`CancelHandle`](crate::CancelHandle).
    #[error("cancelled {stage} after {elapsed:.1?}: `{handler}`{}", stack(*stage, python_stack))]
    Cancelled {
        /// The handler that was called.
        handler: String,
        /// Where the call was.
        stage: Stage,
        /// Time since the call was made.
        elapsed: Duration,
        /// Where Python was, as in [`Error::Timeout`].
        python_stack: String,
    },

    /// The call used more processor time than the pool's [`cpu_limit`](crate::Builder::cpu_limit). It is being cancelled.
    #[error(
        "run: `{handler}` used {used:.1?} of processor time, the limit is {limit:?}{}",
        stack(Stage::Run, python_stack)
    )]
    CpuTime {
        /// The handler that was called.
        handler: String,
        /// What it had used when that was noticed.
        used: Duration,
        /// The pool's `cpu_limit`.
        limit: Duration,
        /// Where Python was, as in [`Error::Timeout`].
        python_stack: String,
    },

    /// The worker died, or was ended, while it held the call.
    #[error("run: {0}")]
    WorkerDied(Arc<WorkerDeath>),

    /// The handler is not called at present, because its calls keep ending their workers or running out of time
    /// ([`Builder::circuit_threshold`](crate::Builder::circuit_threshold)). Nothing was sent.
    #[error(
        "circuit: `{handler}` has ended its worker or run out of time {failures} times in a row: try again in {retry_in:.1?}"
    )]
    CircuitOpen {
        /// The handler that was to be called.
        handler: String,
        /// So many of its calls have failed in a row.
        failures: u32,
        /// The time until a call is let through; while one that was is still running, the time if that one fails.
        retry_in: Duration,
    },

    /// The call was to run at once on one worker ([`Call::pinned_now`](crate::Call::pinned_now)), and that one was busy,
    /// or was just being replaced. Nothing was sent.
    #[error("queue: worker {worker} is not free: call again, or wait for it with `pinned`")]
    WorkerBusy {
        /// The worker's name, such as `demo/worker/3`.
        worker: String,
    },

    /// The call was made for another one, by what that has called in Rust ([`Pool::expose_fn`](crate::Pool::expose_fn)), and
    /// could not be run before that one has ended, which waits for it: the calls that it is made in hold every worker that could
    /// run it, or the turn of its session. Nothing was sent.
    ///
    /// Two chains of calls that hold all workers between them, and each wait for one more, are not found to be
    /// stuck: there the deadlines help.
    #[error(
        "queue: `{handler}` would wait for itself: it needs {waits_for}, held by the calls that it is made in ({}): make it \
         elsewhere, or outside of them; where any worker will do, have as many as calls are nested",
        chain.join(" > ")
    )]
    WouldDeadlock {
        /// The handler that was to be called.
        handler: String,
        /// What it would wait for, such as `worker demo/worker/3`.
        waits_for: String,
        /// The handlers of the calls that it is made in, the outermost first; they may be of several pools.
        chain: Vec<String>,
    },

    /// The pool's actor ended while the call was in its queue. The pool comes back by itself.
    #[error("queue: the actor of pool `{pool}` restarted while the call was waiting: call again")]
    Restarted {
        /// The pool's name.
        pool: String,
    },

    /// The pool is shut down, or was shut down before the call could be run.
    #[error("the pool `{pool}` is shut down")]
    Closed {
        /// The pool's name.
        pool: String,
    },

    /// There is no worker of this slot or name.
    #[error("no worker `{name}`{}", slots(*workers))]
    NoSuchWorker {
        /// What was asked for.
        name: String,
        /// How many workers the pool has, where it was asked for a slot.
        workers: Option<usize>,
    },

    /// A session store failed.
    #[error(transparent)]
    Session(#[from] SessionError),

    /// Something is not the array that it should be. No call fails so: it is what an [`Array`](crate::Array)'s own methods
    /// say, for callers who pass it on.
    #[error(transparent)]
    Array(#[from] ArrayError),
}

impl Error {
    /// `false` only if the handler certainly did not start.
    pub fn may_have_run(&self) -> bool {
        match self {
            Error::Config { .. }
            | Error::NameTaken { .. }
            | Error::Start(_)
            | Error::Encode { .. }
            | Error::TooLarge { .. }
            | Error::Saturated { .. }
            | Error::UnknownHandler { .. }
            | Error::CircuitOpen { .. }
            | Error::WorkerBusy { .. }
            | Error::WouldDeadlock { .. }
            | Error::Restarted { .. }
            | Error::Closed { .. }
            | Error::NoSuchWorker { .. }
            | Error::Session(_) => false,
            Error::Timeout { stage, .. } | Error::Cancelled { stage, .. } => *stage != Stage::Queue,
            Error::WorkerDied(death) => death.started,
            Error::Python { .. }
            | Error::BadResult { .. }
            | Error::Decode { .. }
            | Error::Array(_)
            | Error::CpuTime { .. } => true,
        }
    }

    /// Whether a second try is safe and can cure it: the handler certainly did not start, and the reason may
    /// pass by itself.
    pub fn is_retryable(&self) -> bool {
        let may_pass = match self {
            Error::Start(error) => error.may_pass(),
            Error::Saturated { .. }
            | Error::Timeout { .. }
            | Error::WorkerDied(_)
            | Error::CircuitOpen { .. }
            | Error::WorkerBusy { .. }
            | Error::Restarted { .. } => true,
            Error::Session(error) => error.is_retryable(),
            Error::Config { .. }
            | Error::NameTaken { .. }
            | Error::Encode { .. }
            | Error::TooLarge { .. }
            | Error::UnknownHandler { .. }
            | Error::Python { .. }
            | Error::BadResult { .. }
            | Error::Decode { .. }
            | Error::Array(_)
            | Error::Cancelled { .. }
            | Error::CpuTime { .. }
            | Error::WouldDeadlock { .. }
            | Error::Closed { .. }
            | Error::NoSuchWorker { .. } => false,
        };
        may_pass && !self.may_have_run()
    }
}

impl From<StartError> for Error {
    fn from(error: StartError) -> Self {
        Error::Start(Arc::new(error))
    }
}

/// The nearest number of mebibytes: what is killed at a limit may have held some pages less.
fn mib(bytes: u64) -> u64 {
    bytes.saturating_add(1 << 19) >> 20
}

fn stack(stage: Stage, python_stack: &str) -> String {
    match (stage, python_stack.trim_end()) {
        (Stage::Queue, _) => {
            "; it had not begun: no worker was free for it, or its turn had not come".to_owned()
        }
        (_, "") => "; its Python stack could not be had in time".to_owned(),
        (_, stack) => format!("; Python was here:\n{stack}"),
    }
}

fn known_handlers(name: &str, known: &[String]) -> String {
    if name.starts_with("dspy.") && !known.iter().any(|known| known.starts_with("dspy.")) {
        "build the pool with `dspy()`".to_owned()
    } else if known.is_empty() {
        "there are none: decorate functions with `@snakepen.handler`, or name them with `expose`"
            .to_owned()
    } else {
        let private = name.starts_with('_') && !known.iter().any(|known| known.starts_with('_'));
        let why = if private { "what begins with `_` is private; " } else { "" };
        format!("{why}there are: {}", known.join(", "))
    }
}

fn slots(workers: Option<usize>) -> String {
    match workers {
        Some(count) => format!(": the slots are 0 to {}", count - 1),
        None => ": a worker's name is `<pool>/worker/<slot>`, while its pool runs".to_owned(),
    }
}

/// The exception, and below it the traceback if that says more.
fn with_traceback(exception: &PythonException) -> String {
    let (first, traceback) = (exception.to_string(), exception.traceback.trim_end());
    if traceback.is_empty() || traceback == first { first } else { format!("{first}\n{traceback}") }
}

fn stderr_lines(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!("; stderr:\n{}", stderr.trim_end()) }
}

#[cfg(test)]
mod tests;
