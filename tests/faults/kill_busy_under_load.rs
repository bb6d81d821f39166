//! Scenario 11: kill -9 of a busy worker under load: exactly one call fails, with the signal named, and no other
//! call notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use snakepen::{Ended, Error, Exit, Pool, WorkerState};
use tokio::task::JoinSet;

use crate::common::{eventually, finish, kill, pids, pool, told, whole};

const CALLERS: u64 = 64;

/// Callers that never pause. Each answer must be the right one; the errors are handed over.
struct Load {
    callers: JoinSet<Vec<Error>>,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
}

impl Load {
    fn start(pool: &Pool, seconds: f64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let (pool, stop, answered) = (pool.clone(), Arc::clone(&stop), Arc::clone(&answered));
            callers.spawn(async move {
                let mut errors = Vec::new();
                let mut value = caller << 32;
                while !stop.load(Ordering::Relaxed) {
                    value += 1;
                    match pool.call::<u64>("work", (value, seconds)).await {
                        Ok(got) => {
                            assert_eq!(got, value, "somebody else's answer");
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => errors.push(error),
                    }
                }
                errors
            });
        }
        Self { callers, stop, answered }
    }

    /// Waits until so many more calls have been answered.
    async fn answers(&self, more: u64) {
        let enough = self.answered.load(Ordering::Relaxed) + more;
        eventually("the load goes on", || self.answered.load(Ordering::Relaxed) >= enough).await;
    }

    async fn stop(self) -> Vec<Error> {
        self.stop.store(true, Ordering::Relaxed);
        self.callers.join_all().await.concat()
    }
}

fn assert_killed(error: &Error, victim: i32, handler: &str) {
    let Error::WorkerDied(death) = error else { panic!("{error:?}") };
    assert_eq!((death.pid, death.exit, &death.ended), (victim, Exit::Signal(9), &Ended::Itself));
    assert_eq!((death.handler.as_str(), death.started), (handler, true));
    let text = error.to_string();
    assert!(text.contains("SIGKILL") && text.contains(&victim.to_string()), "{text}");
    assert!(error.may_have_run() && !error.is_retryable());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_call_that_the_victim_runs_fails_and_no_other() {
    let pool = pool("holding.py").workers(4).start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let load = Load::start(&pool, 0.0);
    load.answers(500).await;
    for round in 1..=3 {
        let started = directory.path().join(format!("started-{round}"));
        let call = pool.call::<i32>("hold", (&started, directory.path().join("never")));
        let call = tokio::spawn(call.into_future());
        let victim = told(&started).await.parse().unwrap();
        load.answers(500).await;
        kill(victim, 9);
        assert_killed(&call.await.unwrap().unwrap_err(), victim, "hold");
        load.answers(500).await;
    }
    assert_eq!(load.stop().await.len(), 0, "a call noticed");
    whole(&pool).await;
    let stats = pool.stats();
    assert_eq!((stats.failed.total(), stats.failed.worker_died, stats.restarts), (3, 3, 3));
    finish(pool).await;
}

/// A worker that is killed wherever it happens to be: in a call, which then fails; or between two, and then the
/// one that was on its way to it runs elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_at_any_moment_costs_one_call_at_most() {
    let pool = pool("holding.py").workers(4).start().await.unwrap();
    let load = Load::start(&pool, 0.0005);
    let mut victims = Vec::new();
    for round in 0..8 {
        load.answers(200 + 37 * round).await;
        let victim = pids(&pool)[usize::try_from(round % 4).unwrap()];
        kill(victim, 9);
        victims.push(victim);
        eventually("the victim's slot is ready again", || {
            pool.workers().iter().all(|worker| {
                worker.pid != Some(victim)
                    && matches!(worker.state, WorkerState::Idle | WorkerState::Busy)
            })
        })
        .await;
    }
    let errors = load.stop().await;
    let mut hit = std::collections::BTreeSet::new();
    for error in &errors {
        let Error::WorkerDied(death) = error else { panic!("{error:?}") };
        assert!(victims.contains(&death.pid));
        assert!(hit.insert(death.pid), "two calls fail with one worker: {errors:?}");
        assert_killed(error, death.pid, "work");
    }
    let stats = pool.stats();
    assert_eq!(stats.restarts, 8);
    assert_eq!(stats.failed.total(), u64::try_from(errors.len()).unwrap());
    finish(pool).await;
}

#[tokio::test]
async fn an_idle_worker_killed_costs_no_call() {
    let pool = pool("holding.py").workers(1).start().await.unwrap();
    for _ in 0..10 {
        let victim = pids(&pool)[0];
        kill(victim, 9);
        // At once: before, while and after the pool learns of the death.
        for value in 0..5 {
            let answer =
                pool.call::<u64>("work", (value, 0.0)).timeout(Duration::from_secs(30)).await;
            assert_eq!(answer.unwrap(), value);
        }
        assert_ne!(pids(&pool)[0], victim);
    }
    assert_eq!(pool.stats().failed.total(), 0);
    finish(pool).await;
}
