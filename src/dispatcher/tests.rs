use super::*;

/// The pool's actor is restarted while the pool shrinks: its dispatcher hears of the last slot before it reads the board.
#[test]
fn news_of_a_slot_that_is_being_retired_harms_a_new_one_in_no_way() {
    let board = Board::new(2, 1);
    let epoch = board.starting(1);
    board.plan(1);
    let dispatcher = Dispatcher::new(&board);
    assert!(dispatcher.next(1, epoch, 7).is_none());
    dispatcher.down(1, epoch);
    assert!(!dispatcher.cancel(7, Why::Asked));
    assert_eq!(dispatcher.expire(), None);
}
