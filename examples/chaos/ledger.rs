//! The books of a run: what was injected, how each call ended, and what was not as it should be.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use snakepen::{Error, Stage, Stats};

use crate::judge::Outcome;
use crate::{CANCEL_GRACE, TOLERANCE};

/// So many violations are shown.
const SHOWN: u64 = 10;

/// How a call ended, as its caller has seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ending {
    Completed,
    Undecodable,
    Exception,
    BadResult,
    UnknownHandler,
    TimeoutQueued,
    TimeoutRunning,
    Cancelled,
    /// Perhaps before it was made, which is not counted.
    CancelledEarly,
    WorkerDied,
    WorkerBusy,
    Start,
    Restarted,
    Closed,
    /// By its caller.
    Dropped,
    Saturated,
    /// By its arguments, before it was made.
    Refused,
    /// There was no handle to call by.
    NotFound,
    /// It would wait for what waits for it.
    WouldDeadlock,
}

impl Ending {
    pub(crate) fn of(outcome: &Outcome) -> Self {
        let error = match outcome {
            Outcome::Ended(Err(error)) => error,
            Outcome::Ended(Ok(_)) => return Ending::Completed,
            Outcome::Dropped { .. } | Outcome::Hangs | Outcome::Wrong(_) => return Ending::Dropped,
        };
        match error {
            Error::Decode { .. } => Ending::Undecodable,
            Error::Python { .. } => Ending::Exception,
            Error::UnknownHandler { .. } => Ending::UnknownHandler,
            Error::Timeout { stage: Stage::Queue, .. } => Ending::TimeoutQueued,
            Error::Timeout { .. } => Ending::TimeoutRunning,
            Error::Cancelled { stage: Stage::Queue, .. } => Ending::CancelledEarly,
            Error::Cancelled { .. } => Ending::Cancelled,
            Error::WorkerDied(_) => Ending::WorkerDied,
            Error::WorkerBusy { .. } => Ending::WorkerBusy,
            Error::Start(_) => Ending::Start,
            Error::Restarted { .. } => Ending::Restarted,
            Error::Closed { .. } => Ending::Closed,
            Error::Saturated { .. } => Ending::Saturated,
            Error::Encode { .. } | Error::TooLarge { .. } => Ending::Refused,
            Error::NoSuchWorker { .. } => Ending::NotFound,
            Error::WouldDeadlock { .. } => Ending::WouldDeadlock,
            _ => Ending::BadResult,
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ending::Completed => "completed",
            Ending::Undecodable => "not decoded",
            Ending::Exception => "exception",
            Ending::BadResult => "bad result",
            Ending::UnknownHandler => "unknown handler",
            Ending::TimeoutQueued => "timeout in the queue",
            Ending::TimeoutRunning => "timeout while running",
            Ending::Cancelled => "cancelled",
            Ending::CancelledEarly => "cancelled early",
            Ending::WorkerDied => "worker died",
            Ending::WorkerBusy => "worker busy",
            Ending::Start => "no worker starts",
            Ending::Restarted => "pool actor restarted",
            Ending::Closed => "closed",
            Ending::Dropped => "dropped",
            Ending::Saturated => "saturated",
            Ending::Refused => "refused",
            Ending::NotFound => "handle not found",
            Ending::WouldDeadlock => "would deadlock",
        })
    }
}

/// How often a call may have run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ran {
    Never,
    Perhaps,
    Once,
    /// Once or more often: it was said to be idempotent.
    Again,
}

/// What is known of a call when it has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fate {
    pub(crate) ran: Ran,
    /// Its work was to stop.
    pub(crate) stopped: bool,
    pub(crate) handler: &'static str,
}

/// How calls of one kind ended: as they should, or by a fault.
#[derive(Default)]
struct Row {
    expected: u64,
    other: BTreeMap<String, u64>,
}

#[derive(Default)]
struct Books {
    fates: HashMap<u64, Fate>,
    endings: BTreeMap<Ending, u64>,
    rows: BTreeMap<&'static str, Row>,
    faults: BTreeMap<&'static str, u64>,
    violations: u64,
    idempotent: u64,
    /// Streams that were dropped before anything came: they may not have been made yet.
    unsure: u64,
    /// When a call of a handler was last given up.
    given_up: HashMap<String, Instant>,
    /// What Rust has noted of calls: that it has done what was asked for them.
    noted: Vec<(&'static str, u64)>,
}

pub(crate) struct Ledger {
    /// Whose calls they are.
    name: &'static str,
    start: Instant,
    books: Mutex<Books>,
}

impl Ledger {
    pub(crate) fn new(name: &'static str, start: Instant) -> Self {
        Self { name, start, books: Mutex::default() }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn violation(&self, what: &str) {
        let mut books = self.books();
        books.violations += 1;
        if books.violations <= SHOWN {
            println!("VIOLATION of {} after {:.3?}: {what}", self.name, self.start.elapsed());
        }
    }

    /// A try of a call ended; `other` says how, if not as it should.
    pub(crate) fn ended(&self, kind: &'static str, ending: Ending, other: Option<String>) {
        let mut books = self.books();
        *books.endings.entry(ending).or_default() += 1;
        let row = books.rows.entry(kind).or_default();
        match other {
            None => row.expected += 1,
            Some(how) => *row.other.entry(how).or_default() += 1,
        }
    }

    /// A call ended for good.
    pub(crate) fn fate(&self, nonce: u64, fate: Fate) {
        self.books().fates.insert(nonce, fate);
    }

    /// A call ended that may have been tried more than once.
    pub(crate) fn idempotent(&self) {
        self.books().idempotent += 1;
    }

    pub(crate) fn unsure(&self) {
        self.books().unsure += 1;
    }

    /// A call ended before its work did.
    pub(crate) fn given_up(&self, handler: &str) {
        self.books().given_up.insert(handler.to_owned(), Instant::now());
    }

    /// Whether one was, not longer ago than its worker may take to be ended for it.
    pub(crate) fn was_given_up(&self, handler: &str) -> bool {
        let books = self.books();
        books
            .given_up
            .get(handler)
            .is_some_and(|when| when.elapsed() < CANCEL_GRACE + 2 * TOLERANCE)
    }

    /// Like the handlers' own notes.
    pub(crate) fn note(&self, what: &'static str, nonce: u64) {
        self.books().noted.push((what, nonce));
    }

    pub(crate) fn injected(&self, fault: &'static str) {
        *self.books().faults.entry(fault).or_default() += 1;
    }

    pub(crate) fn violations(&self) -> u64 {
        self.books().violations
    }

    pub(crate) fn calls(&self) -> u64 {
        self.books().endings.values().sum()
    }

    pub(crate) fn faults(&self) -> u64 {
        self.books().faults.values().sum()
    }

    /// What the callers have seen is what the pool has counted, but for calls whose callers did not look.
    pub(crate) fn check_sums(&self, stats: &Stats) {
        let mut wrong = Vec::new();
        {
            let books = self.books();
            let seen = |endings: &[Ending]| -> u64 {
                endings.iter().filter_map(|ending| books.endings.get(ending)).sum()
            };
            let failed = &stats.failed;
            // A pool that is closed does not count calls; their callers see it all the same.
            let mut unseen = failed.abandoned
                + failed.closed.saturating_sub(seen(&[Ending::Closed]))
                + failed.would_deadlock.saturating_sub(seen(&[Ending::WouldDeadlock]))
                + failed.no_such_worker.saturating_sub(seen(&[Ending::NotFound]));
            let unseen_cancelled = failed.cancelled.saturating_sub(seen(&[Ending::Cancelled]));
            for (endings, counted) in [
                (&[Ending::Completed, Ending::Undecodable][..], stats.completed),
                (&[Ending::Exception], failed.exception),
                (&[Ending::BadResult], failed.bad_result),
                (&[Ending::UnknownHandler], failed.unknown_handler),
                (&[Ending::TimeoutQueued], failed.timeout_queued),
                (&[Ending::TimeoutRunning], failed.timeout_running),
                (&[Ending::Cancelled], failed.cancelled),
                (&[Ending::WorkerDied], failed.worker_died),
                (&[Ending::WorkerBusy], failed.worker_busy),
                (&[Ending::Start], failed.start),
                (&[Ending::Restarted], failed.restarted),
            ] {
                match counted.checked_sub(seen(endings)) {
                    Some(more) => unseen += more,
                    None => wrong.push(format!("{} of {endings:?} seen", seen(endings))),
                }
            }
            // Of those that were cancelled early some are counted.
            let early = seen(&[Ending::CancelledEarly]);
            let least = unseen.saturating_sub(early.min(unseen_cancelled));
            let (dropped, saturated) = (seen(&[Ending::Dropped]), seen(&[Ending::Saturated]));
            // Each may have been tried twice more, unseen.
            let more = 2 * books.idempotent;
            if unseen < dropped - books.unsure || least > dropped + more {
                wrong.push(format!("{unseen} ended unseen, {dropped} dropped"));
            }
            if !(saturated..=saturated + more + books.unsure).contains(&stats.rejected) {
                wrong.push(format!("{saturated} saturated"));
            }
        }
        for what in wrong {
            self.violation(&format!("{what}, but counted: {stats:?}"));
        }
    }

    /// Checks what the handlers have counted in sessions.
    pub(crate) fn check_counted(&self, handlers: &str, counted: u64) {
        let (mut least, mut most) = (0, 0);
        for fate in self.books().fates.values().filter(|fate| fate.handler.starts_with(handlers)) {
            match fate.ran {
                Ran::Once => (least, most) = (least + 1, most + 1),
                Ran::Perhaps => most += 1,
                Ran::Never | Ran::Again => {}
            }
        }
        println!(
            "Counted by `{handlers}`: {counted}; answered {least}, and given up {}.",
            most - least
        );
        if !(least..=most).contains(&counted) {
            self.violation(&format!("counted {counted}, not {least} to {most}"));
        }
    }

    /// Checks what handlers have noted, and what they have called, and forgets the calls.
    pub(crate) fn check_log(&self, log: &Path) -> std::io::Result<()> {
        let fates = std::mem::take(&mut self.books().fates);
        let mut notes: Vec<(String, u64)> = Vec::new();
        for line in BufReader::new(File::open(log)?).lines() {
            let line = line?;
            let noted =
                line.split_once(' ').and_then(|(what, nonce)| Some((what, nonce.parse().ok()?)));
            match noted {
                Some((what, nonce)) => notes.push((what.to_owned(), nonce)),
                None => self.violation(&format!("the handlers have noted {line:?}")),
            }
        }
        let noted = std::mem::take(&mut self.books().noted);
        notes.extend(noted.into_iter().map(|(what, nonce)| (what.to_owned(), nonce)));
        let mut times: HashMap<(&str, u64), u32> = HashMap::new();
        for (what, nonce) in &notes {
            *times.entry((what, *nonce)).or_default() += 1;
            match (&**what, fates.get(nonce)) {
                // A handler that is cancelled may have begun, has not ended, and tidies up.
                ("ran" | "tidied" | "cast" | "tallied", Some(_)) => {}
                ("ended", Some(fate)) if !fate.stopped => {}
                ("ended", Some(fate)) => {
                    self.violation(&format!(
                        "the work of call {nonce:x} went on to its end: {}, {:?}",
                        fate.handler, fate.ran
                    ));
                }
                _ => self.violation(&format!("noted for no call: {what} {nonce:x}")),
            }
        }
        let times = |what, nonce| times.get(&(what, nonce)).copied().unwrap_or_default();
        for (nonce, fate) in fates {
            let ran = times("ran", nonce);
            let fits = match fate.ran {
                Ran::Never => ran == 0,
                Ran::Perhaps => ran <= 1,
                Ran::Once => ran == 1,
                Ran::Again => ran <= 3,
            };
            if !fits {
                self.violation(&format!("call {nonce:x} ran {ran} times: {fate:?}"));
            }
            // What was accepted is done, once; what is done was asked for once.
            let (cast, tallied) = (times("cast", nonce), times("tallied", nonce));
            if cast > tallied || tallied > ran {
                let what = format!("call {nonce:x} was cast {cast} times, and done {tallied}");
                self.violation(&format!("{what}: {fate:?}"));
            }
            if times("tidied", nonce) > ran {
                self.violation(&format!("call {nonce:x} tidied up more often than it ran"));
            }
        }
        Ok(())
    }

    pub(crate) fn print(&self) {
        let books = self.books();
        println!("\n=== {} ===\n\nInjected:", self.name);
        for (fault, count) in &books.faults {
            println!("  {count:>6}  {fault}");
        }
        println!("\nCalls by kind: as they should, and otherwise:");
        for (kind, Row { expected, other }) in &books.rows {
            let other: Vec<_> = other.iter().map(|(how, count)| format!("{count} {how}")).collect();
            println!("  {expected:>6}  {kind:<34}  {}", other.join(", "));
        }
        println!("\nCalls by ending:");
        for (ending, count) in &books.endings {
            println!("  {count:>6}  {ending}");
        }
        println!();
    }
}
