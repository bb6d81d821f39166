//! The kinds of calls that are made.

use std::time::Instant;

use fastrand::Rng;
use futures::future::join_all;
use snakepen::Priority;
use tokio::time::sleep;

use crate::MAX_FRAME;
use crate::call::{Argument, Call, Expect, Extra, Way};
use crate::caller::Caller;
use crate::values::LARGEST;

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
    kind("short", 80, Caller::short),
    Kind { name: "short, 80 at once", weight: 4, count: 80, call: Caller::short },
    kind("short, dropped", 15, |caller| caller.short().dropped_after(caller.millis(0, 4))),
    kind("short, cancelled", 15, |caller| caller.short().cancelled_after(caller.millis(0, 4))),
    kind("short, at a slot", 10, |caller| caller.short().by(Way::Slot(caller.slot()))),
    kind("short, idempotent", 10, |caller| caller.short().with_extra(Extra::Idempotent)),
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
        caller.call("large").text("x".repeat(MAX_FRAME)).fails(Expect::Refused)
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
    // Streams, inputs, progress.
    kind("stream", 12, |caller| caller.streams("streams")),
    kind("stream, async", 12, |caller| caller.streams("streams_async")),
    kind("stream, large", 4, |caller| caller.streams_large("streams")),
    kind("stream, large, async", 4, |caller| caller.streams_large("streams_async")),
    kind("stream, at a slot", 4, |caller| caller.streams("streams").by(Way::Slot(caller.slot()))),
    kind("stream, in order", 4, |caller| caller.streams("streams").by(caller.in_order())),
    kind("stream, idempotent", 4, |caller| caller.streams("streams").with_extra(Extra::Idempotent)),
    kind("stream, slowly taken", 6, |caller| {
        let call = caller.streams("streams");
        caller.rests(call)
    }),
    kind("stream, slowly taken, async", 6, |caller| {
        let call = caller.streams("streams_async");
        caller.rests(call)
    }),
    kind("stream, raising", 6, |caller| caller.streams_raising("streams")),
    kind("stream, raising, async", 6, |caller| caller.streams_raising("streams_async")),
    kind("stream, dropped", 12, |caller| caller.streams_dropped("streams")),
    kind("stream, dropped, async", 12, |caller| caller.streams_dropped("streams_async")),
    kind("stream, dropped anywhere", 6, |caller| {
        caller.streams_endless("streams").dropped_after(caller.millis(0, 40))
    }),
    kind("stream, dropped anywhere, async", 6, |caller| {
        caller.streams_endless("streams_async").dropped_after(caller.millis(0, 40))
    }),
    kind("stream, cancelled", 4, |caller| {
        caller.streams_endless("streams").cancelled_after(caller.millis(0, 40))
    }),
    kind("stream, cancelled, async", 4, |caller| {
        caller.streams_endless("streams_async").cancelled_after(caller.millis(0, 40))
    }),
    kind("stream, timeout", 1, |caller| caller.stalls("streams_slowly", false)),
    kind("stream, timeout, async", 1, |caller| caller.stalls("streams_slowly_async", false)),
    kind("stream, timeout of an item", 1, |caller| caller.stalls("streams_slowly", true)),
    kind("stream, timeout of an item, async", 1, |caller| {
        caller.stalls("streams_slowly_async", true)
    }),
    kind("input", 8, |caller| caller.sums("sums")),
    kind("input, async", 8, |caller| caller.sums("sums_async")),
    kind("input, dropped", 4, |caller| caller.sums("sums").dropped_after(caller.millis(0, 20))),
    kind("input, async, cancelled", 4, |caller| {
        caller.sums("sums_async").cancelled_after(caller.millis(0, 20))
    }),
    kind("input to stream", 6, |caller| caller.echoes("echoes")),
    kind("input to stream, async", 6, |caller| {
        let call = caller.echoes("echoes_async");
        caller.rests(call)
    }),
    kind("input to stream, dropped", 3, |caller| {
        caller.echoes("echoes").dropped_after(caller.millis(0, 20))
    }),
    kind("progress", 6, |caller| caller.progresses("progresses")),
    kind("progress, async", 6, |caller| caller.progresses("progresses_async")),
    // Buffers and arrays.
    kind("buffers", 16, |caller| caller.buffers("buffers", LARGEST)),
    kind("buffers, async", 12, |caller| caller.buffers("buffers_async", 256 << 10)),
    kind("buffers, kept", 12, |caller| caller.buffers("keeps_buffers", 1 << 20)),
    kind("buffers, written to", 8, |caller| caller.buffers("writes_buffers", LARGEST)),
    kind("buffers, dropped", 6, |caller| {
        caller.buffers("buffers", LARGEST).dropped_after(caller.millis(0, 8))
    }),
    kind("buffers, async, cancelled", 6, |caller| {
        caller.buffers("buffers_async", 256 << 10).cancelled_after(caller.millis(0, 8))
    }),
    kind("arrays", 10, Caller::arrays),
    kind("buffer, too large", 1, |caller| {
        let buffer = vec![0; MAX_FRAME].into();
        caller.call("buffers").with(Argument::Buffers(vec![buffer])).fails(Expect::Refused)
    }),
    kind("buffer, too large a result", 1, |caller| {
        caller.call("too_much").number(MAX_FRAME as u64).fails(Expect::BadResult)
    }),
    // Calls to Rust.
    kind("asks", 20, |caller| caller.asks("asks")),
    kind("asks, async", 16, |caller| caller.asks("asks_async")),
    kind("asks, dropped", 5, |caller| caller.asks("asks").dropped_after(caller.millis(0, 4))),
    kind("asks, async, cancelled", 5, |caller| {
        caller.asks("asks_async").cancelled_after(caller.millis(0, 4))
    }),
    kind("asks an actor", 8, |caller| caller.asks_mortal("asks_mortal")),
    kind("asks an actor, async", 8, |caller| caller.asks_mortal("asks_mortal_async")),
    kind("asks, and it fails", 2, |caller| {
        caller.call("asks_failing").number(0).fails(Expect::Exception("ActorError"))
    }),
    kind("asks, and it panics", 2, |caller| {
        caller.call("asks_failing").number(1).fails(Expect::Exception("ActorError"))
    }),
    kind("casts", 8, |caller| caller.call("casts")),
    kind("casts, async, dropped", 6, |caller| {
        caller.call("casts_async").dropped_after(caller.millis(0, 6))
    }),
    kind("timeout, asking", 1, |caller| caller.overruns("waits")),
    kind("timeout, asking, async", 2, |caller| caller.overruns("waits_async")),
    kind("cancelled, asking", 1, |caller| caller.cancelled("waits")),
    kind("cancelled, asking, async", 2, |caller| caller.cancelled("waits_async")),
    kind("leaves what it asks", 3, |caller| {
        let time = caller.millis(0, 20);
        caller.call("leaves_early").seconds(time).answers("left")
    }),
    kind("nested", 10, |caller| caller.nests("nests")),
    kind("nested, async", 8, |caller| caller.nests("nests_async")),
    kind("nested, dropped", 4, |caller| caller.nests("nests").dropped_after(caller.millis(0, 10))),
    kind("nested, async, cancelled", 4, |caller| {
        caller.nests("nests_async").cancelled_after(caller.millis(0, 10))
    }),
    kind("nested at its own slot", 4, |caller| caller.nests_so("nests", 0, "here")),
    kind("nested in its own turn", 4, |caller| {
        let session = caller.rng.u64(..4);
        let way = Way::InOrder(session as usize);
        caller.nests_so("nests_async", session, "turn").by(way)
    }),
    // Batches.
    Kind { name: "batch", weight: 4, count: 20, call: |caller| caller.batched("batches") },
    Kind {
        name: "batch, async",
        weight: 4,
        count: 12,
        call: |caller| caller.batched("batches_async"),
    },
    Kind {
        name: "batch, cancelled",
        weight: 3,
        count: 6,
        call: |caller| caller.batched("batches").cancelled_after(caller.millis(0, 8)),
    },
    Kind {
        name: "batch, async, dropped",
        weight: 3,
        count: 6,
        call: |caller| caller.batched("batches_async").dropped_after(caller.millis(0, 8)),
    },
    Kind {
        name: "batch, all fail",
        weight: 1,
        count: 6,
        call: |caller| {
            caller.call("batches_fail").number(0).fails(Expect::Exception("LookupError"))
        },
    },
    Kind {
        name: "batch, timeout",
        weight: 1,
        count: 4,
        call: |caller| caller.overruns("batches_sleep"),
    },
    // What holds up those beside it, where calls overlap.
    kind("timeout, loop held up", 1, |caller| caller.overruns("holds_loop")),
    kind("cancelled, swallowed", 1, |caller| caller.cancelled("swallows")),
    kind("dropped, swallowed", 1, |caller| caller.overruns("swallows").dropped_early(caller)),
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
