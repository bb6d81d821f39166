use super::*;
use crate::request::Ticket;
use crate::scheduler::Wish;
use crate::session::SessionStore;
use crate::shared::Shared;
use crate::wire::{FrameBuilder, Kind};

/// The pool's actor is restarted while the pool shrinks: its dispatcher hears of the last slot before it reads the board.
#[test]
fn news_of_a_slot_that_is_being_retired_harms_a_new_one_in_no_way() {
    let board = Board::new(2, 1);
    let epoch = board.starting(1);
    board.plan(1);
    let dispatcher = Dispatcher::new(&board);
    assert!(dispatcher.next(1, epoch, 7, Instant::now()).is_none());
    dispatcher.down(1, epoch);
    assert!(!dispatcher.cancel(7, Why::Asked));
    assert_eq!(dispatcher.expire(), None);
}

fn shared() -> Arc<Shared> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let sessions = runtime.block_on(SessionStore::of_pool("dispatcher-tests".to_owned())).unwrap();
    Arc::new(Shared::new(crate::config::tests::config(2, 3), None, sessions))
}

fn request(shared: &Arc<Shared>, id: u64, place: Place) -> (Box<Request>, impl Sized + use<>) {
    let (ticket, answer) =
        Ticket::admit(shared, &"f".into(), id, Instant::now(), Duration::from_secs(60)).unwrap();
    let frame = FrameBuilder::new(Kind::Call, "handler").finish(id, 0, 1024).unwrap();
    (Request::new(frame.into(), Wish { place, ..Wish::default() }, ticket), answer)
}

/// A worker of two seats is to leave, has a call to end first, and stays after all.
#[test]
fn a_worker_whose_slot_is_opened_again_is_given_what_waits() {
    let (shared, board) = (shared(), Board::new(2, 2));
    let dispatcher = Dispatcher::new(&board);
    let mut ports: Vec<_> = (0..2)
        .map(|slot| {
            let (link, port) = tokio::sync::mpsc::unbounded_channel();
            dispatcher.up(slot, shared.board.starting(slot), link);
            port
        })
        .collect();
    let mut given = |slot: usize| -> Vec<u64> {
        let commands = std::iter::from_fn(|| ports[slot].try_recv().ok());
        let id = |command| match command {
            Command::Run(request) => request.ticket.id,
            other => panic!("{other:?}"),
        };
        commands.map(id).collect()
    };
    let mut answers = Vec::new();
    let mut submit = |id, place| {
        let (request, answer) = request(&shared, id, place);
        dispatcher.submit(&board, request);
        answers.push(answer);
    };
    submit(1, Place::Only(1));
    assert_eq!(given(1), [1]);
    board.plan(1);
    dispatcher.resize(&board);
    (2..=5).for_each(|id| submit(id, Place::Anywhere));
    board.plan(2);
    dispatcher.resize(&board);
    assert_eq!((given(0), given(1)), (vec![2, 3], vec![4]));
}
