//! A Python object that is an actor, as a target: the first argument names its method. What it is given, and what it
//! answers, passes through as it is.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::{InboundError, Incoming, Run, Target, encode};
use crate::codec::Payload;
use crate::error::Error;
use crate::py_actor::PyActor;
use crate::wire::{FrameBuilder, Kind};

/// The actor is not kept alive by it.
pub(crate) fn py_actor(actor: PyActor) -> Arc<dyn Target> {
    Arc::new(Object(actor))
}

struct Object(PyActor);

impl Target for Object {
    fn accept(&self, incoming: Incoming) -> Result<Run, InboundError> {
        let (method, args) = message(&incoming)?;
        let actor = self.0.clone();
        if incoming.cast {
            return Ok(Box::pin(async move {
                actor.cast_raw(&method, args).await.map_err(|error| told(&error))?;
                encode(&())
            }));
        }
        Ok(Box::pin(async move {
            let answer = actor.call_raw(&method, args).payload().await;
            answer.map(reply).map_err(|error| told(&error))
        }))
    }
}

/// The method, and its arguments.
fn message(incoming: &Incoming) -> Result<(String, Payload), InboundError> {
    let Payload { json, buffers } = &incoming.args;
    let unfit = || {
        let name = &incoming.name;
        let message = format!(
            "`{name}` is an object: its first argument is a method's name, as in `snakepen.actor({name:?}).call(\"add\", 5)`"
        );
        InboundError::new("Arguments", message)
    };
    if let Ok(method) = serde_json::from_slice(json) {
        return Ok((method, Payload::default()));
    }
    let parts: Vec<&RawValue> = serde_json::from_slice(json).map_err(|_| unfit())?;
    let (method, args) = parts.split_first().ok_or_else(unfit)?;
    let method = serde_json::from_str(method.get()).map_err(|_| unfit())?;
    let args: Vec<&str> = args.iter().map(|arg| arg.get()).collect();
    let json = format!("[{}]", args.join(",")).into();
    Ok((method, Payload { json, buffers: buffers.clone() }))
}

fn reply(answer: Payload) -> FrameBuilder {
    let mut frame = FrameBuilder::new(Kind::Reply, "value");
    frame.json().extend_from_slice(&answer.json);
    frame.beside(answer.buffers);
    frame
}

/// An exception is told by its own type; another error by its variant.
fn told(error: &Error) -> InboundError {
    match error {
        Error::Python { exception, .. } => {
            InboundError::new(exception.type_name.clone(), exception.message.clone())
        }
        error => InboundError::of(error),
    }
}
