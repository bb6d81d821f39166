//! Typed access to handlers for particular Python libraries, which come with the crate.

pub mod dspy;
