//! What host and launcher say to each other: one JSON object per message (`ARCHITECTURE.md`, Launcher protocol).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::PythonException;

/// The longest message in bytes.
pub(crate) const LONGEST: usize = 64 << 10;

#[derive(Debug, Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(crate) enum ToLauncher<'a> {
    Configure { version: u64, config: Value },
    Spawn { token: u64, slot: usize, epoch: u64, worker: &'a str },
    Ping { token: u64 },
    Exit,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(crate) enum FromLauncher {
    Ready {
        version: u64,
        python: String,
        fresh: bool,
        threads: Vec<String>,
    },
    Failed {
        stage: String,
        module: Option<String>,
        error: PythonException,
    },
    /// Comes with the worker's pidfd.
    Spawned {
        token: u64,
        pid: i32,
    },
    SpawnFailed {
        token: u64,
        message: String,
    },
    Exited {
        pid: i32,
        code: Option<i32>,
        signal: Option<i32>,
    },
    Pong {
        token: u64,
    },
}
