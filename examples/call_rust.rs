//! Handlers that call Rust: an actor, a function, and by way of it another handler.
//!
//!     cargo run --release --example call_rust

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde_json::json;
use snakepen::{CallContext, Error, FromCall, Inbound, InboundError, Pool, Reply};

const HANDLERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/call_rust.py");

/// Knows what things cost, and how often it was asked for a quote.
struct Pricing;

#[cfg_attr(feature = "cluster", derive(ractor_cluster_derive::RactorMessage))]
enum PricingMsg {
    Price { sku: String, reply: Reply<f64> },
    Quoted,
}

#[derive(Debug, thiserror::Error)]
enum PricingError {
    #[error("nobody sells {0}")]
    UnknownSku(String),
}

/// What Python says becomes a message here, or an error there.
impl FromCall for PricingMsg {
    fn from_call(call: Inbound) -> Result<Self, InboundError> {
        let sku: String = call.args()?;
        Ok(match &*sku {
            "quoted" => PricingMsg::Quoted,
            _ => PricingMsg::Price { sku, reply: call.reply() },
        })
    }
}

impl Actor for Pricing {
    type Msg = PricingMsg;
    type State = (BTreeMap<&'static str, f64>, u32);
    type Arguments = ();

    async fn pre_start(
        &self,
        _: ActorRef<PricingMsg>,
        (): (),
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(([("cup", 4.5), ("tea", 12.25)].into(), 0))
    }

    async fn handle(
        &self,
        _: ActorRef<PricingMsg>,
        message: PricingMsg,
        (prices, quotes): &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            PricingMsg::Price { sku, reply } => {
                let price = prices.get(&*sku).copied();
                reply.send(price.ok_or(PricingError::UnknownSku(sku)));
            }
            PricingMsg::Quoted => {
                *quotes += 1;
                println!("    (quotes that the actor has counted: {quotes})");
            }
        }
        Ok(())
    }
}

/// Calls back into the pool that it was called from.
async fn label(sku: String) -> Result<String, Error> {
    let pool = CallContext::current().and_then(|context| context.pool());
    let pool = pool.ok_or(Error::Closed { pool: "call-rust".to_owned() })?;
    // It has no more time than the handler that waits for it.
    pool.call("label", sku).await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (actor, pricing) = Actor::spawn(None, Pricing, ()).await?;
    let pool = Pool::builder("call-rust")
        .handlers(HANDLERS)
        .workers(2)
        .expose_actor("pricing", actor.clone())
        .expose_fn("label", label)
        .start()
        .await?;
    pool.expose_fn("hash", async |line: String| {
        let mut hasher = DefaultHasher::new();
        line.hash(&mut hasher);
        Ok::<_, String>(format!("{:016x}", hasher.finish()))
    })?;

    println!("A handler asks an actor:");
    let total: f64 = pool.call("quote", json!([{ "cup": 2, "tea": 1 }])).await?;
    println!("    two cups and tea: {total}");
    let error = pool.call::<f64>("quote", json!([{ "hat": 1 }])).await.unwrap_err();
    println!("    a hat: {}", error.to_string().lines().next().unwrap_or_default());

    println!("A handler asks a function, for three lines at once:");
    let hashes: Vec<String> = pool.call("digest", (["one", "two", "three"],)).await?;
    println!("    {}", hashes.join(" "));

    println!("Rust > Python > Rust > Python > Rust:");
    let text: String = pool.call("outer", "tea").timeout(Duration::from_secs(5)).await?;
    println!("    {text}");

    println!("The same with one worker, which waits for itself:");
    pool.resize(1).await?;
    let start = Instant::now();
    let text: String = pool.call("careful", "tea").await?;
    println!("    {text}");
    println!("    said after {:.1?}, and not at the deadline", start.elapsed());

    println!("What is not exposed cannot be reached:");
    pool.unexpose("pricing");
    let error = pool.call::<f64>("quote", json!([{ "cup": 1 }])).await.unwrap_err();
    println!("    {}", error.to_string().lines().next().unwrap_or_default());

    pool.shutdown().await?;
    actor.stop(None);
    pricing.await?;
    Ok(())
}
