//! Requests that are gathered.

use super::super::Scheduler;
use super::*;

/// Calls of a handler of which four go together, the first of them not before 5 ms have passed.
fn of(handler: u32) -> Wish {
    gathered(handler, 4, 5)
}

fn gathered(handler: u32, size: u16, wait: u64) -> Wish {
    let wait = Duration::from_millis(wait);
    Wish { batch: Some(Batch { handler, size, wait }), ..ANY }
}

/// A scheduler with `slots` idle workers of epoch 1.
fn idle(slots: usize, seats: usize) -> Scheduler<Id> {
    let mut scheduler = Scheduler::new(slots, seats);
    for slot in 0..slots {
        assert!(scheduler.up(slot, 1, &[]));
    }
    scheduler
}

fn submit(scheduler: &mut Scheduler<Id>, id: Id, wish: Wish, millis: u64) -> Option<usize> {
    scheduler.submit(id, never(), wish, at(millis), id).map(|given| given.slot)
}

/// What the slot's worker takes when it has ended `id`.
fn ends(scheduler: &mut Scheduler<Id>, slot: usize, id: Id, millis: u64) -> Vec<Id> {
    let first = scheduler.idle(slot, 1, id, at(millis)).map(|given| given.request);
    first.into_iter().chain(fill(scheduler, slot, millis)).collect()
}

fn fill(scheduler: &mut Scheduler<Id>, slot: usize, millis: u64) -> Vec<Id> {
    std::iter::from_fn(|| scheduler.fill(slot, at(millis))).map(|given| given.request).collect()
}

#[test]
fn those_that_wait_go_together_as_many_as_there_may_be() {
    for wait in [0, 5] {
        let mut scheduler = idle(1, 1);
        assert_eq!(submit(&mut scheduler, 1, ANY, 0), Some(0));
        for id in 2..=7 {
            assert_eq!(submit(&mut scheduler, id, gathered(0, 4, wait), 0), None);
        }
        assert_eq!(submit(&mut scheduler, 8, ANY, 0), None);
        assert_eq!(ends(&mut scheduler, 0, 1, 9), [2, 3, 4, 5]);
        for id in 2..=4 {
            assert!(ends(&mut scheduler, 0, id, 9).is_empty(), "5 still has the seat");
        }
        assert_eq!(ends(&mut scheduler, 0, 5, 9), [6, 7]);
        assert!(ends(&mut scheduler, 0, 6, 9).is_empty());
        assert_eq!(ends(&mut scheduler, 0, 7, 9), [8]);
    }
}

#[test]
fn one_that_arrives_joins_while_the_first_waits() {
    let mut scheduler = idle(1, 1);
    assert_eq!(submit(&mut scheduler, 1, of(0), 10), Some(0));
    assert_eq!(submit(&mut scheduler, 2, of(0), 14), Some(0));
    assert_eq!(submit(&mut scheduler, 3, of(1), 14), None, "another handler");
    assert_eq!(submit(&mut scheduler, 4, of(0), 15), None, "its time is over");
    assert!(ends(&mut scheduler, 0, 1, 15).is_empty());
    assert_eq!(ends(&mut scheduler, 0, 2, 15), [3]);
}

#[test]
fn a_full_batch_takes_no_more() {
    let mut scheduler = idle(2, 1);
    let slots: Vec<_> = (1..=6).map(|id| submit(&mut scheduler, id, of(0), 0)).collect();
    assert_eq!(slots, [Some(0), Some(0), Some(0), Some(0), Some(1), Some(1)]);
    let mut scheduler = idle(1, 1);
    assert_eq!(submit(&mut scheduler, 1, gathered(0, 1, 5), 0), Some(0));
    assert_eq!(submit(&mut scheduler, 2, gathered(0, 1, 5), 0), None, "of one");
}

#[test]
fn a_batch_is_over_when_one_of_it_has_ended() {
    let mut scheduler = idle(1, 1);
    for id in 1..=2 {
        assert_eq!(submit(&mut scheduler, id, of(0), 0), Some(0));
    }
    assert!(ends(&mut scheduler, 0, 1, 1).is_empty());
    assert_eq!(submit(&mut scheduler, 3, of(0), 1), None);
    assert_eq!(ends(&mut scheduler, 0, 2, 1), [3]);
}

#[test]
fn batches_of_several_handlers_are_gathered_side_by_side() {
    let mut scheduler = idle(1, 2);
    for (id, handler) in [(1, 0), (2, 1), (3, 0), (4, 1), (5, 0)] {
        assert_eq!(submit(&mut scheduler, id, of(handler), 0), Some(0));
    }
    assert_eq!(submit(&mut scheduler, 6, ANY, 0), None, "two seats");
}

#[test]
fn one_for_any_slot_joins_whichever_batch_has_room() {
    let mut scheduler = idle(2, 1);
    let at_slot = |slot| Wish { place: Place::Only(slot), ..of(0) };
    assert_eq!(submit(&mut scheduler, 1, at_slot(0), 0), Some(0));
    for id in 2..=5 {
        assert_eq!(submit(&mut scheduler, id, at_slot(1), 0), Some(1));
    }
    assert_eq!(submit(&mut scheduler, 6, at_slot(1), 0), None, "that one is full");
    assert_eq!(submit(&mut scheduler, 7, of(0), 0), Some(0));
}

#[test]
fn one_for_a_slot_joins_only_there_and_takes_others_along() {
    let mut scheduler = idle(2, 1);
    let at_slot = |slot| Wish { place: Place::Only(slot), ..of(0) };
    assert_eq!(submit(&mut scheduler, 1, of(0), 0), Some(0));
    assert_eq!(submit(&mut scheduler, 2, at_slot(1), 0), Some(1));
    assert_eq!(submit(&mut scheduler, 3, ANY, 9), None);
    assert_eq!(submit(&mut scheduler, 4, at_slot(1), 9), None);
    assert_eq!(submit(&mut scheduler, 5, of(0), 9), None);
    assert_eq!(submit(&mut scheduler, 6, at_slot(0), 9), None);
    assert_eq!(ends(&mut scheduler, 0, 1, 9), [3]);
    assert_eq!(ends(&mut scheduler, 1, 2, 9), [4, 5]);
    assert_eq!(ends(&mut scheduler, 0, 3, 9), [6]);
}

#[test]
fn a_preferred_worker_that_is_free_comes_before_a_batch_elsewhere() {
    let mut scheduler = idle(2, 1);
    let prefers = |slot| Wish { place: Place::Preferred(slot), ..of(0) };
    assert_eq!(submit(&mut scheduler, 1, of(0), 0), Some(0));
    assert_eq!(submit(&mut scheduler, 2, prefers(1), 0), Some(1));
    assert_eq!(submit(&mut scheduler, 3, prefers(1), 0), Some(1), "and its batch");
    assert_eq!(submit(&mut scheduler, 4, prefers(1), 0), Some(1));
    assert_eq!(submit(&mut scheduler, 5, prefers(1), 0), Some(1));
    assert_eq!(submit(&mut scheduler, 6, prefers(1), 0), Some(0), "it is full");
}

#[test]
fn one_that_is_not_to_wait_may_join() {
    let mut scheduler = idle(1, 1);
    let now = Wish { place: Place::Now(0), ..of(0) };
    assert_eq!(submit(&mut scheduler, 1, of(0), 0), Some(0));
    assert!(scheduler.is_free(0, now, at(4)));
    assert!(!scheduler.is_free(0, now, at(5)) && !scheduler.is_free(0, ANY, at(4)));
    assert_eq!(submit(&mut scheduler, 2, now, 4), Some(0));
}

#[test]
fn the_highest_priority_joins_first() {
    let mut scheduler = idle(1, 1);
    assert_eq!(submit(&mut scheduler, 1, ANY, 0), Some(0));
    for id in 2..=6 {
        assert_eq!(submit(&mut scheduler, id, Wish { priority: Low, ..of(0) }, 0), None);
    }
    for id in 7..=9 {
        assert_eq!(submit(&mut scheduler, id, Wish { priority: High, ..of(0) }, 0), None);
    }
    assert_eq!(ends(&mut scheduler, 0, 1, 0), [7, 8, 9, 2]);
}

#[test]
fn joining_a_batch_takes_no_turn_from_those_that_cannot() {
    let mut scheduler = idle(1, 1);
    let high = |id| gathered(id as u32, 2, 0);
    assert_eq!(submit(&mut scheduler, 1, Wish { priority: High, ..ANY }, 0), Some(0));
    assert_eq!(submit(&mut scheduler, 2, ranked(Low), 0), None);
    let mut held = vec![1];
    for id in (10..).step_by(2).take(12) {
        assert_eq!(submit(&mut scheduler, id, Wish { priority: High, ..high(id) }, 0), None);
        assert_eq!(submit(&mut scheduler, id + 1, Wish { priority: Low, ..high(id) }, 0), None);
        let next = held.drain(..).flat_map(|id| ends(&mut scheduler, 0, id, id)).collect();
        held = next;
        if held.contains(&2) {
            assert_eq!(id, 10 + 2 * 8);
            return;
        }
    }
    panic!("it had no turn");
}

#[test]
fn one_that_is_cancelled_while_it_waits_joins_nothing() {
    let mut scheduler = idle(1, 1);
    assert_eq!(submit(&mut scheduler, 1, ANY, 0), Some(0));
    for id in 2..=5 {
        assert_eq!(submit(&mut scheduler, id, of(0), 0), None);
    }
    for id in [2, 4] {
        assert_eq!(scheduler.cancel(id), Some(Removed::Queued(id)));
    }
    assert_eq!(ends(&mut scheduler, 0, 1, 0), [3, 5]);
    assert_eq!(submit(&mut scheduler, 6, of(0), 1), Some(0), "two places are left");
}

#[test]
fn a_worker_that_gives_one_back_is_joined_no_more() {
    let mut scheduler = idle(1, 3);
    assert_eq!(submit(&mut scheduler, 1, of(0), 0), Some(0));
    assert_eq!(submit(&mut scheduler, 2, of(0), 0), Some(0));
    assert_eq!(submit(&mut scheduler, 3, ANY, 0), Some(0));
    assert_eq!(submit(&mut scheduler, 4, of(1), 0), Some(0));
    // It is leaving. What it has of batches that it has not begun, it will give back, too.
    assert_eq!(scheduler.resubmit(1, never(), of(0), at(1), 1), None);
    for (id, handler) in [(5, 0), (6, 1)] {
        assert_eq!(submit(&mut scheduler, id, of(handler), 1), None);
    }
    assert!(ends(&mut scheduler, 0, 3, 1).is_empty());
    for (id, handler) in [(2, 0), (4, 1)] {
        assert_eq!(scheduler.resubmit(id, never(), of(handler), at(1), id), None);
    }
    assert!(scheduler.up(0, 2, &[]));
    assert_eq!(fill(&mut scheduler, 0, 2), [4, 6, 2, 1, 5]);
}

#[test]
fn a_batch_whose_worker_dies_is_gathered_again() {
    let mut scheduler = idle(2, 1);
    assert_eq!(submit(&mut scheduler, 9, on(1), 0), Some(1));
    for id in 1..=3 {
        assert_eq!(submit(&mut scheduler, id, of(0), 0), Some(0));
    }
    scheduler.down(0, 1);
    assert_eq!(submit(&mut scheduler, 4, of(0), 1), None, "it is gathered there no more");
    for id in (1..=3).rev() {
        assert_eq!(scheduler.resubmit(id, never(), of(0), at(1), id), None);
    }
    assert_eq!(ends(&mut scheduler, 1, 9, 2), [1, 2, 3, 4]);
}

#[test]
fn a_batch_at_a_slot_that_is_closed_is_joined_no_more() {
    let mut scheduler = idle(2, 1);
    assert_eq!(submit(&mut scheduler, 1, on(0), 0), Some(0));
    for id in 2..=3 {
        assert_eq!(submit(&mut scheduler, id, of(0), 0), Some(1));
    }
    assert!(scheduler.resize(1).is_empty());
    assert_eq!(submit(&mut scheduler, 4, of(0), 1), None);
    assert!(scheduler.resize(2).is_empty());
    assert_eq!(submit(&mut scheduler, 5, of(0), 1), None, "nor when it is opened again");
    assert!(ends(&mut scheduler, 1, 2, 1).is_empty());
    assert_eq!(ends(&mut scheduler, 1, 3, 1), [4, 5], "its worker has not left");
}

#[test]
fn requests_of_a_batch_expire_one_by_one() {
    let mut scheduler = idle(1, 1);
    for (id, deadline) in [(1, 30), (2, 20), (3, 40)] {
        assert_eq!(scheduler.submit(id, at(deadline), of(0), at(0), id), given(0, 1, id));
    }
    for id in [2, 1] {
        let running = Removed::Running { slot: 0, epoch: 1, id };
        assert_eq!(scheduler.expire(at(30)), Some(running));
    }
    assert_eq!(scheduler.expire(at(30)), None);
    assert!(ends(&mut scheduler, 0, 2, 30).is_empty());
    assert_eq!(scheduler.next_deadline(), Some(at(40)));
}

#[test]
fn a_worker_holds_so_many_at_most_whatever_the_size_of_a_batch() {
    let mut scheduler = idle(1, 2);
    let wish = gathered(0, 1_000, 5);
    for id in 0..MAX_HELD as Id {
        assert_eq!(submit(&mut scheduler, id, wish, 0), Some(0));
    }
    assert_eq!(submit(&mut scheduler, 1_000, wish, 0), None);
    assert_eq!(submit(&mut scheduler, 1_001, ANY, 0), None, "though there is a seat");
    assert_eq!(ends(&mut scheduler, 0, 7, 1), [1_000]);
    assert!(ends(&mut scheduler, 0, 8, 1).is_empty());
    assert_eq!(ends(&mut scheduler, 0, 1_000, 1), [1_001]);
}

#[test]
fn handlers_of_two_kinds_that_have_one_number_are_not_gathered_together() {
    let mut scheduler = idle(1, 3);
    let alone = Wish { alone: true, ..of(0) };
    assert_eq!(submit(&mut scheduler, 1, of(0), 0), Some(0));
    assert_eq!(submit(&mut scheduler, 2, alone, 0), Some(0), "reloaded, it runs alone");
    assert_eq!(submit(&mut scheduler, 3, of(0), 0), None, "what it holds up, nobody joins");
    assert_eq!(submit(&mut scheduler, 4, alone, 0), Some(0), "but its own batch");
    assert!(ends(&mut scheduler, 0, 2, 1).is_empty());
    assert_eq!(ends(&mut scheduler, 0, 4, 1), [3]);
}

#[test]
fn handlers_that_are_gone_leave_nothing_behind() {
    let mut scheduler = idle(1, 2);
    for handler in 0..20_000 {
        let first = Id::from(handler) * 10;
        let wish = gathered(handler, 3, 5);
        // One is left without company, one batch is full, and of those that wait one is cancelled.
        let ids = first..first + 7;
        for id in ids.clone() {
            let place = if id % 2 == 0 { Place::Anywhere } else { Place::Only(0) };
            submit(&mut scheduler, id, Wish { place, ..wish }, first);
        }
        assert_eq!(scheduler.queued.len(), 1);
        scheduler.cancel(first + 6);
        submit(&mut scheduler, first + 7, wish, first);
        for id in first..first + 8 {
            ends(&mut scheduler, 0, id, first);
        }
        assert!(scheduler.running.is_empty() && scheduler.queued.is_empty());
        scheduler.assert_nothing_is_gathered();
    }
}
