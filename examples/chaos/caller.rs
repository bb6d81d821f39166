//! A task that makes calls, and enters how they end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fastrand::Rng;
use futures::future::join_all;
use snakepen::{Ended, Error};
use tokio::time::sleep;

use crate::call::{Answer, Argument, Call, Expect, Extra, Way};
use crate::exchange::{ENDLESS, Input, Items};
use crate::judge::{Outcome, fate, judge};
use crate::ledger::{Ending, Fate, Ledger, Ran};
use crate::values::{array, mixed, piece, size};
use crate::{Chaos, TOLERANCE};

/// What goes on after a call was to stop would go on for this long.
pub(crate) const OVERRUN: Duration = Duration::from_secs(4);

/// Keys of affine and pinned calls.
pub(crate) const KEYS: usize = 16;

/// So many sessions are in use, and as many of calls in order.
const SESSIONS: usize = 4;

/// Where no call of a key has been answered.
pub(crate) const NO_SLOT: usize = usize::MAX;

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

    /// One for what a handler calls.
    pub(crate) fn inner(chaos: Arc<Chaos>) -> Self {
        let task = chaos.inner.fetch_add(1, Ordering::Relaxed);
        Self::new(chaos, task)
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

    /// A key of a slot.
    pub(crate) fn key(&mut self) -> usize {
        self.rng.usize(..KEYS)
    }

    fn session(&mut self) -> usize {
        self.rng.usize(..SESSIONS)
    }

    // === Calls ===

    /// A call with its nonce, for the pool.
    pub(crate) fn call(&mut self, handler: &'static str) -> Call {
        self.made += 1;
        let nonce = (self.task << 32) | self.made;
        Call::new(nonce, handler, self.millis(4_000, 8_000))
    }

    fn mixes(&mut self, handler: &'static str) -> Call {
        let (call, number) = (self.call(handler), self.rng.u64(3..1 << 53));
        let text = mixed(call.nonce, number);
        call.number(number).answers(text)
    }

    pub(crate) fn plain(&mut self) -> Call {
        self.mixes("plain")
    }

    /// May be written ahead.
    pub(crate) fn short(&mut self) -> Call {
        self.mixes("short")
    }

    pub(crate) fn plain_async(&mut self) -> Call {
        let time = self.millis(0, 4);
        self.mixes("plain_async").seconds(time)
    }

    /// Up to 1 MiB there and back.
    pub(crate) fn large(&mut self) -> Call {
        let call = self.call("large");
        let unit = format!("{:016x}", call.nonce);
        let (there, back) = (self.rng.usize(..1 << 16), self.rng.usize(..1 << 16));
        call.text(unit.repeat(there)).number(back as u64).answers(unit.repeat(back))
    }

    /// Takes longer than it has.
    pub(crate) fn overruns(&mut self, handler: &'static str) -> Call {
        let deadline = self.millis(20, 200);
        let call = self.call(handler).within(deadline).fails(Expect::Timeout);
        call.seconds(deadline + OVERRUN)
    }

    /// Is cancelled by a handle, long before it would end.
    pub(crate) fn cancelled(&mut self, handler: &'static str) -> Call {
        let time = self.millis(0, 200);
        let call = self.call(handler).cancelled_after(time).fails(Expect::Cancelled);
        let seconds = time + TOLERANCE + OVERRUN;
        call.within(seconds).seconds(seconds)
    }

    /// Adds one to what a session has.
    pub(crate) fn counts(&mut self, handler: &'static str, in_order: bool) -> Call {
        let session = self.session();
        let way = if in_order { Way::InOrder(session) } else { Way::Session(session) };
        self.call(handler).answers("").by(way)
    }

    pub(crate) fn in_order(&mut self) -> Way {
        Way::InOrder(self.session())
    }

    /// Has hardly any time; may answer in it.
    pub(crate) fn hasty(&mut self) -> Call {
        let deadline = self.millis(0, 20);
        self.plain().within(deadline)
    }

    // === Streams, inputs ===

    /// A stream that is taken to its end.
    pub(crate) fn streams(&mut self, handler: &'static str) -> Call {
        let items = Items {
            count: self.rng.u64(..200),
            size: self.rng.usize(..8),
            beside: if self.rng.u8(..4) == 0 { size(&mut self.rng, 4 << 10) } else { 0 },
            ..Items::default()
        };
        self.streams_so(handler, items, false)
    }

    /// Few of up to 512 KiB: the window is what has room for bytes.
    pub(crate) fn streams_large(&mut self, handler: &'static str) -> Call {
        let beside = self.rng.bool();
        let items = Items {
            count: self.rng.u64(..8),
            size: if beside { 1 } else { self.rng.usize(..1 << 15) },
            beside: if beside { size(&mut self.rng, 512 << 10) } else { 0 },
            ..Items::default()
        };
        self.streams_so(handler, items, false)
    }

    /// Ends with an exception.
    pub(crate) fn streams_raising(&mut self, handler: &'static str) -> Call {
        let items = Items { count: self.rng.u64(..150), size: 1, ..Items::default() };
        self.streams_so(handler, items, true)
    }

    /// Would go on for long; its consumer leaves after some items.
    pub(crate) fn streams_dropped(&mut self, handler: &'static str) -> Call {
        let take = Some(self.rng.u64(..120));
        let items = Items { count: ENDLESS, size: 2, take, ..Items::default() };
        self.streams_so(handler, items, false)
    }

    /// Likewise, in the middle of whatever is under way.
    pub(crate) fn streams_endless(&mut self, handler: &'static str) -> Call {
        let rest = self.millis(20, 100);
        let items = Items { count: ENDLESS, size: 2, rest, ..Items::default() };
        self.streams_so(handler, items, false)
    }

    fn streams_so(&mut self, handler: &'static str, items: Items, raises: bool) -> Call {
        let call = self.call(handler).number(items.count).number(items.size as u64);
        let call = call.number(items.beside as u64).number(u64::from(raises));
        let expect = if raises {
            Expect::Exception("LookupError")
        } else {
            Expect::Answer(format!("{} items", items.count))
        };
        Call { items: Some(items), expect, ..call }
    }

    /// The next item does not come in time.
    pub(crate) fn stalls(&mut self, handler: &'static str, each: bool) -> Call {
        let time = self.millis(20, 200);
        let count = self.rng.u64(..80);
        let item_timeout = each.then_some(time);
        let deadline = if each { time + OVERRUN } else { time };
        let items = Items { count, size: 1, item_timeout, ..Items::default() };
        let call = self.call(handler).number(count).seconds(time + OVERRUN + OVERRUN);
        Call { items: Some(items), ..call.within(deadline).fails(Expect::Timeout) }
    }

    pub(crate) fn rests(&mut self, mut call: Call) -> Call {
        if let Some(items) = &mut call.items {
            items.rest = self.millis(1, 20);
        }
        call
    }

    /// Reads a stream: to its end, to its error, or some of it.
    pub(crate) fn sums(&mut self, handler: &'static str) -> Call {
        let input = self.input();
        let most = if self.rng.bool() { input.count + 1 } else { self.rng.u64(..=input.count) };
        let call = self.call(handler);
        let text = input.sum(call.nonce, most);
        Call { input: Some(input), ..call.number(most).answers(text) }
    }

    /// Yields what it reads.
    pub(crate) fn echoes(&mut self, handler: &'static str) -> Call {
        let input = Input { fails: false, ..self.input() };
        let items = Items { count: input.count, size: input.size, echo: true, ..Items::default() };
        let call = self.call(handler).answers(format!("{} items", items.count));
        Call { input: Some(input), items: Some(items), ..call }
    }

    fn input(&mut self) -> Input {
        let large = self.rng.u8(..8) == 0;
        Input {
            count: self.rng.u64(..if large { 8 } else { 150 }),
            fails: self.rng.u8(..4) == 0,
            size: if large { self.rng.usize(1..1 << 14) } else { self.rng.usize(1..8) },
            rest: self.millis(0, 3),
        }
    }

    pub(crate) fn progresses(&mut self, handler: &'static str) -> Call {
        let (steps, pause) = (self.rng.u64(1..60), self.millis(0, 1));
        let call = self.call(handler).number(steps).seconds(pause).answers("");
        Call { steps: Some(steps), ..call }
    }

    // === Buffers ===

    /// Some there and others back, of all sizes.
    pub(crate) fn buffers(&mut self, handler: &'static str, largest: usize) -> Call {
        let call = self.call(handler);
        let pattern = self.chaos.pattern.clone();
        let there: Vec<_> = (0..self.rng.u64(..4))
            .map(|at| piece(&pattern, call.nonce, at, size(&mut self.rng, largest)))
            .collect();
        let sizes: Vec<_> = if handler == "writes_buffers" {
            there.iter().map(|it| it.len()).collect()
        } else {
            (0..self.rng.u64(..4)).map(|_| size(&mut self.rng, largest)).collect()
        };
        let back = (100..).zip(&sizes);
        let back = back.map(|(at, &size)| piece(&pattern, call.nonce, at, size)).collect();
        let call = call.with(Argument::Buffers(there)).with(Argument::Sizes(sizes));
        call.fails(Expect::Buffers(back))
    }

    pub(crate) fn arrays(&mut self) -> Call {
        let call = self.call("arrays");
        let arrays: Vec<_> = (0..self.rng.u64(..4))
            .map(|at| array(&self.chaos.pattern, call.nonce, at, size(&mut self.rng, 1 << 20)))
            .collect();
        call.with(Argument::Arrays(arrays.clone())).fails(Expect::Arrays(arrays))
    }

    // === Calls to Rust ===

    /// Calls a function.
    pub(crate) fn asks(&mut self, handler: &'static str) -> Call {
        self.mixes(handler)
    }

    /// Calls an actor that stops now and then.
    pub(crate) fn asks_mortal(&mut self, handler: &'static str) -> Call {
        let call = self.mixes(handler);
        let Expect::Answer(text) = &call.expect else { return call };
        let stopped = ["ActorStopped", "NoReply"].map(str::to_owned);
        let expect = Expect::OneOf([text.clone()].into_iter().chain(stopped).collect());
        call.fails(expect)
    }

    pub(crate) fn nests(&mut self, handler: &'static str) -> Call {
        let depth = self.rng.u64(..self.chaos.depth);
        self.nests_so(handler, depth, "back")
    }

    pub(crate) fn nests_so(&mut self, handler: &'static str, depth: u64, at: &str) -> Call {
        let call = self.call(handler).number(depth).text(at);
        Call { nests: true, ..call.fails(Expect::Inner("nested".to_owned())) }
    }

    // === Batches ===

    pub(crate) fn batched(&mut self, handler: &'static str) -> Call {
        match self.rng.u8(..12) {
            0 => self.call(handler).number(1).fails(Expect::Exception("LookupError")),
            1 => self.call(handler).number(2).fails(Expect::BadResult),
            _ => self.mixes(handler),
        }
    }

    // === Making them ===

    /// Whether all workers are there, and each of them answers.
    pub(crate) async fn every_slot_answers(&mut self) -> bool {
        let stats = self.chaos.pool.stats();
        let calls: Vec<_> = (0..stats.size).map(|slot| self.plain().by(Way::Slot(slot))).collect();
        let made = join_all(calls.into_iter().map(|call| self.make("plain, afterwards", call)));
        stats.ready == stats.size && made.await.into_iter().all(|as_expected| as_expected)
    }

    /// Makes a call, and judges it. Whether it ended as it should without a fault.
    pub(crate) async fn make(&self, kind: &'static str, call: Call) -> bool {
        // Too many at once would take all workers, and wait for one more.
        let _permit = match call.nests {
            true => self.chaos.nests.acquire().await.ok(),
            false => None,
        };
        self.made(kind, &call).await.0
    }

    /// Likewise, and how it ended.
    pub(crate) async fn made(&self, kind: &'static str, call: &Call) -> (bool, Outcome) {
        let ledger = &self.chaos.ledger;
        let mut tries = 0;
        loop {
            tries += 1;
            let faulty = self.chaos.is_faulty();
            let start = Instant::now();
            let mut unfinished = Unfinished { ledger, kind, call, ended: false };
            let outcome = call.make(self).await;
            unfinished.ended = true;
            let took = start.elapsed();
            let faulty = faulty || self.chaos.is_faulty();
            let judged = judge(call, &outcome, took, faulty, &self.chaos);
            let judged = judged.and_then(|other| self.same_slot(call, &outcome).map(|()| other));
            let judged = judged.and_then(|other| self.culprit(&outcome).map(|()| other));
            let other = match judged {
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
            ledger.ended(kind, Ending::of(&outcome), other);
            if let Outcome::Dropped { unsure: true } = outcome {
                ledger.unsure();
            }
            let fate = fate(call, &outcome);
            if fate.stopped {
                ledger.given_up(call.handler);
            }
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
            ledger.fate(call.nonce, fate);
            return (as_expected, outcome);
        }
    }

    /// A pinned call is answered by the slot that answers all of its key.
    fn same_slot(&self, call: &Call, outcome: &Outcome) -> Result<(), String> {
        if let (Extra::Pinned(key) | Extra::PinnedNow(key), Outcome::Ended(Ok(Answer(_, slot, ..)))) =
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

    /// A call that suffers by one beside it suffers by one that was given up.
    fn culprit(&self, outcome: &Outcome) -> Result<(), String> {
        if let Outcome::Ended(Err(Error::WorkerDied(death))) = outcome
            && let Ended::Collateral { handler } = &death.ended
            && !self.chaos.ledger.was_given_up(handler)
        {
            return Err(format!("no call of {handler} was given up"));
        }
        Ok(())
    }
}

/// Enters a call whose future is dropped with all that it is in.
struct Unfinished<'a> {
    ledger: &'a Ledger,
    kind: &'static str,
    call: &'a Call,
    ended: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.ledger.ended(self.kind, Ending::Dropped, None);
        self.ledger.given_up(self.call.handler);
        let fate = Fate { ran: Ran::Perhaps, stopped: true, handler: self.call.handler };
        self.ledger.fate(self.call.nonce, fate);
    }
}
