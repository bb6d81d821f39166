//! Why workers and launchers do not start.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Exit, PythonException, mib, stderr_lines, with_traceback};

/// Why a worker, or the launcher, did not start.
#[non_exhaustive]
#[derive(Clone, Debug, thiserror::Error)]
pub enum StartError {
    /// There is no such Python interpreter, or it cannot be executed.
    #[error("Python interpreter `{}` ({origin}): {message}", path.display())]
    Interpreter {
        /// What was to be executed.
        path: PathBuf,
        /// Which setting named it.
        origin: &'static str,
        /// Why it cannot be.
        message: String,
    },

    /// The embedded Python package could not be written to the cache directory.
    #[error(
        "cannot write the embedded Python package: {0}; set SNAKEPEN_CACHE_DIR to a writable directory"
    )]
    Package(String),

    /// The interpreter is not one that Snakepen runs on.
    #[error("{0}")]
    UnsupportedPython(String),

    /// The system refused a process, a socket or a pipe.
    #[error("the system refused to start a process: {0}")]
    System(String),

    /// User code failed while it was loaded.
    #[error(
        "{stage} failed with {}{}",
        with_traceback(exception),
        missing_module(exception, python)
    )]
    Python {
        /// What was being loaded: `handlers`, `expose of …`, `preload of …` or `site`.
        stage: String,
        /// The Python interpreter that was to load it.
        python: PathBuf,
        /// The exception, with traceback and causes.
        exception: Box<PythonException>,
    },

    /// It was not ready in time.
    #[error("{what} was not ready within {timeout:?} (`startup_timeout`)")]
    Timeout {
        /// What was being started, and which part of it took so long.
        what: String,
        /// The pool's `startup_timeout`.
        timeout: Duration,
    },

    /// The process ended before it was ready.
    #[error("{what} {exit} before it was ready{}", stderr_lines(stderr))]
    Exited {
        /// The launcher, or the worker's name.
        what: String,
        /// How it ended.
        exit: Exit,
        /// The last 8 KiB that it wrote to stderr.
        stderr: String,
    },

    /// It came to the pool's [`memory_limit`](crate::Builder::memory_limit) before it was ready, and was killed. Where there
    /// is no cgroup for it, the limit is not enforced that early.
    #[error(
        "{what} was killed before it was ready: it held {} MiB of memory, the limit is {} MiB (`memory_limit`)",
        mib(*held),
        mib(*limit)
    )]
    Memory {
        /// The worker's name.
        what: String,
        /// The most memory in bytes that it held.
        held: u64,
        /// The limit in bytes.
        limit: u64,
    },

    /// The process does not speak the protocol.
    #[error("{what} broke the protocol: {message}")]
    Protocol {
        /// The launcher, or the worker's name.
        what: String,
        /// In which way.
        message: String,
    },

    /// The start was given up because the pool was stopped.
    #[error("the pool was stopped before {what} was ready")]
    Stopped {
        /// The launcher, or the worker's name.
        what: String,
    },
}

/// Where it was looked for, if a module is missing.
fn missing_module(exception: &PythonException, python: &Path) -> String {
    if exception.type_name != "ModuleNotFoundError" {
        return String::new();
    }
    format!(
        "\nThe interpreter is `{}`: install the module there, name another interpreter (`python`), or the directory that the \
         module is in (`path`)",
        python.display()
    )
}

impl StartError {
    /// Whether another try may end otherwise though nobody has changed anything.
    pub(super) fn may_pass(&self) -> bool {
        !matches!(
            self,
            StartError::Python { .. }
                | StartError::Interpreter { .. }
                | StartError::UnsupportedPython(_)
                | StartError::Package(_)
        )
    }
}
