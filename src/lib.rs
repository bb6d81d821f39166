//! Snakepen gives a Rust program a pen of Python worker processes: supervised, pooled, named.
//!
//! Point it at a Python file, and call its functions as if they were async Rust functions. Python stays out of the
//! host's address space: a segfault, a leak, a stuck C extension or a GIL costs one worker, never the host and
//! never the other callers.
//!
//! ```python
//! # examples/basics.py
//! import snakepen
//!
//! @snakepen.handler
//! def add(a: int, b: int) -> int:
//!     return a + b
//! ```
//!
//! ```
//! use std::time::Duration;
//! use snakepen::{Error, Pool};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Error> {
//! let pool = Pool::builder("demo").handlers("examples/basics.py").workers(2).start().await?;
//!
//! let sum: i64 = pool.call("add", (2, 3)).await?;
//! assert_eq!(sum, 5);
//!
//! let error = pool.call::<f64>("divide", (1, 0)).timeout(Duration::from_secs(5)).await.unwrap_err();
//! let Error::Python { exception, .. } = &error else { panic!("{error}") };
//! assert_eq!(exception.type_name, "ZeroDivisionError");
//! assert!(error.may_have_run());
//!
//! pool.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Theory of operation
//!
//! A pool is a small tree of [`ractor`] actors in the host, one *launcher* process, and a number of *workers*:
//!
//! ```text
//! <pool>/root                     keeps the next one running
//! └─ <pool>/supervisor            rest for one, in this order
//!    ├─ <pool>/launcher           owns the launcher process, which forks the workers
//!    ├─ <pool>/workers            one for one, each slot with a backoff of its own
//!    │  └─ <pool>/worker/<slot>   owns one port: one Python process and the socket to it
//!    └─ <pool>                    owns the queue and the deadlines
//! ```
//!
//! Beside it stands the store of its sessions, `<pool>/sessions`, unless it was [given one](Builder::sessions).
//!
//! A call is encoded in the caller's task and admitted (or refused: the queue is bounded); then the pool's dispatcher
//! gives it to an idle worker, or queues it. The worker's I/O task writes it to the Python process and reads frames
//! until the answer; it gives Python the next call, and the answer to the caller, who decodes it. No actor ever waits
//! for Python.
//!
//! Every call ends: with a result, a Python exception, or an [`Error`] that says where it was and whether its handler
//! may have run. A call whose time runs out, or whose future is dropped, never runs if it was still queued; if it was
//! running, its handler is [cancelled](Builder::cancel_grace), and killed if it goes on. A worker that has to be replaced
//! is back within milliseconds, because workers are forked from the launcher, together with everything that was
//! [preloaded](Builder::preload).
//!
//! No process outlives its pool: workers lead process groups that are killed before their leader is reaped, the
//! launcher ends with the host, and a worker with its launcher, even if each is killed with `-9`.
//!
//! # Streams
//!
//! A generator, `async def` or not, is a stream: [`Pool::stream`] gives its items as they come, a slow consumer stops it, and
//! dropping the [`CallStream`] closes it. [`Call::input`] gives a handler a stream as an argument, and [`Call::progress`] tells
//! how far it is.
//!
//! # Many calls at once
//!
//! A worker has one call at a time. With [`Builder::concurrency`] the calls of its `async def` handlers overlap; and the calls of
//! a handler that is decorated with `@snakepen.handler(batch=32, wait_ms=5)` are gathered, so that one call of the function
//! takes them all. Each keeps its own answer, deadline and cancellation.
//!
//! # Sessions
//!
//! Workers keep no state. What has to outlive a call, or a worker, is kept in a [`SessionStore`]: values by key, with versions,
//! compare-and-set and a time to live, and programs; in memory, in a file, or in a server that several hosts share. See
//! [`session`].
//!
//! # Actors
//!
//! A [`PyActor`] is an instance of a Python class in a supervised process of its own: a named actor, which does one message
//! at a time, and whose state may outlive its process.
//!
//! # In Python
//!
//! A handler is a function decorated with `@snakepen.handler`, `async def` or not, or one that the Rust side
//! [exposes](Builder::expose). `snakepen.current()` tells the running request's id, deadline, worker and pool, and whether
//! it is cancelled; `with snakepen.shield():` puts a cancellation off.
//! `snakepen.session()` is the [session] of the call, whose state any worker reads and writes.
//! `snakepen.actor("name")` is what the Rust program [exposes](Pool::expose_actor) by that name, an actor or a
//! [function](Pool::expose_fn): handlers call it, and cast to it.
//! What a handler prints and logs arrives in [`tracing`] under the target `snakepen::python`, with pool, worker and
//! request. The package is embedded in the crate; nothing has to be installed.
//!
//! # Buffers and arrays
//!
//! [`Buffer`] and [`Array`] may stand anywhere in what a call takes and gives. Their bytes travel beside the JSON, large
//! ones through [shared memory](Builder::shared_memory); in Python they are memoryviews and NumPy arrays over the memory that
//! came.
//!
//! # DSPy
//!
//! [`contrib::dspy`] keeps DSPy programs in sessions, and runs them on any worker.
//!
//! # Features
//!
//! All are off by default, and each goes with any other.
//!
//! `arrow`: Arrow tables in arguments and results (`ArrowTable`).
//!
//! `cluster`: makes the actors' messages fit a build that links ractor's `cluster` feature.
//!
//! `durable`: [sessions](session) in a file, which survive the host (`session::Durable`).
//!
//! `ndarray`: conversions between [`Array`] and the arrays of that crate.
//!
//! `redis`: sessions in a Redis or Valkey server, for several hosts (`session::Redis`).
//!
//! # Platform
//!
//! Linux 5.10 or later; CPython 3.10 to 3.14.

#![warn(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used
)]

mod actors;
mod array;
#[cfg(feature = "arrow")]
mod arrow;
mod autoscale;
mod backoff;
mod board;
mod breaker;
mod buffer;
mod call;
mod codec;
mod config;
mod context;
pub mod contrib;
mod dispatcher;
mod error;
mod exchange;
mod expose;
mod interpreter;
mod kinds;
mod launcher;
mod package;
mod pool;
mod pool_session;
mod port;
mod py_actor;
mod reload;
mod request;
mod resize;
mod retry;
mod scheduler;
pub mod session;
mod shared;
mod stats;
mod sys;
mod turns;
mod wire;

pub use array::{Array, ArrayError, Element};
#[cfg(feature = "arrow")]
pub use arrow::ArrowTable;
pub use buffer::Buffer;
pub use call::{Call, CallStream, CancelHandle};
pub use config::Builder;
pub use context::CallContext;
pub use error::{Ended, Error, Exit, PythonException, Stage, StartError, WorkerDeath};
pub use exchange::{Progress, ProgressWatch};
pub use expose::{FromCall, Inbound, InboundError, Reply};
pub use pool::{Pool, WorkerHandle};
pub use pool_session::PoolSession;
pub use py_actor::{PyActor, PyActorBuilder, PyActorMsg};
pub use scheduler::Priority;
pub use session::{Session, SessionError, SessionStore};
pub use stats::{Failures, OpenCircuit, Quantiles, Stats, WorkerInfo, WorkerState};

#[cfg(fuzzing)]
#[doc(hidden)]
pub fn fuzz_decoder(data: &[u8]) {
    wire::fuzz(data);
}
