use proptest::prelude::*;
use proptest::sample::Index;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::error::{Ended, Exit, PythonException, WorkerDeath};
use crate::request::Why;
use crate::stats::{Quantiles, Stats};

fn link() -> (Link, UnboundedReceiver<Command>) {
    unbounded_channel()
}

fn start_error() -> Arc<StartError> {
    Arc::new(StartError::System("no more processes".to_owned()))
}

/// A board whose slots all have an idle worker of epoch 1.
fn ready(slots: usize) -> (Board, Vec<UnboundedReceiver<Command>>) {
    let board = Board::new(slots, 1);
    let receivers = (0..slots).map(|slot| {
        let (link, receiver) = link();
        assert_eq!(board.starting(slot), 1);
        board.spawned(slot, 1, 100 + slot as i32);
        assert_eq!(
            board.ready(slot, 1, 100 + slot as i32, link),
            slot + 1 == slots,
            "all ready at the last one only"
        );
        receiver
    });
    let receivers = receivers.collect();
    (board, receivers)
}

fn held(slot: usize, epoch: u64, id: u64) -> Held {
    Held { slot, epoch, id }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Admits call `id` and gives it to the worker of a slot.
fn begin(board: &Board, held: Held) {
    assert!(board.admit(1024));
    board.assign(held, soon(), &Wish::default(), Duration::ZERO);
}

fn end(board: &Board, held: Held) {
    board.ended_running(held, Outcome::Completed, Duration::ZERO, WorkerState::Idle);
}

fn states(board: &Board) -> Vec<WorkerState> {
    board.lock().slots.iter().map(|slot| slot.state).collect()
}

#[track_caller]
fn assert_sums(stats: &Stats) {
    let ended = stats.completed + stats.failed.total();
    assert_eq!(stats.submitted, ended + (stats.queued + stats.busy) as u64, "{stats:?}");
}

// === Admission ===

#[test]
fn calls_are_admitted_up_to_the_limit_beside_one_per_slot() {
    let board = Board::new(2, 1);
    for _ in 0..5 {
        assert!(board.admit(3));
    }
    assert!(!board.admit(3) && !board.admit(3));
    let stats = board.stats();
    assert_eq!((stats.submitted, stats.queued, stats.rejected), (5, 5, 2));
    assert_sums(&stats);

    board.ended_queued(Outcome::Abandoned);
    assert!(board.admit(3), "there is room again");
    assert!(!board.admit(3));
    board.assign(held(0, 0, 1), soon(), &Wish::default(), Duration::ZERO);
    assert!(!board.admit(3), "one that runs counts as well");
}

#[test]
fn a_limit_of_none_leaves_one_per_slot() {
    let board = Board::new(2, 1);
    assert!(board.admit(0) && board.admit(0) && !board.admit(0));
}

#[test]
fn a_limit_of_all_calls_admits_them() {
    let board = Board::new(4, 1);
    for _ in 0..100 {
        assert!(board.admit(usize::MAX));
    }
}

// === Outcomes ===

#[test]
fn each_end_is_counted_under_its_kind() {
    let text = str::to_owned;
    let timeout = |stage| Error::Timeout {
        handler: text("h"),
        stage,
        elapsed: Duration::ZERO,
        timeout: Duration::ZERO,
        python_stack: String::new(),
    };
    let exception = PythonException {
        type_name: text("E"),
        module: text("m"),
        message: text(""),
        traceback: text(""),
        cause: None,
    };
    let death = WorkerDeath {
        worker: text("w"),
        pid: 1,
        handler: text("h"),
        exit: Exit::Unknown,
        ended: Ended::Itself,
        started: true,
        stderr: text(""),
        python_stack: text(""),
    };
    let bad = Error::BadResult {
        handler: text("h"),
        type_name: text("set"),
        path: text("$"),
        message: text(""),
    };
    let none = Failures::default;
    let rows = [
        (
            Error::Python { handler: text("h"), exception: Arc::new(exception) },
            Failures { exception: 1, ..none() },
        ),
        (bad, Failures { bad_result: 1, ..none() }),
        (
            Error::UnknownHandler { name: text("h"), known: vec![] },
            Failures { unknown_handler: 1, ..none() },
        ),
        (timeout(Stage::Queue), Failures { timeout_queued: 1, ..none() }),
        (timeout(Stage::Run), Failures { timeout_running: 1, ..none() }),
        (Error::WorkerDied(Arc::new(death)), Failures { worker_died: 1, ..none() }),
        (Error::Start(start_error()), Failures { start: 1, ..none() }),
        (
            Error::CircuitOpen { handler: text("f"), failures: 20, retry_in: Duration::ZERO },
            Failures { circuit_open: 1, ..none() },
        ),
        (Error::WorkerBusy { worker: text("p/worker/0") }, Failures { worker_busy: 1, ..none() }),
        (
            Error::WouldDeadlock { handler: text("f"), waits_for: text("a worker"), chain: vec![] },
            Failures { would_deadlock: 1, ..none() },
        ),
        (
            Error::NoSuchWorker { name: text("p/worker/9"), workers: Some(8) },
            Failures { no_such_worker: 1, ..none() },
        ),
        (Error::Restarted { pool: text("p") }, Failures { restarted: 1, ..none() }),
        (Error::Closed { pool: text("p") }, Failures { closed: 1, ..none() }),
    ];
    for (error, expected) in &rows {
        let (board, _links) = ready(1);
        begin(&board, held(0, 1, 1));
        board.ended_running(
            held(0, 1, 1),
            Outcome::Failed(error),
            Duration::ZERO,
            WorkerState::Idle,
        );
        assert_eq!(board.stats().failed, *expected, "{error}");

        let board = Board::new(1, 1);
        assert!(board.admit(1));
        board.ended_queued(Outcome::Failed(error));
        assert_eq!(board.stats().failed, *expected, "{error}, queued");
    }
    let board = Board::new(1, 1);
    board.admit(1);
    board.ended_queued(Outcome::Abandoned);
    assert_eq!(board.stats().failed, Failures { abandoned: 1, ..none() });
    board.admit(1);
    board.ended_queued(Outcome::Completed);
    assert_eq!(board.stats().completed, 1);
    assert_sums(&board.stats());
}

#[test]
fn times_are_told_as_quantiles() {
    let (board, _links) = ready(1);
    assert_eq!(board.stats().queue_time, Quantiles::default(), "nothing was recorded");
    for millis in 1..=100 {
        assert!(board.admit(1));
        board.assign(held(0, 1, millis), soon(), &Wish::default(), Duration::from_millis(millis));
        let took = Duration::from_millis(10 * millis);
        board.ended_running(held(0, 1, millis), Outcome::Completed, took, WorkerState::Idle);
    }
    let close = |found: Duration, millis: u64| {
        let expected = Duration::from_millis(millis);
        found.abs_diff(expected) <= expected / 100 + Duration::from_micros(1)
    };
    let Stats { queue_time, service_time, .. } = board.stats();
    assert!(close(queue_time.p50, 50) && close(queue_time.p90, 90), "{queue_time:?}");
    assert!(close(queue_time.p99, 99) && close(queue_time.max, 100), "{queue_time:?}");
    assert!(close(service_time.p50, 500) && close(service_time.max, 1000), "{service_time:?}");

    // What is longer than an hour is an hour, and no panic.
    board.admit(1);
    board.assign(held(0, 1, 200), soon(), &Wish::default(), Duration::MAX);
    assert!(close(board.stats().queue_time.max, 3_600_000));
}

// === The way of a slot ===

#[test]
fn a_slot_tells_what_its_worker_does() {
    let config = crate::config::tests::config(1, 1);
    let board = Board::new(1, 1);
    let info = || board.workers(&config).remove(0);
    assert_eq!(
        (info().state, info().epoch, &*info().name),
        (WorkerState::Down, 0, "demo/worker/0")
    );

    let epoch = board.starting(0);
    assert_eq!((info().state, info().epoch, info().pid), (WorkerState::Starting, 1, None));
    board.spawned(0, epoch, 42);
    let (link, _receiver) = link();
    assert!(board.ready(0, epoch, 42, link));
    assert_eq!((info().state, info().pid, info().served), (WorkerState::Idle, Some(42), 0));
    assert_eq!(board.pid(0, epoch), Some(42));
    assert_eq!(board.stats().ready, 1);

    begin(&board, held(0, epoch, 7));
    assert_eq!((info().state, board.is_busy(0), board.stats().busy), (WorkerState::Busy, true, 1));
    end(&board, held(0, epoch, 7));
    assert_eq!((info().state, board.is_busy(0), info().served), (WorkerState::Idle, false, 1));

    board.stopping(0, epoch);
    assert_eq!((info().state, board.stats().ready), (WorkerState::Stopping, 0));
    assert!(board.down(0, epoch, Some("killed".to_owned())).is_some());
    assert_eq!((info().state, info().pid), (WorkerState::Down, None));
    assert_eq!(info().last_error.as_deref(), Some("killed"));
    assert_eq!(board.stats().restarts, 0);

    let epoch = board.starting(0);
    assert_eq!((epoch, board.stats().restarts), (2, 1));
    assert_eq!((info().served, info().age), (0, Duration::ZERO), "a new incarnation");
    assert_eq!(info().last_error.as_deref(), Some("killed"), "kept until there is another");
    assert_eq!(board.down(0, epoch, None), None, "it was never ready");
}

#[test]
fn a_worker_that_dies_with_a_call_is_busy_until_that_has_ended() {
    let (board, _links) = ready(1);
    begin(&board, held(0, 1, 7));
    board.stopping(0, 1);
    assert_eq!(states(&board), [WorkerState::Busy]);
    board.down(0, 1, None);
    assert_eq!(states(&board), [WorkerState::Busy]);
    board.ended_running(held(0, 1, 7), Outcome::Abandoned, Duration::ZERO, WorkerState::Idle);
    assert_eq!(states(&board), [WorkerState::Down], "whatever the call's end says");

    let (board, _links) = ready(1);
    begin(&board, held(0, 1, 7));
    board.stopping(0, 1);
    board.unassign(held(0, 1, 7), WorkerState::Idle);
    assert_eq!(states(&board), [WorkerState::Stopping], "its process is still there");
}

#[test]
fn a_call_that_goes_back_waits_again() {
    let (board, _links) = ready(1);
    begin(&board, held(0, 1, 7));
    board.unassign(held(0, 1, 7), WorkerState::Idle);
    let stats = board.stats();
    assert_eq!((stats.queued, stats.busy), (1, 0));
    assert_eq!(states(&board), [WorkerState::Idle]);
    assert!(!board.is_busy(0) && board.links_of(7).is_empty());
    assert_eq!(
        board.workers(&crate::config::tests::config(1, 1))[0].served,
        0,
        "it was not served"
    );
}

#[test]
fn news_of_an_earlier_incarnation_changes_nothing() {
    let (board, _links) = ready(1);
    begin(&board, held(0, 1, 7));
    let epoch = board.starting(0);
    let (link, _receiver) = link();
    board.spawned(0, epoch, 43);
    board.ready(0, epoch, 43, link);
    begin(&board, held(0, epoch, 8));

    board.spawned(0, 1, 42);
    board.stopping(0, 1);
    assert_eq!(board.down(0, 1, Some("late".to_owned())), None);
    end(&board, held(0, 1, 7));
    let (late, _receiver) = super::tests::link();
    board.ready(0, 1, 42, late);
    let view = board.slots().remove(0);
    assert_eq!(
        (view.epoch, view.running.iter().map(|kept| kept.id).collect::<Vec<_>>()),
        (2, vec![8])
    );
    assert!(view.link.is_some() && !board.links_of(8).is_empty() && board.links_of(7).is_empty());
    assert_eq!((board.pid(0, 2), board.pid(0, 1)), (Some(43), None));
    assert_eq!(states(&board), [WorkerState::Busy]);
    let info = board.workers(&crate::config::tests::config(1, 1)).remove(0);
    assert_eq!((info.served, info.last_error), (0, None));
    // Calls are counted whoever held them.
    let stats = board.stats();
    assert_eq!((stats.completed, stats.busy), (1, 1));
    assert_sums(&stats);

    // A call that is given to an incarnation that is gone leaves the new one alone.
    end(&board, held(0, 2, 8));
    begin(&board, held(0, 1, 9));
    assert_eq!(states(&board), [WorkerState::Idle]);
    assert!(!board.is_busy(0));
    board.unassign(held(0, 1, 9), WorkerState::Down);
    assert_eq!(states(&board), [WorkerState::Idle]);
}

#[test]
fn what_a_new_pool_actor_needs_is_there() {
    let (board, mut links) = ready(2);
    let deadline = soon();
    board.admit(1);
    board.assign(held(1, 1, 7), deadline, &Wish::default(), Duration::ZERO);
    let slots = board.slots();
    assert_eq!(slots[0].running, []);
    let kept = Kept { id: 7, deadline, alone: false, short: false };
    assert_eq!((slots[1].epoch, slots[1].running.clone()), (1, vec![kept]));
    board.links_of(7)[0].send(Command::Cancel(7, Why::Abandoned)).unwrap();
    assert!(
        matches!(links[1].try_recv(), Ok(Command::Cancel(7, Why::Abandoned))),
        "the way to the right worker"
    );
    assert!(links[0].try_recv().is_err());
}

#[test]
fn all_are_broken_only_if_each_one_is() {
    let board = Board::new(2, 1);
    let error = start_error();
    board.broken(0, &error);
    assert!(board.why_broken(None).is_none());
    board.broken(1, &error);
    assert!(board.why_broken(None).is_some());
    let epoch = board.starting(1);
    assert!(board.why_broken(None).is_some(), "until one is ready");
    let (link, _receiver) = link();
    assert!(!board.ready(1, epoch, 44, link), "slot 0 is not");
    assert!(board.why_broken(None).is_none());
    assert!(board.slots()[0].broken.is_some() && board.slots()[1].broken.is_none());
    board.all_broken(&error);
    assert!(board.why_broken(None).is_some());
}

// === The sums ===

#[derive(Clone, Debug)]
enum Step {
    Admit,
    Assign(Index, Index),
    Unassign(Index),
    EndQueued(Index),
    EndRunning(Index, bool),
    Starting(Index),
    Ready(Index),
    Stopping(Index, bool),
    Down(Index, bool),
}

fn steps() -> impl Strategy<Value = Step> {
    let index = any::<Index>;
    prop_oneof![
        4 => Just(Step::Admit),
        4 => (index(), index()).prop_map(|(call, slot)| Step::Assign(call, slot)),
        1 => index().prop_map(Step::Unassign),
        1 => index().prop_map(Step::EndQueued),
        3 => (index(), any::<bool>()).prop_map(|(call, good)| Step::EndRunning(call, good)),
        1 => index().prop_map(Step::Starting),
        2 => index().prop_map(Step::Ready),
        1 => (index(), any::<bool>()).prop_map(|(slot, late)| Step::Stopping(slot, late)),
        1 => (index(), any::<bool>()).prop_map(|(slot, late)| Step::Down(slot, late)),
    ]
}

proptest! {
    /// Whatever happens to slots, in whatever order: the calls add up.
    #[test]
    fn the_sums_always_agree(steps in prop::collection::vec(steps(), 0..200)) {
        const SLOTS: usize = 3;
        const LIMIT: usize = 4;
        let board = Board::new(SLOTS, 1);
        let mut links = Vec::new();
        let (mut queued, mut running): (Vec<u64>, Vec<Held>) = Default::default();
        let (mut epochs, mut next_id) = ([0; SLOTS], 1);
        let (mut completed, mut failed, mut rejected) = (0, 0, 0);
        let error = Error::Start(start_error());
        for step in steps {
            match step {
                Step::Admit => {
                    let room = queued.len() + running.len() < LIMIT + SLOTS;
                    prop_assert_eq!(board.admit(LIMIT), room);
                    if room {
                        queued.push(next_id);
                        next_id += 1;
                    } else {
                        rejected += 1;
                    }
                }
                Step::Assign(call, slot) if !queued.is_empty() => {
                    let slot = slot.index(SLOTS);
                    let free = |held: &Held| held.slot != slot || held.epoch != epochs[slot];
                    if running.iter().all(free) {
                        let id = queued.swap_remove(call.index(queued.len()));
                        let held = held(slot, epochs[slot], id);
                        board.assign(held, soon(), &Wish::default(), Duration::ZERO);
                        running.push(held);
                    }
                }
                Step::Unassign(call) if !running.is_empty() => {
                    let held = running.swap_remove(call.index(running.len()));
                    board.unassign(held, WorkerState::Idle);
                    queued.push(held.id);
                }
                Step::EndQueued(call) if !queued.is_empty() => {
                    queued.swap_remove(call.index(queued.len()));
                    board.ended_queued(Outcome::Failed(&error));
                    failed += 1;
                }
                Step::EndRunning(call, good) if !running.is_empty() => {
                    let held = running.swap_remove(call.index(running.len()));
                    let outcome = if good { Outcome::Completed } else { Outcome::Abandoned };
                    board.ended_running(held, outcome, Duration::ZERO, WorkerState::Idle);
                    completed += u64::from(good);
                    failed += u64::from(!good);
                }
                Step::Starting(slot) => {
                    let slot = slot.index(SLOTS);
                    epochs[slot] += 1;
                    prop_assert_eq!(board.starting(slot), epochs[slot]);
                }
                Step::Ready(slot) => {
                    let (link, receiver) = link();
                    board.ready(slot.index(SLOTS), epochs[slot.index(SLOTS)], 1, link);
                    links.push(receiver);
                }
                Step::Stopping(slot, late) => {
                    let slot = slot.index(SLOTS);
                    board.stopping(slot, epochs[slot].wrapping_sub(u64::from(late)));
                }
                Step::Down(slot, late) => {
                    let slot = slot.index(SLOTS);
                    board.down(slot, epochs[slot].wrapping_sub(u64::from(late)), None);
                }
                _ => {}
            }
            let stats = board.stats();
            assert_sums(&stats);
            prop_assert_eq!((stats.queued, stats.busy), (queued.len(), running.len()));
            prop_assert_eq!((stats.completed, stats.failed.total()), (completed, failed));
            prop_assert_eq!((stats.submitted, stats.rejected), (next_id - 1, rejected));
            prop_assert_eq!(
                board.lock().is_drained(),
                queued.is_empty() && running.is_empty()
            );
            // A slot holds the call of its present incarnation, and no other.
            for (slot, view) in board.slots().iter().enumerate() {
                let holds = running.iter().find(|held| held.slot == slot && held.epoch == epochs[slot]);
                prop_assert_eq!(view.running.first().map(|kept| kept.id), holds.map(|held| held.id));
                let busy = states(&board)[slot] == WorkerState::Busy;
                prop_assert!(!busy || holds.is_some(), "busy with nothing");
            }
        }
    }
}

#[tokio::test]
async fn the_size_follows_the_plan() {
    let (board, _commands) = ready(2);
    assert_eq!((board.size(), board.active(), board.known()), (2, 2, 2));
    board.plan(4);
    assert_eq!((board.size(), board.active(), board.known()), (2, 4, 4), "not ready yet");
    assert!(board.why_broken(None).is_none());
    let error = start_error();
    board.broken(3, &error);
    assert!(board.proven().await.is_err());
    for slot in [2, 3] {
        let (link, _) = link();
        let epoch = board.starting(slot);
        assert_eq!(board.ready(slot, epoch, 7, link), slot == 3);
    }
    board.proven().await.unwrap();
    board.resized();
    assert_eq!(board.stats().size, 4);
    board.plan(1);
    assert_eq!((board.stats().size, board.stats().ready, board.known()), (1, 1, 4));
    board.plan(2);
    board.starting(1);
    assert_eq!(board.stats().restarts, 0, "in the place of none");
}

#[test]
fn a_chain_holds_all_if_no_worker_that_may_run_a_call_is_left() {
    let (board, _links) = ready(3);
    let chain = [held(0, 1, 1), held(2, 1, 2)];
    chain.into_iter().for_each(|held| begin(&board, held));
    let hold_all = |bound, most| board.hold_all(chain.map(|held| (held, false)), bound, most);
    assert!(hold_all(Some(0), 0) && hold_all(Some(2), 0) && !hold_all(Some(1), 0));
    // Another's call at the slot that is left: that one ends without this chain.
    begin(&board, held(1, 1, 3));
    assert!(!hold_all(None, 0));
    // That slot is to go; then one that is held.
    board.plan(2);
    assert!(!hold_all(None, 0), "slot 1 is not held");
    board.plan(1);
    assert!(hold_all(None, 0) && !hold_all(Some(2), 0));
    assert!(!hold_all(None, 2), "there are to be more");
    // A call that has ended holds nothing.
    end(&board, held(0, 1, 1));
    assert!(!hold_all(None, 0) && !hold_all(Some(0), 0));
    assert!(!board.hold_all([], None, 0));
}

#[test]
fn a_chain_holds_a_worker_whose_seats_it_has_all_or_that_runs_alone() {
    let board = Board::new(2, 2);
    for slot in 0..2 {
        let epoch = board.starting(slot);
        let (link, _receiver) = link();
        board.ready(slot, epoch, 42, link);
    }
    let chain = [held(0, 1, 1), held(1, 1, 2), held(0, 1, 3)];
    chain.into_iter().for_each(|held| begin(&board, held));
    let hold_all =
        |alone, bound| board.hold_all(chain.map(|held| (held, alone && held.slot == 1)), bound, 0);
    assert!(hold_all(false, Some(0)), "both of its seats");
    assert!(!hold_all(false, Some(1)) && !hold_all(false, None));
    assert!(hold_all(true, Some(1)) && hold_all(true, None));
}

/// A call that is written ahead is queued until it begins; a new pool actor knows that its worker has it.
#[test]
fn what_is_written_ahead_is_queued() {
    let (board, _links) = ready(1);
    let wish = Wish { ahead: 2, ..Wish::default() };
    (0..3).for_each(|_| assert!(board.admit(9)));
    board.assign(held(0, 1, 1), soon(), &wish, Duration::ZERO);
    board.write_ahead(held(0, 1, 2), soon(), &wish);
    board.write_ahead(held(0, 1, 3), soon(), &wish);
    let counts = || (board.stats().queued, board.stats().busy);
    assert_eq!((counts(), states(&board)), ((2, 1), vec![WorkerState::Busy]));
    let kept = |board: &Board| {
        let running = board.slots().remove(0).running;
        running.iter().map(|kept| (kept.id, kept.short)).collect::<Vec<_>>()
    };
    assert_eq!(kept(&board), [(1, true), (2, true), (3, true)]);

    end(&board, held(0, 1, 1));
    assert_eq!((counts(), states(&board)), ((2, 0), vec![WorkerState::Idle]));
    board.assign(held(0, 1, 2), soon(), &wish, Duration::ZERO);
    assert_eq!((counts(), states(&board)), ((1, 1), vec![WorkerState::Busy]));
    // Taken back; another worker may have it now.
    board.withdraw(held(0, 1, 3));
    assert_eq!((counts(), kept(&board)), ((1, 1), vec![(2, true)]));
    board.ended_queued(Outcome::Abandoned);
    end(&board, held(0, 1, 2));
    assert_eq!((counts(), kept(&board)), ((0, 0), vec![]));
    assert_sums(&board.stats());
}
