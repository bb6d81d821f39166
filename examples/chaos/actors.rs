//! Named Python objects, which are called, killed, stopped, and spawned anew with the state that they had.

use std::collections::{BTreeMap, HashSet};
use std::error::Error;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fastrand::Rng;
use ractor::registry;
use rustix::process::Signal;
use snakepen::{Ended, Error as CallError, Exit, PyActor, SessionStore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::call::{Answer, Call};
use crate::caller::OVERRUN;
use crate::judge::{Outcome, collateral, fate};
use crate::kinds::pick;
use crate::ledger::{Ending, Ledger};
use crate::life::{Setting, calm};
use crate::system::{self, Mark};
use crate::{CANCEL_GRACE, EXAMPLES, GRACE, LIMIT, MAX_FRAME, RECOVERY, STARTUP, TOLERANCE};

const NAMES: [&str; 3] = ["chaos-actor-0", "chaos-actor-1", "chaos-actor-2"];
const CALLERS: u64 = 4;

/// The actors, and what their calls and faults share.
pub(crate) struct Actors {
    ledger: Ledger,
    mark: Mark,
    seed: u64,
    start: Instant,
    log: PathBuf,
    directory: PathBuf,
    sessions: SessionStore,
    /// What each has told: the numbers of what it has counted.
    told: Mutex<BTreeMap<usize, HashSet<usize>>>,
    faulty: AtomicBool,
    over: AtomicBool,
}

/// What is called: the method, whether it counts, how often it is chosen, and how it ends.
struct Message {
    kind: &'static str,
    method: &'static str,
    weight: u32,
    end: End,
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    Counts,
    Dropped,
    Cancelled,
    Reads,
    TimesOut,
    Dies,
}

const fn message(kind: &'static str, method: &'static str, weight: u32, end: End) -> Message {
    Message { kind, method, weight, end }
}

const MESSAGES: &[Message] = &[
    message("actor", "add", 60, End::Counts),
    message("actor, async", "add_async", 60, End::Counts),
    message("actor, dropped", "add", 10, End::Dropped),
    message("actor, async, cancelled", "add_async", 10, End::Cancelled),
    message("actor, read", "read", 20, End::Reads),
    message("actor, timeout", "sleeps", 1, End::TimesOut),
    message("actor, os._exit", "dies", 2, End::Dies),
];

impl Actors {
    pub(crate) async fn start(
        setting: &Setting,
        start: Instant,
    ) -> Result<Arc<Self>, Box<dyn Error>> {
        let actors = Arc::new(Self {
            ledger: Ledger::new("actors", start),
            mark: Mark::new(),
            seed: setting.seed,
            start,
            log: setting.log("actors")?,
            directory: setting.directory.clone(),
            sessions: SessionStore::builder("chaos-actors-sessions").open().await?,
            told: Mutex::default(),
            faulty: AtomicBool::new(setting.faults.is_some()),
            over: AtomicBool::new(false),
        });
        for at in 0..NAMES.len() {
            actors.spawn(at).await?;
        }
        Ok(actors)
    }

    async fn spawn(&self, at: usize) -> Result<PyActor, CallError> {
        let with = |pool: snakepen::Builder| {
            pool.path(EXAMPLES)
                .env("CHAOS_LOG", &self.log)
                .env("CHAOS_PATTERN", self.directory.join("pattern"))
                .env(Mark::KEY, self.mark.value())
                .max_frame(MAX_FRAME)
                .startup_timeout(STARTUP)
                .shutdown_grace(GRACE)
                .cancel_grace(CANCEL_GRACE)
                .circuit_threshold(0)
                .max_requests(300)
        };
        let target = format!("{EXAMPLES}/chaos_actor.py:Counter");
        let builder = PyActor::builder(NAMES[at], target).args((NAMES[at],));
        builder.sessions(self.sessions.clone()).with(with).spawn().await
    }

    fn is_faulty(&self) -> bool {
        self.faulty.load(Ordering::Relaxed)
    }

    pub(crate) async fn live(self: &Arc<Self>, setting: &Setting) {
        let end = Instant::now() + setting.time;
        let mut tasks = JoinSet::new();
        for task in 0..CALLERS {
            tasks.spawn(Arc::clone(self).call_until(end, task));
        }
        if setting.faults.as_ref().is_some_and(|only| "actor".contains(&**only)) {
            for at in 0..NAMES.len() {
                tasks.spawn(Arc::clone(self).harm_until(end, at));
            }
        }
        let ended = async {
            while let Some(ended) = tasks.join_next().await {
                if let Err(panic) = ended {
                    self.ledger.violation(&format!("a task of the actors' ended by {panic}"));
                }
            }
        };
        if timeout(setting.time + LIMIT, ended).await.is_err() {
            self.ledger.violation("a task of the actors' does not end");
            tasks.shutdown().await;
        }
        self.become_whole().await;
        self.over.store(true, Ordering::Relaxed);
        for name in NAMES {
            let Some(actor) = PyActor::find(name).await else { continue };
            if timeout(GRACE + LIMIT, actor.stop()).await.is_err() {
                self.ledger.violation(&format!("{name} does not stop"));
            }
        }
    }

    /// Each is there, and has at least what it has told.
    async fn become_whole(&self) {
        let mut maker = Maker { rng: Rng::with_seed(0), task: CALLERS, made: 0 };
        let start = Instant::now();
        for (at, name) in NAMES.iter().enumerate() {
            let message = &MESSAGES[0];
            if let Err(error) = self.is_there(at).await {
                self.ledger.violation(&format!("{name} is not spawned: {error}"));
            }
            while !self.make(&mut maker, at, message).await {
                if start.elapsed() > RECOVERY {
                    let what = format!("{name} does not come back");
                    self.ledger.violation(&what);
                    return;
                }
                sleep(Duration::from_millis(20)).await;
            }
        }
        self.faulty.store(false, Ordering::Relaxed);
        for turn in 0..30 {
            self.make(&mut maker, turn % NAMES.len(), &MESSAGES[turn % 2]).await;
        }
    }

    pub(crate) async fn end(self: Arc<Self>) -> Result<Ledger, Box<dyn Error>> {
        let actors = Arc::into_inner(self).ok_or("a task of the actors' is left")?;
        let ledger = actors.ledger;
        if !system::eventually(LIMIT, || actors.mark.processes().is_empty()).await {
            ledger.violation(&format!("processes {:?} are left", actors.mark.processes()));
        }
        if ledger.faults() > 0 {
            ledger.print();
        }
        // A call that has ended has told the number; one more that was given up may be counted.
        let told = actors.told.into_inner().unwrap_or_else(PoisonError::into_inner);
        let highest = told.values().filter_map(|numbers| numbers.iter().max()).sum::<usize>();
        ledger.check_counted("add", highest as u64);
        actors.sessions.close().await?;
        ledger.check_log(&actors.log)?;
        Ok(ledger)
    }

    // === Calls ===

    async fn call_until(self: Arc<Self>, end: Instant, task: u64) {
        let seed = self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(task + 500);
        let mut maker = Maker { rng: Rng::with_seed(seed), task, made: 0 };
        while Instant::now() < end {
            let message = pick(&mut maker.rng, MESSAGES, |message| message.weight);
            let at = maker.rng.usize(..NAMES.len());
            let there = registry::where_is(NAMES[at]).is_some();
            self.make(&mut maker, at, message).await;
            let pause = if there { maker.millis(0, 10) } else { maker.millis(20, 60) };
            sleep(pause).await;
        }
    }

    /// Sends a message, and judges how it ends. Whether it was answered as it should be.
    async fn make(&self, maker: &mut Maker, at: usize, message: &Message) -> bool {
        let call = maker.call(message);
        let faulty = self.is_faulty();
        let start = Instant::now();
        let outcome = self.send(&call, at).await;
        let took = start.elapsed();
        let judged = self.judge(&call, message, &outcome, at, took, faulty || self.is_faulty());
        let other = judged.unwrap_or_else(|what| {
            let text = match &outcome {
                Outcome::Ended(Err(error)) => error.to_string(),
                outcome => format!("{outcome:?}"),
            };
            self.ledger.violation(&format!(
                "{}: {what}\n  call {:x} ({}), after {took:.1?}: {text}",
                NAMES[at], call.nonce, message.kind
            ));
            Some("VIOLATION".to_owned())
        });
        let as_expected = other.is_none();
        self.ledger.ended(message.kind, Ending::of(&outcome), other);
        self.ledger.fate(call.nonce, fate(&call, &outcome));
        as_expected
    }

    async fn send(&self, call: &Call, at: usize) -> Outcome {
        let sent = async {
            let Some(actor) = PyActor::find(NAMES[at]).await else {
                let name = NAMES[at].to_owned();
                return Outcome::Ended(Err(CallError::NoSuchWorker { name, workers: None }));
            };
            let mut made = actor.call::<Answer>(call.handler, call.arguments());
            let handle = made.cancel_handle();
            let cancelling = call.cancel_after.map(|time| {
                tokio::spawn(async move {
                    sleep(time).await;
                    handle.cancel();
                })
            });
            let ended = made.timeout(call.deadline).await;
            if let Some(cancelling) = cancelling {
                cancelling.abort();
            }
            Outcome::Ended(ended)
        };
        let sent =
            async { timeout(call.deadline + TOLERANCE, sent).await.unwrap_or(Outcome::Hangs) };
        let Some(time) = call.drop_after else { return sent.await };
        tokio::select! {
            biased;
            sent = sent => sent,
            () = sleep(time) => Outcome::Dropped { unsure: true },
        }
    }

    fn judge(
        &self,
        call: &Call,
        message: &Message,
        outcome: &Outcome,
        at: usize,
        took: Duration,
        faulty: bool,
    ) -> Result<Option<String>, String> {
        let ended = match outcome {
            Outcome::Dropped { .. } => return Ok(None),
            Outcome::Hangs | Outcome::Wrong(_) => return Err("a call does not end".to_owned()),
            Outcome::Ended(ended) => ended,
        };
        let error = match ended {
            Ok(Answer(nonce, count, name, ..)) => {
                if (*nonce, &**name) != (call.nonce, NAMES[at]) {
                    return Err("another call's answer".to_owned());
                }
                let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
                let told = told.entry(at).or_default();
                return match message.end {
                    End::Counts | End::Dropped | End::Cancelled if !told.insert(*count) => {
                        Err(format!("{count} was told before: something is lost"))
                    }
                    End::Counts | End::Dropped | End::Cancelled | End::Reads => Ok(None),
                    End::TimesOut | End::Dies => Err("an answer".to_owned()),
                };
            }
            Err(error) => error,
        };
        match error {
            CallError::Timeout { elapsed, timeout, .. }
                if *timeout != call.deadline || elapsed < timeout =>
            {
                return Err("an early timeout".to_owned());
            }
            CallError::Timeout { .. } if message.end == End::TimesOut => return Ok(None),
            CallError::Cancelled { .. } if call.cancel_after.is_some_and(|time| took >= time) => {
                return Ok(None);
            }
            CallError::WorkerDied(death)
                if message.end == End::Dies
                    && (&death.ended, death.exit) == (&Ended::Itself, Exit::Code(7)) =>
            {
                return Ok(None);
            }
            // It was stopped, or killed, and is spawned anew.
            CallError::Closed { .. } if faulty => return Ok(Some("stopped".to_owned())),
            CallError::WorkerDied(death) if death.ended == Ended::Shutdown && faulty => {
                return Ok(Some("died (Shutdown)".to_owned()));
            }
            _ => {}
        }
        match collateral(error, false) {
            Some(how) if faulty || how.starts_with("timeout") => Ok(Some(how)),
            _ => Err("an error that nothing explains".to_owned()),
        }
    }

    // === Faults ===

    /// Kills the process, stops the actor, or kills it; and spawns what has ended.
    async fn harm_until(self: Arc<Self>, end: Instant, at: usize) {
        let mut maker = Maker { rng: Rng::with_seed(self.seed + at as u64), task: 0, made: 0 };
        loop {
            let pause = maker.millis(20, 800);
            sleep(calm(self.start) + pause).await;
            if Instant::now() >= end {
                return;
            }
            if let Err(error) = self.is_there(at).await {
                self.ledger.violation(&format!("{} is not spawned: {error}", NAMES[at]));
                return;
            }
            let Some(actor) = PyActor::find(NAMES[at]).await else { continue };
            let fault = match maker.rng.u8(..8) {
                0 => {
                    if timeout(GRACE + LIMIT, actor.stop()).await.is_err() {
                        self.ledger.violation(&format!("{} does not stop", NAMES[at]));
                    }
                    "stop of an actor"
                }
                1 => {
                    actor.get_cell().kill();
                    "end of an actor"
                }
                2 => {
                    let part = ["/supervisor", "/worker/0", "", "/launcher"][maker.rng.usize(..4)];
                    let name = format!("{}.pool{part}", NAMES[at]);
                    let Some(part) = registry::where_is(name) else { continue };
                    part.kill();
                    "end of a part of an actor's pool"
                }
                _ => {
                    let pid = actor.pid();
                    if !pid.is_some_and(|pid| self.mark.signal(pid, Signal::KILL)) {
                        continue;
                    }
                    "kill -9 of an actor's process"
                }
            };
            self.ledger.injected(fault);
            if fault.ends_with("of an actor") {
                // It is spawned anew as soon as its name is free.
                let _ = timeout(LIMIT, actor.get_cell().wait(None)).await;
            }
        }
    }

    /// Spawns it if it has ended. Its name may be taken for as long as it ends.
    async fn is_there(&self, at: usize) -> Result<(), CallError> {
        let start = Instant::now();
        while registry::where_is(NAMES[at]).is_none() {
            match self.spawn(at).await {
                Ok(_) => return Ok(()),
                Err(CallError::NameTaken { .. } | CallError::Start(_))
                    if start.elapsed() < LIMIT =>
                {
                    sleep(Duration::from_millis(5)).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Makes messages.
struct Maker {
    rng: Rng,
    task: u64,
    made: u64,
}

impl Maker {
    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_micros(self.rng.u64(from * 1000..=to * 1000))
    }

    fn call(&mut self, message: &Message) -> Call {
        self.made += 1;
        let nonce = (self.task << 32) | self.made;
        let call = Call::new(nonce, message.method, self.millis(4_000, 8_000));
        match message.end {
            End::Counts | End::Reads | End::Dies => call,
            End::Dropped => call.dropped_after(self.millis(0, 6)),
            End::Cancelled => call.cancelled_after(self.millis(0, 6)),
            End::TimesOut => {
                let deadline = self.millis(20, 200);
                call.within(deadline).seconds(deadline + OVERRUN)
            }
        }
    }
}
