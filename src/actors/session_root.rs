//! The root of a session store's tree: it keeps the store's actor running, and ends with it when the store is closed.

use std::sync::Arc;
use std::time::Instant;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

use super::session_store::{SessionStore, SessionStoreMsg};
use super::spawn_child;
use crate::backoff::{Backoff, Failure};
use crate::session::Shared;

#[derive(Debug)]
#[cfg_attr(feature = "cluster", derive(ractor_cluster_derive::RactorMessage))]
pub(crate) enum SessionRootMsg {
    Start,
    Shutdown,
}

pub(crate) struct SessionRoot;

pub(crate) struct State {
    shared: Arc<Shared>,
    store: Option<ActorRef<SessionStoreMsg>>,
    backoff: Backoff,
    /// When the store's actor was started last.
    started: Instant,
    closing: bool,
}

impl Actor for SessionRoot {
    type Msg = SessionRootMsg;
    type State = State;
    type Arguments = Arc<Shared>;

    async fn pre_start(
        &self,
        myself: ActorRef<SessionRootMsg>,
        shared: Arc<Shared>,
    ) -> Result<State, ActorProcessingErr> {
        // Before anybody has a handle of the store: its actor is there, or its name is taken.
        let (name, me) = (shared.settings.name.clone(), myself.get_cell());
        let (store, _) =
            Actor::spawn_linked(Some(name), SessionStore, Arc::clone(&shared), me).await?;
        Ok(State {
            shared,
            store: Some(store),
            backoff: Backoff::default(),
            started: Instant::now(),
            closing: false,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<SessionRootMsg>,
        message: SessionRootMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SessionRootMsg::Start => state.start(&myself).await,
            SessionRootMsg::Shutdown => {
                state.closing = true;
                match &state.store {
                    Some(store) => store.stop(None),
                    None => myself.stop(None),
                }
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<SessionRootMsg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if !matches!(
            event,
            SupervisionEvent::ActorTerminated(..) | SupervisionEvent::ActorFailed(..)
        ) {
            return Ok(());
        }
        state.store = None;
        if state.closing {
            myself.stop(None);
            return Ok(());
        }
        let failure = Failure::Death { uptime: state.started.elapsed() };
        let delay = state.backoff.next(failure, fastrand::f64());
        let store = &state.shared.settings.name;
        tracing::error!(store, %event, "the session store's actor ended; it is restarted");
        if delay.is_zero() {
            state.start(&myself).await;
        } else {
            myself.send_after(delay, || SessionRootMsg::Start);
        }
        Ok(())
    }
}

impl State {
    async fn start(&mut self, myself: &ActorRef<SessionRootMsg>) {
        if self.closing || self.store.is_some() {
            return;
        }
        let name = self.shared.settings.name.clone();
        let shared = || Arc::clone(&self.shared);
        match spawn_child(name, &myself.get_cell(), || SessionStore, shared).await {
            Ok((store, _)) => {
                self.store = Some(store);
                self.started = Instant::now();
            }
            Err(error) => {
                let store = &self.shared.settings.name;
                tracing::error!(store, %error, "cannot start the session store's actor");
                let delay = self.backoff.next(Failure::Start, fastrand::f64());
                myself.send_after(delay, || SessionRootMsg::Start);
            }
        }
    }
}
