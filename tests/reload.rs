//! A pool takes up its Python code as it is now, slot by slot, and no call notices; code that does not load changes nothing.
//!
//! A naive pool is restarted as a whole: calls fail meanwhile, and for good if the new code is broken.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Mark, eventually, finish, handler_file, is_alive, launcher_pid, pids, pool_over};
use snakepen::{Error, Pool, StartError};

/// Of different lengths, so that a compiled file of the former one is never taken for it.
fn version(number: usize) -> String {
    format!(
        "import snakepen, os\nPAD = '{}'\n@snakepen.handler\ndef version(): return {number}\n\
         @snakepen.handler\ndef hold(started, release):\n    import time\n    open(started, 'w').close()\n    \
         while not os.path.exists(release): time.sleep(0.001)\n    return {number}\n",
        "x".repeat(number)
    )
}

async fn versions(pool: &Pool) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    for slot in 0..pool.workers().len() {
        found.insert(pool.worker(slot).unwrap().call("version", ()).await.unwrap());
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_code_is_taken_up_and_no_call_fails() {
    let (_directory, file) = handler_file(&version(1));
    let mark = Mark::new();
    let pool = mark.on(pool_over(&file).workers(3)).start().await.unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (pool, over) = (pool.clone(), Arc::clone(&over));
            tokio::spawn(async move {
                let mut last = 0;
                while !over.load(Ordering::Relaxed) {
                    last = pool.call::<usize>("version", ()).await.expect("no call fails");
                }
                last
            })
        })
        .collect();
    for number in 2..=4 {
        let (before, launcher) = (pids(&pool), launcher_pid(&pool));
        fs::write(&file, version(number)).unwrap();
        pool.reload().await.unwrap();
        assert_eq!(versions(&pool).await, BTreeSet::from([number]));
        assert!(pids(&pool).iter().all(|pid| !before.contains(pid)));
        assert_ne!(launcher_pid(&pool), launcher);
        eventually("the former launcher has left", || !is_alive(launcher)).await;
        assert!(before.iter().all(|&pid| !is_alive(pid)), "a former worker is left");
    }
    over.store(true, Ordering::Relaxed);
    for caller in callers {
        assert_eq!(caller.await.unwrap(), 4);
    }
    assert_eq!(pool.stats().failed.total(), 0);
    assert_eq!(mark.processes().len(), 4, "one launcher and its workers are left");
    finish(pool).await;
}

#[tokio::test]
async fn code_that_does_not_load_leaves_the_old_one_serving() {
    let (directory, file) = handler_file(&version(1));
    fs::write(directory.path().join("loaded.py"), "").unwrap();
    let builder = pool_over(&file).workers(2).path(directory.path()).preload(["loaded"]);
    let mark = Mark::new();
    let pool = mark.on(builder).start().await.unwrap();
    let (before, launcher) = (pids(&pool), launcher_pid(&pool));
    for (broken, stage) in [(file.as_str(), "handlers"), ("loaded.py", "preload of `loaded`")] {
        let path = directory.path().join(broken);
        let source = fs::read(&path).unwrap();
        fs::write(&path, "import snakepen\nraise LookupError('broken on purpose')\n").unwrap();
        let error = pool.reload().await.unwrap_err();
        fs::write(&path, source).unwrap();
        let Error::Start(start) = &error else { panic!("{error:?}") };
        let StartError::Python { stage: found, exception } = &**start else { panic!("{error:?}") };
        assert_eq!((found.as_str(), &*exception.type_name), (stage, "LookupError"));
        assert!(exception.traceback.contains("broken on purpose"), "{error}");
        assert_eq!(versions(&pool).await, BTreeSet::from([1]));
        assert_eq!((pids(&pool), launcher_pid(&pool)), (before.clone(), launcher));
        eventually("the new launcher has left", || mark.processes().len() == 3).await;
    }
    fs::write(&file, version(2)).unwrap();
    pool.reload().await.unwrap();
    assert_eq!(versions(&pool).await, BTreeSet::from([2]));
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_runs_is_waited_for() {
    let (directory, file) = handler_file(&version(1));
    let mark = Mark::new();
    let pool = mark.on(pool_over(&file).workers(1)).start().await.unwrap();
    let [started, release] = ["started", "release"].map(|name| directory.path().join(name));
    let running = tokio::spawn(pool.call::<usize>("hold", (&started, &release)).into_future());
    eventually("it runs", || started.exists()).await;
    fs::write(&file, version(2)).unwrap();
    let reloads: Vec<_> = (0..2)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { pool.reload().await })
        })
        .collect();
    eventually("the new launcher and its worker are there", || mark.processes().len() == 4).await;
    assert!(!running.is_finished());
    fs::write(&release, "").unwrap();
    assert_eq!(running.await.unwrap().unwrap(), 1, "by the code that it began with");
    for reload in reloads {
        reload.await.unwrap().unwrap();
    }
    assert_eq!(versions(&pool).await, BTreeSet::from([2]));
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_is_shut_down_meanwhile_ends_in_order() {
    let (_directory, file) = handler_file(&version(1));
    let mark = Mark::new();
    for _ in 0..5 {
        let pool = mark.on(pool_over(&file).workers(2)).start().await.unwrap();
        let reload = {
            let pool = pool.clone();
            tokio::spawn(async move { pool.reload().await })
        };
        tokio::task::yield_now().await;
        finish(pool).await;
        // It may have been done, or not; it has an answer.
        let _ = reload.await.unwrap();
    }
    mark.nothing_is_left().await;
}
