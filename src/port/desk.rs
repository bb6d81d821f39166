//! The desk: what Python asks Rust for while a handler runs, and the replies.
//!
//! A question is an ASK frame, its answer a REPLY of the same id. Most are answered at once, in the port's own task; those
//! that have to wait for a disk or a server, and calls of what is exposed ([`super::callback`]), are answered by tasks, of
//! which there are at most so many.

use std::collections::HashMap;
use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::task::{AbortHandle, Id, JoinSet};

use super::callback::{self, Callback};
use crate::context::CallContext;
use crate::expose::{Exposed, InboundError};
use crate::session::{
    Expected, Key, Operation, Outcome, Scope, SessionError, SessionStore, Space, Value,
};
use crate::wire::{Frame, FrameBuilder, Kind, Message, ProtocolError};

/// The most questions of a worker that wait for an answer; more are refused.
const MAX_WAITING: usize = 1024;

/// What a worker has asked, and not been told yet.
#[derive(Debug)]
pub(super) struct Desk {
    store: SessionStore,
    exposed: Exposed,
    max_frame: usize,
    waiting: JoinSet<Message>,
    /// The questions that those tasks answer.
    asked: HashMap<Id, Question>,
}

#[derive(Debug)]
struct Question {
    /// The id of its frame.
    id: u64,
    /// Of a call of what is exposed.
    call: Option<Asked>,
}

/// A call of what is exposed, which ends with the request that asks.
#[derive(Debug)]
struct Asked {
    name: String,
    request: u64,
    task: AbortHandle,
}

impl Desk {
    pub(super) fn new(store: SessionStore, exposed: Exposed, max_frame: usize) -> Self {
        let (waiting, asked) = (JoinSet::new(), HashMap::new());
        Self { store, exposed, max_frame, waiting, asked }
    }

    /// The reply, if it is there at once; else [`Desk::reply`] has it.
    pub(super) fn ask(&mut self, frame: &Frame) -> Result<Option<Message>, ProtocolError> {
        let operation = match operation(frame) {
            Ok(Ok(operation)) => operation,
            Ok(Err(error)) => return Ok(Some(self.encode(frame.id, Err(error)))),
            Err(message) => {
                return Err(ProtocolError::Unexpected(format!(
                    "question {:?} {message}",
                    frame.name()
                )));
            }
        };
        let mut answer = Box::pin(self.store.execute(operation));
        let mut context = Context::from_waker(std::task::Waker::noop());
        if let Poll::Ready(outcome) = answer.as_mut().poll(&mut context) {
            return Ok(Some(self.encode(frame.id, outcome)));
        }
        if let Some(message) = self.is_full() {
            return Ok(Some(self.refuse(frame.id, "busy", &message)));
        }
        let (id, max_frame) = (frame.id, self.max_frame);
        let task = self.waiting.spawn(async move { encode(id, answer.await, max_frame) });
        self.asked.insert(task.id(), Question { id, call: None });
        Ok(None)
    }

    /// Likewise, where the frame asks for what is exposed; `asker` is the context of the request that asks, while a worker
    /// has it.
    pub(super) fn call(
        &mut self,
        callback: Callback,
        frame: &Frame,
        asker: Option<CallContext>,
    ) -> Result<Option<Message>, ProtocolError> {
        let id = frame.id;
        if callback == Callback::Leave {
            let asked = self.asked.values().find(|question| question.id == id);
            if let Some(Asked { task, .. }) = asked.and_then(|question| question.call.as_ref()) {
                task.abort();
            }
            // The reply is that of the call.
            return Ok(None);
        }
        let (name, args) = callback::operands(frame).map_err(ProtocolError::Unexpected)?;
        let full = self.is_full().map(|message| Err(InboundError::new("Busy", message)));
        let target = full.unwrap_or_else(|| self.exposed.find(&name));
        let accepted = target.and_then(|target| Ok((target, asker.ok_or_else(callback::ended)?)));
        let (target, context) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => return Ok(Some(callback::encode(id, Err(error), self.max_frame))),
        };
        let (max_frame, request) = (self.max_frame, frame.arg);
        if callback == Callback::Cast {
            let accepted = match callback::cast(&self.exposed, target, name, args, context) {
                Ok(accepted) => accepted,
                Err(error) => return Ok(Some(callback::encode(id, Err(error), max_frame))),
            };
            let accepted = async move { callback::encode(id, accepted.await, max_frame) };
            let task = self.waiting.spawn(accepted);
            self.asked.insert(task.id(), Question { id, call: None });
            return Ok(None);
        }
        let outcome = callback::call(target, name.clone(), args, context);
        let answer = async move { callback::encode(id, outcome.await, max_frame) };
        let task = self.waiting.spawn(answer);
        let call = Some(Asked { name, request, task: task.clone() });
        self.asked.insert(task.id(), Question { id, call });
        Ok(None)
    }

    /// The request has ended: so do the calls that it has made. Their replies come all the same, for a thread that may be
    /// left.
    pub(super) fn abandon(&self, request: u64) {
        let of_request = |question: &&Asked| question.request == request;
        let calls = self.asked.values().filter_map(|question| question.call.as_ref());
        calls.filter(of_request).for_each(|call| call.task.abort());
    }

    /// The worker has ended: so does whatever it has asked.
    pub(super) fn close(&mut self) {
        self.waiting.abort_all();
    }

    fn is_full(&self) -> Option<String> {
        (self.waiting.len() >= MAX_WAITING).then(|| {
            format!("{MAX_WAITING} questions of this worker wait for an answer already: ask fewer at once")
        })
    }

    /// The next reply that had to be waited for; pending for ever if there is none.
    pub(super) async fn reply(&mut self) -> Message {
        poll_fn(|cx| self.poll_reply(cx)).await
    }

    /// Likewise. After a question that has to wait it must be polled again.
    pub(super) fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Message> {
        let Some(reply) = ready!(self.waiting.poll_join_next_with_id(cx)) else {
            return Poll::Pending;
        };
        Poll::Ready(match reply {
            Ok((task, reply)) => {
                self.asked.remove(&task);
                reply
            }
            Err(error) => match self.asked.remove(&error.id()) {
                Some(Question { id, call: Some(call) }) => {
                    callback::encode(id, Err(callback::failed(&call.name, error)), self.max_frame)
                }
                // A backend of the user's may panic.
                question => {
                    let id = question.map_or(0, |question| question.id);
                    self.refuse(id, "backend", &format!("session: the store failed: {error}"))
                }
            },
        })
    }

    fn encode(&self, id: u64, outcome: Result<Outcome, SessionError>) -> Message {
        encode(id, outcome, self.max_frame)
    }

    fn refuse(&self, id: u64, kind: &str, message: &str) -> Message {
        refuse(id, kind, message, self.max_frame)
    }
}

// === From Python ===

/// A question that could not be understood was not asked by the package: its port ends.
fn operation(frame: &Frame) -> Result<Result<Operation, SessionError>, String> {
    type Scoped = (Option<String>,);
    let parse_scope = |scope: Option<String>| match scope {
        None => Ok(Scope::Global),
        Some(id) => Scope::session(id),
    };
    fn parse<'a, T: Deserialize<'a>>(frame: &'a Frame) -> Result<T, String> {
        serde_json::from_slice(&frame.json).map_err(|error| format!("that says {error}"))
    }
    macro_rules! scope {
        ($scope:expr) => {
            match parse_scope($scope) {
                Ok(scope) => scope,
                Err(error) => return Ok(Err(error)),
            }
        };
    }
    Ok(Ok(match frame.name() {
        "get" => {
            let (scope, space, name, known) =
                parse::<(Option<String>, u8, String, Option<u64>)>(frame)?;
            let key = Key { scope: scope!(scope), space: space_of(space)?, name };
            Operation::Get { key, known }
        }
        "put" => {
            let (scope, space, name, expected, value) =
                parse::<(Option<String>, u8, String, i64, &RawValue)>(frame)?;
            let value = value_of(frame, value)?;
            let key = Key { scope: scope!(scope), space: space_of(space)?, name };
            Operation::Put { key, value, expected: expected_of(expected)? }
        }
        "delete" => {
            let (scope, space, name, expected) = parse::<(Option<String>, u8, String, i64)>(frame)?;
            let key = Key { scope: scope!(scope), space: space_of(space)?, name };
            Operation::Delete { key, expected: expected_of(expected)? }
        }
        "keys" => {
            let (scope, space) = parse::<(Option<String>, u8)>(frame)?;
            Operation::Keys { scope: scope!(scope), space: space_of(space)? }
        }
        "info" => Operation::Info { scope: scope!(parse::<Scoped>(frame)?.0) },
        "expire" => Operation::Expire { scope: scope!(parse::<Scoped>(frame)?.0) },
        "touch" => Operation::Touch { scope: scope!(parse::<Scoped>(frame)?.0) },
        _ => return Err("is none that Rust knows".to_owned()),
    }))
}

fn space_of(space: u8) -> Result<Space, String> {
    match space {
        0 => Ok(Space::Value),
        1 => Ok(Space::Program),
        other => Err(format!("names the space {other}")),
    }
}

/// Versions begin at 1.
fn expected_of(expected: i64) -> Result<Expected, String> {
    match expected {
        -1 => Ok(Expected::Any),
        0 => Ok(Expected::Absent),
        version => u64::try_from(version)
            .map(Expected::Version)
            .map_err(|_| format!("expects version {version}")),
    }
}

/// JSON; or, in a buffer beside it, bytes or an array.
fn value_of(frame: &Frame, json: &RawValue) -> Result<Value, String> {
    match &frame.buffers[..] {
        [] => Ok(Value::Json(frame.json.slice_ref(json.get().as_bytes()))),
        [data] => {
            let kind: Option<(String, Vec<usize>)> =
                serde_json::from_str(json.get()).map_err(|error| format!("that says {error}"))?;
            Ok(match kind {
                None => Value::Bytes(data.clone()),
                Some((dtype, shape)) => Value::Array { dtype, shape, data: data.clone() },
            })
        }
        more => Err(format!("has {} buffers", more.len())),
    }
}

// === To Python ===

pub(super) fn encode(id: u64, outcome: Result<Outcome, SessionError>, limit: usize) -> Message {
    let bare = |name, arg| reply(FrameBuilder::new(Kind::Reply, name), id, arg, limit);
    match outcome {
        Ok(Outcome::Missing | Outcome::Info(None)) => bare("missing", 0),
        Ok(Outcome::Unchanged) => bare("unchanged", 0),
        Ok(Outcome::Written { version }) => bare("done", version),
        Ok(Outcome::Deleted(done) | Outcome::Done(done)) => bare("done", done.into()),
        Ok(Outcome::Value { value, version }) => {
            let mut frame = FrameBuilder::new(Kind::Reply, "value");
            match value {
                Value::Json(json) => frame.json().extend_from_slice(&json),
                Value::Bytes(data) => {
                    frame.json().extend_from_slice(b"null");
                    frame.beside(vec![data]);
                }
                Value::Array { dtype, shape, data } => {
                    // Neither can fail to serialize.
                    let kind = serde_json::to_vec(&(dtype, shape)).unwrap_or_default();
                    frame.json().extend_from_slice(&kind);
                    frame.beside(vec![data]);
                }
            }
            reply(frame, id, version, limit)
        }
        Ok(Outcome::Info(Some(info))) => {
            let seconds =
                |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            let told = serde_json::json!({
                "created": seconds(info.created),
                "accessed": seconds(info.accessed),
                "ttl": info.ttl.map(|ttl| ttl.as_secs_f64()),
                "entries": info.entries,
                "bytes": info.bytes,
            });
            reply(text(FrameBuilder::new(Kind::Reply, "value"), told), id, 0, limit)
        }
        Ok(Outcome::Keys(keys)) => {
            reply(text(FrameBuilder::new(Kind::Reply, "value"), keys), id, 0, limit)
        }
        Err(ref error @ SessionError::Conflict { found, .. }) => {
            let frame = text(FrameBuilder::new(Kind::Reply, "conflict"), error.to_string());
            reply(frame, id, found.unwrap_or(0), limit)
        }
        Err(error) => refuse(id, kind_of(&error), &error.to_string(), limit),
    }
}

fn refuse(id: u64, kind: &str, message: &str, limit: usize) -> Message {
    reply(text(FrameBuilder::new(Kind::Reply, &format!("error:{kind}")), message), id, 0, limit)
}

/// What is over the limit becomes a short error; that one is always sent.
fn reply(mut frame: FrameBuilder, id: u64, arg: u64, limit: usize) -> Message {
    frame.message(id, arg, limit).unwrap_or_else(|size| {
        let message = format!(
            "session: the answer takes {size} bytes, the pool's largest frame is {limit}: keep less under one key, or \
             raise `max_frame`"
        );
        let mut frame = text(FrameBuilder::new(Kind::Reply, "error:too_large"), &message);
        frame.finish(id, 0, usize::MAX).unwrap_or_default().into()
    })
}

fn text(mut frame: FrameBuilder, json: impl Serialize) -> FrameBuilder {
    let written = serde_json::to_writer(frame.json(), &json);
    debug_assert!(written.is_ok(), "text can always be written");
    frame
}

/// What `SessionError.kind` is in Python.
fn kind_of(error: &SessionError) -> &'static str {
    match error {
        SessionError::Invalid { .. } => "invalid",
        SessionError::TooLarge { .. } => "too_large",
        SessionError::Full { .. } => "full",
        SessionError::Conflict { .. } => "conflict",
        SessionError::Decode { .. } | SessionError::Encode { .. } => "value",
        SessionError::Closed { .. } => "closed",
        _ => "backend",
    }
}
