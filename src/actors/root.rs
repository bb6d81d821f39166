//! The root of a pool's tree: it keeps the pool's supervisor running, and ends with it when the pool is shut down.

use std::sync::Arc;
use std::time::Instant;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

use super::pool_supervisor::{PoolSupervisor, PoolSupervisorMsg};
use super::spawn_child;
use crate::backoff::{Backoff, Failure};
use crate::shared::{PoolCell, Shared};

#[derive(Debug)]
#[cfg_attr(feature = "cluster", derive(ractor_cluster_derive::RactorMessage))]
pub(crate) enum RootMsg {
    Start,
    Shutdown,
}

pub(crate) struct Root;

pub(crate) struct State {
    shared: Arc<Shared>,
    supervisor: Option<ActorRef<PoolSupervisorMsg>>,
    backoff: Backoff,
    /// When the supervisor was started last.
    started: Instant,
    closing: bool,
}

impl Actor for Root {
    type Msg = RootMsg;
    type State = State;
    type Arguments = Arc<Shared>;

    async fn pre_start(
        &self,
        _myself: ActorRef<RootMsg>,
        shared: Arc<Shared>,
    ) -> Result<State, ActorProcessingErr> {
        Ok(State {
            shared,
            supervisor: None,
            backoff: Backoff::default(),
            started: Instant::now(),
            closing: false,
        })
    }

    async fn post_start(
        &self,
        myself: ActorRef<RootMsg>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.start(&myself).await;
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<RootMsg>,
        message: RootMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RootMsg::Start => state.start(&myself).await,
            RootMsg::Shutdown => {
                state.closing = true;
                state.shared.stop_admitting();
                let asked = state
                    .supervisor
                    .as_ref()
                    .is_some_and(|child| child.send_message(PoolSupervisorMsg::Shutdown).is_ok());
                if !asked {
                    myself.stop(None);
                }
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<RootMsg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if !matches!(
            event,
            SupervisionEvent::ActorTerminated(..) | SupervisionEvent::ActorFailed(..)
        ) {
            return Ok(());
        }
        state.supervisor = None;
        if state.closing {
            myself.stop(None);
            return Ok(());
        }
        state.shared.refill(PoolCell::Starting);
        let failure = Failure::Death { uptime: state.started.elapsed() };
        let delay = state.backoff.next(failure, fastrand::f64());
        tracing::error!(pool = state.shared.config.name, %event, "the pool's supervisor ended; it is restarted");
        if delay.is_zero() {
            state.start(&myself).await;
        } else {
            myself.send_after(delay, || RootMsg::Start);
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<RootMsg>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.shared.close();
        Ok(())
    }
}

impl State {
    async fn start(&mut self, myself: &ActorRef<RootMsg>) {
        if self.closing {
            return;
        }
        let name = self.shared.config.actor_name("supervisor");
        let shared = || Arc::clone(&self.shared);
        match spawn_child(name, &myself.get_cell(), || PoolSupervisor, shared).await {
            Ok((supervisor, _)) => {
                self.supervisor = Some(supervisor);
                self.started = Instant::now();
            }
            Err(error) => {
                tracing::error!(pool = self.shared.config.name, %error, "cannot start the pool's supervisor");
                let delay = self.backoff.next(Failure::Start, fastrand::f64());
                myself.send_after(delay, || RootMsg::Start);
            }
        }
    }
}
