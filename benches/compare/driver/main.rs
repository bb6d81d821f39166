//! Snakepen, and what is written in Rust of the systems that `benches/compare.py` holds it against; see `rounds.rs`.
//!
//! `compare_driver snakepen | limit | naive | mosec`
#![allow(unreachable_pub)]

#[path = "../../bare/mod.rs"]
mod bare;
#[path = "../../bare_segment/mod.rs"]
mod bare_segment;
mod http;
mod limit;
mod naive;
mod rounds;
mod snakepen_pool;

use std::path::PathBuf;
use std::process::Stdio;

fn main() {
    let system = std::env::args().nth(1).unwrap_or_default();
    rounds::serve(match system.as_str() {
        "snakepen" => snakepen_pool::start,
        "limit" => limit::start,
        "naive" => naive::start,
        "mosec" => http::start,
        // So that `cargo bench` and `cargo test` pass over it.
        _ if system.starts_with("--") || system.is_empty() => return,
        other => panic!("unknown system {other}"),
    });
}

/// A process of the given Python, that finds `work.py`, speaks over its standard streams, and ends with this one.
fn python(start: &rounds::Start, script: &str) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(&start.python);
    command
        .arg(PathBuf::from(&start.work).join(script))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    command
}
