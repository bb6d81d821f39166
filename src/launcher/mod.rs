//! The launcher's process: one small Python that forks a pool's workers.
//!
//! [`process`] starts and ends it, [`protocol`] is what is said over its control socket, and [`task`] does the
//! talking for as long as it lives.

mod process;
mod protocol;
pub(crate) mod task;
