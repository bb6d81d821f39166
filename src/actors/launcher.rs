//! The actor that stands for the launcher: it takes spawn orders, and fails when the launcher's process ends.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{mpsc, oneshot};

use crate::error::StartError;
use crate::launcher::task::{LauncherEnd, LauncherTask, Order};
use crate::port::RemoteEnds;
use crate::port::process::Child;
use crate::shared::Shared;

/// A worker process to be started.
#[derive(Debug)]
pub(crate) struct SpawnOrder {
    pub(crate) slot: usize,
    pub(crate) epoch: u64,
    /// The worker's name.
    pub(crate) worker: String,
    pub(crate) ends: RemoteEnds,
    pub(crate) reply: oneshot::Sender<Result<Child, StartError>>,
}

#[derive(Debug)]
#[cfg_attr(feature = "cluster", derive(ractor_cluster_derive::RactorMessage))]
pub(crate) enum LauncherMsg {
    Spawn(SpawnOrder),
    /// Let the process leave in order.
    Exit,
    /// From the launcher's task: the process has ended, and is reaped.
    Ended(LauncherEnd),
}

/// The error that the actor ends with, for its supervisor.
#[derive(Debug, thiserror::Error)]
#[error("the launcher ended: {0:?}")]
pub(crate) struct LauncherFailed(pub(crate) LauncherEnd);

pub(crate) struct Launcher;

pub(crate) struct State {
    orders: mpsc::UnboundedSender<Order>,
    /// Dropped with the actor, which ends the process.
    _alive: oneshot::Sender<Infallible>,
}

impl Actor for Launcher {
    type Msg = LauncherMsg;
    type State = State;
    type Arguments = Arc<Shared>;

    async fn pre_start(
        &self,
        myself: ActorRef<LauncherMsg>,
        shared: Arc<Shared>,
    ) -> Result<State, ActorProcessingErr> {
        let (orders, receiver) = mpsc::unbounded_channel();
        let (alive, actor_gone) = oneshot::channel();
        let task = LauncherTask {
            name: shared.config.actor_name("launcher"),
            shared: Arc::clone(&shared),
            orders: receiver,
            early: VecDeque::new(),
            actor_gone,
            actor: myself,
        };
        shared.launchers.spawn(task.run());
        Ok(State { orders, _alive: alive })
    }

    async fn handle(
        &self,
        myself: ActorRef<LauncherMsg>,
        message: LauncherMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        // A task that is gone has said so; its message is on the way here. An order is dropped then, and with
        // it the hope of whoever waits for the answer.
        match message {
            LauncherMsg::Spawn(order) => {
                let _ = state.orders.send(Order::Spawn(order));
            }
            LauncherMsg::Exit => {
                let _ = state.orders.send(Order::Exit);
            }
            LauncherMsg::Ended(LauncherEnd::Left) => myself.stop(None),
            LauncherMsg::Ended(end) => return Err(Box::new(LauncherFailed(end))),
        }
        Ok(())
    }
}
