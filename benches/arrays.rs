//! What an array costs, there and back: through shared memory, through the socket, and beside the least that can be done.
//!
//! `cargo bench --bench arrays [-- [--quick] [--json FILE]]`
//!
//! "bare" is two segments that are mapped once and used again and again: the host copies the array into one, and sends a
//! byte; Python copies it into the other, and sends a byte; the host copies it out. No frames, no JSON, no views. "floor" is
//! the same with Python reading in place, as a handler does that returns something small. The others are calls of a
//! handler that returns what it was given. All take turns in one run, and a ratio is that of neighbouring rounds.
#![allow(unsafe_code)]

mod common;

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use common::{Options, Spread, Table, python};
use serde::Serialize;
use snakepen::{Array, Pool};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// What the echo of a large array may cost, in bare ones.
const REACH: f64 = 1.5;

const SIZES: [(usize, &str); 6] = [
    (4 << 10, "4 KiB"),
    (16 << 10, "16 KiB"),
    (64 << 10, "64 KiB"),
    (256 << 10, "256 KiB"),
    (1 << 20, "1 MiB"),
    (16 << 20, "16 MiB"),
];

const LARGEST: usize = 16 << 20;

const BARE: &str = "
import mmap, os, socket, sys
port = socket.socket(socket.AF_UNIX)
port.connect(sys.argv[1])
ours, theirs = (mmap.mmap(os.open(path, os.O_RDWR), 0) for path in sys.argv[2:4])
view = memoryview(ours)
while message := port.recv(8):
    size = int.from_bytes(message, 'little')
    if size:
        theirs[:size] = view[:size]
    port.send(message)
";

/// A segment that is mapped for as long as the program runs.
struct Mapped {
    fd: OwnedFd,
    start: *mut u8,
}

// SAFETY: the mapping is used by whoever has the value, and by nobody else.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    fn new() -> Self {
        let fd = rustix::fs::memfd_create("bare", rustix::fs::MemfdFlags::CLOEXEC).expect("memory");
        rustix::fs::ftruncate(&fd, LARGEST as u64).expect("memory");
        let (null, access) = (std::ptr::null_mut(), libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let start =
            unsafe { libc::mmap(null, LARGEST, access, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
        assert_ne!(start, libc::MAP_FAILED, "memory");
        Self { fd, start: start.cast() }
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd())
    }

    fn write(&self, bytes: &[u8]) {
        assert!(bytes.len() <= LARGEST);
        // SAFETY: the mapping is that large, and nothing refers to it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start, bytes.len()) };
    }

    fn read(&self, bytes: &mut [u8]) {
        assert!(bytes.len() <= LARGEST);
        // SAFETY: the mapping is that large, and nothing refers to it.
        unsafe { std::ptr::copy_nonoverlapping(self.start, bytes.as_mut_ptr(), bytes.len()) };
    }
}

struct Bare {
    port: UnixStream,
    there: Mapped,
    back: Mapped,
    received: Vec<u8>,
    _child: tokio::process::Child,
}

impl Bare {
    async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("bare");
        let listener = UnixListener::bind(&path).expect("a socket");
        let (there, back) = (Mapped::new(), Mapped::new());
        let child = tokio::process::Command::new(python())
            .args(["-c", BARE])
            .arg(&path)
            .args([there.path(), back.path()])
            .kill_on_drop(true)
            .spawn()
            .expect("a Python process");
        let (port, _) = listener.accept().await.expect("a connection");
        Self { port, there, back, received: vec![0; LARGEST], _child: child }
    }

    async fn echo(&mut self, data: &[u8], in_place: bool) {
        self.there.write(data);
        let message = if in_place { 0 } else { data.len() as u64 };
        self.port.write_all(&message.to_le_bytes()).await.expect("a process that listens");
        let mut answer = [0; 8];
        self.port.read_exact(&mut answer).await.expect("a process that answers");
        if !in_place {
            self.back.read(&mut self.received[..data.len()]);
        }
    }
}

#[derive(Serialize)]
struct Row {
    size: usize,
    segment_us: f64,
    socket_us: f64,
    bare_us: f64,
    floor_us: f64,
    ratio: f64,
}

fn main() {
    let options = Options::parse();
    common::print_machine();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    // In a task of its own: `block_on` itself is not among the runtime's threads.
    let rows = runtime.block_on(runtime.spawn(run(options.quick))).expect("a run");
    options.write(&rows);
}

async fn pool(name: &str, from: Option<usize>) -> Pool {
    let pool =
        Pool::builder(name).python(python()).handlers(common::handlers()).shared_memory(from);
    pool.workers(1).start().await.expect("a pool")
}

async fn echo(pool: &Pool, array: &Array) {
    let same: Array = pool.call("echo", (array,)).await.expect("an answer");
    assert_eq!(same.data.len(), array.data.len());
}

async fn run(quick: bool) -> Vec<Row> {
    let rounds = if quick { 7 } else { 21 };
    let mut bare = Bare::start().await;
    // From 4 KiB, so that the sizes below the default tell where it should be.
    let (segment, socket) = (pool("segment", Some(4 << 10)).await, pool("socket", None).await);
    let numpy =
        segment.call::<String>("kind", (Array::from_slice([1], &[1.0]).expect("an array"),));
    println!("in Python an array is {}", numpy.await.expect("an answer"));

    let mut rows = Vec::new();
    let mut table = Table::new(&[
        "float64, there and back",
        "shared memory, µs",
        "socket, µs",
        "bare, µs",
        "floor, µs",
        "shared : bare (lowest to highest)",
        "socket : shared",
    ]);
    for (size, what) in SIZES {
        let elements: Vec<f64> = (0..size / 8).map(|n| n as f64).collect();
        let array = Array::from_slice([elements.len() as u64], &elements).expect("an array");
        let times = ((if quick { 20 } else { 60 } << 20) / size).clamp(4, 500);
        let mut each = [const { Vec::new() }; 4];
        // The first round warms up.
        for round in 0..=rounds {
            for (kind, spent) in each.iter_mut().enumerate() {
                let start = Instant::now();
                for _ in 0..times {
                    match kind {
                        0 => echo(&segment, &array).await,
                        1 => echo(&socket, &array).await,
                        _ => bare.echo(&array.data, kind == 3).await,
                    }
                }
                if round > 0 {
                    spent.push(start.elapsed().as_secs_f64() * 1e6 / times as f64);
                }
            }
        }
        let [shared, through, least, floor] = each;
        let ratio = Spread::of(shared.iter().zip(&least).map(|(own, bare)| own / bare));
        let gain = Spread::of(through.iter().zip(&shared).map(|(socket, own)| socket / own));
        let [shared, through, least, floor] = [shared, through, least, floor].map(Spread::of);
        table.row(vec![
            what.to_owned(),
            format!("{:.1}", shared.median),
            format!("{:.1}", through.median),
            format!("{:.1}", least.median),
            format!("{:.1}", floor.median),
            format!("{:.2} ({:.2} to {:.2})", ratio.median, ratio.low, ratio.high),
            format!("{:.2}", gain.median),
        ]);
        if size >= 1 << 20 {
            println!("{what}: {:.2} bare ones, to be reached: {REACH}", ratio.median);
        }
        rows.push(Row {
            size,
            segment_us: shared.median,
            socket_us: through.median,
            bare_us: least.median,
            floor_us: floor.median,
            ratio: ratio.median,
        });
    }
    println!();
    table.print();
    for pool in [segment, socket] {
        pool.shutdown().await.expect("a clean shutdown");
    }
    rows
}
