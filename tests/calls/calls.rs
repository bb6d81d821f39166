//! What an ordinary call does: arguments in, results and exceptions out.

use std::time::Duration;

use futures::StreamExt;
use serde::{Deserialize, Serialize};
use snakepen::Error;

use crate::common::{self, finish, pool};

#[derive(Serialize)]
struct Sum {
    a: i64,
    b: i64,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Point {
    x: f64,
    y: f64,
}

#[tokio::test]
async fn arguments_are_positional_keyword_single_or_none() {
    let pool = pool("basic.py").workers(1).start().await.unwrap();
    assert_eq!(pool.call::<i64>("add", (2, 3)).await.unwrap(), 5);
    assert_eq!(pool.call::<i64>("add", [2, 3]).await.unwrap(), 5);
    assert_eq!(pool.call::<i64>("add", Sum { a: 2, b: 3 }).await.unwrap(), 5);
    assert_eq!(pool.call::<i64>("add", &Sum { a: 2, b: 3 }).await.unwrap(), 5);
    assert_eq!(pool.call::<String>("echo", "one").await.unwrap(), "one");
    assert_eq!(pool.call::<Option<i64>>("echo", ()).await.unwrap(), None);
    assert_eq!(pool.call::<Option<i64>>("echo", (None::<i64>,)).await.unwrap(), None);
    finish(pool).await;
}

#[tokio::test]
async fn a_result_is_decoded_into_the_callers_type() {
    let pool = pool("basic.py").workers(1).start().await.unwrap();
    let point: Point = pool.call("echo", (serde_json::json!({"x": 1, "y": 2.5}),)).await.unwrap();
    assert_eq!(point, Point { x: 1.0, y: 2.5 });
    let error = pool.call::<Point>("echo", ("not a point",)).await.unwrap_err();
    assert!(matches!(&error, Error::Decode { handler, .. } if handler == "echo"), "{error}");
    assert!(error.may_have_run() && !error.is_retryable());
    finish(pool).await;
}

#[tokio::test]
async fn an_async_handler_is_a_handler() {
    let pool = pool("basic.py").workers(1).start().await.unwrap();
    assert_eq!(pool.call::<f64>("async_sleep", (0.001,)).await.unwrap(), 0.001);
    finish(pool).await;
}

#[tokio::test]
async fn an_exception_arrives_with_its_traceback() {
    let pool = pool("basic.py").workers(1).start().await.unwrap();
    let error = pool.call::<()>("fail", "no such thing").await.unwrap_err();
    let Error::Python { handler, exception } = &error else { panic!("{error:?}") };
    assert_eq!((handler.as_str(), exception.type_name.as_str()), ("fail", "ValueError"));
    assert_eq!(exception.message, "no such thing");
    assert!(exception.traceback.contains("basic.py") && exception.traceback.contains("in fail"));
    assert!(
        !exception.traceback.contains("_worker.py") && !exception.traceback.contains("_serve.py")
    );
    assert!(error.may_have_run() && !error.is_retryable());
    finish(pool).await;
}

#[tokio::test]
async fn an_unknown_handler_is_named_with_the_known_ones() {
    let pool = pool("basic.py").workers(1).start().await.unwrap();
    let error = pool.call::<()>("ecko", ()).await.unwrap_err();
    let Error::UnknownHandler { name, known } = &error else { panic!("{error:?}") };
    assert_eq!(name, "ecko");
    assert!(known.contains(&"echo".to_owned()));
    assert!(!error.may_have_run() && !error.is_retryable());
    finish(pool).await;
}

#[tokio::test]
async fn exposed_functions_are_handlers() {
    let pool = pool("basic.py").workers(1).expose("sqrt", "math:sqrt").start().await.unwrap();
    assert_eq!(pool.call::<f64>("sqrt", 9).await.unwrap(), 3.0);
    assert!(pool.call::<f64>("math.sqrt", 9).await.is_err());
    finish(pool).await;
}

#[tokio::test]
async fn pythons_threads_take_turns_as_often_as_is_said() {
    let pool = pool("basic.py").workers(1).expose("interval", "sys:getswitchinterval");
    let usual = pool.clone().start().await.unwrap();
    assert_eq!(usual.call::<f64>("interval", ()).await.unwrap(), 0.005);
    finish(usual).await;
    let often = pool.switch_interval(Duration::from_micros(100)).start().await.unwrap();
    assert_eq!(often.call::<f64>("interval", ()).await.unwrap(), 0.0001);
    finish(often).await;
}

/// Whoever has an answer gets its turn before the next one is looked for.
#[tokio::test]
async fn a_port_that_spins_lets_others_have_their_turn() {
    let pool = pool("basic.py").workers(1).spin(Duration::from_millis(1)).start().await.unwrap();
    let calls: Vec<_> = (0..200)
        .map(|number| {
            let pool = pool.clone();
            tokio::spawn(async move {
                assert_eq!(pool.call::<i64>("echo", (number,)).await.unwrap(), number);
                pool.stats().queued
            })
        })
        .collect();
    let mut queued = Vec::new();
    for call in calls {
        queued.push(call.await.unwrap());
    }
    // All but the one that is answered, and the one that is with the worker by then.
    assert_eq!(queued[0], 198, "{queued:?}");
    finish(pool).await;
}

/// The answer is looked for past the runtime: what it meets there must be no other than what the runtime would.
#[tokio::test]
async fn a_port_that_spins_finds_what_others_find() {
    let pool = pool("basic.py").workers(1).spin(Duration::from_millis(1)).start().await.unwrap();
    for number in 0..200 {
        assert_eq!(pool.call::<i64>("echo", (number,)).await.unwrap(), number);
    }
    // Longer than what is looked at in one piece, and longer than it spins.
    let text = "x".repeat(100_000);
    assert_eq!(pool.call::<String>("echo", (&text,)).await.unwrap(), text);
    assert_eq!(pool.call::<f64>("sleep", (0.02,)).await.unwrap(), 0.02);
    let items: Vec<i64> =
        pool.stream::<i64>("count_up", (100,)).map(Result::unwrap).collect().await;
    assert_eq!(items, (0..100).collect::<Vec<_>>());
    let timeout = Duration::from_millis(30);
    let error = pool.call::<f64>("sleep", (30,)).timeout(timeout).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    let pid: i32 = pool.call("pid", ()).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let started = directory.path().join("started");
    let running = tokio::spawn(pool.call::<()>("touch", (&started, 30)).into_future());
    // One that has not begun when its worker dies goes to the next, and is answered there.
    common::eventually("it runs", || started.exists()).await;
    common::kill(pid, 9);
    assert!(matches!(running.await.unwrap(), Err(Error::WorkerDied(_))));
    assert_eq!(pool.call::<i64>("echo", (1,)).await.unwrap(), 1);
    finish(pool).await;
}
