//! The actor of an instance of a Python class: its name, its place under a supervisor, and the messages that reach it by
//! its name. Its process belongs to a private pool, which is somebody else's to keep ([`crate::py_actor::home`]).

use std::sync::{Arc, OnceLock};

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::codec;
use crate::config::Config;
use crate::error::{Error, StartError};
use crate::py_actor::{Instance, PyActor, home};

/// What a [`PyActor`]'s actor can be sent, by whoever has found it in ractor's registry.
///
/// Messages of one sender run in the order in which they are sent. Beside them, those of [`PyActor::call`] and
/// [`PyActor::cast`] do not pass through this mailbox; between the two ways there is no order.
#[non_exhaustive]
#[derive(Debug)]
#[cfg_attr(feature = "cluster", derive(ractor_cluster_derive::RactorMessage))]
pub enum PyActorMsg {
    /// Call a method, and send its result. Its time is that of the reply port if that has one, else the pool's
    /// [`call_timeout`](crate::Builder::call_timeout). Unlike [`PyActor::call`], it is not cancelled when nobody waits for its
    /// reply any more.
    Call {
        /// The method's name.
        method: String,
        /// An array of positional arguments, an object of keyword arguments, `null` for none, or the one argument.
        args: Value,
        /// Where the result, or the error, goes.
        reply: RpcReplyPort<Result<Value, Error>>,
    },
    /// Call a method, and let its end be logged if it is an error; see [`PyActor::cast`].
    Cast {
        /// The method's name.
        method: String,
        /// As for a call.
        args: Value,
    },
    /// Send a handle; [`PyActor::find`] asks so.
    Find(RpcReplyPort<PyActor>),
}

pub(crate) struct PyActorActor;

pub(crate) struct Arguments {
    pub(crate) config: Config,
    /// Where whoever spawns it finds it: once the actor runs there is nothing more to wait for, and so nothing that could be
    /// given up half-way.
    pub(crate) made: Arc<OnceLock<Arc<Instance>>>,
}

pub(crate) struct State {
    instance: Arc<Instance>,
}

impl Actor for PyActorActor {
    type Msg = PyActorMsg;
    type State = State;
    type Arguments = Arguments;

    /// Waits until the instance is there: who spawns it learns why it is not. The work is another task's.
    async fn pre_start(
        &self,
        myself: ActorRef<PyActorMsg>,
        Arguments { config, made }: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let (ready, started) = oneshot::channel();
        let name = config.name.clone();
        tokio::spawn(home::keep(config, myself.clone(), ready));
        match started.await {
            Ok(Ok(pool)) => {
                let instance = Arc::new(Instance::new(myself, pool));
                // Set once, here.
                let _ = made.set(Arc::clone(&instance));
                Ok(State { instance })
            }
            Ok(Err(error)) => Err(Box::new(error)),
            Err(_) => Err(Box::new(Error::from(StartError::Stopped { what: name }))),
        }
    }

    async fn handle(
        &self,
        _myself: ActorRef<PyActorMsg>,
        message: PyActorMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            // Each has its place in the queue before the next is looked at.
            PyActorMsg::Call { method, args, reply } => {
                let mut call = state.instance.call::<Value>(&method, &args);
                if let Some(timeout) = reply.get_timeout() {
                    call = call.timeout(timeout);
                }
                match call.place().await {
                    Ok(placed) => {
                        tokio::spawn(async move {
                            let result = placed.ended().await.and_then(|payload| {
                                codec::decode(&payload)
                                    .map_err(|message| Error::Decode { handler: method, message })
                            });
                            // Whoever asked may be gone.
                            let _ = reply.send(result);
                        });
                    }
                    Err(error) => {
                        let _ = reply.send(Err(error));
                    }
                }
            }
            PyActorMsg::Cast { method, args } => {
                if let Err(error) = state.instance.cast(&method, &args).await {
                    state.instance.cast_failed(&method, &error);
                }
            }
            PyActorMsg::Find(reply) => {
                let _ = reply.send(PyActor::of(Arc::clone(&state.instance)));
            }
        }
        Ok(())
    }

    /// Its supervisor hears of its end when the process is gone.
    async fn post_stop(
        &self,
        _myself: ActorRef<PyActorMsg>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.instance.pool().shutdown().await?;
        Ok(())
    }
}
