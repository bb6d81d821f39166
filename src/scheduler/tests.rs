mod batches;
mod model;
mod seats;

use std::sync::LazyLock;
use std::time::Duration;

use super::*;
use Priority::{High, Low, Normal};

/// A scheduler whose workers have one seat each, or more; nothing here waits for a batch.
#[derive(Debug)]
struct Scheduler<R>(super::Scheduler<R>);

impl<R> std::ops::Deref for Scheduler<R> {
    type Target = super::Scheduler<R>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<R> std::ops::DerefMut for Scheduler<R> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl<R> Scheduler<R> {
    fn new(slots: usize) -> Self {
        Self(super::Scheduler::new(slots, 1))
    }

    fn submit(
        &mut self,
        id: Id,
        deadline: Instant,
        wish: Wish,
        request: R,
    ) -> Option<Assignment<R>> {
        self.0.submit(id, deadline, wish, at(0), request)
    }

    fn resubmit(
        &mut self,
        id: Id,
        deadline: Instant,
        wish: Wish,
        request: R,
    ) -> Option<Assignment<R>> {
        self.0.resubmit(id, deadline, wish, at(0), request)
    }

    fn idle(&mut self, slot: usize, epoch: u64, id: Id) -> Option<Assignment<R>> {
        self.0.idle(slot, epoch, id, at(0))
    }

    /// The worker of a slot is there; what it takes first.
    fn up(
        &mut self,
        slot: usize,
        epoch: u64,
        running: Option<(Id, Instant)>,
    ) -> Option<Assignment<R>> {
        let kept = |(id, deadline)| Kept { id, deadline, alone: false, short: false };
        let up = self.0.up(slot, epoch, running.map(kept).as_slice());
        if up { self.0.fill(slot, at(0)) } else { None }
    }

    fn is_idle(&self, slot: usize) -> bool {
        self.is_free(slot, Wish::default(), at(0))
    }

    /// Whether nothing is queued and nothing runs.
    fn is_drained(&self) -> bool {
        self.queued.is_empty() && self.running.is_empty()
    }

    /// The workers that hold a request, as (slot, id).
    fn busy(&self) -> Vec<(usize, Id)> {
        self.running.iter().map(|(&id, &slot)| (slot, id)).collect()
    }
}

/// A moment, in milliseconds after all moments began.
fn at(millis: u64) -> Instant {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    *START + Duration::from_millis(millis)
}

/// Long after all that happens here.
fn never() -> Instant {
    at(1_000_000)
}

/// A scheduler with `slots` idle workers of epoch 1.
fn idle(slots: usize) -> Scheduler<Id> {
    let mut scheduler = Scheduler::new(slots);
    for slot in 0..slots {
        assert_eq!(scheduler.up(slot, 1, None), None);
    }
    scheduler
}

/// A scheduler without workers, with these requests queued for any slot.
fn queued(slots: usize, ids: impl IntoIterator<Item = Id>) -> Scheduler<Id> {
    let mut scheduler = Scheduler::new(slots);
    for id in ids {
        assert_eq!(scheduler.submit(id, never(), ANY, id), None);
    }
    scheduler
}

/// Any worker will do.
const ANY: Wish = Wish {
    priority: Normal,
    place: Place::Anywhere,
    key: None,
    alone: false,
    batch: None,
    ahead: 0,
};

fn wish(slot: Option<usize>) -> Wish {
    Wish { place: slot.map_or(Place::Anywhere, Place::Only), ..ANY }
}

fn on(slot: usize) -> Wish {
    wish(Some(slot))
}

fn ranked(priority: Priority) -> Wish {
    Wish { priority, ..ANY }
}

fn given(slot: usize, epoch: u64, request: Id) -> Option<Assignment<Id>> {
    Some(Assignment { slot, epoch, ahead: false, request })
}

/// The ids that worker 0 of epoch `epoch` gets one after another, the first from `first`.
fn runs(scheduler: &mut Scheduler<Id>, epoch: u64, first: Option<Assignment<Id>>) -> Vec<Id> {
    let mut ids = Vec::new();
    let mut next = first;
    while let Some(assignment) = next {
        assert_eq!((assignment.slot, assignment.epoch), (0, epoch));
        ids.push(assignment.request);
        next = scheduler.idle(0, epoch, assignment.request);
    }
    ids
}

// === Order ===

#[test]
fn requests_run_in_order_of_arrival() {
    let mut scheduler = queued(1, 1..=5);
    let first = scheduler.up(0, 1, None);
    assert_eq!(runs(&mut scheduler, 1, first), [1, 2, 3, 4, 5]);
    assert!(scheduler.is_drained());
}

#[test]
fn an_idle_worker_gets_a_request_at_once() {
    let mut scheduler = idle(2);
    assert_eq!(scheduler.submit(1, never(), ANY, 1), given(0, 1, 1));
    assert_eq!(scheduler.submit(2, never(), ANY, 2), given(1, 1, 2));
    assert_eq!(scheduler.submit(3, never(), ANY, 3), None, "both are busy");
    let mut busy = scheduler.busy();
    busy.sort_unstable();
    assert_eq!(busy, [(0, 1), (1, 2)]);

    assert_eq!(scheduler.idle(1, 1, 2), given(1, 1, 3));
    assert_eq!(scheduler.idle(0, 1, 1), None, "nothing waits");
    assert_eq!(scheduler.busy(), [(1, 3)]);
    assert_eq!(scheduler.submit(4, never(), ANY, 4), given(0, 1, 4));
}

#[test]
fn a_request_for_a_slot_waits_for_it_and_holds_up_nobody() {
    let mut scheduler = idle(2);
    assert_eq!(scheduler.submit(1, never(), on(0), 1), given(0, 1, 1));
    assert_eq!(scheduler.submit(2, never(), on(0), 2), None, "worker 1 is not it");
    assert_eq!(scheduler.submit(3, never(), ANY, 3), given(1, 1, 3), "overtakes 2");
    assert_eq!(scheduler.idle(1, 1, 3), None, "and worker 1 doesn't take 2");
    assert_eq!(scheduler.idle(0, 1, 1), given(0, 1, 2));
}

#[test]
fn both_kinds_share_one_order() {
    let mut scheduler = Scheduler::new(2);
    for (id, slot) in [(1, None), (2, Some(0)), (3, None), (4, Some(1)), (5, Some(0)), (6, None)] {
        assert_eq!(scheduler.submit(id, never(), wish(slot), id), None);
    }
    let first = scheduler.up(0, 1, None);
    assert_eq!(runs(&mut scheduler, 1, first), [1, 2, 3, 5, 6]);
    assert_eq!(scheduler.up(1, 1, None), given(1, 1, 4));
}

#[test]
fn a_request_that_comes_back_is_the_next() {
    let mut scheduler = idle(1);
    for id in 1..=3 {
        scheduler.submit(id, never(), ANY, id);
    }
    scheduler.down(0, 1);
    assert_eq!(scheduler.resubmit(1, never(), ANY, 1), None);
    let first = scheduler.up(0, 2, None);
    assert_eq!(runs(&mut scheduler, 2, first), [1, 2, 3]);
}

#[test]
fn a_request_for_a_slot_that_comes_back_is_the_next_there() {
    let mut scheduler = idle(1);
    for (id, slot) in [(1, Some(0)), (2, None), (3, Some(0))] {
        scheduler.submit(id, never(), wish(slot), id);
    }
    scheduler.down(0, 1);
    assert_eq!(scheduler.resubmit(1, never(), on(0), 1), None);
    let first = scheduler.up(0, 2, None);
    assert_eq!(runs(&mut scheduler, 2, first), [1, 2, 3]);
}

#[test]
fn a_request_that_comes_back_goes_to_an_idle_worker_at_once() {
    let mut scheduler = idle(2);
    assert_eq!(scheduler.submit(1, never(), ANY, 1), given(0, 1, 1));
    // Before the news that its worker is gone.
    assert_eq!(scheduler.resubmit(1, never(), ANY, 1), given(1, 1, 1));
    assert_eq!(scheduler.busy(), [(1, 1)]);
    assert_eq!(scheduler.idle(0, 1, 1), None, "worker 0 doesn't have it any more");
    assert_eq!(scheduler.busy(), [(1, 1)]);
    assert_eq!(scheduler.submit(2, never(), ANY, 2), None, "worker 0 takes no calls");
}

#[test]
fn the_oldest_that_any_worker_may_run_is_known() {
    let mut scheduler = idle(1);
    assert_eq!(scheduler.oldest(), None);
    let of = |priority, slot| Wish { priority, ..wish(slot) };
    scheduler.submit(1, never(), ANY, 1);
    for (id, priority, slot) in [(2, High, Some(0)), (3, Low, None), (4, High, None)] {
        scheduler.submit(id, never(), of(priority, slot), id);
    }
    assert_eq!(scheduler.oldest(), Some(&3));
    scheduler.cancel(3);
    assert_eq!(scheduler.oldest(), Some(&4));
    scheduler.down(0, 1);
    scheduler.resubmit(1, never(), ANY, 1);
    assert_eq!(scheduler.oldest(), Some(&1), "it came back");
}

#[test]
fn draining_gives_everything_that_waits_in_order() {
    let mut scheduler = idle(2);
    scheduler.submit(1, never(), on(0), 1);
    scheduler.submit(2, never(), on(1), 2);
    for (id, slot) in [(3, Some(1)), (4, None), (5, Some(0)), (6, None)] {
        scheduler.submit(id, never(), wish(slot), id);
    }
    scheduler.down(1, 1);
    scheduler.resubmit(2, never(), on(1), 2);
    assert_eq!(scheduler.drain(), [2, 3, 4, 5, 6]);
    assert!(!scheduler.is_drained(), "1 runs");
    assert_eq!(scheduler.next_deadline(), Some(never()));
    assert_eq!(scheduler.idle(0, 1, 1), None);
    assert!(scheduler.is_drained());
    assert_eq!(scheduler.next_deadline(), None);
}

// === Priorities ===
#[test]
fn the_highest_priority_goes_first_and_each_in_order_of_arrival() {
    let mut scheduler = Scheduler::new(1);
    for (id, priority) in [(1, Low), (2, Normal), (3, High), (4, Low), (5, High), (6, Normal)] {
        assert_eq!(scheduler.submit(id, never(), ranked(priority), id), None);
    }
    let first = scheduler.up(0, 1, None);
    assert_eq!(runs(&mut scheduler, 1, first), [3, 5, 2, 6, 1, 4]);
}

#[test]
fn a_worker_passes_no_priority_over_more_than_nine_times() {
    let mut scheduler = idle(3);
    for id in 1..=3 {
        assert!(scheduler.submit(id, never(), ANY, id).is_some());
    }
    let waits =
        [(100, Low, None), (101, Normal, None), (102, Low, Some(2)), (103, Normal, Some(2))];
    for (id, priority, slot) in waits {
        assert_eq!(scheduler.submit(id, never(), Wish { priority, ..wish(slot) }, id), None);
    }
    // More of the highest priority than can ever be run.
    let mut next = 1_000;
    let mut taken: Vec<Vec<Id>> = vec![vec![]; 3];
    let mut held = [1, 2, 3];
    for _ in 0..20 {
        for slot in 0..3 {
            assert_eq!(scheduler.submit(next, never(), ranked(High), next), None);
            next += 1;
            let Assignment { request, .. } = scheduler.idle(slot, 1, held[slot]).unwrap();
            held[slot] = request;
            taken[slot].push(request);
        }
    }
    let place = |slot: usize, id| taken[slot].iter().position(|&taken| taken == id);
    // The first worker for which they are due takes those that are for any.
    assert_eq!((place(0, 100), place(1, 101)), (Some(8), Some(8)));
    // The third one's own come when their priorities are due there, the lower one first.
    assert_eq!((place(2, 102), place(2, 103)), (Some(8), Some(9)));
    assert_eq!(taken.iter().flatten().filter(|&&id| id < 1_000).count(), 4, "none is left");
}

#[test]
fn requests_for_a_slot_keep_their_order_by_priority_and_hold_up_nobody() {
    let mut scheduler = idle(2);
    assert_eq!(scheduler.submit(1, never(), on(0), 1), given(0, 1, 1));
    for (id, priority) in [(2, Low), (3, High), (4, Low), (5, High)] {
        assert_eq!(scheduler.submit(id, never(), Wish { priority, ..on(0) }, id), None);
    }
    assert_eq!(scheduler.submit(6, never(), ranked(Low), 6), given(1, 1, 6));
    assert_eq!(scheduler.submit(7, never(), ranked(Low), 7), None);
    assert_eq!(scheduler.idle(1, 1, 6), given(1, 1, 7));
    let first = scheduler.idle(0, 1, 1);
    assert_eq!(runs(&mut scheduler, 1, first), [3, 5, 2, 4]);
}

#[test]
fn one_that_comes_back_is_the_next_of_its_priority() {
    let mut scheduler = idle(1);
    for (id, priority) in [(1, Normal), (2, Normal), (3, High)] {
        scheduler.submit(id, never(), ranked(priority), id);
    }
    scheduler.down(0, 1);
    assert_eq!(scheduler.resubmit(1, never(), ANY, 1), None);
    let first = scheduler.up(0, 2, None);
    assert_eq!(runs(&mut scheduler, 2, first), [3, 1, 2]);
}

// === Places ===

#[test]
fn a_preferred_worker_is_taken_if_it_is_idle_and_not_waited_for() {
    let prefers = |slot| Wish { place: Place::Preferred(slot), ..ANY };
    let mut scheduler = idle(3);
    assert_eq!(scheduler.submit(1, never(), prefers(2), 1), given(2, 1, 1));
    assert_eq!(scheduler.submit(2, never(), prefers(2), 2), given(0, 1, 2), "it is busy");
    assert_eq!(scheduler.submit(3, never(), prefers(1), 3), given(1, 1, 3));
    assert_eq!(scheduler.submit(4, never(), prefers(2), 4), None);
    assert_eq!(scheduler.submit(5, never(), ANY, 5), None);
    assert_eq!(scheduler.idle(0, 1, 2), given(0, 1, 4), "in order of arrival, wherever");
    scheduler.down(2, 1);
    assert_eq!(scheduler.idle(1, 1, 3), given(1, 1, 5));
    assert_eq!(scheduler.idle(1, 1, 5), None);
    assert_eq!(scheduler.submit(6, never(), prefers(2), 6), given(1, 1, 6), "there is none");
}

#[test]
fn a_preferred_slot_that_breaks_keeps_nothing_from_the_others() {
    let mut scheduler = Scheduler::new(2);
    let prefers = Wish { place: Place::Preferred(0), ..ANY };
    assert_eq!(scheduler.submit(1, never(), prefers, 1), None);
    assert!(scheduler.broken(0).is_empty());
    assert_eq!(scheduler.up(1, 1, None), given(1, 1, 1));
}

#[test]
fn a_worker_that_takes_a_call_at_once_says_so() {
    let mut scheduler = Scheduler::new(1);
    assert!(!scheduler.is_idle(0));
    scheduler.up(0, 1, None);
    assert!(scheduler.is_idle(0));
    let now = Wish { place: Place::Now(0), ..ANY };
    assert_eq!(scheduler.submit(1, never(), now, 1), given(0, 1, 1));
    assert!(!scheduler.is_idle(0));
}

// === Cancelling and deadlines ===

#[test]
fn a_cancelled_request_never_runs() {
    let mut scheduler = queued(1, 1..=3);
    assert_eq!(scheduler.cancel(2), Some(Removed::Queued(2)));
    assert_eq!(scheduler.cancel(2), None, "once");
    let first = scheduler.up(0, 1, None);
    assert_eq!(runs(&mut scheduler, 1, first), [1, 3]);
    assert_eq!(scheduler.cancel(1), None, "it has ended");
}

#[test]
fn cancelling_the_only_one_leaves_the_worker_idle() {
    let mut scheduler = queued(1, [1]);
    scheduler.cancel(1);
    assert!(scheduler.is_drained());
    assert_eq!(scheduler.up(0, 1, None), None);
    assert_eq!(scheduler.submit(2, never(), ANY, 2), given(0, 1, 2));
}

#[test]
fn cancelling_one_that_runs_names_its_worker() {
    let mut scheduler = idle(2);
    scheduler.submit(1, never(), on(1), 1);
    let running = || Some(Removed::Running { slot: 1, epoch: 1, id: 1 });
    assert_eq!(scheduler.cancel(1), running());
    assert_eq!(scheduler.cancel(1), running(), "it still runs");
    assert_eq!(scheduler.busy(), [(1, 1)], "until its worker says otherwise");
}

#[test]
fn requests_expire_at_their_deadline_in_order_of_deadlines() {
    let mut scheduler = Scheduler::new(1);
    for (id, deadline) in [(1, 30), (2, 10), (3, 20), (4, 10)] {
        scheduler.submit(id, at(deadline), ANY, id);
    }
    assert_eq!(scheduler.next_deadline(), Some(at(10)));
    assert_eq!(scheduler.expire(at(9)), None);
    assert_eq!(
        scheduler.expire(at(10)),
        Some(Removed::Queued(2)),
        "the deadline itself is too late"
    );
    assert_eq!(scheduler.expire(at(25)), Some(Removed::Queued(4)));
    assert_eq!(scheduler.expire(at(25)), Some(Removed::Queued(3)));
    assert_eq!(scheduler.expire(at(25)), None);
    assert_eq!(scheduler.next_deadline(), Some(at(30)));
    let first = scheduler.up(0, 1, None);
    assert_eq!(runs(&mut scheduler, 1, first), [1], "the others never run");
    assert_eq!(scheduler.next_deadline(), None);
}

#[test]
fn one_that_runs_expires_once_and_keeps_its_worker() {
    let mut scheduler = idle(1);
    scheduler.submit(1, at(10), ANY, 1);
    scheduler.submit(2, at(20), ANY, 2);
    let running = Removed::Running { slot: 0, epoch: 1, id: 1 };
    assert_eq!(scheduler.expire(at(15)), Some(running));
    assert_eq!(scheduler.expire(at(15)), None);
    assert_eq!(scheduler.next_deadline(), Some(at(20)));
    assert_eq!(scheduler.busy(), [(0, 1)]);
    assert_eq!(scheduler.idle(0, 1, 1), given(0, 1, 2));
}

#[test]
fn one_that_comes_back_too_late_expires_in_the_queue() {
    let mut scheduler = idle(1);
    scheduler.submit(1, at(10), ANY, 1);
    assert!(matches!(scheduler.expire(at(10)), Some(Removed::Running { .. })));
    scheduler.down(0, 1);
    assert_eq!(scheduler.resubmit(1, at(10), ANY, 1), None);
    assert_eq!(scheduler.expire(at(10)), Some(Removed::Queued(1)));
    assert!(scheduler.is_drained());
}

// === Epochs ===

#[test]
fn news_of_an_earlier_incarnation_changes_nothing() {
    let mut scheduler = idle(1);
    scheduler.submit(1, never(), ANY, 1);
    scheduler.submit(2, never(), ANY, 2);
    assert_eq!(scheduler.up(0, 2, None), given(0, 2, 2), "the first one's request is lost with it");

    assert_eq!(scheduler.idle(0, 1, 1), None);
    assert_eq!(scheduler.idle(0, 1, 2), None, "the right id from the wrong incarnation");
    scheduler.down(0, 1);
    assert_eq!(scheduler.up(0, 1, None), None);
    assert_eq!(scheduler.up(0, 2, None), None, "told twice");
    assert_eq!(scheduler.busy(), [(0, 2)]);
    assert_eq!(scheduler.idle(0, 2, 2), None);
    assert_eq!(scheduler.submit(3, never(), ANY, 3), given(0, 2, 3));
}

#[test]
fn news_of_another_request_frees_no_worker() {
    let mut scheduler = idle(1);
    scheduler.submit(1, never(), ANY, 1);
    scheduler.submit(2, never(), ANY, 2);
    assert_eq!(scheduler.idle(0, 1, 2), None);
    assert_eq!(scheduler.busy(), [(0, 1)]);
}

#[test]
fn an_idle_worker_that_says_so_again_stays_idle_once() {
    let mut scheduler = idle(1);
    scheduler.submit(1, never(), ANY, 1);
    scheduler.idle(0, 1, 1);
    assert_eq!(scheduler.idle(0, 1, 1), None);
    assert_eq!(scheduler.submit(2, never(), ANY, 2), given(0, 1, 2));
    assert_eq!(scheduler.idle(0, 1, 1), None, "it has another one now");
    assert_eq!(scheduler.submit(3, never(), ANY, 3), None);
}

#[test]
fn a_worker_that_is_down_gets_nothing() {
    let mut scheduler = idle(2);
    scheduler.down(0, 1);
    assert_eq!(scheduler.submit(1, never(), ANY, 1), given(1, 1, 1));
    assert_eq!(scheduler.submit(2, never(), ANY, 2), None);
    assert_eq!(scheduler.up(0, 2, None), given(0, 2, 2));
}

#[test]
fn a_running_request_is_adopted() {
    let mut scheduler = Scheduler::new(2);
    assert_eq!(scheduler.submit(8, never(), ANY, 8), None);
    assert_eq!(scheduler.up(0, 4, Some((7, at(10)))), None, "busy with 7");
    assert_eq!(scheduler.busy(), [(0, 7)]);
    assert!(!scheduler.is_drained());
    assert_eq!(scheduler.next_deadline(), Some(at(10)), "and 7 is watched");
    assert_eq!(scheduler.cancel(7), Some(Removed::Running { slot: 0, epoch: 4, id: 7 }));
    assert_eq!(scheduler.expire(at(10)), Some(Removed::Running { slot: 0, epoch: 4, id: 7 }));
    assert_eq!(scheduler.idle(0, 4, 7), given(0, 4, 8));
}

#[test]
fn an_adopted_request_may_come_back() {
    let mut scheduler = Scheduler::new(1);
    scheduler.up(0, 4, Some((7, at(10))));
    assert_eq!(scheduler.resubmit(7, at(10), ANY, 7), None);
    assert_eq!(scheduler.busy(), []);
    assert_eq!(scheduler.up(0, 5, None), given(0, 5, 7));
}

// === Broken slots ===

#[test]
fn a_broken_slot_fails_what_only_it_could_run() {
    let mut scheduler = Scheduler::new(2);
    for (id, slot) in [(1, None), (2, Some(0)), (3, Some(1)), (4, Some(0))] {
        scheduler.submit(id, never(), wish(slot), id);
    }
    assert_eq!(scheduler.broken(0), [2, 4]);
    assert!(scheduler.is_broken(0) && !scheduler.is_broken(1) && !scheduler.all_broken());
    assert!(scheduler.broken(0).is_empty(), "told twice");
    assert!(!scheduler.all_broken(), "and counted once");

    assert_eq!(scheduler.broken(1), [1, 3], "nobody is left");
    assert!(scheduler.all_broken() && scheduler.is_drained());
}

#[test]
fn a_broken_slot_is_mended_by_the_next_worker() {
    let mut scheduler: Scheduler<Id> = Scheduler::new(2);
    scheduler.broken(0);
    scheduler.broken(1);
    assert_eq!(scheduler.up(0, 3, None), None);
    assert!(!scheduler.is_broken(0) && !scheduler.all_broken());
    assert_eq!(scheduler.submit(1, never(), ANY, 1), given(0, 3, 1));
}

#[test]
fn a_slot_that_breaks_forgets_what_it_ran() {
    let mut scheduler = idle(2);
    scheduler.submit(1, at(10), on(0), 1);
    scheduler.broken(0);
    assert_eq!(scheduler.busy(), []);
    assert_eq!(scheduler.next_deadline(), None);
    assert_eq!(scheduler.cancel(1), None);
    assert_eq!(
        scheduler.submit(2, never(), ANY, 2),
        given(1, 1, 2),
        "the other one still runs calls"
    );
}

// === Sizes ===

#[test]
fn a_closed_slot_finishes_what_it_runs_and_is_given_nothing() {
    let mut scheduler = idle(3);
    scheduler.submit(1, at(10), on(2), 1);
    for (id, slot) in [(2, 2), (3, 0), (4, 1), (5, 2)] {
        scheduler.submit(id, never(), on(slot), id);
    }
    scheduler.submit(6, never(), ANY, 6);
    assert_eq!(scheduler.resize(1), [2, 5], "what waits for it");
    assert_eq!(scheduler.size(), 1);
    assert!(scheduler.is_closed(1) && scheduler.is_closed(9) && !scheduler.is_closed(0));
    assert_eq!(scheduler.expire(at(10)), Some(Removed::Running { slot: 2, epoch: 1, id: 1 }));
    assert_eq!(scheduler.idle(2, 1, 1), None, "6 waits for worker 0");
    assert_eq!(scheduler.up(2, 2, None), None);
    assert_eq!(scheduler.idle(0, 1, 3), given(0, 1, 6));
}

#[test]
fn a_slot_is_opened_again_for_its_next_worker() {
    let mut scheduler = idle(2);
    assert!(scheduler.resize(1).is_empty());
    assert!(scheduler.resize(4).is_empty());
    assert_eq!(scheduler.submit(1, never(), on(1), 1), None, "its former worker is leaving");
    assert_eq!(scheduler.submit(2, never(), on(3), 2), None);
    assert_eq!(scheduler.up(1, 2, None), given(1, 2, 1));
    assert_eq!(scheduler.up(3, 1, None), given(3, 1, 2));
}

#[test]
fn closed_slots_do_not_count_among_the_broken() {
    let mut scheduler: Scheduler<Id> = Scheduler::new(3);
    scheduler.broken(0);
    scheduler.broken(2);
    assert!(!scheduler.all_broken());
    scheduler.resize(1);
    assert!(scheduler.all_broken());
    assert!(scheduler.broken(2).is_empty());
    scheduler.resize(3);
    assert!(!scheduler.is_broken(2) && !scheduler.all_broken());
}

// === Bounds ===

/// What is kept of requests that are gone is at most as much as of the `most` that have waited at once, and a
/// little.
#[track_caller]
fn assert_bounded<R>(scheduler: &super::Scheduler<R>, most: usize) {
    assert!(scheduler.queued.len() <= most);
    let own = scheduler.slots.iter().flat_map(|slot| &slot.queues);
    let lines = scheduler.queues.iter().chain(own);
    let waiting: usize = lines.inspect(|line| line.assert_bounded()).map(Line::len).sum();
    assert_eq!(waiting, scheduler.queued.len());
    assert!(scheduler.deadlines.len() <= scheduler.queued.len() + scheduler.running.len());
    for slot in &scheduler.slots {
        assert!(slot.held.len() <= MAX_HELD);
        assert_eq!(slot.alone, slot.held.iter().filter(|held| held.alone).count());
    }
}

#[test]
fn a_million_cancelled_requests_leave_nothing_behind() {
    // The first ones stay: what is cancelled is always behind them.
    let mut scheduler = queued(2, 0..100);
    for id in 100..1_000_100 {
        let slot = [None, None, Some(0), Some(1)][id as usize % 4];
        let priority = [High, Normal, Low][id as usize % 3];
        assert_eq!(scheduler.submit(id, at(id), Wish { priority, ..wish(slot) }, id), None);
        assert_eq!(scheduler.cancel(id), Some(Removed::Queued(id)));
        assert_bounded(&scheduler, 100);
    }
    assert_eq!(scheduler.drain(), (0..100).collect::<Vec<_>>());
    assert_bounded(&scheduler, 100);
    assert_eq!(scheduler.next_deadline(), None);
}

#[test]
fn a_million_cancelled_requests_among_others_that_run_leave_nothing_behind() {
    let mut scheduler = idle(3);
    let mut held = [None; 3];
    let mut most = 0;
    for id in 0..1_200_000 {
        let place = match id % 7 {
            0 | 1 => Place::Only(id as usize % 3),
            2 => Place::Preferred(id as usize % 3),
            _ => Place::Anywhere,
        };
        let priority = [High, Normal, Low][id as usize / 7 % 3];
        if let Some(given) = scheduler.submit(id, at(id), Wish { priority, place, ..ANY }, id) {
            held[given.slot] = Some(given.request);
        } else if id % 6 != 0 {
            assert_eq!(scheduler.cancel(id), Some(Removed::Queued(id)));
        }
        // One in six is left to run, and the workers keep up with them.
        for (slot, held) in held.iter_mut().enumerate().filter(|_| id % 5 == 0) {
            if let Some(ended) = held.take() {
                *held = scheduler.idle(slot, 1, ended).map(|given| given.request);
            }
        }
        most = most.max(scheduler.queued.len());
        assert_bounded(&scheduler, most);
    }
    assert!(most < 100, "{most} have waited");
}

#[test]
fn a_full_queue_that_is_cancelled_in_any_order_leaves_nothing_behind() {
    let mut scheduler = queued(1, 0..100_000);
    // Every second one from the back, then the rest from the front.
    for id in (0..100_000).rev().step_by(2).chain((0..100_000).step_by(2)) {
        assert_eq!(scheduler.cancel(id), Some(Removed::Queued(id)));
        assert_bounded(&scheduler, scheduler.queued.len());
    }
    assert!(scheduler.is_drained());
    assert!(scheduler.deadlines.is_empty());
}

#[test]
fn those_that_are_taken_out_no_longer_wait() {
    let mut scheduler = queued(1, 1..=5);
    assert_eq!(scheduler.take_where(|id| id % 2 == 0), [2, 4]);
    assert!(scheduler.take_where(|id| id % 2 == 0).is_empty());
    assert_eq!(scheduler.drain(), [1, 3, 5]);
}
