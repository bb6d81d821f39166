//! The actors of a pool, and of a session store, one file each: messages, state, behaviour.
//!
//! None of them does I/O: processes and sockets belong to tasks ([`crate::port`], [`crate::launcher`]), which
//! outlive their actors for as long as it takes to end and reap a process.

pub(crate) mod launcher;
pub(crate) mod pool;
pub(crate) mod pool_supervisor;
pub(crate) mod py_actor;
pub(crate) mod root;
pub(crate) mod session_root;
pub(crate) mod session_store;
pub(crate) mod worker;
pub(crate) mod worker_supervisor;

use ractor::concurrency::JoinHandle;
use ractor::{Actor, ActorCell, ActorRef, SpawnErr, registry};

/// Starts a named child. A name that an earlier incarnation still holds is waited for.
async fn spawn_child<A, F>(
    name: String,
    supervisor: &ActorCell,
    actor: F,
    arguments: impl Fn() -> A::Arguments,
) -> Result<(ActorRef<A::Msg>, JoinHandle<()>), SpawnErr>
where
    A: Actor,
    F: Fn() -> A,
{
    loop {
        let spawned =
            Actor::spawn_linked(Some(name.clone()), actor(), arguments(), supervisor.clone());
        match spawned.await {
            Err(SpawnErr::ActorAlreadyRegistered(_)) => {
                if let Some(old) = registry::where_is(&name) {
                    let _ = old.wait(None).await;
                }
            }
            spawned => return spawned,
        }
    }
}
