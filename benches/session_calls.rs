//! What a session costs from inside a handler, beside a bare round trip over the same kind of socket.
//!
//! `cargo bench --bench session_calls [-- [--quick] [--json FILE]]`
//!
//! "bare" is a Python process that sends the 24 bytes of a header over a Unix socket and waits until a task of the same
//! runtime has sent them back: no JSON, no store. The others are calls of a handler that reads or writes one small value
//! again and again. They take turns in one run, and the ratio is that of neighbouring rounds.

mod common;

use std::process::Stdio;

use common::{Options, Spread, Table, python};
use serde::Serialize;
use snakepen::Pool;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;

/// What a read of a small value may cost, in bare round trips.
const REACH: f64 = 2.0;

const BARE: &str = "
import socket, sys, time
port = socket.socket(socket.AF_UNIX)
port.connect(sys.argv[1])
buffer = bytearray(65536)
for line in sys.stdin:
    times = int(line)
    frame = bytes(24)
    start = time.perf_counter_ns()
    for _ in range(times):
        port.send(frame)
        port.recv_into(buffer)
    print((time.perf_counter_ns() - start) / times, flush=True)
";

/// Operations that a handler does, by the names that `benches/handlers.py` knows.
const JOBS: [(&str, &str); 6] = [
    ("get", "get"),
    ("put", "put"),
    ("update", "update (get and compare_and_set)"),
    ("aget", "aget, in an `async def` handler"),
    ("get 64 KiB", "get of 64 KiB of bytes"),
    ("unchanged", "programs.built, unchanged"),
];

#[derive(Serialize)]
struct Row {
    job: &'static str,
    us: f64,
    bare_us: f64,
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
    let (rounds, times) = if quick { (5, 2_000) } else { (11, 10_000) };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("bare");
    let listener = UnixListener::bind(&path).expect("a socket");
    let mut child = tokio::process::Command::new(python())
        .args(["-c", BARE])
        .arg(&path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("a Python process");
    let (mut far, _) = listener.accept().await.expect("a connection");
    tokio::spawn(async move {
        let mut frame = [0; 24];
        while far.read_exact(&mut frame).await.is_ok() && far.write_all(&frame).await.is_ok() {}
    });
    let mut ask = child.stdin.take().expect("a pipe");
    let mut told = BufReader::new(child.stdout.take().expect("a pipe")).lines();

    let pool = Pool::builder("session-calls").python(python()).handlers(common::handlers());
    let pool = pool.workers(1).start().await.expect("a pool");
    let session = pool.session("s");

    let mut rows = Vec::new();
    let mut table = Table::new(&["operation", "µs", "bare, µs", "ratio (lowest to highest)"]);
    for (job, what) in JOBS {
        let handler = if job == "aget" { "session_async" } else { "session" };
        let (mut own, mut bare) = (Vec::new(), Vec::new());
        // The first round warms up.
        for round in 0..=rounds {
            ask.write_all(format!("{times}\n").as_bytes()).await.expect("a process that listens");
            let line = told.next_line().await.expect("a line").expect("a process that answers");
            let there: f64 = line.parse().expect("a number");
            let here: f64 = session.call(handler, (job, times)).await.expect("an answer");
            if round > 0 {
                own.push(here / 1000.0);
                bare.push(there / 1000.0);
            }
        }
        let ratio = Spread::of(own.iter().zip(&bare).map(|(own, bare)| own / bare));
        let (own, bare) = (Spread::of(own), Spread::of(bare));
        table.row(vec![
            what.to_owned(),
            format!("{:.1}", own.median),
            format!("{:.1}", bare.median),
            format!("{:.2} ({:.2} to {:.2})", ratio.median, ratio.low, ratio.high),
        ]);
        if job == "get" {
            println!("a small value: {:.2} bare round trips, to be reached: {REACH}", ratio.median);
        }
        rows.push(Row { job, us: own.median, bare_us: bare.median, ratio: ratio.median });
    }
    println!();
    table.print();
    pool.shutdown().await.expect("a clean shutdown");
    rows
}
