//! Large buffers go through shared memory: one piece of it in the steady state, nothing that is kept is ever changed, and
//! nothing that Python does to it harms the host, or is left.

mod common;

use std::future::IntoFuture;
use std::time::Duration;

use common::{LIMIT, eventually, finish, pids, pool, whole, within};
use futures::future::join_all;
use snakepen::{Buffer, Ended, Error, Pool};
use tokio::sync::Mutex;

const LARGE: usize = 1 << 20;

fn filled(byte: u8) -> Buffer {
    vec![byte; LARGE].into()
}

/// They count what this process has mapped: one after another.
static ALONE: Mutex<()> = Mutex::const_new(());

/// The segments that the host has mapped.
fn host_segments() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains("snakepen-segment")).count()
}

async fn echoes(pool: &Pool, handler: &str, buffer: &Buffer) {
    let same: Buffer = pool.call(handler, (buffer,)).await.unwrap();
    assert!(same == *buffer, "{} bytes came back", same.len());
}

#[tokio::test]
async fn in_the_steady_state_one_segment_each_way_is_used_again_and_again() {
    let _alone = ALONE.lock().await;
    let pool = pool("shared.py").workers(1).start().await.unwrap();
    for (handler, mapped) in [("echo", "mapped"), ("echo_async", "mapped_async")] {
        echoes(&pool, handler, &filled(1)).await;
        let first: Vec<String> = pool.call(mapped, (filled(2),)).await.unwrap();
        assert_eq!(first.len(), 2, "one each way: {first:?}");
        for byte in 0..40 {
            echoes(&pool, handler, &filled(byte)).await;
            let error = pool.call::<()>("fail", (filled(byte),)).await.unwrap_err();
            assert!(matches!(error, Error::Python { .. }), "{error:?}");
        }
        let last: Vec<String> = pool.call(mapped, (filled(3),)).await.unwrap();
        assert_eq!(last, first, "{handler}");
    }
    finish(pool).await;
}

#[tokio::test]
async fn segments_grow_with_what_goes_through_them() {
    let _alone = ALONE.lock().await;
    let pool = pool("shared.py").workers(1).start().await.unwrap();
    for size in [300_000, 1 << 20, 5_000_001, 300_000, 33 << 20, 256 << 10, (256 << 10) - 1, 0] {
        let buffer = Buffer::from((0..size).map(|n| (n % 251) as u8).collect::<Vec<_>>());
        echoes(&pool, "echo", &buffer).await;
        let pair = (&buffer, Buffer::from(vec![7; 10]), &buffer);
        let same: (Buffer, Buffer, Buffer) = pool.call("echo", (&pair,)).await.unwrap();
        assert!(same.0 == buffer && same.1[..] == [7; 10] && same.2 == buffer);
    }
    let mapped: Vec<String> = pool.call("mapped", (filled(1),)).await.unwrap();
    assert_eq!(mapped.len(), 2, "{mapped:?}");
    finish(pool).await;
}

#[tokio::test]
async fn what_a_handler_keeps_is_never_written_to_again() {
    let _alone = ALONE.lock().await;
    let pool = pool("shared.py").workers(1).start().await.unwrap();
    let before = pids(&pool);
    for byte in 1..=3 {
        pool.call::<Vec<String>>("keep", (filled(byte), 1000, 1010)).await.unwrap();
        for other in 100..110 {
            echoes(&pool, "echo", &filled(other)).await;
        }
    }
    let kept: Vec<Vec<usize>> = pool.call("kept", ()).await.unwrap();
    assert_eq!(kept, [[10, 1], [10, 2], [10, 3]]);
    // Three that are kept, one that is used, and one for results.
    let mapped: Vec<String> = pool.call("mapped", (filled(9),)).await.unwrap();
    assert_eq!(mapped.len(), 5, "{mapped:?}");
    assert_eq!(pool.call::<Vec<String>>("forget", ()).await.unwrap().len(), 2);
    assert_eq!(pids(&pool), before);
    finish(pool).await;
}

#[tokio::test]
async fn an_array_over_the_memory_of_a_buffer_that_is_kept_stays_as_it_was() {
    let _alone = ALONE.lock().await;
    if !common::has_module("numpy") {
        return;
    }
    let pool = pool("shared.py").workers(1).start().await.unwrap();
    for byte in 1..=3 {
        pool.call::<()>("keep_array", (filled(byte),)).await.unwrap();
        for other in 100..110 {
            echoes(&pool, "echo", &filled(other)).await;
        }
    }
    let kept: Vec<Vec<usize>> = pool.call("kept", ()).await.unwrap();
    assert_eq!(kept, [[10, 1], [10, 2], [10, 3]]);
    finish(pool).await;
}

#[tokio::test]
async fn any_number_of_arguments_may_be_kept() {
    let _alone = ALONE.lock().await;
    let pool = pool("shared.py").workers(1).start().await.unwrap();
    let before = pids(&pool);
    let few: usize = pool.call("descriptors", (filled(0),)).await.unwrap();
    for turn in 0..1100 {
        let part = Buffer::from(vec![(turn % 200) as u8; 256 << 10]);
        pool.call::<Vec<String>>("keep", (part, 0, 10)).await.unwrap();
    }
    let many: usize = pool.call("descriptors", (filled(0),)).await.unwrap();
    assert!(many < few + 100, "{few} descriptors, then {many}");
    let kept: Vec<Vec<usize>> = pool.call("kept", ()).await.unwrap();
    let expected: Vec<_> = (0..1100).map(|turn| vec![10, turn % 200]).collect();
    assert_eq!(kept, expected);
    // Once they are gone it goes as before.
    pool.call::<Vec<String>>("forget", ()).await.unwrap();
    echoes(&pool, "echo", &filled(1)).await;
    let mapped: Vec<String> = pool.call("mapped", (filled(9),)).await.unwrap();
    assert_eq!(mapped.len(), 2, "{mapped:?}");
    assert_eq!(pids(&pool), before);
    finish(pool).await;
}

#[tokio::test]
async fn a_generator_that_is_collected_may_use_its_memory_again() {
    let _alone = ALONE.lock().await;
    let pool = pool("shared.py").workers(1).start().await.unwrap();
    for size in [10, 300_000] {
        let items: Vec<Buffer> = pool.call("refill", (size,)).await.unwrap();
        let expected: Vec<_> = (1..=3).map(|byte| Buffer::from(vec![byte; size])).collect();
        assert!(items == expected, "{size}");
    }
    finish(pool).await;
}

#[tokio::test]
async fn calls_that_fail_leave_nothing_to_the_garbage_collector() {
    let _alone = ALONE.lock().await;
    let pool = pool("shared.py").workers(1).start().await.unwrap();
    echoes(&pool, "echo_async", &filled(1)).await;
    pool.call::<()>("collects", (false,)).await.unwrap();
    let first: Vec<String> = pool.call("mapped", (filled(2),)).await.unwrap();
    for _ in 0..10 {
        let error = pool.call::<()>("fail_async", (filled(3),)).await.unwrap_err();
        assert!(matches!(error, Error::Python { .. }), "{error:?}");
        let error = pool.call::<()>("not_there", (filled(3),)).await.unwrap_err();
        assert!(matches!(error, Error::UnknownHandler { .. }), "{error:?}");
        let mapped: Vec<String> = pool.call("mapped", (filled(4),)).await.unwrap();
        assert_eq!(mapped, first);
    }
    finish(pool).await;
}

#[tokio::test]
async fn a_process_that_a_handler_has_forked_keeps_its_arguments() {
    let _alone = ALONE.lock().await;
    let pool = pool("shared.py").workers(1).start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("seen");
    pool.call::<()>("fork", (filled(5), &path)).await.unwrap();
    for other in 100..110 {
        echoes(&pool, "echo", &filled(other)).await;
    }
    pool.call::<()>("wake", ()).await.unwrap();
    assert_eq!(common::told(&path).await, "[5]");
    finish(pool).await;
}

/// The pool may not have noticed yet that it is gone.
fn kill_if_there(pid: i32) {
    let killed = std::process::Command::new("kill").args(["-9", &pid.to_string()]).output();
    killed.expect("kill runs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_in_the_middle_frees_all_of_it() {
    let _alone = ALONE.lock().await;
    let pool = pool("shared.py").workers(2).start().await.unwrap();
    let descriptors = common::descriptors();
    for round in 0..6 {
        let moment = if round % 2 == 0 { "at work" } else { "on the way" };
        let large = Buffer::from(vec![round; 8 << 20]);
        let doomed = pool.call::<Vec<Buffer>>("die", (&large, moment));
        match within(LIMIT, "a call that dies", doomed.into_future()).await {
            Err(Error::WorkerDied(_)) => {}
            // All of it was written before the end.
            Ok(found) => assert!(moment == "on the way" && found.iter().all(|one| *one == large)),
            Err(error) => panic!("{error:?}"),
        }
        echoes(&pool, "echo", &filled(round)).await;
        whole(&pool).await;
    }
    // Killed from outside, wherever it is.
    for pause in [0, 1, 2, 3, 5, 8] {
        let large = Buffer::from(vec![pause; 32 << 20]);
        let call = tokio::spawn({
            let pool = pool.clone();
            async move { pool.call::<Buffer>("echo", (large,)).await.map(|found| found.len()) }
        });
        tokio::time::sleep(Duration::from_millis(pause.into())).await;
        pids(&pool).into_iter().for_each(kill_if_there);
        match within(LIMIT, "a call that is killed", call).await.unwrap() {
            Ok(length) => assert_eq!(length, 32 << 20),
            Err(Error::WorkerDied(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
        whole(&pool).await;
    }
    // A call that had not begun was given to another worker, which has its segments now. These two serve nobody.
    let last = pids(&pool);
    last.iter().copied().for_each(kill_if_there);
    let replaced = || pids(&pool).len() == 2 && pids(&pool).iter().all(|pid| !last.contains(pid));
    eventually("the workers are replaced", replaced).await;
    eventually("the segments of the dead are gone", || host_segments() == 0).await;
    whole(&pool).await;
    eventually("their descriptors too", || common::descriptors() <= descriptors + 4).await;
    echoes(&pool, "echo", &filled(1)).await;
    finish(pool).await;
    assert_eq!(host_segments(), 0);
}

#[tokio::test]
async fn a_segment_cannot_be_cut_under_the_host() {
    let _alone = ALONE.lock().await;
    let pool = pool("shared.py").workers(1).start().await.unwrap();
    echoes(&pool, "echo", &filled(1)).await;
    let said: Vec<String> = pool.call("truncate", (filled(2),)).await.unwrap();
    assert_eq!(said, ["refused"; 4]);
    echoes(&pool, "echo", &filled(3)).await;
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_may_write_while_the_host_reads() {
    let _alone = ALONE.lock().await;
    let pool = pool("shared.py").workers(1).start().await.unwrap();
    for _ in 0..30 {
        let found: Buffer = pool.call("scribble", (4 << 20,)).await.unwrap();
        assert_eq!(found.len(), 4 << 20);
        // A copy that is ours: it does not change any more.
        let before = found.to_vec();
        pool.call::<i32>("pid", ()).await.unwrap();
        assert!(found[..] == before[..]);
    }
    finish(pool).await;
}

#[tokio::test]
async fn a_lie_about_a_place_ends_that_port_only() {
    let _alone = ALONE.lock().await;
    let pool = pool("shared.py").workers(1).start().await.unwrap();
    for how in [
        "offset",
        "end",
        "end, and then the truth",
        "generation",
        "unsealed",
        "pipe",
        "other generation",
    ] {
        let before = pids(&pool);
        let error = pool.call::<Buffer>("lie", (how,)).await.unwrap_err();
        let Error::WorkerDied(death) = &error else { panic!("{how}: {error:?}") };
        let Ended::Protocol(why) = &death.ended else { panic!("{how}: {error:?}") };
        assert!(why.contains("shared memory"), "{how}: {why}");
        whole(&pool).await;
        assert_ne!(pids(&pool), before);
        echoes(&pool, "echo", &filled(1)).await;
    }
    finish(pool).await;
}

#[tokio::test]
async fn a_worker_that_gives_back_too_early_harms_itself_only() {
    let _alone = ALONE.lock().await;
    let pool = pool("shared.py").workers(1).start().await.unwrap();
    for byte in 0..20 {
        let length: usize = pool.call("release_early", (filled(byte),)).await.unwrap();
        assert_eq!(length, LARGE);
    }
    finish(pool).await;
}

/// Callers that leave, or run out of time, in the middle of a transfer; those after them get their own bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_given_up_mix_up_nothing() {
    let _alone = ALONE.lock().await;
    let pool = pool("shared.py").workers(2).reuse_after_cancel(true).start().await.unwrap();
    let calls = (0..60_u8).map(|n| {
        let pool = pool.clone();
        async move {
            let buffer = Buffer::from(vec![n; (1 + usize::from(n) % 5) << 20]);
            let call =
                pool.call::<Buffer>(if n % 2 == 0 { "echo" } else { "echo_async" }, (&buffer,));
            if n % 3 == 0 {
                let time = Duration::from_micros(u64::from(n) * 150);
                let _ = tokio::time::timeout(time, call.into_future()).await;
            } else {
                assert!(call.await.unwrap() == buffer);
            }
        }
    });
    within(LIMIT, "calls", join_all(calls)).await;
    finish(pool).await;
}

#[tokio::test]
async fn without_shared_memory_the_socket_does() {
    let _alone = ALONE.lock().await;
    let pool = pool("shared.py").workers(1).shared_memory(None).start().await.unwrap();
    echoes(&pool, "echo", &filled(1)).await;
    assert_eq!(
        pool.call::<Vec<String>>("mapped", (filled(2),)).await.unwrap(),
        Vec::<String>::new()
    );
    assert_eq!(host_segments(), 0);
    finish(pool).await;
}
