//! The actor of a session store: it lets sessions expire, and has persisted what may be persisted late. No read or write
//! goes through it.

use std::sync::Arc;
use std::time::Duration;

use ractor::concurrency::JoinHandle;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use crate::session::{SessionStore as SessionStoreHandle, Shared};

/// When it is maintained again where something has been done to it, or where the backend could not do it.
const SOON: Duration = Duration::from_secs(1);

/// It is maintained at least so often: a write whose caller is gone is told of by nobody.
const SELDOM: Duration = Duration::from_secs(60);

#[derive(Debug)]
#[cfg_attr(feature = "cluster", derive(ractor_cluster_derive::RactorMessage))]
pub(crate) enum SessionStoreMsg {
    /// A handle of this store, if one is left.
    Handle(RpcReplyPort<Option<SessionStoreHandle>>),
}

pub(crate) struct SessionStore;

pub(crate) struct State {
    shared: Arc<Shared>,
    /// The work itself, which may wait for a disk or a server.
    maintenance: JoinHandle<()>,
}

impl Actor for SessionStore {
    type Msg = SessionStoreMsg;
    type State = State;
    type Arguments = Arc<Shared>;

    async fn pre_start(
        &self,
        _myself: ActorRef<SessionStoreMsg>,
        shared: Arc<Shared>,
    ) -> Result<State, ActorProcessingErr> {
        let maintenance = tokio::spawn(maintain(Arc::clone(&shared)));
        Ok(State { shared, maintenance })
    }

    async fn handle(
        &self,
        _myself: ActorRef<SessionStoreMsg>,
        message: SessionStoreMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SessionStoreMsg::Handle(reply) => {
                let handle = state.shared.anchor().map(SessionStoreHandle::of);
                // Whoever asked may be gone.
                let _ = reply.send(handle);
            }
        }
        Ok(())
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.maintenance.abort();
    }
}

async fn maintain(shared: Arc<Shared>) {
    loop {
        // First, so that an operation that the backend has not seen is told of.
        shared.rest();
        let next = match shared.backend.maintain().await {
            Ok(next) => next,
            Err(error) => {
                let store = &shared.settings.name;
                tracing::warn!(store, %error, "cannot sweep the session store now");
                SOON
            }
        };
        let soon = async {
            shared.used().await;
            tokio::time::sleep(SOON).await;
        };
        // A store that nobody uses sleeps until a session expires, or nearly.
        tokio::select! {
            () = tokio::time::sleep(next.min(SELDOM)) => {}
            () = soon => {}
        }
    }
}
