//! Scenario 26: what takes longer to load than the start-up timeout is ended, and the error names the stage.

use std::sync::Arc;
use std::time::{Duration, Instant};

use snakepen::{Builder, Error, StartError};

use crate::common::{Mark, eventually, finish, handler_file, pool, pool_over};

/// Long enough for a launcher on a noisy machine, if the slow part is a worker's.
const TIMEOUT: Duration = Duration::from_millis(1500);

async fn times_out(builder: Builder) -> String {
    let mark = Mark::new();
    let start = Instant::now();
    let started = mark.on(builder).workers(2).startup_timeout(TIMEOUT).start().await;
    let took = start.elapsed();
    let error = started.expect_err("it never becomes ready");
    let Error::Start(error) = &error else { panic!("{error:?}") };
    let StartError::Timeout { what, timeout } = &**error else { panic!("{error:?}") };
    assert_eq!(*timeout, TIMEOUT);
    assert!(error.to_string().contains("startup_timeout"), "{error}");
    // Launcher and workers have the timeout each; a start that tries again behind the caller's back takes more.
    assert!(took >= TIMEOUT && took < TIMEOUT * 5 / 2, "{took:?}");
    mark.nothing_is_left().await;
    what.clone()
}

#[tokio::test]
async fn a_handler_file_that_takes_too_long() {
    let (_guard, file) = handler_file("import time\ntime.sleep(300)\n");
    let what = times_out(pool_over(&file)).await;
    assert!(what.contains("/worker/") && what.contains("handlers"), "{what}");
}

#[tokio::test]
async fn a_handler_file_that_waits_for_a_process() {
    let (_guard, file) = handler_file("import subprocess\nsubprocess.run(['sleep', '300'])\n");
    let what = times_out(pool_over(&file).fresh_interpreter(true)).await;
    assert!(what.contains("/worker/") && what.contains("handlers"), "{what}");
}

#[tokio::test]
async fn a_preloaded_module_that_takes_too_long() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("slow_preload.py"), "import time\ntime.sleep(300)\n")
        .unwrap();
    let what = times_out(pool("basic.py").path(directory.path()).preload(["slow_preload"])).await;
    assert!(what.contains("launcher") && what.contains("preload"), "{what}");
}

#[tokio::test]
async fn a_preloaded_module_that_waits_for_a_process() {
    let directory = tempfile::tempdir().unwrap();
    let source = "import subprocess\nsubprocess.run(['sleep', '300'])\n";
    std::fs::write(directory.path().join("slow_preload.py"), source).unwrap();
    let what = times_out(pool("basic.py").path(directory.path()).preload(["slow_preload"])).await;
    assert!(what.contains("launcher") && what.contains("preload"), "{what}");
}

#[tokio::test]
async fn one_that_takes_long_but_not_too_long_is_waited_for() {
    let source =
        "import time, snakepen\ntime.sleep(1.0)\n\n@snakepen.handler\ndef one(): return 1\n";
    let (_guard, file) = handler_file(source);
    let pool = pool_over(&file).workers(2).start().await.unwrap();
    assert_eq!(pool.call::<i64>("one", ()).await.unwrap(), 1);
    finish(pool).await;
}

/// Gives up a start once `marker` is there; nothing may be left of it, long before the start-up timeout.
async fn given_up(builder: Builder, marker: std::path::PathBuf) {
    let mark = Arc::new(Mark::new());
    let start = tokio::spawn(mark.on(builder).start());
    eventually("it is being loaded", || marker.exists()).await;
    assert!(!start.is_finished());
    assert!(!mark.processes().is_empty());
    start.abort();
    let asked = Instant::now();
    eventually("nothing is left", || mark.processes().is_empty()).await;
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_start_that_is_given_up_while_workers_load() {
    let directory = tempfile::tempdir().unwrap();
    let marker = directory.path().join("marker");
    let source = format!(
        "import time\nopen({:?}, 'w').close()\ntime.sleep(300)\n",
        marker.to_str().unwrap()
    );
    let (_guard, file) = handler_file(&source);
    given_up(pool_over(&file).workers(2), marker).await;
}

#[tokio::test]
async fn a_start_that_is_given_up_while_the_launcher_preloads() {
    let directory = tempfile::tempdir().unwrap();
    let marker = directory.path().join("marker");
    let source = format!(
        "import time\nopen({:?}, 'w').close()\ntime.sleep(300)\n",
        marker.to_str().unwrap()
    );
    std::fs::write(directory.path().join("slow_preload.py"), source).unwrap();
    given_up(pool("basic.py").path(directory.path()).preload(["slow_preload"]), marker).await;
}
