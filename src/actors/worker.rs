//! The actor of a slot's worker. It stays free while Python runs: its port's task does the I/O.
//!
//! It has one port that serves. To recycle a worker it starts a second one beside it, which takes over when it is ready,
//! between two calls: the slot is never without a worker.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ractor::concurrency::JoinHandle;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::{mpsc, oneshot};

use super::launcher::LauncherMsg;
use crate::board::Link;
use crate::error::{Ended, StartError};
use crate::pool::WorkerHandle;
use crate::port::Command;
use crate::port::task::{PortEnd, PortTask, Successor};
use crate::shared::Shared;
use crate::sys;

/// A replacement that did not start is tried again after this time; the worker serves on meanwhile.
const RETRY: Duration = Duration::from_secs(5);

#[derive(Debug)]
#[cfg_attr(feature = "cluster", derive(ractor_cluster_derive::RactorMessage))]
pub(crate) enum WorkerMsg {
    /// From the port of this epoch: its process can take calls.
    Ready { epoch: u64, pid: i32 },
    /// From a port that should be replaced, and serves until then; or from whoever wants that.
    Recycle { epoch: u64 },
    /// Replace the worker by one of the launcher that takes orders now; the answer is sent once that serves.
    Roll(Roll),
    /// From a port that takes no more calls and is to be replaced.
    Leaving { epoch: u64 },
    /// From a port whose successor has taken over.
    Replaced { epoch: u64 },
    /// From the port: the answer to a ping.
    Pong(u64),
    /// From the port: the process has ended.
    Ended { epoch: u64, end: PortEnd },
    /// It is time to look after the worker.
    HealthTick,
    /// The ping of this token has had its time.
    PingTimeout(u64),
    /// Let the process leave in order.
    Exit { grace: Duration },
    /// Let the process finish the call that it is running, and leave in order: its slot is not in use any more.
    Retire,
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

type Roll = RpcReplyPort<Result<(), Arc<StartError>>>;

/// A port of this worker's.
struct Served {
    epoch: u64,
    link: Link,
    /// Known once it is ready.
    pid: Option<i32>,
    /// Dropped with the actor, which ends the process.
    _alive: oneshot::Sender<Infallible>,
}

pub(crate) struct State {
    shared: Arc<Shared>,
    slot: usize,
    launcher: ActorRef<LauncherMsg>,
    /// The port that takes calls, or that will be the first to.
    port: Option<Served>,
    /// The port that is to take over.
    next: Option<Served>,
    /// The epoch of the port that has asked to be replaced: it says so once.
    asked: Option<u64>,
    /// Who waits for the next port to take over.
    rolling: Option<Roll>,
    /// Who waits for one after that: a replacement that is under way may be of the former launcher.
    rolls: Vec<Roll>,
    /// Ports that take no more calls, until they have ended.
    leaving: Vec<Served>,
    stopping: bool,
    /// The token of the ping that is under way.
    pinged: Option<u64>,
    tokens: u64,
    ticking: Option<JoinHandle<()>>,
}

/// A port, from before its process is ordered until that is reaped.
struct OpenPort {
    shared: Arc<Shared>,
    slot: usize,
}

impl OpenPort {
    fn new(shared: &Arc<Shared>, slot: usize) -> Self {
        shared.board.port_opened(slot);
        Self { shared: Arc::clone(shared), slot }
    }
}

impl Drop for OpenPort {
    fn drop(&mut self) {
        self.shared.board.port_closed(self.slot);
    }
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
        let mut state = State {
            shared,
            slot,
            launcher,
            port: None,
            next: None,
            asked: None,
            rolling: None,
            rolls: Vec::new(),
            leaving: Vec::new(),
            stopping: false,
            pinged: None,
            tokens: 0,
            ticking: None,
        };
        state.port = Some(state.start(&myself, epoch));
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<WorkerMsg>,
        message: WorkerMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            WorkerMsg::Ready { epoch, pid } => state.ready(&myself, epoch, pid),
            WorkerMsg::Recycle { epoch } => {
                let serves = state.port.as_ref().is_some_and(|port| port.epoch == epoch);
                if serves && state.one_at_a_time() {
                    // Its end is that of this actor, and its successor comes with the next.
                    state.tell(Command::Retire);
                } else if serves && !state.stopping {
                    state.asked = Some(epoch);
                    if state.next.is_none() {
                        state.next = Some(state.start_next(&myself));
                    }
                }
            }
            WorkerMsg::Roll(reply) => {
                state.rolls.push(reply);
            }
            WorkerMsg::Leaving { epoch } => {
                // One of an actor is replaced when it has left.
                if !state.one_at_a_time() && state.left(epoch) {
                    state.promote();
                    state.start_unless_stopping(&myself);
                }
            }
            WorkerMsg::Replaced { epoch } => {
                if state.left(epoch) {
                    state.pinged = None;
                    state.port = state.next.take();
                    // It may be another one than has taken over, and has ended.
                    if state.port.as_ref().is_some_and(|port| port.pid.is_some()) {
                        state.rolled(Ok(()));
                    }
                    state.start_unless_stopping(&myself);
                }
            }
            WorkerMsg::HealthTick => state.look_after(&myself),
            WorkerMsg::Pong(token) => {
                state.pinged.take_if(|pinged| *pinged == token);
            }
            WorkerMsg::PingTimeout(token) => {
                if state.pinged.take_if(|pinged| *pinged == token).is_some() {
                    state.tell(Command::Kill(Ended::Unhealthy));
                }
            }
            WorkerMsg::Exit { grace } => {
                state.stopping = true;
                for port in state.port.iter().chain(&state.next) {
                    let _ = port.link.send(Command::Exit { grace });
                }
            }
            WorkerMsg::Retire => {
                state.stopping = true;
                state.tell(Command::Retire);
                if let Some(next) = &state.next {
                    let _ = next.link.send(Command::Retire);
                }
            }
            WorkerMsg::Handle(reply) => {
                // That of an actor is called through the actor only.
                let anchor = state.shared.anchor().filter(|_| !state.one_at_a_time());
                let handle = anchor.map(|anchor| WorkerHandle::new(anchor, state.slot));
                // Whoever asked may be gone.
                let _ = reply.send(handle);
            }
            WorkerMsg::Ended { epoch, end } => state.ended(&myself, epoch, end)?,
        }
        state.roll(&myself);
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

impl State {
    fn start(&self, myself: &ActorRef<WorkerMsg>, epoch: u64) -> Served {
        let (link, commands) = mpsc::unbounded_channel();
        let (alive, actor_gone) = oneshot::channel();
        let task = PortTask {
            shared: Arc::clone(&self.shared),
            slot: self.slot,
            epoch,
            name: self.shared.config.worker_name(self.slot),
            pid: 0,
            link: link.clone(),
            commands,
            actor_gone,
            worker: myself.clone(),
            launcher: self.launcher.clone(),
        };
        let open = OpenPort::new(&self.shared, self.slot);
        self.shared.ports.spawn(async move {
            task.run().await;
            drop(open);
        });
        Served { epoch, link, pid: None, _alive: alive }
    }

    /// A port beside the one that serves.
    fn start_next(&self, myself: &ActorRef<WorkerMsg>) -> Served {
        self.start(myself, self.shared.board.next_epoch(self.slot))
    }

    /// Whether a worker's successor must not be there before it has ended: it holds an actor's only instance.
    fn one_at_a_time(&self) -> bool {
        self.shared.config.actor.is_some()
    }

    fn tell(&self, command: Command) {
        if let Some(port) = &self.port {
            // A port that is gone has said so; the news is on its way.
            let _ = port.link.send(command);
        }
    }

    fn ready(&mut self, myself: &ActorRef<WorkerMsg>, epoch: u64, pid: i32) {
        if self.ticking.is_none() {
            let interval = self.shared.config.limits.health_interval;
            self.ticking = Some(myself.send_interval(interval, || WorkerMsg::HealthTick));
        }
        if let Some(port) = self.port.as_mut().filter(|port| port.epoch == epoch) {
            port.pid = Some(pid);
            let successor = Successor { epoch, pid, link: port.link.clone() };
            successor.take_over(&self.shared, self.slot);
            // Whoever waits for one that is still to come goes on waiting.
            if self.next.is_none() {
                self.rolled(Ok(()));
            }
        } else if let Some(next) = self.next.as_mut().filter(|next| next.epoch == epoch) {
            next.pid = Some(pid);
            let successor = Successor { epoch, pid, link: next.link.clone() };
            // One that is not ready itself has nothing to hand over; one that is being ended does not listen any more.
            let told = self.port.as_ref().is_some_and(|port| {
                port.pid.is_some() && port.link.send(Command::HandOver(successor)).is_ok()
            });
            if !told {
                self.tell(Command::Kill(Ended::Recycled));
                self.leaving.extend(self.port.take());
                self.promote();
            }
        }
    }

    /// Starts a replacement for who waits for one, unless one is under way.
    fn roll(&mut self, myself: &ActorRef<WorkerMsg>) {
        if self.next.is_none()
            && self.rolling.is_none()
            && !self.stopping
            && let Some(reply) = self.rolls.pop()
        {
            self.rolling = Some(reply);
            self.next = Some(self.start_next(myself));
        }
    }

    /// Answers who waits for the next port.
    fn rolled(&mut self, answer: Result<(), Arc<StartError>>) {
        if let Some(reply) = self.rolling.take() {
            let _ = reply.send(answer);
        }
    }

    /// The port of `epoch` takes no more calls, if it is the one that did.
    fn left(&mut self, epoch: u64) -> bool {
        let port = self.port.take_if(|port| port.epoch == epoch);
        let left = port.is_some();
        self.leaving.extend(port);
        left
    }

    fn start_unless_stopping(&mut self, myself: &ActorRef<WorkerMsg>) {
        if self.port.is_none() && !self.stopping {
            self.port = Some(self.start_next(myself));
        }
    }

    /// The next port, if there is one, serves from now on: at once, or when it is ready.
    fn promote(&mut self) {
        self.pinged = None;
        self.port = self.next.take();
        if let Some(Served { epoch, link, pid: Some(pid), .. }) = &self.port {
            let successor = Successor { epoch: *epoch, pid: *pid, link: link.clone() };
            successor.take_over(&self.shared, self.slot);
            self.rolled(Ok(()));
        }
    }

    fn ended(
        &mut self,
        myself: &ActorRef<WorkerMsg>,
        epoch: u64,
        end: PortEnd,
    ) -> Result<(), ActorProcessingErr> {
        let (worker, shared) = (self.shared.config.worker_name(self.slot), &self.shared);
        if self.next.take_if(|next| next.epoch == epoch).is_some() {
            if let Some(port) = self.port.as_ref().filter(|port| self.asked == Some(port.epoch)) {
                let epoch = port.epoch;
                myself.send_after(RETRY, move || WorkerMsg::Recycle { epoch });
            }
            if self.rolling.is_some() {
                self.rolled(Err(match end {
                    PortEnd::StartFailed(error) => error,
                    PortEnd::Died { message, .. } => Arc::new(StartError::System(message)),
                    PortEnd::Intended => Arc::new(StartError::Stopped { what: worker }),
                }));
            } else if let PortEnd::StartFailed(error) = &end {
                tracing::error!(pool = shared.config.name, worker, %error, "its replacement did not start");
            } else if let PortEnd::Died { message, .. } = &end {
                tracing::warn!(pool = shared.config.name, worker, "before it took over: {message}");
            }
        } else if self.port.take_if(|port| port.epoch == epoch).is_some() {
            if self.next.is_none() && !self.stopping {
                if let PortEnd::StartFailed(error) = &end {
                    // Its predecessor has ended meanwhile, but it is what is waited for.
                    self.rolled(Err(Arc::clone(error)));
                }
                return match end {
                    PortEnd::Intended => {
                        myself.stop(None);
                        Ok(())
                    }
                    end => Err(Box::new(WorkerFailed(end))),
                };
            }
            if let PortEnd::Died { message, .. } = &end {
                tracing::warn!(pool = shared.config.name, worker, "{message}");
            }
            if !self.stopping {
                self.promote();
            }
        } else {
            if let PortEnd::Died { message, .. } = &end {
                tracing::warn!(pool = shared.config.name, worker, "{message}");
            }
            self.leaving.retain(|port| port.epoch != epoch);
        }
        if self.stopping && self.port.is_none() && self.next.is_none() && self.leaving.is_empty() {
            myself.stop(None);
        }
        Ok(())
    }

    /// Looks after the process: one that is busy does not answer pings, and must not be stopped.
    fn look_after(&mut self, myself: &ActorRef<WorkerMsg>) {
        // One that is being started would miss the ping; it has its own time.
        let Some(pid) = self.port.as_ref().and_then(|port| port.pid) else {
            return;
        };
        if self.shared.board.is_busy(self.slot) {
            if sys::usage(pid).is_ok_and(|usage| usage.stopped) {
                self.tell(Command::Kill(Ended::Suspended));
            }
        } else if self.pinged.is_none() {
            self.tokens += 1;
            let token = self.tokens;
            self.pinged = Some(token);
            self.tell(Command::Ping(token));
            let timeout = self.shared.config.limits.health_timeout;
            myself.send_after(timeout, move || WorkerMsg::PingTimeout(token));
        }
    }
}
