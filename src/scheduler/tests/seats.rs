//! Workers with several seats.

use super::super::Scheduler;
use super::*;

const ALONE: Wish = Wish { alone: true, ..ANY };

/// A scheduler with `slots` idle workers of epoch 1.
fn idle(slots: usize, seats: usize) -> Scheduler<Id> {
    let mut scheduler = Scheduler::new(slots, seats);
    for slot in 0..slots {
        assert!(scheduler.up(slot, 1, &[]));
    }
    scheduler
}

fn submit(scheduler: &mut Scheduler<Id>, id: Id, wish: Wish) -> Option<usize> {
    scheduler.submit(id, never(), wish, at(0), id).map(|given| given.slot)
}

fn ends(scheduler: &mut Scheduler<Id>, slot: usize, id: Id) -> Option<Id> {
    scheduler.idle(slot, 1, id, at(0)).map(|given| given.request)
}

fn fill(scheduler: &mut Scheduler<Id>, slot: usize) -> Vec<Id> {
    std::iter::from_fn(|| scheduler.fill(slot, at(0))).map(|given| given.request).collect()
}

#[test]
fn a_worker_takes_as_many_as_it_has_seats_and_the_least_busy_is_next() {
    let mut scheduler = idle(2, 2);
    let slots: Vec<_> = (1..=5).map(|id| submit(&mut scheduler, id, ANY)).collect();
    assert_eq!(slots, [Some(0), Some(1), Some(0), Some(1), None]);
    assert_eq!(ends(&mut scheduler, 1, 2), Some(5));
    assert_eq!(ends(&mut scheduler, 0, 1), None);
    assert_eq!(ends(&mut scheduler, 0, 3), None);
    assert_eq!(ends(&mut scheduler, 1, 5), None);
    assert_eq!(submit(&mut scheduler, 6, ANY), Some(0), "it has nothing");
}

#[test]
fn a_worker_that_comes_is_filled() {
    let mut scheduler = Scheduler::new(1, 3);
    for id in 1..=5 {
        assert_eq!(submit(&mut scheduler, id, ANY), None);
    }
    assert!(scheduler.up(0, 1, &[]));
    assert_eq!(fill(&mut scheduler, 0), [1, 2, 3]);
}

#[test]
fn one_that_runs_alone_joins_others_and_is_joined_by_none() {
    let mut scheduler = idle(2, 3);
    assert_eq!(submit(&mut scheduler, 1, ANY), Some(0));
    assert_eq!(submit(&mut scheduler, 2, ALONE), Some(1), "the one with the fewest");
    assert_eq!(submit(&mut scheduler, 3, ANY), Some(0), "as the other is given none");
    assert_eq!(submit(&mut scheduler, 4, ALONE), Some(0), "beside what overlaps");
    assert_eq!(submit(&mut scheduler, 5, ANY), None);
    assert_eq!(submit(&mut scheduler, 6, ALONE), None);
    assert_eq!(ends(&mut scheduler, 0, 1), None, "a seat, but 4 holds it up");
    assert_eq!(ends(&mut scheduler, 1, 2), Some(5));
    assert_eq!(ends(&mut scheduler, 0, 4), Some(6));
}

#[test]
fn those_that_overlap_do_not_keep_one_that_runs_alone_waiting() {
    let mut scheduler = idle(1, 2);
    assert_eq!(submit(&mut scheduler, 1, ANY), Some(0));
    assert_eq!(submit(&mut scheduler, 2, ANY), Some(0));
    assert_eq!(submit(&mut scheduler, 3, ALONE), None);
    assert_eq!(submit(&mut scheduler, 4, ANY), None);
    assert_eq!(submit(&mut scheduler, 5, ANY), None);
    assert_eq!(ends(&mut scheduler, 0, 1), Some(3), "in order of arrival");
    assert_eq!(ends(&mut scheduler, 0, 2), None);
    assert_eq!(ends(&mut scheduler, 0, 3), Some(4));
    assert_eq!(fill(&mut scheduler, 0), [5], "both have waited for it");
}

#[test]
fn what_overlaps_has_its_turn_among_those_that_run_alone() {
    let mut scheduler = idle(1, 2);
    let high = ranked(High);
    let alone = Wish { alone: true, ..high };
    assert_eq!(submit(&mut scheduler, 1, alone), Some(0));
    assert_eq!(submit(&mut scheduler, 2, ranked(Low)), None);
    let mut running = 1;
    for id in (10..).take(20) {
        assert_eq!(submit(&mut scheduler, id, alone), None);
        running = ends(&mut scheduler, 0, running).unwrap();
        if running == 2 {
            assert!(id <= 10 + 9, "{id}");
            return;
        }
    }
    panic!("it had no turn");
}

#[test]
fn a_worker_that_gives_one_back_keeps_the_others_and_takes_no_more() {
    let mut scheduler = idle(1, 3);
    for id in 1..=3 {
        assert_eq!(submit(&mut scheduler, id, ANY), Some(0));
    }
    assert_eq!(scheduler.resubmit(2, never(), ANY, at(0), 2), None);
    assert_eq!(submit(&mut scheduler, 4, ANY), None);
    assert_eq!(ends(&mut scheduler, 0, 1), None);
    assert_eq!(scheduler.cancel(3), Some(Removed::Running { slot: 0, epoch: 1, id: 3 }));
    assert!(scheduler.up(0, 2, &[]));
    assert_eq!(fill(&mut scheduler, 0), [2, 4]);
}

#[test]
fn one_that_has_taken_over_more_than_its_seats_takes_none_until_there_is_one() {
    let mut scheduler = Scheduler::new(1, 2);
    assert_eq!(submit(&mut scheduler, 9, ANY), None);
    let kept = |id| Kept { id, deadline: never(), alone: false, short: false };
    assert!(scheduler.up(0, 4, &[1, 2, 3, 4].map(kept)));
    assert!(fill(&mut scheduler, 0).is_empty());
    for id in 1..=2 {
        assert_eq!(scheduler.idle(0, 4, id, at(0)), None);
    }
    assert_eq!(scheduler.idle(0, 4, 3, at(0)), given(0, 4, 9));
    assert_eq!(scheduler.idle(0, 4, 4, at(0)), None);
    assert!(scheduler.is_free(0, ANY, at(0)));
}

#[test]
fn a_busy_worker_whose_slot_is_opened_again_takes_what_waits() {
    let mut scheduler = idle(2, 2);
    assert_eq!(submit(&mut scheduler, 1, on(1)), Some(1));
    assert!(scheduler.resize(1).is_empty());
    for (id, slot) in [(2, Some(0)), (3, Some(0)), (4, None), (5, None)] {
        assert_eq!(submit(&mut scheduler, id, ANY), slot);
    }
    assert!(scheduler.resize(2).is_empty());
    assert_eq!(fill(&mut scheduler, 1), [4], "one seat of two");
}

#[test]
fn one_that_has_moved_to_another_slot_is_not_taken_where_it_waited() {
    let mut scheduler = Scheduler::new(2, 1);
    assert_eq!(submit(&mut scheduler, 1, on(1)), None);
    assert_eq!(scheduler.resize(1), [1]);
    assert_eq!(submit(&mut scheduler, 1, on(0)), None, "its key belongs to that slot now");
    assert!(scheduler.resize(2).is_empty());
    assert!(scheduler.up(1, 1, &[]));
    assert!(fill(&mut scheduler, 1).is_empty());
    assert!(scheduler.up(0, 1, &[]));
    assert_eq!(fill(&mut scheduler, 0), [1]);
}

#[test]
fn a_worker_that_is_gone_leaves_none_of_its_seats_taken() {
    let mut scheduler = idle(1, 2);
    submit(&mut scheduler, 1, ANY);
    submit(&mut scheduler, 2, ALONE);
    scheduler.down(0, 1);
    assert_eq!(scheduler.next_deadline(), None);
    assert!(scheduler.up(0, 2, &[]));
    assert_eq!(scheduler.idle(0, 2, 1, at(0)), None, "of the earlier one");
    assert_eq!(submit(&mut scheduler, 3, ANY), Some(0));
    assert_eq!(submit(&mut scheduler, 4, ALONE), Some(0));
    assert_eq!(submit(&mut scheduler, 5, ANY), None);
}
