//! Scenario 21: whatever a handler, a library or a child process writes to the standard streams, the protocol is
//! unharmed, and the text arrives in `tracing` with its pool, worker, stream and request.

mod common;

use std::collections::BTreeMap;
use std::fmt::{Debug, Write};
use std::fs;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use common::{eventually, finish, pids, pool};
use snakepen::{Builder, Pool};
use tracing::Level;
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

#[derive(Clone, Debug)]
struct Event {
    level: Level,
    message: String,
    fields: BTreeMap<&'static str, String>,
}

impl Event {
    fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }
}

impl Visit for Event {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        write!(text, "{value:?}").unwrap();
        self.record_str(field, &text);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = value.to_owned(),
            name => drop(self.fields.insert(name, value.to_owned())),
        }
    }
}

static EVENTS: Mutex<Vec<Event>> = Mutex::new(Vec::new());

/// Keeps what comes from Python.
struct Collector;

impl<S: tracing::Subscriber> Layer<S> for Collector {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() != "snakepen::python" {
            return;
        }
        let level = *event.metadata().level();
        let mut kept = Event { level, message: String::new(), fields: BTreeMap::new() };
        event.record(&mut kept);
        EVENTS.lock().unwrap().push(kept);
    }
}

/// A pool whose output is collected: of this whole process, so each test looks for its own.
fn noisy() -> Builder {
    static COLLECTING: OnceLock<()> = OnceLock::new();
    COLLECTING.get_or_init(|| {
        let collector = tracing_subscriber::registry().with(Collector);
        tracing::subscriber::set_global_default(collector).unwrap();
    });
    pool("noisy.py").workers(1)
}

fn events(pool: &Pool) -> Vec<Event> {
    let events = EVENTS.lock().unwrap();
    events.iter().filter(|event| event.field("pool") == pool.name()).cloned().collect()
}

/// Waits for an event with this message, and checks where it says that it comes from.
async fn arrives(pool: &Pool, message: &str, stream: &str, request: u64) -> Event {
    let mut found = None;
    eventually(&format!("{message:?} arrives"), || {
        found = events(pool).into_iter().find(|event| event.message == message);
        found.is_some()
    })
    .await;
    let event = found.unwrap();
    assert_eq!(event.field("worker"), format!("{}/worker/0", pool.name()), "{event:?}");
    assert_eq!(event.field("stream"), stream, "{event:?}");
    assert_eq!(event.field("request"), request.to_string(), "{event:?}");
    event
}

/// The worker is the one that it was, and still answers.
async fn is_unharmed(pool: &Pool, pids_before: &[i32]) {
    assert!(pool.call::<u64>("a_line", ("still here",)).await.is_ok());
    assert_eq!(pids(pool), pids_before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_to_the_standard_streams_ends_in_tracing() {
    let pool = noisy().start().await.unwrap();
    let before = pids(&pool);
    let request: u64 = pool.call("everywhere", ()).await.unwrap();
    for (message, stream) in [
        ("by print", "stdout"),
        ("by descriptor 1", "stdout"),
        ("by a child", "stdout"),
        ("by print to stderr", "stderr"),
        ("by descriptor 2", "stderr"),
    ] {
        let event = arrives(&pool, message, stream, request).await;
        let level = if stream == "stdout" { Level::INFO } else { Level::WARN };
        assert_eq!(event.level, level, "{event:?}");
    }
    is_unharmed(&pool, &before).await;
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_line_belongs_to_the_request_that_printed_it() {
    let pool = noisy().start().await.unwrap();
    for n in 0..200 {
        let line = format!("line {n}");
        let request: u64 = pool.call("a_line", (&line,)).await.unwrap();
        arrives(&pool, &line, "stdout", request).await;
    }
    assert_eq!(events(&pool).len(), 200);
    finish(pool).await;
}

/// It reads the answer before the runtime has told of anything.
#[tokio::test]
async fn a_port_that_spins_passes_output_on_before_the_answer() {
    let pool = noisy().spin(Duration::from_millis(1)).start().await.unwrap();
    for n in 0..200 {
        let line = format!("line {n}");
        let request: u64 = pool.call("a_line", (&line,)).await.unwrap();
        let event = events(&pool).into_iter().find(|event| event.message == line);
        let event = event.unwrap_or_else(|| panic!("{line:?} was still to come"));
        assert_eq!(event.field("request"), request.to_string(), "{event:?}");
    }
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_looks_like_a_frame_on_stdout_is_only_text() {
    let pool = noisy().start().await.unwrap();
    let before = pids(&pool);
    let request: u64 = pool.call("frame_on_stdout", ()).await.unwrap();
    eventually("the text arrives", || {
        let of_request = |event: &Event| event.field("request") == request.to_string();
        events(&pool).iter().any(|event| event.message.ends_with("\"forged\"") && of_request(event))
    })
    .await;
    is_unharmed(&pool, &before).await;
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_c_library_that_flushes_is_heard_in_its_request() {
    let pool = noisy().start().await.unwrap();
    let before = pids(&pool);
    let request: u64 = pool.call("by_c", (true,)).await.unwrap();
    arrives(&pool, "by puts", "stdout", request).await;
    arrives(&pool, "by printf 42", "stdout", request).await;
    is_unharmed(&pool, &before).await;
    finish(pool).await;
}

/// A pipe makes C's stdout fully buffered: without help the lines would wait for kilobytes to follow them, and be
/// lost with the worker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_c_library_that_does_not_flush_is_heard_too() {
    for fresh in [false, true] {
        let pool = noisy().fresh_interpreter(fresh).start().await.unwrap();
        let request: u64 = pool.call("by_c", (false,)).await.unwrap();
        arrives(&pool, "by puts", "stdout", request).await;
        arrives(&pool, "by printf 42", "stdout", request).await;
        finish(pool).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_megabyte_without_a_newline_arrives_in_pieces_of_its_request() {
    let pool = noisy().start().await.unwrap();
    let before = pids(&pool);
    for (fd, stream) in [(1, "stdout"), (2, "stderr")] {
        let request: u64 = pool.call("megabyte", (fd,)).await.unwrap();
        let mut pieces = Vec::new();
        eventually("the megabyte arrives", || {
            pieces = events(&pool);
            pieces.retain(|event| event.field("stream") == stream && event.message.contains("mm"));
            pieces.iter().map(|event| event.message.len()).sum::<usize>() >= 1 << 20
        })
        .await;
        assert_eq!(pieces.iter().map(|piece| piece.message.len()).sum::<usize>(), 1 << 20);
        for piece in &pieces {
            assert!(piece.message.bytes().all(|byte| byte == b'm'));
            assert!(piece.message.len() <= 64 << 10, "a piece of {} bytes", piece.message.len());
            assert_eq!(piece.field("request"), request.to_string());
        }
    }
    is_unharmed(&pool, &before).await;
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_line_belongs_to_the_request_that_left_it() {
    let pool = noisy().start().await.unwrap();
    let first: u64 = pool.call("half_a_line", ("half",)).await.unwrap();
    let second: u64 = pool.call("a_line", ("whole",)).await.unwrap();
    assert_ne!(first, second);
    arrives(&pool, "half", "stdout", first).await;
    arrives(&pool, "whole", "stdout", second).await;
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_bytes_arrive_as_text() {
    let pool = noisy().start().await.unwrap();
    let before = pids(&pool);
    let request: u64 = pool.call("odd_bytes", ()).await.unwrap();
    for message in ["not \u{fffd}\u{fffd} UTF-8", "with a return", "\0zero", "half a pair: \\ud800"]
    {
        arrives(&pool, message, "stdout", request).await;
    }
    is_unharmed(&pool, &before).await;
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logging_arrives_with_its_level_and_logger() {
    let pool = noisy().start().await.unwrap();
    let request: u64 = pool.call("log", ()).await.unwrap();
    for (message, level, logger) in [
        ("a detail", Level::DEBUG, "shop.orders"),
        ("two\nlines", Level::INFO, "shop.orders"),
        ("a warning", Level::WARN, "shop.orders"),
        ("half a pair: \\ud800", Level::ERROR, "shop.orders"),
    ] {
        let event = arrives(&pool, message, "", request).await;
        assert_eq!((event.level, event.field("logger")), (level, logger), "{event:?}");
    }
    let events = events(&pool);
    let failed = events.iter().find(|event| event.message.starts_with("it failed")).unwrap();
    assert_eq!(failed.level, Level::ERROR);
    assert!(failed.message.contains("KeyError: 'missing'"), "{failed:?}");
    // A record that cannot be formatted is a record still, and no error of the handler's.
    let odd = events.iter().find(|event| event.message.contains("not a number")).unwrap();
    assert_eq!((odd.level, odd.field("logger")), (Level::INFO, "root"));
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_requests_the_request_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let flag = directory.path().join("print now");
    let pool = noisy().start().await.unwrap();
    let _: u64 = pool.call("later", (&flag,)).await.unwrap();
    fs::write(&flag, "").unwrap();
    arrives(&pool, "from a thread that stayed", "stdout", 0).await;
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_without_its_streams_still_answers() {
    let pool = noisy().start().await.unwrap();
    let before = pids(&pool);
    assert!(pool.call::<u64>("replace_streams", ()).await.is_ok());
    for _ in 0..3 {
        is_unharmed(&pool, &before).await;
    }
    finish(pool).await;
}
