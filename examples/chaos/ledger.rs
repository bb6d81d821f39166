//! The books of a run: what was injected, how each call ended, and what was not as it should be.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use snakepen::{Error, Stage, Stats};

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
}

impl Ending {
    pub(crate) fn of(error: &Error) -> Self {
        match error {
            Error::Decode { .. } => Ending::Undecodable,
            Error::Python { .. } => Ending::Exception,
            Error::UnknownHandler { .. } => Ending::UnknownHandler,
            Error::Timeout { stage: Stage::Queue, .. } => Ending::TimeoutQueued,
            Error::Timeout { .. } => Ending::TimeoutRunning,
            Error::Cancelled { .. } => Ending::Cancelled,
            Error::WorkerDied(_) => Ending::WorkerDied,
            Error::WorkerBusy { .. } => Ending::WorkerBusy,
            Error::Start(_) => Ending::Start,
            Error::Restarted { .. } => Ending::Restarted,
            Error::Closed { .. } => Ending::Closed,
            Error::Saturated { .. } => Ending::Saturated,
            Error::Encode { .. } | Error::TooLarge { .. } => Ending::Refused,
            Error::NoSuchWorker { .. } => Ending::NotFound,
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
            Ending::WorkerDied => "worker died",
            Ending::WorkerBusy => "worker busy",
            Ending::Start => "no worker starts",
            Ending::Restarted => "pool actor restarted",
            Ending::Closed => "closed",
            Ending::Dropped => "dropped",
            Ending::Saturated => "saturated",
            Ending::Refused => "refused",
            Ending::NotFound => "handle not found",
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
}

pub(crate) struct Ledger {
    start: Instant,
    books: Mutex<Books>,
}

impl Ledger {
    pub(crate) fn new(start: Instant) -> Self {
        Self { start, books: Mutex::default() }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn violation(&self, what: &str) {
        let mut books = self.books();
        books.violations += 1;
        if books.violations <= SHOWN {
            println!("VIOLATION after {:.3?}: {what}", self.start.elapsed());
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
            let mut unseen =
                failed.abandoned + failed.closed.saturating_sub(seen(&[Ending::Closed]));
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
            let (dropped, saturated) = (seen(&[Ending::Dropped]), seen(&[Ending::Saturated]));
            // Each may have been tried twice more, unseen.
            let more = 2 * books.idempotent;
            if !(dropped..=dropped + more).contains(&unseen) {
                wrong.push(format!("{unseen} ended unseen, {dropped} dropped"));
            }
            if !(saturated..=saturated + more).contains(&stats.rejected) {
                wrong.push(format!("{saturated} saturated"));
            }
        }
        for what in wrong {
            self.violation(&format!("{what}, but counted: {stats:?}"));
        }
    }

    /// Checks what the handlers have counted in sessions.
    pub(crate) fn check_counted(&self, counted: u64) {
        let (mut least, mut most) = (0, 0);
        for fate in self.books().fates.values().filter(|fate| fate.handler.starts_with("counts")) {
            match fate.ran {
                Ran::Once => (least, most) = (least + 1, most + 1),
                Ran::Perhaps => most += 1,
                Ran::Never | Ran::Again => {}
            }
        }
        println!(
            "Counted in sessions: {counted}; answered {least}, and given up {}.",
            most - least
        );
        if !(least..=most).contains(&counted) {
            self.violation(&format!("counted {counted}, not {least} to {most}"));
        }
    }

    /// Checks what the handlers have noted, and forgets the calls.
    pub(crate) fn check_log(&self, log: &Path) -> std::io::Result<()> {
        let fates = std::mem::take(&mut self.books().fates);
        let mut ran: HashMap<u64, u32> = HashMap::new();
        for line in BufReader::new(File::open(log)?).lines() {
            let line = line?;
            let noted =
                line.split_once(' ').and_then(|(what, nonce)| Some((what, nonce.parse().ok()?)));
            let Some((what, nonce)) = noted else {
                self.violation(&format!("the handlers have noted {line:?}"));
                continue;
            };
            match (what, fates.get(&nonce)) {
                ("ran", Some(_)) => *ran.entry(nonce).or_default() += 1,
                // A handler that is cancelled may have begun, has not ended, and tidies up.
                ("tidied", Some(_)) => {}
                ("ended", Some(fate)) if !fate.stopped => {}
                ("ended", Some(fate)) => {
                    self.violation(&format!(
                        "the work of call {nonce:x} went on to its end: {}, {:?}",
                        fate.handler, fate.ran
                    ));
                }
                _ => self.violation(&format!("noted for no call: {line:?}")),
            }
        }
        for (nonce, fate) in fates {
            let times = ran.get(&nonce).copied().unwrap_or_default();
            let fits = match fate.ran {
                Ran::Never => times == 0,
                Ran::Perhaps => times <= 1,
                Ran::Once => times == 1,
                Ran::Again => times <= 3,
            };
            if !fits {
                self.violation(&format!("call {nonce:x} ran {times} times: {fate:?}"));
            }
        }
        Ok(())
    }

    pub(crate) fn print(&self) {
        let books = self.books();
        println!("\nInjected:");
        for (fault, count) in &books.faults {
            println!("  {count:>6}  {fault}");
        }
        println!("\nCalls by kind: as they should, and otherwise:");
        for (kind, Row { expected, other }) in &books.rows {
            let other: Vec<_> = other.iter().map(|(how, count)| format!("{count} {how}")).collect();
            println!("  {expected:>6}  {kind:<26}  {}", other.join(", "));
        }
        println!("\nCalls by ending:");
        for (ending, count) in &books.endings {
            println!("  {count:>6}  {ending}");
        }
        println!();
    }
}
