//! Scenario 22: values that JSON has no word for, or that are extreme, both ways: the value arrives, or a clean error
//! does, and the worker lives.

use std::collections::HashMap;
use std::future::IntoFuture;

use serde_json::{Value, json};
use snakepen::{Error, Pool};

use crate::common::{finish, pids, pool};

async fn bad_result(pool: &Pool, name: &str) -> (String, String, String) {
    let error = pool.call::<Value>("odd", (name,)).await.unwrap_err();
    let Error::BadResult { handler, type_name, path, message } = &error else {
        panic!("{name}: {error:?}")
    };
    assert_eq!(handler, "odd");
    assert!(error.may_have_run() && !error.is_retryable());
    (type_name.clone(), path.clone(), message.clone())
}

/// The worker is the one that it was, and still answers.
async fn is_unharmed(pool: &Pool, before: &[i32]) {
    assert_eq!(pool.call::<i32>("pid", ()).await.unwrap(), before[0]);
    assert_eq!(pool.stats().restarts, 0);
}

#[tokio::test]
async fn odd_results_are_refused_and_the_worker_lives() {
    let pool = pool("odd.py").workers(1).start().await.unwrap();
    let before = pids(&pool);
    for (name, expected_type, expected_path) in [
        ("nan", "float", "$"),
        ("inf", "float", "$.a[1]"),
        ("-inf", "float", "$[0]"),
        ("nan_key", "float", "$"),
        ("too_huge", "int", "$"),
        ("surrogate", "str", "$.text"),
        ("set", "set", "$[0].a"),
        ("tuple_key", "tuple", "$.a"),
        ("cycle", "list", "$[1].again"),
        ("complex", "complex", "$"),
    ] {
        let (type_name, path, message) = bad_result(&pool, name).await;
        assert_eq!(
            (type_name.as_str(), path.as_str()),
            (expected_type, expected_path),
            "{message}"
        );
        assert!(message.len() > 10, "{name}: {message}");
        is_unharmed(&pool, &before).await;
    }
    // Where exactly is a matter of taste.
    for name in ["surrogate_key", "hostile", "hostile_dict"] {
        bad_result(&pool, name).await;
        is_unharmed(&pool, &before).await;
    }
    finish(pool).await;
}

/// Newer interpreters can write such depths; then it is the host that stops at a depth of its own.
#[tokio::test]
async fn a_result_of_ten_thousand_levels_is_a_clean_error() {
    let pool = pool("odd.py").workers(1).start().await.unwrap();
    let before = pids(&pool);
    for name in ["deep_list", "deep_dict"] {
        let error = pool.call::<Value>("odd", (name,)).await.unwrap_err();
        match &error {
            Error::BadResult { message, .. } => {
                assert!(message.contains("nested too deeply"), "{message}")
            }
            Error::Decode { message, .. } => {
                assert!(message.contains("recursion limit"), "{message}")
            }
            _ => panic!("{error:?}"),
        }
        is_unharmed(&pool, &before).await;
    }
    finish(pool).await;
}

#[tokio::test]
async fn extreme_results_arrive() {
    let pool = pool("odd.py").workers(1).start().await.unwrap();
    let before = pids(&pool);
    assert_eq!(pool.call::<f64>("odd", ("huge",)).await.unwrap(), 2.0_f64.powi(200));
    let error = pool.call::<i64>("odd", ("huge",)).await.unwrap_err();
    assert!(matches!(error, Error::Decode { .. }), "{error:?}");
    assert_eq!(pool.call::<(u64, i64)>("odd", ("ints",)).await.unwrap(), (u64::MAX, i64::MIN));
    let floats: Vec<f64> = pool.call("odd", ("floats",)).await.unwrap();
    assert_eq!(floats, [-0.0, 5e-324, f64::MAX, 1e16]);
    assert!(floats[0].is_sign_negative());
    let text: String = pool.call("odd", ("text",)).await.unwrap();
    assert_eq!(text, "\0 \u{7f} \u{2028} \u{1f40d} \"\\/");
    let values: Value = pool.call("odd", ("tuple",)).await.unwrap();
    assert_eq!(values, json!([1, [2, 3]]));
    let values: Value = pool.call("odd", ("enum",)).await.unwrap();
    assert_eq!(values, json!([1]));
    let keys: HashMap<String, i64> = pool.call("odd", ("ordered",)).await.unwrap();
    assert_eq!(keys, HashMap::from([("b".to_owned(), 1), ("a".to_owned(), 2)]));
    is_unharmed(&pool, &before).await;
    finish(pool).await;
}

#[tokio::test]
async fn an_exception_with_odd_text_is_an_exception() {
    let pool = pool("odd.py").workers(1).start().await.unwrap();
    let before = pids(&pool);
    let error = pool.call::<Value>("raise_odd", ()).await.unwrap_err();
    let Error::Python { exception, .. } = &error else { panic!("{error:?}") };
    assert_eq!(exception.type_name, "ValueError");
    assert!(exception.message.contains("half a pair: \\ud800"), "{exception}");
    is_unharmed(&pool, &before).await;
    finish(pool).await;
}

#[tokio::test]
async fn arguments_that_are_not_numbers_are_refused_before_they_leave() {
    let pool = pool("odd.py").workers(1).start().await.unwrap();
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let error = pool.call::<Value>("echo", (vec![1.0, value],)).await.unwrap_err();
        let Error::Encode { handler, message } = &error else { panic!("{error:?}") };
        assert_eq!(handler, "echo");
        assert!(message.contains("$[0][1]"), "{message}");
        assert!(!error.may_have_run() && !error.is_retryable());
        let error = pool.call::<Value>("echo", (value as f32,)).await.unwrap_err();
        assert!(matches!(error, Error::Encode { .. }), "{error:?}");
    }
    assert_eq!(pool.stats().submitted, 0);
    finish(pool).await;
}

#[tokio::test]
async fn extreme_arguments_arrive() {
    let pool = pool("odd.py").workers(1).start().await.unwrap();
    let before = pids(&pool);
    for (value, expected) in [
        (json!(u64::MAX), format!("int {}", u64::MAX)),
        (json!(i64::MIN), format!("int {}", i64::MIN)),
        (json!(5e-324), "float 5e-324".to_owned()),
        (json!(f64::MAX), "float 1.7976931348623157e+308".to_owned()),
        (json!(-0.0), "float -0.0".to_owned()),
        (json!("\0\u{7f}\u{2028}"), "str '\\x00\\x7f\\u2028'".to_owned()),
        (json!({"": [null, true]}), "dict {'': [None, True]}".to_owned()),
    ] {
        assert_eq!(pool.call::<String>("kind", (&value,)).await.unwrap(), expected);
        assert_eq!(pool.call::<Value>("echo", (&value,)).await.unwrap(), value);
    }
    let huge = pool.call::<String>("kind", (i128::MAX,)).await.unwrap();
    assert_eq!(huge, format!("int {}", i128::MAX));
    let snake = "\u{1f40d}".repeat(1_000);
    assert_eq!(pool.call::<String>("echo", (&snake,)).await.unwrap(), snake);
    is_unharmed(&pool, &before).await;
    finish(pool).await;
}

/// As deep as the text says, whatever Rust's own recursion allows: made on a thread with room for it.
fn nested(levels: usize) -> Value {
    (0..levels).fold(json!([]), |inner, _| Value::Array(vec![inner]))
}

#[tokio::test]
async fn arguments_of_ten_thousand_levels_are_a_clean_error_or_arrive() {
    let pool = pool("odd.py").workers(1).start().await.unwrap();
    let before = pids(&pool);
    let encode = {
        let pool = pool.clone();
        move || {
            let deep = nested(10_000);
            let call = pool.call::<usize>("depth", (&deep,)).into_future();
            // Its destructor takes more of the stack than the test's own thread has.
            drop(deep);
            call
        }
    };
    let thread = std::thread::Builder::new().stack_size(512 << 20).spawn(encode).unwrap();
    match thread.join().unwrap().await {
        Ok(depth) => assert_eq!(depth, 10_000),
        Err(Error::Encode { handler, message }) => {
            assert_eq!(handler, "depth");
            assert!(message.contains("RecursionError"), "{message}");
        }
        Err(error) => panic!("{error:?}"),
    }
    is_unharmed(&pool, &before).await;
    assert_eq!(pool.call::<usize>("depth", (nested(100),)).await.unwrap(), 100);
    finish(pool).await;
}
