//! Snakepen gives a Rust program a pen of Python worker processes: supervised, pooled, named.

mod actors;
mod backoff;
mod board;
mod call;
mod config;
mod error;
mod interpreter;
mod launcher;
mod package;
mod pool;
mod port;
mod request;
mod scheduler;
mod shared;
mod stats;
mod sys;
mod wire;

pub use call::Call;
pub use config::Builder;
pub use error::{Ended, Error, Exit, PythonException, Stage, StartError, WorkerDeath};
pub use pool::{Pool, WorkerHandle};
pub use stats::{Failures, Quantiles, Stats, WorkerInfo, WorkerState};

#[cfg(fuzzing)]
#[doc(hidden)]
pub fn fuzz_decoder(data: &[u8]) {
    wire::fuzz(data);
}
