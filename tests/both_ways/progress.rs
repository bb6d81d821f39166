//! What a handler tells of its progress reaches a caller who watches, and costs the others nothing.
//!
//! A naive pool knows nothing of a call before its end.

use std::future::IntoFuture;
use std::path::PathBuf;

use futures::StreamExt;
use snakepen::{Error, Progress, ProgressWatch};

use crate::common::{LIMIT, finish, pids, pool, within};

async fn next(watch: &mut ProgressWatch) -> Option<Progress> {
    within(LIMIT, "progress", watch.next()).await
}

#[tokio::test]
async fn each_step_is_seen_beside_the_result() {
    let pool = pool("reporting.py").workers(1).start().await.unwrap();
    for handler in ["steps", "steps_async"] {
        let directory = tempfile::tempdir().unwrap();
        let gates: Vec<PathBuf> = (0..5).map(|n| directory.path().join(format!("{n}"))).collect();
        let mut call = pool.call::<String>(handler, (&gates,));
        let mut watch = call.progress();
        assert_eq!(watch.latest(), None);
        let call = tokio::spawn(call.into_future());
        for (number, gate) in gates.iter().enumerate() {
            let progress = next(&mut watch).await.unwrap();
            assert_eq!((progress.done, progress.total), (number as f64, Some(5.0)));
            assert_eq!(progress.message, format!("waits for {number}"));
            assert_eq!(progress.fraction(), Some(number as f64 / 5.0));
            assert_eq!(watch.latest(), Some(progress));
            std::fs::write(gate, "x").unwrap();
        }
        assert_eq!(within(LIMIT, "the call", call).await.unwrap().unwrap(), "done");
        assert_eq!(next(&mut watch).await, None);
    }
    finish(pool).await;
}

#[tokio::test]
async fn a_tight_loop_costs_little_and_its_last_word_comes() {
    let pool = pool("reporting.py").workers(1).start().await.unwrap();
    let n = 50_000;
    // Nobody watches.
    assert_eq!(pool.call::<u32>("loop", n).await.unwrap(), n);
    let mut call = pool.call::<u32>("loop", n);
    let mut watch = call.progress();
    let seen = tokio::spawn(async move {
        let mut seen = Vec::new();
        while let Some(progress) = next(&mut watch).await {
            seen.push(progress.done);
        }
        (seen, watch.latest().unwrap())
    });
    assert_eq!(call.await.unwrap(), n);
    let (seen, last) = within(LIMIT, "the watch", seen).await.unwrap();
    assert_eq!((last.done, last.fraction()), (f64::from(n), Some(1.0)));
    assert!(seen.is_sorted() && seen.len() < 2000, "{}", seen.len());
    finish(pool).await;
}

#[tokio::test]
async fn it_comes_before_an_error_too() {
    let pool = pool("reporting.py").workers(1).start().await.unwrap();
    let pid = pids(&pool)[0];
    let mut call = pool.call::<()>("fails", ());
    let watch = call.progress();
    assert!(matches!(call.await, Err(Error::Python { .. })));
    assert_eq!(watch.latest().unwrap().message, "nearly");
    let mut call = pool.call::<()>("in_a_thread", ());
    let watch = call.progress();
    call.await.unwrap();
    let message = watch.latest().unwrap().message;
    assert!(message.len() <= 4096 && message.contains("bytes cut"), "{}", message.len());
    let mut call = pool.call::<()>("wrong", ());
    let watch = call.progress();
    assert!(call.await.unwrap_err().to_string().contains("finite number, not nan"));
    assert_eq!(watch.latest(), None);
    assert_eq!(pids(&pool), [pid]);
    finish(pool).await;
}

#[tokio::test]
async fn streams_have_it_too() {
    let pool = pool("reporting.py").workers(1).start().await.unwrap();
    for handler in ["items", "items_async"] {
        let mut stream = pool.stream::<u32>(handler, 10);
        let mut watch = stream.progress();
        let items: Vec<u32> = stream.by_ref().map(Result::unwrap).collect().await;
        assert_eq!(items.len(), 10);
        assert_eq!(next(&mut watch).await.unwrap().done, 10.0);
        assert_eq!(next(&mut watch).await, None);
        assert_eq!(stream.progress().latest().unwrap().done, 10.0);
    }
    // Asked for too late, it has ended.
    let mut stream = pool.stream::<u32>("items", 3);
    assert_eq!(stream.next().await.unwrap().unwrap(), 0);
    assert_eq!(next(&mut stream.progress()).await, None);
    finish(pool).await;
}

#[tokio::test]
async fn a_watch_ends_with_a_call_that_is_not_made() {
    let pool = pool("reporting.py").workers(1).start().await.unwrap();
    let mut call = pool.call::<()>("fails", ());
    let mut watch = call.progress();
    drop(call);
    assert_eq!(next(&mut watch).await, None);
    finish(pool).await;
}

#[tokio::test]
async fn threads_that_tell_after_the_end_harm_nobody() {
    let pool = pool("reporting.py").workers(1).start().await.unwrap();
    let pid = pids(&pool)[0];
    let directory = tempfile::tempdir().unwrap();
    let ended = directory.path().join("ended");
    let mut call = pool.call::<()>("left_behind", (200, &ended));
    let _watch = call.progress();
    call.await.unwrap();
    within(LIMIT, "the thread", async {
        while !ended.exists() {
            assert_eq!(pool.call::<u32>("loop", 10).await.unwrap(), 10);
        }
    })
    .await;
    assert_eq!((pids(&pool), pool.stats().restarts), (vec![pid], 0));
    finish(pool).await;
}
