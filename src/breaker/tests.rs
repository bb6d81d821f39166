use std::sync::LazyLock;

use super::*;

const COOL_DOWN: Duration = Duration::from_secs(5);

/// A moment, in seconds after all moments began.
fn at(seconds: u64) -> Instant {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    *START + Duration::from_secs(seconds)
}

fn circuits(threshold: u32) -> Circuits {
    Circuits { threshold, cool_down: COOL_DOWN, by_handler: HashMap::new() }
}

fn refused(failures: u32, seconds: u64) -> Option<Refusal> {
    Some(Refusal { failures, retry_in: Duration::from_secs(seconds) })
}

/// A call of handler `f` that begins and ends.
fn call(circuits: &mut Circuits, id: u64, verdict: Verdict, now: Instant) -> Option<Change> {
    circuits.begins("f", id, now);
    circuits.ends("f", id, verdict, now)
}

/// The circuit of `f` is opened at second 0 by calls 1 to 3.
fn open() -> Circuits {
    let mut circuits = circuits(3);
    assert_eq!(call(&mut circuits, 1, Verdict::Failed, at(0)), None);
    assert_eq!(call(&mut circuits, 2, Verdict::Failed, at(0)), None);
    assert_eq!(circuits.refuses("f", at(0)), None);
    let opened = call(&mut circuits, 3, Verdict::Failed, at(0));
    assert_eq!(opened, Some(Change::Opened { failures: 3 }));
    circuits
}

#[test]
fn failures_in_a_row_open_it_for_the_cool_down() {
    let circuits = open();
    assert_eq!(circuits.refuses("f", at(0)), refused(3, 5));
    assert_eq!(circuits.refuses("f", at(4)), refused(3, 1));
    assert_eq!(circuits.refuses("f", at(5)), None);
    assert_eq!(circuits.refuses("g", at(0)), None, "another handler");
}

#[test]
fn an_answer_ends_the_row() {
    let mut circuits = circuits(3);
    for id in 0..100 {
        let verdict = if id % 3 == 2 { Verdict::Answered } else { Verdict::Failed };
        assert_eq!(call(&mut circuits, id, verdict, at(0)), None);
        assert_eq!(circuits.refuses("f", at(0)), None);
    }
    call(&mut circuits, 100, Verdict::Answered, at(0));
    assert!(circuits.by_handler.is_empty());
}

#[test]
fn what_says_nothing_changes_nothing() {
    let mut circuits = circuits(3);
    for id in 0..2 {
        call(&mut circuits, id, Verdict::Failed, at(0));
    }
    for id in 2..20 {
        assert_eq!(call(&mut circuits, id, Verdict::Unknown, at(0)), None);
    }
    assert!(call(&mut circuits, 20, Verdict::Failed, at(0)).is_some());
}

#[test]
fn one_call_is_let_through_and_its_answer_closes_it() {
    let mut circuits = open();
    circuits.begins("f", 4, at(5));
    assert_eq!(circuits.refuses("f", at(5)), refused(3, 5), "one at a time");
    circuits.begins("f", 5, at(5));
    assert_eq!(circuits.ends("f", 5, Verdict::Failed, at(6)), None, "that was not it");
    assert_eq!(circuits.ends("f", 4, Verdict::Answered, at(6)), Some(Change::Closed));
    assert_eq!(circuits.refuses("f", at(6)), None);
    assert!(circuits.by_handler.is_empty());
}

#[test]
fn its_failure_opens_it_again() {
    let mut circuits = open();
    let reopened = call(&mut circuits, 4, Verdict::Failed, at(7));
    assert_eq!(reopened, Some(Change::Opened { failures: 4 }));
    assert_eq!(circuits.refuses("f", at(11)), refused(4, 1));
    assert_eq!(circuits.refuses("f", at(12)), None);
}

#[test]
fn one_that_never_started_leaves_it_to_the_next() {
    let mut circuits = open();
    assert_eq!(call(&mut circuits, 4, Verdict::Unknown, at(7)), None);
    assert_eq!(circuits.refuses("f", at(7)), None);
    circuits.begins("f", 5, at(7));
    assert_eq!(circuits.refuses("f", at(7)), refused(3, 5));
}

#[test]
fn those_that_had_begun_before_neither_close_nor_prolong_it() {
    let mut circuits = open();
    assert_eq!(circuits.ends("f", 90, Verdict::Answered, at(1)), None);
    assert_eq!(circuits.ends("f", 91, Verdict::Failed, at(2)), None);
    assert_eq!(circuits.refuses("f", at(2)), refused(3, 3));
}

#[test]
fn a_threshold_of_nothing_never_opens() {
    let mut circuits = circuits(0);
    for id in 0..1_000 {
        assert_eq!(call(&mut circuits, id, Verdict::Failed, at(0)), None);
    }
    assert!(circuits.by_handler.is_empty());
}

#[test]
fn the_first_failure_may_be_enough() {
    let mut circuits = circuits(1);
    assert!(call(&mut circuits, 1, Verdict::Failed, at(0)).is_some());
}

#[test]
fn without_a_failure_nothing_is_locked() {
    let breaker = Breaker::new(1, COOL_DOWN);
    let guard = breaker.lock();
    assert_eq!(breaker.refuses("f", at(0)), None);
    breaker.begins("f", 1, at(0));
    assert_eq!(breaker.ends("f", 1, Verdict::Answered, at(0)), None);
    drop(guard);

    assert!(breaker.ends("f", 2, Verdict::Failed, at(0)).is_some());
    assert_eq!(breaker.refuses("f", at(0)), refused(1, 5));
    breaker.begins("f", 3, at(5));
    assert_eq!(breaker.ends("f", 3, Verdict::Answered, at(5)), Some(Change::Closed));
    assert!(!breaker.any());
}

#[test]
fn those_that_are_open_are_told_since_when_and_until_when() {
    let told = |circuits: &Circuits, now| {
        let tell = |it: OpenCircuit| (it.failures, it.open_for.as_secs(), it.retry_in.as_secs());
        circuits.open(at(now)).into_iter().map(tell).collect::<Vec<_>>()
    };
    let mut circuits = open();
    assert_eq!(told(&circuits, 1), [(3, 1, 4)]);
    assert_eq!(told(&circuits, 7), [(3, 7, 0)], "the next call decides");
    circuits.begins("f", 4, at(7));
    assert_eq!(told(&circuits, 7), [(3, 7, 0)], "or this one");
    circuits.ends("f", 4, Verdict::Failed, at(8));
    assert_eq!(told(&circuits, 9), [(4, 9, 4)], "it has been so all the time");
    for handler in ["e", "g", "a"] {
        let circuit = Circuit { failures: 1, since: None, state: State::Closed };
        circuits.by_handler.insert(handler.to_owned(), circuit);
    }
    assert_eq!(told(&circuits, 9).len(), 1, "one failure opens none");
    call(&mut circuits, 5, Verdict::Answered, at(13));
    assert_eq!(told(&circuits, 13), []);
}
