//! Scenario 1: the host dies, in whatever way and whatever it was doing; two seconds later nothing that it has
//! started is alive, the processes that its workers have started included.

mod common;

use std::time::{Duration, Instant};

use common::host::{self, Host};
use common::{eventually, handler_file, pool, pool_over};
use snakepen::Builder;

/// What is promised: nothing of a dead host lives longer.
const PROMISE: Duration = Duration::from_secs(2);

const WORKERS: usize = 3;

#[tokio::test]
#[ignore = "the host that the other tests start"]
async fn host() {
    let Some(part) = host::part() else { return };
    match part.as_str() {
        "spin" => spin(pool("holding.py")).await,
        "spin fresh" => spin(pool("holding.py").fresh_interpreter(true)).await,
        "exit" => {
            let pool = start_spinning(pool("holding.py")).await;
            host::tell("ready", "");
            while !std::path::Path::new(&host::shared_file("go")).exists() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // No destructor runs.
            std::process::exit(i32::from(pool.stats().busy != WORKERS));
        }
        "idle" => {
            let _pool = pool("holding.py").workers(WORKERS).start().await.unwrap();
            host::tell("ready", "");
            std::future::pending().await
        }
        "load" => {
            let source = loads_forever("handlers");
            let (_directory, path) = handler_file(&source);
            let started = pool_over(&path).workers(WORKERS).start().await;
            panic!("the handlers load forever: {started:?}");
        }
        "preload" => {
            let (directory, path) = handler_file(&loads_forever("preload"));
            let started = pool("holding.py").path(directory.path()).preload(["made_handlers"]);
            panic!("{path} loads forever: {:?}", started.start().await);
        }
        part => panic!("no part {part}"),
    }
}

fn loads_forever(what: &str) -> String {
    let told = host::shared_file("ready");
    format!("import os, time\nopen({told:?}, 'a').write({what:?})\nwhile True: time.sleep(1000)\n")
}

/// Every worker is busy and doesn't look at its port, with children of its own.
async fn start_spinning(builder: Builder) -> snakepen::Pool {
    let pool = builder.workers(WORKERS).start().await.unwrap();
    for number in 0..WORKERS {
        let started = host::shared_file(&format!("spins-{number}"));
        let pool = pool.clone();
        tokio::spawn(async move { pool.call::<()>("spin_beside_children", &started).await });
    }
    for number in 0..WORKERS {
        common::told(host::shared_file(&format!("spins-{number}")).as_ref()).await;
    }
    pool
}

async fn spin(builder: Builder) {
    let _pool = start_spinning(builder).await;
    host::tell("ready", "");
    std::future::pending().await
}

/// Kills the host once it is ready and has `processes`, and waits for all of them to end.
async fn kill_when_ready(part: &str, processes: usize) {
    let mut host = Host::start(part);
    host.tells("ready").await;
    eventually("the host has its processes", || host.processes().len() == processes).await;
    host.kill();
    all_end(&host).await;
}

async fn all_end(host: &Host) {
    let killed = Instant::now();
    eventually("all processes have ended", || host.processes().is_empty()).await;
    let took = killed.elapsed();
    assert!(took < PROMISE, "it took {took:?}");
}

#[tokio::test]
async fn busy_workers_and_their_children_end() {
    // The launcher, and each worker with a shell and a sleep.
    kill_when_ready("spin", 1 + 3 * WORKERS).await;
}

#[tokio::test]
async fn busy_fresh_interpreters_and_their_children_end() {
    kill_when_ready("spin fresh", 1 + 3 * WORKERS).await;
}

#[tokio::test]
async fn idle_workers_end() {
    kill_when_ready("idle", 1 + WORKERS).await;
}

#[tokio::test]
async fn workers_that_load_their_handlers_end() {
    kill_when_ready("load", 1 + WORKERS).await;
}

/// The launcher is busy importing, and doesn't look at its socket.
#[tokio::test]
async fn a_launcher_that_preloads_ends() {
    kill_when_ready("preload", 1).await;
}

#[tokio::test]
async fn a_host_that_exits_under_its_pool_leaves_nothing() {
    let mut host = Host::start("exit");
    host.tells("ready").await;
    assert_eq!(host.processes().len(), 1 + 3 * WORKERS);
    std::fs::write(host.file("go"), "").unwrap();
    assert!(host.ends().await.success());
    all_end(&host).await;
}
