//! Calls of a higher priority overtake those that wait, and never for ever.

use std::sync::Mutex;
use std::time::Duration;

use futures::future::join_all;
use snakepen::Priority::{self, High, Low, Normal};
use snakepen::{Error, Pool};

use crate::common::{eventually, finish, pool};

/// Keeps the pool's only worker busy while `calls` of these priorities are queued one after another; the order in which
/// they are answered.
async fn order(pool: &Pool, calls: &[Priority]) -> Vec<usize> {
    let answered = Mutex::new(Vec::new());
    let busy = async { pool.call::<f64>("sleep", (0.3,)).await.map(drop) };
    let calls = join_all(calls.iter().enumerate().map(async |(number, &priority)| {
        eventually("those before it are queued", || pool.stats().queued == number).await;
        let echoed = pool.call::<usize>("echo", (number,)).priority(priority).await?;
        answered.lock().unwrap().push(echoed);
        Ok::<_, Error>(())
    }));
    let queued = async {
        eventually("the only worker is busy", || pool.stats().busy == 1).await;
        calls.await.into_iter().collect::<Result<(), _>>()
    };
    let (busy, queued) = tokio::join!(busy, queued);
    busy.and(queued).unwrap();
    answered.into_inner().unwrap()
}

#[tokio::test]
async fn the_highest_goes_first_and_each_in_order() {
    let pool = pool("basic.py").workers(1).start().await.unwrap();
    let found = order(&pool, &[Low, Normal, High, Low, Normal, High]).await;
    assert_eq!(found, [2, 5, 1, 4, 0, 3]);
    finish(pool).await;
}

#[tokio::test]
async fn the_lowest_gets_its_turn() {
    let pool = pool("basic.py").workers(1).start().await.unwrap();
    let mut calls = vec![High; 20];
    calls[0] = Low;
    let found = order(&pool, &calls).await;
    assert_eq!(found.iter().position(|&number| number == 0), Some(8), "{found:?}");
    finish(pool).await;
}

#[tokio::test]
async fn one_that_expires_in_the_queue_is_no_ones_turn() {
    let pool = pool("basic.py").workers(1).start().await.unwrap();
    let busy = async { pool.call::<f64>("sleep", (0.2,)).await };
    let expires = async {
        eventually("the only worker is busy", || pool.stats().busy == 1).await;
        let call = pool.call::<i64>("add", (1, 2)).priority(High);
        call.timeout(Duration::from_millis(20)).await
    };
    let (busy, expired) = tokio::join!(busy, expires);
    busy.unwrap();
    assert!(matches!(expired, Err(Error::Timeout { .. })), "{expired:?}");
    assert_eq!(pool.call::<i64>("add", (1, 2)).priority(Low).await.unwrap(), 3);
    finish(pool).await;
}
