//! One worker, many calls: `async def` handlers overlap where they wait, here for a service that takes 50 ms to answer.
//!
//!     cargo run --release --example concurrency

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use snakepen::Pool;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

const HANDLERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/concurrency.py");

/// What the service takes for an answer.
const THINKING: Duration = Duration::from_millis(50);
const QUESTIONS: usize = 64;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let open = Arc::new(AtomicUsize::new(0));
    tokio::spawn(serve(listener, Arc::clone(&open)));

    println!("{QUESTIONS} questions to a service that answers after {THINKING:?}, by one worker:");
    for concurrency in [1, 16, 64] {
        let name = format!("asks-{concurrency}");
        let pool = Pool::builder(name).handlers(HANDLERS).workers(1).concurrency(concurrency);
        let pool = pool.start().await?;
        let start = Instant::now();
        let questions = (0..QUESTIONS).map(|number| {
            let pool = pool.clone();
            async move { pool.call::<String>("ask", (port, format!("{number}?"))).await }
        });
        let answers = futures::future::try_join_all(questions).await?;
        println!("  {concurrency:>2} at once: {:>5} ms", start.elapsed().as_millis());
        let summary: String = pool.call("summarise", (answers,)).await?;
        assert_eq!(summary, "64 answers, 822 letters");
        pool.shutdown().await?;
    }

    println!(
        "\nEach call ends by itself: one of three runs out of time, and closes its connection."
    );
    let pool = Pool::builder("asks").handlers(HANDLERS).workers(1).concurrency(8).start().await?;
    let ask = |question: &str| pool.call::<String>("ask", (port, question));
    let (first, slow, last) =
        tokio::join!(ask("one"), ask("slow").timeout(Duration::from_millis(200)), ask("two"));
    println!("  {}, {}", first?, last?);
    println!("  {}", slow.unwrap_err().to_string().lines().next().unwrap_or_default());
    while open.load(Ordering::Relaxed) > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let stats = pool.stats();
    println!("  connections that are open: 0; workers that were replaced: {}", stats.restarts);
    assert_eq!(stats.restarts, 0);
    Ok(pool.shutdown().await?)
}

/// A service that thinks for a while about each question, and much longer about slow ones.
async fn serve(listener: TcpListener, open: Arc<AtomicUsize>) {
    while let Ok((connection, _)) = listener.accept().await {
        let open = Arc::clone(&open);
        tokio::spawn(async move {
            open.fetch_add(1, Ordering::Relaxed);
            // One that has gone away needs no answer.
            let _ = answer(connection).await;
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

async fn answer(connection: TcpStream) -> std::io::Result<()> {
    let mut connection = BufReader::new(connection);
    let mut line = String::new();
    connection.read_line(&mut line).await?;
    let question: serde_json::Value = serde_json::from_str(&line)?;
    let question = question["question"].as_str().unwrap_or_default();
    let thinking = if question == "slow" { 1000 * THINKING } else { THINKING };
    let mut gone = String::new();
    tokio::select! {
        () = tokio::time::sleep(thinking) => {}
        // The other end is closed.
        _ = connection.read_line(&mut gone) => return Ok(()),
    }
    let answer = serde_json::json!({ "answer": format!("answer to {question}") });
    connection.write_all(format!("{answer}\n").as_bytes()).await
}
