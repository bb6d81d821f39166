//! What is counted.

use std::hint::black_box;

use bytes::Bytes;
use snakepen::Pool;

use crate::common::{self, Message};
use crate::scheduler_load::Load;
use crate::scheduler_load::scheduler::{Removed, Wish};
use crate::steps;
use wire_source::wire::{Decoder, Direction, FrameBuilder, Kind};

// Private in the crate, like the scheduler.
#[path = "../../src"]
#[allow(dead_code, unused_imports, unreachable_pub)]
mod wire_source {
    pub mod wire;
}

/// A job, and how many operations of it are counted.
pub(crate) struct Job {
    pub(crate) name: &'static str,
    pub(crate) operations: u64,
    run: fn(u64),
}

pub(crate) const JOBS: &[Job] = &[
    Job { name: "scheduler: an idle worker", operations: 40, run: unqueued },
    Job { name: "scheduler: 100 queued", operations: 40, run: queued::<100> },
    Job { name: "scheduler: 10 000 queued", operations: 40, run: queued::<10_000> },
    Job { name: "scheduler: cancel", operations: 40, run: cancel },
    Job { name: "scheduler: expire", operations: 40, run: expire },
    Job { name: "framing: encode a call", operations: 40, run: encode },
    Job { name: "framing: decode a result", operations: 40, run: decode::<4096> },
    Job { name: "framing: decode in pieces", operations: 40, run: decode::<16> },
    Job { name: "call: one at a time", operations: 10, run: calls::<1, 1> },
    Job { name: "call: 8 callers, 2 workers", operations: 24, run: calls::<8, 2> },
];

pub(crate) fn run(name: &str, operations: u64) {
    let job = JOBS.iter().find(|job| job.name == name);
    (job.unwrap_or_else(|| panic!("no job {name}")).run)(operations);
}

/// A call meets an idle worker, and ends.
fn unqueued(operations: u64) {
    let mut load = Load::new(4, 1, Wish::default());
    steps::begin();
    for _ in 0..operations {
        let id = load.next;
        let slot = load.submit().expect("an idle worker");
        assert!(!load.idle(slot, id));
    }
    steps::end();
}

/// A worker ends its call and takes the next from the queue, and a new one is queued.
fn queued<const QUEUED: u64>(operations: u64) {
    let slots = 4;
    let mut load = Load::loaded(slots, 1, QUEUED);
    let mut held: Vec<u64> = (1..=slots as u64).collect();
    steps::begin();
    for number in 0..operations {
        let slot = number as usize % slots;
        assert!(load.idle(slot, held[slot]), "a queued call");
        held[slot] = slots as u64 + 1 + number;
        assert!(load.submit().is_none());
        black_box(load.scheduler.next_deadline());
    }
    steps::end();
}

/// A call is queued, and then its caller goes away; 1 000 others wait.
fn cancel(operations: u64) {
    let mut load = Load::loaded(4, 1, 1_000);
    steps::begin();
    for _ in 0..operations {
        let id = load.next;
        assert!(load.submit().is_none());
        assert!(matches!(black_box(load.scheduler.cancel(id)), Some(Removed::Queued(_))));
    }
    steps::end();
}

/// Calls are queued and expire, all of them.
fn expire(operations: u64) {
    let mut load = Load::loaded(4, 1, operations);
    let now = load.deadline(load.next);
    steps::begin();
    while let Some(removed) = load.scheduler.expire(now) {
        black_box(removed);
    }
    steps::end();
}

fn frame(kind: Kind, id: u64, message: &Message) -> Vec<u8> {
    let mut frame = FrameBuilder::new(kind, "echo");
    serde_json::to_writer(frame.json(), &(message,)).expect("plain data");
    frame.finish(id, 0, 1 << 20).expect("a small frame")
}

fn encode(operations: u64) {
    let message = Message::example();
    steps::begin();
    for id in 0..operations {
        black_box(frame(Kind::Call, id, &message));
    }
    steps::end();
}

/// Frames that come in pieces of so many bytes.
fn decode<const PIECE: usize>(operations: u64) {
    let message = Message::example();
    let stream: Bytes = (0..operations)
        .flat_map(|id| frame(Kind::Result, id, &message))
        .collect::<Vec<u8>>()
        .into();
    let mut decoder = Decoder::new(Direction::ToRust, 1 << 20);
    let mut frames = 0;
    steps::begin();
    for piece in stream.chunks(PIECE) {
        decoder.buffer().extend_from_slice(piece);
        while let Some(frame) = decoder.next_frame().expect("a frame as it should be") {
            black_box(frame);
            frames += 1;
        }
    }
    steps::end();
    assert_eq!(frames, operations);
}

/// Calls through the public API, by so many callers, of real workers.
fn calls<const CALLERS: u64, const WORKERS: usize>(operations: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let builder = Pool::builder("instructions").python(common::python());
        let pool = builder.handlers(common::handlers()).workers(WORKERS).start().await;
        let pool = pool.expect("a pool");
        call::<CALLERS>(&pool, 2 * CALLERS).await;
        steps::begin();
        call::<CALLERS>(&pool, operations).await;
        steps::end();
        pool.shutdown().await.expect("it ends in order");
    });
}

async fn call<const CALLERS: u64>(pool: &Pool, operations: u64) {
    let callers = (0..CALLERS).map(|_| {
        let pool = pool.clone();
        tokio::spawn(async move {
            let message = Message::example();
            for _ in 0..operations / CALLERS {
                let answer: Message = pool.call("echo", (&message,)).await.expect("an echo");
                assert_eq!(answer, message);
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.expect("it ends in order");
    }
}
