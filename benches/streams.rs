//! Items of streams per second, beside bare frames over the same kind of socket, and beside calls.
//!
//! `cargo bench --bench streams [-- [--quick] [--json FILE]]`
//!
//! "bare" is a Python process that writes frames of the same size to a Unix socket, as fast as a task of the same runtime
//! reads them: no JSON, no window, no consumer. All take turns in one run, and the ratio is that of neighbouring rounds.

mod common;

use std::process::Stdio;
use std::time::Instant;

use common::{Options, Spread, Table, python};
use futures::{StreamExt, stream};
use serde::Serialize;
use snakepen::Pool;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::ChildStdin;

const BARE: &str = "
import socket, sys
port = socket.socket(socket.AF_UNIX)
port.connect(sys.argv[1])
for line in sys.stdin:
    times, size = map(int, line.split())
    frame = bytes(24 + size + 2)
    for _ in range(times):
        port.sendall(frame)
";

/// What is measured: a name, how, and the size of an item.
const JOBS: [(&str, Way, usize); 6] = [
    ("small items", Way::Stream("items"), 16),
    ("small items, async generator", Way::Stream("items_async"), 16),
    ("items of 64 KiB", Way::Stream("items"), 64 << 10),
    ("small items of an input", Way::Input, 16),
    ("64 KiB items of an input", Way::Input, 64 << 10),
    ("small calls, one after another", Way::Calls, 16),
];

#[derive(Clone, Copy)]
enum Way {
    Stream(&'static str),
    Input,
    Calls,
}

#[derive(Serialize)]
struct Row {
    job: &'static str,
    per_second: f64,
    bare_per_second: f64,
    ratio: f64,
}

fn main() {
    let options = Options::parse();
    common::print_machine();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let rows = runtime.block_on(run(options.quick));
    options.write(&rows);
}

async fn run(quick: bool) -> Vec<Row> {
    let (rounds, most) = if quick { (5, 10_000) } else { (11, 50_000) };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("bare");
    let listener = UnixListener::bind(&path).expect("a socket");
    let mut child = tokio::process::Command::new(python())
        .args(["-c", BARE])
        .arg(&path)
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("a Python process");
    let (mut far, _) = listener.accept().await.expect("a connection");
    let mut ask = child.stdin.take().expect("a pipe");

    let pool = Pool::builder("streams").python(python()).handlers(common::handlers());
    let pool = pool.workers(1).start().await.expect("a pool");
    let mut rows = Vec::new();
    let mut table = Table::new(&["what", "per second", "bare", "ratio (lowest to highest)"]);
    for (job, way, size) in JOBS {
        let n = if size > 1000 { most / 20 } else { most };
        let (mut own, mut bare) = (Vec::new(), Vec::new());
        // The first round warms up.
        for round in 0..=rounds {
            let there = n as f64 / frames(&mut ask, &mut far, n, size).await;
            let start = Instant::now();
            measure(&pool, way, n, size).await;
            let here = n as f64 / start.elapsed().as_secs_f64();
            if round > 0 {
                own.push(here);
                bare.push(there);
            }
        }
        let ratio = Spread::of(own.iter().zip(&bare).map(|(own, bare)| own / bare));
        let (own, bare) = (Spread::of(own), Spread::of(bare));
        table.row(vec![
            job.to_owned(),
            format!("{:.0}", own.median),
            format!("{:.0}", bare.median),
            ratio.text(2),
        ]);
        let (per_second, bare_per_second) = (own.median, bare.median);
        rows.push(Row { job, per_second, bare_per_second, ratio: ratio.median });
    }
    table.print();
    pool.shutdown().await.expect("a clean shutdown");
    rows
}

/// The seconds that so many bare frames take.
async fn frames(ask: &mut ChildStdin, far: &mut UnixStream, n: usize, size: usize) -> f64 {
    let start = Instant::now();
    ask.write_all(format!("{n} {size}\n").as_bytes()).await.expect("a process that listens");
    let mut left = n * (24 + size + 2);
    let mut buffer = vec![0; 64 << 10];
    while left > 0 {
        left -= far.read(&mut buffer).await.expect("a process that writes");
    }
    start.elapsed().as_secs_f64()
}

async fn measure(pool: &Pool, way: Way, n: usize, size: usize) {
    match way {
        Way::Stream(handler) => {
            let mut items = pool.stream::<String>(handler, (n, size));
            let mut seen = 0;
            while let Some(item) = items.next().await {
                assert_eq!(item.expect("an item").len(), size);
                seen += 1;
            }
            assert_eq!(seen, n);
        }
        Way::Input => {
            let item = "x".repeat(size);
            let texts = stream::iter(0..n).map(move |_| item.clone());
            let seen: usize =
                pool.call("take_all", ()).input("texts", texts).await.expect("an answer");
            assert_eq!(seen, n);
        }
        Way::Calls => {
            let item = "x".repeat(size);
            for _ in 0..n {
                let answer: String = pool.call("echo", &item).await.expect("an answer");
                assert_eq!(answer.len(), size);
            }
        }
    }
}
