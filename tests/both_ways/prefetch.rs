//! Calls that are written ahead to a worker at work: they are queued until they begin, none runs twice or after its caller
//! has given it up, none is lost with the worker, and none waits behind a slow one while another worker is free.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use snakepen::{Builder, CallContext, Ended, Error, Exit, Pool, Stage};

use crate::common::{self, LIMIT, eventually, finish, kill, pids, pool, whole, within};

fn short() -> Builder {
    pool("prefetch.py").call_timeout(LIMIT)
}

/// A call that is made at once, in a task of its own.
fn spawn<R>(call: snakepen::Call<R>) -> tokio::task::JoinHandle<Result<R, Error>>
where
    R: serde::de::DeserializeOwned + Send + 'static,
{
    tokio::spawn(call.into_future())
}

/// A worker that is held, and calls behind it.
struct Held {
    files: tempfile::TempDir,
    call: tokio::task::JoinHandle<Result<i32, Error>>,
}

impl Held {
    async fn new(pool: &Pool, handler: &str) -> Self {
        let files = tempfile::tempdir().unwrap();
        let [started, gate] = ["started", "gate"].map(|name| files.path().join(name));
        assert!(std::process::Command::new("mkfifo").arg(&gate).status().unwrap().success());
        let call = spawn(pool.call::<i32>(handler, (&started, &gate)));
        eventually("it is held", || started.exists()).await;
        Self { files, call }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// Lets the handler end.
    fn release(&self) {
        // Opening it for writing waits for the reader, which is there.
        std::fs::write(self.path("gate"), "").unwrap();
    }

    fn log(&self) -> PathBuf {
        self.path("log")
    }

    /// Calls that say when they run, which are queued by then.
    async fn behind(
        &self,
        pool: &Pool,
        names: &[&str],
    ) -> Vec<tokio::task::JoinHandle<Result<i32, Error>>> {
        let queued = pool.stats().queued;
        let calls =
            names.iter().map(|name| spawn(pool.call::<i32>("note", (self.log(), name)))).collect();
        eventually("they are queued", || pool.stats().queued == queued + names.len()).await;
        calls
    }
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_many_gets_its_own_answer() {
    let pool = short().workers(2).start().await.unwrap();
    let callers = (0..64_u64).map(|caller| {
        let pool = pool.clone();
        tokio::spawn(async move {
            for call in 0..100 {
                let value = caller * 1000 + call;
                let handler = ["echo", "later", "never_ahead", "plain"][(value % 4) as usize];
                assert_eq!(pool.call::<u64>(handler, (value,)).await.unwrap(), value);
            }
        })
    });
    within(LIMIT, "all", join_all(callers)).await.into_iter().for_each(|ended| ended.unwrap());
    let stats = pool.stats();
    assert_eq!((stats.completed, stats.failed.total(), stats.restarts), (6400, 0, 0));
    assert_eq!((stats.queued, stats.busy), (0, 0));
    finish(pool).await;
}

#[tokio::test]
async fn what_is_written_ahead_is_queued() {
    let pool = short().workers(1).start().await.unwrap();
    let held = Held::new(&pool, "hold").await;
    let calls = held.behind(&pool, &["a", "b", "c"]).await;
    let stats = pool.stats();
    assert_eq!((stats.queued, stats.busy), (3, 1));
    assert_eq!(lines(&held.log()), [""; 0]);
    held.release();
    let pid = within(LIMIT, "it", held.call).await.unwrap().unwrap();
    for call in calls {
        assert_eq!(within(LIMIT, "those behind it", call).await.unwrap().unwrap(), pid);
    }
    let stats = pool.stats();
    assert_eq!((stats.queued, stats.busy, stats.completed), (0, 0, 4));
    finish(pool).await;
}

/// Nothing waits behind a slow call while another worker is free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_one_holds_up_nobody() {
    let pool = short().workers(2).start().await.unwrap();
    let (one, other) = (Held::new(&pool, "hold").await, Held::new(&pool, "hold").await);
    let calls = one.behind(&pool, &["a", "b", "c", "d", "e", "f"]).await;
    other.release();
    let free = within(LIMIT, "the other", other.call).await.unwrap().unwrap();
    for call in calls {
        assert_eq!(within(LIMIT, "those behind", call).await.unwrap().unwrap(), free);
    }
    let mut ran = lines(&one.files.path().join("log"));
    ran.sort_unstable();
    assert_eq!(ran, ["a", "b", "c", "d", "e", "f"], "each once");
    one.release();
    assert_ne!(within(LIMIT, "the one", one.call).await.unwrap().unwrap(), free);
    finish(pool).await;
}

#[tokio::test]
async fn what_is_given_up_before_it_begins_never_runs() {
    let pool = short().workers(1).start().await.unwrap();
    let held = Held::new(&pool, "hold").await;
    let dropped = held.behind(&pool, &["dropped"]).await.remove(0);
    let mut call = pool.call::<i32>("note", (held.log(), "cancelled"));
    let cancel = call.cancel_handle();
    let cancelled = spawn(call);
    let late = pool.call::<i32>("note", (held.log(), "late"));
    let late = spawn(late.timeout(Duration::from_millis(30)));
    eventually("they are queued", || pool.stats().queued == 3).await;
    dropped.abort();
    cancel.cancel();
    let error = within(LIMIT, "the cancelled one", cancelled).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Cancelled { stage: Stage::Queue, .. }), "{error:?}");
    assert!(!error.may_have_run());
    let error = within(LIMIT, "the late one", late).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Timeout { stage: Stage::Queue, .. }), "{error:?}");
    eventually("none is queued", || pool.stats().queued == 0).await;
    held.release();
    within(LIMIT, "it", held.call).await.unwrap().unwrap();
    let path = held.files.path().join("log");
    pool.call::<i32>("note", (&path, "last")).await.unwrap();
    assert_eq!(lines(&path), ["last"]);
    let stats = pool.stats();
    assert_eq!((stats.failed.timeout_queued, stats.failed.cancelled), (1, 1));
    assert_eq!((stats.failed.abandoned, stats.failed.total(), stats.restarts), (1, 3, 0));
    finish(pool).await;
}

/// A deadline that passes while the worker comes to it: Python looks before it starts one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_hold_at_every_moment() {
    // On a slow machine twenty in a row run out of time.
    let pool = short().workers(1).circuit_threshold(0).start().await.unwrap();
    let files = tempfile::tempdir().unwrap();
    let log = files.path().join("log");
    let calls = (0..300_u64).map(|number| {
        let call = pool.call::<i32>("note", (&log, number.to_string(), 0.0005));
        spawn(call.timeout(Duration::from_micros(500 + number * 97 % 20_000)))
    });
    let mut ran = lines(&log);
    let ended = within(LIMIT, "all", join_all(calls)).await;
    pool.call::<i32>("note", (&log, "last")).await.unwrap();
    ran.extend(lines(&log));
    for (number, ended) in ended.into_iter().enumerate() {
        let times = ran.iter().filter(|line| **line == number.to_string()).count();
        match ended.unwrap() {
            Ok(_) => assert_eq!(times, 1, "{number}"),
            Err(error) if error.may_have_run() => assert!(times <= 1, "{number}: {error}"),
            Err(error) => assert_eq!(times, 0, "{number}: {error}"),
        }
    }
    let stats = pool.stats();
    assert_eq!((stats.queued, stats.busy), (0, 0));
    finish(pool).await;
}

async fn none_is_lost(handler: &str, dies: impl FnOnce(&Pool, &Held), restarts: u64) -> Error {
    let pool = short().workers(1).start().await.unwrap();
    let held = Held::new(&pool, handler).await;
    let calls = held.behind(&pool, &["a", "b", "c", "d"]).await;
    dies(&pool, &held);
    let Held { files, call } = held;
    let error = within(LIMIT, "it", call).await.unwrap().unwrap_err();
    for call in calls {
        within(LIMIT, "those behind", call).await.unwrap().unwrap();
    }
    let mut ran = lines(&files.path().join("log"));
    ran.sort_unstable();
    assert_eq!(ran, ["a", "b", "c", "d"], "each once");
    whole(&pool).await;
    let stats = pool.stats();
    assert_eq!((stats.completed, stats.failed.total(), stats.restarts), (4, 1, restarts));
    finish(pool).await;
    error
}

#[tokio::test]
async fn none_is_lost_with_a_worker_that_is_killed() {
    let error = none_is_lost("hold", |pool, _| kill(pids(pool)[0], 9), 1).await;
    let Error::WorkerDied(death) = &error else { panic!("{error:?}") };
    assert!(death.started && death.exit == Exit::Signal(9), "{error:?}");
}

#[tokio::test]
async fn none_is_lost_with_a_worker_that_leaves() {
    let error = none_is_lost("leave", |_, held| held.release(), 1).await;
    let Error::WorkerDied(death) = &error else { panic!("{error:?}") };
    assert!(death.started && death.exit == Exit::Code(3), "{error:?}");
}

/// After a MemoryError, a worker starts nothing more.
#[tokio::test]
async fn none_is_lost_with_a_worker_that_is_spoilt() {
    let error = none_is_lost("exhaust", |_, held| held.release(), 1).await;
    assert!(matches!(error, Error::Python { .. }), "{error:?}");
}

/// One that was taken back may be with the same worker again when Python comes to it the first time. It is given to that
/// once, also beside another that spoils the worker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn none_is_lost_that_comes_back_to_its_worker() {
    let pool = short().workers(1).circuit_threshold(0).start().await.unwrap();
    let files = tempfile::tempdir().unwrap();
    let log = files.path().join("log");
    for round in 0..20 {
        // Long enough for what is behind it to be taken back.
        let slow = spawn(pool.call::<i32>("note", (&log, "slow", 0.02)));
        eventually("it runs", || pool.stats().busy == 1).await;
        let names = [0, 1].map(|number| format!("{round}.{number}"));
        let first = spawn(pool.call::<i32>("note", (&log, &names[0])));
        let spoils = spawn(pool.call::<()>("spoil", ()));
        let last = spawn(pool.call::<i32>("note", (&log, &names[1])));
        within(LIMIT / 4, "the slow one", slow).await.unwrap().unwrap();
        let error = within(LIMIT / 4, "the one that spoils it", spoils).await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Python { .. }), "{error:?}");
        for call in [first, last] {
            within(LIMIT / 4, "those beside it", call).await.unwrap().unwrap();
        }
        let ran = lines(&log);
        for name in &names {
            assert_eq!(ran.iter().filter(|line| *line == name).count(), 1, "{name}");
        }
    }
    whole(&pool).await;
    finish(pool).await;
}

/// What is taken back keeps a place until the worker comes to it, and there are only so many.
#[tokio::test]
async fn any_number_may_be_given_up_behind_a_slow_one() {
    let pool = short().workers(1).cancel_grace(Duration::from_millis(50)).circuit_threshold(0);
    let pool = pool.start().await.unwrap();
    let held = Held::new(&pool, "hold").await;
    for number in 0..600 {
        let call = pool.call::<i32>("note", (held.log(), number.to_string()));
        let error = call.timeout(Duration::from_millis(1)).await.unwrap_err();
        assert!(matches!(error, Error::Timeout { stage: Stage::Queue, .. }), "{number}: {error:?}");
        assert!(!error.may_have_run(), "{number}");
    }
    held.release();
    let log = held.log();
    within(LIMIT, "the slow one", held.call).await.unwrap().unwrap();
    assert_eq!(lines(&log), [""; 0]);
    let stats = pool.stats();
    assert_eq!((stats.completed, stats.restarts, stats.queued), (1, 0, 0));
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_number_may_be_taken_back_from_behind_a_slow_one() {
    let pool = short().workers(2).start().await.unwrap();
    let held = Held::new(&pool, "hold").await;
    for _ in 0..120 {
        // More than the other worker ends within the time that they are left with the slow one.
        let calls = (0..6).map(|_| spawn(pool.call::<i32>("note", (held.log(), "x", 0.006))));
        for call in calls.collect::<Vec<_>>() {
            within(LIMIT / 4, "one beside it", call).await.unwrap().unwrap();
        }
    }
    held.release();
    within(LIMIT, "the slow one", held.call).await.unwrap().unwrap();
    finish(pool).await;
}

#[tokio::test]
async fn behind_one_that_is_cancelled_they_go_on() {
    for reuse in [false, true] {
        let pool = short().workers(1).reuse_after_cancel(reuse).start().await.unwrap();
        let held = Held::new(&pool, "hold").await;
        let calls = held.behind(&pool, &["a", "b", "c"]).await;
        held.call.abort();
        for call in calls {
            within(LIMIT, "those behind", call).await.unwrap().unwrap();
        }
        assert!(held.path("started.ended").exists(), "it has cleaned up");
        let mut ran = lines(&held.log());
        ran.sort_unstable();
        assert_eq!(ran, ["a", "b", "c"], "each once");
        whole(&pool).await;
        assert_eq!(pool.stats().restarts, u64::from(!reuse));
        finish(pool).await;
    }
}

#[tokio::test]
async fn behind_one_that_cannot_be_cancelled_they_go_on() {
    let (_files, path) = common::handler_file(
        "import time, snakepen\n@snakepen.handler(prefetch=4)\ndef stuck():\n    while True:\n        try:\n            \
         time.sleep(1000)\n        except BaseException:\n            pass\n\
         @snakepen.handler(prefetch=4)\ndef one():\n    return 1\n",
    );
    let pool = common::pool_over(&path)
        .workers(1)
        .call_timeout(LIMIT)
        .cancel_grace(Duration::from_millis(50))
        .start()
        .await
        .unwrap();
    let stuck = spawn(pool.call::<()>("stuck", ()).timeout(Duration::from_millis(50)));
    eventually("it runs", || pool.stats().busy == 1).await;
    let calls: Vec<_> = (0..4).map(|_| spawn(pool.call::<i32>("one", ()))).collect();
    for call in calls {
        assert_eq!(within(LIMIT, "those behind", call).await.unwrap().unwrap(), 1);
    }
    let error = stuck.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Timeout { stage: Stage::Run, .. }), "{error:?}");
    finish(pool).await;
}

/// A handler that waits for a call to the same pool: that one is never written ahead to it, and what was is taken back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_may_wait_for_a_call() {
    let pool = short()
        .expose_fn("again", async |value: i64| {
            let pool = CallContext::current().and_then(|context| context.pool());
            let pool = pool.ok_or(Error::Closed { pool: "own".to_owned() })?;
            pool.call::<i64>("echo", (value,)).await
        })
        .workers(2)
        .start()
        .await
        .unwrap();
    let one = async {
        for value in 0..50_i64 {
            assert_eq!(pool.call::<i64>("ask", ("again", value)).await.unwrap(), value);
        }
    };
    let over = AtomicBool::new(false);
    let load = join_all((0..16_i64).map(|value| {
        let (pool, over) = (&pool, &over);
        async move {
            while !over.load(Ordering::Relaxed) {
                assert_eq!(pool.call::<i64>("echo", (value,)).await.unwrap(), value);
            }
        }
    }));
    let one = async {
        within(LIMIT, "the nested calls", one).await;
        over.store(true, Ordering::Relaxed);
    };
    tokio::join!(one, load);
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_plain_call_is_served_beside_them() {
    let pool = short().workers(1).start().await.unwrap();
    let calls = (0..40_u64).map(|number| {
        let pool = pool.clone();
        tokio::spawn(async move {
            match number % 4 {
                0 => {
                    let items = pool.stream::<u64>("count", (5,)).collect::<Vec<_>>().await;
                    assert!(items.into_iter().map(Result::unwrap).eq(0..5));
                }
                1 => assert_eq!(pool.call::<u64>("gathered", (number,)).await.unwrap(), number),
                2 => assert_eq!(pool.call::<[u64; 3]>("count", (3,)).await.unwrap(), [0, 1, 2]),
                _ => assert_eq!(pool.call::<u64>("echo", (number,)).await.unwrap(), number),
            }
        })
    });
    within(LIMIT, "all", join_all(calls)).await.into_iter().for_each(|ended| ended.unwrap());
    finish(pool).await;
}

#[tokio::test]
async fn a_pool_may_say_so_for_all_its_handlers() {
    let pool = short().workers(1).prefetch(2).start().await.unwrap();
    let held = Held::new(&pool, "hold").await;
    let calls: Vec<_> = ["plain", "never_ahead", "plain"]
        .map(|handler| spawn(pool.call::<u64>(handler, (1,))))
        .into_iter()
        .collect();
    eventually("they are queued", || pool.stats().queued == 3).await;
    held.release();
    for call in calls {
        assert_eq!(within(LIMIT, "those behind", call).await.unwrap().unwrap(), 1);
    }
    held.call.await.unwrap().unwrap();
    finish(pool).await;
    for (builder, says) in [
        (short().prefetch(65), "up to 64 calls are written ahead"),
        (short().prefetch(1).concurrency(2), "leave it out, or `concurrency`"),
    ] {
        let error = builder.start().await.unwrap_err().to_string();
        assert!(error.contains("prefetch") && error.contains(says), "{error}");
    }
}

#[tokio::test]
async fn numbers_that_make_no_sense_are_start_errors() {
    for (prefetch, says) in [
        ("65", "0 to 64, not 65"),
        ("-1", "0 to 64, not -1"),
        ("'8'", "is a number, not str"),
        ("True", "is a number, not bool"),
        ("2, batch=2", "aren't written ahead"),
    ] {
        let source =
            format!("import snakepen\n@snakepen.handler(prefetch={prefetch})\ndef f(): pass\n");
        let (_files, path) = common::handler_file(&source);
        let error = common::pool_over(&path).workers(1).start().await.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

/// Everything at once: kills, cancels, deadlines, a new size, new workers. Each call ends once, and runs at most once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn none_runs_twice_whatever_happens() {
    let pool = short().workers(2).start().await.unwrap();
    let files = tempfile::tempdir().unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..16_u64)
        .map(|caller| {
            let (pool, over) = (pool.clone(), Arc::clone(&over));
            let log = files.path().join(caller.to_string());
            tokio::spawn(async move {
                let mut outcomes = BTreeMap::new();
                for number in 0_u64.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let mut call = pool.call::<i32>("note", (&log, number.to_string()));
                    if caller % 4 == 1 {
                        call = call.timeout(Duration::from_micros(number * 131 % 3000));
                    }
                    if caller % 4 == 2 {
                        let cancel = call.cancel_handle();
                        tokio::spawn(async move {
                            tokio::task::yield_now().await;
                            cancel.cancel();
                        });
                    }
                    let call = call.into_future();
                    if caller % 4 == 3 {
                        let polls = 1 + number as usize % 3;
                        if let Some(Ok(_)) = common::polled(polls, call).await {
                            outcomes.insert(number.to_string(), (true, true));
                        }
                        continue;
                    }
                    let outcome = match within(LIMIT, "a call", call).await {
                        Ok(_) => (true, true),
                        Err(error) => {
                            assert!(
                                matches!(
                                    error,
                                    Error::WorkerDied(_)
                                        | Error::Timeout { .. }
                                        | Error::Cancelled { .. }
                                        | Error::Start(_)
                                ),
                                "{error:?}"
                            );
                            if let Error::WorkerDied(death) = &error {
                                assert!(!matches!(death.ended, Ended::Protocol(_)), "{error:?}");
                            }
                            (false, error.may_have_run())
                        }
                    };
                    outcomes.insert(number.to_string(), outcome);
                }
                outcomes
            })
        })
        .collect();
    for round in 0..40_usize {
        let completed = pool.stats().completed;
        eventually("calls complete", || pool.stats().completed >= completed + 20).await;
        match round % 4 {
            0 | 1 => {
                let pids = pids(&pool);
                if let Some(&pid) = pids.get(round / 4 % pids.len().max(1)) {
                    let _ = std::process::Command::new("kill")
                        .args(["-9", &pid.to_string()])
                        .stderr(std::process::Stdio::null())
                        .status();
                }
            }
            2 => {
                let _ = within(LIMIT, "a reload", pool.reload()).await;
            }
            _ => {
                let _ = within(LIMIT, "a new size", pool.resize(1 + round / 4 % 3)).await;
            }
        }
    }
    over.store(true, Ordering::Relaxed);
    for (caller, ended) in within(LIMIT, "all", join_all(callers)).await.into_iter().enumerate() {
        let outcomes = ended.unwrap();
        let mut ran = BTreeMap::new();
        for line in lines(&files.path().join(caller.to_string())) {
            *ran.entry(line).or_insert(0) += 1;
        }
        assert!(ran.values().all(|&times| times == 1), "{caller}: one has run twice");
        for (number, (done, may_have_run)) in outcomes {
            let has_run = ran.contains_key(&number);
            assert!(!done || has_run, "{caller}: {number} has an answer, and has not run");
            assert!(may_have_run || !has_run, "{caller}: {number} has run");
        }
    }
    eventually("none is left", || pool.stats().queued + pool.stats().busy == 0).await;
    whole(&pool).await;
    finish(pool).await;
}
