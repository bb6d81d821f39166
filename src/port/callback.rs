//! What Python calls in Rust: the frames, and the futures that answer them.

use std::sync::Arc;

use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio::task::JoinError;

use crate::codec::Payload;
use crate::context::CallContext;
use crate::expose::{self, Exposed, InboundError, Incoming, Outcome, Target};
use crate::wire::{Frame, FrameBuilder, Kind, Message};

/// What an ASK may want of what is exposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Callback {
    Call,
    Cast,
    /// Whoever asked by the same id has left.
    Leave,
}

impl Callback {
    pub(super) fn of(frame: &Frame) -> Option<Self> {
        match frame.name() {
            "call" => Some(Callback::Call),
            "cast" => Some(Callback::Cast),
            "leave" => Some(Callback::Leave),
            _ => None,
        }
    }
}

/// The exposed name, and the arguments as they are.
pub(super) fn operands(frame: &Frame) -> Result<(String, Payload), String> {
    let (name, args): (String, &RawValue) = serde_json::from_slice(&frame.json)
        .map_err(|error| format!("question {:?} that says {error}", frame.name()))?;
    let json = frame.json.slice_ref(args.get().as_bytes());
    Ok((name, Payload { json, buffers: frame.buffers.clone() }))
}

/// A call, to be awaited.
pub(super) fn call(
    target: Arc<dyn Target>,
    name: String,
    args: Payload,
    context: CallContext,
) -> impl Future<Output = Outcome> {
    let incoming = Incoming { name, args, context: context.clone(), cast: false };
    context.scope(async move { target.accept(incoming)?.await })
}

/// A cast, under way; resolves when it is accepted. It goes on whether that is awaited or not.
pub(super) fn cast(
    exposed: &Exposed,
    target: Arc<dyn Target>,
    name: String,
    args: Payload,
    context: CallContext,
) -> Result<impl Future<Output = Outcome> + use<>, InboundError> {
    let permit = exposed.admit_cast()?;
    let context = context.of_cast();
    let incoming = Incoming { name: name.clone(), args, context: context.clone(), cast: true };
    let (accepted, told) = oneshot::channel();
    let panicked = InboundError::panic(&name, &"while it took the cast");
    tokio::spawn(context.scope(async move {
        let _permit = permit;
        let run = match target.accept(incoming) {
            Ok(run) => run,
            Err(error) => {
                // The worker may be gone.
                let _ = accepted.send(Err(error));
                return;
            }
        };
        let _ = accepted.send(expose::encode(&()));
        if let Err(error) = run.await {
            tracing::warn!(name, %error, "a cast from Python failed");
        }
    }));
    Ok(async move { told.await.unwrap_or(Err(panicked)) })
}

/// The request that asks is no more.
pub(super) fn ended() -> InboundError {
    let message = "the request that this belongs to has ended: its caller waits no more";
    InboundError::new("RequestEnded", message)
}

/// Why the task of a call has no outcome.
pub(super) fn failed(name: &str, error: JoinError) -> InboundError {
    match error.try_into_panic() {
        Ok(payload) => InboundError::panic(name, &*payload),
        // It was told to end, and its runtime has not ended.
        Err(_) => ended(),
    }
}

/// The reply; what is over the limit becomes an error.
pub(super) fn encode(id: u64, outcome: Outcome, limit: usize) -> Message {
    let error = match outcome {
        Ok(mut frame) => match frame.message(id, 0, limit) {
            Ok(frame) => return frame,
            Err(size) => {
                let message = format!(
                    "the answer takes {size} bytes, the pool's largest frame is {limit}: answer with less, or raise `max_frame`"
                );
                InboundError::new("TooLarge", message)
            }
        },
        Err(error) => error,
    };
    let error = error.within(limit);
    let mut frame = FrameBuilder::new(Kind::Reply, "error:actor");
    let told = serde_json::json!({ "type": error.type_name(), "message": error.message() });
    let written = serde_json::to_writer(frame.json(), &told);
    debug_assert!(written.is_ok(), "text can always be written");
    frame.finish(id, 0, limit).unwrap_or_default().into()
}
