//! A handler that keeps ending its worker, or that never ends, is not called for a while; the others serve.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::future::join_all;
use snakepen::{Builder, Error, Pool};

use crate::common::{eventually, finish, handler_file, pool, pool_over, whole};

const SOURCE: &str = "
import os, time, snakepen

def mark(path):
    with open(path, 'a') as file:
        file.write('x')

@snakepen.handler
def work(path, how):
    mark(path)
    if how == 'die':
        os._exit(1)
    if how == 'hang':
        time.sleep(60)
    if how == 'raise':
        raise ValueError(how)
    return os.getpid()

@snakepen.handler
def good():
    return os.getpid()
";

/// The end of every test that opens a circuit is within it, unless it waits for more.
const LONG: Duration = Duration::from_secs(60);

struct Subject {
    directory: tempfile::TempDir,
    pool: Pool,
}

impl Subject {
    async fn new(options: impl FnOnce(Builder) -> Builder) -> Self {
        let (directory, path) = handler_file(SOURCE);
        let pool = options(pool_over(&path)).start().await.unwrap();
        Self { directory, pool }
    }

    async fn work(&self, how: &str) -> Result<i32, Error> {
        let call = self.pool.call("work", (self.directory.path().join("marks"), how));
        call.timeout(Duration::from_millis(if how == "hang" { 100 } else { 20_000 })).await
    }

    async fn dies(&self) {
        let outcome = self.work("die").await;
        assert!(matches!(outcome, Err(Error::WorkerDied(_))), "{outcome:?}");
    }

    async fn is_refused(&self) -> Duration {
        let error = self.work("well").await.unwrap_err();
        let Error::CircuitOpen { handler, retry_in, .. } = &error else { panic!("{error:?}") };
        assert_eq!(handler, "work");
        assert!(!error.may_have_run() && error.is_retryable());
        *retry_in
    }

    fn runs(&self) -> usize {
        marks(&self.directory.path().join("marks"))
    }
}

fn marks(path: &Path) -> usize {
    fs::read(path).map_or(0, |marks| marks.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poison_handler_does_not_grind_the_pool() {
    const POISONED: usize = 200;
    const GOOD: usize = 400;
    let options =
        |builder: Builder| builder.workers(3).circuit_threshold(5).circuit_cool_down(LONG);
    let subject = Subject::new(options).await;
    let poisoned = join_all((0..POISONED).map(|_| subject.work("die")));
    let good = join_all((0..GOOD).map(async |_| subject.pool.call::<i32>("good", ()).await));
    let (poisoned, good) = tokio::join!(poisoned, good);
    for outcome in good {
        assert!(outcome.unwrap() > 0);
    }
    let died = poisoned.iter().filter(|o| matches!(o, Err(Error::WorkerDied(_)))).count();
    let refused = poisoned.iter().filter(|o| matches!(o, Err(Error::CircuitOpen { .. }))).count();
    assert_eq!(died + refused, POISONED);
    // Those that were running when it opened have run.
    assert!((5..=7).contains(&died), "{died} died");
    assert_eq!(subject.runs(), died);
    whole(&subject.pool).await;
    let stats = subject.pool.stats();
    assert_eq!(stats.restarts, died as u64);
    assert_eq!((stats.submitted, stats.completed), ((POISONED + GOOD) as u64, GOOD as u64));
    assert_eq!(stats.failed.total(), POISONED as u64);
    assert_eq!(stats.failed.circuit_open, refused as u64);
    finish(subject.pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_cool_down_one_call_is_let_through() {
    const COOL_DOWN: Duration = Duration::from_millis(300);
    let options =
        |builder: Builder| builder.workers(2).circuit_threshold(2).circuit_cool_down(COOL_DOWN);
    let subject = Subject::new(options).await;
    subject.dies().await;
    assert_eq!(subject.pool.stats().circuits, []);
    subject.dies().await;
    let opened = Instant::now();
    let open = &subject.pool.stats().circuits[0];
    assert_eq!((open.handler.as_str(), open.failures), ("work", 2));
    assert!(open.open_for + open.retry_in <= COOL_DOWN + opened.elapsed(), "{open:?}");
    while opened.elapsed() < COOL_DOWN / 2 {
        assert!(subject.is_refused().await <= COOL_DOWN);
    }
    assert_eq!(subject.runs(), 2);
    tokio::time::sleep(COOL_DOWN).await;

    // Of many at once one runs, and fails.
    let outcomes = join_all((0..10).map(|_| subject.work("die"))).await;
    let died = outcomes.iter().filter(|o| matches!(o, Err(Error::WorkerDied(_)))).count();
    assert_eq!((died, subject.runs()), (1, 3));
    subject.is_refused().await;
    tokio::time::sleep(COOL_DOWN).await;

    assert!(subject.work("well").await.unwrap() > 0);
    assert_eq!(subject.pool.stats().circuits, []);
    subject.dies().await;
    assert!(subject.work("well").await.unwrap() > 0, "counted from nothing again");
    finish(subject.pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_outs_open_it_and_answers_of_any_kind_do_not() {
    let options =
        |builder: Builder| builder.workers(1).circuit_threshold(3).circuit_cool_down(LONG);
    let subject = Subject::new(options).await;
    for how in ["raise"; 10] {
        assert!(matches!(subject.work(how).await, Err(Error::Python { .. })));
    }
    for how in ["hang", "die", "raise", "hang", "hang", "die"] {
        assert!(!matches!(subject.work(how).await, Ok(_) | Err(Error::CircuitOpen { .. })));
    }
    assert!(subject.is_refused().await > LONG / 2);
    assert!(subject.pool.call::<i32>("good", ()).await.unwrap() > 0);
    finish(subject.pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_the_tries_of_an_idempotent_call() {
    let options = |builder: Builder| {
        builder.workers(2).circuit_threshold(2).circuit_cool_down(LONG).retries(10)
    };
    let subject = Subject::new(options).await;
    let file = subject.directory.path().join("marks");
    let error = subject.pool.call::<()>("work", (file, "die")).idempotent().await.unwrap_err();
    assert!(matches!(error, Error::WorkerDied(_)), "that it has run is what counts: {error:?}");
    assert_eq!(subject.runs(), 2);
    finish(subject.pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_leave_are_no_failures() {
    let pool = pool("basic.py").workers(1).circuit_threshold(1).start().await.unwrap();
    for _ in 0..3 {
        let call = tokio::spawn(pool.call::<f64>("sleep", (60.0,)).into_future());
        eventually("it runs", || pool.stats().busy == 1).await;
        call.abort();
        eventually("it is given up", || pool.stats().busy == 0).await;
    }
    assert!(pool.call::<f64>("sleep", (0.0,)).await.is_ok());
    finish(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_can_be_turned_off() {
    let subject = Subject::new(|builder| builder.workers(2).circuit_threshold(0)).await;
    for _ in 0..25 {
        subject.dies().await;
    }
    assert!(subject.work("well").await.is_ok());
    finish(subject.pool).await;
}
