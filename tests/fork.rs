//! What a worker that was forked has of its own, and what it keeps: random streams, modules, signals, exit handlers.
//!
//! A naive pool forks workers that draw the same random numbers, run their parent's exit handlers, inherit ignored
//! signals, or cannot unpickle what they have pickled.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};

use common::{finish, launcher_pid, pids, pool, python};
use serde::de::DeserializeOwned;
use snakepen::Pool;

/// The answers of all workers, by slot.
async fn each<R: DeserializeOwned>(pool: &Pool, handler: &str) -> Vec<R> {
    let mut answers = Vec::new();
    for slot in 0..pool.stats().size {
        answers.push(pool.worker(slot).unwrap().call(handler, ()).await.unwrap());
    }
    answers
}

fn module(name: &str, source: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(format!("{name}.py")), source).unwrap();
    directory
}

// === Random streams ===

async fn streams_differ(pool: Pool, handler: &str) {
    let streams: Vec<Vec<f64>> = each(&pool, handler).await;
    let numbers: BTreeSet<u64> = streams.iter().flatten().map(|number| number.to_bits()).collect();
    assert_eq!(numbers.len(), streams.len() * 4, "{streams:?}");
    finish(pool).await;
}

#[tokio::test]
async fn random_streams_of_workers_differ() {
    streams_differ(pool("forking.py").workers(3).start().await.unwrap(), "random_stream").await;
    let preloaded = pool("forking.py").workers(3).preload(["random"]);
    streams_differ(preloaded.start().await.unwrap(), "random_stream").await;
    // As after `random.seed(1)` in a library.
    let seeded = module("seeded", "import random\nrandom.seed(1)\n");
    let preloaded = pool("forking.py").workers(3).path(seeded.path()).preload(["seeded"]);
    streams_differ(preloaded.start().await.unwrap(), "random_stream").await;
}

#[tokio::test]
async fn numpy_streams_of_workers_differ() {
    let found = Command::new(python()).args(["-c", "import numpy"]).output().unwrap();
    if !found.status.success() {
        println!("skipped: {} has no NumPy", python().display());
        return;
    }
    streams_differ(pool("forking.py").workers(2).start().await.unwrap(), "numpy_stream").await;
    // It may start threads when it is imported, for BLAS; then these are fresh interpreters.
    for preload in ["numpy", "numpy.random"] {
        let preloaded = pool("forking.py").workers(3).preload([preload]);
        streams_differ(preloaded.start().await.unwrap(), "numpy_stream").await;
    }
}

// === Modules ===

#[tokio::test]
async fn modules_are_where_pickle_looks_for_them() {
    for fresh in [false, true] {
        let pool = pool("forking.py").workers(1).fresh_interpreter(fresh).start().await.unwrap();
        assert_eq!(pool.call::<Vec<String>>("main_module", ()).await.unwrap(), [""; 0]);
        let handlers = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/handlers");
        let handlers = handlers.to_str().unwrap();
        let place: Vec<String> = pool.call("place", ()).await.unwrap();
        assert_eq!(place, ["forking", handlers, handlers]);
        let copy: (bool, i64, i64, i64) = pool.call("pickled", ()).await.unwrap();
        assert_eq!(copy, (true, 1, 2, 9));
        finish(pool).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn multiprocessing_works_in_a_handler() {
    let pool = pool("forking.py").workers(2).start().await.unwrap();
    for method in ["fork", "spawn", "forkserver"] {
        let squares: Vec<i64> = pool.call("pool_of_processes", method).await.unwrap();
        assert_eq!(squares, [0, 1, 4, 9, 16], "{method}");
        let sums: Vec<i64> = pool.call("executor_of_processes", method).await.unwrap();
        assert_eq!(sums, [0, 2, 4, 6, 8], "{method}");
    }
    assert_eq!(pool.stats().restarts, 0);
    finish(pool).await;
}

// === The process ===

#[tokio::test]
async fn a_worker_leads_its_group_and_has_default_signals() {
    for fresh in [false, true] {
        let pool = pool("forking.py").workers(2).fresh_interpreter(fresh).start().await.unwrap();
        let launcher = launcher_pid(&pool);
        let session = common::session();
        for signals in each::<Vec<String>>(&pool, "dispositions").await {
            // INT raises KeyboardInterrupt, PIPE is ignored, as in any Python.
            assert_eq!(signals, ["handler", "SIG_DFL", "SIG_DFL", "SIG_DFL", "SIG_IGN"]);
        }
        for (place, pid) in
            each::<BTreeMap<String, i32>>(&pool, "place_of_process").await.iter().zip(pids(&pool))
        {
            assert_eq!((place["pid"], place["group"]), (pid, pid));
            assert_eq!((place["parent"], place["session"]), (launcher, session));
        }
        finish(pool).await;
    }
}

#[tokio::test]
async fn garbage_is_collected_but_not_what_was_inherited() {
    let pool = pool("forking.py").workers(2).start().await.unwrap();
    assert_eq!(each::<(bool, bool)>(&pool, "garbage").await, [(true, true); 2]);
    finish(pool).await;
}

#[tokio::test]
async fn exit_handlers_of_a_preloaded_module_run_in_the_launcher_only() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let source = format!(
        "import atexit, os, weakref\n\nclass Thing: pass\n\ndef note(what):\n    \
         with open({:?}, 'a') as file:\n        file.write(f'{{what}} {{os.getpid()}}\\n')\n\n\
         thing = Thing()\natexit.register(note, 'atexit')\nweakref.finalize(thing, note, 'finalize')\n",
        log.to_str().unwrap()
    );
    fs::write(directory.path().join("cleans_up.py"), source).unwrap();
    let pool = pool("forking.py").workers(3).path(directory.path()).preload(["cleans_up"]);
    let pool = pool.start().await.unwrap();
    let launcher = launcher_pid(&pool);
    assert!(!log.exists());
    finish(pool).await;
    let written = fs::read_to_string(&log).unwrap();
    let lines: BTreeSet<_> = written.lines().collect();
    assert_eq!(written.lines().count(), 2, "{written}");
    assert_eq!(
        lines,
        BTreeSet::from([&*format!("atexit {launcher}"), &*format!("finalize {launcher}")])
    );
}

#[tokio::test]
async fn an_event_loop_of_a_preloaded_module_is_not_used() {
    let source = "import asyncio\nloop = asyncio.new_event_loop()\nasyncio.set_event_loop(loop)\n\
                  loop.run_until_complete(asyncio.sleep(0))\n";
    let made = module("makes_loop", source);
    let pool = pool("forking.py").workers(2).path(made.path()).preload(["makes_loop"]);
    let pool = pool.start().await.unwrap();
    for _ in 0..3 {
        assert_eq!(each::<i32>(&pool, "in_event_loop").await, pids(&pool));
    }
    assert_eq!(pool.stats().restarts, 0);
    finish(pool).await;
}

// === Threads ===

/// What was traced in this process.
fn traced() -> &'static Mutex<Vec<u8>> {
    #[derive(Clone)]
    struct Sink(Arc<Mutex<Vec<u8>>>);
    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    static TRACED: OnceLock<Arc<Mutex<Vec<u8>>>> = OnceLock::new();
    TRACED.get_or_init(|| {
        let sink = Sink(Arc::default());
        let traced = Arc::clone(&sink.0);
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_ansi(false)
            .with_writer(move || sink.clone())
            .init();
        traced
    })
}

#[tokio::test]
async fn threads_of_a_preloaded_module_make_workers_fresh_interpreters() {
    let traced = traced();
    let source = "import os, threading\nPID = os.getpid()\nnever = threading.Event()\n\
                  thread = threading.Thread(target=never.wait, daemon=True)\nthread.start()\n";
    let made = module("starts_thread", source);
    let (_guard, file) = common::handler_file(
        "import os, snakepen, starts_thread\n\n@snakepen.handler\ndef state():\n    \
         return [os.getpid(), starts_thread.PID, starts_thread.thread.is_alive()]\n",
    );
    let pool = common::pool_over(&file).workers(3).path(made.path()).preload(["starts_thread"]);
    let pool = pool.start().await.unwrap();
    for (slot, (pid, imported_in, alive)) in
        each::<(i32, i32, bool)>(&pool, "state").await.into_iter().enumerate()
    {
        assert_eq!((pid, imported_in), (pids(&pool)[slot], pid), "it was forked");
        assert!(alive, "its thread did not come along");
    }
    let traced = String::from_utf8(traced.lock().unwrap().clone()).unwrap();
    let warned = |line: &&str| line.contains(pool.name()) && line.contains("threads");
    assert!(traced.lines().any(|line| warned(&line) && line.contains("WARN")), "{traced}");
    finish(pool).await;
}
