//! Arguments that are Rust streams: handlers iterate them, each end as far as the other lets it.
//!
//! A naive pool has only arguments that are there as a whole.

use std::future::IntoFuture;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use snakepen::{Buffer, Error, Pool, Stage};

use crate::common::{LIMIT, eventually, finish, is_alive, kill, pids, pool, told, whole, within};

/// Paths that handlers write to.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// A stream that counts what is taken of it, and knows when it is dropped.
struct Counted<S> {
    stream: S,
    taken: Arc<AtomicUsize>,
    /// Dropped with it.
    _alive: Arc<()>,
}

/// What is known of a [`Counted`] from outside.
struct Count {
    taken: Arc<AtomicUsize>,
    alive: Arc<()>,
}

impl Count {
    fn of<S: Stream>(stream: S) -> (Counted<S>, Self) {
        let count = Self { taken: Arc::default(), alive: Arc::default() };
        let (taken, alive) = (Arc::clone(&count.taken), Arc::clone(&count.alive));
        (Counted { stream, taken, _alive: alive }, count)
    }

    fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }

    fn is_dropped(&self) -> bool {
        Arc::strong_count(&self.alive) == 1
    }
}

impl<S: Stream + Unpin> Stream for Counted<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let next = self.stream.poll_next_unpin(cx);
        if let Poll::Ready(Some(_)) = &next {
            self.taken.fetch_add(1, Ordering::SeqCst);
        }
        next
    }
}

/// The worker is the same, and is in order.
async fn serves(pool: &Pool, pid: i32) {
    assert_eq!(pool.call::<i32>("pid", ()).timeout(LIMIT).await.unwrap(), pid);
    assert_eq!(pool.stats().restarts, 0);
}

#[tokio::test]
async fn a_handler_iterates_a_stream() {
    let pool = pool("inputs.py").workers(1).start().await.unwrap();
    for handler in ["total", "total_async"] {
        for n in [0_i64, 1, 64, 65, 5000] {
            let call = pool.call::<i64>(handler, ()).input("numbers", stream::iter(0..n));
            let sum = within(LIMIT, "the call", call.into_future()).await.unwrap();
            assert_eq!(sum, n * (n - 1) / 2);
        }
    }
    // Beside other arguments, by name and by place.
    let with_start = std::collections::BTreeMap::from([("start", 100)]);
    let call = pool.call::<i64>("total", with_start).input("numbers", stream::iter([1, 2]));
    assert_eq!(call.await.unwrap(), 103);
    let call = pool
        .call::<Vec<(i64, String)>>("zipped", ())
        .input("left", stream::iter([1, 2]))
        .input("right", stream::iter(["a", "b"]));
    assert_eq!(call.await.unwrap(), [(1, "a".to_owned()), (2, "b".to_owned())]);
    let session = pool.session("user-42");
    let call = session.call::<i64>("total", ()).input("numbers", stream::iter([1, 2]));
    assert_eq!(call.await.unwrap(), 3);
    let call = pool.call::<Vec<i64>>("in_threads", std::collections::BTreeMap::from([("n", 4)]));
    let call = call.input("numbers", stream::iter(0..1000));
    assert!(within(LIMIT, "threads", call.into_future()).await.unwrap().into_iter().eq(0..1000));
    finish(pool).await;
}

#[tokio::test]
async fn what_goes_in_comes_out_of_a_stream() {
    let pool = pool("inputs.py").workers(1).start().await.unwrap();
    for handler in ["doubled", "doubled_async"] {
        let (numbers, count) = Count::of(stream::iter(0..));
        let mut doubled = pool.stream::<usize>(handler, ()).input("numbers", numbers);
        for number in 0..1000 {
            let next = within(LIMIT, "an item", doubled.next()).await.unwrap().unwrap();
            assert_eq!(next, 2 * number);
            // Two windows of 64, at most.
            assert!(count.taken() <= number + 130, "{} at {number}", count.taken());
        }
        drop(doubled);
        eventually("the input is dropped", || count.is_dropped()).await;
    }
    serves(&pool, pids(&pool)[0]).await;
    finish(pool).await;
}

#[tokio::test]
async fn nothing_is_read_before_it_is_asked_for_and_little_ahead() {
    let pool = pool("inputs.py").workers(1).start().await.unwrap();
    let (numbers, count) = Count::of(stream::iter(0..1000));
    assert_eq!(pool.call::<String>("unused", ()).input("numbers", numbers).await.unwrap(), "Input");
    assert!(count.taken() == 0 && count.is_dropped());

    let (numbers, count) = Count::of(stream::iter(0..));
    let first = std::collections::BTreeMap::from([("n", 3)]);
    let call = pool.call::<Vec<i64>>("first", first).input("numbers", numbers);
    assert_eq!(call.await.unwrap(), [0, 1, 2]);
    assert!((3..=64).contains(&count.taken()) && count.is_dropped(), "{}", count.taken());

    // By bytes: a window of 1 MiB takes the eleventh item of 100 KB.
    let files = Files::new();
    let (ready, go) = (files.path("ready"), files.path("go"));
    let texts = stream::iter((0..100).map(|_| "ä".repeat(50_000)));
    let (texts, count) = Count::of(texts);
    let args = std::collections::BTreeMap::from([("ready", &ready), ("go", &go)]);
    let call =
        tokio::spawn(pool.call::<Vec<usize>>("sizes", args).input("texts", texts).into_future());
    told(&ready).await;
    eventually("it is read ahead", || count.taken() == 11).await;
    std::fs::write(&go, "x").unwrap();
    let sizes = within(LIMIT, "the call", call).await.unwrap().unwrap();
    assert_eq!(sizes, [50_000; 100]);
    finish(pool).await;
}

#[tokio::test]
async fn items_may_have_buffers() {
    let pool = pool("inputs.py").workers(1).start().await.unwrap();
    let chunks = stream::iter(0..100_u8).map(|number| Buffer::from(vec![number; 50_000]));
    let call = pool.call::<Vec<(usize, u8)>>("lengths", ()).input("chunks", chunks);
    let lengths = within(LIMIT, "the call", call.into_future()).await.unwrap();
    assert!(lengths.into_iter().eq((0..100).map(|number| (50_000, number))));
    finish(pool).await;
}

#[tokio::test]
async fn errors_of_the_stream_are_raised_after_its_items() {
    let pool = pool("inputs.py").workers(1).max_frame(10_000).start().await.unwrap();
    let pid = pids(&pool)[0];
    type Seen<T> = (Vec<T>, String);
    let failing = stream::iter([Ok(1), Ok(2), Err("the disk is full"), Ok(3)]);
    let call = pool.call::<Seen<i64>>("errors", ()).try_input("numbers", failing);
    let (seen, error) = call.await.unwrap();
    assert_eq!(seen, [1, 2]);
    assert_eq!(error, "input 'numbers', after 2 items: the disk is full");

    let call = pool.call::<Seen<f64>>("errors", ());
    let (seen, error) = call.input("numbers", stream::iter([1.0, f64::NAN])).await.unwrap();
    assert_eq!(seen, [1.0]);
    assert!(error.contains("item 1 can't be written: NaN"), "{error}");

    let call = pool.call::<Seen<String>>("errors", ());
    let texts = stream::iter(["x".to_owned(), "x".repeat(10_000)]);
    let (seen, error) = call.input("numbers", texts).await.unwrap();
    assert_eq!(seen, ["x"]);
    assert!(error.contains("largest frame is 10000: send less, or raise `max_frame`"), "{error}");

    // One that is not caught is the handler's.
    let failing = stream::iter([Err::<i64, _>("no")]);
    let error = pool.call::<i64>("total", ()).try_input("numbers", failing).await.unwrap_err();
    let Error::Python { exception, .. } = &error else { panic!("{error:?}") };
    assert_eq!((&*exception.module, &*exception.type_name), ("snakepen", "InputError"));
    serves(&pool, pid).await;
    finish(pool).await;
}

#[tokio::test]
async fn names_that_cannot_be_are_refused() {
    let pool = pool("inputs.py").workers(1).start().await.unwrap();
    let none = || stream::empty::<i64>();
    for (call, text) in [
        (pool.call::<i64>("total", ()).input("", none()), "not empty"),
        (pool.call::<i64>("total", ()).input("a\0b", none()), "no zero byte"),
        (pool.call::<i64>("total", ()).input("a", none()).input("a", none()), "two inputs called"),
        (pool.call::<i64>("total", ()).input(&"a".repeat(70_000), none()), "more than 64 KiB"),
        (
            pool.call::<i64>("total", std::collections::BTreeMap::from([("numbers", 1)]))
                .input("numbers", none()),
            "'numbers' is both an argument and an input",
        ),
    ] {
        let error = call.await.unwrap_err();
        assert!(matches!(error, Error::Encode { .. }), "{error:?}");
        assert!(error.to_string().contains(text) && !error.may_have_run(), "{error}");
    }
    // Whether the handler has such an argument, Python says.
    let error = pool.call::<i64>("pid", ()).input("numbers", none()).await.unwrap_err();
    let Error::Python { exception, .. } = &error else { panic!("{error:?}") };
    assert_eq!(exception.type_name, "TypeError");
    finish(pool).await;
}

#[tokio::test]
async fn a_handler_that_waits_for_an_item_is_given_up() {
    let pool = pool("inputs.py").workers(1).start().await.unwrap();
    let pid = pids(&pool)[0];
    for (handler, how) in [("waits", "Cancelled"), ("waits_async", "CancelledError")] {
        for round in 0..3 {
            let files = Files::new();
            let ended = files.path("ended");
            let args = std::collections::BTreeMap::from([("ended", &ended)]);
            let (numbers, count) = Count::of(stream::iter(0..10).chain(stream::pending()));
            let mut call = pool.call::<()>(handler, args).input("numbers", numbers);
            match round {
                0 => {
                    let error = call.timeout(Duration::from_millis(200)).await.unwrap_err();
                    assert!(matches!(error, Error::Timeout { stage: Stage::Run, .. }), "{error:?}");
                }
                1 => {
                    let handle = call.cancel_handle();
                    let call = tokio::spawn(call.into_future());
                    eventually("it waits", || count.taken() == 10).await;
                    handle.cancel();
                    let error = within(LIMIT, "the call", call).await.unwrap().unwrap_err();
                    assert!(matches!(error, Error::Cancelled { .. }), "{error:?}");
                }
                _ => {
                    let call = tokio::spawn(call.into_future());
                    eventually("it waits", || count.taken() == 10).await;
                    call.abort();
                }
            }
            assert_eq!(told(&ended).await, how);
            eventually("the input is dropped", || count.is_dropped()).await;
            // It has waited in our code, where nothing is interrupted half-way.
            serves(&pool, pid).await;
        }
    }
    finish(pool).await;
}

#[tokio::test]
async fn the_stream_is_dropped_with_its_worker() {
    let pool = pool("inputs.py").workers(1).start().await.unwrap();
    let files = Files::new();
    let started = files.path("started");
    let args = std::collections::BTreeMap::from([("started", &started)]);
    let (numbers, count) = Count::of(stream::iter(0..));
    let call =
        tokio::spawn(pool.call::<()>("computes", args).input("numbers", numbers).into_future());
    let pid: i32 = told(&started).await.parse().unwrap();
    kill(pid, 9);
    let error = within(LIMIT, "the call", call).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::WorkerDied(_)), "{error:?}");
    assert!(count.is_dropped());
    eventually("it is dead", || !is_alive(pid)).await;
    whole(&pool).await;
    finish(pool).await;
}

#[tokio::test]
async fn one_is_tried_again_only_where_nothing_was_read() {
    let pool = pool("inputs.py").workers(1).start().await.unwrap();
    let files = Files::new();
    let call = |mark: &str, take: bool| {
        let args = serde_json::json!({ "mark": files.path(mark), "take": take });
        pool.call::<i64>("dies_once", args).input("numbers", stream::iter([1, 2, 3])).idempotent()
    };
    assert_eq!(call("none", false).await.unwrap(), 6);
    let error = call("some", true).await.unwrap_err();
    assert!(matches!(error, Error::WorkerDied(_)), "{error:?}");
    finish(pool).await;
}

#[tokio::test]
async fn a_panic_of_the_stream_is_the_callers() {
    let pool = pool("inputs.py").workers(1).start().await.unwrap();
    let pid = pids(&pool)[0];
    let panics = || stream::iter(0..10).map(|n| if n == 5 { panic!("of the user's") } else { n });
    let call = tokio::spawn(pool.call::<i64>("total", ()).input("numbers", panics()).into_future());
    assert!(within(LIMIT, "the call", call).await.unwrap_err().is_panic());
    let mut doubled = pool.stream::<i64>("doubled", ()).input("numbers", panics());
    let doubled = tokio::spawn(async move { while doubled.next().await.is_some() {} });
    assert!(within(LIMIT, "the stream", doubled).await.unwrap_err().is_panic());
    serves(&pool, pid).await;
    finish(pool).await;
}
