//! Scenario 5: a pool that is stopped while it starts, in whatever way, or whose start fails, leaves nothing: no
//! process, and no name.

use std::path::{Path, PathBuf};
use std::time::Duration;

use snakepen::{Builder, Error, Pool};
use tokio::task::JoinHandle;

use crate::common::{
    self, LIMIT, Mark, eventually, finish, handler_file, polled, told, unique, within,
};

/// The builder of a marked pool, whose name can be looked for.
struct Subject {
    name: String,
    mark: Mark,
    handlers: String,
}

impl Subject {
    fn new(handlers: &str) -> Self {
        Self { name: unique("stopped"), mark: Mark::new(), handlers: handlers.to_owned() }
    }

    fn builder(&self) -> Builder {
        let builder = Pool::builder(&self.name).python(common::python()).workers(3);
        self.mark.on(builder.handlers(&self.handlers))
    }

    fn is_gone(&self) -> bool {
        self.mark.processes().is_empty() && self.has_no_names()
    }

    fn has_no_names(&self) -> bool {
        let prefix = format!("{}/", self.name);
        let names = ractor::registry::registered();
        !names.iter().any(|name| *name == self.name || name.starts_with(&prefix))
    }

    /// Waits until nothing is left.
    async fn leaves_nothing(&self, after: &str) {
        eventually(&format!("nothing is left after {after}"), || self.is_gone()).await;
    }
}

fn basic() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/handlers/basic.py");
    file.to_str().unwrap().to_owned()
}

/// Handlers that tell that they are being loaded, by the returned file, and then load for ever.
fn loading_forever() -> (tempfile::TempDir, String, PathBuf) {
    let source = "import time\nopen(f'{__file__}.loads', 'a').close()\ntime.sleep(1000)\n";
    let (directory, path) = handler_file(source);
    let loading = PathBuf::from(format!("{path}.loads"));
    (directory, path, loading)
}

// === The start() future is dropped ===

/// At each of its awaits: whatever was half built is undone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_dropped_after_so_many_polls() {
    let subject = Subject::new(&basic());
    for polls in 1.. {
        let start = subject.builder().start();
        let started = within(LIMIT, "start", polled(polls, start)).await;
        if let Some(pool) = started {
            finish(pool.unwrap()).await;
            assert!(polls > 1, "start() never waits, so nothing was dropped");
            break;
        }
        subject.leaves_nothing(&format!("{polls} polls")).await;
    }
}

/// At moments all over what happens meanwhile in actors, launcher and workers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_dropped_after_some_time() {
    let subject = Subject::new(&basic());
    for step in 0..30 {
        let time = Duration::from_millis(4 * step);
        match tokio::time::timeout(time, subject.builder().start()).await {
            Ok(pool) => finish(pool.unwrap()).await,
            Err(_) => subject.leaves_nothing(&format!("{time:?}")).await,
        }
    }
}

#[tokio::test]
async fn start_dropped_while_workers_load() {
    let (_directory, path, loading) = loading_forever();
    let subject = Subject::new(&path);
    tokio::select! {
        pool = subject.builder().start() => panic!("{pool:?}"),
        _ = told(&loading) => {}
    }
    subject.leaves_nothing("loading").await;
}

#[tokio::test]
async fn start_dropped_while_the_launcher_preloads() {
    let (directory, _, loading) = loading_forever();
    let subject = Subject::new(&basic());
    let builder = subject.builder().path(directory.path()).preload(["made_handlers"]);
    tokio::select! {
        pool = builder.start() => panic!("{pool:?}"),
        _ = told(&loading) => {}
    }
    subject.leaves_nothing("preloading").await;
}

// === The pool is shut down by somebody who has found it ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_while_workers_load() {
    let (_directory, path, loading) = loading_forever();
    let subject = Subject::new(&path);
    // Nobody waits for a grace that nothing needs: it is longer than this test may take.
    shut_down(&subject, subject.builder().shutdown_grace(2 * LIMIT), &loading).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_while_the_launcher_preloads() {
    let (directory, _, loading) = loading_forever();
    let subject = Subject::new(&basic());
    let builder = subject.builder().path(directory.path()).preload(["made_handlers"]);
    shut_down(&subject, builder.shutdown_grace(2 * LIMIT), &loading).await;
}

/// A call that waits for the first workers has the grace, as any other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_while_a_call_waits_for_the_first_worker() {
    let (_directory, path, loading) = loading_forever();
    let subject = Subject::new(&path);
    let start = tokio::spawn(subject.builder().shutdown_grace(Duration::from_millis(100)).start());
    told(&loading).await;
    let found = Pool::find(&subject.name).await.expect("it can be found while it starts");
    let call = tokio::spawn(found.call::<()>("any", ()).into_future());
    eventually("the call waits", || found.stats().queued == 1).await;
    finish(found).await;
    let error = within(LIMIT, "the call", call).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Closed { .. }), "{error}");
    refused(start).await;
    assert!(subject.is_gone());
}

/// With the root of the tree the pool is gone; start() says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_root_killed_while_workers_load() {
    let (_directory, path, loading) = loading_forever();
    let subject = Subject::new(&path);
    let start = tokio::spawn(subject.builder().start());
    told(&loading).await;
    ractor::registry::where_is(format!("{}/root", subject.name)).unwrap().kill();
    refused(start).await;
    subject.leaves_nothing("the root was killed").await;
}

async fn shut_down(subject: &Subject, builder: Builder, loading: &Path) {
    let start = tokio::spawn(builder.start());
    told(loading).await;
    let found = Pool::find(&subject.name).await.expect("it can be found while it starts");
    within(LIMIT, "shutdown", found.shutdown()).await.unwrap();
    assert!(subject.is_gone());
    refused(start).await;
}

async fn refused(start: JoinHandle<Result<Pool, Error>>) {
    let started = within(LIMIT, "start() of a pool that was shut down", start).await.unwrap();
    assert!(matches!(started, Err(Error::Start(_) | Error::Closed { .. })), "{started:?}");
}

// === The runtime ends ===

/// Waits, on a runtime of its own, until nothing is left.
fn outlived_by_nothing(subject: &Subject, after: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(subject.leaves_nothing(after));
    // The name serves again.
    runtime.block_on(async { finish(subject.builder().start().await.unwrap()).await });
}

#[test]
fn the_runtime_dropped_during_start() {
    let subject = Subject::new(&basic());
    for step in 0..12 {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let started = runtime.spawn(subject.builder().start());
        runtime.block_on(async { tokio::time::sleep(Duration::from_millis(10 * step)).await });
        if step % 2 == 0 {
            drop(runtime);
        } else {
            runtime.shutdown_background();
        }
        drop(started);
        outlived_by_nothing(&subject, &format!("step {step}"));
    }
}

#[test]
fn the_runtime_dropped_while_workers_are_busy() {
    let subject = Subject::new(&basic());
    let directory = tempfile::tempdir().unwrap();
    let started = directory.path().join("started");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let pool = runtime.block_on(async {
        let pool = subject.builder().start().await.unwrap();
        tokio::spawn(pool.call::<()>("touch", (&started, 1000)).into_future());
        told(&started).await;
        pool
    });
    drop(runtime);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // A handle that outlives its pool says so, and doesn't hang.
        let error =
            within(LIMIT, "a call", pool.call::<()>("echo", ()).into_future()).await.unwrap_err();
        assert!(matches!(error, Error::Closed { .. }), "{error}");
        within(LIMIT, "shutdown", pool.shutdown()).await.unwrap();
    });
    drop(pool);
    outlived_by_nothing(&subject, "busy workers");
}

// === The start fails ===

/// When start() has said so, all is gone; not only soon after. What a handler file has started is killed by then.
async fn fails(subject: &Subject, builder: Builder) -> Error {
    let error = within(LIMIT, "start", builder.start()).await.unwrap_err();
    assert!(subject.has_no_names(), "names are left after: {error}");
    subject.mark.nothing_is_left().await;
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_fails_leaves_nothing() {
    let (_directory, broken) =
        handler_file("import subprocess\nsubprocess.Popen(['sleep', '1000'])\n1 / 0\n");
    let subject = Subject::new(&broken);
    for _ in 0..3 {
        let error = fails(&subject, subject.builder()).await;
        assert!(error.to_string().contains("ZeroDivisionError"), "{error}");
        let error = fails(&subject, subject.builder().fresh_interpreter(true)).await;
        assert!(error.to_string().contains("ZeroDivisionError"), "{error}");
    }
    fails(&subject, subject.builder().python("/nowhere/python")).await;
    fails(&subject, subject.builder().preload(["no_such_module"])).await;
}

/// Most workers are ready, one is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_fails_for_one_worker_leaves_nothing() {
    // The first to load fails, when the others are through, or nearly so.
    let source = "import os, snakepen, time\n\
                  snakepen.handler(name='there')(lambda: True)\n\
                  try: os.mkdir(f'{__file__}.taken')\n\
                  except FileExistsError: first = False\n\
                  else: first = True; time.sleep(0.1)\n\
                  if first: raise RuntimeError('not me')\n";
    let (_directory, path) = handler_file(source);
    let subject = Subject::new(&path);
    let error = fails(&subject, subject.builder()).await;
    assert!(error.to_string().contains("not me"), "{error}");
}

#[tokio::test]
async fn a_start_that_takes_too_long_leaves_nothing() {
    let (directory, path, _) = loading_forever();
    let subject = Subject::new(&path);
    let soon = Duration::from_millis(200);
    let error = fails(&subject, subject.builder().startup_timeout(soon)).await;
    assert!(error.to_string().contains("200ms"), "{error}");
    let other = Subject::new(&basic());
    let preloads = other.builder().path(directory.path()).preload(["made_handlers"]);
    let error = fails(&other, preloads.startup_timeout(soon)).await;
    assert!(error.to_string().contains("200ms"), "{error}");
}

/// A name that is taken is refused, and costs its owner nothing.
#[tokio::test]
async fn a_second_pool_of_the_name_leaves_the_first_alone() {
    let subject = Subject::new(&basic());
    let first = subject.builder().start().await.unwrap();
    let error = subject.builder().start().await.unwrap_err();
    assert!(matches!(&error, Error::NameTaken { name } if name.starts_with(&subject.name)));
    assert_eq!(subject.mark.processes().len(), 4);
    assert_eq!(first.call::<i64>("add", (1, 2)).await.unwrap(), 3);
    finish(first).await;
    assert!(subject.is_gone());
}
