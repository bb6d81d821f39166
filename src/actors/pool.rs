//! The pool's actor: it owns the queue, which lives and dies with it, the one timer that ends what runs out of time, and
//! the task that keeps the pool's size where that is not fixed.

use std::sync::Arc;
use std::time::Instant;

use ractor::concurrency::JoinHandle;
use ractor::{Actor, ActorProcessingErr, ActorRef, MessagingErr, RpcReplyPort};

use crate::autoscale;
use crate::dispatcher::Dispatcher;
use crate::pool::Pool as PoolHandle;
use crate::shared::Shared;

#[derive(Debug)]
#[cfg_attr(feature = "cluster", derive(ractor_cluster_derive::RactorMessage))]
pub(crate) enum PoolMsg {
    /// Take over what the board knows of the workers; sent once this actor can be found.
    Adopt,
    /// The earliest deadline has come, or an earlier one than the timer's has been set.
    Tick,
    /// Give up what is queued and what runs: the pool is being shut down.
    Abort,
    /// A handle of this pool, if one is left.
    Handle(RpcReplyPort<Option<PoolHandle>>),
}

pub(crate) struct Pool;

#[derive(Clone)]
pub(crate) struct Arguments {
    pub(crate) shared: Arc<Shared>,
    pub(crate) dispatcher: Arc<Dispatcher>,
}

pub(crate) struct State {
    shared: Arc<Shared>,
    dispatcher: Arc<Dispatcher>,
    timer: Option<Timer>,
    autoscale: Option<JoinHandle<()>>,
}

/// What stops the pool's one timer.
type Timer = JoinHandle<Result<(), MessagingErr<PoolMsg>>>;

impl Actor for Pool {
    type Msg = PoolMsg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        _myself: ActorRef<PoolMsg>,
        Arguments { shared, dispatcher }: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        Ok(State { shared, dispatcher, timer: None, autoscale: None })
    }

    async fn handle(
        &self,
        myself: ActorRef<PoolMsg>,
        message: PoolMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            PoolMsg::Adopt => {
                state.dispatcher.adopt(&state.shared.board);
                state.tick(&myself);
                if let Some(plan) = state.shared.config.autoscale.clone() {
                    let scale = autoscale::run(Arc::clone(&state.shared), plan);
                    state.autoscale = Some(tokio::spawn(scale));
                }
            }
            PoolMsg::Tick => state.tick(&myself),
            PoolMsg::Abort => {
                state.dispatcher.abort();
                state.shared.board.kill_busy();
            }
            PoolMsg::Handle(reply) => {
                // An actor's private pool is called through the actor only.
                let is_private = state.shared.config.actor.is_some();
                let anchor = state.shared.anchor().filter(|_| !is_private);
                let handle = anchor.map(PoolHandle::of);
                // Whoever asked may be gone.
                let _ = reply.send(handle);
            }
        }
        Ok(())
    }
}

impl State {
    /// Ends what has run out of time, and sets the timer to the next deadline. The call of that deadline may have ended
    /// long before: then the timer fires for nothing, which is cheaper than to move it with every call.
    fn tick(&mut self, myself: &ActorRef<PoolMsg>) {
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
        self.timer = self.dispatcher.expire().map(|next| {
            let ahead = next.saturating_duration_since(Instant::now());
            myself.send_after(ahead, || PoolMsg::Tick)
        });
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.dispatcher.close();
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
        if let Some(autoscale) = self.autoscale.take() {
            autoscale.abort();
        }
    }
}
