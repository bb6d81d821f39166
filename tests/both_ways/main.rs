//! Streams, arrays, progress, and calls from Python; several calls in one worker.

#[path = "../common/mod.rs"]
mod common;

mod arrays;
mod batching;
mod callback_faults;
mod callbacks;
mod concurrency;
mod dspy;
mod input_streams;
mod nested_calls;
mod prefetch;
mod progress;
mod streams;
