//! A pool takes up its Python code as it is now, slot by slot, and no call notices; code that does not load changes nothing.
//!
//! A naive pool is restarted as a whole: calls fail meanwhile, and for good if the new code is broken.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use snakepen::{Error, Pool, StartError};

use crate::common::{
    Mark, eventually, finish, handler_file, is_alive, kill, launcher_pid, pids, pool_over, whole,
};

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
        let StartError::Python { stage: found, exception, .. } = &**start else {
            panic!("{error:?}")
        };
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

/// Workers that could not be started any more are tried at once, and not when their next try is due.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_pool_is_mended() {
    let (_directory, file) = handler_file(&version(1));
    let pool = pool_over(&file).workers(2).start().await.unwrap();
    fs::write(&file, "import snakepen\nraise LookupError('broken on purpose')\n").unwrap();
    for pid in pids(&pool) {
        kill(pid, 9);
    }
    let mut failed = 0;
    while failed < 8 {
        let error = pool.call::<usize>("version", ()).await.err();
        failed += usize::from(matches!(error, Some(Error::Start(_))));
    }
    let error = pool.reload().await.unwrap_err();
    assert!(error.to_string().contains("broken on purpose"), "{error}");
    fs::write(&file, version(2)).unwrap();
    pool.reload().await.unwrap();
    assert_eq!(pool.stats().ready, 2, "no slot is waited for");
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
        finish(pool.clone()).await;
        let outcome = reload.await.unwrap();
        assert!(matches!(outcome, Ok(()) | Err(Error::Closed { .. })), "{outcome:?}");
        assert!(matches!(pool.reload().await, Err(Error::Closed { .. })));
    }
    mark.nothing_is_left().await;
}

/// A handler file whose import waits, and then fails, while the module `loaded` says so.
fn waiting(started: &Path, release: &Path) -> String {
    format!(
        "import os, time, snakepen, loaded\nif loaded.BROKEN:\n    with open({started:?}, 'w') as f: f.write(str(os.getppid()))\n    \
         while not os.path.exists({release:?}): time.sleep(0.001)\n    raise LookupError('broken on purpose')\n\
         @snakepen.handler\ndef pid(): return os.getpid()\n"
    )
}

struct Broken {
    directory: tempfile::TempDir,
    pool: Pool,
    started: PathBuf,
    release: PathBuf,
}

impl Broken {
    /// A pool whose code can be broken by way of what it preloads.
    async fn new(mark: &Mark, workers: usize) -> Self {
        let (directory, file) = handler_file("");
        let [started, release] = ["started", "release"].map(|name| directory.path().join(name));
        fs::write(&file, waiting(&started, &release)).unwrap();
        let preloading = pool_over(&file).path(directory.path()).preload(["loaded"]);
        let builder = preloading.env("PYTHONDONTWRITEBYTECODE", "1").workers(workers);
        fs::write(directory.path().join("loaded.py"), "BROKEN = False\n").unwrap();
        let pool = mark.on(builder).start().await.unwrap();
        Self { directory, pool, started, release }
    }

    fn is_broken(&self, broken: bool) {
        let source = if broken { "BROKEN = True\n" } else { "BROKEN = False\n" };
        fs::write(self.directory.path().join("loaded.py"), source).unwrap();
    }

    /// Begins a reload of broken code, up to the first worker that tries to load it.
    async fn reload(&self) -> tokio::task::JoinHandle<Result<(), Error>> {
        self.is_broken(true);
        let pool = self.pool.clone();
        let reload = tokio::spawn(async move { pool.reload().await });
        eventually("it is being loaded", || self.new_launcher().is_some()).await;
        self.is_broken(false);
        reload
    }

    /// The parent of that worker.
    fn new_launcher(&self) -> Option<i32> {
        fs::read_to_string(&self.started).ok()?.parse().ok()
    }

    fn release(&self) {
        fs::write(&self.release, "").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_that_cannot_go_back_leaves_no_launcher_with_broken_code() {
    let mark = Mark::new();
    let broken = Broken::new(&mark, 2).await;
    let pool = &broken.pool;
    let (before, launcher) = (pids(pool), launcher_pid(pool));
    let reload = broken.reload().await;
    kill(launcher, 9);
    eventually("its workers are gone", || before.iter().all(|&pid| !is_alive(pid))).await;
    broken.release();
    let error = reload.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Start(_)), "{error:?}");
    // The code is good by now, and whoever starts anew finds that out.
    whole(pool).await;
    let pid = pool.call::<i32>("pid", ()).idempotent();
    assert!(pids(pool).contains(&pid.await.unwrap()));
    eventually("one launcher and its workers are left", || mark.processes().len() == 3).await;
    finish(broken.pool).await;
    mark.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_meanwhile_makes_no_success_of_a_failure() {
    let mark = Mark::new();
    let broken = Broken::new(&mark, 1).await;
    let pool = &broken.pool;
    let before = pids(pool)[0];
    let reload = broken.reload().await;
    kill(before, 9);
    eventually("it is gone", || pool.stats().ready == 0 && !is_alive(before)).await;
    broken.release();
    let error = reload.await.unwrap().unwrap_err();
    let Error::Start(start) = &error else { panic!("{error:?}") };
    assert!(matches!(&**start, StartError::Python { .. }), "{error:?}");
    whole(pool).await;
    assert_eq!(pool.call::<i32>("pid", ()).await.unwrap(), pids(pool)[0], "by the former launcher");
    finish(broken.pool).await;
    mark.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_launcher_that_dies_takes_nothing_along() {
    let mark = Mark::new();
    let broken = Broken::new(&mark, 2).await;
    let pool = &broken.pool;
    let launcher = launcher_pid(pool);
    let over = Arc::new(AtomicBool::new(false));
    let caller = {
        let (pool, over) = (pool.clone(), Arc::clone(&over));
        tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                pool.call::<i32>("pid", ()).await.expect("no call fails");
            }
        })
    };
    let reload = broken.reload().await;
    let new = broken.new_launcher().unwrap();
    assert_ne!(new, launcher);
    kill(new, 9);
    let error = reload.await.unwrap().unwrap_err();
    // Its first worker dies with it, and may be found first.
    let told = error.to_string();
    let first = told.contains("/worker/0 ended before it was ready");
    assert!(told.contains(&format!("pid {new}")) || first, "{error}");
    whole(pool).await;
    over.store(true, Ordering::Relaxed);
    caller.await.unwrap();
    assert_eq!(launcher_pid(pool), launcher);
    eventually("that one and its workers are left", || mark.processes().len() == 3).await;
    pool.reload().await.unwrap();
    assert_ne!(launcher_pid(pool), launcher, "the next one works");
    finish(broken.pool).await;
    mark.nothing_is_left().await;
}
