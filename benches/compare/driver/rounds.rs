//! The driver's side of `benches/compare.py`: a command per line of JSON on stdin, an answer per line on stdout.
//!
//! `{"do": "start", …}` makes a system ready for a job, `{"do": "round", "callers": 64, "seconds": 0.5}` has so many callers
//! call as fast as they get answers, `{"do": "restart"}` kills a worker and waits for its replacement, `{"do": "stop"}`
//! ends the system. The end of stdin ends the driver. An answer is `{"ok": {…}}` or `{"error": "…"}`.

use std::future::Future;
use std::io::{BufRead, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

pub type Task<'a, T> = Pin<Box<dyn Future<Output = Result<T, String>> + Send + 'a>>;

/// What a system is started for.
#[derive(Clone, Debug, Deserialize)]
pub struct Start {
    pub job: String,
    pub workers: usize,
    /// The turns of the loop of `spin200us`.
    #[serde(default)]
    pub spin: u64,
    /// Calls that are written ahead; only Snakepen can.
    #[serde(default)]
    pub prefetch: u8,
    /// The Python interpreter.
    pub python: String,
    /// The directory of `work.py` and `handlers.py`.
    pub work: String,
}

impl Start {
    /// The function of `work.py` that the job calls.
    pub fn function(&self) -> &'static str {
        match self.job.as_str() {
            "sleep5ms" => "sleep5ms",
            "spin200us" => "spin",
            "stream" => "stream",
            _ => "echo",
        }
    }

    /// Its arguments as JSON; of an array job they are none.
    pub fn arguments(&self) -> Value {
        match self.job.as_str() {
            "sleep5ms" => json!([]),
            "spin200us" => json!([self.spin]),
            "stream" => json!([ITEMS]),
            _ => json!([{
                "id": 20_260_117, "name": "small calls", "amount": 42.5, "tags": ["echo", "bench"], "done": false,
            }]),
        }
    }

    /// The bytes of the array that the job sends.
    pub fn array_bytes(&self) -> Option<usize> {
        match self.job.as_str() {
            "array1m" => Some(1 << 20),
            "array16m" => Some(16 << 20),
            _ => None,
        }
    }

    pub fn preloads(&self) -> bool {
        matches!(self.job.as_str(), "import_heavy" | "restart_heavy")
    }
}

/// The items of one stream.
pub const ITEMS: u64 = 10_000;

/// A system that is ready.
pub trait System: Send + Sync {
    /// One call, to its answer.
    fn call(&self, caller: usize) -> Task<'_, ()>;

    /// Kills a worker, and waits until another one has its place.
    fn restart(&self) -> Task<'_, ()> {
        Box::pin(async { Err("it does not restart workers".to_owned()) })
    }

    /// Ends it; no call is under way.
    fn stop(&self) -> Task<'_, ()>;
}

/// How a system is started.
pub type Starter = fn(Start) -> Task<'static, Box<dyn System>>;

/// Half of the cores are the host's, as Python needs the others.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))
}

/// Serves until the end of stdin.
pub fn serve(starter: Starter) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads())
        .enable_all()
        .build()
        .expect("a runtime");
    let mut system: Option<Arc<dyn System>> = None;
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("text on stdin");
        let command: Value = serde_json::from_str(&line).expect("a command");
        // In a task: `block_on` itself is not among the runtime's threads.
        let outcome = runtime.block_on(async {
            match command["do"].as_str().unwrap_or_default() {
                "start" => {
                    let start: Start =
                        serde_json::from_value(command).map_err(|error| error.to_string())?;
                    let begin = Instant::now();
                    let started =
                        runtime.spawn(starter(start)).await.map_err(|e| e.to_string())??;
                    system = Some(Arc::from(started));
                    Ok(json!({ "seconds": begin.elapsed().as_secs_f64() }))
                }
                "round" => {
                    let system = Arc::clone(system.as_ref().ok_or("nothing is started")?);
                    let callers = command["callers"].as_u64().unwrap_or(1) as usize;
                    let time = Duration::from_secs_f64(command["seconds"].as_f64().unwrap_or(0.5));
                    runtime.spawn(round(system, callers, time)).await.map_err(|e| e.to_string())?
                }
                "restart" => {
                    let system = Arc::clone(system.as_ref().ok_or("nothing is started")?);
                    let begin = Instant::now();
                    let restarted = runtime.spawn(async move { system.restart().await });
                    restarted.await.map_err(|error| error.to_string())??;
                    Ok(json!({ "seconds": begin.elapsed().as_secs_f64() }))
                }
                "stop" => {
                    if let Some(system) = system.take() {
                        system.stop().await?;
                    }
                    Ok(json!({}))
                }
                other => Err(format!("unknown command {other}")),
            }
        });
        let answer = match outcome {
            Ok(value) => json!({ "ok": value }),
            Err(error) => json!({ "error": error }),
        };
        println!("{answer}");
        std::io::stdout().flush().expect("stdout");
    }
}

async fn round(system: Arc<dyn System>, callers: usize, time: Duration) -> Result<Value, String> {
    let begin = Instant::now();
    let end = begin + time;
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let system = Arc::clone(&system);
            tokio::spawn(async move {
                let mut taken = Vec::new();
                let mut now = Instant::now();
                while now < end {
                    system.call(caller).await?;
                    let then = std::mem::replace(&mut now, Instant::now());
                    taken.push((now - then).as_nanos() as u64);
                }
                Ok::<_, String>(taken)
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.map_err(|error| error.to_string())??);
    }
    let seconds = begin.elapsed().as_secs_f64();
    all.sort_unstable();
    let quantile = |q: f64| all[((all.len() - 1) as f64 * q) as usize] as f64 / 1e3;
    Ok(json!({
        "calls": all.len(), "seconds": seconds, "p50_us": quantile(0.5), "p99_us": quantile(0.99),
    }))
}
