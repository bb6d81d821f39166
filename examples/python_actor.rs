//! A Python object as a named actor: found by its name from anywhere, under a supervisor of the program's own, and with a
//! state that outlives its process and itself.
//!
//!     cargo run --release --example python_actor

use std::error::Error;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use snakepen::{PyActor, PyActorBuilder, PyActorMsg, SessionStore};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

const COUNTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/python_actor.py:Counter");

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let store = SessionStore::builder("states").open().await?;
    let builder = PyActor::builder("counter", COUNTER).args((40,)).sessions(store.clone());
    let (spawned, mut spawns) = unbounded_channel();
    let (supervisor, _) = Actor::spawn(None, Supervisor, Keeper { builder, spawned }).await?;
    spawns.recv().await.ok_or("a supervisor")?;

    println!("Any part of the program reaches it by its name:");
    let counter = PyActor::find("counter").await.ok_or("an actor")?;
    for _ in 0..10 {
        counter.cast("add", (0.1,)).await?;
    }
    println!("  ten casts and a call later it is {:.1}", counter.call::<f64>("add", (1,)).await?);

    println!("\nSo does a program that knows ractor only:");
    let actor: ActorRef<PyActorMsg> =
        ractor::registry::where_is("counter").ok_or("an actor")?.into();
    let (method, args) = ("add".to_owned(), serde_json::json!({"amount": 8}));
    let answer = actor.call(|reply| PyActorMsg::Call { method, args, reply }, None).await?;
    println!("  {:.1}", answer.success_or("no answer")??.as_f64().unwrap_or_default());

    println!("\nA method that takes the process with it:");
    let before = counter.pid();
    let error = counter.call::<()>("crash", ()).await.unwrap_err();
    println!("  {}", error.to_string().lines().next().unwrap_or_default());
    let count: f64 = counter.call("add", (0,)).await?;
    println!("  it is {count:.1} all the same, in another process: {}", counter.pid() != before);

    println!("\nWhat else cannot be called:");
    println!("  {}", counter.call::<()>("_secret", ()).await.unwrap_err());

    println!("\nThe actor itself is stopped, and its supervisor told:");
    counter.stop().await?;
    spawns.recv().await.ok_or("a supervisor")?;
    let counter = PyActor::find("counter").await.ok_or("an actor")?;
    println!("  it is back: {:.1}", counter.call::<f64>("add", (0,)).await?);

    // The actor ends with its supervisor.
    supervisor.stop_and_wait(None, None).await?;
    counter.stop().await?;
    Ok(store.close().await?)
}

/// Spawns the actor, and again whenever it has ended.
struct Supervisor;

struct Keeper {
    builder: PyActorBuilder,
    spawned: UnboundedSender<()>,
}

impl Keeper {
    async fn spawn(&self, myself: &ActorRef<()>) -> Result<(), ActorProcessingErr> {
        self.builder.clone().spawn_linked(myself.get_cell()).await?;
        Ok(self.spawned.send(())?)
    }
}

impl Actor for Supervisor {
    type Msg = ();
    type State = Keeper;
    type Arguments = Keeper;

    async fn pre_start(
        &self,
        _: ActorRef<()>,
        keeper: Keeper,
    ) -> Result<Keeper, ActorProcessingErr> {
        Ok(keeper)
    }

    async fn post_start(
        &self,
        myself: ActorRef<()>,
        keeper: &mut Keeper,
    ) -> Result<(), ActorProcessingErr> {
        keeper.spawn(&myself).await
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<()>,
        event: SupervisionEvent,
        keeper: &mut Keeper,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(..) | SupervisionEvent::ActorFailed(..) => {
                keeper.spawn(&myself).await
            }
            _ => Ok(()),
        }
    }
}
