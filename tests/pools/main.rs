//! The life of a pool: its actors, its size, its code, its end.

#[path = "../common/mod.rs"]
mod common;

mod autoscale;
mod recycling;
mod reload;
mod resize;
mod seams;
mod shutdown;
mod stop_during_start;
mod supervision;
mod upheaval;
