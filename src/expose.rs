//! What Python may call in Rust: functions and actors by the names that they were given, and nothing else.

mod fault;
mod inbound;
mod py_actor;

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ractor::{ActorRef, ActorStatus};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

pub use fault::InboundError;
pub(crate) use inbound::Incoming;
pub use inbound::{FromCall, Inbound, Reply};
pub(crate) use py_actor::py_actor;

use crate::codec;
use crate::error::Error;
use crate::wire::{FrameBuilder, Kind};

/// The longest name, in bytes.
const LONGEST: usize = 255;

/// The most casts of a pool that are at work; more are refused.
const MAX_CASTS: usize = 1024;

/// An error names so many of the names that there are.
const TOLD: usize = 40;

/// An actor that drops a call because it ends shows it within this time.
const END: Duration = Duration::from_millis(50);

/// What an exposed name answers: the REPLY, to be finished, or why there is none.
pub(crate) type Outcome = Result<FrameBuilder, InboundError>;

/// A call that was accepted, at work.
pub(crate) type Run = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// What a name stands for.
pub(crate) trait Target: Send + Sync {
    /// Takes the call, or says why not. Whatever it waits for is in the future that it returns.
    fn accept(&self, call: Incoming) -> Result<Run, InboundError>;
}

// === The table ===

type Table = BTreeMap<String, Arc<dyn Target>>;

/// What a pool begins with.
#[derive(Clone, Default)]
pub(crate) struct Exposures {
    table: Table,
    /// The first name that is none, or that is taken.
    refused: Option<Error>,
}

impl Exposures {
    pub(crate) fn insert(
        &mut self,
        option: &'static str,
        name: impl Into<String>,
        target: Arc<dyn Target>,
    ) {
        let name = name.into();
        if let Err(error) = check_name(option, &name) {
            self.refused.get_or_insert(error);
        }
        if self.table.contains_key(&name) {
            let message =
                format!("`{name:.80}` is exposed twice: give one of the two another name");
            self.refused.get_or_insert(Error::Config { option, message });
        }
        self.table.insert(name, target);
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        self.refused.clone().map_or(Ok(()), Err)
    }
}

impl fmt::Debug for Exposures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.table.keys()).finish()
    }
}

/// The names of a pool. They outlive its actors.
#[derive(Clone)]
pub(crate) struct Exposed {
    table: Arc<RwLock<Table>>,
    casts: Arc<Semaphore>,
}

impl fmt::Debug for Exposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.read().keys()).finish()
    }
}

impl Exposed {
    pub(crate) fn new(Exposures { table, .. }: Exposures) -> Self {
        let casts = Arc::new(Semaphore::new(MAX_CASTS));
        Self { table: Arc::new(RwLock::new(table)), casts }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Table> {
        // Nothing in here panics half-way.
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn insert(
        &self,
        option: &'static str,
        name: &str,
        target: Arc<dyn Target>,
    ) -> Result<(), Error> {
        check_name(option, name)?;
        let former = self.write().insert(name.to_owned(), target);
        // Of the user's, and so not under the lock.
        drop(former);
        Ok(())
    }

    /// Whether there was such a name.
    pub(crate) fn remove(&self, name: &str) -> bool {
        let removed = self.write().remove(name);
        removed.is_some()
    }

    /// The pool is shut down: what its names keep may keep the pool.
    pub(crate) fn clear(&self) {
        let table = std::mem::take(&mut *self.write());
        drop(table);
    }

    pub(crate) fn find(&self, name: &str) -> Result<Arc<dyn Target>, InboundError> {
        let table = self.read();
        if let Some(target) = table.get(name) {
            return Ok(Arc::clone(target));
        }
        let mut message = format!("nothing is exposed as `{name:.80}`; ");
        if table.is_empty() {
            message += "nothing is at all: use `Pool::expose_fn` or `Pool::expose_actor` in Rust";
        } else {
            let names: Vec<_> = table.keys().take(TOLD).map(String::as_str).collect();
            message += &format!("there are: {}", names.join(", "));
            if table.len() > TOLD {
                message += &format!(", and {} more", table.len() - TOLD);
            }
        }
        Err(InboundError::new("NotExposed", message))
    }

    /// Room for a cast, to be kept until it has ended.
    pub(crate) fn admit_cast(&self) -> Result<OwnedSemaphorePermit, InboundError> {
        Arc::clone(&self.casts).try_acquire_owned().map_err(|_| {
            let message =
                format!("{MAX_CASTS} casts of this pool are at work already: call, or cast later");
            InboundError::new("Busy", message)
        })
    }
}

fn check_name(option: &'static str, name: &str) -> Result<(), Error> {
    if (1..=LONGEST).contains(&name.len()) && !name.chars().any(char::is_control) {
        return Ok(());
    }
    let message = format!(
        "{name:.80?} is no name to expose: that is 1 to {LONGEST} bytes of text without control characters"
    );
    Err(Error::Config { option, message })
}

pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Outcome {
    let mut frame = FrameBuilder::new(Kind::Reply, "value");
    match codec::encode(frame.json(), value) {
        Ok(buffers) => {
            frame.beside(buffers);
            Ok(frame)
        }
        Err(error) => {
            let message = format!("the answer can't become JSON: {error}");
            Err(InboundError::new("Encode", message))
        }
    }
}

// === Functions ===

/// A function, as a target.
pub(crate) fn function<A, R, E, F, Fut>(function: F) -> Arc<dyn Target>
where
    A: DeserializeOwned,
    R: Serialize,
    E: Display + 'static,
    F: Fn(A) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R, E>> + Send + 'static,
{
    struct Function<W>(W);

    impl<W: Fn(Incoming) -> Result<Run, InboundError> + Send + Sync> Target for Function<W> {
        fn accept(&self, call: Incoming) -> Result<Run, InboundError> {
            (self.0)(call)
        }
    }

    Arc::new(Function(move |call: Incoming| {
        let answer = function(call.args()?);
        let run = async move {
            match answer.await {
                Ok(value) => encode(&value),
                Err(error) => Err(InboundError::of(&error)),
            }
        };
        Ok(Box::pin(run) as Run)
    }))
}

// === Actors ===

/// An actor, as a target. The reference does not keep it alive.
pub(crate) fn actor<M: FromCall + ractor::Message>(actor: ActorRef<M>) -> Arc<dyn Target> {
    Arc::new(ActorTarget(actor))
}

struct ActorTarget<M>(ActorRef<M>);

impl<M: FromCall + ractor::Message> Target for ActorTarget<M> {
    fn accept(&self, incoming: Incoming) -> Result<Run, InboundError> {
        let (name, cast) = (incoming.name.clone(), incoming.cast);
        if has_ended(&self.0) {
            return Err(stopped(&name));
        }
        let (reply, answer) = oneshot::channel();
        let message = M::from_call(Inbound { incoming, reply })?;
        self.0.send_message(message).map_err(|_| stopped(&name))?;
        let actor = self.0.clone();
        Ok(Box::pin(async move {
            if let Ok(outcome) = answer.await {
                return outcome;
            }
            if cast {
                return encode(&());
            }
            // Its end drops what it has, and only then can it be seen.
            let _ = tokio::time::timeout(END, actor.wait(None)).await;
            if has_ended(&actor) {
                return Err(stopped(&name));
            }
            let message = format!("the actor exposed as `{name}` has dropped the call unanswered");
            Err(InboundError::new("NoReply", message))
        }))
    }
}

fn has_ended<M>(actor: &ActorRef<M>) -> bool {
    actor.get_status() >= ActorStatus::Stopping
}

fn stopped(name: &str) -> InboundError {
    let message = format!(
        "the actor exposed as `{name}` has stopped, and did not answer: expose its successor under this name"
    );
    InboundError::new("ActorStopped", message)
}
