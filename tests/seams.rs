//! Where parts meet that each work by themselves: streams, inputs, batches, calls to Rust, sessions, actors, several calls per
//! worker.

mod common;

use std::time::Duration;

use common::{LIMIT, eventually, finish, pool, within};
use futures::StreamExt;
use snakepen::{Builder, Call, Error};
use tokio::task::JoinHandle;

const SHORT: Duration = Duration::from_millis(200);

fn seams() -> Builder {
    pool("seams.py").call_timeout(LIMIT)
}

fn spawn<R>(call: Call<R>) -> JoinHandle<Result<R, Error>>
where
    R: serde::de::DeserializeOwned + Send + 'static,
{
    tokio::spawn(async move { call.await })
}

#[tokio::test]
async fn a_call_is_not_kept_waiting_by_a_thread_that_receives() {
    let (release, gate) = tokio::sync::watch::channel(false);
    let pool = seams()
        .workers(1)
        .concurrency(4)
        .expose_fn("gate", move |(): ()| {
            let mut gate = gate.clone();
            async move { gate.wait_for(|open| *open).await.map(|_| ()).map_err(|it| it.to_string()) }
        })
        .start()
        .await
        .unwrap();
    let waiting: Vec<_> =
        (0..2).map(|_| spawn(pool.call::<()>("asks_in_a_thread", "gate"))).collect();
    eventually("they run", || pool.stats().busy == 2).await;
    for _ in 0..3000 {
        let call = pool.call::<i64>("count", ()).into_future();
        within(LIMIT / 6, "it is begun", call).await.unwrap();
    }
    release.send(true).unwrap();
    for call in waiting {
        call.await.unwrap().unwrap();
    }
    finish(pool).await;
}
