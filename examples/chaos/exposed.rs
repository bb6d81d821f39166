//! What handlers call in Rust.

use std::sync::{Arc, Weak};
use std::time::Duration;

use fastrand::Rng;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use snakepen::{Error, FromCall, Inbound, InboundError, Reply};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::Chaos;
use crate::call::{Call, Expect, Way};
use crate::caller::Caller;
use crate::judge::Outcome;
use crate::values::mixed;

/// Exposes all of it. None of it keeps the run, or its pool.
pub(crate) fn expose(chaos: &Arc<Chaos>) -> Result<(), Error> {
    let pool = &chaos.pool;
    pool.expose_fn("mix", async |(nonce, number): (u64, u64)| {
        Ok::<_, String>(mixed(nonce, number))
    })?;
    pool.expose_fn("fails", async |(nonce, panics): (u64, bool)| {
        if panics {
            // Without the message that a panic leaves on stderr.
            std::panic::resume_unwind(Box::new(nonce.to_string()));
        }
        Err::<(), _>(format!("nothing for {nonce}"))
    })?;
    let run = Arc::downgrade(chaos);
    pool.expose_fn("tally", move |nonce: u64| {
        let chaos = of(&run);
        async move {
            sleep(Duration::from_micros(nonce % 7 * 1000)).await;
            chaos?.ledger.note("tallied", nonce);
            Ok::<_, Error>(())
        }
    })?;
    let run = Arc::downgrade(chaos);
    pool.expose_fn("wait", move |(nonce, seconds): (u64, f64)| {
        let chaos = of(&run);
        async move {
            let chaos = chaos?;
            // Counted while it is there.
            let _alive = Arc::clone(&chaos.alive);
            sleep(Duration::from_secs_f64(seconds)).await;
            chaos.ledger.note("ended", nonce);
            Ok::<_, Error>(())
        }
    })?;
    for (name, kind, inner) in [
        ("back", "nested, inner", back as fn(&mut Caller, u64, usize) -> Call),
        ("here", "nested at its own slot, inner", here),
        ("turn", "nested in its own turn, inner", turn),
    ] {
        let run = Arc::downgrade(chaos);
        pool.expose_fn(name, move |(_, depth, slot): (u64, u64, usize)| {
            let chaos = of(&run);
            async move {
                let mut caller = Caller::inner(chaos?);
                let call = Call { inner: true, ..inner(&mut caller, depth, slot) };
                match caller.made(kind, &call).await.1 {
                    Outcome::Ended(Err(error)) => Err(error),
                    _ => Ok("nested"),
                }
            }
        })?;
    }
    Ok(())
}

fn of(run: &Weak<Chaos>) -> Result<Arc<Chaos>, Error> {
    run.upgrade().ok_or(Error::Closed { pool: "chaos".to_owned() })
}

fn back(caller: &mut Caller, depth: u64, _: usize) -> Call {
    let is_async = caller.rng.bool();
    match depth {
        0 if is_async => caller.plain_async(),
        0 => caller.plain(),
        _ if is_async => caller.nests_so("nests_async", depth - 1, "back"),
        _ => caller.nests_so("nests", depth - 1, "back"),
    }
}

fn here(caller: &mut Caller, _: u64, slot: usize) -> Call {
    let call = caller.plain().by(Way::Slot(slot));
    // The worker that waits for it may be finishing its calls beside one that has taken over its slot, and answers.
    match call.expect.clone() {
        Expect::Answer(text) => call.fails(Expect::DeadlockOr(text)),
        _ => call.fails(Expect::Deadlock),
    }
}

fn turn(caller: &mut Caller, session: u64, _: usize) -> Call {
    caller.plain().by(Way::InOrder(session as usize)).fails(Expect::Deadlock)
}

// === An actor that stops now and then ===

struct Mortal;

#[cfg_attr(feature = "cluster", derive(ractor_cluster_derive::RactorMessage))]
struct Asked {
    nonce: u64,
    number: u64,
    reply: Reply<String>,
}

impl FromCall for Asked {
    fn from_call(call: Inbound) -> Result<Self, InboundError> {
        let (nonce, number) = call.args()?;
        Ok(Self { nonce, number, reply: call.reply() })
    }
}

impl Actor for Mortal {
    type Msg = Asked;
    type State = Rng;
    type Arguments = Rng;

    async fn pre_start(&self, _: ActorRef<Asked>, rng: Rng) -> Result<Rng, ActorProcessingErr> {
        Ok(rng)
    }

    async fn handle(
        &self,
        myself: ActorRef<Asked>,
        Asked { nonce, number, reply }: Asked,
        rng: &mut Rng,
    ) -> Result<(), ActorProcessingErr> {
        match rng.u8(..40) {
            0 => return Err("it has enough".into()),
            1 => myself.stop(None),
            // Drops the reply.
            2 => return Ok(()),
            _ => {}
        }
        reply.ok(mixed(nonce, number));
        Ok(())
    }
}

/// Keeps one of them exposed, until the pool is shut down.
pub(crate) async fn keep_mortal(chaos: &Arc<Chaos>) -> Result<JoinHandle<()>, Error> {
    let (run, mut rng) = (Arc::downgrade(chaos), Rng::with_seed(chaos.seed));
    let (exposed, first) = tokio::sync::oneshot::channel();
    let mut exposed = Some(exposed);
    let over = chaos.over.clone();
    let task = tokio::spawn(async move {
        while let Ok((actor, mut handle)) = Actor::spawn(None, Mortal, rng.fork()).await {
            let exposed_now = run
                .upgrade()
                .is_some_and(|it| it.pool.expose_actor("mortal", actor.clone()).is_ok());
            if let Some(told) = exposed.take() {
                let _ = told.send(());
            }
            let ended = exposed_now && {
                tokio::select! {
                    _ = &mut handle => true,
                    () = over.cancelled() => false,
                }
            };
            if !ended {
                actor.stop(None);
                let _ = handle.await;
                return;
            }
        }
    });
    let _ = first.await;
    Ok(task)
}
