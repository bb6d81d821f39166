//! One call: what is asked of it, how it is to end, and the making of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use snakepen::{Array, Buffer, Error, Pool, PoolSession, Priority, WorkerDeath, WorkerHandle};
use tokio::time::{sleep, timeout};

use crate::caller::Caller;
use crate::exchange::{Input, Items, Watching};
use crate::judge::Outcome;
use crate::{LIMIT, TOLERANCE};

/// By which handle a call is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Way {
    Pool,
    Session(usize),
    /// One of another sort, whose calls are all made so.
    InOrder(usize),
    PoolName,
    Slot(usize),
    SlotName(usize),
}

/// What else a call asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Extra {
    Nothing,
    Priority(Priority),
    Affine(usize),
    Pinned(usize),
    PinnedNow(usize),
    Idempotent,
}

#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Argument {
    Number(u64),
    Real(f64),
    Text(String),
    Sizes(Vec<usize>),
    Buffers(Vec<Buffer>),
    Arrays(Vec<Array>),
}

/// What every handler that answers returns: nonce, slot, text, and what is beside the JSON.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Answer(
    pub(crate) u64,
    pub(crate) usize,
    pub(crate) String,
    #[serde(default)] pub(crate) Vec<Buffer>,
    #[serde(default)] pub(crate) Vec<Array>,
);

/// How a call ends, where no fault prevents it.
#[derive(Clone, Debug)]
pub(crate) enum Expect {
    /// With this text, and nothing beside it.
    Answer(String),
    /// With one of these.
    OneOf(Vec<String>),
    Buffers(Vec<Buffer>),
    Arrays(Vec<Array>),
    /// With this text, or with the failure of the call that was made in it, which is judged by itself.
    Inner(String),
    /// With an answer that is not of the type that was asked for.
    Other,
    /// With an exception of this type, that names the call.
    Exception(&'static str),
    BadResult,
    Unknown,
    /// Before it is made.
    Refused,
    Deadlock,
    /// With WouldDeadlock, or with this text.
    DeadlockOr(String),
    Timeout,
    /// By its handle.
    Cancelled,
    /// With its worker, in such a way.
    Death(fn(&WorkerDeath) -> bool),
    /// With its worker, or not before its deadline.
    DeathOrTimeout(fn(&WorkerDeath) -> bool),
}

#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) nonce: u64,
    pub(crate) handler: &'static str,
    pub(crate) rest: Vec<Argument>,
    pub(crate) way: Way,
    pub(crate) deadline: Duration,
    pub(crate) drop_after: Option<Duration>,
    pub(crate) cancel_after: Option<Duration>,
    pub(crate) extra: Extra,
    pub(crate) expect: Expect,
    pub(crate) tries: u32,
    /// It is a stream.
    pub(crate) items: Option<Items>,
    pub(crate) input: Option<Input>,
    /// So many steps of progress are told.
    pub(crate) steps: Option<u64>,
    /// It is made within another one, and has no more time than that.
    pub(crate) inner: bool,
    /// Others are made within it, which take workers.
    pub(crate) nests: bool,
}

impl Call {
    pub(crate) fn new(nonce: u64, handler: &'static str, deadline: Duration) -> Self {
        Self {
            nonce,
            handler,
            rest: Vec::new(),
            way: Way::Pool,
            deadline,
            drop_after: None,
            cancel_after: None,
            extra: Extra::Nothing,
            expect: Expect::Answer(String::new()),
            tries: 1,
            items: None,
            input: None,
            steps: None,
            inner: false,
            nests: false,
        }
    }

    pub(crate) fn by(self, way: Way) -> Self {
        Self { way, ..self }
    }

    pub(crate) fn with(mut self, argument: Argument) -> Self {
        self.rest.push(argument);
        self
    }

    pub(crate) fn number(self, number: u64) -> Self {
        self.with(Argument::Number(number))
    }

    pub(crate) fn seconds(self, time: Duration) -> Self {
        self.with(Argument::Real(time.as_secs_f64()))
    }

    pub(crate) fn text(self, text: impl Into<String>) -> Self {
        self.with(Argument::Text(text.into()))
    }

    pub(crate) fn fails(self, expect: Expect) -> Self {
        Self { expect, ..self }
    }

    pub(crate) fn answers(self, text: impl Into<String>) -> Self {
        Self { expect: Expect::Answer(text.into()), ..self }
    }

    pub(crate) fn within(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    pub(crate) fn dropped_after(self, time: Duration) -> Self {
        Self { drop_after: Some(time), ..self }
    }

    pub(crate) fn cancelled_after(self, time: Duration) -> Self {
        Self { cancel_after: Some(time), ..self }
    }

    pub(crate) fn with_extra(self, extra: Extra) -> Self {
        Self { extra, ..self }
    }

    pub(crate) fn dropped_early(self, caller: &mut Caller) -> Self {
        let deadline = self.deadline;
        self.dropped_after(deadline.mul_f64(caller.rng.f64()))
    }

    pub(crate) fn arguments(&self) -> Vec<Argument> {
        std::iter::once(Argument::Number(self.nonce)).chain(self.rest.iter().cloned()).collect()
    }

    fn key(&self) -> String {
        match self.extra {
            Extra::Affine(key) | Extra::Pinned(key) | Extra::PinnedNow(key) => format!("key {key}"),
            _ => String::new(),
        }
    }

    /// Makes it, and waits for its end, or for what ends its caller's patience.
    pub(crate) async fn make(&self, caller: &Caller) -> Outcome {
        let ended = async {
            let handle = match timeout(LIMIT, self.handle(&caller.chaos.pool)).await {
                Ok(Some(handle)) => handle,
                Ok(None) => {
                    let name = format!("{:?}", self.way);
                    return Outcome::Ended(Err(Error::NoSuchWorker { name, workers: None }));
                }
                Err(_) => return Outcome::Hangs,
            };
            let ended = async {
                if self.items.is_some() {
                    return handle.stream(self, caller).await;
                }
                if let Expect::Other = self.expect {
                    let ended = handle.call::<bool>(self, caller).await;
                    return Outcome::Ended(
                        ended.map(|_| Answer(self.nonce, 0, "a bool".to_owned(), vec![], vec![])),
                    );
                }
                Outcome::Ended(handle.call::<Answer>(self, caller).await)
            };
            timeout(self.deadline + TOLERANCE, ended).await.unwrap_or(Outcome::Hangs)
        };
        let Some(time) = self.drop_after else { return ended.await };
        tokio::select! {
            biased;
            ended = ended => ended,
            () = sleep(time) => Outcome::Dropped { unsure: self.items.is_some() },
        }
    }

    async fn handle(&self, pool: &Pool) -> Option<Handle> {
        match self.way {
            Way::Pool => Some(Handle::Pool(pool.clone())),
            Way::Session(session) => {
                Some(Handle::Session(pool.session(&format!("session {session}"))))
            }
            Way::InOrder(session) => {
                Some(Handle::Session(pool.session(&format!("in order {session}")).in_order()))
            }
            Way::PoolName => Pool::find(pool.name()).await.map(Handle::Pool),
            Way::Slot(slot) => pool.worker(slot).ok().map(Handle::Worker),
            Way::SlotName(slot) => {
                let name = format!("{}/worker/{slot}", pool.name());
                WorkerHandle::find(&name).await.ok().map(Handle::Worker)
            }
        }
    }
}

// === Handles ===

enum Handle {
    Pool(Pool),
    Session(PoolSession),
    Worker(WorkerHandle),
}

/// What a call and a stream have in common.
macro_rules! options {
    ($self:ident, $call:ident, $caller:ident, $make:ident) => {{
        let (handler, arguments) = ($call.handler, $call.arguments());
        let mut made = match $self {
            Handle::Pool(pool) => pool.$make(handler, arguments),
            Handle::Session(session) => session.$make(handler, arguments),
            Handle::Worker(worker) => worker.$make(handler, arguments),
        };
        made = match $call.extra {
            Extra::Nothing => made,
            Extra::Priority(priority) => made.priority(priority),
            Extra::Affine(_) => made.affinity($call.key()),
            Extra::Pinned(_) => made.pinned($call.key()),
            Extra::PinnedNow(_) => made.pinned_now($call.key()),
            Extra::Idempotent => made.idempotent(),
        };
        if let Some(input) = &$call.input {
            made = made.try_input("items", input.stream($call.nonce, &$caller.chaos));
        }
        made.timeout($call.deadline)
    }};
}

impl Handle {
    async fn call<R: serde::de::DeserializeOwned>(
        &self,
        call: &Call,
        caller: &Caller,
    ) -> Result<R, Error> {
        let mut made = options!(self, call, caller, call);
        let watching = call.steps.map(|steps| Watching::new(made.progress(), call.nonce, steps));
        let cancelling = call.cancel_after.map(|time| cancel(made.cancel_handle(), time));
        let ended = made.await;
        if let Some(cancelling) = cancelling {
            cancelling.abort();
        }
        if let Some(watching) = watching
            && let Err(what) = watching.ended(ended.is_ok()).await
        {
            caller.chaos.ledger.violation(&format!("progress of call {:x}: {what}", call.nonce));
        }
        ended
    }

    async fn stream(&self, call: &Call, caller: &Caller) -> Outcome {
        let made = options!(self, call, caller, stream);
        let cancelling = call.cancel_after.map(|time| cancel(made.cancel_handle(), time));
        let outcome = match &call.items {
            Some(items) => items.consume(call, made, caller).await,
            None => Outcome::Hangs,
        };
        if let Some(cancelling) = cancelling {
            cancelling.abort();
        }
        outcome
    }
}

fn cancel(handle: snakepen::CancelHandle, time: Duration) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        sleep(time).await;
        handle.cancel();
    })
}
