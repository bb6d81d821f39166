//! Scenario 24: whatever way a handler finds to end its worker, its caller gets one error that says what happened,
//! a fresh worker takes the slot, and the next call is fine.

use std::fs;
use std::sync::Arc;

use serde::Serialize;
use snakepen::{Ended, Error, Exit, Pool, WorkerDeath};

use crate::common::{eventually, finish, is_alive, pids, pool, whole};

const SIGSEGV: i32 = 11;
const SIGABRT: i32 = 6;
const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

async fn one_worker() -> Pool {
    pool("deaths.py").workers(1).start().await.unwrap()
}

/// Calls a handler that ends its worker; what the caller is told, once all that has to be true of it is checked.
async fn kills(pool: &Pool, handler: &str, args: impl Serialize) -> (Arc<WorkerDeath>, String) {
    whole(pool).await;
    let victim = pids(pool)[0];
    let before = pool.stats();
    let error = pool.call::<()>(handler, args).await.unwrap_err();
    let Error::WorkerDied(death) = &error else { panic!("{handler}: {error:?}") };
    assert_eq!((death.handler.as_str(), death.pid, death.started), (handler, victim, true));
    assert_eq!(death.worker, format!("{}/worker/0", pool.name()));
    assert!(error.may_have_run() && !error.is_retryable());

    // The next call, at once.
    let successor: i32 = pool.call("pid", ()).await.unwrap();
    assert_ne!(successor, victim);
    assert!(!is_alive(victim));
    let after = pool.stats();
    assert_eq!(after.failed.worker_died, before.failed.worker_died + 1);
    assert_eq!(after.failed.total(), before.failed.total() + 1);
    assert_eq!((after.restarts, after.ready), (before.restarts + 1, 1));
    (Arc::clone(death), error.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exit_is_told_with_its_status_and_last_words() {
    let pool = one_worker().await;
    for status in [3, 0, 255] {
        let (death, text) = kills(&pool, "exit_at_once", (status,)).await;
        assert_eq!((death.exit, &death.ended), (Exit::Code(status), &Ended::Itself));
        assert_eq!(death.stderr, "last words\n");
        assert!(text.contains(&format!("exited with status {status}")), "{text}");
        assert!(text.contains("last words"), "{text}");
    }
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sys_exit_is_an_exit() {
    let pool = one_worker().await;
    for (handler, args, status) in [
        ("leave", vec![], 0),
        ("leave", vec![serde_json::json!(4)], 4),
        ("leave", vec![serde_json::json!("no more of this")], 1),
        ("leave_async", vec![serde_json::json!(5)], 5),
    ] {
        let (death, text) = kills(&pool, handler, &args).await;
        assert_eq!((death.exit, &death.ended), (Exit::Code(status), &Ended::Itself), "{args:?}");
        assert!(text.contains(&format!("exited with status {status}")), "{text}");
        if status == 1 {
            assert_eq!(death.stderr, "no more of this\n");
        }
    }
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_is_told_with_its_signal_and_the_python_stack() {
    let pool = one_worker().await;
    for (handler, signal, name, what) in [
        ("read_address_zero", SIGSEGV, "SIGSEGV", "Segmentation fault"),
        ("abort", SIGABRT, "SIGABRT", "Aborted"),
    ] {
        let (death, text) = kills(&pool, handler, ()).await;
        assert_eq!((death.exit, &death.ended), (Exit::Signal(signal), &Ended::Itself));
        let stack = &death.python_stack;
        assert!(stack.contains(what), "{stack}");
        assert!(stack.contains("deaths.py") && stack.contains(&format!("in {handler}")), "{stack}");
        assert!(text.contains(&format!("was killed by {name}")), "{text}");
        assert!(text.contains(&format!("in {handler}")), "{text}");
    }
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_is_told_by_its_name() {
    let pool = one_worker().await;
    for (signal, name) in [(SIGKILL, "SIGKILL"), (SIGTERM, "SIGTERM")] {
        let (death, text) = kills(&pool, "signal_itself", (signal,)).await;
        assert_eq!((death.exit, &death.ended), (Exit::Signal(signal), &Ended::Itself));
        assert!(text.contains(&format!("was killed by {name}")), "{text}");
    }
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn out_of_memory_is_an_exception_and_a_fresh_worker() {
    let pool = one_worker().await;
    let victim = pids(&pool)[0];
    let error = pool.call::<i64>("out_of_memory", ()).await.unwrap_err();
    let Error::Python { exception, .. } = &error else { panic!("{error:?}") };
    assert_eq!(exception.type_name, "MemoryError");
    assert!(exception.traceback.contains("in out_of_memory"), "{}", exception.traceback);
    assert_ne!(pool.call::<i32>("pid", ()).await.unwrap(), victim);
    let stats = pool.stats();
    assert_eq!((stats.failed.exception, stats.failed.total(), stats.restarts), (1, 1, 1));
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_recursion_is_an_exception() {
    let pool = one_worker().await;
    let worker = pids(&pool)[0];
    let error = pool.call::<()>("recurse", ()).await.unwrap_err();
    let Error::Python { exception, .. } = &error else { panic!("{error:?}") };
    assert_eq!(exception.type_name, "RecursionError");
    assert!(exception.traceback.contains("in recurse"), "{}", exception.traceback);
    // Nothing of the worker is harmed.
    assert_eq!(pool.call::<i32>("pid", ()).await.unwrap(), worker);
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stack_that_overflows_is_a_crash_or_an_exception() {
    let pool = one_worker().await;
    match pool.call::<String>("overflow_the_stack", ()).await.unwrap_err() {
        Error::WorkerDied(death) => {
            assert_eq!((death.exit, &death.ended), (Exit::Signal(SIGSEGV), &Ended::Itself));
            assert!(death.python_stack.contains("deaths.py"), "{}", death.python_stack);
            assert_eq!(pool.stats().failed.worker_died, 1);
        }
        // Newer interpreters look after their stack.
        Error::Python { exception, .. } => assert_eq!(exception.type_name, "RecursionError"),
        error => panic!("{error:?}"),
    }
    assert!(pool.call::<i32>("pid", ()).await.is_ok());
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_the_ports_descriptor_is_told() {
    let pool = one_worker().await;
    // The handler returns, and there is no way to send its result.
    let (death, text) = kills(&pool, "close_descriptors", ()).await;
    assert!(matches!(death.exit, Exit::Code(_) | Exit::Signal(SIGKILL)), "{:?}", death.exit);
    assert!(text.contains("descriptor"), "{text}");
    // The handler stays, and would do so for ever.
    let (death, text) = kills(&pool, "close_descriptors_and_stay", ()).await;
    assert_eq!((death.exit, &death.ended), (Exit::Signal(SIGKILL), &Ended::ClosedPort));
    assert!(text.contains("descriptor"), "{text}");
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_idle_fails_no_call() {
    let directory = tempfile::tempdir().unwrap();
    let pool = one_worker().await;
    for n in 0..5 {
        let flag = directory.path().join(n.to_string());
        let victim: i32 = pool.call("exit_when", (&flag,)).await.unwrap();
        fs::write(&flag, "").unwrap();
        eventually("the worker has ended", || !is_alive(victim)).await;
        assert_ne!(pool.call::<i32>("pid", ()).await.unwrap(), victim);
        let last_error = pool.workers()[0].last_error.clone().unwrap();
        assert!(last_error.contains("exited with status 7"), "{last_error}");
    }
    let stats = pool.stats();
    assert_eq!((stats.failed.total(), stats.restarts), (0, 5));
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_is_no_concern_of_the_neighbours() {
    let pool = pool("deaths.py").workers(2).start().await.unwrap();
    let healthy = pids(&pool)[1];
    let victim = pool.worker(0).unwrap();
    let neighbour = pool.worker(1).unwrap();
    let deaths = async {
        for handler in ["read_address_zero", "abort", "leave", "close_descriptors"] {
            let error = victim.call::<()>(handler, ()).await.unwrap_err();
            assert!(matches!(error, Error::WorkerDied(_)), "{error:?}");
        }
    };
    let calls = async {
        for _ in 0..500 {
            assert_eq!(neighbour.call::<i32>("pid", ()).await.unwrap(), healthy);
        }
    };
    tokio::join!(deaths, calls);
    whole(&pool).await;
    finish(pool).await;
}
