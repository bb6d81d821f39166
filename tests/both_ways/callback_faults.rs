//! What becomes of a call from Python to Rust when its caller's time runs out, when it is cancelled, and when its worker dies: what it
//! does in Rust is dropped, once, and nothing else is harmed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use snakepen::{Builder, CallContext, Error, FromCall, Inbound, InboundError, Pool, Reply, Stage};
use tokio::sync::{Notify, mpsc, watch};

use crate::common::{self, LIMIT, eventually, finish, kill, pids, pool, whole, within};

/// Long enough for the handler to have called, short enough to wait for.
const SOON: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    Begun,
    Answered,
    Dropped,
}

/// An exposed function, `gate`, that answers when the gate is opened, and tells what becomes of each call.
struct Gate {
    news: mpsc::UnboundedReceiver<News>,
    open: watch::Sender<bool>,
    /// Told when a call has begun.
    begun: Arc<Notify>,
}

struct Told(mpsc::UnboundedSender<News>, News);

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.0.send(self.1);
    }
}

impl Gate {
    fn on(builder: Builder) -> (Self, Builder) {
        let (tell, news) = mpsc::unbounded_channel();
        let (open, opened) = watch::channel(false);
        let begun = Arc::new(Notify::new());
        let begins = Arc::clone(&begun);
        let builder = builder.expose_fn("gate", move |(): ()| {
            let (tell, mut opened, begins) = (tell.clone(), opened.clone(), Arc::clone(&begins));
            async move {
                let _ = tell.send(News::Begun);
                begins.notify_one();
                let mut told = Told(tell, News::Dropped);
                opened.wait_for(|open| *open).await.map_err(|error| error.to_string())?;
                told.1 = News::Answered;
                Ok::<_, String>("through")
            }
        });
        (Self { news, open, begun }, builder)
    }

    async fn expect(&mut self, expected: News) {
        let news = within(LIMIT, "news of the gate", self.news.recv()).await.unwrap();
        assert_eq!(news, expected);
    }

    fn is_quiet(&mut self) -> bool {
        self.news.try_recv().is_err()
    }
}

/// `last` tells what it was called with.
async fn start(workers: usize) -> (Pool, Gate, mpsc::UnboundedReceiver<String>) {
    let (tell, last) = mpsc::unbounded_channel();
    let pool = pool("calling.py").workers(workers).call_timeout(LIMIT);
    // What has to be killed would take it all.
    let (gate, builder) = Gate::on(pool.cancel_grace(LIMIT / 4));
    let builder = builder
        .expose_fn("double", async |n: i64| Ok::<_, String>(2 * n))
        .expose_fn("last", move |args: Option<String>| {
            let tell = tell.clone();
            async move { tell.send(args.unwrap_or_default()).map_err(|error| error.to_string()) }
        })
        .expose_fn("back", async |(handler, name): (String, String)| {
            let pool = CallContext::current().and_then(|context| context.pool());
            let pool = pool.ok_or(Error::Closed { pool: "own".to_owned() })?;
            pool.call::<String>(&handler, [name]).await
        });
    (builder.start().await.unwrap(), gate, last)
}

/// All is as it was: each worker answers.
async fn serves(pool: &Pool) {
    whole(pool).await;
    for slot in 0..pool.stats().size {
        let answer: i64 = pool.worker(slot).unwrap().call("forward", ("double", 4)).await.unwrap();
        assert_eq!(answer, 8);
    }
}

#[tokio::test]
async fn a_worker_that_is_killed_takes_its_calls_with_it_and_no_other() {
    let (pool, mut gate, _last) = start(2).await;
    let victim =
        tokio::spawn(pool.worker(0).unwrap().call::<String>("forward", ["gate"]).into_future());
    gate.expect(News::Begun).await;
    let other =
        tokio::spawn(pool.worker(1).unwrap().call::<String>("forward", ["gate"]).into_future());
    gate.expect(News::Begun).await;
    kill(pids(&pool)[0], 9);
    let error = victim.await.unwrap().unwrap_err();
    assert!(matches!(&error, Error::WorkerDied(death) if death.started), "{error}");
    gate.expect(News::Dropped).await;
    assert!(gate.is_quiet());
    gate.open.send(true).unwrap();
    assert_eq!(other.await.unwrap().unwrap(), "through");
    gate.expect(News::Answered).await;
    serves(&pool).await;
    finish(pool).await;
}

#[tokio::test]
async fn a_deadline_ends_a_call_that_waits_and_its_handler() {
    let (pool, mut gate, _last) = start(1).await;
    for (handler, recycled) in [("forward", 1), ("forward_async", 1), ("own_loop", 1)] {
        let start = Instant::now();
        let call = pool.call::<String>(handler, ["gate"]).timeout(SOON);
        let call = tokio::spawn(call.into_future());
        gate.expect(News::Begun).await;
        let error = call.await.unwrap().unwrap_err();
        let elapsed = start.elapsed();
        let Error::Timeout { stage: Stage::Run, python_stack, .. } = &error else {
            panic!("{handler}: {error}")
        };
        // Empty where the machine is busy.
        let shown = python_stack.is_empty() || python_stack.contains("calling.py");
        assert!(shown, "{handler}: {python_stack}");
        assert!(elapsed < SOON + LIMIT / 60, "{handler}: {elapsed:?}");
        gate.expect(News::Dropped).await;
        serves(&pool).await;
        // A plain handler was interrupted; the loops' tasks were cancelled; none had to be killed.
        assert_eq!(pool.stats().restarts, recycled, "{handler}");
        assert_eq!(pool.stats().failed.worker_died, 0);
    }
    assert!(gate.is_quiet());
    finish(pool).await;
}

#[tokio::test]
async fn a_caller_that_leaves_ends_a_call_that_waits() {
    let (pool, mut gate, _last) = start(1).await;
    for handler in ["forward", "forward_async", "own_loop"] {
        let mut call = pool.call::<String>(handler, ["gate"]);
        let cancel = call.cancel_handle();
        let call = tokio::spawn(call.into_future());
        gate.expect(News::Begun).await;
        cancel.cancel();
        let error = call.await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Cancelled { stage: Stage::Run, .. }), "{error}");
        gate.expect(News::Dropped).await;
        serves(&pool).await;

        let call = tokio::spawn(pool.call::<String>(handler, ["gate"]).into_future());
        gate.expect(News::Begun).await;
        call.abort();
        gate.expect(News::Dropped).await;
        serves(&pool).await;
    }
    finish(pool).await;
}

#[tokio::test]
async fn many_cancellations_leave_no_port_broken() {
    let (pool, mut gate, _last) = start(1).await;
    for round in 0..60 {
        let handler = ["forward", "forward_async"][round % 2];
        let call = tokio::spawn(pool.call::<String>(handler, ["gate"]).into_future());
        gate.expect(News::Begun).await;
        call.abort();
        // At once, so that the next call crosses with what the cancelled one has left.
        assert_eq!(pool.call::<i64>("forward", ("double", round)).await.unwrap(), 2 * round as i64);
        gate.expect(News::Dropped).await;
    }
    assert_eq!(pool.stats().failed.worker_died, 0);
    finish(pool).await;
}

#[tokio::test]
async fn a_handler_may_leave_a_call_and_go_on() {
    let (pool, mut gate, _last) = start(1).await;
    let begun = Arc::clone(&gate.begun);
    pool.expose_fn("begun", move |(): ()| {
        let begun = Arc::clone(&begun);
        async move {
            begun.notified().await;
            Ok::<_, String>(())
        }
    })
    .unwrap();
    for _ in 0..20 {
        assert_eq!(pool.call::<String>("leaves_early", ["gate"]).await.unwrap(), "left");
        gate.expect(News::Begun).await;
        gate.expect(News::Dropped).await;
    }
    serves(&pool).await;
    assert_eq!(pool.stats().restarts, 0);
    finish(pool).await;
}

#[tokio::test]
async fn a_cancelled_handler_may_call_in_its_grace() {
    let (pool, mut gate, mut last) = start(1).await;
    let error = pool.call::<String>("cleans_up", ("gate", "last")).timeout(SOON).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    gate.expect(News::Begun).await;
    gate.expect(News::Dropped).await;
    assert_eq!(within(LIMIT, "the last call", last.recv()).await.unwrap(), "");
    serves(&pool).await;
    finish(pool).await;
}

#[tokio::test]
async fn a_call_in_a_shield_is_not_interrupted() {
    let (pool, mut gate, mut last) = start(1).await;
    let call = pool.call::<()>("in_shield", ("gate", "last")).timeout(SOON);
    let error = call.await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    gate.expect(News::Begun).await;
    assert!(gate.is_quiet());
    gate.open.send(true).unwrap();
    gate.expect(News::Answered).await;
    assert_eq!(within(LIMIT, "the last call", last.recv()).await.unwrap(), "through");
    serves(&pool).await;
    finish(pool).await;
}

#[tokio::test]
async fn a_thread_that_its_handler_has_left_behind_is_told() {
    let (pool, mut gate, _last) = start(1).await;
    pool.expose_fn("started", async |_: u64| Ok::<_, String>(())).unwrap();
    // Its call may come before or after the end of the request: in neither case does it wait.
    for _ in 0..10 {
        pool.call::<()>("left_behind", ()).await.unwrap();
        let told: Vec<String> = pool.call("told_behind", ()).await.unwrap();
        assert_eq!(told, ["RequestEnded"]);
        if let Ok(news) = gate.news.try_recv() {
            assert_eq!(news, News::Begun);
            gate.expect(News::Dropped).await;
        }
    }
    assert_eq!(pool.stats().restarts, 0);
    finish(pool).await;
}

#[tokio::test]
async fn a_chain_that_is_cut_ends_from_there_on() {
    let (pool, mut gate, _last) = start(2).await;
    for fault in ["kill", "drop"] {
        let outer = pool.worker(0).unwrap().call::<String>("forward", ("back", "forward", "gate"));
        let outer = tokio::spawn(outer.into_future());
        gate.expect(News::Begun).await;
        if fault == "kill" {
            kill(pids(&pool)[0], 9);
            let error = outer.await.unwrap().unwrap_err();
            assert!(matches!(error, Error::WorkerDied(_)), "{error}");
        } else {
            outer.abort();
        }
        // The inner handler is cancelled, and what that has called dropped.
        gate.expect(News::Dropped).await;
        serves(&pool).await;
    }
    // The inner worker's death is an error in the outer handler.
    let outer = pool.worker(0).unwrap().call::<[String; 3]>("failure", ("back", "forward", "gate"));
    let outer = tokio::spawn(outer.into_future());
    gate.expect(News::Begun).await;
    kill(pids(&pool)[1], 9);
    let told = outer.await.unwrap().unwrap();
    assert!(told[1] == "WorkerDied" && told[2].contains("SIGKILL"), "{told:?}");
    gate.expect(News::Dropped).await;
    serves(&pool).await;
    finish(pool).await;
}

#[tokio::test]
async fn a_pool_that_is_shut_down_ends_what_its_handlers_call() {
    let (gate, builder) = Gate::on(pool("calling.py").workers(1));
    let mut gate = gate;
    let pool = builder.shutdown_grace(SOON).start().await.unwrap();
    let call = tokio::spawn(pool.call::<String>("forward", ["gate"]).into_future());
    gate.expect(News::Begun).await;
    finish(pool).await;
    assert!(call.await.unwrap().is_err());
    gate.expect(News::Dropped).await;
    // One that is answered within the grace is an answer.
    let (gate, builder) = Gate::on(common::pool("calling.py").workers(1));
    let mut gate = gate;
    let pool = builder.start().await.unwrap();
    let call = tokio::spawn(pool.call::<String>("forward", ["gate"]).into_future());
    gate.expect(News::Begun).await;
    let shutdown = tokio::spawn(finish(pool.clone()));
    eventually("it is closing", || {
        pool.expose_fn("x", async |(): ()| Ok::<_, String>(())).is_err()
    })
    .await;
    gate.open.send(true).unwrap();
    assert_eq!(call.await.unwrap().unwrap(), "through");
    shutdown.await.unwrap();
}

#[cfg_attr(feature = "cluster", derive(ractor_cluster_derive::RactorMessage))]
struct Hold(Reply<()>);

impl FromCall for Hold {
    fn from_call(call: Inbound) -> Result<Self, InboundError> {
        Ok(Hold(call.reply()))
    }
}

/// An actor that tells when it has a call, and when nobody waits for that any more.
struct Holding;

impl Actor for Holding {
    type Msg = Hold;
    type State = mpsc::UnboundedSender<News>;
    type Arguments = mpsc::UnboundedSender<News>;

    async fn pre_start(
        &self,
        _: ActorRef<Hold>,
        tell: mpsc::UnboundedSender<News>,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(tell)
    }

    async fn handle(
        &self,
        _: ActorRef<Hold>,
        Hold(mut reply): Hold,
        tell: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        assert!(!reply.is_closed());
        tell.send(News::Begun)?;
        reply.closed().await;
        assert!(reply.is_closed());
        tell.send(News::Dropped)?;
        reply.ok(());
        Ok(())
    }
}

#[tokio::test]
async fn an_actor_hears_that_nobody_waits_for_its_answer() {
    let (pool, mut gate, _last) = start(1).await;
    let (tell, news) = mpsc::unbounded_channel();
    gate.news = news;
    let (actor, task) = Actor::spawn(None, Holding, tell).await.unwrap();
    pool.expose_actor("holding", actor.clone()).unwrap();
    for handler in ["forward", "forward_async"] {
        let call = tokio::spawn(pool.call::<()>(handler, ["holding"]).into_future());
        gate.expect(News::Begun).await;
        call.abort();
        gate.expect(News::Dropped).await;
        serves(&pool).await;
    }
    actor.stop(None);
    task.await.unwrap();
    finish(pool).await;
}
