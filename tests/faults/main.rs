//! Workers that die, hang, or never start.

#[path = "../common/mod.rs"]
mod common;

mod broken_beside_healthy;
mod crippled_drain;
mod delayed_restart;
mod flooded_dump;
mod forked_handler;
mod garbage;
mod health;
mod kill_busy_under_load;
mod killed_while_starting;
mod side_effects;
mod slow_start;
mod start_errors;
mod worker_deaths;
