//! Scenarios 8, 9, 13, 14, 15a and 15b: a call that is given up ends in Python too; its handler can clean up, the error says
//! where Python was, and no later call feels it.
//!
//! A naive pool answers the caller and lets Python run on, or kills the worker under the handler's hands.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use snakepen::{Builder, Error, Pool, Stage};

use crate::common::{
    self, LIMIT, eventually, finish, is_alive, kill, launcher_pid, pids, pool, state, told, whole,
    within,
};

const SHORT: Duration = Duration::from_millis(100);

/// So late may a busy machine be with what is due at a certain time.
const LATE: Duration = Duration::from_secs(5);

fn cancelled() -> Builder {
    pool("cancelled.py")
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn stack_of(error: &Error) -> &str {
    match error {
        Error::Timeout { stage: Stage::Run, python_stack, .. }
        | Error::Cancelled { stage: Stage::Run, python_stack, .. } => python_stack,
        other => panic!("{other:?}"),
    }
}

/// Runs `handler` over its deadline; returns its error. On a busy machine it may not be entered by then, or the stack may
/// not be had in time; so it is done again until it has what is `wanted`.
async fn overrun(pool: &Pool, handler: &str, args: &[&Path], wanted: &str) -> Error {
    let end = Instant::now() + LIMIT;
    loop {
        for path in args {
            let _ = std::fs::remove_file(path);
        }
        let error = pool.call::<()>(handler, args).timeout(SHORT).await.unwrap_err();
        if let Error::Timeout { stage: Stage::Run, python_stack, .. } = &error
            && args[0].exists()
            && python_stack.contains(wanted)
        {
            return error;
        }
        assert!(Instant::now() < end, "{error}");
    }
}

#[tokio::test]
async fn a_handler_that_runs_out_of_time_can_clean_up() {
    let pool = cancelled().workers(1).start().await.unwrap();
    for round in 1..=5 {
        let files = Files::new();
        let (started, ended) = (files.path("started"), files.path("ended"));
        let error = overrun(&pool, "tidy", &[&started, &ended], "in tidy").await;
        assert!(stack_of(&error).contains("cancelled.py"), "{error}");
        assert!(!stack_of(&error).contains("snakepen/_"), "{error}");
        assert!(error.may_have_run() && !error.is_retryable());
        assert_eq!(told(&ended).await, "Cancelled True");
        let old: i32 = told(&started).await.parse().unwrap();
        assert_ne!(pool.call::<i32>("pid", ()).await.unwrap(), old, "round {round}");
        eventually("it has left", || !is_alive(old)).await;
    }
    finish(pool).await;
}

#[tokio::test]
async fn a_worker_may_be_kept() {
    let pool = cancelled().workers(1).reuse_after_cancel(true).start().await.unwrap();
    let pid = pids(&pool)[0];
    for _ in 0..5 {
        let files = Files::new();
        let (started, ended) = (files.path("started"), files.path("ended"));
        overrun(&pool, "tidy", &[&started, &ended], "").await;
        assert_eq!(pool.call::<i32>("pid", ()).await.unwrap(), pid);
        assert_eq!(told(&ended).await, "Cancelled True");
    }
    assert_eq!(pool.stats().restarts, 0);
    finish(pool).await;
}

#[tokio::test]
async fn the_task_of_an_async_handler_is_cancelled_and_its_worker_kept() {
    let pool = cancelled().workers(1).start().await.unwrap();
    let pid = pids(&pool)[0];
    for _ in 0..5 {
        let files = Files::new();
        let (started, ended) = (files.path("started"), files.path("ended"));
        overrun(&pool, "tidy_async", &[&started, &ended], "in tidy_async").await;
        assert_eq!(told(&ended).await, "CancelledError True");
        assert_eq!(pool.call::<i32>("pid", ()).await.unwrap(), pid);
    }
    assert_eq!(pool.stats().restarts, 0);
    finish(pool).await;
}

#[tokio::test]
async fn a_future_that_is_dropped_cancels_its_handler() {
    let pool = cancelled().workers(1).start().await.unwrap();
    for handler in ["tidy", "tidy_async"] {
        let files = Files::new();
        let (started, ended) = (files.path("started"), files.path("ended"));
        tokio::select! {
            answer = pool.call::<()>(handler, (&started, &ended)) => panic!("{answer:?}"),
            _ = told(&started) => {}
        }
        assert!(told(&ended).await.ends_with(" True"));
        assert_eq!(pool.call::<i64>("echo", 7).await.unwrap(), 7);
    }
    assert_eq!(pool.stats().failed.abandoned, 2);
    finish(pool).await;
}

#[tokio::test]
async fn a_handle_cancels_a_call_wherever_it_is() {
    let pool = cancelled().workers(1).start().await.unwrap();
    let files = Files::new();
    let (started, ended) = (files.path("started"), files.path("ended"));

    let mut running = pool.call::<()>("tidy", (&started, &ended));
    let cancel_running = running.cancel_handle();
    let running = tokio::spawn(running.into_future());
    told(&started).await;
    let mut queued = pool.call::<i64>("echo", 1);
    let cancel_queued = queued.cancel_handle();
    let queued = tokio::spawn(queued.into_future());
    eventually("it is queued", || pool.stats().queued == 1).await;

    cancel_queued.cancel();
    let error = within(LIMIT, "the queued one", queued).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Cancelled { stage: Stage::Queue, .. }), "{error:?}");
    assert!(!error.may_have_run());

    cancel_running.cancel();
    let error = within(LIMIT, "the running one", running).await.unwrap().unwrap_err();
    // On a busy machine the stack may not be had in time.
    let stack = stack_of(&error);
    assert!(stack.is_empty() || stack.contains("in tidy"), "{error}");
    assert_eq!(told(&ended).await, "Cancelled True");

    let mut unmade = pool.call::<i64>("echo", 1);
    unmade.cancel_handle().cancel();
    let error = unmade.await.unwrap_err();
    assert!(matches!(error, Error::Cancelled { .. }), "{error:?}");

    let mut done = pool.call::<i64>("echo", 2);
    let late = done.cancel_handle();
    assert_eq!(done.await.unwrap(), 2);
    late.cancel();
    assert_eq!(pool.call::<i64>("echo", 3).await.unwrap(), 3);
    assert_eq!(pool.stats().failed.cancelled, 2, "one was never made");
    finish(pool).await;
}

#[tokio::test]
async fn one_that_does_not_end_is_killed_after_the_grace() {
    let grace = Duration::from_millis(200);
    // It is called until its stack is had in time, which on a busy machine takes more tries than a circuit allows.
    let builder = cancelled().workers(1).cancel_grace(grace).circuit_threshold(0);
    let pool = builder.start().await.unwrap();
    for (handler, frame) in
        [("stubborn", "in stubborn"), ("in_c", "in in_c"), ("tight", "in tight"), ("deaf", "")]
    {
        let files = Files::new();
        let started = files.path("started");
        let error = overrun(&pool, handler, &[&started], frame).await;
        let deadline = Instant::now();
        if frame.is_empty() {
            assert!(error.to_string().contains("could not be had"), "{error}");
        }
        let pid: i32 = told(&started).await.parse().unwrap();
        eventually("it is killed", || !is_alive(pid)).await;
        assert!(deadline.elapsed() < grace + LATE, "{handler}: {:?}", deadline.elapsed());
        whole(&pool).await;
        assert_eq!(pool.call::<i64>("echo", 7).await.unwrap(), 7);
    }
    finish(pool).await;
}

/// When a stopped process goes on, all its threads wake, and any of them takes a signal that is meant for the process.
#[tokio::test]
async fn a_worker_that_was_stopped_meanwhile_is_interrupted_where_it_is() {
    let pool = cancelled().workers(1).cancel_grace(LIMIT).start().await.unwrap();
    for _ in 0..10 {
        let files = Files::new();
        let (started, ended) = (files.path("started"), files.path("ended"));
        let mut call = pool.call::<()>("in_c_beside_threads", (&started, &ended));
        let cancel = call.cancel_handle();
        let call = tokio::spawn(call.into_future());
        let pid: i32 = told(&started).await.parse().unwrap();
        eventually("it sleeps", || state(pid) == Some('S')).await;
        kill(pid, 19);
        eventually("it is stopped", || state(pid) == Some('T')).await;
        cancel.cancel();
        let error = within(LIMIT, "the call", call).await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Cancelled { stage: Stage::Run, .. }), "{error:?}");
        kill(pid, 18);
        eventually("it has left", || !is_alive(pid)).await;
        assert!(!ended.exists(), "the handler went on");
        assert_eq!(pool.call::<i64>("echo", 7).await.unwrap(), 7);
    }
    finish(pool).await;
}

#[tokio::test]
async fn a_shield_puts_it_off() {
    let pool = cancelled().workers(1).cancel_grace(LIMIT).start().await.unwrap();
    let files = Files::new();
    let [started, half, done] = ["started", "half", "done"].map(|name| files.path(name));
    overrun(&pool, "shielded", &[&started, &half, &done], "in shielded").await;
    assert_eq!(told(&half).await, "still here");
    assert_eq!(pool.call::<i64>("echo", 7).await.unwrap(), 7);
    assert!(!done.exists());
    finish(pool).await;
}

#[tokio::test]
async fn the_deadline_is_visible() {
    let pool = cancelled().workers(1).start().await.unwrap();
    let left: f64 = pool.call("remaining", ()).timeout(Duration::from_secs(20)).await.unwrap();
    assert!((10.0..20.0).contains(&left), "{left}");
    finish(pool).await;
}

/// Cancels at random moments; what follows is never hit, and no lock is left held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_other_call_feels_a_cancellation() {
    let builder = cancelled().workers(2).reuse_after_cancel(true).cancel_grace(LIMIT);
    let pool = builder.start().await.unwrap();
    let callers: Vec<_> = (0..4_i64)
        .map(|caller| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let mut random = fastrand::Rng::with_seed(caller.unsigned_abs());
                for round in 0..150 {
                    let limit = Duration::from_micros(random.u64(0..1500));
                    // Short ones are cancelled as they end.
                    if round % 3 == 0 {
                        let _ = pool.call::<()>("remaining", ()).timeout(limit).await;
                    } else {
                        let _ = pool.call::<i64>("echo", -1).timeout(limit).await;
                    }
                    let value = caller * 1000 + round;
                    let answer = pool.call::<i64>("echo", value).timeout(LIMIT).await;
                    assert_eq!(answer.expect("an innocent call"), value);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(pool.stats().restarts, 0, "{:?}", pool.workers());
    finish(pool).await;
}

/// Where an exception at the wrong moment would leave a lock held, the worker is not used again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_is_left_held_harms_nobody() {
    let pool = cancelled().workers(2).circuit_threshold(0).start().await.unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..100 {
        let limit = Duration::from_micros(2000 + random.u64(0..3000));
        let error = pool.call::<()>("churn", ()).timeout(limit).await.unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
        assert_eq!(pool.call::<i64>("echo", round).timeout(LIMIT).await.unwrap(), round);
    }
    finish(pool).await;
}

#[tokio::test]
async fn a_launcher_that_is_stopped_holds_up_no_cancellation() {
    for signal in [19, 9] {
        let builder = cancelled().workers(2).cancel_grace(SHORT).health_timeout(SHORT);
        let pool = builder.start().await.unwrap();
        let files = Files::new();
        let started = files.path("started");
        let (start, timeout) = (Instant::now(), Duration::from_millis(500));
        let call = pool.call::<()>("stubborn", &[&started]).timeout(timeout);
        let call = tokio::spawn(call.into_future());
        let pid: i32 = told(&started).await.parse().unwrap();
        let launcher = launcher_pid(&pool);
        kill(launcher, signal);
        let error = within(LIMIT, "the call", call).await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Timeout { .. } | Error::WorkerDied(_)), "{error:?}");
        eventually("its process has ended", || common::state(pid).is_none_or(|state| state == 'Z'))
            .await;
        assert!(start.elapsed() < timeout + SHORT + LATE, "{:?}", start.elapsed());
        eventually("there is another launcher", || !is_alive(launcher)).await;
        whole(&pool).await;
        assert_eq!(pool.call::<i64>("echo", 7).await.unwrap(), 7);
        finish(pool).await;
    }
}
