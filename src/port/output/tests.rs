use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::Duration;

use tokio::runtime::Runtime;
use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context as LayerContext, SubscriberExt};
use tracing_subscriber::registry;

use super::*;
use crate::config::Limits;
use crate::port::{Event, Port, RemoteEnds};
use crate::sys;
use crate::wire::{FrameBuilder, Kind};

const SOURCE: Source<'static> = Source { pool: "demo", worker: "demo/worker/3", request: 7 };

// === Collecting events ===

#[derive(Debug)]
struct Seen {
    level: Level,
    target: String,
    fields: BTreeMap<&'static str, String>,
}

impl Seen {
    fn message(&self) -> &str {
        &self.fields["message"]
    }
}

impl Visit for Seen {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }
}

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Seen>>>);

impl<S: Subscriber> Layer<S> for Collector {
    fn on_event(&self, event: &tracing::Event<'_>, _: LayerContext<'_, S>) {
        let metadata = event.metadata();
        let mut seen = Seen {
            level: *metadata.level(),
            target: metadata.target().to_owned(),
            fields: BTreeMap::new(),
        };
        event.record(&mut seen);
        self.0.lock().unwrap().push(seen);
    }
}

/// The events of what `run` does on this thread.
fn events(run: impl FnOnce()) -> Vec<Seen> {
    let collector = Collector::default();
    tracing::subscriber::with_default(registry().with(collector.clone()), run);
    std::mem::take(&mut *collector.0.lock().unwrap())
}

// === Pipes ===

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap()
}

/// Lines over a real pipe, and its other end.
fn open(stream: Stream) -> (Lines, File) {
    let (read, write) = sys::pipe(false).unwrap();
    (Lines::new(stream, read).unwrap(), File::from(write))
}

/// Reads until `done`, which is looked at after each time that something was there to be read.
async fn read_until(lines: &mut Lines, done: impl Fn(&Lines) -> bool) {
    std::future::poll_fn(|cx| {
        lines.poll(cx, SOURCE);
        if done(lines) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Passes on a whole stream that is written in `pieces`, each of them read before the next one is written.
fn pass_on(stream: Stream, pieces: &[&[u8]]) -> (Vec<Seen>, String) {
    let mut tail = String::new();
    let seen = events(|| {
        runtime().block_on(async {
            let (mut lines, mut end) = open(stream);
            for piece in pieces {
                for part in piece.chunks(32 << 10) {
                    end.write_all(part).unwrap();
                    // All of it has been read when the pipe is empty.
                    read_until(&mut lines, |_| rustix::io::ioctl_fionread(&end).unwrap() == 0)
                        .await;
                }
            }
            drop(end);
            read_until(&mut lines, |lines| lines.pipe.is_none()).await;
            lines.drain(SOURCE);
            tail = lines.tail();
        });
    });
    (seen, tail)
}

fn messages(seen: &[Seen]) -> Vec<&str> {
    seen.iter().map(Seen::message).collect()
}

// === Lines ===

#[test]
fn lines_become_events_with_all_that_is_known() {
    let (seen, _) = pass_on(Stream::Stdout, &[b"one\ntwo\n"]);
    assert_eq!(messages(&seen), ["one", "two"]);
    let first = &seen[0];
    assert_eq!((first.level, &*first.target), (Level::INFO, "snakepen::python"));
    let field = |name| first.fields.get(name).map(String::as_str);
    assert_eq!(field("pool"), Some("demo"));
    assert_eq!(field("worker"), Some("demo/worker/3"));
    assert_eq!(field("request"), Some("7"));
    assert_eq!(field("stream"), Some("stdout"));

    let (seen, _) = pass_on(Stream::Stderr, &[b"bad\n"]);
    assert_eq!((seen[0].level, &*seen[0].fields["stream"]), (Level::WARN, "stderr"));
}

#[test]
fn a_line_is_put_together_from_its_pieces() {
    let (seen, _) = pass_on(Stream::Stdout, &[b"o", b"ne", b"\ntw", b"o\n\nthr", b"ee"]);
    assert_eq!(messages(&seen), ["one", "two", "three"], "the last one is not finished");
}

#[test]
fn braces_in_a_line_stay_as_they_are() {
    let (seen, _) = pass_on(Stream::Stdout, &[b"{\"a\": {}} {0} %s\n"]);
    assert_eq!(messages(&seen), ["{\"a\": {}} {0} %s"]);
}

#[test]
fn carriage_returns_and_empty_lines_make_no_events() {
    let (seen, _) = pass_on(Stream::Stdout, &[b"one\r\n\r\n\n\ntwo\r\n"]);
    assert_eq!(messages(&seen), ["one", "two"]);
}

#[test]
fn characters_survive_wherever_reads_are_cut() {
    // Three bytes each: the borders of reads fall into all of their parts.
    let line = "☃".repeat(101);
    let text = format!("{line}\n").repeat(200);
    assert!(text.len() > 10 * CHUNK);
    let (seen, _) = pass_on(Stream::Stdout, &[text.as_bytes()]);
    assert_eq!(messages(&seen), vec![&*line; 200]);

    let pieces: Vec<_> = "größe ☃ 𝄞\n".as_bytes().chunks(1).map(<[u8]>::to_vec).collect();
    let pieces: Vec<_> = pieces.iter().map(Vec::as_slice).collect();
    let (seen, _) = pass_on(Stream::Stdout, &pieces);
    assert_eq!(messages(&seen), ["größe ☃ 𝄞"]);
}

#[test]
fn bytes_that_are_no_text_are_shown_as_such() {
    let (seen, tail) = pass_on(Stream::Stderr, &[b"a\xffb\n\xc3\n\xe2\x98", b"\n"]);
    assert_eq!(messages(&seen), ["a\u{fffd}b", "\u{fffd}", "\u{fffd}"]);
    assert!(tail.starts_with("a\u{fffd}b\n"));
}

#[test]
fn a_long_line_arrives_in_pieces_of_whole_characters() {
    for start in ["", "a", "ab", "abc"] {
        let line = format!("{start}{}", "𝄞".repeat(20_000));
        let (seen, _) = pass_on(Stream::Stdout, &[line.as_bytes(), b"\nnext\n"]);
        let found = messages(&seen);
        let (next, pieces) = found.split_last().unwrap();
        assert_eq!(*next, "next");
        assert!(pieces.len() > 2 && pieces.iter().all(|piece| piece.len() < 2 * LONGEST_LINE));
        assert!(pieces.concat() == line, "cut inside a character, or incomplete");
    }
}

#[test]
fn a_long_line_of_no_text_does_not_pile_up() {
    let (seen, _) = pass_on(Stream::Stdout, &[&[0xff; 100_000]]);
    assert!(seen.len() > 2, "{} pieces", seen.len());
    let count: usize = seen.iter().map(|seen| seen.message().chars().count()).sum();
    assert_eq!(count, 100_000);
}

#[test]
fn a_line_is_passed_on_when_it_ends_and_not_before() {
    runtime().block_on(async {
        let (mut lines, mut end) = open(Stream::Stdout);
        end.write_all(b"half").unwrap();
        read_until(&mut lines, |lines| lines.partial == b"half").await;
        end.write_all(b" a line\n").unwrap();
        read_until(&mut lines, |lines| lines.partial.is_empty()).await;
    });
}

// === The end ===

#[test]
fn what_is_left_at_the_end_is_passed_on() {
    let text = "line\n".repeat(9000) + "last words";
    let seen = events(|| {
        runtime().block_on(async {
            let (mut lines, mut end) = open(Stream::Stdout);
            end.write_all(text.as_bytes()).unwrap();
            drop(end);
            // One look, as when the process's end is noticed together with its last words.
            read_until(&mut lines, |lines| lines.pipe.is_none() || !lines.partial.is_empty()).await;
            lines.drain(SOURCE);
        });
    });
    let found = messages(&seen);
    assert_eq!((found.len(), found[0], found[9000]), (9001, "line", "last words"));
}

#[test]
fn a_process_that_escaped_and_is_silent_does_not_hold_up_the_end() {
    let seen = events(|| {
        runtime().block_on(async {
            let (mut lines, mut end) = open(Stream::Stdout);
            end.write_all(b"one\ntwo").unwrap();
            read_until(&mut lines, |lines| lines.partial == b"two").await;
            lines.drain(SOURCE);
            drop(end);
        });
    });
    assert_eq!(messages(&seen), ["one", "two"]);
}

#[test]
// No task runs on this thread.
#[allow(clippy::disallowed_methods)]
fn a_process_that_escaped_and_keeps_writing_does_not_hold_up_the_end() {
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || {
        runtime().block_on(async {
            let (mut lines, end) = open(Stream::Stdout);
            for _ in 0..2 {
                let mut end = end.try_clone().unwrap();
                let text = "y\n".repeat(16 << 10);
                // Ends when nobody reads any more.
                std::thread::spawn(move || while end.write_all(text.as_bytes()).is_ok() {});
            }
            drop(end);
            let read = std::cell::Cell::new(0);
            read_until(&mut lines, |_| read.replace(read.get() + 1) > 0).await;
            lines.drain(SOURCE);
        });
        done.send(()).unwrap();
    });
    ended.recv_timeout(Duration::from_secs(30)).expect("reads for ever");
}

#[test]
fn the_last_of_stderr_is_kept() {
    let text: String = (0..20_000).map(|line| format!("line {line:05}\n")).collect();
    let (seen, tail) = pass_on(Stream::Stderr, &[text.as_bytes()]);
    assert_eq!(seen.len(), 20_000);
    assert_eq!(tail.len(), KEPT);
    assert!(text.ends_with(&tail), "the very last");

    let (_, tail) = pass_on(Stream::Stderr, &[b"short"]);
    assert_eq!(tail, "short");
    let (_, tail) = pass_on(Stream::Stdout, &[b"not kept\n"]);
    assert_eq!(tail, "");
}

// === Levels ===

#[test]
fn python_levels_become_those_of_tracing() {
    let levels = [(5, Level::TRACE), (10, Level::DEBUG), (19, Level::DEBUG), (20, Level::INFO)]
        .into_iter()
        .chain([(25, Level::INFO), (30, Level::WARN), (40, Level::ERROR), (50, Level::ERROR)])
        .chain([(0, Level::TRACE), (u64::MAX, Level::ERROR)]);
    for (number, level) in levels {
        let seen = events(|| log(SOURCE, number, "app.db", "slow {} query"));
        assert_eq!(seen.len(), 1);
        assert_eq!((seen[0].level, seen[0].message()), (level, "slow {} query"), "{number}");
        assert_eq!(seen[0].target, "snakepen::python");
        assert_eq!(seen[0].fields["logger"], "app.db");
        assert_eq!(seen[0].fields["request"], "7");
    }
}

#[test]
fn python_sends_what_somebody_listens_to() {
    for (filter, expected) in [
        (LevelFilter::TRACE, 10),
        (LevelFilter::DEBUG, 10),
        (LevelFilter::INFO, 20),
        (LevelFilter::WARN, 30),
        (LevelFilter::ERROR, 40),
        (LevelFilter::OFF, 30),
    ] {
        let subscriber = registry().with(filter).with(Collector::default());
        let found = tracing::subscriber::with_default(subscriber, python_log_level);
        assert_eq!(found, expected, "{filter}");
    }
}

// === Before the answer ===

/// A port, and its process's socket and stdout.
fn port() -> (Port, UnixStream, File) {
    let (port, ends) = Port::open(&Limits::default()).unwrap();
    let RemoteEnds { socket, stdout, .. } = ends;
    (port, socket.into(), stdout.into())
}

fn bytes(kind: Kind) -> Vec<u8> {
    FrameBuilder::bare(kind, 7)
}

/// The next frame, as the runtime tells of it.
async fn next(port: &mut Port) -> Kind {
    let event = std::future::poll_fn(|cx| port.poll_frames(cx)).await;
    let Event::Frame(frame) = event else { panic!("{event:?}") };
    frame.kind
}

/// Nothing has come, and the runtime is asked from now on.
fn nothing_yet(port: &mut Port) {
    assert!(port.poll_frames(&mut Context::from_waker(Waker::noop())).is_pending());
}

/// It was told of a record, and reads the answer along with it: of the line between them it was not told.
#[test]
fn what_is_printed_after_a_record_comes_before_the_answer() {
    let seen = events(|| {
        runtime().block_on(async {
            let (mut port, mut socket, mut stdout) = port();
            nothing_yet(&mut port);
            socket.write_all(&bytes(Kind::Log)).unwrap();
            port.socket.readable().await.unwrap();
            stdout.write_all(b"a line\n").unwrap();
            socket.write_all(&bytes(Kind::Result)).unwrap();
            assert_eq!(next(&mut port).await, Kind::Log);
            assert_eq!(next(&mut port).await, Kind::Result);
            port.end_of_request(SOURCE);
        });
    });
    assert_eq!(messages(&seen), ["a line"]);
}

/// A part of the answer was read at the runtime's word, for a record before it.
#[test]
fn what_is_printed_before_half_an_answer_comes_before_it() {
    let seen = events(|| {
        runtime().block_on(async {
            let (mut port, mut socket, mut stdout) = port();
            nothing_yet(&mut port);
            let answer = bytes(Kind::Result);
            socket.write_all(&bytes(Kind::Log)).unwrap();
            port.socket.readable().await.unwrap();
            stdout.write_all(b"a line\n").unwrap();
            socket.write_all(&answer[..5]).unwrap();
            assert_eq!(next(&mut port).await, Kind::Log);
            nothing_yet(&mut port);
            socket.write_all(&answer[5..]).unwrap();
            assert_eq!(next(&mut port).await, Kind::Result);
            port.end_of_request(SOURCE);
        });
    });
    assert_eq!(messages(&seen), ["a line"]);
}

#[test]
fn what_is_printed_before_an_answer_that_was_looked_for_comes_before_it() {
    let seen = events(|| {
        runtime().block_on(async {
            let (mut port, mut socket, mut stdout) = port();
            nothing_yet(&mut port);
            stdout.write_all(b"a line\n").unwrap();
            socket.write_all(&bytes(Kind::Result)).unwrap();
            port.spin(Duration::from_secs(60), || false);
            assert_eq!(next(&mut port).await, Kind::Result);
            port.end_of_request(SOURCE);
            // What was there before is looked at first.
            socket.write_all(&bytes(Kind::Result)).unwrap();
            port.spin(Duration::from_secs(60), || false);
            port.spin(Duration::from_secs(60), || panic!("there is a frame"));
        });
    });
    assert_eq!(messages(&seen), ["a line"]);
}
