//! How long workers take to start and to come back, and what memory they take.
//!
//! `cargo bench --bench startup [-- [--quick] [--json FILE]]`

mod common;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Options, Spread, Table};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use snakepen::{Pool, WorkerState};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

const WORKERS: [usize; 4] = [1, 4, 8, 16];

/// Imported by the launcher before it forks, in the second set of rows.
const PRELOAD: [&str; 4] = ["json", "decimal", "email", "http.client"];

#[derive(Serialize)]
struct Row {
    job: &'static str,
    preload: String,
    workers: usize,
    /// From the launcher's READY until all workers were ready.
    workers_ready_ms: f64,
    /// The whole `start()`.
    start_ms: f64,
    /// From kill -9 of an idle worker until its slot was ready again.
    restart_ms: f64,
    /// Of one worker that has answered a call.
    pss_kib: f64,
    launcher_pss_kib: f64,
}

/// Notes when the launcher last said that it is ready: Snakepen logs it at DEBUG.
#[derive(Clone, Default)]
struct LauncherReady(Arc<Mutex<Option<Instant>>>);

impl LauncherReady {
    const TARGET: &str = "snakepen::launcher::task";

    fn take(&self) -> Instant {
        self.0.lock().expect("no panic before").take().expect("the launcher's event")
    }
}

impl<S: tracing::Subscriber> Layer<S> for LauncherReady {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        struct Message(bool);
        impl tracing::field::Visit for Message {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0 |= field.name() == "message" && format!("{value:?}") == "launcher is ready";
            }
        }
        let mut message = Message(false);
        event.record(&mut message);
        if message.0 {
            *self.0.lock().expect("no panic before") = Some(Instant::now());
        }
    }
}

/// What one pool has shown.
struct Round {
    workers_ready: Duration,
    start: Duration,
    restarts: Vec<Duration>,
    pss: f64,
    launcher_pss: f64,
}

async fn round(
    name: &str,
    preload: &[&str],
    workers: usize,
    kills: usize,
    launcher: &LauncherReady,
) -> Round {
    let builder = Pool::builder(name)
        .python(common::python())
        .handlers(common::handlers())
        .preload(preload.iter().copied())
        .workers(workers);
    let begin = Instant::now();
    let pool = builder.start().await.expect("the pool starts");
    let ready = Instant::now();
    for slot in 0..workers {
        let worker = pool.worker(slot).expect("a slot of the pool");
        assert_eq!(worker.call::<u64>("echo", 1).await.expect("an echo"), 1);
    }
    let pids: Vec<i32> = pool.workers().iter().filter_map(|worker| worker.pid).collect();
    let pss = pids.iter().map(|&pid| pss_kib(pid)).sum::<f64>() / workers as f64;
    let launcher_pss = pss_kib(parent(pids[0]));
    let mut restarts = Vec::new();
    for kill in 0..kills {
        restarts.push(restart(&pool, kill % workers).await);
    }
    pool.shutdown().await.expect("a clean shutdown");
    Round {
        workers_ready: ready - launcher.take(),
        start: ready - begin,
        restarts,
        pss,
        launcher_pss,
    }
}

/// Kills a worker and waits until its replacement is ready.
async fn restart(pool: &Pool, slot: usize) -> Duration {
    let pool = pool.clone();
    // A thread that looks every 0.1 ms, so that looking takes nothing from what it waits for.
    let watched = tokio::task::spawn_blocking(move || {
        let before = pool.workers()[slot].clone();
        let pid = before.pid.and_then(Pid::from_raw).expect("a running worker");
        let begin = Instant::now();
        kill_process(pid, Signal::KILL).expect("a running worker");
        loop {
            let now = &pool.workers()[slot];
            if now.epoch > before.epoch && now.state == WorkerState::Idle {
                return begin.elapsed();
            }
            assert!(begin.elapsed() < Duration::from_secs(30), "the slot stays empty: {now:?}");
            std::thread::sleep(Duration::from_micros(50));
        }
    });
    watched.await.expect("a replacement")
}

/// The proportional set size of a process in KiB: what it alone has, and its share of what it shares.
fn pss_kib(pid: i32) -> f64 {
    let rollup =
        std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("a running process");
    let line =
        rollup.lines().find_map(|line| line.strip_prefix("Pss:")).expect("the kernel says PSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number of kB")
}

fn parent(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a running process");
    let (_, rest) = stat.rsplit_once(") ").expect("the kernel's format");
    rest.split(' ').nth(1).and_then(|field| field.parse().ok()).expect("the kernel's format")
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[tokio::main]
async fn main() {
    let options = Options::parse();
    let (rounds, kills) = if options.quick { (3, 3) } else { (11, 6) };
    common::print_machine();
    let launcher = LauncherReady::default();
    // Only that one event: what Python's logging does depends on what is listened to.
    let filter = tracing_subscriber::filter::Targets::new()
        .with_target(LauncherReady::TARGET, tracing::Level::DEBUG);
    let subscriber = tracing_subscriber::registry().with(launcher.clone().with_filter(filter));
    tracing::subscriber::set_global_default(subscriber).expect("the first subscriber");

    let numpy = !common::ask(common::python(), "import numpy; print(1)").is_empty();
    let mut preload = PRELOAD.to_vec();
    preload.extend(numpy.then_some("numpy"));
    println!(
        "{rounds} pools of each kind, {kills} kills in each; times in ms, memory (PSS) in MiB of one process; \
         median (lowest to highest)\n"
    );

    let mut rows = Vec::new();
    let mut table = Table::new(&[
        "preload",
        "workers",
        "launcher ready → all ready",
        "start()",
        "kill -9 → ready",
        "MiB/worker",
        "MiB launcher",
    ]);
    // Python's bytecode caches are written by the first start.
    round("warm-up", &preload, 1, 0, &launcher).await;
    let sets = [("none".to_owned(), Vec::new()), (preload.join(" "), preload)];
    let mut reached = Vec::new();
    for (number, (title, modules)) in sets.iter().enumerate() {
        // All sizes in turn, so that other load on the machine meets each of them.
        let mut done: Vec<Vec<Round>> = WORKERS.iter().map(|_| Vec::new()).collect();
        for turn in 0..rounds {
            for (size, &workers) in done.iter_mut().zip(&WORKERS) {
                let name = format!("start-{number}-{turn}-{workers}");
                size.push(round(&name, modules, workers, kills, &launcher).await);
            }
        }
        for (done, workers) in done.iter().zip(WORKERS) {
            let of = |figure: fn(&Round) -> f64| Spread::of(done.iter().map(figure));
            let ready = of(|round| ms(round.workers_ready));
            let start = of(|round| ms(round.start));
            let restart =
                Spread::of(done.iter().flat_map(|round| &round.restarts).map(|&time| ms(time)));
            let pss = of(|round| round.pss);
            let launcher_pss = of(|round| round.launcher_pss);
            table.row(vec![
                if modules.is_empty() {
                    "none".to_owned()
                } else {
                    format!("{} modules", modules.len())
                },
                workers.to_string(),
                ready.text(1),
                start.text(1),
                restart.text(1),
                format!("{:.1}", pss.median / 1024.0),
                format!("{:.1}", launcher_pss.median / 1024.0),
            ]);
            rows.push(Row {
                job: "startup",
                preload: title.clone(),
                workers,
                workers_ready_ms: ready.median,
                start_ms: start.median,
                restart_ms: restart.median,
                pss_kib: pss.median,
                launcher_pss_kib: launcher_pss.median,
            });
        }
        if number == 0 {
            let ratio = |time: fn(&Round) -> Duration| {
                let pairs = done[0].iter().zip(&done[2]);
                Spread::of(pairs.map(|(one, eight)| ms(time(eight)) / ms(time(one)))).text(2)
            };
            let (ready, start) = (ratio(|round| round.workers_ready), ratio(|round| round.start));
            reached.push(format!(
                "8 workers ready in {ready} × the time of one, to be reached: 2 (from launcher ready)"
            ));
            reached.push(format!("start() of 8 workers takes {start} × the time of one's"));
            let eight = &rows[2];
            reached.push(format!(
                "whole start with 8 workers: {:.1} ms, to be reached: 100",
                eight.start_ms
            ));
            reached.push(format!(
                "slot ready again after kill -9: {:.1} ms, to be reached: 30",
                eight.restart_ms
            ));
        }
    }
    table.print();
    println!("\npreload: {}", sets[1].0);
    println!("{}", reached.join("\n"));
    options.write(&rows);
}
