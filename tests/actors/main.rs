//! Named Python actors.

#[path = "../common/mod.rs"]
mod common;

mod py_actor;
mod py_actor_state;
mod py_actor_supervision;
