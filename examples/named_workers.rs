//! Each worker has a name; calls can go to one worker, from anywhere in the program, also after it was replaced.
//!
//!     cargo run --release --example named_workers

use std::error::Error;
use std::process::Command;
use std::time::Duration;

use snakepen::{Pool, WorkerHandle};

const HANDLERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/named_workers.py");
const BOOKS: [&str; 3] = ["carroll", "milton", "shakespeare"];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let pool = Pool::builder("library").handlers(HANDLERS).workers(BOOKS.len()).start().await?;

    println!("Each worker reads one book:");
    for (slot, book) in BOOKS.into_iter().enumerate() {
        let worker = pool.worker(slot)?;
        let words: usize = worker.call("read", book).await?;
        println!("  {} knows the {words} words of {book}", worker.name());
    }

    println!("\nWhere is love? Each worker answers for its own book:");
    for (slot, book) in BOOKS.into_iter().enumerate() {
        println!(
            "  {book}: {} lines",
            lines_with(&format!("library/worker/{slot}"), "love").await?
        );
    }

    println!("\nlibrary/worker/1 is killed.");
    let before = pool.workers()[1].clone();
    let pid = before.pid.ok_or("a ready worker has a process")?;
    Command::new("sh").args(["-c", &format!("kill -9 {pid}")]).status()?;
    while pool.workers()[1].epoch == before.epoch {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // The name now means the replacement, which starts with an empty memory. A call waits until it is ready.
    let error = lines_with("library/worker/1", "love").await.unwrap_err();
    println!("  the same name, a new process: {error}");
    pool.worker(1)?.call::<usize>("read", BOOKS[1]).await?;
    println!("  it has read its book: {} lines", lines_with("library/worker/1", "love").await?);

    println!("\nThe workers:");
    for worker in pool.workers() {
        println!(
            "  {} pid {:?}, epoch {}, {} calls served, last error: {}",
            worker.name,
            worker.pid.unwrap_or_default(),
            worker.epoch,
            worker.served,
            worker.last_error.as_deref().unwrap_or("none"),
        );
    }

    let error = WorkerHandle::find("library/worker/3").await.unwrap_err();
    println!("\nThere is no fourth worker: {error}");
    Ok(pool.shutdown().await?)
}

/// Any part of the program can find a worker by its name; it needs no handle of the pool.
async fn lines_with(worker: &str, word: &str) -> Result<usize, snakepen::Error> {
    let lines: Vec<usize> = WorkerHandle::find(worker).await?.call("lines_with", word).await?;
    Ok(lines.len())
}
