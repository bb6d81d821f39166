//! What most people write: Python children that answer lines of JSON on their standard streams, each behind a lock, taken in
//! turn.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::sync::Mutex;

use crate::rounds::{Start, System, Task};

struct Worker {
    child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    /// A process that has answered once.
    async fn start(start: &Start) -> Result<Self, String> {
        let mut command = crate::python(start, "naive_worker.py");
        if start.preloads() {
            command.arg("heavy");
        }
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let (stdin, stdout) =
            (child.stdin.take().ok_or("a pipe")?, child.stdout.take().ok_or("a pipe")?);
        let mut worker = Self { child, stdin, stdout: BufReader::new(stdout).lines() };
        worker.call("echo", &json!([1])).await?;
        Ok(worker)
    }

    async fn call(&mut self, function: &str, arguments: &Value) -> Result<(), String> {
        let mut line = json!([function, arguments]).to_string();
        line.push('\n');
        self.stdin.write_all(line.as_bytes()).await.map_err(|error| error.to_string())?;
        loop {
            let line = self.stdout.next_line().await.map_err(|error| error.to_string())?;
            let answer: Value = serde_json::from_str(&line.ok_or("the worker has died")?)
                .map_err(|error| error.to_string())?;
            std::hint::black_box(&answer);
            if answer["last"] == true {
                return Ok(());
            }
        }
    }
}

struct Naive {
    workers: Vec<Mutex<Worker>>,
    next: AtomicUsize,
    start: Start,
    arguments: Value,
}

pub fn start(start: Start) -> Task<'static, Box<dyn System>> {
    Box::pin(async move {
        let workers = (0..start.workers).map(|_| Worker::start(&start));
        let workers = futures::future::try_join_all(workers).await?;
        let arguments = match start.array_bytes() {
            Some(bytes) => json!([(0..bytes / 8).map(|n| n as f64).collect::<Vec<_>>()]),
            None => start.arguments(),
        };
        let workers = workers.into_iter().map(Mutex::new).collect();
        Ok(Box::new(Naive { workers, next: AtomicUsize::new(0), start, arguments })
            as Box<dyn System>)
    })
}

impl System for Naive {
    fn call(&self, _caller: usize) -> Task<'_, ()> {
        Box::pin(async move {
            let free = self.workers.iter().find_map(|worker| worker.try_lock().ok());
            let mut worker = match free {
                Some(worker) => worker,
                None => {
                    let next = self.next.fetch_add(1, Ordering::Relaxed) % self.workers.len();
                    self.workers[next].lock().await
                }
            };
            worker.call(self.start.function(), &self.arguments).await
        })
    }

    fn restart(&self) -> Task<'_, ()> {
        Box::pin(async move {
            let mut worker = self.workers[0].lock().await;
            worker.child.kill().await.map_err(|error| error.to_string())?;
            *worker = Worker::start(&self.start).await?;
            Ok(())
        })
    }

    fn stop(&self) -> Task<'_, ()> {
        Box::pin(async move {
            for worker in &self.workers {
                worker.lock().await.child.kill().await.map_err(|error| error.to_string())?;
            }
            Ok(())
        })
    }
}
