//! A reload: a new launcher with the code as it is now, then one slot after the other.

use std::sync::Arc;

use ractor::rpc::CallResult;
use ractor::{ActorRef, registry};

use crate::actors::launcher::LauncherMsg;
use crate::actors::worker::WorkerMsg;
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

/// Replaces a slot's worker by one of the launcher that takes orders now. A slot without a worker gets one of it anyway.
async fn roll(shared: &Shared, slot: usize) -> Result<(), Arc<StartError>> {
    let Some(worker) = registry::where_is(shared.config.worker_name(slot)) else {
        return Ok(());
    };
    match ActorRef::<WorkerMsg>::from(worker).call(WorkerMsg::Roll, None).await {
        Ok(CallResult::Success(rolled)) => rolled,
        _ => Ok(()),
    }
}
