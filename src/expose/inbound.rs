//! A call from Python, as an actor gets it.

use std::fmt::{self, Display};
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::{InboundError, Outcome, encode};
use crate::codec::{self, Payload};
use crate::context::CallContext;

/// What an exposed name is called with.
pub(crate) struct Incoming {
    pub(crate) name: String,
    /// `null` for none.
    pub(crate) args: Payload,
    pub(crate) context: CallContext,
    /// Python does not wait for the answer.
    pub(crate) cast: bool,
}

impl Incoming {
    pub(super) fn args<T: DeserializeOwned>(&self) -> Result<T, InboundError> {
        codec::decode(&self.args).map_err(|error| {
            let mut message = format!("arguments of `{}`: {error}", self.name);
            if message.contains("expected unit") {
                message += "; it takes none";
            }
            InboundError::new("Arguments", message)
        })
    }
}

/// A call from Python to an actor that was [exposed](crate::Pool::expose_actor), which turns it into a message.
pub struct Inbound {
    pub(super) incoming: Incoming,
    pub(super) reply: oneshot::Sender<Outcome>,
}

impl fmt::Debug for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Incoming { name, args, cast, .. } = &self.incoming;
        let mut shown = f.debug_struct("Inbound");
        shown.field("name", name).field("bytes", &args.json.len()).field("cast", cast).finish()
    }
}

impl Inbound {
    /// The name under which the actor was called.
    pub fn name(&self) -> &str {
        &self.incoming.name
    }

    /// The arguments: several positional ones are an array, keyword arguments an object, a single positional one is itself, and
    /// `()` stands for none.
    ///
    /// # Errors
    ///
    /// One of type `Arguments` that says what does not fit; Python gets it if it is passed on.
    pub fn args<T: DeserializeOwned>(&self) -> Result<T, InboundError> {
        self.incoming.args()
    }

    /// Whether Python does not wait for the answer.
    pub fn is_cast(&self) -> bool {
        self.incoming.cast
    }

    /// Where it comes from; what the actor does for it is to be put into this context if it calls Python itself.
    pub fn context(&self) -> CallContext {
        self.incoming.context.clone()
    }

    /// What the answer is given to, of whatever type serializes; for the message to carry.
    pub fn reply<R>(self) -> Reply<R> {
        Reply { reply: self.reply, context: self.incoming.context, answer: PhantomData }
    }
}

/// Turns a call from Python into a message of an actor, so that it can be [exposed](crate::Pool::expose_actor).
///
/// It runs in a task of its own, not in the actor's: arguments that do not fit never reach the actor.
///
/// ```
/// use snakepen::{FromCall, Inbound, InboundError, Reply};
///
/// enum Pricing {
///     Price { sku: String, reply: Reply<f64> },
/// }
///
/// impl FromCall for Pricing {
///     fn from_call(call: Inbound) -> Result<Self, InboundError> {
///         Ok(Pricing::Price { sku: call.args()?, reply: call.reply() })
///     }
/// }
/// ```
pub trait FromCall: Sized {
    /// The message that says what was called.
    ///
    /// # Errors
    ///
    /// What Python is told instead, such as the error of [`Inbound::args`].
    fn from_call(call: Inbound) -> Result<Self, InboundError>;
}

/// Answers one call from Python. One that is dropped answers too: Python gets an error that says so. For a cast it does
/// nothing.
#[must_use = "a call whose reply is dropped fails"]
pub struct Reply<R> {
    reply: oneshot::Sender<Outcome>,
    context: CallContext,
    answer: PhantomData<fn(R)>,
}

impl<R> fmt::Debug for Reply<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("closed", &self.is_closed()).finish_non_exhaustive()
    }
}

impl<R> Reply<R> {
    /// Answers with an error: Python raises `snakepen.ActorError`, with the name of the error's type, without its modules, and
    /// what it displays. Of an [`Error`](crate::Error) the name is that of its variant.
    pub fn err(self, error: impl Display + 'static) {
        // Whoever asked may have left.
        let _ = self.reply.send(Err(InboundError::of(&error)));
    }

    /// Whether nobody waits for the answer any more: the handler that called has ended, or its worker has.
    pub fn is_closed(&self) -> bool {
        self.reply.is_closed()
    }

    /// Resolves when nobody waits for the answer any more.
    pub async fn closed(&mut self) {
        self.reply.closed().await;
    }

    /// As [`Inbound::context`].
    pub fn context(&self) -> CallContext {
        self.context.clone()
    }
}

impl<R: Serialize> Reply<R> {
    /// Answers with a value. One that JSON cannot say (NaN, a map whose keys are no text) becomes an error of type `Encode`.
    pub fn ok(self, value: R) {
        let _ = self.reply.send(encode(&value));
    }

    /// Answers with a result: [`Reply::ok`], or [`Reply::err`].
    pub fn send<E: Display + 'static>(self, result: Result<R, E>) {
        match result {
            Ok(value) => self.ok(value),
            Err(error) => self.err(error),
        }
    }
}
