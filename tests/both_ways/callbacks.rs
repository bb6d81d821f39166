//! Python calls Rust: functions and actors that were exposed by a name, and nothing else.

use std::collections::BTreeMap;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde::Deserialize;
use serde_json::{Value, json};
use snakepen::{Builder, CallContext, Error, FromCall, Inbound, InboundError, Pool, Reply};
use tokio::sync::mpsc;

use crate::common::{self, LIMIT, eventually, finish, pool, within};

fn calling() -> Builder {
    pool("calling.py").expose_fn("double", async |n: i64| Ok::<_, String>(2 * n))
}

/// A price list: what a program would ask an actor for.
#[cfg_attr(feature = "cluster", derive(ractor_cluster_derive::RactorMessage))]
enum PricingMsg {
    Price { sku: String, reply: Reply<f64> },
    Set { sku: String, price: f64 },
    Forget(Reply<()>),
    Die(Reply<()>),
    Panic(Reply<()>),
}

#[derive(Debug, thiserror::Error)]
enum PricingError {
    #[error("no price for {0}")]
    UnknownSku(String),
}

impl FromCall for PricingMsg {
    fn from_call(call: Inbound) -> Result<Self, InboundError> {
        if call.is_cast() {
            let (sku, price) = call.args()?;
            return Ok(PricingMsg::Set { sku, price });
        }
        Ok(match &*call.args::<String>()? {
            "forget" => PricingMsg::Forget(call.reply()),
            "die" => PricingMsg::Die(call.reply()),
            "panic" => PricingMsg::Panic(call.reply()),
            "" => {
                return Err(InboundError::new(
                    "EmptySku",
                    format!("`{}` asks for none", call.name()),
                ));
            }
            sku => PricingMsg::Price { sku: sku.to_owned(), reply: call.reply() },
        })
    }
}

struct Pricing;

impl Actor for Pricing {
    type Msg = PricingMsg;
    type State = BTreeMap<String, f64>;
    type Arguments = ();

    async fn pre_start(
        &self,
        _: ActorRef<PricingMsg>,
        (): (),
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok([("cup".to_owned(), 4.5), ("odd".to_owned(), f64::NAN)].into())
    }

    async fn handle(
        &self,
        myself: ActorRef<PricingMsg>,
        message: PricingMsg,
        prices: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            PricingMsg::Price { sku, reply } => {
                let price = prices.get(&sku).copied();
                reply.send(price.ok_or(PricingError::UnknownSku(sku)));
            }
            PricingMsg::Set { sku, price } => {
                prices.insert(sku, price);
            }
            PricingMsg::Forget(reply) => drop(reply),
            PricingMsg::Die(reply) => {
                myself.stop(None);
                // Dropped with the mailbox, as a message is that comes after the end.
                myself.send_message(PricingMsg::Forget(reply)).unwrap();
            }
            PricingMsg::Panic(_reply) => panic!("no such price"),
        }
        Ok(())
    }
}

async fn failure(pool: &Pool, name: &str, args: Value) -> [String; 3] {
    let mut all = vec![json!(name)];
    all.extend(args.as_array().unwrap().iter().cloned());
    pool.call("failure", all).await.unwrap()
}

#[tokio::test]
async fn arguments_and_answers_arrive_as_they_are() {
    #[derive(Deserialize)]
    struct Named {
        sku: String,
        count: u32,
    }
    let pool = calling()
        .expose_fn("echo", async |args: Value| Ok::<_, String>(args))
        .expose_fn("none", async |(): ()| Ok::<_, String>(()))
        .expose_fn("pair", async |(a, b): (i64, String)| Ok::<_, String>(format!("{a}{b}")))
        .workers(2)
        .start()
        .await
        .unwrap();
    pool.expose_fn("named", async |Named { sku, count }| Ok::<_, String>(format!("{count} {sku}")))
        .unwrap();
    let values =
        [json!(null), json!({"a": [1, 2.5, "é", null]}), json!("x"), json!([1, 2]), json!([])];
    for handler in ["forward", "forward_async", "own_loop"] {
        for value in &values {
            let answer: Value = pool.call(handler, ("echo", value)).await.unwrap();
            assert_eq!(&answer, value, "{handler}");
        }
        assert_eq!(pool.call::<Value>(handler, ["echo"]).await.unwrap(), Value::Null);
        let two: Value = pool.call(handler, ("echo", 1, 2)).await.unwrap();
        assert_eq!(two, json!([1, 2]));
        pool.call::<()>(handler, ["none"]).await.unwrap();
        assert_eq!(pool.call::<String>(handler, ("pair", 3, "x")).await.unwrap(), "3x");
        assert_eq!(pool.call::<i64>(handler, ("double", 21)).await.unwrap(), 42);
    }
    let named = json!({"target": "named", "sku": "cup", "count": 2});
    assert_eq!(pool.call::<String>("forward_named", named).await.unwrap(), "2 cup");
    // 8 MiB there and back.
    let large = "x".repeat(8 << 20);
    let back: String = pool.call("forward", ("echo", &large)).await.unwrap();
    assert!(back == large);
    finish(pool).await;
}

#[tokio::test]
async fn an_actor_is_called_and_cast_to() {
    let (actor, task) = Actor::spawn(None, Pricing, ()).await.unwrap();
    let pool = calling().expose_actor("pricing", actor.clone()).workers(1).start().await.unwrap();
    for handler in ["forward", "forward_async"] {
        assert_eq!(pool.call::<f64>(handler, ("pricing", "cup")).await.unwrap(), 4.5);
    }
    for (handler, price) in [("cast", 1.5), ("cast_async", 2.5)] {
        pool.call::<()>(handler, ("pricing", "pen", price)).await.unwrap();
        assert_eq!(pool.call::<f64>("forward", ("pricing", "pen")).await.unwrap(), price);
    }
    let [class, kind, message] = failure(&pool, "pricing", json!(["hat"])).await;
    assert_eq!([&*class, &*kind, &*message], ["ActorError", "PricingError", "no price for hat"]);
    let error = pool.call::<f64>("forward", ("pricing", "hat")).await.unwrap_err();
    let Error::Python { exception, .. } = &error else { panic!("{error}") };
    assert_eq!((&*exception.module, &*exception.type_name), ("snakepen", "ActorError"));
    assert_eq!(exception.message, "PricingError: no price for hat");
    let [_, kind, message] = failure(&pool, "pricing", json!(["forget"])).await;
    assert_eq!(kind, "NoReply", "{message}");
    let [_, kind, message] = failure(&pool, "pricing", json!(["odd"])).await;
    assert!(kind == "Encode" && message.contains("NaN"), "{kind}: {message}");
    let [_, kind, message] = failure(&pool, "pricing", json!([""])).await;
    assert_eq!([&*kind, &*message], ["EmptySku", "`pricing` asks for none"]);
    actor.stop(None);
    task.await.unwrap();
    finish(pool).await;
}

#[tokio::test]
async fn an_actor_that_ends_is_an_error_that_says_so() {
    for last in ["die", "panic"] {
        let (actor, task) = Actor::spawn(None, Pricing, ()).await.unwrap();
        let pool = calling().expose_actor("pricing", actor).workers(1).start().await.unwrap();
        // In the middle of a call, and before one.
        for sku in [last, "cup"] {
            let [_, kind, message] = failure(&pool, "pricing", json!([sku])).await;
            assert_eq!(kind, "ActorStopped", "{message}");
            assert!(message.contains("`pricing`"), "{message}");
        }
        let told: [String; 3] =
            pool.call("failure_of_cast", ("pricing", "cup", 1.0)).await.unwrap();
        assert_eq!(told[1], "ActorStopped");
        task.await.unwrap();
        // Its successor is reached by the same name.
        let (successor, task) = Actor::spawn(None, Pricing, ()).await.unwrap();
        pool.expose_actor("pricing", successor.clone()).unwrap();
        assert_eq!(pool.call::<f64>("forward", ("pricing", "cup")).await.unwrap(), 4.5);
        successor.stop(None);
        task.await.unwrap();
        assert_eq!(pool.stats().restarts, 0);
        finish(pool).await;
    }
}

#[tokio::test]
async fn nothing_else_can_be_reached() {
    let pool = pool("calling.py").workers(1).start().await.unwrap();
    let [_, kind, message] = failure(&pool, "double", json!([1])).await;
    assert!(kind == "NotExposed" && message.contains("expose_fn"), "{kind}: {message}");
    pool.expose_fn("double", async |n: i64| Ok::<_, String>(2 * n)).unwrap();
    pool.expose_fn("echo", async |args: Value| Ok::<_, String>(args)).unwrap();
    // Neither by its registered name nor by any other.
    let registered = format!("{}/supervisor", pool.name());
    for name in [pool.name(), &registered, "", "get", "Double", "double "] {
        let [class, kind, message] = failure(&pool, name, json!([1])).await;
        assert_eq!([&*class, &*kind], ["ActorError", "NotExposed"]);
        assert!(message.contains("there are: double, echo"), "{message}");
    }
    assert_eq!(pool.call::<i64>("forward", ("double", 2)).await.unwrap(), 4);
    pool.expose_fn("double", async |n: i64| Ok::<_, String>(20 * n)).unwrap();
    assert_eq!(pool.call::<i64>("forward", ("double", 2)).await.unwrap(), 40);
    assert!(pool.unexpose("double") && !pool.unexpose("double"));
    assert_eq!(failure(&pool, "double", json!([1])).await[1], "NotExposed");
    for name in ["", "a\nb", &"x".repeat(256)] {
        let error = pool.expose_fn(name, async |(): ()| Ok::<_, String>(())).unwrap_err();
        assert!(matches!(error, Error::Config { option: "expose_fn", .. }), "{error}");
        let error = calling().expose_fn(name, async |(): ()| Ok::<_, String>(())).start().await;
        assert!(matches!(error, Err(Error::Config { option: "expose_fn", .. })), "{error:?}");
    }
    let twice = calling().expose_fn("double", async |n: i64| Ok::<_, String>(n));
    let error = twice.start().await.unwrap_err();
    assert!(error.to_string().contains("`double` is exposed twice"), "{error}");
    let closed = pool.clone();
    finish(pool).await;
    let error = closed.expose_fn("double", async |n: i64| Ok::<_, String>(n)).unwrap_err();
    assert!(matches!(error, Error::Closed { .. }), "{error}");
}

#[tokio::test]
async fn what_does_not_fit_is_an_error_and_harms_nobody() {
    let pool = calling()
        .expose_fn("echo", async |args: Value| Ok::<_, String>(args))
        .expose_fn("none", async |(): ()| Ok::<_, String>(()))
        .expose_fn("large", async |size: usize| Ok::<_, String>("x".repeat(size)))
        .expose_fn("boxed", async |(): ()| {
            "x".parse::<i64>().map_err(Box::<dyn std::error::Error + Send + Sync>::from)
        })
        .expose_fn("long", async |(): ()| Err::<(), _>("é".repeat(1 << 20)))
        .expose_fn("closed", async |(): ()| {
            Err::<(), _>(Error::Closed { pool: "other".to_owned() })
        })
        .max_frame(1 << 20)
        .workers(1)
        .start()
        .await
        .unwrap();
    for (name, args, kind, text) in [
        ("double", json!(["x"]), "Arguments", "arguments of `double`: invalid type: string"),
        ("double", json!([]), "Arguments", "invalid type: null"),
        ("double", json!([1, 2]), "Arguments", "invalid type: sequence"),
        ("none", json!([1]), "Arguments", "it takes none"),
        ("large", json!([2 << 20]), "TooLarge", "max_frame"),
        ("boxed", json!([]), "Error", "invalid digit"),
        ("long", json!([]), "Error", "éé […]"),
        ("closed", json!([]), "Closed", "the pool `other` is shut down"),
    ] {
        let [_, told, message] = failure(&pool, name, args).await;
        assert!(told == kind && message.contains(text), "{name}: {told}: {message:.200}");
    }
    let told: [String; 3] = pool.call("failure_of_cast", ("double", "x")).await.unwrap();
    assert_eq!(told[1], "Arguments");
    let told: Vec<String> = pool.call("misuse", ()).await.unwrap();
    let expected = [
        "TypeError: the name of an actor is a str, not int",
        "TypeError: 'echo' is called with positional arguments or with named ones",
        "TypeError: can't be passed to 'echo': set at $.a",
        "TypeError: can't be passed to 'echo': str at $",
        "ValueError: the name of an actor is text",
        "TypeError: can't be passed to 'echo': float at $",
        "ActorError: TooLarge: the arguments take",
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.starts_with(expected), "{told}");
    }
    let told: String = pool.call("forked", ()).await.unwrap();
    assert!(told.contains("forked has no actors"), "{told}");
    assert_eq!(pool.call::<i64>("forward", ("double", 1)).await.unwrap(), 2);
    assert_eq!(pool.stats().restarts, 0);
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn threads_and_tasks_of_a_handler_call_at_once() {
    let pool = calling().workers(2).start().await.unwrap();
    let sum: i64 = pool.call("by_threads", (8, 125)).timeout(LIMIT).await.unwrap();
    assert_eq!(sum, 2 * (0..1000).sum::<i64>());
    let sum: i64 = pool.call("by_tasks", 1000).timeout(LIMIT).await.unwrap();
    assert_eq!(sum, 2 * (0..1000).sum::<i64>());
    // More than may wait at once; the others are refused, and the worker lives.
    let (release, gate) = tokio::sync::watch::channel(false);
    pool.expose_fn("double", move |n: i64| {
        let mut gate = gate.clone();
        async move { gate.wait_for(|open| *open).await.map(|_| 2 * n) }
    })
    .unwrap();
    let error = pool.call::<i64>("by_tasks", 1100).timeout(LIMIT).await.unwrap_err();
    assert!(error.to_string().contains("ActorError: Busy: 1024 questions"), "{error}");
    release.send(true).unwrap();
    assert_eq!(pool.call::<i64>("by_tasks", 1000).timeout(LIMIT).await.unwrap(), 2 * 499_500);
    assert_eq!(pool.stats().restarts, 0);
    finish(pool).await;
}

#[tokio::test]
async fn a_cast_runs_to_its_end_whatever_becomes_of_the_request() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let (release, gate) = tokio::sync::watch::channel(false);
    let pool = calling().workers(1).start().await.unwrap();
    pool.expose_fn("slow", move |n: i64| {
        let (tell, mut gate) = (tell.clone(), gate.clone());
        async move {
            gate.wait_for(|open| *open).await.map_err(|error| error.to_string())?;
            let context = CallContext::current().ok_or("no context")?;
            let _ = tell.send((n, context.deadline(), context.depth()));
            Err::<(), _>("only logged".to_owned())
        }
    })
    .unwrap();
    for n in 0..1024 {
        pool.call::<()>(if n % 2 == 0 { "cast" } else { "cast_async" }, ("slow", n)).await.unwrap();
    }
    // All that there is room for.
    let refused: [String; 3] = pool.call("failure_of_cast", ("slow", 1)).await.unwrap();
    assert!(refused[1] == "Busy" && refused[2].contains("1024 casts"), "{refused:?}");
    common::kill(common::pids(&pool)[0], 9);
    common::whole(&pool).await;
    release.send(true).unwrap();
    let mut seen = Vec::new();
    for _ in 0..1024 {
        let (n, deadline, depth) = within(LIMIT, "a cast", told.recv()).await.unwrap();
        assert_eq!((deadline, depth), (None, 0));
        seen.push(n);
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..1024).collect::<Vec<_>>());
    let again = async || pool.call::<()>("cast", ("slow", 1)).await.is_ok();
    assert!(again().await);
    finish(pool).await;
}

#[tokio::test]
async fn a_panic_is_an_error_for_who_asked_and_nothing_else() {
    let pool = calling().workers(1).start().await.unwrap();
    pool.expose_fn("bad", async |n: i64| {
        assert!(n < 0, "not with {n}");
        Ok::<_, String>(n)
    })
    .unwrap();
    let [_, kind, message] = failure(&pool, "bad", json!([7])).await;
    assert_eq!([&*kind, &*message], ["Panic", "`bad` panicked: not with 7"]);
    pool.call::<()>("cast", ("bad", 7)).await.unwrap();
    assert_eq!(pool.call::<i64>("forward", ("bad", -1)).await.unwrap(), -1);
    assert_eq!(pool.stats().restarts, 0);
    finish(pool).await;
}

#[tokio::test]
async fn what_a_function_keeps_is_dropped_with_its_name_and_with_the_pool() {
    let kept = std::sync::Arc::new(());
    let keeping = |kept: &std::sync::Arc<()>| {
        let kept = std::sync::Arc::clone(kept);
        move |(): ()| {
            let kept = std::sync::Arc::clone(&kept);
            async move { Ok::<_, String>(std::sync::Arc::strong_count(&kept)) }
        }
    };
    let builder = calling().expose_fn("kept", keeping(&kept)).workers(1);
    let pool = builder.start().await.unwrap();
    assert_eq!(pool.call::<usize>("forward", ["kept"]).await.unwrap(), 3);
    pool.unexpose("kept");
    eventually("it is dropped", || std::sync::Arc::strong_count(&kept) == 1).await;
    // A handle of the pool itself, too: shutting down drops it.
    pool.expose_fn("kept", keeping(&kept)).unwrap();
    let own = pool.clone();
    pool.expose_fn("own", move |(): ()| {
        let own = own.clone();
        async move { own.call::<i64>("forward", ("double", 1)).await }
    })
    .unwrap();
    finish(pool).await;
    eventually("it is dropped", || std::sync::Arc::strong_count(&kept) == 1).await;
}
