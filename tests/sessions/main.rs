//! Session stores, whatever keeps them, and sessions in handlers.
#![allow(unreachable_pub)]

#[path = "../common/mod.rs"]
mod common;
#[cfg(feature = "redis")]
mod server;
mod suite;

mod from_calls;
#[cfg(feature = "redis")]
mod redis;
mod store;
