//! What can go wrong with a call, what the error says, and what to do about it.
//!
//!     cargo run --release --example errors

use std::future::IntoFuture;
use std::time::Duration;

use snakepen::{Error, Pool, WorkerState};

const HANDLERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/errors.py");
const SHORT: Duration = Duration::from_millis(200);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pool = Pool::builder("errors").handlers(HANDLERS).workers(1).queue_limit(2).start().await?;

    let error = pool.call::<f64>("price", "coffee").await.unwrap_err();
    show("The handler raises an exception", &error);
    if let Error::Python { exception, .. } = &error {
        println!("    type:      {}", exception.type_name);
        println!(
            "    cause:     {}",
            exception.cause.as_ref().map(ToString::to_string).unwrap_or_default()
        );
        println!("    traceback:\n{}\n", indent(&exception.traceback, 6));
    }

    let error = pool.call::<f64>("prize", "tea").await.unwrap_err();
    show("There is no such handler", &error);
    let error = pool.call::<String>("price", "tea").await.unwrap_err();
    show("The result is not of the type that the caller expects", &error);
    let error = pool.call::<()>("report", ()).await.unwrap_err();
    show("The result cannot be written as JSON", &error);
    let error = pool.call::<f64>("price", [f64::NAN]).await.unwrap_err();
    show("The arguments cannot be written as JSON", &error);

    let error = pool.call::<String>("work", 60).timeout(SHORT).await.unwrap_err();
    show("The handler takes too long", &error);
    let error = pool.call::<()>("leave", ()).await.unwrap_err();
    show("The handler ends its process", &error);
    let error = pool.call::<()>("crash", ()).await.unwrap_err();
    show("The handler crashes its process", &error);

    // One call runs, two wait: the queue's limit.
    let busy = tokio::spawn(pool.call::<String>("work", 1).into_future());
    while pool.workers()[0].state != WorkerState::Busy {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let waiting = tokio::spawn(pool.call::<f64>("price", "tea").into_future());
    let impatient = tokio::spawn(pool.call::<f64>("price", "tea").timeout(SHORT).into_future());
    while pool.stats().queued < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let error = pool.call::<f64>("price", "tea").await.unwrap_err();
    show("All workers are busy and the queue is full", &error);
    println!("What is retryable may be tried again without a second thought:");
    let price = with_retries(|| pool.call("price", "tea").into_future()).await?;
    println!("    tea costs {price}");
    println!("    and the calls before it: {}, {}\n", busy.await??, waiting.await??);
    let error = impatient.await?.unwrap_err();
    show("The call's time ran out in the queue", &error);

    pool.shutdown().await?;
    let error = pool.call::<f64>("price", "tea").await.unwrap_err();
    show("The pool is shut down", &error);
    println!("How the calls ended: {:#?}", pool.stats().failed);
    Ok(())
}

/// Calls until the call succeeds, or fails in a way that a second try cannot cure, or may do twice.
async fn with_retries<F>(call: impl Fn() -> F) -> Result<f64, Error>
where
    F: Future<Output = Result<f64, Error>>,
{
    let mut pause = Duration::from_millis(10);
    loop {
        match call().await {
            Err(error) if error.is_retryable() => {
                println!("    again in {pause:?}, because: {error}");
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            outcome => return outcome,
        }
    }
}

fn show(what: &str, error: &Error) {
    println!("{what}:");
    println!("{}", indent(&error.to_string(), 4));
    println!("    may have run: {}, retryable: {}\n", error.may_have_run(), error.is_retryable());
}

fn indent(text: &str, columns: usize) -> String {
    let lines = text.trim_end().lines().map(|line| format!("{:columns$}{line}", ""));
    lines.collect::<Vec<_>>().join("\n")
}
