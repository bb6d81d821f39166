//! Scenarios 29, 30 and 31, and whatever else can happen to a stream of items.
//!
//! A naive pool collects a generator into memory, or goes on with it for nobody when its consumer has left; and knows no
//! error after items.

use std::future::{IntoFuture, poll_fn};
use std::path::PathBuf;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use snakepen::{Buffer, Call, CallStream, Ended, Error, Pool, Stage};

use crate::common::{LIMIT, eventually, finish, is_alive, kill, pids, pool, told, whole, within};

/// So many items may be on their way.
const WINDOW: usize = 64;

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

/// So many items, which come.
async fn take<T>(stream: &mut (impl Stream<Item = Result<T, Error>> + Unpin), n: usize) -> Vec<T> {
    let mut items = Vec::new();
    for _ in 0..n {
        let next = within(LIMIT, "an item", stream.next()).await;
        items.push(next.expect("an item, not the end").expect("an item"));
    }
    items
}

/// All items, and the error after them.
async fn all<T: serde::de::DeserializeOwned>(mut stream: CallStream<T>) -> (Vec<T>, Option<Error>) {
    let mut items = Vec::new();
    while let Some(next) = within(LIMIT, "an item", stream.next()).await {
        match next {
            Ok(item) => items.push(item),
            Err(error) => {
                assert!(stream.next().await.is_none(), "an error is the end");
                return (items, Some(error));
            }
        }
    }
    assert!(stream.next().await.is_none(), "the end is the end");
    (items, None)
}

/// The worker is the same, and is in order.
async fn serves(pool: &Pool, pid: i32) {
    assert_eq!(pool.call::<i32>("pid", ()).timeout(LIMIT).await.unwrap(), pid);
    assert_eq!(pool.stats().restarts, 0);
}

#[tokio::test]
async fn scenario_29_the_consumer_leaves_at_item_3_of_10() {
    let pool = pool("streams.py").workers(1).start().await.unwrap();
    let pid = pids(&pool)[0];
    // Items of 400 KB, so that the window doesn't let through all of them.
    for handler in ["tidy_large", "tidy_large_async"] {
        let files = Files::new();
        let ended = files.path("ended");
        let mut stream = pool.stream::<(i64, String)>(handler, (10, &ended));
        let numbers = take(&mut stream, 3).await.into_iter().map(|(number, _)| number);
        assert_eq!(numbers.collect::<Vec<_>>(), [0, 1, 2]);
        drop(stream);
        assert_eq!(told(&ended).await, "GeneratorExit");
        serves(&pool, pid).await;
    }
    assert_eq!(pool.stats().failed.abandoned, 2);
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scenario_30_many_large_items_to_a_slow_consumer() {
    let pool = pool("streams.py").workers(1).start().await.unwrap();
    let pid = pids(&pool)[0];
    let (count, size) = (2000_usize, 64 << 10);
    let before = peak(pid);
    let session = pool.session("large");
    let mut stream = session.stream::<(usize, String)>("large", (count, size));
    let mut ahead = 0;
    for number in 0..count {
        let item = within(LIMIT, "an item", stream.next()).await.unwrap().unwrap();
        assert_eq!((item.0, item.1.len()), (number, size));
        let made: usize = session.state().unwrap().get("made").await.unwrap().unwrap();
        ahead = ahead.max(made - number);
        if number % 4 == 0 {
            // That is what slow means.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    assert!(within(LIMIT, "the end", stream.next()).await.is_none());
    // A window of 1 MiB is 16 of these. That is all that there can be, on either side and between them.
    assert!((2..=18).contains(&ahead), "{ahead} items ahead");
    let grown = peak(pid) - before;
    assert!(grown < 16 << 10, "the worker grew by {grown} KiB");
    serves(&pool, pid).await;
    finish(pool).await;
}

/// The largest resident size that a process has had, in KiB.
fn peak(pid: i32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn scenario_31_an_exception_after_5_items() {
    let pool = pool("streams.py").workers(1).start().await.unwrap();
    for handler in ["fails", "fails_async"] {
        for n in [5, 0, 500] {
            let (items, error) = all(pool.stream::<i64>(handler, n)).await;
            assert_eq!(items, (0..n).collect::<Vec<_>>());
            let Some(Error::Python { exception, .. }) = &error else { panic!("{error:?}") };
            assert_eq!(exception.message, format!("after {n}"));
            assert!(exception.traceback.contains(&format!("in {handler}")), "{exception:?}");
        }
    }
    assert_eq!(pool.stats().failed.exception, 6);
    finish(pool).await;
}

#[tokio::test]
async fn items_come_in_order_and_then_the_end() {
    let pool = pool("streams.py").workers(2).start().await.unwrap();
    for handler in ["count", "count_async"] {
        for n in [0, 1, 31, 32, 33, 64, 65, 5000] {
            let (items, error) = all(pool.stream::<i64>(handler, n)).await;
            assert_eq!(items, (0..n).collect::<Vec<_>>());
            assert!(error.is_none(), "{error:?}");
        }
    }
    // What is no generator is a stream of one.
    let (items, error) = all(pool.stream::<String>("echo", "whole")).await;
    assert!(items == ["whole"] && error.is_none(), "{items:?} {error:?}");
    let on_one = pool.worker(1).unwrap().stream::<i64>("count", 3);
    assert_eq!(all(on_one).await.0, [0, 1, 2]);
    assert_eq!(pool.stats().completed, 18);
    finish(pool).await;
}

#[tokio::test]
async fn a_call_collects_what_fits_a_frame() {
    let pool = pool("streams.py").workers(1).max_frame(64 << 10).start().await.unwrap();
    let pid = pids(&pool)[0];
    for handler in ["count", "count_async"] {
        let items: Vec<i64> = pool.call(handler, 1000).await.unwrap();
        assert_eq!(items, (0..1000).collect::<Vec<_>>());
        let error = pool.call::<Vec<i64>>(handler, 1_000_000_000).await.unwrap_err();
        assert!(matches!(error, Error::BadResult { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("65536 bytes") && text.contains("max_frame"), "{text}");
        assert!(text.contains("`stream` instead of `call`"), "{text}");
    }
    serves(&pool, pid).await;
    finish(pool).await;
}

#[tokio::test]
async fn an_item_that_is_no_json_is_named_after_those_before_it() {
    let pool = pool("streams.py").workers(1).start().await.unwrap();
    let pid = pids(&pool)[0];
    let (items, error) = all(pool.stream::<i64>("bad", 3)).await;
    assert_eq!(items, [0, 1, 2]);
    let Some(Error::BadResult { type_name, path, .. }) = &error else { panic!("{error:?}") };
    assert_eq!((&**type_name, &**path), ("set", "$[3].rows[0]"));
    // Likewise one that the caller did not expect; the generator goes no further.
    let files = Files::new();
    let ended = files.path("ended");
    let (items, error) = all(pool.stream::<bool>("tidy", (1000, &ended))).await;
    assert!(items.is_empty());
    assert!(error.as_ref().unwrap().to_string().contains("item 0: "), "{error:?}");
    assert_eq!(told(&ended).await, "GeneratorExit True");
    serves(&pool, pid).await;
    finish(pool).await;
}

/// Their bytes travel beside the JSON, and are those of the moment when they were yielded.
#[tokio::test]
async fn items_may_have_buffers() {
    let pool = pool("streams.py").workers(1).max_frame(8 << 20).start().await.unwrap();
    let size = 100_000;
    let (chunks, error) = all(pool.stream::<Buffer>("chunks", (300, size))).await;
    assert!(error.is_none() && chunks.len() == 300, "{error:?}");
    for (number, chunk) in chunks.iter().enumerate() {
        assert!(chunk.len() == size && chunk.iter().all(|&byte| byte == number as u8), "{number}");
    }
    let collected: Vec<Buffer> = pool.call("chunks", (80, size)).await.unwrap();
    assert!(collected.iter().enumerate().all(|(number, chunk)| chunk[size - 1] == number as u8));
    assert_eq!(collected.len(), 80);
    let error = pool.call::<Vec<Buffer>>("chunks", (90, size)).await.unwrap_err();
    assert!(error.to_string().contains("after 83 of them"), "{error}");
    finish(pool).await;
}

#[tokio::test]
async fn a_kill_in_mid_stream_comes_after_the_items_that_were_sent() {
    let pool = pool("streams.py").workers(1).start().await.unwrap();
    for n in [0, 5, WINDOW - 1] {
        let files = Files::new();
        let started = files.path("started");
        let mut stream = pool.stream::<usize>("killed", (n, &started));
        // It begins when it is polled.
        let first = poll_fn(|cx| Poll::Ready(stream.poll_next_unpin(cx))).await;
        assert!(first.is_pending());
        let pid: i32 = told(&started).await.parse().unwrap();
        kill(pid, 9);
        eventually("it is dead", || !is_alive(pid)).await;
        let (items, error) = all(stream).await;
        assert_eq!(items, (0..n).collect::<Vec<_>>());
        let Some(Error::WorkerDied(death)) = &error else { panic!("{error:?}") };
        assert!(death.started);
        whole(&pool).await;
    }
    assert_eq!(pool.stats().failed.worker_died, 3);
    finish(pool).await;
}

#[tokio::test]
async fn the_deadline_of_the_whole_holds_whoever_is_slow() {
    let pool = pool("streams.py").workers(1).start().await.unwrap();
    let pid = pids(&pool)[0];
    let timeout = Duration::from_millis(300);
    // The consumer: what has come is still given.
    let files = Files::new();
    let ended = files.path("ended");
    let mut stream = pool.stream::<usize>("tidy", (1_000_000, &ended)).timeout(timeout);
    assert_eq!(take(&mut stream, 1).await, [0]);
    assert_eq!(told(&ended).await, "GeneratorExit True");
    let (items, error) = all(stream).await;
    assert_eq!(items, (1..WINDOW).collect::<Vec<_>>());
    let Some(Error::Timeout { stage: Stage::Run, python_stack, .. }) = &error else {
        panic!("{error:?}")
    };
    assert!(python_stack.is_empty() || python_stack.contains("in tidy"), "{python_stack}");
    serves(&pool, pid).await;
    // The generator.
    let ended = files.path("slow");
    let begun = Instant::now();
    let stream = pool.stream::<usize>("slow", (100, 0.05, &ended)).timeout(timeout);
    let (items, error) = all(stream).await;
    assert!(begun.elapsed() >= timeout && (2..=7).contains(&items.len()), "{items:?}");
    assert!(matches!(error, Some(Error::Timeout { stage: Stage::Run, .. })), "{error:?}");
    assert_eq!(told(&ended).await, "GeneratorExit");
    serves(&pool, pid).await;
    assert_eq!(pool.stats().failed.timeout_running, 2);
    finish(pool).await;
}

#[tokio::test]
async fn the_deadline_between_items_is_the_generators() {
    let pool = pool("streams.py").workers(1).start().await.unwrap();
    let files = Files::new();
    let started = files.path("started");
    let timeout = Duration::from_millis(200);
    let begun = Instant::now();
    let stream = pool.stream::<usize>("killed", (5, &started)).item_timeout(timeout);
    let (items, error) = all(stream).await;
    assert!(begun.elapsed() >= timeout);
    assert_eq!(items, [0, 1, 2, 3, 4]);
    let Some(Error::Timeout { stage: Stage::Item, timeout: had, python_stack, .. }) = &error else {
        panic!("{error:?}")
    };
    assert_eq!(*had, timeout);
    assert!(python_stack.is_empty() || python_stack.contains("in killed"), "{python_stack}");
    assert!(error.as_ref().unwrap().may_have_run());
    assert!(error.unwrap().to_string().starts_with("timeout between items after "));
    let pid: i32 = told(&started).await.parse().unwrap();
    eventually("its worker has left", || !is_alive(pid)).await;
    whole(&pool).await;
    // It does not run while the consumer holds the generator up; here, for several times as long.
    let mut stream = pool.stream::<usize>("count", 10 * WINDOW).item_timeout(timeout);
    take(&mut stream, 1).await;
    tokio::time::sleep(4 * timeout).await;
    assert_eq!(take(&mut stream, 10 * WINDOW - 1).await.last(), Some(&(10 * WINDOW - 1)));
    assert!(stream.next().await.is_none());
    assert_eq!(pool.stats().failed.timeout_running, 1);
    finish(pool).await;
}

/// One of it in a row would be enough to have a handler not called for a while.
#[tokio::test]
async fn a_consumer_who_is_too_slow_is_not_its_handlers_fault() {
    let pool = pool("streams.py").workers(1).circuit_threshold(1).start().await.unwrap();
    let timeout = Duration::from_millis(100);
    let mut stream = pool.stream::<usize>("count", 1000).timeout(timeout);
    take(&mut stream, 1).await;
    eventually("its time is over", || pool.stats().failed.timeout_running == 1).await;
    let (_, error) = all(stream).await;
    assert!(matches!(error, Some(Error::Timeout { .. })), "{error:?}");
    assert_eq!(all(pool.stream::<usize>("count", 3)).await.0, [0, 1, 2]);
    assert!(pool.stats().circuits.is_empty());
    finish(pool).await;
}

/// They may be kept in whatever is shared, and moved about between polls.
#[test]
fn calls_and_streams_are_send_and_sync_and_unpin() {
    fn all_of_it<T: Send + Sync + Unpin + 'static>() {}
    all_of_it::<Call<std::cell::Cell<u8>>>();
    all_of_it::<CallStream<std::cell::Cell<u8>>>();
}

#[tokio::test]
async fn a_handle_cancels_a_stream_whose_consumer_is_busy() {
    let pool = pool("streams.py").workers(1).start().await.unwrap();
    let pid = pids(&pool)[0];
    for handler in ["tidy", "tidy_async"] {
        let files = Files::new();
        let ended = files.path("ended");
        let mut stream = pool.stream::<usize>(handler, (1_000_000, &ended));
        take(&mut stream, 1).await;
        stream.cancel_handle().cancel();
        told(&ended).await;
        let (items, error) = all(stream).await;
        assert!(items.len() < WINDOW, "{}", items.len());
        assert!(matches!(error, Some(Error::Cancelled { stage: Stage::Run, .. })), "{error:?}");
        serves(&pool, pid).await;
    }
    // One that is not made yet.
    let stream = pool.stream::<usize>("count", 1);
    stream.cancel_handle().cancel();
    let (items, error) = all(stream).await;
    assert!(items.is_empty() && matches!(error, Some(Error::Cancelled { .. })), "{error:?}");
    finish(pool).await;
}

#[tokio::test]
async fn one_that_computes_has_time_to_come_to_its_next_item() {
    let pool = pool("streams.py").workers(1).start().await.unwrap();
    let mut in_time = 0;
    for round in 0..5 {
        let pid = pids(&pool)[0];
        let files = Files::new();
        let ended = files.path("ended");
        let mut stream = pool.stream::<usize>("slow", (1000, 0.02, &ended));
        take(&mut stream, round + 1).await;
        drop(stream);
        match told(&ended).await.as_str() {
            "GeneratorExit" => {
                serves(&pool, pid).await;
                in_time += 1;
            }
            // A busy machine gave it less than 20 ms of the 100 ms that it has.
            "Cancelled" => eventually("it has left", || !is_alive(pid)).await,
            other => panic!("round {round}: {other}"),
        }
        whole(&pool).await;
    }
    assert!(in_time > 0);
    let pid = pids(&pool)[0];
    // And is interrupted like any handler if it does not.
    let files = Files::new();
    let ended = files.path("ended");
    let mut stream = pool.stream::<usize>("slow", (1000, 1000, &ended));
    take(&mut stream, 1).await;
    drop(stream);
    assert_eq!(told(&ended).await, "Cancelled");
    eventually("it has left", || !is_alive(pid)).await;
    whole(&pool).await;
    assert_eq!(pool.call::<i64>("echo", 7).timeout(LIMIT).await.unwrap(), 7);
    finish(pool).await;
}

#[tokio::test]
async fn one_that_does_not_end_when_it_is_closed_is_killed() {
    let grace = Duration::from_millis(200);
    let pool = pool("streams.py").workers(1).cancel_grace(grace).start().await.unwrap();
    let files = Files::new();
    let started = files.path("started");
    let mut stream = pool.stream::<i64>("stubborn", &[&started]);
    take(&mut stream, 1).await;
    drop(stream);
    let pid: i32 = told(&started).await.parse().unwrap();
    eventually("it is killed", || !is_alive(pid)).await;
    whole(&pool).await;
    assert_eq!(pool.call::<i64>("echo", 7).timeout(LIMIT).await.unwrap(), 7);
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_streams_that_are_dropped_anywhere_cost_no_worker() {
    let pool = pool("streams.py").workers(2).start().await.unwrap();
    let mut random = fastrand::Rng::with_seed(29);
    for round in 0..100 {
        let handler = ["count", "count_async"][round % 2];
        let mut stream = pool.stream::<usize>(handler, 1_000_000).timeout(LIMIT);
        let n = random.usize(0..200);
        assert_eq!(take(&mut stream, n).await, (0..n).collect::<Vec<_>>());
        drop(stream);
        assert_eq!(pool.call::<usize>("echo", round).timeout(LIMIT).await.unwrap(), round);
    }
    eventually("all are given up", || pool.stats().busy == 0).await;
    assert_eq!(pool.stats().restarts, 0, "{:?}", pool.workers());
    finish(pool).await;
}

#[tokio::test]
async fn a_slow_consumer_keeps_no_answer_from_its_generator() {
    let pool = pool("streams.py").workers(1).start().await.unwrap();
    let session = pool.session("user-42");
    let mut stream = session.clone().in_order().stream::<usize>("remembers", 500);
    let mut next = pin!(session.clone().in_order().call::<i64>("echo", 7).into_future());
    for number in 0..500 {
        assert_eq!(take(&mut stream, 1).await, [number]);
        let state = session.state().unwrap();
        let count: usize = state.get("count").await.unwrap().unwrap();
        assert!((number + 1..=number + 1 + WINDOW).contains(&count), "{count} at {number}");
        // Another call of its session has to wait for the end.
        let polled = poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx))).await;
        assert!(number > 500 - WINDOW || polled.is_pending());
    }
    assert!(stream.next().await.is_none());
    finish(pool).await;
}

#[tokio::test]
async fn a_shutdown_ends_a_stream_that_nobody_reads_on() {
    let grace = Duration::from_millis(300);
    let pool = pool("streams.py").workers(1).shutdown_grace(grace).start().await.unwrap();
    let files = Files::new();
    let ended = files.path("ended");
    let mut stream = pool.stream::<usize>("tidy", (1_000_000, &ended));
    take(&mut stream, 1).await;
    let begun = Instant::now();
    within(LIMIT, "shutdown", pool.shutdown()).await.unwrap();
    assert!(begun.elapsed() >= grace);
    // What had come is still given.
    let (items, error) = all(stream).await;
    assert!(items.into_iter().eq(1..WINDOW));
    let Some(Error::WorkerDied(death)) = &error else { panic!("{error:?}") };
    assert!(matches!(death.ended, Ended::Shutdown), "{death:?}");
    finish(pool).await;
}

#[tokio::test]
async fn one_is_tried_again_only_before_its_first_item() {
    let pool = pool("streams.py").workers(1).start().await.unwrap();
    let files = Files::new();
    let stream = pool.stream::<usize>("dies_once", (files.path("none"), 0)).idempotent();
    let (items, error) = all(stream).await;
    assert!(items == [42] && error.is_none(), "{items:?} {error:?}");
    let stream = pool.stream::<usize>("dies_once", (files.path("some"), 3)).idempotent();
    let (items, error) = all(stream).await;
    assert_eq!(items, [0, 1, 2]);
    assert!(matches!(error, Some(Error::WorkerDied(_))), "{error:?}");
    finish(pool).await;
}

#[tokio::test]
async fn streams_of_many_consumers_run_beside_calls() {
    let pool = pool("streams.py").workers(2).start().await.unwrap();
    let consumers: Vec<_> = (0..8)
        .map(|number| {
            let pool = pool.clone();
            tokio::spawn(async move {
                for _ in 0..5 {
                    let n = 100 + number;
                    let (items, error) = all(pool.stream::<usize>("count", n)).await;
                    assert!(items.len() == n && error.is_none(), "{error:?}");
                    assert_eq!(pool.call::<usize>("echo", n).await.unwrap(), n);
                }
            })
        })
        .collect();
    for consumer in consumers {
        within(LIMIT, "a consumer", consumer).await.unwrap();
    }
    assert_eq!(pool.stats().completed, 80);
    finish(pool).await;
}

/// One slow consumer keeps nothing from the others, in the same worker.
#[tokio::test]
async fn streams_overlap_in_one_worker() {
    let pool = pool("streams.py").workers(1).concurrency(8).start().await.unwrap();
    let pid = pids(&pool)[0];
    let n = 4 * WINDOW;
    let mut held_up = pool.stream::<(usize, usize)>("overlapping", n);
    take(&mut held_up, 1).await;
    let others = (0..4).map(|_| all(pool.stream::<(usize, usize)>("overlapping", n)));
    let mut most = 0;
    for (items, error) in within(LIMIT, "the others", futures::future::join_all(others)).await {
        assert!(error.is_none(), "{error:?}");
        assert!(items.iter().map(|&(number, _)| number).eq(0..n));
        most = most.max(items.iter().map(|&(_, at_work)| at_work).max().unwrap());
    }
    assert_eq!(most, 5);
    let sums: Vec<usize> = all(pool.session("user").stream("asks_between", 100)).await.0;
    assert!(sums.into_iter().eq(1..=100));
    // A plain one runs while they stand still.
    assert_eq!(all(pool.stream::<usize>("count", n)).await.0.len(), n);
    // Given up, each of them ends alone.
    let files = Files::new();
    for round in 0..10 {
        let ended = files.path(&format!("ended-{round}"));
        let mut stream = pool.stream::<usize>("tidy_async", (1_000_000, &ended));
        take(&mut stream, round * 10 + 1).await;
        drop(stream);
        assert_eq!(told(&ended).await, "closed");
    }
    assert_eq!(take(&mut held_up, n - 1).await.last().unwrap().0, n - 1);
    assert!(held_up.next().await.is_none());
    serves(&pool, pid).await;
    finish(pool).await;
}

#[test]
fn without_a_runtime_there_is_an_error() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let pool = runtime.block_on(pool("streams.py").workers(1).start()).unwrap();
    let mut stream = pool.stream::<usize>("count", 1);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let Poll::Ready(Some(Err(error))) = stream.poll_next_unpin(&mut context) else {
        panic!("it is polled")
    };
    assert!(error.to_string().contains("no tokio runtime"), "{error}");
    runtime.block_on(finish(pool));
}
