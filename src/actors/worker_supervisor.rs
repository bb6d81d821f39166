//! The supervisor of a pool's workers: one for one, each slot with a backoff of its own. It never gives up.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ractor::{
    Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent,
};

use super::launcher::LauncherMsg;
use super::spawn_child;
use super::worker::{Arguments as WorkerArguments, Worker, WorkerFailed, WorkerMsg};
use crate::backoff::{Backoff, Failure};
use crate::error::StartError;
use crate::port::task::PortEnd;
use crate::shared::Shared;

/// The shortest delay after an actor could not even be spawned.
const RETRY: Duration = Duration::from_millis(100);

#[derive(Debug)]
#[cfg_attr(feature = "cluster", derive(ractor_cluster_derive::RactorMessage))]
pub(crate) enum WorkerSupervisorMsg {
    /// Start the worker of this slot, if it is to have one and has none.
    Start(usize),
    /// Start the worker of this slot now if it waits for that, and take its failures so far for nothing.
    Hurry(usize, RpcReplyPort<()>),
    /// Answered when the ends of workers that have ended before are on the board.
    Known(RpcReplyPort<()>),
    /// Let the workers leave whose slots are not in use any more. Answered when they have been told.
    Retire(RpcReplyPort<()>),
    /// Let all workers leave in order, then stop.
    StopAll { grace: Duration },
}

pub(crate) struct WorkerSupervisor;

#[derive(Clone)]
pub(crate) struct Arguments {
    pub(crate) shared: Arc<Shared>,
    pub(crate) launcher: ActorRef<LauncherMsg>,
}

pub(crate) struct State {
    shared: Arc<Shared>,
    launcher: ActorRef<LauncherMsg>,
    children: HashMap<ActorId, Child>,
    /// Of the slots that have failed, and those before them.
    backoffs: Vec<Backoff>,
    stopping: bool,
}

struct Child {
    slot: usize,
    actor: ActorRef<WorkerMsg>,
}

impl Actor for WorkerSupervisor {
    type Msg = WorkerSupervisorMsg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        _myself: ActorRef<WorkerSupervisorMsg>,
        Arguments { shared, launcher }: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        Ok(State {
            shared,
            launcher,
            children: HashMap::new(),
            backoffs: Vec::new(),
            stopping: false,
        })
    }

    async fn post_start(
        &self,
        myself: ActorRef<WorkerSupervisorMsg>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        for slot in 0..state.shared.board.active() {
            state.start(&myself, slot).await;
        }
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<WorkerSupervisorMsg>,
        message: WorkerSupervisorMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            WorkerSupervisorMsg::Start(slot) => {
                state.start_if_absent(&myself, slot).await;
            }
            WorkerSupervisorMsg::Hurry(slot, reply) => {
                if let Some(backoff) = state.backoffs.get_mut(slot) {
                    *backoff = Backoff::default();
                }
                state.start_if_absent(&myself, slot).await;
                let _ = reply.send(());
            }
            WorkerSupervisorMsg::Known(reply) => {
                let _ = reply.send(());
            }
            WorkerSupervisorMsg::Retire(reply) => {
                state.backoffs.truncate(state.shared.board.active());
                for child in state.children.values() {
                    if !state.is_in_use(child.slot) {
                        let _ = child.actor.send_message(WorkerMsg::Retire);
                    }
                }
                let _ = reply.send(());
            }
            WorkerSupervisorMsg::StopAll { grace } => {
                state.stopping = true;
                for child in state.children.values() {
                    let _ = child.actor.send_message(WorkerMsg::Exit { grace });
                }
                state.stop_when_empty(&myself);
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<WorkerSupervisorMsg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let (cell, error) = match event {
            SupervisionEvent::ActorFailed(cell, error) => (cell, Some(error)),
            SupervisionEvent::ActorTerminated(cell, ..) => (cell, None),
            _ => return Ok(()),
        };
        state.ended(&myself, &cell, error).await;
        Ok(())
    }
}

impl State {
    fn is_in_use(&self, slot: usize) -> bool {
        slot < self.shared.board.active()
    }

    /// How long to wait before the slot's next start.
    fn delay(&mut self, slot: usize, failure: Failure) -> Duration {
        if self.backoffs.len() <= slot {
            self.backoffs.resize_with(slot + 1, Backoff::default);
        }
        self.backoffs[slot].next(failure, fastrand::f64())
    }

    async fn start_if_absent(&mut self, myself: &ActorRef<WorkerSupervisorMsg>, slot: usize) {
        let runs = self.children.values().any(|child| child.slot == slot);
        if !self.stopping && self.is_in_use(slot) && !runs {
            self.start(myself, slot).await;
        }
    }

    async fn start(&mut self, myself: &ActorRef<WorkerSupervisorMsg>, slot: usize) {
        let epoch = self.shared.board.starting(slot);
        let name = self.shared.config.worker_name(slot);
        let arguments = || WorkerArguments {
            shared: Arc::clone(&self.shared),
            slot,
            epoch,
            launcher: self.launcher.clone(),
        };
        match spawn_child(name, &myself.get_cell(), || Worker, arguments).await {
            Ok((actor, _)) => {
                let child = Child { slot, actor: actor.clone() };
                self.children.insert(actor.get_id(), child);
            }
            Err(error) => {
                tracing::error!(pool = self.shared.config.name, slot, %error, "cannot start a worker's actor");
                let delay = self.delay(slot, Failure::Start).max(RETRY);
                myself.send_after(delay, move || WorkerSupervisorMsg::Start(slot));
            }
        }
    }

    async fn ended(
        &mut self,
        myself: &ActorRef<WorkerSupervisorMsg>,
        cell: &ActorCell,
        error: Option<ActorProcessingErr>,
    ) {
        let Some(Child { slot, .. }) = self.children.remove(&cell.get_id()) else {
            return;
        };
        if self.stopping {
            self.stop_when_empty(myself);
            return;
        }
        let pool = &self.shared.config.name;
        let failed = error.as_ref().and_then(|error| error.downcast_ref::<WorkerFailed>());
        let failure = match failed.map(|WorkerFailed(end)| end) {
            // The launcher is gone, and with it soon this supervisor, unless it was that of a reload.
            Some(PortEnd::StartFailed(error)) if matches!(**error, StartError::Stopped { .. }) => {
                Some(Failure::Start)
            }
            Some(PortEnd::StartFailed(error)) => {
                tracing::error!(pool, slot, %error, "a worker did not start");
                self.shared.board.broken(slot, error);
                self.shared.dispatcher(|dispatcher| dispatcher.broken(slot, error));
                self.shared.startup_failed(error);
                Some(Failure::Start)
            }
            Some(PortEnd::Died { uptime, message }) => {
                tracing::warn!(pool, slot, "{message}");
                Some(Failure::Death { uptime: *uptime })
            }
            Some(PortEnd::Intended) => None,
            None => {
                // The actor ended: after an intended end of its process, or because somebody killed it, in
                // which case its port ends the process.
                let epoch = self.shared.board.epoch(slot);
                self.shared.dispatcher(|dispatcher| dispatcher.down(slot, epoch));
                if let Some(error) = error {
                    tracing::error!(pool, slot, %error, "a worker's actor failed");
                }
                None
            }
        };
        if self.is_in_use(slot) && !self.shared.has_failed_to_start() {
            self.restart(myself, slot, failure).await;
        }
    }

    /// Starts the slot's next worker: at once, or as late as its failures say.
    async fn restart(
        &mut self,
        myself: &ActorRef<WorkerSupervisorMsg>,
        slot: usize,
        failure: Option<Failure>,
    ) {
        let delay = failure.map_or(Duration::ZERO, |failure| self.delay(slot, failure));
        if delay.is_zero() {
            self.start(myself, slot).await;
        } else {
            tracing::warn!(pool = self.shared.config.name, slot, ?delay, "the slot keeps failing");
            myself.send_after(delay, move || WorkerSupervisorMsg::Start(slot));
        }
    }

    fn stop_when_empty(&self, myself: &ActorRef<WorkerSupervisorMsg>) {
        if self.children.is_empty() {
            myself.stop(None);
        }
    }
}
