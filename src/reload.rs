//! A reload: a new launcher with the code as it is now, then one slot after the other.

use std::sync::Arc;

use ractor::rpc::CallResult;
use ractor::{ActorRef, registry};

use crate::actors::launcher::LauncherMsg;
use crate::actors::worker::WorkerMsg;
use crate::actors::worker_supervisor::WorkerSupervisorMsg;
use crate::error::StartError;
use crate::shared::Shared;

/// Runs to its end in a task of its own, whatever becomes of its caller: half a reload would leave two launchers.
pub(crate) async fn reload(shared: Arc<Shared>) -> Result<(), Arc<StartError>> {
    let _one_at_a_time = shared.reloading.lock().await;
    let stopped = || Arc::new(StartError::Stopped { what: "the new launcher".to_owned() });
    let name = shared.config.actor_name("launcher");
    let launcher =
        registry::where_is(name).map(ActorRef::<LauncherMsg>::from).ok_or_else(stopped)?;
    match launcher.call(LauncherMsg::Reload, None).await {
        Ok(CallResult::Success(ready)) => ready?,
        _ => return Err(stopped()),
    }
    let mut rolled = Ok(());
    let mut slots = 0..shared.board.active();
    while let (Ok(()), Some(slot)) = (&rolled, slots.next()) {
        rolled = roll(&shared, slot).await;
    }
    // Without the former launcher everybody starts anew anyway.
    if rolled.is_err()
        && let Ok(CallResult::Success(())) = launcher.call(LauncherMsg::Revert, None).await
    {
        for slot in 0..slots.start {
            // What ran before runs again; if not, the supervisor tries on.
            let _ = roll(&shared, slot).await;
        }
    }
    match launcher.call(LauncherMsg::Settle, None).await {
        // A new launcher that has died is why its worker did not start.
        Ok(CallResult::Success(settled)) => settled.and(rolled),
        _ => rolled,
    }
}

/// Replaces a slot's worker by one of the launcher that takes orders now. Where a slot waits for its next start, because its
/// worker has failed again and again, it waits no longer.
async fn roll(shared: &Shared, slot: usize) -> Result<(), Arc<StartError>> {
    let worker = || registry::where_is(shared.config.worker_name(slot));
    let supervisor = || {
        registry::where_is(shared.config.actor_name("workers"))
            .map(ActorRef::<WorkerSupervisorMsg>::from)
    };
    if worker().is_none()
        && let Some(supervisor) = supervisor()
    {
        let _ = supervisor.call(|reply| WorkerSupervisorMsg::Hurry(slot, reply), None).await;
    }
    let Some(worker) = worker() else {
        return Ok(());
    };
    if let Ok(CallResult::Success(rolled)) =
        ActorRef::<WorkerMsg>::from(worker).call(WorkerMsg::Roll, None).await
    {
        return rolled;
    }
    // It has ended: it died, or was never ready, which its supervisor knows.
    if let Some(supervisor) = supervisor() {
        let _ = supervisor.call(WorkerSupervisorMsg::Known, None).await;
    }
    shared.board.why_broken(Some(slot)).map_or(Ok(()), Err)
}
