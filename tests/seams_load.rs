//! Everything at once, and everything that may befall it: what is called is answered rightly, or with an error that says why.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{LIMIT, descriptors, finish, pids, pool, whole, within};
use futures::StreamExt;
use serde_json::Value;
use snakepen::{Buffer, CallContext, Error, Pool};

fn own_pool() -> Result<Pool, Error> {
    let pool = CallContext::current().and_then(|context| context.pool());
    pool.ok_or(Error::Closed { pool: "own".to_owned() })
}

/// How long each goes on.
const TIME: Duration = Duration::from_secs(2);

/// One call of some kind; what comes of it is right, or an error.
async fn one(pool: &Pool, random: &mut fastrand::Rng) -> Result<(), Error> {
    let size = [10, 1000, 70_000, 200_000][random.usize(..4)];
    let byte = random.u8(..);
    let value = Buffer::from(vec![byte; size]);
    let timeout = Duration::from_millis(random.u64(1..2000));
    match random.u8(..11) {
        kind @ 0..=1 => {
            let count = random.usize(..200);
            let leave = random.usize(..400);
            let handler = ["items", "plain_items"][usize::from(kind)];
            let size = [0, 0, 10, 300_000][random.usize(..4)];
            if size == 0 {
                let mut items = pool.stream::<usize>(handler, (count, size)).timeout(timeout);
                let mut next = 0;
                while let Some(item) = items.next().await {
                    assert_eq!(item?, next);
                    next += 1;
                    if next == leave {
                        return Ok(());
                    }
                }
                assert_eq!(next, count, "{handler}");
            } else {
                let mut items = pool.stream::<Buffer>(handler, (count, size)).timeout(timeout);
                let mut next = 0;
                while let Some(item) = items.next().await {
                    let item = item?;
                    assert!(item.len() == size && item.iter().all(|&it| it == (next % 256) as u8));
                    next += 1;
                    if next == leave {
                        return Ok(());
                    }
                }
                assert_eq!(next, count, "{handler}");
            }
        }
        2 => {
            let back: Buffer = pool.call("echo", (value,)).timeout(timeout).await?;
            assert!(back.len() == size && back.iter().all(|&it| it == byte));
        }
        3 => {
            let length: usize = pool.call("sizes", (value,)).timeout(timeout).await?;
            assert_eq!(length, size);
        }
        4 => {
            let back: Buffer = pool.call("echoes", (value,)).timeout(timeout).idempotent().await?;
            assert!(back.len() == size && back.iter().all(|&it| it == byte));
        }
        5 => {
            let count = random.u64(..300);
            let numbers = futures::stream::iter(0..count);
            let sum: u64 = pool
                .call("sums", ())
                .input("numbers", numbers)
                .timeout(timeout)
                .idempotent()
                .await?;
            assert_eq!(sum, (0..count).sum::<u64>());
        }
        6 => {
            let depth = random.i64(0..4);
            assert_eq!(pool.call::<i64>("nested", depth).timeout(timeout).await?, depth);
        }
        7 => {
            let back: Value = pool.call("nested_in_a_thread", ("echo", 7)).timeout(timeout).await?;
            assert_eq!(back, 7);
        }
        8 => {
            let session = pool.session(&format!("s{}", random.u8(..3))).in_order();
            let _: Value = session.call("in_its_session", "k").timeout(timeout).await?;
        }
        9 => {
            let session = pool.session(&format!("s{}", random.u8(..3))).in_order();
            let length: usize = session.call("sizes", (value,)).timeout(timeout).await?;
            assert_eq!(length, size);
        }
        _ => {
            let mut call = pool.call::<Value>("echo", 1).timeout(timeout);
            call.cancel_handle().cancel();
            call.await?;
        }
    }
    Ok(())
}

fn kind_of(error: &Error) -> String {
    let text = format!("{error:?}");
    text.split([' ', '(']).next().unwrap_or_default().to_owned()
}

fn seed() -> u64 {
    std::env::var("SNAKEPEN_SEED")
        .ok()
        .and_then(|it| it.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..))
}

async fn load(concurrency: usize, upheaval: bool, time: Duration) {
    let seed = seed();
    println!("SNAKEPEN_SEED={seed}");
    let before = descriptors();
    let pool = pool("seams.py")
        .workers(3)
        .concurrency(concurrency)
        .max_requests(200)
        .cancel_grace(Duration::from_secs(2))
        .call_timeout(LIMIT)
        .expose_fn("nested", async |depth: i64| own_pool()?.call::<i64>("nested", depth).await)
        .expose_fn("echo", async |value: Value| Ok::<_, Error>(value))
        .start()
        .await
        .unwrap();
    let end = Instant::now() + time;
    let done = Arc::new(AtomicU64::new(0));
    let failed = Arc::new(std::sync::Mutex::new(std::collections::BTreeMap::new()));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..24 {
        let (pool, done, failed) = (pool.clone(), Arc::clone(&done), Arc::clone(&failed));
        tasks.spawn(async move {
            let mut random = fastrand::Rng::with_seed(seed ^ number);
            while Instant::now() < end {
                let drop_after = random.bool().then(|| Duration::from_micros(random.u64(..20_000)));
                let call = one(&pool, &mut random);
                let result = match drop_after {
                    Some(after) => tokio::time::timeout(after, call).await.unwrap_or(Ok(())),
                    None => within(LIMIT, "a call", call).await,
                };
                match result {
                    Ok(()) => done.fetch_add(1, Ordering::Relaxed),
                    Err(error) => {
                        // No part may break the protocol, or keep a call from its end.
                        let text = error.to_string();
                        assert!(!text.contains("protocol"), "{text}");
                        assert!(upheaval || !matches!(error, Error::WorkerDied(_)), "{text}");
                        *failed.lock().unwrap().entry(kind_of(&error)).or_insert(0u64) += 1;
                        0
                    }
                };
            }
        });
    }
    let mut random = fastrand::Rng::with_seed(seed ^ 1000);
    while upheaval && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(random.u64(20..300))).await;
        match random.u8(..4) {
            0 => {
                if let Some(&pid) = pids(&pool).get(random.usize(..3)) {
                    let _ =
                        std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
                }
            }
            1 => {
                within(LIMIT, "a reload", pool.reload()).await.ok();
            }
            2 => {
                within(LIMIT, "a resize", pool.resize(random.usize(1..4))).await.ok();
            }
            _ => {
                if let Some(actor) = ractor::registry::where_is(pool.name()) {
                    actor.kill();
                }
            }
        }
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    println!("{} done, {:?}", done.load(Ordering::Relaxed), failed.lock().unwrap());
    whole(&pool).await;
    // Nothing is left behind in the workers: each takes its calls at once.
    for _ in 0..100 {
        let call = pool.call::<i64>("count", ()).into_future();
        within(LIMIT / 6, "a call at the end", call).await.unwrap();
    }
    finish(pool).await;
    common::eventually("no descriptor is left", || descriptors() <= before + 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overlapping_calls_under_load() {
    load(16, false, TIME).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_calls_under_load() {
    load(1, false, TIME).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overlapping_calls_in_upheaval() {
    load(16, true, TIME).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_calls_in_upheaval() {
    load(1, true, TIME).await;
}
