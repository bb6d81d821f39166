//! A generator is a stream: its items are taken as they come, or left in the middle; a stream of the program's is an
//! argument; and a call tells how far it is.
//!
//!     cargo run --release --example stream

use std::collections::BTreeMap;
use std::error::Error;

use futures::{StreamExt, stream};
use snakepen::Pool;

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
const ENDLESS: usize = 1_000_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let handlers = format!("{EXAMPLES}/stream.py");
    let pool = Pool::builder("book").handlers(handlers).workers(1).start().await?;

    println!("A book speaks, word by word:\n");
    let mut words = pool.stream::<String>("generate", ("Tell me of Alice.", 40));
    print!("  ");
    while let Some(word) = words.next().await {
        print!("{}", word?);
    }

    println!("\n\nOne that would go on for {ENDLESS} words, and is left after five:");
    let mut words = pool.stream::<String>("generate", ("And of the Queen.", ENDLESS));
    let five: Vec<String> = words.by_ref().take(5).map(Result::unwrap_or_default).collect().await;
    println!("  {}…", five.concat().trim_end());
    // The generator, which has waited at its `yield` for more to be taken, is closed there.
    drop(words);
    // Its worker goes on to the next call.
    let sample: Vec<String> = pool.call("generate", ("The Cat.", 3)).await?;
    println!("  its worker goes on to the next call, which takes all at once: {}", sample.concat());
    assert_eq!(pool.stats().restarts, 0);

    println!("\nThe lines of a book are sent while a handler reads them, and answers:");
    let text = tokio::fs::read_to_string(format!("{EXAMPLES}/data/carroll.txt")).await?;
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let options = BTreeMap::from([("longer_than", 40)]);
    let mut longest = pool.stream::<String>("longest", options).input("lines", stream::iter(lines));
    while let Some(line) = longest.next().await {
        println!("  {}", line?);
    }

    println!("\nA call that takes a while:");
    let mut call = pool.call::<Vec<(String, String)>>("look_alikes", 8);
    let mut progress = call.progress();
    let watch = tokio::spawn(async move {
        while let Some(now) = progress.next().await {
            println!("  {:>3.0} %  {}", 100.0 * now.fraction().unwrap_or_default(), now.message);
        }
    });
    let found = call.await?;
    watch.await?;
    println!("  {} pages are done", found.len());
    Ok(pool.shutdown().await?)
}
