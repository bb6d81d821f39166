//! Scenario 23: a result that cannot become JSON is an error that names the type and the path to it and says what to
//! return instead; the worker lives.

use serde_json::Value;
use snakepen::Error;

use crate::common::{finish, pids, pool};

#[tokio::test]
async fn an_unserialisable_result_is_named_with_its_path_and_a_remedy() {
    let pool = pool("odd.py").workers(1).start().await.unwrap();
    let before = pids(&pool);
    let cases = [
        ("dataclass", "Point", "$.rows[2].point", "Point"),
        ("decimal", "Decimal", "$.price", "str(value)"),
        ("date", "date", "$.when[0]", "isoformat"),
        ("complex", "complex", "$", "value.real"),
        ("set", "set", "$[0].a", "sorted(value)"),
        ("generator", "generator", "$[0]", "list(value)"),
        ("function", "function", "$", "function"),
        ("class", "type", "$", "type"),
        ("exception", "ValueError", "$", "ValueError"),
        ("file", "TextIOWrapper", "$[\"odd key\"][0]", "TextIOWrapper"),
    ];
    for (name, expected_type, expected_path, remedy) in cases {
        let error = pool.call::<Value>("odd", (name,)).await.unwrap_err();
        let Error::BadResult { handler, type_name, path, message } = &error else {
            panic!("{name}: {error:?}")
        };
        assert_eq!(
            (handler.as_str(), type_name.as_str(), path.as_str()),
            ("odd", expected_type, expected_path),
            "{name}: {message}"
        );
        assert!(message.contains(remedy), "{name}: {message}");
        let text = error.to_string();
        assert!(text.contains(expected_type) && text.contains(expected_path), "{text}");
        assert!(error.may_have_run() && !error.is_retryable());
    }
    assert_eq!(pool.call::<i32>("pid", ()).await.unwrap(), before[0]);
    let stats = pool.stats();
    assert_eq!(
        (stats.failed.bad_result, stats.failed.total()),
        (cases.len() as u64, cases.len() as u64)
    );
    assert_eq!((stats.completed, stats.restarts), (1, 0));
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn good_results_beside_bad_ones_are_not_mixed_up() {
    let pool = pool("odd.py").workers(2).start().await.unwrap();
    let before = pids(&pool);
    let callers = (0..8).map(|caller| {
        let pool = pool.clone();
        tokio::spawn(async move {
            for n in 0..50 {
                if (caller + n) % 2 == 0 {
                    let error = pool.call::<Value>("odd", ("set",)).await.unwrap_err();
                    assert!(matches!(error, Error::BadResult { .. }), "{error:?}");
                } else {
                    assert_eq!(
                        pool.call::<[u32; 2]>("echo", ([caller, n],)).await.unwrap(),
                        [caller, n]
                    );
                }
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    let stats = pool.stats();
    assert_eq!((stats.completed, stats.failed.bad_result, stats.restarts), (200, 200, 0));
    assert_eq!(pids(&pool), before);
    finish(pool).await;
}
