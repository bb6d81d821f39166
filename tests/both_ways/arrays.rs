//! Buffers and arrays stand anywhere in arguments and results, and come back byte for byte; what can't travel is named.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use snakepen::{Array, Buffer, Error};

use crate::common::{finish, has_module, pids, pool};

/// Bytes that are not the same anywhere.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 31 + n / 251) as u8).collect()
}

#[derive(Serialize, Deserialize, Debug, PartialEq)]
struct Batch {
    name: String,
    images: Vec<Buffer>,
    by_name: BTreeMap<String, Option<Array>>,
}

#[tokio::test]
async fn buffers_and_arrays_stand_anywhere_and_come_back() {
    let pool = pool("arrays.py").workers(1).start().await.unwrap();
    let sizes = [0, 1, 7, 8, 9, 4096, 70_000, 1 << 20];
    let array = Array::from_slice([2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, f64::NAN]).unwrap();
    let batch = Batch {
        name: "größe".to_owned(),
        images: sizes.iter().map(|&size| pattern(size).into()).collect(),
        by_name: [("a".to_owned(), Some(array.clone())), ("none".to_owned(), None)].into(),
    };
    for handler in ["echo", "echo_async"] {
        let same: Batch = pool.call(handler, (&batch,)).await.unwrap();
        assert_eq!(same, batch, "{handler}");
    }
    // Alone, as the one argument that is neither an array nor an object in JSON's sense, and by name.
    let buffer = Buffer::from(pattern(100));
    assert_eq!(pool.call::<Buffer>("echo", &buffer).await.unwrap(), buffer);
    assert_eq!(pool.call::<Array>("echo", (&array,)).await.unwrap(), array);
    let counted = pool.call::<Vec<usize>>("count", (&buffer, Buffer::default(), "abc"));
    assert_eq!(counted.await.unwrap(), [100, 0, 3]);
    let named = BTreeMap::from([("value", &buffer)]);
    assert_eq!(pool.call::<Buffer>("echo", named).await.unwrap(), buffer);
    finish(pool).await;
}

#[tokio::test]
async fn python_sees_memoryviews_and_arrays_that_it_cannot_write_to() {
    let numpy = has_module("numpy");
    let pool = pool("arrays.py").workers(1).start().await.unwrap();
    let before = pids(&pool);
    let found: Value = pool.call("look", (Buffer::from(vec![1, 2]),)).await.unwrap();
    assert_eq!(found, json!(["memoryview", "B", [2], true, [1, 2]]));
    let array = Array::from_slice([1, 2], &[0.5_f64, 1.5]).unwrap();
    let found: Value = pool.call("look", (&array,)).await.unwrap();
    let kind = if numpy { json!(["ndarray", "<f8"]) } else { json!(["memoryview", "d"]) };
    assert_eq!((&found[0], &found[1]), (&kind[0], &kind[1]));
    assert_eq!(found.as_array().unwrap()[2..], [json!([1, 2]), json!(true), json!([[0.5, 1.5]])]);

    let array = Array::from_slice([2], &[1.0, 2.0]).unwrap();
    for error in [
        pool.call::<()>("overwrite", (&array,)).await.unwrap_err(),
        pool.call::<()>("overwrite", (Buffer::from(vec![1]),)).await.unwrap_err(),
    ] {
        assert!(
            matches!(&error, Error::Python { exception, .. } if exception.message.contains("read-only")),
            "{error}"
        );
    }
    let changed: Array = pool.call("increment", (&array,)).await.unwrap();
    assert_eq!(changed.to_vec::<f64>().unwrap(), [2.0, 2.0]);
    let large = Buffer::from(pattern(1 << 20));
    let changed: Buffer = pool.call("increment", (&large,)).await.unwrap();
    assert_eq!((changed[0], &changed[1..]), (large[0] + 1, &large[1..]));
    assert_eq!(pids(&pool), before);
    finish(pool).await;
}

#[tokio::test]
async fn numpy_arrays_come_with_dtype_and_shape_and_others_are_named() {
    if !has_module("numpy") {
        return;
    }
    #[derive(Deserialize)]
    struct Made {
        rows: [Array; 1],
        raw: Buffer,
    }
    let pool = pool("arrays.py").workers(1).start().await.unwrap();
    let before = pids(&pool);
    let Made { rows: [matrix], raw } = pool.call("make", ("matrix",)).await.unwrap();
    assert_eq!((&matrix.shape[..], &raw[..]), (&[2, 3][..], &b"abc"[..]));
    assert_eq!(matrix.to_vec::<f64>().unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let error = matrix.to_vec::<f32>().unwrap_err().to_string();
    assert!(error.contains("<f8") && error.contains("astype(\"<f4\")"), "{error}");
    let transposed: Array = pool.call("make", ("transposed",)).await.unwrap();
    assert_eq!(transposed.to_vec::<f64>().unwrap(), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    assert_eq!(pool.call::<(i64, f32)>("make", ("scalar",)).await.unwrap(), (7, 0.5));
    let half: Array = pool.call("make", ("half",)).await.unwrap();
    assert_eq!((half.dtype.as_str(), half.data.len()), ("<f2", 6));
    for (what, place, name, advice) in [
        ("big-endian", "$.a[1]", ">f8", "newbyteorder"),
        ("objects", "$[0]", "object", "tolist"),
        ("fields", "$", "'x'", "fields"),
    ] {
        let error = pool.call::<Array>("make", (what,)).await.unwrap_err();
        let Error::BadResult { path, message, type_name, .. } = &error else { panic!("{error:?}") };
        assert_eq!((path.as_str(), type_name.as_str()), (place, "ndarray"), "{message}");
        assert!(message.contains(name) && message.contains(advice), "{message}");
    }
    assert_eq!(pids(&pool), before);
    finish(pool).await;
}

#[tokio::test]
async fn what_is_no_array_is_refused_before_it_is_sent() {
    let pool = pool("arrays.py").workers(1).start().await.unwrap();
    let submitted = pool.stats().submitted;
    let array = |dtype: &str, shape: Vec<usize>, bytes: usize| Array {
        dtype: dtype.to_owned(),
        shape,
        data: Bytes::from(vec![0; bytes]),
    };
    for (array, expected) in [
        (array("<f8", vec![2, 2], 24), "24 bytes are no array of dtype <f8 and shape [2, 2]"),
        (array(">f8", vec![1], 8), ">f8 is big-endian"),
        (array("|O8", vec![1], 8), "\"|O8\" is none of"),
    ] {
        let error = pool.call::<Value>("echo", ((1, array),)).await.unwrap_err();
        let Error::Encode { handler, message } = &error else { panic!("{error:?}") };
        assert_eq!(handler, "echo");
        assert!(message.contains(expected) && message.contains("$[0][1]"), "{message}");
    }
    assert_eq!(pool.stats().submitted, submitted);
    finish(pool).await;
}

#[tokio::test]
async fn a_result_that_the_type_has_no_place_for_is_an_error() {
    let pool = pool("arrays.py").workers(1).start().await.unwrap();
    for (error, expected) in [
        (pool.call::<Value>("give", (3,)).await.unwrap_err(), "read them as `snakepen::Buffer`"),
        (pool.call::<Array>("give", (3,)).await.unwrap_err(), "this is 3 bytes"),
        (pool.call::<()>("give", (3,)).await.unwrap_err(), "IgnoredAny"),
        (pool.call::<Buffer>("pid", ()).await.unwrap_err(), "expected bytes"),
    ] {
        let Error::Decode { message, .. } = &error else { panic!("{error:?}") };
        assert!(message.contains(expected), "{message}");
    }
    pool.call::<serde::de::IgnoredAny>("give", (3,)).await.unwrap();
    finish(pool).await;
}

#[tokio::test]
async fn the_limit_of_a_frame_counts_buffers_too() {
    const FRAME: usize = 1 << 20;
    let pool = pool("arrays.py").workers(1).max_frame(FRAME).start().await.unwrap();
    let before = pids(&pool);
    for size in [FRAME, 3 * FRAME] {
        let error = pool.call::<Value>("count", (Buffer::from(vec![0; size]),)).await.unwrap_err();
        assert!(
            matches!(error, Error::TooLarge { size: found, limit: FRAME, .. } if found > size),
            "{error:?}"
        );
        let error = pool.call::<Buffer>("give", (size,)).await.unwrap_err();
        let Error::BadResult { message, .. } = &error else { panic!("{error:?}") };
        assert!(message.contains(&FRAME.to_string()), "{message}");
    }
    let many: Vec<Buffer> = pool.call("give_many", (1000, 1000)).await.unwrap();
    assert!(many.iter().enumerate().all(|(n, buffer)| buffer[..] == [n as u8; 1000]));
    assert_eq!(pids(&pool), before);
    finish(pool).await;
}

/// Both ways at once, more than the socket takes, on several workers: no frame is split, none waits for another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_arrays_against_large_arrays_on_all_workers() {
    const LARGE: usize = 12 << 20;
    let pool = pool("arrays.py").workers(3).start().await.unwrap();
    let before = pids(&pool);
    let data = Bytes::from(pattern(LARGE));
    let calls = (0..9).map(|n| {
        let (pool, data) = (pool.clone(), data.slice(n..));
        async move {
            let handler = if n % 2 == 0 { "echo" } else { "echo_async" };
            let same: (usize, Buffer) =
                pool.call(handler, ((n, Buffer::from(data.clone())),)).await.unwrap();
            assert!(same.0 == n && same.1[..] == data[..]);
        }
    });
    join_all(calls).await;
    assert_eq!(pids(&pool), before);
    finish(pool).await;
}

#[tokio::test]
async fn what_a_handler_keeps_stays_as_it_was() {
    let pool = pool("arrays.py").workers(1).start().await.unwrap();
    let sizes = [10, 100_000, 3 << 20, 10, 2 << 20, 100_000];
    let sent: Vec<_> =
        sizes.iter().zip(1..).map(|(&size, n)| Buffer::from(vec![n; size])).collect();
    for buffer in &sent {
        assert_eq!(pool.call::<usize>("keep", (buffer,)).await.unwrap(), buffer.len());
        let other = Buffer::from(vec![99; 3 << 20]);
        assert_eq!(pool.call::<Buffer>("echo", (&other,)).await.unwrap(), other);
    }
    assert_eq!(pool.call::<Vec<Buffer>>("kept", ()).await.unwrap(), sent);
    finish(pool).await;
}

#[tokio::test]
async fn what_a_handler_keeps_of_an_array_stays_as_it_was() {
    let pool = pool("arrays.py").workers(1).start().await.unwrap();
    let array = |value: f64| Array::from_slice([100_000], &vec![value; 100_000]).unwrap();
    let parts = ["whole", "slice", "strided", "memoryview"];
    for (part, value) in parts.into_iter().zip([1.0, 2.0, 3.0, 4.0]) {
        pool.call::<()>("keep_part", (array(value), part)).await.unwrap();
        let other = array(99.0);
        assert_eq!(pool.call::<Array>("echo", (&other,)).await.unwrap(), other);
    }
    let found = pool.call::<Vec<(f64, f64)>>("kept_parts", ()).await.unwrap();
    assert_eq!(found, [(1.0, 1.0), (2.0, 2.0), (3.0, 3.0), (4.0, 4.0)]);
    finish(pool).await;
}

#[cfg(feature = "arrow")]
#[tokio::test]
async fn arrow_tables_go_both_ways() {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray};
    use snakepen::ArrowTable;

    let names: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("größe")]));
    let values: ArrayRef = Arc::new(Float64Array::from_iter_values([1.0, 2.0, 3.0]));
    let batch = RecordBatch::try_from_iter([("name", names), ("value", values)]).unwrap();
    let table = ArrowTable::from(batch);
    let pool = pool("arrays.py").workers(1).start().await.unwrap();
    if has_module("pyarrow") {
        let same: (ArrowTable, Buffer) =
            pool.call("echo", ((&table, Buffer::default()),)).await.unwrap();
        assert_eq!(same.0, table);
        let numbers = Float64Array::from_iter_values((0..100_000).map(f64::from));
        let large = RecordBatch::try_from_iter([("x", Arc::new(numbers) as ArrayRef)]).unwrap();
        let large = ArrowTable::from(large);
        let same: ArrowTable = pool.call("echo", (&large,)).await.unwrap();
        assert_eq!(same, large);
    } else {
        let error = pool.call::<ArrowTable>("echo", (&table,)).await.unwrap_err();
        assert!(
            matches!(&error, Error::Encode { message, .. } if message.contains("needs pyarrow")),
            "{error:?}"
        );
    }
    finish(pool).await;
}
