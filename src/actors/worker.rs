//! The actor of one incarnation of a slot's worker. It stays free while Python runs: its port's task does the I/O.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ractor::concurrency::JoinHandle;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::{mpsc, oneshot};

use super::launcher::LauncherMsg;
use crate::board::Link;
use crate::error::Ended;
use crate::pool::WorkerHandle;
use crate::port::Command;
use crate::port::task::{PortEnd, PortTask};
use crate::shared::Shared;

#[derive(Debug)]
#[cfg_attr(feature = "cluster", derive(ractor_cluster_derive::RactorMessage))]
pub(crate) enum WorkerMsg {
    /// From the port: the process takes calls.
    Ready,
    /// From the port: the answer to a ping.
    Pong(u64),
    /// From the port: the process has ended.
    Ended(PortEnd),
    /// It is time to look after an idle worker.
    HealthTick,
    /// The ping of this token has had its time.
    PingTimeout(u64),
    /// Let the process leave in order.
    Exit { grace: Duration },
    /// A handle of this worker.
    Handle(RpcReplyPort<Option<WorkerHandle>>),
}

/// The error that the actor ends with, for its supervisor.
#[derive(Debug, thiserror::Error)]
#[error("the worker ended: {0:?}")]
pub(crate) struct WorkerFailed(pub(crate) PortEnd);

pub(crate) struct Worker;

pub(crate) struct Arguments {
    pub(crate) shared: Arc<Shared>,
    pub(crate) slot: usize,
    pub(crate) epoch: u64,
    pub(crate) launcher: ActorRef<LauncherMsg>,
}

pub(crate) struct State {
    shared: Arc<Shared>,
    slot: usize,
    port: Link,
    /// The token of the ping that is under way.
    pinged: Option<u64>,
    tokens: u64,
    ticking: Option<JoinHandle<()>>,
    /// Dropped with the actor, which ends the process.
    _alive: oneshot::Sender<Infallible>,
}

impl Actor for Worker {
    type Msg = WorkerMsg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<WorkerMsg>,
        arguments: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let Arguments { shared, slot, epoch, launcher } = arguments;
        let (port, commands) = mpsc::unbounded_channel();
        let (alive, actor_gone) = oneshot::channel();
        let task = PortTask {
            shared: Arc::clone(&shared),
            slot,
            epoch,
            name: shared.config.worker_name(slot),
            pid: 0,
            link: port.clone(),
            commands,
            actor_gone,
            worker: myself,
            launcher,
        };
        shared.ports.spawn(task.run());
        Ok(State { shared, slot, port, pinged: None, tokens: 0, ticking: None, _alive: alive })
    }

    async fn handle(
        &self,
        myself: ActorRef<WorkerMsg>,
        message: WorkerMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let limits = &state.shared.config.limits;
        match message {
            WorkerMsg::Ready => {
                let tick = myself.send_interval(limits.health_interval, || WorkerMsg::HealthTick);
                state.ticking = Some(tick);
            }
            WorkerMsg::HealthTick => {
                if state.pinged.is_none() && !state.shared.board.is_busy(state.slot) {
                    state.tokens += 1;
                    let token = state.tokens;
                    state.pinged = Some(token);
                    let _ = state.port.send(Command::Ping(token));
                    myself.send_after(limits.health_timeout, move || WorkerMsg::PingTimeout(token));
                }
            }
            WorkerMsg::Pong(token) => {
                state.pinged.take_if(|pinged| *pinged == token);
            }
            WorkerMsg::PingTimeout(token) => {
                if state.pinged == Some(token) {
                    let _ = state.port.send(Command::Kill(Ended::Unhealthy));
                }
            }
            WorkerMsg::Exit { grace } => {
                let _ = state.port.send(Command::Exit { grace });
            }
            WorkerMsg::Handle(reply) => {
                let anchor = state.shared.anchor();
                let handle = anchor.map(|anchor| WorkerHandle::new(anchor, state.slot));
                // Whoever asked may be gone.
                let _ = reply.send(handle);
            }
            WorkerMsg::Ended(PortEnd::Intended) => myself.stop(None),
            WorkerMsg::Ended(end) => return Err(Box::new(WorkerFailed(end))),
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<WorkerMsg>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if let Some(ticking) = state.ticking.take() {
            ticking.abort();
        }
        Ok(())
    }
}
