//! Snakepen, through its public API.

use std::time::Duration;

use futures::StreamExt;
use serde::{Deserialize, Serialize};
use snakepen::{Array, Pool, WorkerState};

use crate::rounds::{ITEMS, Start, System, Task};

/// 87 bytes of JSON, as the other systems send them.
#[derive(Deserialize, Serialize)]
struct Message {
    id: u64,
    name: String,
    amount: f64,
    tags: Vec<String>,
    done: bool,
}

enum Job {
    Echo(Message),
    Array(Array),
    Sleep,
    Spin(u64),
    Stream,
}

struct Snakepen {
    pool: Pool,
    job: Job,
}

pub fn start(start: Start) -> Task<'static, Box<dyn System>> {
    Box::pin(async move {
        let mut builder = Pool::builder("compare")
            .python(&start.python)
            .handlers(format!("{}/handlers.py", start.work))
            .path(&start.work)
            .prefetch(start.prefetch)
            .workers(start.workers);
        if start.preloads() {
            builder = builder.preload(["numpy", "pandas"]);
        }
        let pool = builder.start().await.map_err(|error| error.to_string())?;
        let job = match start.job.as_str() {
            "sleep5ms" => Job::Sleep,
            "spin200us" => Job::Spin(start.spin),
            "stream" => Job::Stream,
            _ => match start.array_bytes() {
                Some(bytes) => {
                    let elements: Vec<f64> = (0..bytes / 8).map(|n| n as f64).collect();
                    let array = Array::from_slice([elements.len()], &elements);
                    Job::Array(array.map_err(|error| error.to_string())?)
                }
                None => {
                    let mut arguments = start.arguments();
                    let message = serde_json::from_value(arguments[0].take());
                    Job::Echo(message.map_err(|error| error.to_string())?)
                }
            },
        };
        Ok(Box::new(Snakepen { pool, job }) as Box<dyn System>)
    })
}

impl System for Snakepen {
    fn call(&self, _caller: usize) -> Task<'_, ()> {
        Box::pin(async move {
            match &self.job {
                Job::Echo(message) => {
                    let answer: Message = self.pool.call("echo", (message,)).await.map_err(text)?;
                    std::hint::black_box(answer);
                }
                Job::Array(array) => {
                    let answer: Array = self.pool.call("echo", (array,)).await.map_err(text)?;
                    assert_eq!(answer.data.len(), array.data.len());
                }
                Job::Sleep => self.pool.call::<()>("sleep5ms", ()).await.map_err(text)?,
                Job::Spin(turns) => {
                    self.pool.call::<u64>("spin", (turns,)).await.map_err(text)?;
                }
                Job::Stream => {
                    let mut items = self.pool.stream::<u64>("stream", (ITEMS,));
                    let mut count = 0;
                    while let Some(item) = items.next().await {
                        item.map_err(text)?;
                        count += 1;
                    }
                    assert_eq!(count, ITEMS);
                }
            }
            Ok(())
        })
    }

    fn restart(&self) -> Task<'_, ()> {
        Box::pin(async move {
            let victim = self.pool.workers().remove(0);
            let pid = victim.pid.ok_or("no worker")?;
            let pid = rustix::process::Pid::from_raw(pid).ok_or("no pid")?;
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).map_err(text)?;
            // In a thread of its own: the runtime's timer counts whole milliseconds.
            let pool = self.pool.clone();
            let waiting = tokio::task::spawn_blocking(move || {
                loop {
                    let worker = pool.workers().remove(0);
                    if worker.epoch > victim.epoch && worker.state == WorkerState::Idle {
                        return;
                    }
                    std::thread::sleep(Duration::from_micros(50));
                }
            });
            waiting.await.map_err(text)
        })
    }

    fn stop(&self) -> Task<'_, ()> {
        let pool = self.pool.clone();
        Box::pin(async move { pool.shutdown().await.map_err(text) })
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
