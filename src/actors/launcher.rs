//! The actor that stands for the launcher: it takes spawn orders, and fails when the launcher's process ends.
//!
//! While the pool is reloaded it has two: a candidate that becomes the one that takes orders, and the former one, which
//! stays until its last worker has left.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::{mpsc, oneshot};

use crate::error::StartError;
use crate::launcher::task::{LauncherEnd, LauncherTask, Order};
use crate::port::RemoteEnds;
use crate::port::process::Child;
use crate::shared::Shared;
use crate::sys::WorkerCgroup;

/// A worker process to be started.
#[derive(Debug)]
pub(crate) struct SpawnOrder {
    pub(crate) slot: usize,
    pub(crate) epoch: u64,
    /// The worker's name.
    pub(crate) worker: String,
    pub(crate) ends: RemoteEnds,
    /// Where it is to be held to its memory limit.
    pub(crate) cgroup: Option<WorkerCgroup>,
    pub(crate) reply: oneshot::Sender<Result<Child, StartError>>,
}

#[derive(Debug)]
#[cfg_attr(feature = "cluster", derive(ractor_cluster_derive::RactorMessage))]
pub(crate) enum LauncherMsg {
    Spawn(SpawnOrder),
    /// Start a new process, which takes the orders once it is ready; the answer is sent then.
    Reload(RpcReplyPort<Result<(), Arc<StartError>>>),
    /// Give the orders back to the process that had them before the reload.
    Revert,
    /// The reload is over: the process that takes no orders leaves after its last worker.
    Settle,
    /// Let the process leave in order.
    Exit,
    /// From a launcher's task: the process takes orders.
    Ready {
        generation: u64,
    },
    /// From a launcher's task: the process has ended, and is reaped.
    Ended {
        generation: u64,
        end: LauncherEnd,
    },
}

/// The error that the actor ends with, for its supervisor.
#[derive(Debug, thiserror::Error)]
#[error("the launcher ended: {0:?}")]
pub(crate) struct LauncherFailed(pub(crate) LauncherEnd);

pub(crate) struct Launcher;

/// A launcher's process, by way of its task.
struct Process {
    generation: u64,
    orders: mpsc::UnboundedSender<Order>,
    /// Dropped with the actor, which ends the process.
    _alive: oneshot::Sender<Infallible>,
}

type Reply = RpcReplyPort<Result<(), Arc<StartError>>>;

pub(crate) struct State {
    shared: Arc<Shared>,
    generations: u64,
    /// The process that takes orders.
    current: Process,
    /// The one that is to take them, and who waits for it.
    candidate: Option<(Process, Reply)>,
    /// The one that took them before.
    former: Option<Process>,
    /// Those that leave after their last worker.
    retiring: Vec<Process>,
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
        let current = start(&shared, &myself, 1);
        Ok(State {
            shared,
            generations: 1,
            current,
            candidate: None,
            former: None,
            retiring: Vec::new(),
        })
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
                let _ = state.current.orders.send(Order::Spawn(order));
            }
            LauncherMsg::Reload(reply) => {
                state.generations += 1;
                let process = start(&state.shared, &myself, state.generations);
                state.candidate = Some((process, reply));
            }
            LauncherMsg::Ready { generation } => {
                let chosen = state.candidate.take_if(|(it, _)| it.generation == generation);
                if let Some((process, reply)) = chosen {
                    state.former = Some(std::mem::replace(&mut state.current, process));
                    let _ = reply.send(Ok(()));
                }
            }
            LauncherMsg::Revert => {
                if let Some(former) = &mut state.former {
                    std::mem::swap(&mut state.current, former);
                }
            }
            LauncherMsg::Settle => {
                if let Some(former) = state.former.take() {
                    let _ = former.orders.send(Order::Retire);
                    state.retiring.push(former);
                }
            }
            LauncherMsg::Exit => {
                let others = state.former.iter().chain(&state.retiring);
                for process in others.chain([&state.current]) {
                    let _ = process.orders.send(Order::Exit);
                }
                state.candidate = None;
            }
            LauncherMsg::Ended { generation, end } if generation == state.current.generation => {
                match end {
                    LauncherEnd::Left => myself.stop(None),
                    end => return Err(Box::new(LauncherFailed(end))),
                }
            }
            LauncherMsg::Ended { generation, end } => state.other_ended(generation, end),
        }
        Ok(())
    }
}

impl State {
    /// The pool lives on without this one.
    fn other_ended(&mut self, generation: u64, end: LauncherEnd) {
        if let LauncherEnd::Died { message, .. } = &end {
            tracing::error!(pool = self.shared.config.name, "{message}; its workers end with it");
        }
        let failed = self.candidate.take_if(|(it, _)| it.generation == generation);
        if let Some((_, reply)) = failed {
            let what = || "the new launcher".to_owned();
            let _ = reply.send(Err(match end {
                LauncherEnd::StartFailed(error) => error,
                LauncherEnd::Died { message, .. } => Arc::new(StartError::System(message)),
                LauncherEnd::Left => Arc::new(StartError::Stopped { what: what() }),
            }));
        }
        self.former.take_if(|it| it.generation == generation);
        self.retiring.retain(|it| it.generation != generation);
    }
}

fn start(shared: &Arc<Shared>, myself: &ActorRef<LauncherMsg>, generation: u64) -> Process {
    let (orders, receiver) = mpsc::unbounded_channel();
    let (alive, actor_gone) = oneshot::channel();
    let task = LauncherTask {
        name: shared.config.actor_name("launcher"),
        shared: Arc::clone(shared),
        generation,
        orders: receiver,
        early: VecDeque::new(),
        actor_gone,
        actor: myself.clone(),
    };
    shared.launchers.spawn(task.run());
    Process { generation, orders, _alive: alive }
}
