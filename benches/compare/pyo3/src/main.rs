//! One interpreter in the process: every call holds its lock. See `../../driver/rounds.rs`.

#[allow(unreachable_pub, dead_code)]
#[path = "../../driver/rounds.rs"]
mod rounds;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use rounds::{ITEMS, Start, System, Task};
use serde::{Deserialize, Serialize};

#[derive(Clone, Deserialize, Serialize)]
struct Message {
    id: u64,
    name: String,
    amount: f64,
    tags: Vec<String>,
    done: bool,
}

/// Calls are made on the runtime's threads for blocking work, as a call may take its time; what goes to and fro is converted
/// by `pythonize`, and an array through a NumPy array made of its bytes.
#[derive(Clone)]
struct Embedded {
    job: String,
    message: Message,
    spin: u64,
    data: Option<std::sync::Arc<Vec<u8>>>,
}

fn main() {
    rounds::serve(start);
}

fn start(start: Start) -> Task<'static, Box<dyn System>> {
    Box::pin(async move {
        let prepare = start.clone();
        let prepared = tokio::task::spawn_blocking(move || {
            Python::attach(|py| {
                py.import("sys")?.getattr("path")?.call_method1("insert", (0, &prepare.work))?;
                py.import("work")?;
                if prepare.preloads() {
                    py.import("numpy")?;
                    py.import("pandas")?;
                }
                PyResult::Ok(())
            })
        });
        prepared.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        if start.job == "restart" {
            return Err("a crash takes the host with it".to_owned());
        }
        let message = serde_json::from_value(start.arguments()[0].clone()).unwrap_or(Message {
            id: 0,
            name: String::new(),
            amount: 0.0,
            tags: Vec::new(),
            done: false,
        });
        let data = start.array_bytes().map(|bytes| std::sync::Arc::new(vec![7; bytes]));
        Ok(Box::new(Embedded { job: start.job, message, spin: start.spin, data }) as Box<dyn System>)
    })
}

impl Embedded {
    fn run(&self, py: Python<'_>) -> PyResult<()> {
        let work = py.import("work")?;
        match self.job.as_str() {
            "sleep5ms" => {
                work.getattr("sleep5ms")?.call0()?;
            }
            "spin200us" => {
                let total: u64 = work.getattr("spin")?.call1((self.spin,))?.extract()?;
                std::hint::black_box(total);
            }
            "stream" => {
                let mut count = 0;
                for item in work.getattr("stream")?.call1((ITEMS,))?.try_iter()? {
                    count += u64::from(item?.extract::<u64>()? < ITEMS);
                }
                assert_eq!(count, ITEMS);
            }
            _ => match &self.data {
                Some(data) => {
                    let numpy = py.import("numpy")?;
                    let options = PyDict::new(py);
                    options.set_item("dtype", "<f8")?;
                    let array = numpy.call_method("frombuffer", (&data[..],), Some(&options))?;
                    let echo = work.getattr("echo")?.call1((array,))?;
                    let bytes: Vec<u8> = echo.call_method0("tobytes")?.extract()?;
                    assert_eq!(bytes.len(), data.len());
                }
                None => {
                    let argument = pythonize::pythonize(py, &self.message)?;
                    let echo = work.getattr("echo")?.call1(PyTuple::new(py, [argument])?)?;
                    let answer: Message = pythonize::depythonize(&echo)?;
                    std::hint::black_box(answer);
                }
            },
        }
        Ok(())
    }
}

impl System for Embedded {
    fn call(&self, _caller: usize) -> Task<'_, ()> {
        let this = self.clone();
        Box::pin(async move {
            let done = tokio::task::spawn_blocking(move || Python::attach(|py| this.run(py)));
            done.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
        })
    }

    fn stop(&self) -> Task<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}
