//! What the scenarios do to a naive pool (`tests/naive/`): most harm it, and each test asserts the harm. The last two
//! sections are what a more careful author gains, and what it survives. `tests/README.md` has the table, with the tests of Snakepen beside it.
//!
//! Nothing here is a test of Snakepen. The functions that are called are the handlers of its tests, and what is done to
//! the pool is what those tests do.

mod common;
mod naive;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::host::{self, Host};
use common::{
    LIMIT, Mark, eventually, handler_file, is_alive, kill, parent, python, state, told, within,
};
use futures::future::join_all;
use naive::{AfterTimeout, Error, Pool};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

/// The limit of a call that will not end by itself.
const SHORT: Duration = Duration::from_millis(100);

/// No arguments.
const NONE: [(); 0] = [];

/// The command of a worker that serves the functions of a module, which may be in this directory too.
fn worker(module: &str, directory: &Path) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = [
        root.join("tests/handlers"),
        root.join("tests/naive"),
        root.join("python_worker"),
        directory.to_owned(),
    ];
    let mut command = Command::new(python());
    command
        // Starts in half the time.
        .arg("-S")
        .arg(root.join("tests/naive/worker.py"))
        .arg(module)
        .env("PYTHONPATH", std::env::join_paths(path).unwrap())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        // Tracebacks, of which this file makes many. The pool itself would let them through.
        .stderr(std::process::Stdio::null());
    command
}

/// A naive pool, and all processes that come of it, which the pool itself would leave.
struct Subject {
    pool: Option<Pool>,
    mark: Arc<Mark>,
    /// How many workers were started.
    starts: Arc<AtomicUsize>,
    directory: tempfile::TempDir,
}

impl Subject {
    fn start(module: &str, workers: usize) -> Self {
        Self::with(module, workers, AfterTimeout::Reuse, |_, _| {})
    }

    fn careful(module: &str, workers: usize) -> Self {
        Self::with(module, workers, AfterTimeout::Replace, |_, _| {})
    }

    fn with(
        module: &str,
        workers: usize,
        after_timeout: AfterTimeout,
        change: impl Fn(&mut Command, &Path) + Send + Sync + 'static,
    ) -> Self {
        let (mark, starts) = (Arc::new(Mark::new()), Arc::new(AtomicUsize::new(0)));
        let directory = tempfile::tempdir().unwrap();
        let command = {
            let (mark, starts) = (Arc::clone(&mark), Arc::clone(&starts));
            let (module, directory) = (module.to_owned(), directory.path().to_owned());
            move || {
                let mut command = worker(&module, &directory);
                mark.set(command.as_std_mut());
                change(&mut command, &directory);
                starts.fetch_add(1, Ordering::Relaxed);
                command
            }
        };
        let pool = Pool::start(workers, after_timeout, command).unwrap();
        Self { pool: Some(pool), mark, starts, directory }
    }

    /// A pool over a module of this source.
    fn made(source: &str, workers: usize) -> Self {
        let (made, _) = handler_file(source);
        Self::with("made_handlers", workers, AfterTimeout::Reuse, move |command, _| {
            command.env("PYTHONPATH", made.path());
        })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn pool(&self) -> &Pool {
        self.pool.as_ref().expect("it is not dropped yet")
    }

    /// The only end that it has.
    fn drop_pool(&mut self) {
        self.pool = None;
    }

    /// A call that has time enough.
    async fn call<T: DeserializeOwned>(
        &self,
        function: &str,
        args: impl Serialize,
    ) -> Result<T, Error> {
        self.pool().call(function, args, LIMIT).await
    }

    /// A call that has not.
    async fn call_shortly<T: DeserializeOwned>(
        &self,
        function: &str,
        args: impl Serialize,
    ) -> Result<T, Error> {
        self.pool().call(function, args, SHORT).await
    }

    /// All that lives of the pool; its workers, if they have started nothing.
    fn processes(&self) -> Vec<i32> {
        self.mark.processes()
    }

    /// The same, once there are so many: a process that was just started has no environment for a moment.
    async fn all(&self, count: usize) -> Vec<i32> {
        eventually("all processes are there", || self.processes().len() == count).await;
        self.processes()
    }

    fn starts(&self) -> usize {
        self.starts.load(Ordering::Relaxed)
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        end_all(&self.mark);
    }
}

/// Kills what carries this mark, until there is nothing. Tests run on one thread: nobody starts more meanwhile.
fn end_all(mark: &Mark) {
    let start = Instant::now();
    loop {
        let left = mark.processes();
        if left.is_empty() || start.elapsed() > LIMIT {
            return;
        }
        for pid in left.into_iter().filter_map(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The processor time that a process has used, in ticks.
fn cpu_time(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    let (_, fields) = stat.rsplit_once(") ").expect("a name");
    fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

/// Waits until a process has used more of the processor.
async fn goes_on(pid: i32) {
    let before = cpu_time(pid);
    eventually("its loop goes on", || cpu_time(pid) > before).await;
}

/// Waits until a process has died; nobody has reaped it.
async fn is_dead(pid: i32) {
    eventually("it is dead", || state(pid) == Some('Z')).await;
}

#[tokio::test]
#[ignore = "the host that the other tests start"]
async fn host() {
    let Some(part) = host::part() else { return };
    let mut interrupt = signal(SignalKind::interrupt()).unwrap();
    let pool = |workers| {
        Pool::start(workers, AfterTimeout::Reuse, || worker("holding", Path::new("/"))).unwrap()
    };
    match part.as_str() {
        "spin" => {
            let pool = pool(2);
            let _ =
                pool.call::<()>("spin_beside_children", [host::shared_file("spins")], LIMIT).await;
        }
        "serve" => {
            let pool = pool(1);
            let files = [host::shared_file("started"), host::shared_file("release")];
            let running = pool.call::<i32>("hold", files, LIMIT);
            let (answer, ()) = tokio::join!(running, async {
                interrupt.recv().await;
                // It shuts down in order: what runs may end.
                host::tell("interrupted", "");
            });
            host::tell("answer", &format!("{answer:?}"));
        }
        part => panic!("no part {part}"),
    }
}

// === Lost or orphaned processes ===

#[tokio::test]
async fn s01_busy_workers_outlive_their_killed_host() {
    let mut host = Host::start("spin");
    let spins = host.tells("spins").await;
    let busy: Vec<i32> = spins.split(' ').map(|pid| pid.parse().unwrap()).collect();
    eventually("the idle one has started too", || host.processes().len() == 4).await;
    host.kill();
    // It reads its pipe, and sees the end.
    eventually("the idle worker has left", || host.processes().len() == 3).await;
    goes_on(busy[0]).await;
    assert_eq!(BTreeSet::from_iter(busy), BTreeSet::from_iter(host.processes()));
}

#[tokio::test]
async fn s02_what_a_worker_has_started_outlives_the_pool() {
    let mut subject = Subject::start("side_effects", 1);
    let files = [subject.file("started"), subject.file("leave")];
    let child: i32 = subject.call("start_late_leaver", &files).await.unwrap();
    told(&files[0]).await;
    let worker = parent(child).unwrap();
    subject.drop_pool();
    eventually("the worker is gone", || !is_alive(worker)).await;
    // It never left the worker's group.
    assert_eq!(subject.processes(), [child]);
}

#[tokio::test]
async fn s05_what_a_handler_file_has_started_outlives_a_pool_that_is_stopped_while_it_starts() {
    let source = "import subprocess, time\nsubprocess.Popen(['sleep', '1000'])\ntime.sleep(1000)\n";
    let mut subject = Subject::made(source, 2);
    // Both load, and have started a process.
    subject.all(4).await;
    subject.drop_pool();
    let sleeps = |pid: &i32| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"sleep"))
    };
    eventually("the workers are gone, and what they have started is not", || {
        let left = subject.processes();
        left.len() == 2 && left.iter().all(sleeps)
    })
    .await;
}

#[tokio::test]
async fn s06_a_pool_of_64_is_still_there_when_it_is_dropped() {
    let mut subject = Subject::made("", 64);
    // Started, which does not mean that any of them could take a call.
    let pids = subject.all(64).await;
    subject.drop_pool();
    let left = pids.iter().filter(|&&pid| state(pid).is_some()).count();
    assert!(left > 0, "a destructor cannot wait");
    // Later, and only if the runtime lives on to reap them.
    eventually("all are gone", || pids.iter().all(|&pid| state(pid).is_none())).await;
}

// === Wedged or double-booked workers ===

#[tokio::test]
async fn s07_the_call_after_a_timeout_gets_its_answer() {
    let subject = Subject::start("holding", 1);
    let files = [subject.file("started"), subject.file("release")];
    assert_eq!(subject.call_shortly::<i64>("hold", &files).await, Err(Error::Timeout));
    let pid: i64 = told(&files[0]).await.parse().unwrap();
    fs::write(&files[1], "").unwrap();
    assert_eq!(subject.call::<i64>("work", (7, 0.0)).await, Ok(pid), "not 7");
    // And so on, for ever.
    assert_eq!(subject.call::<i64>("work", (8, 0.0)).await, Ok(7));
    assert_eq!(subject.call::<i64>("work", (9, 0.0)).await, Ok(8));
}

#[tokio::test]
async fn s08_what_has_timed_out_runs_on() {
    let subject = Subject::start("holding", 2);
    let files = [subject.file("first"), subject.file("second")];
    let calls = files.iter().map(|file| subject.call_shortly::<()>("spin_beside_children", [file]));
    assert_eq!(join_all(calls).await, [Err(Error::Timeout), Err(Error::Timeout)]);
    assert_eq!(subject.pool().free().await, 2, "they count as free");
    for file in files {
        let pid = told(&file).await.split(' ').next().unwrap().parse().unwrap();
        goes_on(pid).await;
    }
}

#[tokio::test]
async fn s09_a_future_that_is_dropped_takes_its_worker_along() {
    let subject = Subject::start("holding", 1);
    let files = [subject.file("started"), subject.file("release")];
    tokio::select! {
        answer = subject.call::<i32>("hold", &files) => panic!("{answer:?}"),
        _ = told(&files[0]) => {}
    }
    eventually("the worker is gone", || subject.processes().is_empty()).await;
    assert_eq!((subject.pool().free().await, subject.starts()), (0, 1), "nobody replaces it");
    // No later call comes to an end, nor is there anything that it could wait for.
    let next = tokio::time::timeout(SHORT, subject.call::<i64>("work", (7, 0.0))).await;
    assert!(next.is_err(), "{next:?}");
}

#[tokio::test]
async fn s10_a_stopped_worker_stays_in_the_pool() {
    let subject = Subject::start("basic", 1);
    let worker: i32 = subject.call("pid", NONE).await.unwrap();
    kill(worker, 19);
    for _ in 0..3 {
        assert_eq!(subject.call_shortly::<i32>("pid", NONE).await, Err(Error::Timeout));
        assert_eq!((state(worker), subject.pool().free().await), (Some('T'), 1));
    }
    assert_eq!(subject.starts(), 1);
}

#[tokio::test]
async fn s11_an_idle_worker_that_was_killed_costs_a_call_and_nobody_tells_the_signal() {
    let subject = Subject::start("holding", 2);
    let [started, never] = [subject.file("started"), subject.file("never")];
    let running = subject.call::<i32>("hold", (&started, &never));
    let (busy, ()) = tokio::join!(running, async {
        let busy = told(&started).await.parse().unwrap();
        kill(busy, 9);
    });
    let idle: i32 = subject.call("pid", NONE).await.unwrap();
    assert_eq!(subject.call::<i32>("pid", NONE).await.map(|pid| pid != idle), Ok(true));
    kill(idle, 9);
    is_dead(idle).await;
    // Nothing of this call has ever run; and the caller hears what the other one has heard.
    assert_eq!(subject.call::<i32>("pid", NONE).await, busy);
    assert_eq!(busy, Err(Error::Died));
}

#[tokio::test]
async fn s12_nothing_that_was_killed_is_replaced_before_it_has_cost_a_call() {
    let subject = Subject::start("basic", 4);
    for round in 1..=4 {
        for pid in subject.all(4).await {
            kill(pid, 9);
            is_dead(pid).await;
        }
        assert_eq!((subject.processes().len(), subject.pool().free().await), (0, 4));
        assert_eq!(subject.starts(), 4 * round);
        for _ in 0..4 {
            assert_eq!(subject.call::<i64>("add", (1, 2)).await, Err(Error::Died));
        }
    }
    assert_eq!(subject.call::<i64>("add", (1, 2)).await, Ok(3));
}

/// Whoever catches what would interrupt him is not even interrupted.
#[tokio::test]
async fn s13_s14_a_handler_that_does_not_end_has_its_worker_for_ever() {
    for handler in ["in_c", "deaf", "stubborn"] {
        let subject = Subject::start("cancelled", 1);
        let started = subject.file("started");
        let error = subject.call_shortly::<()>(handler, [&started]).await.unwrap_err();
        assert_eq!(error.to_string(), "the worker did not answer in time", "where is not told");
        let pid = told(&started).await.parse().unwrap();
        for _ in 0..2 {
            assert_eq!(subject.call_shortly::<i32>("pid", NONE).await, Err(Error::Timeout));
        }
        assert!(is_alive(pid));
        assert_eq!((subject.pool().free().await, subject.starts()), (1, 1));
    }
}

#[tokio::test]
async fn s15_s16_a_limit_does_not_count_the_queue_and_what_has_expired_there_runs() {
    let subject = Subject::start("basic", 1);
    let marks = subject.file("marks");
    let busy = subject.call::<f64>("sleep", (0.5,));
    let start = Instant::now();
    let expires = subject.call_shortly::<()>("touch", [&marks]);
    let (busy, expired) = tokio::join!(busy, expires);
    assert_eq!(busy, Ok(0.5));
    assert!(start.elapsed() >= 4 * SHORT, "it was told on time: {expired:?}");
    assert_eq!(told(&marks).await, "x");
}

/// The line that is being read is lost, and the rest of it is the next call's answer.
#[tokio::test]
async fn s15a_a_timeout_in_the_middle_of_an_answer_spoils_the_next() {
    const SIZE: usize = 8 << 20;
    let first = Subject::start("large", 1);
    first.call::<i32>("pid", NONE).await.unwrap();
    let start = Instant::now();
    first.call::<String>("give", [SIZE]).await.unwrap();
    let (mut low, mut high) = (Duration::ZERO, start.elapsed());
    loop {
        assert!(start.elapsed() < LIMIT, "no timeout falls into an answer");
        let subject = Subject::start("large", 1);
        subject.call::<i32>("pid", NONE).await.unwrap();
        let limit = (low + high) / 2;
        if subject.pool().call::<String>("give", [SIZE], limit).await.is_ok() {
            (low, high) = (low / 2, limit);
            continue;
        }
        match subject.call::<Value>("take", ["abc"]).await {
            Err(Error::NoJson(rest)) => {
                assert!(rest.starts_with("xxx"), "{rest}");
                break;
            }
            // It had not begun to come before, and is in the way as a whole.
            Ok(Value::String(_)) => (low, high) = (limit, 2 * high),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn s15c_ctrl_c_ends_the_workers_before_their_host_has_shut_down() {
    let mut host = Host::start("serve");
    host.tells("started").await;
    host.signal_group(rustix::process::Signal::INT);
    host.tells("interrupted").await;
    // Nobody has let it go: it was to run for as long as the host waits for it.
    assert_eq!(host.tells("answer").await, "Err(Died)");
    assert!(!host.file("release").exists());
}

#[tokio::test]
async fn s15d_a_worker_inherits_what_its_host_has_left_open() {
    let file = tempfile::NamedTempFile::new().unwrap();
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
    let subject = Subject::start("basic", 1);
    let worker: i32 = subject.call("pid", NONE).await.unwrap();
    let entries = fs::read_dir(format!("/proc/{worker}/fd")).unwrap();
    let open: Vec<_> = entries.map(|entry| fs::read_link(entry.unwrap().path()).unwrap()).collect();
    assert!(open.iter().any(|target| target == file.path()), "{open:?}");
}

#[tokio::test]
async fn s15d_s27_a_forked_child_hides_the_end_of_its_worker() {
    let subject = Subject::start("forks", 1);
    let worker: i32 = subject.call("pid", NONE).await.unwrap();
    let (first, ()) =
        tokio::join!(subject.call_shortly::<()>("dies_before_its_child", NONE), is_dead(worker));
    assert_eq!(first, Err(Error::Timeout));
    // Dead as it is, it is given the next calls.
    for _ in 0..2 {
        assert_eq!(subject.call_shortly::<i32>("pid", NONE).await, Err(Error::Timeout));
    }
    assert_eq!((state(worker), subject.starts()), (Some('Z'), 1));
}

/// The worker writes an answer that nobody reads, and its host a request that it does not read.
#[tokio::test]
async fn s15e_after_a_timeout_large_frames_deadlock() {
    const SIZE: usize = 4 << 20;
    let text = "ab".repeat(SIZE / 2);
    let subject = Subject::start("large", 1);
    let worker: i32 = subject.call("pid", NONE).await.unwrap();
    let start = Instant::now();
    assert_eq!(subject.call::<String>("swap", (&text, SIZE)).await.as_ref(), Ok(&text));
    // More than it takes.
    let enough = 3 * start.elapsed();
    let given_up = subject.pool().call::<String>("give", [SIZE], Duration::ZERO).await;
    assert_eq!(given_up, Err(Error::Timeout));
    let large = subject.pool().call::<String>("swap", (&text, SIZE), enough).await;
    assert_eq!(large, Err(Error::Timeout));
    for _ in 0..2 {
        // Nobody will ever read the answer, because each call begins with what it has to say.
        assert_eq!(subject.call_shortly::<Value>("take", ["abc"]).await, Err(Error::Timeout));
        assert_eq!(state(worker), Some('S'));
    }
    assert_eq!((subject.pool().free().await, subject.starts()), (1, 1));
}

// === Queue ===

#[tokio::test]
async fn s17_nobody_is_turned_away() {
    let subject = Subject::start("holding", 1);
    let files = [subject.file("started"), subject.file("release")];
    let mut calls: Vec<_> =
        (0..100).map(|_| Box::pin(subject.call::<i32>("hold", &files))).collect();
    for call in &mut calls {
        assert!(futures::poll!(call).is_pending());
    }
    let released = async {
        told(&files[0]).await;
        fs::write(&files[1], "").unwrap();
    };
    let (answers, ()) = tokio::join!(join_all(calls), released);
    assert!(answers.iter().all(Result::is_ok));
}

#[tokio::test]
async fn s20_a_broken_pool_says_no_reason_and_starts_a_process_for_each_call() {
    let subject = Subject::with("flagged", 1, AfterTimeout::Reuse, |command, directory| {
        command.env("BROKEN_WHILE", directory.join("broken"));
    });
    let worker: i32 = subject.call("pid", NONE).await.unwrap();
    fs::write(subject.file("broken"), "").unwrap();
    kill(worker, 9);
    for calls in 1..=5 {
        // The reason, "the model file is missing", is on the workers' stderr.
        assert_eq!(subject.call::<i32>("pid", NONE).await, Err(Error::Died));
        assert_eq!(subject.starts(), 1 + calls);
    }
}

#[tokio::test]
async fn s20_a_start_that_fails_once_loses_the_worker_for_good() {
    let subject = Subject::with("basic", 1, AfterTimeout::Reuse, |command, directory| {
        let link = directory.join("python");
        if !directory.join("gone").exists() && !link.exists() {
            std::os::unix::fs::symlink(python(), &link).unwrap();
        }
        let mut linked = Command::new(link);
        linked.args(command.as_std().get_args());
        for (key, value) in command.as_std().get_envs() {
            linked.env(key, value.unwrap());
        }
        *command = linked;
    });
    let worker: i32 = subject.call("pid", NONE).await.unwrap();
    fs::write(subject.file("gone"), "").unwrap();
    fs::remove_file(subject.file("python")).unwrap();
    kill(worker, 9);
    let error = subject.call::<i32>("pid", NONE).await.unwrap_err();
    assert!(matches!(error, Error::Start(_)), "{error:?}");
    // It heals, and nobody looks.
    fs::remove_file(subject.file("gone")).unwrap();
    assert_eq!((subject.pool().free().await, subject.processes().len()), (0, 0));
    let next = tokio::time::timeout(SHORT, subject.call::<i32>("pid", NONE)).await;
    assert!(next.is_err(), "{next:?}");
}

// === What user code can do to a worker ===

#[tokio::test]
async fn s21_what_is_printed_is_taken_for_the_answer() {
    for function in ["by_print", "by_descriptor", "by_child", "by_c"] {
        let subject = Subject::start("careless", 1);
        let printed = subject.call::<String>(function, ["hello"]).await;
        assert_eq!(printed, Err(Error::NoJson("hello\n".to_owned())), "{function}");
        // The next one gets what this one should have had.
        assert_eq!(subject.call::<String>("echo", [7]).await, Ok("answer".to_owned()));
        assert_eq!(subject.call::<i64>("echo", [8]).await, Ok(7));
    }
    let subject = Subject::start("careless", 1);
    let forged = subject.call::<String>("by_print", [r#"{"result": "forged"}"#]).await;
    assert_eq!(forged, Ok("forged".to_owned()));
    let subject = Subject::start("careless", 1);
    let megabyte = subject.call::<String>("megabyte", NONE).await;
    assert_eq!(megabyte, Err(Error::NoJson("m".repeat(80))));
}

#[tokio::test]
async fn s22_s23_a_result_that_is_no_json_costs_the_worker_and_is_not_named() {
    let subject = Subject::start("odd", 1);
    let odd = |name: &'static str| subject.call::<Value>("odd", [name]);
    // Python says what no other parser takes.
    for name in ["nan", "inf", "-inf", "surrogate"] {
        assert!(matches!(odd(name).await, Err(Error::NoJson(_))), "{name}");
    }
    let before: i32 = subject.call("pid", NONE).await.unwrap();
    for name in ["set", "tuple_key", "cycle", "complex", "decimal", "dataclass"] {
        assert_eq!(odd(name).await, Err(Error::Died), "{name}");
    }
    // Newer interpreters can write that depth, and Rust cannot read it.
    let deep = odd("deep_list").await;
    assert!(matches!(deep, Err(Error::Died | Error::NoJson(_))), "{deep:?}");
    assert_ne!(subject.call::<i32>("pid", NONE).await, Ok(before));
    assert!(subject.starts() > 7);
}

#[tokio::test]
async fn s22_an_argument_that_is_no_number_arrives_as_none() {
    let subject = Subject::start("odd", 1);
    assert_eq!(subject.call("echo", [f64::NAN]).await, Ok(Value::Null));
    assert_eq!(subject.call("kind", [f64::INFINITY]).await, Ok(json!("NoneType None")));
}

#[tokio::test]
async fn s24_all_deaths_are_told_alike() {
    let subject = Subject::start("deaths", 1);
    for (function, args) in [
        ("exit_at_once", json!([3])),
        ("leave", json!([])),
        ("leave", json!([4])),
        ("read_address_zero", json!([])),
        ("abort", json!([])),
        ("signal_itself", json!([9])),
    ] {
        // No status, no signal, no last words, no stack.
        let error = subject.call::<()>(function, args).await.unwrap_err();
        assert_eq!(error.to_string(), "the worker died", "{function}");
    }
    let subject = Subject::start("careless", 1);
    assert_eq!(subject.call::<String>("closes_stdout", NONE).await, Err(Error::Died));
}

#[tokio::test]
async fn s25_a_broken_handler_file_makes_a_pool_that_was_started() {
    for source in ["import no_such_module_anywhere\n", "def broken(:\n", "exit(3)\n"] {
        let subject = Subject::made(source, 1);
        for calls in 1..=2 {
            assert_eq!(subject.call::<()>("any", NONE).await, Err(Error::Died));
            assert_eq!(subject.starts(), 1 + calls);
        }
    }
}

#[tokio::test]
async fn s26_a_handler_file_that_never_loads_is_a_call_that_times_out() {
    let source = "import time\nopen(f'{__file__}.loads', 'a').close()\ntime.sleep(1000)\n";
    let subject = Subject::made(source, 1);
    let worker = subject.all(1).await[0];
    for _ in 0..3 {
        // Not a word of its start.
        assert_eq!(subject.call_shortly::<()>("any", NONE).await, Err(Error::Timeout));
    }
    assert_eq!((subject.processes(), subject.starts()), (vec![worker], 1));
}

#[tokio::test]
async fn s27_a_forked_child_answers_for_its_parent_and_takes_its_requests() {
    let subject = Subject::start("forks", 1);
    let worker: i32 = subject.call("pid", NONE).await.unwrap();
    assert_eq!(subject.call::<Value>("child_returns", NONE).await, Ok(json!(["child"])));
    // Its parent waits for it, and it for requests.
    let child: i32 = subject.call("pid", NONE).await.unwrap();
    assert_eq!(parent(child), Some(worker));
}

#[tokio::test]
async fn s27_parent_and_child_both_answer() {
    let subject = Subject::start("careless", 1);
    let wrong = async {
        // One answer too many: sooner or later it comes first, and from then on every call has another's. Or it
        // comes between the text and the end of another line.
        let mut answer = subject.call("forks", NONE).await;
        let mut expected = json!("forked");
        for n in 0_u64.. {
            if answer != Ok(expected) {
                break;
            }
            answer = subject.call("echo", [n]).await;
            expected = json!(n);
        }
        answer
    };
    let wrong = within(LIMIT, "the second answer", wrong).await;
    assert!(matches!(wrong, Ok(Value::String(_)) | Err(Error::NoJson(_))), "{wrong:?}");
}

#[tokio::test]
async fn s27_the_next_request_meets_what_a_handler_has_done_to_the_process() {
    let subject = Subject::start("side_effects", 1);
    let worker: i32 = subject.call("pid", NONE).await.unwrap();
    let directory = || fs::read_link(format!("/proc/{worker}/cwd")).unwrap();
    let before = directory();
    assert_eq!(subject.call::<String>("change_directory", NONE).await, Ok("/".to_owned()));
    assert_eq!(subject.call::<i32>("pid", NONE).await, Ok(worker));
    assert!(directory() != before && directory() == Path::new("/"));
    // Its alarm fires in the loop, and the next call, which has done nothing, fails.
    assert_eq!(subject.call::<()>("raise_in_signal_handler", NONE).await, Ok(()));
    is_dead(worker).await;
    assert_eq!(subject.call::<i64>("add", (1, 2)).await, Err(Error::Died));
}

/// It is not made again behind the caller's back; but a caller who makes those again that never ran makes it again, too.
#[tokio::test]
async fn s28_a_poison_request_is_told_as_one_that_never_ran() {
    let subject = Subject::start("deaths", 1);
    let marks = subject.file("marks");
    let poison = subject.call::<()>("mark_and_die", [&marks]).await;
    assert_eq!(told(&marks).await, "x");
    let worker: i32 = subject.call("pid", NONE).await.unwrap();
    kill(worker, 9);
    is_dead(worker).await;
    let other = subject.file("other");
    assert_eq!(subject.call::<()>("mark_and", (&other, "exit")).await, poison);
    assert!(!other.exists());
    assert_eq!(poison, Err(Error::Died));
}

// === A more careful author, who replaces a worker after a timeout ===

#[tokio::test]
async fn s07_s10_replacing_helps_the_next_call() {
    let subject = Subject::careful("holding", 1);
    let worker: i32 = subject.call("pid", NONE).await.unwrap();
    let files = [subject.file("started"), subject.file("never")];
    assert_eq!(subject.call_shortly::<i32>("hold", &files).await, Err(Error::Timeout));
    assert_eq!(subject.call::<i64>("work", (7, 0.0)).await, Ok(7));
    eventually("what has timed out is killed", || !is_alive(worker)).await;
    // One that was stopped costs a call and its whole limit, and is gone.
    let worker: i32 = subject.call("pid", NONE).await.unwrap();
    kill(worker, 19);
    assert_eq!(subject.call_shortly::<i32>("pid", NONE).await, Err(Error::Timeout));
    assert_eq!(subject.call::<i64>("work", (8, 0.0)).await, Ok(8));
}

#[tokio::test]
async fn s13_s14_replacing_ends_what_does_not_end() {
    for handler in ["in_c", "deaf", "stubborn"] {
        let subject = Subject::careful("cancelled", 1);
        let worker: i32 = subject.call("pid", NONE).await.unwrap();
        let started = subject.file("started");
        assert_eq!(subject.call_shortly::<()>(handler, [&started]).await, Err(Error::Timeout));
        eventually("it is killed", || !is_alive(worker)).await;
        assert_eq!(subject.call::<i64>("echo", [7]).await, Ok(7));
    }
}

#[tokio::test]
async fn s08_replacing_lets_nothing_clean_up() {
    let subject = Subject::careful("cancelled", 1);
    let files = [subject.file("started"), subject.file("ended")];
    while !files[0].exists() {
        // On a busy machine it may not have come to its `try`.
        subject.call::<i32>("pid", NONE).await.unwrap();
        assert_eq!(subject.call_shortly::<()>("tidy", &files).await, Err(Error::Timeout));
    }
    let worker = told(&files[0]).await.parse().unwrap();
    eventually("it is killed", || !is_alive(worker)).await;
    assert!(!files[1].exists(), "its `finally` has run");
}

#[tokio::test]
async fn s01_s02_replacing_leaves_what_the_worker_has_started() {
    let subject = Subject::careful("holding", 1);
    let spins = subject.file("spins");
    while !spins.exists() {
        // On a busy machine it may not have started them.
        subject.call::<i32>("pid", NONE).await.unwrap();
        let answer = subject.call_shortly::<()>("spin_beside_children", [&spins]).await;
        assert_eq!(answer, Err(Error::Timeout));
    }
    let pids = told(&spins).await;
    let pids: Vec<i32> = pids.split(' ').map(|pid| pid.parse().unwrap()).collect();
    eventually("the worker is gone", || !is_alive(pids[0])).await;
    assert!(is_alive(pids[1]) && is_alive(pids[2]));
}

#[tokio::test]
async fn s15a_s15e_replacing_leaves_nothing_in_the_pipe() {
    let subject = Subject::careful("large", 1);
    let text = "ab".repeat(1 << 20);
    let given_up = subject.pool().call::<String>("give", [text.len()], Duration::ZERO).await;
    assert_eq!(given_up, Err(Error::Timeout));
    assert_eq!(subject.call::<String>("swap", (&text, text.len())).await.as_ref(), Ok(&text));
}

#[tokio::test]
async fn s15d_replacing_ends_one_whose_end_was_hidden() {
    let subject = Subject::careful("forks", 1);
    let worker: i32 = subject.call("pid", NONE).await.unwrap();
    // It died at once, and is missed when the time is over.
    let hidden = subject.call_shortly::<()>("dies_before_its_child", NONE).await;
    assert_eq!(hidden, Err(Error::Timeout));
    assert_eq!(subject.call::<i32>("pid", NONE).await.map(|pid| pid != worker), Ok(true));
}

#[tokio::test]
async fn s26_replacing_starts_a_worker_for_each_call() {
    let subject = Subject::with("loads_for_ever", 1, AfterTimeout::Replace, |_, directory| {
        let source = "import time\ntime.sleep(1000)\n";
        fs::write(directory.join("loads_for_ever.py"), source).unwrap();
    });
    for calls in 1..=2 {
        assert_eq!(subject.call_shortly::<()>("any", NONE).await, Err(Error::Timeout));
        assert_eq!(subject.starts(), 1 + calls);
    }
}

// === What it survives ===

#[tokio::test]
async fn s03_dropping_one_pool_leaves_the_other_alone() {
    let (mut one, other) = (Subject::start("holding", 2), Subject::start("holding", 2));
    let before = other.all(2).await;
    let files = [other.file("started"), other.file("release")];
    let running = other.call::<i32>("hold", &files);
    let (answer, ()) = tokio::join!(running, async {
        told(&files[0]).await;
        one.drop_pool();
        eventually("the other's workers are gone", || one.processes().is_empty()).await;
        fs::write(&files[1], "").unwrap();
    });
    assert!(before.contains(&answer.unwrap()));
    assert_eq!(other.processes(), before);
}

#[tokio::test]
async fn s09_s16_s19_a_call_that_is_dropped_in_the_queue_never_runs_and_costs_no_worker() {
    let subject = Subject::start("basic", 1);
    let marks = subject.file("marks");
    let mut busy = Box::pin(subject.call::<f64>("sleep", (0.3,)));
    assert!(futures::poll!(&mut busy).is_pending());
    for _ in 0..1_000 {
        let mut call = Box::pin(subject.call::<()>("touch", [&marks]));
        assert!(futures::poll!(&mut call).is_pending());
    }
    assert_eq!(busy.await, Ok(0.3));
    assert_eq!(subject.call::<i64>("add", (1, 2)).await, Ok(3));
    assert!(!marks.exists());
}

#[tokio::test]
async fn s11_a_busy_worker_that_was_killed_costs_no_other_call() {
    let subject = Subject::start("holding", 2);
    let [started, never] = [subject.file("started"), subject.file("never")];
    let running = subject.call::<i32>("hold", (&started, &never));
    let others = async {
        kill(told(&started).await.parse().unwrap(), 9);
        for value in 0..100 {
            assert_eq!(subject.call::<i64>("work", (value, 0.0)).await, Ok(value));
        }
    };
    let (killed, ()) = tokio::join!(running, others);
    assert_eq!(killed, Err(Error::Died));
}

#[tokio::test]
async fn s15_a_limit_holds_while_the_call_runs() {
    let subject = Subject::start("basic", 1);
    subject.call::<i32>("pid", NONE).await.unwrap();
    let limit = Duration::from_millis(1_999);
    // A machine that is busy may be late now and then.
    for tries in 1.. {
        let start = Instant::now();
        assert_eq!(subject.pool().call::<()>("sleep", [60], limit).await, Err(Error::Timeout));
        let took = start.elapsed();
        assert!(took >= limit && tries <= 3, "{took:?}");
        if took < limit + Duration::from_millis(250) {
            break;
        }
    }
}

#[tokio::test]
async fn s15e_megabytes_go_both_ways() {
    let text = "ab".repeat(2 << 20);
    let subject = Subject::start("large", 2);
    let calls = (0..3).map(|_| subject.call::<String>("swap", (&text, text.len())));
    let answers = within(LIMIT, "large frames both ways", join_all(calls)).await;
    assert!(answers.iter().all(|answer| answer.as_ref() == Ok(&text)));
}

#[tokio::test]
async fn s20_a_broken_pool_does_not_touch_another() {
    let (broken, healthy) = (Subject::made("1 / 0\n", 1), Subject::start("basic", 1));
    for n in 0..3 {
        assert_eq!(broken.call::<()>("any", NONE).await, Err(Error::Died));
        assert_eq!(healthy.call::<i64>("add", (n, 1)).await, Ok(n + 1));
    }
}

#[tokio::test]
async fn s24_exceptions_are_answers() {
    let subject = Subject::start("deaths", 1);
    let worker: i32 = subject.call("pid", NONE).await.unwrap();
    for (function, name) in [("out_of_memory", "MemoryError"), ("recurse", "RecursionError")] {
        let Err(Error::Python(text)) = subject.call::<()>(function, NONE).await else { panic!() };
        assert!(text.starts_with(name), "{text}");
    }
    assert_eq!(subject.call("pid", NONE).await, Ok(worker));
}
