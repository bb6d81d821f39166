//! The bound: the same Python loop, driven by the least that can. Small calls go through the bare tokio pool with one
//! request in flight per worker, arrays through a bare shared segment with one worker; the heavy import is that of one
//! interpreter.

use std::path::Path;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::{Mutex, RwLock};

use crate::bare::{self, BarePool};
use crate::bare_segment::BareSegment;
use crate::rounds::{Start, System, Task};

struct Small {
    pool: RwLock<Option<BarePool>>,
    function: &'static str,
    arguments: Value,
}

struct Arrays {
    segment: Mutex<BareSegment>,
    data: Vec<u8>,
}

/// One interpreter that has imported.
struct Import;

pub fn start(start: Start) -> Task<'static, Box<dyn System>> {
    Box::pin(async move {
        if let Some(bytes) = start.array_bytes() {
            let segment = Mutex::new(BareSegment::start(Path::new(&start.python)).await);
            return Ok(Box::new(Arrays { segment, data: vec![7; bytes] }) as Box<dyn System>);
        }
        if start.preloads() {
            let import = tokio::process::Command::new(&start.python)
                .args(["-c", "import numpy, pandas"])
                .status();
            let status = import.await.map_err(|error| error.to_string())?;
            return if status.success() {
                Ok(Box::new(Import) as _)
            } else {
                Err("no import".into())
            };
        }
        if start.job == "stream" || start.job == "restart" {
            return Err("not applicable".to_owned());
        }
        let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("python_worker");
        let handlers = format!("{}/handlers.py", start.work);
        let pool = BarePool::start(Path::new(&start.python), &package, &handlers, start.workers);
        let pool = RwLock::new(Some(pool.await.map_err(|error| error.to_string())?));
        let (function, arguments) = (start.function(), start.arguments());
        Ok(Box::new(Small { pool, function, arguments }) as _)
    })
}

impl System for Small {
    fn call(&self, _caller: usize) -> Task<'_, ()> {
        Box::pin(async move {
            let frame: Bytes = bare::call_frame(self.function, &self.arguments);
            let pool = self.pool.read().await;
            let answer = pool.as_ref().ok_or("it is stopped")?.call(frame).await;
            let answer: Value = serde_json::from_slice(&answer).map_err(|e| e.to_string())?;
            std::hint::black_box(answer);
            Ok(())
        })
    }

    fn stop(&self) -> Task<'_, ()> {
        Box::pin(async move {
            if let Some(pool) = self.pool.write().await.take() {
                pool.stop().await;
            }
            Ok(())
        })
    }
}

impl System for Arrays {
    fn call(&self, _caller: usize) -> Task<'_, ()> {
        Box::pin(async move {
            self.segment.lock().await.echo(&self.data, false).await;
            Ok(())
        })
    }

    fn stop(&self) -> Task<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

impl System for Import {
    fn call(&self, _caller: usize) -> Task<'_, ()> {
        Box::pin(async { Err("not applicable".to_owned()) })
    }

    fn stop(&self) -> Task<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}
