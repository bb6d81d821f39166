//! The supervisor of one pool: rest for one over launcher, worker supervisor and pool actor, in this order.
//!
//! A child that ends takes down those that were started after it, and all of them come back. The pool's handles
//! find its actor through a cell that is refilled here.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use tokio::time::Instant;

use super::launcher::{Launcher, LauncherFailed, LauncherMsg};
use super::pool::{Arguments as PoolArguments, Pool, PoolMsg};
use super::spawn_child;
use super::worker_supervisor::{
    Arguments as WorkerArguments, WorkerSupervisor, WorkerSupervisorMsg,
};
use crate::backoff::{Backoff, Failure};
use crate::dispatcher::Dispatcher;
use crate::error::StartError;
use crate::launcher::task::LauncherEnd;
use crate::shared::{PoolCell, PoolRef, Shared};
use crate::stats::Stats;

/// Workers have at least this long to leave, however much of the grace is used up.
const LEAVE: Duration = Duration::from_secs(1);

/// Of a shutdown that takes longer it is told what it waits for.
const SILENCE: Duration = Duration::from_secs(1);

/// The shortest delay after an actor could not even be spawned, and the longest for the pool's actor.
const RETRY: Duration = Duration::from_millis(100);

#[derive(Debug)]
#[cfg_attr(feature = "cluster", derive(ractor_cluster_derive::RactorMessage))]
pub(crate) enum PoolSupervisorMsg {
    /// Start this child and those after it.
    Start(Part),
    /// Shut the pool down in order, then stop.
    Shutdown,
}

/// The children, in the order in which they are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Launcher,
    Workers,
    Pool,
}

pub(crate) struct PoolSupervisor;

pub(crate) struct State {
    shared: Arc<Shared>,
    launcher: Option<ActorRef<LauncherMsg>>,
    workers: Option<ActorRef<WorkerSupervisorMsg>>,
    pool: Option<PoolRef>,
    backoff: Backoff,
    /// When all children ran last.
    started: Instant,
    closing: bool,
}

impl Actor for PoolSupervisor {
    type Msg = PoolSupervisorMsg;
    type State = State;
    type Arguments = Arc<Shared>;

    async fn pre_start(
        &self,
        _myself: ActorRef<PoolSupervisorMsg>,
        shared: Arc<Shared>,
    ) -> Result<State, ActorProcessingErr> {
        Ok(State {
            shared,
            launcher: None,
            workers: None,
            pool: None,
            backoff: Backoff::default(),
            started: Instant::now(),
            closing: false,
        })
    }

    async fn post_start(
        &self,
        myself: ActorRef<PoolSupervisorMsg>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.start_from(Part::Launcher, &myself).await;
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<PoolSupervisorMsg>,
        message: PoolSupervisorMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            PoolSupervisorMsg::Start(part) => {
                if !state.closing {
                    state.start_from(part, &myself).await;
                }
            }
            PoolSupervisorMsg::Shutdown => {
                if !std::mem::replace(&mut state.closing, true) {
                    state.shared.stop_admitting();
                    tokio::spawn(shut_down(
                        Arc::clone(&state.shared),
                        state.launcher.clone(),
                        state.workers.clone(),
                        state.pool.clone(),
                        myself,
                    ));
                }
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<PoolSupervisorMsg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let (cell, error) = match event {
            SupervisionEvent::ActorFailed(cell, error) => (cell, Some(error)),
            SupervisionEvent::ActorTerminated(cell, ..) => (cell, None),
            _ => return Ok(()),
        };
        let Some(part) = state.part(&cell) else {
            return Ok(());
        };
        if state.closing {
            // Without a launcher nothing that is queued will ever run.
            if part == Part::Launcher
                && let Some(pool) = &state.pool
            {
                let _ = pool.actor.send_message(PoolMsg::Abort);
            }
            return Ok(());
        }
        let failure = state.explain(part, error);
        state.stop_from(part).await;
        if state.shared.has_failed_to_start() {
            return Ok(());
        }
        let mut delay = state.backoff.next(failure, fastrand::f64());
        if part == Part::Pool {
            // It costs nothing to start, and no call gets anywhere without it.
            delay = delay.min(RETRY);
        }
        if delay.is_zero() {
            state.start_from(part, &myself).await;
        } else {
            tracing::warn!(pool = state.shared.config.name, ?part, restart_in = ?delay, "restarting later");
            myself.send_after(delay, move || PoolSupervisorMsg::Start(part));
        }
        Ok(())
    }
}

impl State {
    /// Starts `first` and what comes after it, as far as it does not run already: of several delayed restarts, the first
    /// to come does the work.
    async fn start_from(&mut self, first: Part, myself: &ActorRef<PoolSupervisorMsg>) {
        for part in [Part::Launcher, Part::Workers, Part::Pool] {
            let runs = match part {
                Part::Launcher => self.launcher.is_some(),
                Part::Workers => self.workers.is_some(),
                Part::Pool => self.pool.is_some(),
            };
            if runs {
                continue;
            }
            if part < first {
                // What this one needs is being waited for, and brings this one with it.
                return;
            }
            if let Err(error) = self.start(part, &myself.get_cell()).await {
                let pool = &self.shared.config.name;
                tracing::error!(pool, ?part, %error, "cannot start an actor");
                let delay = self.backoff.next(Failure::Start, fastrand::f64()).max(RETRY);
                myself.send_after(delay, move || PoolSupervisorMsg::Start(part));
                return;
            }
        }
        self.started = Instant::now();
    }

    async fn start(&mut self, part: Part, myself: &ActorCell) -> Result<(), SpawnErr> {
        let config = &self.shared.config;
        let shared = || Arc::clone(&self.shared);
        match part {
            Part::Launcher => {
                let name = config.actor_name("launcher");
                let (launcher, _) = spawn_child(name, myself, || Launcher, shared).await?;
                self.launcher = Some(launcher);
            }
            Part::Workers => {
                let Some(launcher) = self.launcher.clone() else {
                    return Ok(());
                };
                let name = config.actor_name("workers");
                let arguments = || WorkerArguments { shared: shared(), launcher: launcher.clone() };
                let (workers, _) =
                    spawn_child(name, myself, || WorkerSupervisor, arguments).await?;
                self.workers = Some(workers);
            }
            Part::Pool => {
                let name = config.name.clone();
                let dispatcher = Arc::new(Dispatcher::new(&self.shared.board));
                let arguments =
                    || PoolArguments { shared: shared(), dispatcher: Arc::clone(&dispatcher) };
                let (actor, _) = spawn_child(name, myself, || Pool, arguments).await?;
                let pool = PoolRef { actor, dispatcher };
                // First it can be found, then it reads the board: news that it misses there reaches it.
                self.shared.refill(PoolCell::Up(pool.clone()));
                let _ = pool.actor.send_message(PoolMsg::Adopt);
                self.pool = Some(pool);
            }
        }
        Ok(())
    }

    /// Stops what was started after `ended`, last first, and forgets `ended` itself.
    async fn stop_from(&mut self, ended: Part) {
        self.shared.refill(PoolCell::Starting);
        let pool = self.pool.take();
        if let Some(pool) = pool {
            pool.dispatcher.close();
            if ended < Part::Pool {
                let _ = pool.actor.kill_and_wait(None).await;
            }
        }
        let workers = self.workers.take_if(|_| ended <= Part::Workers);
        if let Some(workers) = workers.filter(|_| ended < Part::Workers) {
            let _ = workers.kill_and_wait(None).await;
        }
        self.launcher.take_if(|_| ended == Part::Launcher);
    }

    /// Which child this is; `None` for one that is replaced already.
    fn part(&self, cell: &ActorCell) -> Option<Part> {
        let id = cell.get_id();
        if self.launcher.as_ref().is_some_and(|child| child.get_id() == id) {
            Some(Part::Launcher)
        } else if self.workers.as_ref().is_some_and(|child| child.get_id() == id) {
            Some(Part::Workers)
        } else if self.pool.as_ref().is_some_and(|child| child.actor.get_id() == id) {
            Some(Part::Pool)
        } else {
            None
        }
    }

    fn explain(&self, part: Part, error: Option<ActorProcessingErr>) -> Failure {
        let pool = &self.shared.config.name;
        let ended = error.as_ref().and_then(|error| error.downcast_ref::<LauncherFailed>());
        match ended.map(|LauncherFailed(end)| end) {
            Some(LauncherEnd::StartFailed(error)) => {
                tracing::error!(pool, %error, "the launcher did not start");
                self.shared.board.all_broken(error);
                Failure::Start
            }
            Some(LauncherEnd::Died { uptime, message }) => {
                tracing::error!(pool, "{message}; its workers end with it, all come back");
                // Not from the first start: it would die for ever, and `start()` wait as long.
                self.shared.startup_failed(&Arc::new(StartError::System(message.clone())));
                Failure::Death { uptime: *uptime }
            }
            Some(LauncherEnd::Left) | None => {
                let error = error.map_or_else(|| "stopped".to_owned(), |error| error.to_string());
                tracing::error!(
                    pool,
                    ?part,
                    error,
                    "an actor ended; it is restarted, with those after it"
                );
                Failure::Death { uptime: self.started.elapsed() }
            }
        }
    }
}

/// Shuts a pool down in order: calls, workers, pool actor, launcher.
async fn shut_down(
    shared: Arc<Shared>,
    launcher: Option<ActorRef<LauncherMsg>>,
    workers: Option<ActorRef<WorkerSupervisorMsg>>,
    pool: Option<PoolRef>,
    myself: ActorRef<PoolSupervisorMsg>,
) {
    let begin = Instant::now();
    let end = begin + shared.config.limits.shutdown_grace;
    let waits = async {
        if tokio::time::timeout_at(begin + SILENCE, shared.board.drained()).await.is_err() {
            let Stats { busy, queued, .. } = shared.board.stats();
            let pool = &shared.config.name;
            tracing::info!(
                pool,
                busy,
                queued,
                "the shutdown waits for calls to end, which a stream does that is read or dropped"
            );
            shared.board.drained().await;
        }
    };
    if tokio::time::timeout_at(end, waits).await.is_err() {
        if let Some(pool) = &pool {
            pool.dispatcher.abort();
        }
        shared.board.kill_busy();
    }
    if let Some(workers) = workers {
        let grace = end.saturating_duration_since(Instant::now()).max(LEAVE);
        if workers.send_message(WorkerSupervisorMsg::StopAll { grace }).is_ok() {
            let _ = workers.wait(None).await;
        }
    }
    shared.ports_ended().await;
    if let Some(pool) = pool {
        pool.actor.stop(None);
        let _ = pool.actor.wait(None).await;
    }
    if let Some(launcher) = launcher
        && launcher.send_message(LauncherMsg::Exit).is_ok()
    {
        let _ = launcher.wait(None).await;
    }
    shared.launchers_ended().await;
    myself.stop(None);
}
