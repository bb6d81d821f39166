//! Reads and writes of a session store a second, for each backend.
//!
//! `cargo bench --bench sessions --features durable,redis [-- [--quick] [--json FILE]]`
//!
//! Tasks read, or write, values of about 80 bytes of JSON as fast as they are answered, each in a session of its own. What a
//! write to a file costs is its `fsync`: "one fsync each" has 64 tasks take turns, so that no two writes share one; group
//! commit is what the store does otherwise. The two take turns in one run, and the ratio is that of neighbouring rounds.
//! Redis is started here, without persistence, and reached over a Unix socket.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Message, Options, Spread, Table, thousands};
use serde::Serialize;
use snakepen::{Session, SessionStore};
use tokio::sync::{Barrier, Mutex};

const TASKS: [usize; 2] = [1, 64];

#[derive(Serialize)]
struct Row {
    job: &'static str,
    backend: &'static str,
    tasks: usize,
    per_s: f64,
    low: f64,
    high: f64,
}

#[derive(Clone)]
enum Job {
    Read,
    Write,
    /// Whoever has the turn writes.
    InTurn(Arc<Mutex<()>>),
}

impl Job {
    async fn run(&self, session: &Session, message: &Message) {
        match self {
            Job::Read => {
                let found = session.get::<Message>("message").await.expect("a read");
                assert!(std::hint::black_box(found).is_some());
            }
            Job::Write => {
                let _ = session.put("message", message).await.expect("a write");
            }
            Job::InTurn(turn) => {
                let _turn = turn.lock().await;
                let _ = session.put("message", message).await.expect("a write");
            }
        }
    }
}

/// How often a second `tasks` tasks do it.
async fn round(store: &SessionStore, job: &Job, tasks: usize, time: Duration) -> f64 {
    let start = Arc::new(Barrier::new(tasks + 1));
    let running: Vec<_> = (0..tasks)
        .map(|task| {
            let (job, start) = (job.clone(), Arc::clone(&start));
            let session = store.session(format!("s-{task}")).expect("an id");
            tokio::spawn(async move {
                let message = Message::example();
                start.wait().await;
                let end = Instant::now() + time;
                let mut done = 0_u64;
                while Instant::now() < end {
                    // Where an operation takes less than a microsecond, the clock is not to be measured with it.
                    let many = if matches!(job, Job::InTurn(_)) { 1 } else { 8 };
                    for _ in 0..many {
                        job.run(&session, &message).await;
                        done += 1;
                    }
                }
                done
            })
        })
        .collect();
    start.wait().await;
    let begin = Instant::now();
    let mut done = 0;
    for task in running {
        done += task.await.expect("a task ends in order");
    }
    done as f64 / begin.elapsed().as_secs_f64()
}

/// The stores under test, and what they need.
struct Bench {
    stores: Vec<(&'static str, SessionStore)>,
    #[cfg(feature = "durable")]
    _directory: tempfile::TempDir,
    #[cfg(feature = "redis")]
    _server: Option<server::Server>,
}

impl Bench {
    async fn open() -> Self {
        let mut stores = Vec::new();
        let open = async |name, builder: snakepen::session::StoreBuilder| {
            let store = builder.open().await.expect("the store opens");
            for task in 0..TASKS[1] {
                let session = store.session(format!("s-{task}")).expect("an id");
                session.put("message", &Message::example()).await.expect("a write");
            }
            (name, store)
        };
        stores.push(open("memory", SessionStore::builder("bench-memory")).await);
        #[cfg(feature = "durable")]
        let directory = tempfile::tempdir().expect("a temporary directory");
        #[cfg(feature = "durable")]
        {
            let backend = snakepen::session::Durable::new(directory.path().join("sessions.redb"));
            stores
                .push(open("durable", SessionStore::builder("bench-file").backend(backend)).await);
        }
        #[cfg(feature = "redis")]
        let server = server::Server::start();
        #[cfg(feature = "redis")]
        match &server {
            Some(server) => {
                let backend = snakepen::session::Redis::new(server.url());
                let builder = SessionStore::builder("bench-redis").backend(backend);
                stores.push(open("redis", builder).await);
            }
            None => println!("redis-server is not installed: its rows are missing\n"),
        }
        Self {
            stores,
            #[cfg(feature = "durable")]
            _directory: directory,
            #[cfg(feature = "redis")]
            _server: server,
        }
    }
}

#[tokio::main]
async fn main() {
    let options = Options::parse();
    let (rounds, time) = if options.quick { (3, 200) } else { (7, 500) };
    let time = Duration::from_millis(time);
    common::print_machine();
    println!(
        "values of 87 bytes of JSON; {rounds} rounds of {} ms each; medians (lowest to highest)\n",
        time.as_millis()
    );
    let bench = Bench::open().await;
    let mut rows = Vec::new();
    let mut table = Table::new(&["backend", "tasks", "reads/s", "writes/s"]);
    for (backend, store) in &bench.stores {
        for tasks in TASKS {
            let mut cells = vec![(*backend).to_owned(), tasks.to_string()];
            for (name, job) in [("read", Job::Read), ("write", Job::Write)] {
                let mut done = Vec::new();
                round(store, &job, tasks, time / 5).await;
                for _ in 0..rounds {
                    done.push(round(store, &job, tasks, time).await);
                }
                let spread = Spread::of(done);
                cells.push(text(spread));
                rows.push(row(name, backend, tasks, spread));
            }
            table.row(cells);
        }
    }
    table.print();

    if let Some((_, store)) = bench.stores.iter().find(|(backend, _)| *backend == "durable") {
        let tasks = TASKS[1];
        let (mut group, mut each) = (Vec::new(), Vec::new());
        let in_turn = Job::InTurn(Arc::default());
        for _ in 0..rounds {
            group.push(round(store, &Job::Write, tasks, time).await);
            each.push(round(store, &in_turn, tasks, time).await);
        }
        let ratio = Spread::of(group.iter().zip(&each).map(|(group, each)| group / each));
        let (group, each) = (Spread::of(group), Spread::of(each));
        println!(
            "\ndurable writes of {tasks} tasks: {}/s with group commit, {}/s with one fsync each; ratio {}",
            text(group),
            text(each),
            ratio.text(1)
        );
        rows.push(row("write, group commit", "durable", tasks, group));
        rows.push(row("write, one fsync each", "durable", tasks, each));
    }
    for (_, store) in &bench.stores {
        store.close().await.expect("the store closes");
    }
    options.write(&rows);
}

fn text(spread: Spread) -> String {
    let Spread { low, median, high } = spread;
    format!("{} ({} to {})", thousands(median), thousands(low), thousands(high))
}

fn row(job: &'static str, backend: &'static str, tasks: usize, spread: Spread) -> Row {
    let Spread { low, median: per_s, high } = spread;
    Row { job, backend, tasks, per_s, low, high }
}

#[cfg(feature = "redis")]
mod server {
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    /// A Redis server that ends with this.
    pub(crate) struct Server {
        child: Child,
        directory: tempfile::TempDir,
    }

    impl Server {
        pub(crate) fn start() -> Option<Self> {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let child = Command::new("redis-server")
                .args(["--port", "0", "--unixsocket", "socket", "--save", ""])
                .current_dir(directory.path())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .ok()?;
            let server = Self { child, directory };
            while std::os::unix::net::UnixStream::connect(server.socket()).is_err() {
                std::thread::sleep(Duration::from_millis(5));
            }
            Some(server)
        }

        fn socket(&self) -> PathBuf {
            self.directory.path().join("socket")
        }

        pub(crate) fn url(&self) -> String {
            format!("redis+unix://{}", self.socket().display())
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
