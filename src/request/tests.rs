use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;

use super::*;
use crate::session::SessionStore;
use crate::wire::{FrameBuilder, Kind};

/// Two slots, and room for three calls beside those that run.
fn shared() -> Arc<Shared> {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let name = format!("request-tests/{}", SERIAL.fetch_add(1, Ordering::Relaxed));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let sessions = runtime.block_on(SessionStore::of_pool(name)).unwrap();
    Arc::new(Shared::new(crate::config::tests::config(2, 3), None, sessions))
}

fn ticket(shared: &Arc<Shared>, id: u64) -> (Ticket, oneshot::Receiver<Answer>) {
    Ticket::admit(shared, &"größe".into(), id, Instant::now(), Duration::from_secs(60)).unwrap()
}

fn request(shared: &Arc<Shared>, id: u64) -> (Box<Request>, oneshot::Receiver<Answer>) {
    let (ticket, answer) = ticket(shared, id);
    let mut frame = FrameBuilder::new(Kind::Call, "größe");
    frame.json().extend_from_slice(b"[1]");
    (Request::new(frame.finish(id, 0, 1024).unwrap().into(), Wish::default(), ticket), answer)
}

/// Gives a ticket to the worker of slot 0.
fn begin(shared: &Arc<Shared>, ticket: &mut Ticket) {
    let epoch = shared.board.starting(0);
    ticket.assign(Held { slot: 0, epoch, id: ticket.id }, &Wish::default(), Instant::now());
    assert_eq!(counts(shared), (0, 1));
}

/// (queued, busy)
fn counts(shared: &Shared) -> (usize, usize) {
    let stats = shared.board.stats();
    let ended = stats.completed + stats.failed.total();
    assert_eq!(stats.submitted, ended + (stats.queued + stats.busy) as u64, "{stats:?}");
    (stats.queued, stats.busy)
}

fn ok() -> Answer {
    Ok(Payload { json: Bytes::from_static(b"1"), buffers: Vec::new() })
}

#[test]
fn a_call_over_the_limit_is_refused_and_leaves_no_trace() {
    let shared = shared();
    let tickets: Vec<_> = (1..=5).map(|id| ticket(&shared, id)).collect();
    let refused = Ticket::admit(&shared, &"größe".into(), 6, Instant::now(), Duration::ZERO);
    assert!(matches!(refused, Err(Error::Saturated { limit: 3 })));
    assert_eq!(counts(&shared), (5, 0));
    assert_eq!(shared.board.stats().rejected, 1);
    drop(tickets);
    assert_eq!(counts(&shared), (0, 0), "each makes room as it ends");
}

#[test]
fn an_answer_is_counted_before_it_is_sent() {
    let shared = shared();
    let (mut ticket, mut answer) = ticket(&shared, 1);
    begin(&shared, &mut ticket);
    let settled = ticket.settle(ok(), WorkerState::Idle, Instant::now());
    assert_eq!((counts(&shared), shared.board.stats().completed), ((0, 0), 1));
    assert!(answer.try_recv().is_err(), "not yet");
    settled.send();
    assert_eq!(answer.try_recv().unwrap().unwrap().json, "1");
    assert_eq!(shared.board.stats().completed, 1, "once");
}

#[test]
fn an_error_is_counted_and_answered_once() {
    let shared = shared();
    let (ticket, mut answer) = ticket(&shared, 1);
    let error = Error::UnknownHandler { name: "f".to_owned(), known: vec![] };
    ticket.answer(Err(error), WorkerState::Down);
    assert!(matches!(answer.try_recv(), Ok(Err(Error::UnknownHandler { .. }))));
    let failed = shared.board.stats().failed;
    assert_eq!((failed.unknown_handler, failed.total()), (1, 1));
    assert_eq!(counts(&shared), (0, 0));
}

#[test]
fn one_whose_caller_is_gone_is_abandoned() {
    let shared = shared();
    let (first, answer) = ticket(&shared, 1);
    assert!(!first.is_abandoned());
    drop(answer);
    assert!(first.is_abandoned());
    first.abandon(WorkerState::Down);
    assert_eq!(shared.board.stats().failed.abandoned, 1);

    let (lost, answer) = ticket(&shared, 2);
    drop(answer);
    drop(lost);
    let failed = shared.board.stats().failed;
    assert_eq!((failed.abandoned, failed.total()), (2, 2));
    assert_eq!(counts(&shared), (0, 0));
}

#[test]
fn one_that_is_lost_in_the_queue_can_be_called_again() {
    let shared = shared();
    let (lost, mut answer) = ticket(&shared, 1);
    drop(lost);
    let error = answer.try_recv().unwrap().unwrap_err();
    assert!(matches!(error, Error::Restarted { .. }) && error.is_retryable(), "{error}");
    assert_eq!(shared.board.stats().failed.restarted, 1);

    // One that a worker gave back unstarted is lost in the queue as well.
    let (mut lost, mut answer) = ticket(&shared, 2);
    begin(&shared, &mut lost);
    lost.unassign(WorkerState::Stopping);
    assert_eq!(counts(&shared), (1, 0));
    drop(lost);
    let error = answer.try_recv().unwrap().unwrap_err();
    assert!(matches!(error, Error::Restarted { .. }), "{error}");

    shared.stop_admitting();
    let (lost, mut answer) = ticket(&shared, 3);
    drop(lost);
    let error = answer.try_recv().unwrap().unwrap_err();
    assert!(matches!(error, Error::Closed { .. }), "{error}");
    assert_eq!(shared.board.stats().failed.closed, 1);
    assert_eq!(counts(&shared), (0, 0));
}

#[test]
fn one_that_is_lost_with_its_worker_may_have_run() {
    for closed in [false, true] {
        let shared = shared();
        let (mut lost, mut answer) = ticket(&shared, 1);
        begin(&shared, &mut lost);
        if closed {
            shared.stop_admitting();
        }
        drop(lost);
        let error = answer.try_recv().unwrap().unwrap_err();
        assert!(error.may_have_run() && !error.is_retryable(), "nobody knows better: {error}");
        assert_eq!(counts(&shared), (0, 0));
    }
}

#[test]
fn a_timeout_says_where_the_call_was() {
    let shared = shared();
    let later = Instant::now() + Duration::from_secs(61);
    let (queued, mut answer) = request(&shared, 1);
    queued.time_out(later, WorkerState::Down);
    let (mut running, mut other) = request(&shared, 2);
    begin(&shared, &mut running.ticket);
    running.time_out(later, WorkerState::Stopping);
    for (answer, expected) in [(&mut answer, Stage::Queue), (&mut other, Stage::Run)] {
        match answer.try_recv().unwrap() {
            Err(Error::Timeout { handler, stage, elapsed, timeout, .. }) => {
                assert_eq!((&*handler, stage), ("größe", expected));
                assert_eq!(timeout, Duration::from_secs(60));
                assert!(elapsed >= timeout);
            }
            other => panic!("{other:?}"),
        }
    }
    let failed = shared.board.stats().failed;
    assert_eq!((failed.timeout_queued, failed.timeout_running, failed.total()), (1, 1, 2));
}

#[test]
fn one_that_no_worker_starts_is_passed_on_twice() {
    let shared = shared();
    let (mut request, _answer) = request(&shared, 1);
    assert!(request.may_be_reassigned() && request.may_be_reassigned());
    assert!(!request.may_be_reassigned());

    let (mut request, answer) = self::request(&shared, 2);
    drop(answer);
    assert!(!request.may_be_reassigned(), "nobody waits for it");
}

#[test]
fn no_timeout_is_too_long() {
    let shared = shared();
    let start = Instant::now();
    let (ticket, _answer) =
        Ticket::admit(&shared, &"größe".into(), 1, start, Duration::MAX).unwrap();
    assert!(ticket.deadline > start + Duration::from_secs(10 * 365 * 24 * 3600));
    let (ticket, _answer) =
        Ticket::admit(&shared, &"größe".into(), 2, start, Duration::ZERO).unwrap();
    assert_eq!(ticket.deadline, start);
}

#[test]
fn the_sums_agree_at_every_look_while_many_threads_call() {
    let shared = shared();
    let rounds = 20_000;
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..3)
            .map(|caller| {
                let shared = &shared;
                let handler = "f".into();
                scope.spawn(move || {
                    for round in 0..rounds {
                        let Ok((mut ticket, answer)) = Ticket::admit(
                            shared,
                            &handler,
                            caller * rounds + round,
                            Instant::now(),
                            Duration::ZERO,
                        ) else {
                            continue;
                        };
                        if round % 3 > 0 {
                            let held = Held { slot: caller as usize % 2, epoch: 1, id: ticket.id };
                            ticket.assign(held, &Wish::default(), Instant::now());
                        }
                        if round % 5 == 0 {
                            ticket.unassign(WorkerState::Idle);
                        }
                        match round % 4 {
                            0 => ticket.answer(ok(), WorkerState::Idle),
                            1 => drop((answer, ticket)),
                            2 => ticket.abandon(WorkerState::Idle),
                            _ => drop(ticket),
                        }
                    }
                })
            })
            .collect();
        while callers.iter().any(|caller| !caller.is_finished()) {
            let (queued, busy) = counts(&shared);
            assert!(queued + busy <= 5, "over the limit");
        }
    });
    assert_eq!(counts(&shared), (0, 0));
    let stats = shared.board.stats();
    assert_eq!(stats.submitted + stats.rejected, 3 * rounds);
    assert!(stats.completed > 0 && stats.failed.abandoned > 0 && stats.failed.restarted > 0);
}
