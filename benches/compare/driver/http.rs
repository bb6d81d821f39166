//! Mosec's server, called over HTTP by one connection per caller that is kept open: a client that costs as little as can be.

use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::sync::Mutex;

use crate::rounds::{Start, System, Task};

/// A server that imports NumPy and Pandas in eight workers is up by then.
const STARTS: Duration = Duration::from_secs(90);

struct Http {
    port: u16,
    server: Mutex<Child>,
    connections: Mutex<Vec<BufReader<TcpStream>>>,
    request: Vec<u8>,
}

pub fn start(start: Start) -> Task<'static, Box<dyn System>> {
    Box::pin(async move {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(text)?;
        let port = listener.local_addr().map_err(text)?.port();
        drop(listener);
        let body = match start.array_bytes() {
            Some(bytes) => vec![7; bytes],
            None => start.arguments()[0].to_string().into_bytes(),
        };
        let mut command = crate::python(&start, "mosec_server.py");
        command
            .args(["--port", &port.to_string(), "--timeout", "60000", "--log-level", "error"])
            .args(["--max-request-size", &(64 << 20).to_string()])
            .env("COMPARE_JOB", &start.job)
            .env("COMPARE_WORKERS", start.workers.to_string())
            .stdout(std::process::Stdio::null())
            .process_group(0);
        let server = Mutex::new(command.spawn().map_err(text)?);
        let head = format!(
            "POST /inference HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let request = [head.into_bytes(), body].concat();
        let http = Http { port, server, connections: Mutex::default(), request };
        let begin = Instant::now();
        // Until as many calls at once as there are workers have an answer.
        loop {
            let calls = (0..start.workers).map(|_| http.request());
            match futures::future::try_join_all(calls).await {
                Ok(_) => return Ok(Box::new(http) as Box<dyn System>),
                Err(error) if begin.elapsed() > STARTS => {
                    http.stop().await?;
                    return Err(error);
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    })
}

impl Http {
    async fn request(&self) -> Result<(), String> {
        let kept = self.connections.lock().await.pop();
        let mut connection = match kept {
            Some(connection) => connection,
            None => {
                let stream = TcpStream::connect(("127.0.0.1", self.port)).await.map_err(text)?;
                stream.set_nodelay(true).map_err(text)?;
                BufReader::with_capacity(64 << 10, stream)
            }
        };
        connection.get_mut().write_all(&self.request).await.map_err(text)?;
        let (mut line, mut length, mut status) = (String::new(), 0, String::new());
        loop {
            line.clear();
            if connection.read_line(&mut line).await.map_err(text)? == 0 {
                return Err("the connection is closed".to_owned());
            }
            let text = line.trim_end();
            if status.is_empty() {
                text.clone_into(&mut status);
            } else if text.is_empty() {
                break;
            } else if let Some((name, value)) = text.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().map_err(|_| "a length")?;
            }
        }
        let mut body = vec![0; length];
        connection.read_exact(&mut body).await.map_err(text)?;
        std::hint::black_box(&body);
        if !status.contains(" 200 ") {
            return Err(status);
        }
        self.connections.lock().await.push(connection);
        Ok(())
    }
}

impl System for Http {
    fn call(&self, _caller: usize) -> Task<'_, ()> {
        Box::pin(self.request())
    }

    fn stop(&self) -> Task<'_, ()> {
        Box::pin(async move {
            let mut server = self.server.lock().await;
            self.connections.lock().await.clear();
            if let Some(pid) = server.id().and_then(|id| rustix::process::Pid::from_raw(id as i32))
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
                if tokio::time::timeout(Duration::from_secs(5), server.wait()).await.is_err() {
                    let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
                }
            }
            server.kill().await.or(Ok(()))
        })
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
