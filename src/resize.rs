//! A change of the pool's size: slots come and go at the end. One at a time, and not beside a reload.

use std::ops::Range;
use std::sync::Arc;

use ractor::{ActorCell, ActorRef, registry};

use crate::actors::worker_supervisor::WorkerSupervisorMsg;
use crate::config;
use crate::error::Error;
use crate::shared::{PoolCell, Shared};

/// Runs to its end in a task of its own, whatever becomes of its caller.
pub(crate) async fn resize(shared: Arc<Shared>, workers: usize) -> Result<(), Error> {
    config::check_workers("resize", workers)?;
    if let Some(autoscale) = &shared.config.autoscale
        && !autoscale.range.contains(&workers)
    {
        let range = &autoscale.range;
        let message =
            format!("`autoscale` keeps from {} to {} workers", range.start(), range.end());
        return Err(Error::Config { option: "resize", message });
    }
    let _one_at_a_time = shared.reloading.lock().await;
    let set = set(&shared, workers).await;
    // `autoscale` may be asleep, as nothing that it has done was to be undone.
    shared.board.tell_call_waits();
    set
}

/// Likewise, unless the size is no longer the one that was `seen`, or a worker that is to leave has a call by now: the lock
/// may have been waited for.
pub(crate) async fn scale(shared: Arc<Shared>, seen: usize, workers: usize) -> Result<(), Error> {
    let _one_at_a_time = shared.reloading.lock().await;
    let stale = shared.board.size() != seen;
    if stale || (workers..seen).any(|slot| shared.board.is_busy(slot)) {
        return Ok(());
    }
    set(&shared, workers).await
}

/// Changes the size; the caller holds the lock.
async fn set(shared: &Shared, workers: usize) -> Result<(), Error> {
    let closed = || Error::Closed { pool: shared.config.name.clone() };
    let root: Option<ActorCell> = registry::where_is(shared.config.actor_name("root"));
    let Some(root) = root.filter(|_| !shared.is_closed()) else {
        return Err(closed());
    };
    let former = shared.board.size();
    if workers <= former {
        shrink(shared, workers..former).await;
        return Ok(());
    }
    // A name that somebody else has would be waited for.
    let names = (former..workers).map(|slot| shared.config.worker_name(slot));
    if let Some(name) = names.into_iter().find(|name| registry::where_is(name).is_some()) {
        return Err(Error::NameTaken { name });
    }
    let mut cell = shared.cell.subscribe();
    let ready = tokio::select! {
        biased;
        ready = grow(shared, former..workers) => ready,
        // What was started ends with the pool.
        _ = cell.wait_for(|cell| matches!(cell, PoolCell::Draining(_) | PoolCell::Closed)) => return Err(closed()),
        _ = root.wait(None) => return Err(closed()),
    };
    if ready.is_err() {
        shrink(shared, former..workers).await;
    }
    ready
}

/// Starts workers at new slots, and waits until they are ready. They take calls as soon as they can; the pool has them
/// once all are there, so that until then nobody counts on one.
async fn grow(shared: &Shared, slots: Range<usize>) -> Result<(), Error> {
    shared.board.plan(slots.end);
    shared.dispatcher(|dispatcher| dispatcher.resize(&shared.board));
    if let Some(supervisor) = supervisor(shared) {
        for slot in slots {
            // One that is gone comes back, and starts them with the others.
            let _ = supervisor.send_message(WorkerSupervisorMsg::Start(slot));
        }
    }
    shared.board.proven().await.map_err(Error::Start)?;
    shared.board.resized();
    Ok(())
}

/// Takes slots out of use, and waits until nothing of their workers is left.
async fn shrink(shared: &Shared, slots: Range<usize>) {
    shared.board.plan(slots.start);
    shared.dispatcher(|dispatcher| dispatcher.resize(&shared.board));
    if let Some(supervisor) = supervisor(shared) {
        // Once it has answered, whatever it had begun to start can be found; one that is gone starts nothing any more.
        let _ = supervisor.call(WorkerSupervisorMsg::Retire, None).await;
    }
    for slot in slots {
        while let Some(worker) = registry::where_is(shared.config.worker_name(slot)) {
            let _ = worker.wait(None).await;
        }
        shared.board.vacated(slot).await;
    }
}

fn supervisor(shared: &Shared) -> Option<ActorRef<WorkerSupervisorMsg>> {
    registry::where_is(shared.config.actor_name("workers")).map(Into::into)
}
