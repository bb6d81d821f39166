//! What a call does, from the caller's side.

#[path = "../common/mod.rs"]
mod common;

mod affinity;
mod bad_results;
mod calls;
mod cancel;
mod circuit;
mod large_frames;
mod names;
mod odd_values;
mod poison;
mod priorities;
mod queue_limit;
mod retries;
mod timeout_then_next;
