//! The pool's actor: it holds the queue, and gives requests to idle workers as its scheduler decides.

use std::sync::Arc;
use std::time::Instant;

use ractor::concurrency::JoinHandle;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::mpsc::error::SendError;

use crate::board::Link;
use crate::error::{Ended, Error, StartError};
use crate::pool::Pool as PoolHandle;
use crate::port::Command;
use crate::request::Request;
use crate::scheduler::{Assignment, Removed, Scheduler};
use crate::shared::Shared;
use crate::stats::WorkerState;

#[derive(Debug)]
#[cfg_attr(feature = "cluster", derive(ractor_cluster_derive::RactorMessage))]
pub(crate) enum PoolMsg {
    /// Take over what the board knows of the workers; sent once this actor can be found.
    Adopt,
    Submit(Box<Request>),
    /// A request that certainly did not start comes back from its worker.
    Resubmit(Box<Request>),
    /// The caller of this request went away.
    Abandon(u64),
    /// The worker of a slot takes calls.
    Up {
        slot: usize,
        epoch: u64,
        link: Link,
    },
    /// A worker has ended request `id`.
    Idle {
        slot: usize,
        epoch: u64,
        id: u64,
    },
    /// A worker takes no more calls.
    Down {
        slot: usize,
        epoch: u64,
    },
    /// A slot's worker could not be started.
    Broken {
        slot: usize,
        error: Arc<StartError>,
    },
    /// The earliest deadline has come.
    Tick,
    /// Say when nothing is queued and nothing runs.
    Drain(RpcReplyPort<()>),
    /// Give up what is queued and what runs: the pool is being shut down.
    Abort,
    /// A handle of this pool, if one is left.
    Handle(RpcReplyPort<Option<PoolHandle>>),
}

pub(crate) struct Pool;

/// A message to the pool that is sent later, unless it is aborted.
type Timer = JoinHandle<Result<(), ractor::MessagingErr<PoolMsg>>>;

pub(crate) struct State {
    shared: Arc<Shared>,
    scheduler: Scheduler<Box<Request>>,
    /// The way to each slot's worker, with its epoch.
    links: Vec<Option<(u64, Link)>>,
    /// The one timer, and when it fires.
    timer: Option<(Instant, Timer)>,
    drained: Option<RpcReplyPort<()>>,
}

impl Actor for Pool {
    type Msg = PoolMsg;
    type State = State;
    type Arguments = Arc<Shared>;

    async fn pre_start(
        &self,
        _myself: ActorRef<PoolMsg>,
        shared: Arc<Shared>,
    ) -> Result<State, ActorProcessingErr> {
        let slots = shared.config.workers;
        Ok(State {
            shared,
            scheduler: Scheduler::new(slots),
            links: vec![None; slots],
            timer: None,
            drained: None,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<PoolMsg>,
        message: PoolMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let now = Instant::now();
        state.expire(now);
        match message {
            PoolMsg::Submit(request) => state.submit(request, now),
            PoolMsg::Resubmit(request) => state.resubmit(request, now),
            PoolMsg::Idle { slot, epoch, id } => {
                let next = state.scheduler.idle(slot, epoch, id);
                state.dispatch(next, now);
            }
            PoolMsg::Abandon(id) => {
                let removed = state.scheduler.cancel(id);
                state.abandon(removed);
            }
            PoolMsg::Up { slot, epoch, link } => state.up(slot, epoch, link, None, now),
            PoolMsg::Down { slot, epoch } => {
                state.scheduler.down(slot, epoch);
                state.links[slot].take_if(|(held, _)| *held == epoch);
            }
            PoolMsg::Broken { slot, error } => state.broken(slot, &error),
            PoolMsg::Adopt => state.adopt(now),
            PoolMsg::Tick => state.timer = None,
            PoolMsg::Drain(reply) => state.drained = Some(reply),
            PoolMsg::Abort => state.abort(),
            PoolMsg::Handle(reply) => {
                let handle = state.shared.anchor().map(PoolHandle::of);
                // Whoever asked may be gone.
                let _ = reply.send(handle);
            }
        }
        state.set_timer(&myself);
        state.tell_drained();
        Ok(())
    }
}

impl State {
    fn submit(&mut self, request: Box<Request>, now: Instant) {
        if let Some(request) = self.refuse(request) {
            let (id, deadline, slot) = (request.ticket.id, request.ticket.deadline, request.slot);
            let next = self.scheduler.submit(id, deadline, slot, request);
            self.dispatch(next, now);
        }
    }

    fn resubmit(&mut self, request: Box<Request>, now: Instant) {
        if let Some(request) = self.refuse(request) {
            let (id, deadline, slot) = (request.ticket.id, request.ticket.deadline, request.slot);
            let next = self.scheduler.resubmit(id, deadline, slot, request);
            self.dispatch(next, now);
        }
    }

    /// Answers a request that no worker can run, because none can be started; gives any other back.
    fn refuse(&self, request: Box<Request>) -> Option<Box<Request>> {
        let broken = match request.slot {
            Some(slot) => self.scheduler.is_broken(slot),
            None => self.scheduler.all_broken(),
        };
        if !broken {
            return Some(request);
        }
        let slots = self.shared.board.slots();
        let error = match request.slot {
            Some(slot) => slots[slot].broken.clone(),
            None => slots.into_iter().find_map(|slot| slot.broken),
        };
        match error {
            Some(error) => {
                request.ticket.answer(Err(Error::Start(error)), WorkerState::Down);
                None
            }
            // Started just now; the news is on its way.
            None => Some(request),
        }
    }

    fn dispatch(&mut self, mut next: Option<Assignment<Box<Request>>>, now: Instant) {
        while let Some(Assignment { slot, epoch, mut request }) = next.take() {
            let link = self.links[slot].as_ref().filter(|(held, _)| *held == epoch);
            request.ticket.assign(slot, epoch, now);
            let unsent = match link {
                Some((_, link)) => link.send(Command::Run(request)).err(),
                None => Some(SendError(Command::Run(request))),
            };
            if let Some(SendError(Command::Run(mut request))) = unsent {
                // The worker is gone; the news is on its way.
                request.ticket.unassign(WorkerState::Stopping);
                self.scheduler.down(slot, epoch);
                let (id, deadline, wanted) =
                    (request.ticket.id, request.ticket.deadline, request.slot);
                next = self.scheduler.resubmit(id, deadline, wanted, request);
            }
        }
    }

    fn up(
        &mut self,
        slot: usize,
        epoch: u64,
        link: Link,
        running: Option<(u64, Instant)>,
        now: Instant,
    ) {
        if self.links[slot].as_ref().is_some_and(|(held, _)| *held >= epoch) {
            return;
        }
        self.links[slot] = Some((epoch, link));
        let next = self.scheduler.up(slot, epoch, running);
        self.dispatch(next, now);
    }

    fn adopt(&mut self, now: Instant) {
        for (slot, view) in self.shared.board.slots().into_iter().enumerate() {
            if let Some(link) = view.link {
                self.up(slot, view.epoch, link, view.running, now);
            } else if let Some(error) = view.broken {
                self.broken(slot, &error);
            }
        }
    }

    fn broken(&mut self, slot: usize, error: &Arc<StartError>) {
        for request in self.scheduler.broken(slot) {
            let error = Error::Start(Arc::clone(error));
            request.ticket.answer(Err(error), WorkerState::Down);
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some(removed) = self.scheduler.expire(now) {
            match removed {
                Removed::Queued(request) => request.time_out(now, WorkerState::Down),
                Removed::Running { slot, epoch, id } => self.tell(slot, epoch, Command::Expire(id)),
            }
        }
    }

    fn abandon(&self, removed: Option<Removed<Box<Request>>>) {
        match removed {
            Some(Removed::Queued(request)) => request.ticket.abandon(WorkerState::Down),
            Some(Removed::Running { slot, epoch, id }) => {
                self.tell(slot, epoch, Command::Abandon(id));
            }
            // It has ended already.
            None => {}
        }
    }

    fn abort(&mut self) {
        for request in self.scheduler.drain() {
            let pool = self.shared.config.name.clone();
            request.ticket.answer(Err(Error::Closed { pool }), WorkerState::Down);
        }
        for (slot, _) in self.scheduler.busy() {
            if let Some((_, link)) = &self.links[slot] {
                let _ = link.send(Command::Kill(Ended::Shutdown));
            }
        }
    }

    fn tell(&self, slot: usize, epoch: u64, command: Command) {
        // A worker that is gone has ended its request, or gives it back.
        if let Some((_, link)) = self.links[slot].as_ref().filter(|(held, _)| *held == epoch) {
            let _ = link.send(command);
        }
    }

    /// Lets the timer fire at the earliest deadline. One that fires too early does no harm, so it is only moved
    /// forward.
    fn set_timer(&mut self, myself: &ActorRef<PoolMsg>) {
        let Some(next) = self.scheduler.next_deadline() else {
            return;
        };
        if self.timer.as_ref().is_some_and(|(fires, _)| *fires <= next) {
            return;
        }
        if let Some((_, late)) = self.timer.take() {
            late.abort();
        }
        let ahead = next.saturating_duration_since(Instant::now());
        self.timer = Some((next, myself.send_after(ahead, || PoolMsg::Tick)));
    }

    fn tell_drained(&mut self) {
        if self.drained.is_some()
            && self.shared.board.is_drained()
            && let Some(reply) = self.drained.take()
        {
            // Whoever asked may have stopped waiting.
            let _ = reply.send(());
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if let Some((_, timer)) = self.timer.take() {
            timer.abort();
        }
    }
}
