//! A pool follows its load: it grows while calls wait, shrinks when workers are idle, and no call notices.
//!
//! A naive pool has the size of its worst minute, or the queue of it.

use std::fs;
use std::time::Duration;

use ractor::registry;
use snakepen::Error;

use crate::common::{Mark, eventually, finish, handler_file, pids, pool, pool_over};

const SHORT: Duration = Duration::from_millis(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_grows_while_calls_wait_and_shrinks_when_workers_are_idle() {
    let mark = Mark::new();
    let directory = tempfile::tempdir().unwrap();
    let builder = pool("held.py").autoscale(1..=4).autoscale_after(SHORT, 10 * SHORT);
    let pool = mark.on(builder).start().await.unwrap();
    assert_eq!(pool.stats().size, 1, "the least");
    for round in 0..2 {
        let calls: Vec<_> = (0..6)
            .map(|number| {
                let name = format!("{round}.{number}");
                tokio::spawn(pool.call::<String>("hold", (directory.path(), name)).into_future())
            })
            .collect();
        eventually("it has grown", || (pool.stats().busy, pool.stats().size) == (4, 4)).await;
        assert_eq!(mark.processes().len(), 5);
        assert_eq!(pool.stats().queued, 2);
        let released = directory.path().join("released");
        fs::write(&released, "").unwrap();
        for call in calls {
            call.await.unwrap().unwrap();
        }
        eventually("it has shrunk", || pool.stats().size == 1).await;
        eventually("processes are gone", || mark.processes().len() == 2).await;
        let name = || format!("{}/worker/1", pool.name());
        eventually("names are gone", || registry::where_is(name()).is_none()).await;
        fs::remove_file(&released).unwrap();
    }
    assert_eq!((pool.stats().completed, pool.stats().failed.total()), (12, 0));
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_whatever_the_size() {
    let builder =
        pool("basic.py").autoscale(1..=5).autoscale_after(Duration::from_millis(2), SHORT);
    let pool = builder.start().await.unwrap();
    let mut sizes = std::collections::BTreeSet::new();
    // Bursts, and single calls between them.
    for burst in 0..20 {
        let calls: Vec<_> = (0..30)
            .map(|_| tokio::spawn(pool.call::<f64>("sleep", (0.004,)).into_future()))
            .collect();
        for call in calls {
            call.await.unwrap().expect("no call fails");
            sizes.insert(pool.stats().size);
        }
        for number in 0..40 {
            assert_eq!(pool.call::<i64>("add", (burst, number)).await.unwrap(), burst + number);
            sizes.insert(pool.stats().size);
        }
    }
    assert!(sizes.len() > 1 && *sizes.last().unwrap() <= 5, "{sizes:?}");
    assert_eq!(pool.stats().failed.total(), 0);
    finish(pool).await;
}

#[tokio::test]
async fn the_range_binds_resizing_by_hand() {
    let pool = pool("basic.py").autoscale(1..=3).workers(2).start().await.unwrap();
    assert_eq!(pids(&pool).len(), 2);
    pool.resize(3).await.unwrap();
    let error = pool.resize(4).await.unwrap_err();
    assert!(matches!(error, Error::Config { option: "resize", .. }), "{error:?}");
    assert!(error.to_string().contains("from 1 to 3"), "{error}");
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_goes_on_after_a_restart_of_the_actors() {
    let directory = tempfile::tempdir().unwrap();
    let builder = pool("held.py").autoscale(1..=3).autoscale_after(SHORT, 10 * SHORT);
    let pool = builder.start().await.unwrap();
    let actor = registry::where_is(pool.name()).unwrap();
    actor.kill_and_wait(None).await.unwrap();
    let calls: Vec<_> = (0..3)
        .map(|number| {
            let call = pool.call::<String>("hold", (directory.path(), number.to_string()));
            // One that the former actor's queue took in its last moment is lost with it.
            tokio::spawn(call.idempotent().into_future())
        })
        .collect();
    eventually("it has grown", || pool.stats().busy == 3).await;
    fs::write(directory.path().join("released"), "").unwrap();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    eventually("it has shrunk", || pool.stats().size == 1).await;
    finish(pool).await;
}

/// A caller who has given up does not make the worker free that still runs the call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_does_not_let_go_of_a_call_is_busy() {
    let directory = tempfile::tempdir().unwrap();
    let pool = pool("cancelled.py")
        .autoscale(1..=2)
        .autoscale_after(SHORT, 500 * SHORT)
        .cancel_grace(Duration::from_secs(3_600))
        .shutdown_grace(SHORT)
        .start()
        .await
        .unwrap();
    let started = directory.path().join("started");
    let mut call = pool.call::<()>("stubborn", (&started,));
    let cancel = call.cancel_handle();
    let call = tokio::spawn(call.into_future());
    eventually("it runs", || started.exists()).await;
    cancel.cancel();
    assert!(matches!(call.await.unwrap(), Err(Error::Cancelled { .. })));
    let other = pool.call::<i32>("pid", ()).await.unwrap();
    assert_eq!((pool.stats().size, pids(&pool)[1]), (2, other));
    finish(pool).await;
}

/// The decision to shrink waits for a reload, and is of yesterday then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_has_a_call_by_now_is_not_retired() {
    let directory = tempfile::tempdir().unwrap();
    let [loading, release, held, end] =
        ["loading", "release", "held", "end"].map(|name| directory.path().join(name));
    let good = "import os, time, snakepen\n@snakepen.handler\ndef hold(held, end):\n    open(held, 'w').close()\n    \
                while not os.path.exists(end): time.sleep(0.001)\n";
    let broken = format!(
        "import os, time\nopen({loading:?}, 'w').close()\n\
         while not os.path.exists({release:?}): time.sleep(0.001)\nraise LookupError('on purpose')\n"
    );
    let (_guard, file) = handler_file(good);
    let builder = pool_over(&file).autoscale(1..=2).workers(2).autoscale_after(SHORT, 50 * SHORT);
    let pool = builder.start().await.unwrap();
    fs::write(&file, broken).unwrap();
    let reload = tokio::spawn({
        let pool = pool.clone();
        async move { pool.reload().await }
    });
    eventually("it is being loaded", || loading.exists()).await;
    // Longer than a worker may be to spare.
    tokio::time::sleep(80 * SHORT).await;
    assert_eq!(pool.stats().size, 2, "one change at a time");
    let last = pool.worker(1).unwrap();
    let call = tokio::spawn(last.call::<()>("hold", (&held, &end)).into_future());
    eventually("it runs", || held.exists()).await;
    fs::write(&release, "").unwrap();
    reload.await.unwrap().unwrap_err();
    tokio::time::sleep(20 * SHORT).await;
    assert_eq!(pool.stats().size, 2, "its worker is busy");
    fs::write(&file, good).unwrap();
    fs::write(&end, "").unwrap();
    call.await.unwrap().unwrap();
    eventually("it has shrunk", || pool.stats().size == 1).await;
    finish(pool).await;
}
