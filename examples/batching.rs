//! Calls of one handler that wait are gathered: Python is called once with a list, and each caller has its own answer.
//!
//!     cargo run --release --example batching

use std::error::Error;
use std::time::{Duration, Instant};

use futures::future::{join_all, try_join_all};
use snakepen::Pool;

const HANDLERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/batching.py");
const TEXTS: usize = 400;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let pool = Pool::builder("model").handlers(HANDLERS).workers(1).start().await?;
    let text = |number: usize| format!("Text {number}: the quick brown fox");

    println!(
        "{TEXTS} texts, one after another: each waits 5 ms for others, in vain, and is a pass of the model:"
    );
    let start = Instant::now();
    for number in 0..TEXTS / 10 {
        pool.call::<Vec<f64>>("embed", text(number)).await?;
    }
    let single = start.elapsed() * 10;
    println!("  {} ms (a tenth of them was tried)", single.as_millis());
    pool.call::<Vec<usize>>("sizes", ()).await?;

    println!("{TEXTS} texts at once, by the same handler:");
    let start = Instant::now();
    let calls = (0..TEXTS).map(|number| pool.call::<Vec<f64>>("embed", text(number)).into_future());
    let vectors = try_join_all(calls).await?;
    let gathered = start.elapsed();
    assert!(vectors.iter().all(|vector| vector.len() == 26));
    let sizes: Vec<usize> = pool.call("sizes", ()).await?;
    println!("  {} ms, in {} passes of {sizes:?} texts", gathered.as_millis(), sizes.len());
    assert_eq!(sizes.iter().sum::<usize>(), TEXTS);
    println!("  {:.1} times as fast", single.as_secs_f64() / gathered.as_secs_f64());

    println!("\nEach caller has its own answer, its own error, and its own deadline:");
    let calls = ["fox", "42", "dog"].map(|text| {
        let call = pool.call::<Vec<f64>>("embed", text).timeout(Duration::from_secs(5));
        async move { (text, call.await) }
    });
    for (text, answer) in join_all(calls).await {
        match answer {
            Ok(vector) => println!("  {text}: {} numbers", vector.len()),
            Err(error) => println!("  {}", error.to_string().lines().next().unwrap_or_default()),
        }
    }
    Ok(pool.shutdown().await?)
}
