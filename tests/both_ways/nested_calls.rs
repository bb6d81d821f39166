//! Rust calls Python calls Rust calls Python: the inner calls have what time the outer ones have left, and one that would wait
//! for those that wait for it fails at once.

use std::time::{Duration, Instant};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde_json::{Value, json};
use snakepen::{Builder, CallContext, Error, FromCall, Inbound, InboundError, Pool, Reply};
use tokio::sync::mpsc;

use crate::common::{self, LIMIT, finish, pool, whole, within};

/// The pool that the call comes from.
fn own_pool() -> Result<Pool, Error> {
    let pool = CallContext::current().and_then(|context| context.pool());
    pool.ok_or(Error::Closed { pool: "own".to_owned() })
}

/// `nest` calls the handler of that name, `back` any handler.
fn nesting() -> Builder {
    pool("calling.py")
        .expose_fn("nest", async |depth: i64| own_pool()?.call::<i64>("nest", depth).await)
        .expose_fn("back", async |(handler, args): (String, Value)| {
            own_pool()?.call::<Value>(&handler, args).await
        })
        .call_timeout(LIMIT)
}

/// What a nested call made by `name` fails with, as the handler in between sees it.
async fn would_deadlock(pool: &Pool, slot: usize, name: &str, args: Value) -> String {
    let start = Instant::now();
    let mut all = vec![json!(name)];
    all.extend(args.as_array().unwrap().iter().cloned());
    let told: [String; 3] = pool.worker(slot).unwrap().call("failure", all).await.unwrap();
    assert!(start.elapsed() < LIMIT / 10, "it waited");
    assert_eq!([&*told[0], &*told[1]], ["WouldDeadlock"; 2], "{}", told[2]);
    told[2].clone()
}

#[tokio::test]
async fn a_chain_is_as_deep_as_the_pool_has_workers() {
    let pool = nesting().workers(3).start().await.unwrap();
    for _ in 0..5 {
        assert_eq!(pool.call::<i64>("nest", 3).await.unwrap(), 3);
        let start = Instant::now();
        let error = pool.call::<i64>("nest", 4).await.unwrap_err();
        assert!(start.elapsed() < LIMIT / 10, "it waited");
        let text = error.to_string();
        assert!(text.contains("WouldDeadlock") && text.contains("nest > nest > nest"), "{text}");
    }
    let stats = pool.stats();
    assert_eq!((stats.restarts, stats.failed.timeout_queued), (0, 0));
    finish(pool).await;
}

#[tokio::test]
async fn a_call_that_others_keep_waiting_is_no_deadlock() {
    let (begun, mut begins) = mpsc::unbounded_channel();
    let (release, gate) = tokio::sync::watch::channel(false);
    let pool = nesting().workers(2).start().await.unwrap();
    pool.expose_fn("gate", move |(): ()| {
        let (begun, mut gate) = (begun.clone(), gate.clone());
        async move {
            begun.send(()).map_err(|error| error.to_string())?;
            gate.wait_for(|open| *open).await.map(|_| ()).map_err(|error| error.to_string())
        }
    })
    .unwrap();
    let other = tokio::spawn(pool.worker(1).unwrap().call::<()>("forward", ["gate"]).into_future());
    within(LIMIT, "the other's call", begins.recv()).await.unwrap();
    let nested = tokio::spawn(pool.call::<i64>("nest", 2).into_future());
    common::eventually("it is queued", || pool.stats().queued == 1).await;
    release.send(true).unwrap();
    assert_eq!(nested.await.unwrap().unwrap(), 2);
    other.await.unwrap().unwrap();
    finish(pool).await;
}

#[tokio::test]
async fn a_worker_is_not_waited_for_that_waits_for_the_call() {
    let pool = nesting().workers(3).start().await.unwrap();
    pool.expose_fn("at", async |(slot, handler): (usize, String)| {
        own_pool()?.worker(slot)?.call::<Value>(&handler, ()).await
    })
    .unwrap();
    pool.expose_fn("pinned", async |(key, now): (String, bool)| {
        let call = own_pool()?.call::<f64>("remaining", ());
        if now { call.pinned_now(key).await } else { call.pinned(key).await }
    })
    .unwrap();
    let text = would_deadlock(&pool, 1, "at", json!([1, "remaining"])).await;
    let worker = format!("worker {}/worker/1", pool.name());
    assert!(text.contains(&worker) && text.contains("in (failure)"), "{text}");
    pool.worker(1).unwrap().call::<f64>("forward", ("at", 2, "remaining")).await.unwrap();
    for now in [false, true] {
        let mut found = Vec::new();
        for slot in 0..3 {
            let told: Result<f64, Error> =
                pool.worker(slot).unwrap().call("forward", ("pinned", "k", now)).await;
            found.push(told.is_err_and(|error| error.to_string().contains("WouldDeadlock")));
        }
        assert_eq!(found.iter().filter(|&&deadlock| deadlock).count(), 1, "{found:?}");
    }
    finish(pool).await;
}

#[tokio::test]
async fn the_turn_of_a_session_is_not_waited_for_by_who_has_it() {
    let pool = nesting().workers(3).start().await.unwrap();
    pool.expose_fn("turn", async |(session, handler, args): (String, String, Value)| {
        own_pool()?.session(&session).in_order().call::<Value>(&handler, args).await
    })
    .unwrap();
    pool.expose_fn("any", async |session: String| {
        own_pool()?.session(&session).call::<f64>("remaining", ()).await
    })
    .unwrap();
    let own = pool.session("s").in_order();
    let told: [String; 3] = own.call("failure", ("turn", "s", "remaining", ())).await.unwrap();
    assert!(told[1] == "WouldDeadlock" && told[2].contains("the turn of session `s`"), "{told:?}");
    // By way of another session, whose turn is free.
    let inner = json!(["turn", "s", "remaining", []]);
    let told: [String; 3] = own.call("forward", ("turn", "t", "failure", inner)).await.unwrap();
    assert!(told[1] == "WouldDeadlock" && told[2].contains("(forward > failure)"), "{told:?}");
    own.call::<f64>("forward", ("any", "s")).await.unwrap();
    pool.session("s").call::<f64>("forward", ("turn", "s", "remaining", ())).await.unwrap();
    // It was given back each time.
    own.call::<f64>("remaining", ()).await.unwrap();
    finish(pool).await;
}

#[tokio::test]
async fn a_pool_that_shrinks_does_not_leave_a_chain_waiting() {
    let (begun, mut begins) = mpsc::unbounded_channel();
    let (release, gate) = tokio::sync::watch::channel(false);
    let pool = nesting().workers(2).start().await.unwrap();
    pool.expose_fn("gate", move |(): ()| {
        let (begun, mut gate) = (begun.clone(), gate.clone());
        async move {
            begun.send(()).map_err(|error| error.to_string())?;
            gate.wait_for(|open| *open).await.map(|_| ()).map_err(|error| error.to_string())
        }
    })
    .unwrap();
    let other = tokio::spawn(pool.worker(1).unwrap().call::<()>("forward", ["gate"]).into_future());
    within(LIMIT, "the other's call", begins.recv()).await.unwrap();
    let outer = pool.worker(0).unwrap().call::<[String; 3]>("failure", ("nest", 1));
    let outer = tokio::spawn(outer.into_future());
    common::eventually("it is queued", || pool.stats().queued == 1).await;
    let shrunk = tokio::spawn({
        let pool = pool.clone();
        async move { pool.resize(1).await }
    });
    let told = within(LIMIT / 10, "the nested call", outer).await.unwrap().unwrap();
    assert_eq!(told[1], "WouldDeadlock", "{told:?}");
    assert_eq!(pool.stats().failed.would_deadlock, 1);
    release.send(true).unwrap();
    other.await.unwrap().unwrap();
    shrunk.await.unwrap().unwrap();
    // And one that is made now.
    would_deadlock(&pool, 0, "nest", json!([1])).await;
    pool.resize(2).await.unwrap();
    assert_eq!(pool.call::<i64>("nest", 2).await.unwrap(), 2);
    finish(pool).await;
}

#[tokio::test]
async fn a_pool_that_grows_by_itself_grows_for_a_chain() {
    let pool = nesting()
        .workers(1)
        .autoscale(1..=3)
        .autoscale_after(Duration::from_millis(20), LIMIT)
        .start()
        .await
        .unwrap();
    assert_eq!(pool.call::<i64>("nest", 3).await.unwrap(), 3);
    let error = pool.call::<i64>("nest", 4).await.unwrap_err();
    assert!(error.to_string().contains("WouldDeadlock"), "{error}");
    finish(pool).await;
}

#[tokio::test]
async fn a_chain_through_another_pool_is_the_same_chain() {
    let own = nesting().workers(1).start().await.unwrap();
    let other = nesting().workers(1).start().await.unwrap();
    let (there, here) = (other.clone(), own.clone());
    own.expose_fn("there", move |(handler, args): (String, Value)| {
        let there = there.clone();
        async move { there.call::<Value>(&handler, args).await }
    })
    .unwrap();
    other
        .expose_fn("here", move |(): ()| {
            let here = here.clone();
            async move { here.call::<Value>("remaining", ()).await }
        })
        .unwrap();
    let told = async || {
        let call = own.call::<Value>("forward", ("there", "failure", ["here"]));
        call.await.map_err(|error| error.to_string())
    };
    let text = told().await.unwrap()[2].as_str().unwrap().to_owned();
    assert!(text.contains(own.name()) && text.contains("(forward > failure)"), "{text}");
    own.resize(2).await.unwrap();
    // The inner call is run: so that it does not fail is what fails.
    assert!(told().await.unwrap_err().contains("it did not fail"));
    finish(own).await;
    finish(other).await;
}

#[tokio::test]
async fn nested_calls_have_no_more_time_than_the_outer_one() {
    let pool = nesting().workers(2).start().await.unwrap();
    let left: f64 = pool
        .call("forward", ("back", "remaining", ()))
        .timeout(Duration::from_secs(20))
        .await
        .unwrap();
    assert!((1.0..=20.0).contains(&left), "{left}");
    pool.expose_fn("short", async |(): ()| {
        let call = own_pool()?.call::<f64>("remaining", ());
        call.timeout(Duration::from_secs(5)).await
    })
    .unwrap();
    let left: f64 = pool.call("forward", ["short"]).await.unwrap();
    assert!((0.1..=5.0).contains(&left), "{left}");
    finish(pool).await;
}

#[tokio::test]
async fn a_spawned_task_has_the_context_that_it_is_given() {
    let pool = nesting().workers(1).start().await.unwrap();
    pool.expose_fn("spawned", async |with: bool| {
        let pool = own_pool()?;
        let context = CallContext::current();
        let call = async move { pool.call::<Value>("remaining", ()).timeout(LIMIT / 100).await };
        let task = match context.filter(|_| with) {
            Some(context) => tokio::spawn(context.scope(call)),
            None => tokio::spawn(call),
        };
        task.await.unwrap_or(Err(Error::Closed { pool: "p".to_owned() }))
    })
    .unwrap();
    would_deadlock(&pool, 0, "spawned", json!([true])).await;
    // Without it nobody knows: its own deadline helps.
    let told: [String; 3] = pool.call("failure", ("spawned", false)).await.unwrap();
    assert_eq!(told[1], "Timeout");
    finish(pool).await;
}

#[cfg_attr(feature = "cluster", derive(ractor_cluster_derive::RactorMessage))]
struct Ask(CallContext, Reply<f64>);

impl FromCall for Ask {
    fn from_call(call: Inbound) -> Result<Self, InboundError> {
        Ok(Ask(call.context(), call.reply()))
    }
}

/// An actor that calls Python for what it is asked.
struct Asking;

impl Actor for Asking {
    type Msg = Ask;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Ask>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<Ask>,
        Ask(context, reply): Ask,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        assert!(context.depth() == 1 && context.deadline().is_some());
        let call = async { own_pool()?.call::<f64>("remaining", ()).await };
        reply.send(context.scope(call).await);
        Ok(())
    }
}

#[tokio::test]
async fn an_actor_calls_in_the_context_of_its_message() {
    let (actor, task) = Actor::spawn(None, Asking, ()).await.unwrap();
    let pool = nesting().expose_actor("asking", actor.clone()).workers(1).start().await.unwrap();
    would_deadlock(&pool, 0, "asking", json!([])).await;
    pool.resize(2).await.unwrap();
    let call = pool.call::<f64>("forward", ["asking"]).timeout(Duration::from_secs(20));
    let left = call.await.unwrap();
    assert!((1.0..=20.0).contains(&left), "{left}");
    actor.stop(None);
    task.await.unwrap();
    whole(&pool).await;
    finish(pool).await;
}
