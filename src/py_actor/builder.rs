//! The options of an actor.

use std::sync::Arc;

use bytes::Bytes;
use ractor::{Actor, ActorCell, SpawnErr};
use serde::Serialize;

use super::PyActor;
use crate::actors::py_actor::{Arguments, PyActorActor};
use crate::config::{ActorSpec, Builder, Config};
use crate::error::{Error, StartError};
use crate::pool::check_runtime;
use crate::session::SessionStore;
use crate::wire::json;

/// The options of an actor, made by [`PyActor::builder`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is spawned"]
pub struct PyActorBuilder {
    name: String,
    target: String,
    args: Result<Bytes, Error>,
    save_every: u32,
    pool: Builder,
}

impl PyActorBuilder {
    pub(super) fn new(name: String, target: String) -> Self {
        let pool = Builder::new(private_pool(&name));
        Self { name, target, args: Ok(Bytes::new()), save_every: 1, pool }
    }

    /// The arguments of `__init__`, by the rules of [`Pool::call`](crate::Pool::call): a tuple is positional, a struct or a
    /// map keyword arguments. Default: none. They are encoded now, and serve each new instance.
    pub fn args(mut self, args: impl Serialize) -> Self {
        let mut text = Vec::new();
        let handler = self.target.clone();
        self.args = json::to_writer(&mut text, &args)
            .map(|()| text.into())
            .map_err(|error| Error::Encode { handler, message: error.to_string() });
        self
    }

    /// Changes options of the process: the interpreter, its environment, times, limits. It is a pool of one worker, of its
    /// own, named `<name>.pool`; what is an option of a pool is one of it, but for `handlers`, `expose`, `workers` and
    /// `autoscale`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// let builder = snakepen::PyActor::builder("index", "index.py:Index")
    ///     .with(|pool| pool.call_timeout(Duration::from_secs(5)).memory_limit(512 << 20));
    /// ```
    ///
    /// Those that replace a worker, such as [`max_requests`](Builder::max_requests), replace the instance, with its state:
    /// the next one is made when the one before has left, and messages wait for that.
    /// [`reuse_after_cancel`](Builder::reuse_after_cancel) keeps an instance whose method was cut off at some point.
    pub fn with(mut self, change: impl FnOnce(Builder) -> Builder) -> Self {
        self.pool = change(self.pool);
        self
    }

    /// Where its state is kept, if its class has any. Default: a store in memory of its own, which ends with the actor.
    pub fn sessions(self, store: SessionStore) -> Self {
        self.with(|pool| pool.sessions(store))
    }

    /// Saves the state after so many messages that have ended without an exception, and when the process leaves in order.
    /// Default: 1, after each. With more, what a process that dies has done since is lost though it was answered. 0: never;
    /// the state that is in the store is loaded all the same.
    pub fn save_every(mut self, messages: u32) -> Self {
        self.save_every = messages;
        self
    }

    /// Spawns the actor; returns when its instance is ready, or with the reason why it is not. In the latter case, and if the
    /// future is dropped, nothing is left.
    ///
    /// Must be called on a tokio runtime with I/O and time enabled; the actor lives on that runtime, until it is stopped.
    ///
    /// # Errors
    ///
    /// [`Error::NameTaken`] if an actor has the name, or that of a part of its pool; [`Error::Config`] for an option that
    /// cannot work; [`Error::Encode`] and [`Error::TooLarge`] for the arguments; [`Error::Start`], with the traceback, if
    /// Python, the file, `__init__` or `load_state` fails.
    pub async fn spawn(self) -> Result<PyActor, Error> {
        self.spawn_under(None).await
    }

    /// Spawns the actor under a supervisor, which gets ractor's events of it. If the supervisor ends, so does the actor.
    ///
    /// The supervisor may await this in a handler of its own, to begin with or when it hears of the actor's end; the name is
    /// free by then.
    ///
    /// # Errors
    ///
    /// As [`PyActorBuilder::spawn`]; of those the supervisor gets no event. [`Error::Start`] if it is ending itself.
    pub async fn spawn_linked(self, supervisor: ActorCell) -> Result<PyActor, Error> {
        self.spawn_under(Some(supervisor)).await
    }

    async fn spawn_under(self, supervisor: Option<ActorCell>) -> Result<PyActor, Error> {
        let name = self.name.clone();
        check_runtime().await?;
        let made = Arc::default();
        let arguments = Arguments { config: self.check()?, made: Arc::clone(&made) };
        let registered = Some(name.clone());
        let spawned = match supervisor {
            None => Box::pin(Actor::spawn(registered, PyActorActor, arguments)).await,
            Some(cell) => {
                Box::pin(Actor::spawn_linked(registered, PyActorActor, arguments, cell)).await
            }
        };
        match spawned {
            Ok(_) => made.get().cloned().map(PyActor::of).ok_or_else(|| stopped(&name)),
            Err(SpawnErr::ActorAlreadyRegistered(name)) => Err(Error::NameTaken { name }),
            Err(SpawnErr::StartupFailed(error)) => Err(match error.downcast::<Error>() {
                Ok(error) => *error,
                Err(_) => stopped(&name),
            }),
            Err(error) => Err(StartError::System(error.to_string()).into()),
        }
    }

    fn check(self) -> Result<Config, Error> {
        let Self { name, target, args, save_every, pool } = self;
        let reject = |option, message: String| Err(Error::Config { option, message });
        if name.is_empty() || name.contains('/') || name.len() > 255 {
            let message = "an actor's name has 1 to 255 bytes, and no `/`".to_owned();
            return reject("builder", message);
        }
        let class = |class: &str| class.split('.').all(|name| !name.is_empty());
        let Some((module, class)) =
            target.rsplit_once(':').filter(|(module, path)| !module.is_empty() && class(path))
        else {
            let message =
                format!("`{target}` is not of the form `file.py:Class` or `module:Class`");
            return reject("target", message);
        };
        let actor = ActorSpec {
            module: module.to_owned(),
            class: class.to_owned(),
            args: args?,
            save_every,
            name,
        };
        pool.of_actor(private_pool(&actor.name), actor).check()
    }
}

/// It was killed, or its supervisor was, before it was ready.
fn stopped(name: &str) -> Error {
    StartError::Stopped { what: format!("actor `{name}`") }.into()
}

fn private_pool(actor: &str) -> String {
    format!("{actor}.pool")
}
