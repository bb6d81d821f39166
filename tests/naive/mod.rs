//! A pool of Python workers as one writes it in an afternoon: children that read a JSON line and write a JSON line, a
//! channel of those that are free, a timeout around the exchange, `kill_on_drop`, and another child for one that died.
//!
//! Nothing in here is wrong on purpose. It is what the scenarios are put to in `tests/naive_pool.rs`.

use std::process::Stdio;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;

/// Why a call has failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum Error {
    #[error("the worker did not answer in time")]
    Timeout,
    #[error("the worker died")]
    Died,
    #[error("{0}")]
    Python(String),
    #[error("the worker answered {0:?}")]
    NoJson(String),
    #[error("the answer is of another type: {0}")]
    Decode(String),
    #[error("no worker could be started: {0}")]
    Start(String),
}

/// What becomes of a worker that has not answered in time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum AfterTimeout {
    /// It is given back, as after any other call.
    Reuse,
    /// A more careful author starts another in its place.
    Replace,
}

struct Worker {
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Killed when it is dropped.
    _child: Child,
}

impl Worker {
    fn start(mut command: Command) -> Result<Self, Error> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| Error::Start(error.to_string()))?;
        Ok(Self {
            requests: child.stdin.take().expect("it is piped"),
            answers: BufReader::new(child.stdout.take().expect("it is piped")),
            _child: child,
        })
    }

    /// Sends a line and reads a line; no line if the pipe has ended.
    async fn exchange(&mut self, request: &str) -> Option<String> {
        self.requests.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        let size = self.answers.read_line(&mut answer).await.ok()?;
        (size > 0).then_some(answer)
    }
}

pub(crate) struct Pool {
    command: Box<dyn Fn() -> Command + Send + Sync>,
    after_timeout: AfterTimeout,
    free: Mutex<mpsc::UnboundedReceiver<Worker>>,
    give_back: mpsc::UnboundedSender<Worker>,
}

impl Pool {
    pub(crate) fn start(
        workers: usize,
        after_timeout: AfterTimeout,
        command: impl Fn() -> Command + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let (give_back, free) = mpsc::unbounded_channel();
        let pool =
            Self { command: Box::new(command), after_timeout, free: Mutex::new(free), give_back };
        for _ in 0..workers {
            pool.give_back(Worker::start((pool.command)())?);
        }
        Ok(pool)
    }

    /// Calls a function on the next worker that is free.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        function: &str,
        args: impl Serialize,
        limit: Duration,
    ) -> Result<T, Error> {
        let request = format!("{}\n", json!({"function": function, "args": args}));
        let mut worker = self.free.lock().await.recv().await.expect("the pool has a sender");
        let exchanged = timeout(limit, worker.exchange(&request)).await;
        let answer = match exchanged {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(Error::Died),
            Err(_) => Err(Error::Timeout),
        };
        let replace = self.after_timeout == AfterTimeout::Replace;
        match answer {
            Err(Error::Died) => worker = Worker::start((self.command)())?,
            Err(Error::Timeout) if replace => worker = Worker::start((self.command)())?,
            _ => {}
        }
        self.give_back(worker);
        decode(&answer?)
    }

    /// How many workers wait for a call.
    pub(crate) async fn free(&self) -> usize {
        self.free.lock().await.len()
    }

    fn give_back(&self, worker: Worker) {
        let _ = self.give_back.send(worker);
    }
}

fn decode<T: DeserializeOwned>(line: &str) -> Result<T, Error> {
    let mut answer: Value =
        serde_json::from_str(line).map_err(|_| Error::NoJson(line.chars().take(80).collect()))?;
    if let Some(error) = answer["error"].as_str() {
        return Err(Error::Python(error.to_owned()));
    }
    serde_json::from_value(answer["result"].take())
        .map_err(|error| Error::Decode(error.to_string()))
}
