//! The calls that are made, and the judgement of how they end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fastrand::Rng;
use futures::future::join_all;
use serde::Serialize;
use snakepen::{
    Ended, Error, Exit, Pool, PoolSession, Priority, StartError, WorkerDeath, WorkerHandle,
};
use tokio::time::{sleep, timeout};

use crate::ledger::{Ending, Fate, Ran};
use crate::{Chaos, LIMIT, MAX_FRAME};

/// A call ends at its deadline; a busy machine needs this to notice.
pub(crate) const TOLERANCE: Duration = Duration::from_secs(3);

/// What goes on after a call was to stop would go on for this long.
const OVERRUN: Duration = Duration::from_secs(4);

/// Keys of affine and pinned calls.
pub(crate) const KEYS: usize = 16;

/// So many sessions are in use, and as many of calls in order.
const SESSIONS: usize = 4;

/// Where no call of a key has been answered.
pub(crate) const NO_SLOT: usize = usize::MAX;

/// One try, and four more where the error says that it is safe and may help.
const TRIES: u32 = 5;

/// One kind of calls.
struct Kind {
    name: &'static str,
    /// How often it is chosen, beside the others'.
    weight: u32,
    /// How many calls are made at once.
    count: usize,
    call: fn(&mut Caller) -> Call,
}

const fn kind(name: &'static str, weight: u32, call: fn(&mut Caller) -> Call) -> Kind {
    Kind { name, weight, count: 1, call }
}

const KINDS: &[Kind] = &[
    kind("plain", 150, Caller::plain),
    kind("plain, async", 40, Caller::plain_async),
    kind("plain, retried", 20, |caller| Call { tries: TRIES, ..caller.plain() }),
    kind("plain, at a slot", 30, |caller| caller.plain().by(Way::Slot(caller.slot()))),
    kind("plain, by pool's name", 4, |caller| caller.plain().by(Way::PoolName)),
    kind("plain, by worker's name", 4, |caller| caller.plain().by(Way::SlotName(caller.slot()))),
    Kind { name: "plain, 80 at once", weight: 1, count: 80, call: Caller::plain },
    kind("plain, dropped", 15, |caller| caller.plain().dropped_after(caller.millis(0, 4))),
    kind("large", 6, Caller::large),
    kind("large, dropped", 2, |caller| caller.large().dropped_after(caller.millis(0, 20))),
    kind("exception", 4, |caller| caller.call("raises").fails(Expect::Exception("LookupError"))),
    kind("out of memory", 1, |caller| {
        caller.call("out_of_memory").fails(Expect::Exception("MemoryError"))
    }),
    kind("bad result", 4, |caller| caller.call("unserialisable").fails(Expect::BadResult)),
    kind("result of another type", 2, |caller| Call { expect: Expect::Other, ..caller.plain() }),
    kind("unknown handler", 2, |caller| caller.call("nothing").fails(Expect::Unknown)),
    kind("NaN", 2, |caller| {
        caller.call("plain").with(Argument::Real(f64::NAN)).fails(Expect::Refused)
    }),
    kind("too large", 1, |caller| {
        caller.call("large").with(Argument::Text("x".repeat(MAX_FRAME))).fails(Expect::Refused)
    }),
    kind("timeout, asleep", 2, |caller| caller.overruns("sleeps")),
    kind("timeout, asleep, async", 2, |caller| caller.overruns("sleeps_async")),
    kind("timeout, stuck in C", 1, |caller| caller.overruns("stuck")),
    kind("timeout, stubborn", 1, |caller| caller.overruns("stubborn")),
    kind("timeout, at a slot", 1, |caller| caller.overruns("sleeps").by(Way::Slot(caller.slot()))),
    kind("timeout at once", 2, Caller::hasty),
    kind("dropped, asleep", 2, |caller| caller.overruns("sleeps").dropped_early(caller)),
    kind("dropped, stuck in C", 1, |caller| caller.overruns("stuck").dropped_early(caller)),
    kind("dropped, stubborn", 1, |caller| caller.overruns("stubborn").dropped_early(caller)),
    kind("dropped, with finally", 2, |caller| caller.overruns("tidies").dropped_early(caller)),
    kind("plain, cancelled", 15, |caller| caller.plain().cancelled_after(caller.millis(0, 4))),
    kind("plain, async, cancelled", 10, |caller| {
        caller.plain_async().cancelled_after(caller.millis(0, 8))
    }),
    kind("plain, at a slot, cancelled", 6, |caller| {
        caller.plain().by(Way::Slot(caller.slot())).cancelled_after(caller.millis(0, 4))
    }),
    kind("large, cancelled", 2, |caller| caller.large().cancelled_after(caller.millis(0, 20))),
    kind("cancelled, asleep", 2, |caller| caller.cancelled("sleeps")),
    kind("cancelled, asleep, async", 4, |caller| caller.cancelled("sleeps_async")),
    kind("cancelled, with finally", 2, |caller| caller.cancelled("tidies")),
    kind("cancelled, with finally, async", 4, |caller| caller.cancelled("tidies_async")),
    kind("cancelled, in a shield", 1, |caller| caller.cancelled("shields")),
    kind("cancelled, in a shield, async", 2, |caller| caller.cancelled("shields_async")),
    kind("cancelled, stuck in C", 1, |caller| caller.cancelled("stuck")),
    kind("cancelled, stubborn", 1, |caller| caller.cancelled("stubborn")),
    kind("session", 20, |caller| caller.counts("counts", false)),
    kind("session, async", 20, |caller| caller.counts("counts_async", false)),
    kind("session, in order", 20, |caller| caller.counts("counts_alone", true)),
    kind("session, dropped", 6, |caller| {
        caller.counts("counts", false).dropped_after(caller.millis(0, 6))
    }),
    kind("session, async, cancelled", 6, |caller| {
        caller.counts("counts_async", false).cancelled_after(caller.millis(0, 6))
    }),
    kind("session, in order, dropped", 6, |caller| {
        caller.counts("counts_alone", true).dropped_after(caller.millis(0, 6))
    }),
    kind("session, in order, cancelled", 6, |caller| {
        caller.counts("counts_alone", true).cancelled_after(caller.millis(0, 6))
    }),
    kind("plain, first", 20, |caller| caller.plain().with_extra(Extra::Priority(Priority::High))),
    kind("plain, last", 20, |caller| caller.plain().with_extra(Extra::Priority(Priority::Low))),
    kind("plain, affine", 20, |caller| caller.plain().with_extra(Extra::Affine(caller.key()))),
    kind("plain, pinned", 20, |caller| caller.plain().with_extra(Extra::Pinned(caller.key()))),
    kind("plain, pinned now", 20, |caller| {
        caller.plain().with_extra(Extra::PinnedNow(caller.key()))
    }),
    kind("plain, idempotent", 20, |caller| caller.plain().with_extra(Extra::Idempotent)),
    kind("asleep, idempotent", 4, |caller| {
        let seconds = caller.millis(0, 300);
        caller.call("naps").seconds(seconds).answers("").with_extra(Extra::Idempotent)
    }),
];

/// Makes calls of all kinds, one after another.
pub(crate) async fn call_until(end: Instant, mut caller: Caller) {
    while Instant::now() < end {
        let kind = pick(&mut caller.rng, KINDS, |kind| kind.weight);
        let calls: Vec<_> = (0..kind.count).map(|_| (kind.call)(&mut caller)).collect();
        join_all(calls.into_iter().map(|call| caller.make(kind.name, call))).await;
        sleep(caller.millis(0, 10)).await;
    }
}

/// An entry of a table, as often as its weight says.
pub(crate) fn pick<'a, T>(rng: &mut Rng, table: &'a [T], weight: fn(&T) -> u32) -> &'a T {
    let total: u32 = table.iter().map(weight).sum();
    let mut left = rng.u32(..total);
    for entry in table {
        match left.checked_sub(weight(entry)) {
            Some(less) => left = less,
            None => return entry,
        }
    }
    &table[0]
}

// === One call ===

/// By which handle a call is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Way {
    Pool,
    Session(usize),
    /// One of another sort, whose calls are all made so.
    InOrder(usize),
    PoolName,
    Slot(usize),
    SlotName(usize),
}

/// What else a call asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Extra {
    Nothing,
    Priority(Priority),
    Affine(usize),
    Pinned(usize),
    PinnedNow(usize),
    Idempotent,
}

#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Argument {
    Number(u64),
    Real(f64),
    Text(String),
}

/// How a call ends, where no fault prevents it.
#[derive(Clone, Debug)]
pub(crate) enum Expect {
    /// With this text.
    Answer(String),
    /// With an answer that is not of the type that was asked for.
    Other,
    /// With an exception of this type, that names the call.
    Exception(&'static str),
    BadResult,
    Unknown,
    /// Before it is made.
    Refused,
    Timeout,
    /// By its handle.
    Cancelled,
    /// With its worker, in such a way.
    Death(fn(&WorkerDeath) -> bool),
    /// With its worker, or not before its deadline.
    DeathOrTimeout(fn(&WorkerDeath) -> bool),
}

#[derive(Clone, Debug)]
pub(crate) struct Call {
    nonce: u64,
    handler: &'static str,
    rest: Vec<Argument>,
    way: Way,
    deadline: Duration,
    drop_after: Option<Duration>,
    cancel_after: Option<Duration>,
    extra: Extra,
    expect: Expect,
    tries: u32,
}

impl Call {
    pub(crate) fn by(self, way: Way) -> Self {
        Self { way, ..self }
    }

    pub(crate) fn with(mut self, argument: Argument) -> Self {
        self.rest.push(argument);
        self
    }

    pub(crate) fn number(self, number: u64) -> Self {
        self.with(Argument::Number(number))
    }

    pub(crate) fn seconds(self, time: Duration) -> Self {
        self.with(Argument::Real(time.as_secs_f64()))
    }

    pub(crate) fn fails(self, expect: Expect) -> Self {
        Self { expect, ..self }
    }

    pub(crate) fn answers(self, text: impl Into<String>) -> Self {
        Self { expect: Expect::Answer(text.into()), ..self }
    }

    pub(crate) fn within(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    fn dropped_after(self, time: Duration) -> Self {
        Self { drop_after: Some(time), ..self }
    }

    fn cancelled_after(self, time: Duration) -> Self {
        Self { cancel_after: Some(time), ..self }
    }

    fn with_extra(self, extra: Extra) -> Self {
        Self { extra, ..self }
    }

    fn dropped_early(self, caller: &mut Caller) -> Self {
        let deadline = self.deadline;
        self.dropped_after(deadline.mul_f64(caller.rng.f64()))
    }
}

/// What every handler that answers returns: nonce, slot, text.
type Answer = (u64, usize, String);

/// A task that makes calls, with a stream of random numbers of its own.
pub(crate) struct Caller {
    pub(crate) chaos: Arc<Chaos>,
    pub(crate) rng: Rng,
    task: u64,
    made: u64,
}

impl Caller {
    pub(crate) fn new(chaos: Arc<Chaos>, task: u64) -> Self {
        let seed = chaos.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(task);
        Self { chaos, rng: Rng::with_seed(seed), task, made: 0 }
    }

    // === Random choices ===

    pub(crate) fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_micros(self.rng.u64(from * 1000..=to * 1000))
    }

    pub(crate) fn slot(&mut self) -> usize {
        self.rng.usize(..self.chaos.pool.stats().size)
    }

    /// Any worker, or a certain one.
    pub(crate) fn way(&mut self) -> Way {
        if self.rng.bool() { Way::Pool } else { Way::Slot(self.slot()) }
    }

    // === Calls ===

    /// A call with its nonce, for the pool.
    pub(crate) fn call(&mut self, handler: &'static str) -> Call {
        self.made += 1;
        Call {
            nonce: (self.task << 32) | self.made,
            handler,
            rest: Vec::new(),
            way: Way::Pool,
            deadline: self.millis(4_000, 8_000),
            drop_after: None,
            cancel_after: None,
            extra: Extra::Nothing,
            expect: Expect::Answer(String::new()),
            tries: 1,
        }
    }

    fn plain(&mut self) -> Call {
        let (call, number) = (self.call("plain"), self.rng.u64(..1 << 53));
        let text = mixed(call.nonce, number);
        call.number(number).answers(text)
    }

    fn plain_async(&mut self) -> Call {
        let (call, number) = (self.call("plain_async"), self.rng.u64(..1 << 53));
        let text = mixed(call.nonce, number);
        call.number(number).seconds(self.millis(0, 4)).answers(text)
    }

    /// Up to 1 MiB there and back.
    fn large(&mut self) -> Call {
        let call = self.call("large");
        let unit = format!("{:016x}", call.nonce);
        let (there, back) = (self.rng.usize(..1 << 16), self.rng.usize(..1 << 16));
        call.with(Argument::Text(unit.repeat(there))).number(back as u64).answers(unit.repeat(back))
    }

    /// Takes longer than it has.
    fn overruns(&mut self, handler: &'static str) -> Call {
        let deadline = self.millis(20, 200);
        let call = self.call(handler).within(deadline).fails(Expect::Timeout);
        call.seconds(deadline + OVERRUN)
    }

    /// Is cancelled by a handle, long before it would end.
    fn cancelled(&mut self, handler: &'static str) -> Call {
        let time = self.millis(0, 200);
        let call = self.call(handler).cancelled_after(time).fails(Expect::Cancelled);
        let seconds = time + TOLERANCE + OVERRUN;
        call.within(seconds).seconds(seconds)
    }

    /// Adds one to what a session has.
    fn counts(&mut self, handler: &'static str, in_order: bool) -> Call {
        let session = self.rng.usize(..SESSIONS);
        let way = if in_order { Way::InOrder(session) } else { Way::Session(session) };
        self.call(handler).answers("").by(way)
    }

    /// A key of a slot.
    fn key(&mut self) -> usize {
        self.rng.usize(..KEYS)
    }

    /// Has hardly any time; may answer in it.
    fn hasty(&mut self) -> Call {
        let deadline = self.millis(0, 20);
        self.plain().within(deadline)
    }

    /// Whether all workers are there, and each of them answers.
    pub(crate) async fn every_slot_answers(&mut self) -> bool {
        let stats = self.chaos.pool.stats();
        let calls: Vec<_> = (0..stats.size).map(|slot| self.plain().by(Way::Slot(slot))).collect();
        let made = join_all(calls.into_iter().map(|call| self.make("plain, afterwards", call)));
        stats.ready == stats.size && made.await.into_iter().all(|as_expected| as_expected)
    }

    /// Makes a call, and judges it. Whether it ended as it should without a fault.
    pub(crate) async fn make(&self, kind: &'static str, call: Call) -> bool {
        let ledger = &self.chaos.ledger;
        let mut tries = 0;
        loop {
            tries += 1;
            let faulty = self.chaos.is_faulty();
            let start = Instant::now();
            let outcome = self.try_once(&call).await;
            let took = start.elapsed();
            let ending = match &outcome {
                Outcome::Dropped | Outcome::Hangs => Ending::Dropped,
                Outcome::Ended(Ok(_)) => Ending::Completed,
                Outcome::Ended(Err(error)) => Ending::of(error),
            };
            let faulty = faulty || self.chaos.is_faulty();
            let judged = judge(&call, &outcome, took, faulty, self.chaos.is_cut());
            let other = match judged
                .and_then(|other| self.same_slot(&call, &outcome).map(|()| other))
            {
                Ok(other) => other,
                Err(what) => {
                    let text = match &outcome {
                        Outcome::Ended(Err(error)) => format!("{error}"),
                        outcome => format!("{outcome:.300?}"),
                    };
                    ledger.violation(&format!(
                        "{what}\n  call {:x} ({kind}, {} by {:?}, of task {}, {:?} given, {:?} to its drop, {:?} to its cancellation, {:?}), after {took:.1?}: {text}",
                        call.nonce, call.handler, call.way, self.task, call.deadline, call.drop_after, call.cancel_after, call.extra
                    ));
                    Some("VIOLATION".to_owned())
                }
            };
            let as_expected = other.is_none();
            ledger.ended(kind, ending, other);
            if let Outcome::Ended(Err(error)) = &outcome
                && error.is_retryable()
                && tries < call.tries
            {
                sleep(Duration::from_millis(20)).await;
                continue;
            }
            if call.extra == Extra::Idempotent {
                ledger.idempotent();
            }
            ledger.fate(call.nonce, fate(&call, &outcome));
            return as_expected;
        }
    }

    /// A pinned call is answered by the slot that answers all of its key.
    fn same_slot(&self, call: &Call, outcome: &Outcome) -> Result<(), String> {
        if let (Extra::Pinned(key) | Extra::PinnedNow(key), Outcome::Ended(Ok((_, slot, _)))) =
            (call.extra, outcome)
            && let Err(other) = self.chaos.slots[key].compare_exchange(
                NO_SLOT,
                *slot,
                Ordering::Relaxed,
                Ordering::Relaxed,
            )
            && other != *slot
            && !self.chaos.resized.load(Ordering::Relaxed)
        {
            return Err(format!("key {key} was of slot {other}, and is of {slot}"));
        }
        Ok(())
    }

    async fn try_once(&self, call: &Call) -> Outcome {
        let ended = async {
            let handle = match timeout(LIMIT, self.handle(call.way)).await {
                Ok(Some(handle)) => handle,
                Ok(None) => {
                    let name = format!("{:?}", call.way);
                    return Outcome::Ended(Err(Error::NoSuchWorker { name, workers: None }));
                }
                Err(_) => return Outcome::Hangs,
            };
            let limit = call.deadline + TOLERANCE;
            let ended = async {
                if let Expect::Other = call.expect {
                    let ended = handle.call::<bool>(call).await;
                    return ended.map(|_| (call.nonce, 0, "a bool".to_owned()));
                }
                handle.call::<Answer>(call).await
            };
            match timeout(limit, ended).await {
                Ok(ended) => Outcome::Ended(ended),
                Err(_) => Outcome::Hangs,
            }
        };
        let Some(time) = call.drop_after else { return ended.await };
        tokio::select! {
            biased;
            ended = ended => ended,
            () = sleep(time) => Outcome::Dropped,
        }
    }

    async fn handle(&self, way: Way) -> Option<Handle> {
        let pool = &self.chaos.pool;
        match way {
            Way::Pool => Some(Handle::Pool(pool.clone())),
            Way::Session(session) => {
                Some(Handle::Session(pool.session(&format!("session {session}"))))
            }
            Way::InOrder(session) => {
                Some(Handle::Session(pool.session(&format!("in order {session}")).in_order()))
            }
            Way::PoolName => Pool::find(pool.name()).await.map(Handle::Pool),
            Way::Slot(slot) => pool.worker(slot).ok().map(Handle::Worker),
            Way::SlotName(slot) => {
                let name = format!("{}/worker/{slot}", pool.name());
                WorkerHandle::find(&name).await.ok().map(Handle::Worker)
            }
        }
    }
}

enum Handle {
    Pool(Pool),
    Session(PoolSession),
    Worker(WorkerHandle),
}

impl Handle {
    async fn call<R: serde::de::DeserializeOwned>(&self, call: &Call) -> Result<R, Error> {
        let nonce = [Argument::Number(call.nonce)];
        let arguments: Vec<_> = nonce.iter().chain(&call.rest).collect();
        let mut made = match self {
            Handle::Pool(pool) => pool.call(call.handler, arguments),
            Handle::Session(session) => session.call(call.handler, arguments),
            Handle::Worker(worker) => worker.call(call.handler, arguments),
        };
        made = match call.extra {
            Extra::Nothing => made,
            Extra::Priority(priority) => made.priority(priority),
            Extra::Affine(key) => made.affinity(format!("key {key}")),
            Extra::Pinned(key) => made.pinned(format!("key {key}")),
            Extra::PinnedNow(key) => made.pinned_now(format!("key {key}")),
            Extra::Idempotent => made.idempotent(),
        };
        let Some(time) = call.cancel_after else { return made.timeout(call.deadline).await };
        let handle = made.cancel_handle();
        let cancelling = tokio::spawn(async move {
            sleep(time).await;
            handle.cancel();
        });
        let ended = made.timeout(call.deadline).await;
        cancelling.abort();
        ended
    }
}

/// As in chaos.py.
fn mixed(nonce: u64, number: u64) -> String {
    format!("{:x}", (nonce ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

// === The judgement ===

#[derive(Debug)]
enum Outcome {
    Ended(Result<Answer, Error>),
    Dropped,
    /// Has not ended in time.
    Hangs,
}

fn fate(call: &Call, outcome: &Outcome) -> Fate {
    let ran = match outcome {
        Outcome::Ended(Ok(_)) if call.extra == Extra::Idempotent => Ran::Again,
        Outcome::Ended(Err(error)) if call.extra == Extra::Idempotent && error.may_have_run() => {
            Ran::Again
        }
        Outcome::Dropped | Outcome::Hangs if call.extra == Extra::Idempotent => Ran::Again,
        Outcome::Ended(
            Ok(_) | Err(Error::Python { .. } | Error::BadResult { .. } | Error::Decode { .. }),
        ) => Ran::Once,
        Outcome::Ended(Err(error)) if !error.may_have_run() => Ran::Never,
        _ => Ran::Perhaps,
    };
    let given_up =
        matches!(outcome, Outcome::Ended(Err(Error::Timeout { .. } | Error::Cancelled { .. })));
    let stopped = given_up || matches!(outcome, Outcome::Dropped);
    Fate { ran, stopped, handler: call.handler }
}

/// Whether a call ended as it should; else by which fault, which is no fault of the pool's; else what is wrong.
fn judge(
    call: &Call,
    outcome: &Outcome,
    took: Duration,
    faulty: bool,
    cut: bool,
) -> Result<Option<String>, String> {
    let ended = match outcome {
        Outcome::Dropped => return Ok(None),
        Outcome::Hangs => return Err("a call does not end".to_owned()),
        Outcome::Ended(ended) => ended,
    };
    match ended {
        Ok((nonce, ..)) if *nonce != call.nonce => return Err("another call's answer".to_owned()),
        Ok((_, slot, _)) if matches!(call.way, Way::Slot(asked) | Way::SlotName(asked) if asked != *slot) =>
        {
            return Err("another worker's answer".to_owned());
        }
        Err(Error::Timeout { elapsed, timeout, .. })
            if *timeout != call.deadline || elapsed < timeout || took < call.deadline =>
        {
            return Err("an early timeout".to_owned());
        }
        _ if call.cancel_after.is_some_and(|time| took > time + TOLERANCE) => {
            return Err("a cancelled call goes on".to_owned());
        }
        Err(Error::WorkerDied(death)) if death.handler != call.handler => {
            return Err("another call's death".to_owned());
        }
        _ => {}
    }
    let as_expected = match (&call.expect, ended) {
        (Expect::Answer(text), Ok((_, _, answer))) => answer == text,
        (Expect::Other, Err(Error::Decode { .. }))
        | (Expect::BadResult, Err(Error::BadResult { .. }))
        | (Expect::Unknown, Err(Error::UnknownHandler { .. }))
        | (Expect::Refused, Err(Error::Encode { .. } | Error::TooLarge { .. }))
        | (Expect::Timeout | Expect::DeathOrTimeout(_), Err(Error::Timeout { .. })) => true,
        (Expect::Exception(name), Err(Error::Python { exception, .. })) => {
            exception.type_name == *name && exception.message.contains(&call.nonce.to_string())
        }
        (_, Err(Error::Cancelled { .. })) => call.cancel_after.is_some_and(|time| took >= time),
        (_, Err(Error::WorkerBusy { .. })) => matches!(call.extra, Extra::PinnedNow(_)),
        (Expect::Death(is) | Expect::DeathOrTimeout(is), Err(Error::WorkerDied(death))) => {
            is(death)
        }
        _ => false,
    };
    if as_expected {
        return Ok(None);
    }
    let Err(error) = ended else { return Err("a wrong answer".to_owned()) };
    if cut && is_of_shutdown(error) {
        return Ok(Some("shutdown".to_owned()));
    }
    let may_fail = !matches!(call.expect, Expect::Refused);
    let is_hasty = matches!(error, Error::Timeout { .. }) && call.deadline < Duration::from_secs(1);
    match collateral(error) {
        Some(how) if may_fail && (faulty || how == SATURATED || is_hasty) => Ok(Some(how)),
        _ => Err("an error that nothing explains".to_owned()),
    }
}

fn is_of_shutdown(error: &Error) -> bool {
    match error {
        Error::Closed { .. } => true,
        Error::WorkerDied(death) => death.ended == Ended::Shutdown,
        _ => false,
    }
}

const SATURATED: &str = "saturated";

/// What a call that is none of a fault's business may suffer by it, in words; `None` for what must not happen to it.
pub(crate) fn collateral(error: &Error) -> Option<String> {
    match error {
        Error::WorkerDied(death) => {
            let known = match (&death.ended, death.exit) {
                // The signals that are injected; none where the launcher could not tell.
                (Ended::Itself, Exit::Signal(6 | 9 | 11 | 15) | Exit::Unknown) => true,
                (
                    Ended::Launcher
                    | Ended::Stopped
                    | Ended::Suspended
                    | Ended::Unhealthy
                    | Ended::Protocol(_),
                    _,
                ) => true,
                _ => false,
            };
            let when = if death.started { "" } else { ", not started" };
            let ended = match &death.ended {
                Ended::Protocol(_) => "Protocol".to_owned(),
                Ended::Itself => format!("{:?}", death.exit),
                ended => format!("{ended:?}"),
            };
            known.then(|| format!("died ({ended}{when})"))
        }
        Error::Start(error) => match **error {
            StartError::Exited { .. } => Some("no start (exited)".to_owned()),
            StartError::Stopped { .. } => Some("no start (stopped)".to_owned()),
            StartError::Timeout { .. } => Some("no start (timeout)".to_owned()),
            _ => None,
        },
        Error::Timeout { stage, .. } => Some(format!("timeout {stage}")),
        // Late garbage within a large answer.
        Error::Decode { handler, .. } if handler == "large" => Some("garbage within".to_owned()),
        Error::Restarted { .. } => Some("pool actor restarted".to_owned()),
        Error::Saturated { .. } => Some(SATURATED.to_owned()),
        Error::NoSuchWorker { .. } => Some("handle not found".to_owned()),
        _ => None,
    }
}
