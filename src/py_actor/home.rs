//! The task that keeps the private pool of an actor: it outlives the actor for as long as it takes to end and reap the
//! process, and no other actor of that name gets one before.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use ractor::{ActorRef, ActorStatus, registry};
use tokio::sync::{oneshot, watch};

use crate::actors::py_actor::PyActorMsg;
use crate::config::Config;
use crate::error::Error;
use crate::pool::Pool;

/// The names of a start that was given up are free within this time.
const VACATED: Duration = Duration::from_secs(30);

/// Which pools are still kept, by name; whoever waits for a name waits for the end of its channel.
static KEPT: LazyLock<Mutex<HashMap<String, Arc<watch::Sender<()>>>>> =
    LazyLock::new(Mutex::default);

/// The only one of its name.
struct Home {
    name: String,
    here: Arc<watch::Sender<()>>,
}

impl Home {
    /// Waits until the predecessor's processes are gone.
    async fn enter(name: &str) -> Self {
        loop {
            let mut left = {
                let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
                match kept.get(name) {
                    Some(here) => here.subscribe(),
                    None => {
                        let here = Arc::new(watch::Sender::new(()));
                        kept.insert(name.to_owned(), Arc::clone(&here));
                        return Self { name: name.to_owned(), here };
                    }
                }
            };
            // It is told when it is left.
            let _ = left.changed().await;
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        KEPT.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
        self.here.send_replace(());
    }
}

/// Starts the pool, tells of it, and ends it with the actor; and the actor with it, should something else end it.
pub(crate) async fn keep(
    config: Config,
    actor: ActorRef<PyActorMsg>,
    mut ready: oneshot::Sender<Result<Pool, Error>>,
) {
    let name = config.name.clone();
    let _home = tokio::select! {
        home = Home::enter(&name) => home,
        () = ready.closed() => return,
    };
    let started = tokio::select! {
        started = Pool::start(config) => started,
        () = ready.closed() => {
            // What it had started ends by itself.
            if tokio::time::timeout(VACATED, vacated(&name)).await.is_err() {
                tracing::warn!(pool = name, "a start that was given up has not ended yet");
            }
            return;
        }
    };
    let pool = match started {
        Ok(pool) => pool,
        Err(error) => {
            // Nobody may be left who could be told.
            let _ = ready.send(Err(error));
            return;
        }
    };
    if ready.send(Ok(pool.clone())).is_ok() {
        tokio::select! {
            // An actor that was stopped in order has shut its pool down by now.
            _ = actor.wait(None) => {}
            () = pool.dead() => {
                if !matches!(actor.get_status(), ActorStatus::Stopping | ActorStatus::Stopped) {
                    let pool = &name;
                    tracing::error!(pool, "an actor's private pool was ended, and the actor with it");
                    actor.stop(Some("its private pool has ended".to_owned()));
                }
                let _ = actor.wait(None).await;
            }
        }
    }
    pool.abort().await;
}

/// Waits until the names of a pool that nobody keeps any more are free.
async fn vacated(pool: &str) {
    for part in ["root", "sessions/root", "sessions"] {
        while let Some(actor) = registry::where_is(format!("{pool}/{part}")) {
            let _ = actor.wait(None).await;
            tokio::task::yield_now().await;
        }
    }
}
