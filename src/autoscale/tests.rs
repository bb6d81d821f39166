use super::*;

const WAIT: Duration = Duration::from_millis(100);
const IDLE: Duration = Duration::from_secs(10);

fn scaler(range: RangeInclusive<usize>) -> (Scaler, Instant) {
    let now = Instant::now();
    (Scaler::new(Autoscale { range, wait: WAIT, idle: IDLE }, now), now)
}

/// All workers are busy, and so many calls wait, the oldest for so long.
fn pressed(size: usize, queued: usize, waited: Duration) -> Load {
    let peak = size + queued;
    Load { size, busy: size, queued, peak, waited: Some(waited), last_busy: true }
}

/// So many calls at most, and none that waits.
fn calm(size: usize, peak: usize) -> Load {
    Load { size, busy: 0, queued: 0, peak, waited: None, last_busy: false }
}

#[test]
fn it_grows_when_a_call_has_waited() {
    let (mut scaler, now) = scaler(1..=100);
    let left = Duration::from_millis(60);
    assert_eq!(scaler.decide(&pressed(2, 1, WAIT - left), now), Step::Look(left));
    assert_eq!(scaler.decide(&pressed(2, 1, WAIT), now), Step::Resize(3));
    assert_eq!(scaler.decide(&pressed(1, 9, WAIT), now), Step::Resize(2), "one at least");
    assert_eq!(scaler.decide(&pressed(40, 500, WAIT), now), Step::Resize(60), "half as many again");
    assert_eq!(scaler.decide(&pressed(40, 3, WAIT), now), Step::Resize(43), "no more than wait");
    assert_eq!(scaler.decide(&pressed(90, 500, WAIT), now), Step::Resize(100));
}

#[test]
fn it_grows_no_faster_than_once_per_wait_and_rests_after_a_failure() {
    let (mut scaler, now) = scaler(1..=8);
    scaler.resized(now);
    assert_eq!(scaler.decide(&pressed(2, 9, IDLE), now), Step::Look(WAIT));
    assert_eq!(scaler.decide(&pressed(2, 9, IDLE), now + WAIT), Step::Resize(3));
    scaler.failed(now);
    assert_eq!(scaler.decide(&pressed(2, 9, IDLE), now + WAIT), Step::Look(RETRY - WAIT));
    assert_eq!(scaler.decide(&pressed(2, 9, IDLE), now + RETRY), Step::Resize(3));
}

#[test]
fn workers_that_are_being_replaced_are_waited_for() {
    let (mut scaler, now) = scaler(1..=8);
    let load = Load { busy: 1, ..pressed(2, 9, WAIT) };
    assert_eq!(scaler.decide(&load, now), Step::Look(WAIT));
}

#[test]
fn it_shrinks_one_by_one_once_a_worker_was_to_spare_for_long() {
    let (mut scaler, start) = scaler(2..=8);
    assert_eq!(scaler.decide(&calm(4, 3), start), Step::Rest(Some(IDLE)));
    let half = start + IDLE / 2;
    assert_eq!(scaler.decide(&calm(4, 4), half), Step::Rest(Some(IDLE)), "all were needed");
    assert_eq!(scaler.decide(&calm(4, 3), start + IDLE), Step::Rest(Some(IDLE / 2)));
    let now = half + IDLE;
    let busy = Load { last_busy: true, ..calm(4, 3) };
    assert_eq!(scaler.decide(&busy, now), Step::Look(IDLE), "not while it works");
    assert_eq!(scaler.decide(&calm(4, 3), now), Step::Resize(3));
    scaler.resized(now);
    assert_eq!(scaler.decide(&calm(3, 0), now), Step::Rest(Some(IDLE)));
    assert_eq!(scaler.decide(&calm(3, 0), now + IDLE), Step::Resize(2));
    assert_eq!(scaler.decide(&calm(2, 0), now + IDLE * 2), Step::Rest(None), "the least size");
}

#[test]
fn the_range_is_kept() {
    let (mut scaler, now) = scaler(2..=4);
    assert_eq!(scaler.decide(&pressed(4, 99, IDLE), now), Step::Look(IDLE));
    let (mut fixed, now) = self::scaler(3..=3);
    assert_eq!(fixed.decide(&pressed(3, 99, IDLE), now), Step::Look(IDLE));
    assert_eq!(fixed.decide(&calm(3, 0), now + IDLE), Step::Look(IDLE));
}
