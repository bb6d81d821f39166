//! What it costs a handler to call Rust, beside a call of a handler from Rust.
//!
//! `cargo bench --bench callbacks [-- [--quick] [--json FILE]]`
//!
//! "call" is what a caller in Rust waits for an echo handler of the same pool, one call after another. The others are a
//! handler that calls an echo in Rust again and again. Both go the same way there and back, over the same socket. They
//! take turns in one run, and the ratio is that of neighbouring rounds.

mod common;

use std::time::Instant;

use common::{Options, Spread, Table, python};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde::Serialize;
use serde_json::{Value, json};
use snakepen::{FromCall, Inbound, InboundError, Pool, Reply};

/// What a callback may cost, in calls.
const REACH: f64 = 1.0;

/// What a handler does, by the names that `benches/handlers.py` knows.
const JOBS: [(&str, &str); 5] = [
    ("fn", "call of a function"),
    ("actor", "call of an actor"),
    ("cast", "cast"),
    ("acall", "acall, in an `async def` handler"),
    ("64 KiB", "call with 64 KiB, there and back"),
];

#[cfg_attr(feature = "cluster", derive(ractor_cluster_derive::RactorMessage))]
struct Echo(Value, Reply<Value>);

impl FromCall for Echo {
    fn from_call(call: Inbound) -> Result<Self, InboundError> {
        Ok(Echo(call.args()?, call.reply()))
    }
}

struct Echoing;

impl Actor for Echoing {
    type Msg = Echo;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Echo>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<Echo>,
        Echo(value, reply): Echo,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        reply.ok(value);
        Ok(())
    }
}

#[derive(Serialize)]
struct Row {
    job: &'static str,
    us: f64,
    call_us: f64,
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
    let (rounds, times) = if quick { (5, 1_000) } else { (11, 5_000) };
    let (actor, task) = Actor::spawn(None, Echoing, ()).await.expect("an actor");
    let pool = Pool::builder("callbacks").python(python()).handlers(common::handlers());
    let pool = pool
        .workers(1)
        .expose_fn("echo", async |value: Value| Ok::<_, String>(value))
        .expose_actor("actor", actor.clone());
    let pool = pool.start().await.expect("a pool");
    let small = json!([{ "name": "small", "numbers": [1, 2, 3], "done": false }]);
    let large = json!(["x".repeat(64 << 10)]);

    let mut rows = Vec::new();
    let mut table = Table::new(&["operation", "µs", "call, µs", "ratio (lowest to highest)"]);
    for (job, what) in JOBS {
        let handler = if job == "acall" { "call_rust_async" } else { "call_rust" };
        let value = if job == "64 KiB" { &large } else { &small };
        let (mut own, mut calls) = (Vec::new(), Vec::new());
        // The first round warms up.
        for round in 0..=rounds {
            let start = Instant::now();
            for _ in 0..times {
                let _: Value = pool.call("echo", value).await.expect("an answer");
            }
            let there = start.elapsed().as_secs_f64() * 1e6 / f64::from(times);
            let here: f64 = pool.call(handler, (job, times)).await.expect("an answer");
            if round > 0 {
                own.push(here / 1000.0);
                calls.push(there);
            }
        }
        let ratio = Spread::of(own.iter().zip(&calls).map(|(own, call)| own / call));
        let (own, calls) = (Spread::of(own), Spread::of(calls));
        table.row(vec![
            what.to_owned(),
            format!("{:.1}", own.median),
            format!("{:.1}", calls.median),
            format!("{:.2} ({:.2} to {:.2})", ratio.median, ratio.low, ratio.high),
        ]);
        if job == "fn" {
            println!("a function: {:.2} calls, to be reached: {REACH}", ratio.median);
        }
        rows.push(Row { job, us: own.median, call_us: calls.median, ratio: ratio.median });
    }
    println!();
    table.print();
    pool.shutdown().await.expect("a clean shutdown");
    actor.stop(None);
    task.await.expect("an actor that ends");
    rows
}
