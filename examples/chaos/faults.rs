//! What is injected.

use std::sync::atomic::Ordering;
use std::time::Instant;

use futures::future::{BoxFuture, join_all};
use ractor::registry;
use rustix::process::Signal;
use snakepen::{Ended, Error, Exit, WorkerDeath};
use tokio::time::{sleep, timeout};

use crate::call::{Argument, Call, Expect};
use crate::caller::Caller;
use crate::exchange::Items;
use crate::kinds::pick;
use crate::{LIMIT, MORE, system};

/// One kind of faults.
struct Fault {
    name: &'static str,
    /// How often it is chosen, beside the others'.
    weight: u32,
    /// Injects it, with the choices that the caller's random numbers make. Whether there was something to harm.
    inject: for<'a> fn(&'a mut Caller) -> BoxFuture<'a, bool>,
}

/// A fault that is a call of a handler.
macro_rules! call {
    ($name:literal, $weight:literal, $call:expr) => {
        Fault {
            name: $name,
            weight: $weight,
            inject: |caller| {
                let call: fn(&mut Caller) -> Call = $call;
                let (call, way) = (call(caller), caller.way());
                Box::pin(async move {
                    caller.make($name, call.by(way)).await;
                    true
                })
            },
        }
    };
}

/// A fault that needs no call.
macro_rules! fault {
    ($name:literal, $weight:literal, $inject:expr) => {
        Fault { name: $name, weight: $weight, inject: |caller| Box::pin($inject(caller)) }
    };
}

/// All of them. What resizes the pool belongs here too: an entry, and its function below.
const FAULTS: &[Fault] = &[
    // Processes.
    fault!("kill -9 of a worker", 20, |caller| signal_worker(caller, Signal::KILL)),
    fault!("kill -TERM of a worker", 4, |caller| signal_worker(caller, Signal::TERM)),
    fault!("kill -SEGV of a worker", 4, |caller| signal_worker(caller, Signal::SEGV)),
    fault!("kill -ABRT of a worker", 4, |caller| signal_worker(caller, Signal::ABORT)),
    fault!("kill -9 of all workers", 2, kill_workers),
    fault!("stop of a worker", 8, |caller| signal_worker(caller, Signal::STOP)),
    fault!("stop of a worker, for a while", 8, pause_worker),
    fault!("kill -9 of the launcher", 3, |caller| signal_launcher(caller, Signal::KILL)),
    fault!("stop of the launcher", 2, |caller| signal_launcher(caller, Signal::STOP)),
    fault!("stop of the launcher, for a while", 2, pause_launcher),
    fault!("reload", 3, reload),
    fault!("resize, there and back", 3, resize),
    // Actors. The root is spared: with it the pool is shut down.
    fault!("end of a worker's actor", 10, end_worker),
    fault!("end of the pool's actor", 4, |caller| end_actor(caller, "")),
    fault!("end of the workers' supervisor", 3, |caller| end_actor(caller, "/workers")),
    fault!("end of the launcher's actor", 2, |caller| end_actor(caller, "/launcher")),
    fault!("end of the pool's supervisor", 2, |caller| end_actor(caller, "/supervisor")),
    // Handlers that end their worker.
    call!("segfault", 8, |caller| {
        caller.call("segfaults").fails(Expect::Death(|death| is_by_itself(death, Exit::Signal(11))))
    }),
    call!("os._exit", 8, |caller| {
        caller
            .call("exits")
            .number(3)
            .fails(Expect::Death(|death| is_by_itself(death, Exit::Code(3))))
    }),
    call!("sys.exit", 4, |caller| {
        caller
            .call("leaves")
            .number(4)
            .fails(Expect::Death(|death| is_by_itself(death, Exit::Code(4))))
    }),
    call!("os._exit beside a child", 4, |caller| {
        let call = caller.call("exits_beside_child").number(5).seconds(caller.millis(0, 9_000));
        call.fails(Expect::Death(|death| is_by_itself(death, Exit::Code(5))))
    }),
    call!("os._exit in a stream", 4, |caller| {
        let count = caller.rng.u64(..100);
        let items = Items { count, size: 1, ..Items::default() };
        let call = caller.call("dies_in_stream").number(count).number(8);
        let call = call.fails(Expect::Death(|death| is_by_itself(death, Exit::Code(8))));
        Call { items: Some(items), ..call }
    }),
    // The protocol's descriptor.
    call!("garbage", 8, |caller| {
        caller.chaos.garbles();
        let garbage = garbage(caller);
        let call = caller.call("garbage").with(garbage).within(caller.millis(500, 1_000));
        call.fails(Expect::DeathOrTimeout(|death| matches!(death.ended, Ended::Protocol(_))))
    }),
    call!("late garbage", 4, |caller| {
        caller.chaos.garbles();
        let garbage = garbage(caller);
        let call = caller.call("late_garbage").with(garbage);
        call.seconds(caller.millis(0, 50)).answers("started")
    }),
    call!("closed descriptor", 8, |caller| {
        let call = caller.call("closes_port").seconds(caller.millis(0, 400));
        call.fails(Expect::Death(|death| {
            death.ended == Ended::ClosedPort || is_by_itself(death, Exit::Code(70))
        }))
    }),
    fault!("os._exit in a batch", 4, batch_dies),
    // What a worker survives.
    call!("memory hog", 4, |caller| caller.call("hogs").number(200).answers("200")),
    call!("memory without bounds", 2, |caller| {
        caller
            .call("gorges")
            .number(500)
            .fails(Expect::Death(|death| matches!(death.ended, Ended::Memory { .. })))
    }),
    call!("fork that returns", 6, |caller| caller.call("fork_returns").answers("forked")),
    call!("fork that lingers", 6, |caller| {
        caller.call("fork_lingers").seconds(caller.millis(0, 9_000)).answers("forked")
    }),
    call!("process", 4, |caller| {
        caller.call("starts_process").seconds(caller.millis(0, 9_000)).answers("started")
    }),
    call!("threads", 6, |caller| {
        let call = caller.call("starts_threads").number(caller.rng.u64(1..20));
        call.seconds(caller.millis(0, 1_000)).answers("started")
    }),
    call!("flood of output", 4, |caller| {
        caller.call("floods").number(caller.rng.u64(1..1024)).answers("flooded")
    }),
];

/// Injects faults of all kinds, one after another, with a pause in between, while there is no calm.
pub(crate) async fn inject_until(end: Instant, mut caller: Caller, only: String) {
    let faults: Vec<_> = FAULTS.iter().filter(|fault| fault.name.contains(&only)).collect();
    if faults.is_empty() {
        caller.chaos.ledger.violation(&format!("there is no fault {only:?}"));
        return;
    }
    loop {
        sleep(caller.chaos.calm() + caller.millis(0, 150)).await;
        if Instant::now() >= end {
            return;
        }
        let fault = pick(&mut caller.rng, &faults, |fault| fault.weight);
        if (fault.inject)(&mut caller).await {
            caller.chaos.ledger.injected(fault.name);
        }
    }
}

// === Processes ===

fn worker_pid(caller: &mut Caller) -> Option<i32> {
    let slot = caller.slot();
    caller.chaos.pool.workers().get(slot)?.pid
}

fn launcher_pid(caller: &mut Caller) -> Option<i32> {
    caller.chaos.pool.workers().iter().find_map(|worker| system::parent(worker.pid?))
}

async fn signal_worker(caller: &mut Caller, signal: Signal) -> bool {
    worker_pid(caller).is_some_and(|pid| caller.chaos.mark.signal(pid, signal))
}

async fn kill_workers(caller: &mut Caller) -> bool {
    let pids = caller.chaos.pool.workers().into_iter().filter_map(|worker| worker.pid);
    pids.filter(|&pid| caller.chaos.mark.signal(pid, Signal::KILL)).count() > 0
}

async fn signal_launcher(caller: &mut Caller, signal: Signal) -> bool {
    launcher_pid(caller).is_some_and(|pid| caller.chaos.mark.signal(pid, signal))
}

async fn pause_worker(caller: &mut Caller) -> bool {
    let pid = worker_pid(caller);
    pause(caller, pid).await
}

async fn pause_launcher(caller: &mut Caller) -> bool {
    let pid = launcher_pid(caller);
    pause(caller, pid).await
}

/// For less, or for more, than it takes to be noticed.
async fn pause(caller: &mut Caller, pid: Option<i32>) -> bool {
    let time = caller.millis(1, 1_500);
    let Some(pid) = pid.filter(|&pid| caller.chaos.mark.signal(pid, Signal::STOP)) else {
        return false;
    };
    sleep(time).await;
    caller.chaos.mark.signal(pid, Signal::CONT);
    true
}

/// The code is what it was; what is in the way of the new launcher, or of a worker, is another fault.
async fn reload(caller: &mut Caller) -> bool {
    let start = Instant::now();
    let what = match timeout(LIMIT, caller.chaos.pool.reload()).await {
        Ok(Ok(())) => return true,
        Ok(Err(Error::Start(_) | Error::Closed { .. })) => return false,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "does not end".to_owned(),
    };
    caller.chaos.ledger.violation(&format!("a reload, after {:.1?}: {what}", start.elapsed()));
    false
}

/// Grows, and shrinks to what it was. A key may belong to another slot meanwhile.
async fn resize(caller: &mut Caller) -> bool {
    caller.chaos.resized.store(true, Ordering::Relaxed);
    let more = caller.rng.usize(1..=MORE);
    let workers = caller.chaos.workers;
    for size in [workers + more, workers] {
        let start = Instant::now();
        let what = match timeout(LIMIT, caller.chaos.pool.resize(size)).await {
            Ok(Ok(()) | Err(Error::Start(_))) => continue,
            Ok(Err(Error::Closed { .. })) => return false,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "does not end".to_owned(),
        };
        let took = start.elapsed();
        caller.chaos.ledger.violation(&format!("a resize to {size}, after {took:.1?}: {what}"));
        return false;
    }
    true
}

/// One of them ends the worker; the others may be in its batch, or in another one.
async fn batch_dies(caller: &mut Caller) -> bool {
    let calls: Vec<_> = (0..5)
        .map(|at| {
            let call = caller.call("batches_die").number(u64::from(at == 0));
            if at > 0 {
                return call;
            }
            call.fails(Expect::Death(|death| is_by_itself(death, Exit::Code(6))))
        })
        .collect();
    let made = calls.into_iter().map(|call| caller.make("os._exit in a batch", call));
    join_all(made).await;
    true
}

// === Actors ===

async fn end_worker(caller: &mut Caller) -> bool {
    let part = format!("/worker/{}", caller.slot());
    end_actor(caller, &part).await
}

/// Kills the actor, or stops it, which lets it finish what it is handling.
async fn end_actor(caller: &mut Caller, part: &str) -> bool {
    let kill = caller.rng.bool();
    let Some(actor) = registry::where_is(format!("{}{part}", caller.chaos.pool.name())) else {
        return false;
    };
    if kill {
        actor.kill();
    } else {
        actor.stop(None);
    }
    true
}

// === Handlers ===

fn is_by_itself(death: &WorkerDeath, exit: Exit) -> bool {
    death.ended == Ended::Itself && death.exit == exit
}

fn garbage(caller: &mut Caller) -> Argument {
    let length = caller.rng.usize(1..200);
    Argument::Text((0..length).map(|_| format!("{:02x}", caller.rng.u8(..))).collect())
}
