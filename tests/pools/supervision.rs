//! Every part of a pool can die: whoever waits hears so clearly, what can go on goes on, the pool comes back whole
//! by itself, and the same names and the same handle serve.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use ractor::ActorId;
use ractor::registry::where_is;
use snakepen::{Ended, Error, Exit, Pool, Stage, WorkerHandle};
use tokio::task::JoinHandle;

use crate::common::{
    LIMIT, Mark, eventually, finish, is_alive, kill, launcher_pid, pids, pool, told, whole, within,
};

const WORKERS: usize = 2;
const QUEUED: usize = 3;

/// A pool whose workers hold a call each, while more wait in the queue.
struct Subject {
    pool: Pool,
    mark: Mark,
    directory: tempfile::TempDir,
    running: Vec<JoinHandle<Result<i32, Error>>>,
    queued: Vec<JoinHandle<Result<u64, Error>>>,
    pids: Vec<i32>,
    launcher: i32,
}

impl Subject {
    async fn start() -> Self {
        let mark = Mark::new();
        let pool = mark.on(pool("holding.py")).workers(WORKERS).start().await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let (pids, launcher) = (pids(&pool), launcher_pid(&pool));
        let mut subject =
            Self { pool, mark, directory, pids, launcher, running: Vec::new(), queued: Vec::new() };
        for slot in 0..WORKERS {
            let files = (subject.file(&format!("started-{slot}")), subject.file("release"));
            let call = subject.pool.worker(slot).unwrap().call("hold", files);
            subject.running.push(tokio::spawn(call.into_future()));
        }
        for slot in 0..WORKERS {
            told(&subject.file(&format!("started-{slot}"))).await;
        }
        for value in 0..QUEUED as u64 {
            let call = subject.pool.call("work", value).timeout(LIMIT);
            subject.queued.push(tokio::spawn(call.into_future()));
        }
        eventually("the calls are queued", || subject.pool.stats().queued == QUEUED).await;
        subject
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn release(&self) {
        std::fs::write(self.file("release"), "").unwrap();
    }

    fn name(&self, part: &str) -> String {
        match part {
            "" => self.pool.name().to_owned(),
            part => format!("{}/{part}", self.pool.name()),
        }
    }

    fn actor(&self, part: &str) -> Option<ActorId> {
        where_is(self.name(part)).map(|actor| actor.get_id())
    }

    /// Kills an actor, and waits until another one serves under its name.
    async fn kill_actor(&self, part: &str) {
        let name = self.name(part);
        let old = where_is(&name).unwrap_or_else(|| panic!("no actor {name}"));
        old.kill();
        eventually(&format!("{name} has come back"), || {
            self.actor(part).is_some_and(|id| id != old.get_id())
        })
        .await;
    }

    /// The calls that were queued have failed, and may be made again.
    async fn queued_failed(&mut self) {
        for call in self.queued.drain(..) {
            let error = within(LIMIT, "a queued call", call).await.unwrap().unwrap_err();
            assert!(
                matches!(&error, Error::Restarted { pool } if *pool == self.pool.name()),
                "{error:?}"
            );
            assert!(!error.may_have_run() && error.is_retryable());
        }
    }

    /// The calls that were running have died with their workers.
    async fn running_died(&mut self, why: &[Ended]) {
        for (call, &pid) in self.running.drain(..).zip(&self.pids) {
            let error = within(LIMIT, "a running call", call).await.unwrap().unwrap_err();
            let Error::WorkerDied(death) = &error else { panic!("{error:?}") };
            assert_eq!((death.pid, death.started), (pid, true));
            assert!(why.contains(&death.ended), "{error}");
            assert!(error.may_have_run() && !error.is_retryable());
        }
    }

    /// The pool is whole: every name has its actor, the handle and the names reach workers, and there is no
    /// process that should not be there.
    async fn ends_whole(self) {
        let pool = &self.pool;
        within(LIMIT, "a call", async { pool.call::<u64>("work", 7).await.unwrap() }).await;
        whole(pool).await;
        for part in ["", "root", "supervisor", "launcher", "workers", "worker/0", "worker/1"] {
            assert!(self.actor(part).is_some(), "no actor {:?}", self.name(part));
        }
        let found = Pool::find(pool.name()).await.expect("the pool's name serves");
        assert_eq!(found.call::<u64>("work", 8).await.unwrap(), 8);
        for slot in 0..WORKERS {
            let worker = WorkerHandle::find(&self.name(&format!("worker/{slot}"))).await.unwrap();
            assert_eq!(worker.call::<i32>("pid", ()).await.unwrap(), pids(pool)[slot]);
        }
        let mut expected = BTreeSet::from_iter(pids(pool));
        expected.insert(launcher_pid(pool));
        eventually("only the pool's processes are left", || {
            BTreeSet::from_iter(self.mark.processes()) == expected
        })
        .await;
        drop(found);
        finish(self.pool).await;
        assert!(self.mark.processes().is_empty());
    }

    /// Not one of the first processes is left.
    fn all_are_new(&self) {
        for pid in self.pids.iter().chain([&self.launcher]) {
            assert!(!is_alive(*pid), "process {pid} is left");
        }
    }
}

// === The pool actor ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pool_actor_is_killed() {
    let mut subject = Subject::start().await;
    subject.kill_actor("").await;
    subject.queued_failed().await;
    // What runs goes on; and while it does, the new actor knows that its workers are busy.
    let waiting = tokio::spawn(subject.pool.call::<u64>("work", 1).into_future());
    eventually("the next call waits", || subject.pool.stats().queued == 1).await;
    assert_eq!(subject.pool.stats().busy, WORKERS);
    subject.release();
    for (call, &pid) in subject.running.drain(..).zip(&subject.pids) {
        assert_eq!(within(LIMIT, "a running call", call).await.unwrap().unwrap(), pid);
    }
    assert_eq!(within(LIMIT, "the next call", waiting).await.unwrap().unwrap(), 1);
    // The workers never noticed.
    assert_eq!(pids(&subject.pool), subject.pids);
    assert_eq!(subject.pool.stats().restarts, 0);
    subject.ends_whole().await;
}

/// The new actor has taken over the deadlines, and hears of callers that go away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_run_over_a_restart_of_the_pool_actor_can_be_given_up() {
    let mut subject = Subject::start().await;
    let (started, never) = (subject.file("timed"), subject.file("never"));
    subject.release();
    for call in subject.running.drain(..) {
        call.await.unwrap().unwrap();
    }
    for call in subject.queued.drain(..) {
        call.await.unwrap().unwrap();
    }
    let call = subject.pool.worker(0).unwrap().call::<i32>("hold", (&started, &never));
    let timed = tokio::spawn(call.timeout(Duration::from_millis(500)).into_future());
    told(&started).await;
    let started = subject.file("dropped");
    let call = subject.pool.worker(1).unwrap().call::<i32>("hold", (&started, &never));
    let dropped = tokio::spawn(call.into_future());
    told(&started).await;
    subject.kill_actor("").await;
    dropped.abort();
    let error = within(LIMIT, "the call", timed).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Timeout { stage: Stage::Run, .. }), "{error:?}");
    eventually("both workers are replaced", || subject.pool.stats().restarts == 2).await;
    whole(&subject.pool).await;
    assert_eq!(subject.pool.stats().failed.abandoned, 1);
    assert!(subject.pids.iter().all(|&pid| !is_alive(pid)));
    subject.ends_whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pool_actor_is_killed_again_and_again_under_load() {
    let pool = pool("holding.py").workers(WORKERS).start().await.unwrap();
    let name = pool.name().to_owned();
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..16_u64 {
        let pool = pool.clone();
        callers.spawn(async move {
            let (mut answered, mut restarted) = (0_u64, 0_u64);
            while answered < 200 {
                match pool.call::<u64>("work", (caller, 0.0)).timeout(LIMIT).await {
                    Ok(got) => {
                        assert_eq!(got, caller);
                        answered += 1;
                    }
                    Err(Error::Restarted { .. }) => restarted += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            restarted
        });
    }
    for kill in 1..=10 {
        eventually("calls are answered", || pool.stats().completed > 100 * kill).await;
        let actor = where_is(&name).unwrap();
        actor.kill();
        eventually("it has come back", || {
            where_is(&name).is_some_and(|next| next.get_id() != actor.get_id())
        })
        .await;
    }
    let restarted: u64 = within(LIMIT, "the callers", callers.join_all()).await.into_iter().sum();
    let stats = pool.stats();
    assert_eq!((stats.failed.restarted, stats.completed), (restarted, 16 * 200));
    assert_eq!(stats.restarts, 0, "a worker was lost with its pool's actor");
    finish(pool).await;
}

// === Workers ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_actor_is_killed() {
    let mut subject = Subject::start().await;
    subject.kill_actor("worker/0").await;
    let error = within(LIMIT, "its call", subject.running.remove(0)).await.unwrap().unwrap_err();
    let Error::WorkerDied(death) = &error else { panic!("{error:?}") };
    assert_eq!((death.pid, &death.ended, death.started), (subject.pids[0], &Ended::Stopped, true));
    // Its replacement serves the queue, while the neighbour goes on undisturbed.
    for (value, call) in subject.queued.drain(..).enumerate() {
        let answer = within(LIMIT, "a queued call", call).await.unwrap().unwrap();
        assert_eq!(usize::try_from(answer).unwrap(), value);
    }
    assert!(!is_alive(subject.pids[0]));
    subject.release();
    let neighbour = within(LIMIT, "the neighbour", subject.running.remove(0)).await.unwrap();
    assert_eq!(neighbour.unwrap(), subject.pids[1]);
    let epochs: Vec<u64> = subject.pool.workers().iter().map(|worker| worker.epoch).collect();
    assert_eq!((epochs, launcher_pid(&subject.pool)), (vec![2, 1], subject.launcher));
    subject.ends_whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_worker_supervisor_is_killed() {
    let mut subject = Subject::start().await;
    subject.kill_actor("workers").await;
    subject.queued_failed().await;
    subject.running_died(&[Ended::Stopped]).await;
    whole(&subject.pool).await;
    assert!(subject.pids.iter().all(|&pid| !is_alive(pid)));
    assert_eq!(launcher_pid(&subject.pool), subject.launcher, "the launcher stays");
    subject.ends_whole().await;
}

// === The launcher ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_launcher_actor_is_killed() {
    let mut subject = Subject::start().await;
    subject.kill_actor("launcher").await;
    subject.queued_failed().await;
    subject.running_died(&[Ended::Stopped, Ended::Launcher]).await;
    whole(&subject.pool).await;
    eventually("the old launcher has left", || !is_alive(subject.launcher)).await;
    subject.all_are_new();
    subject.ends_whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_launcher_process_is_killed() {
    let mut subject = Subject::start().await;
    let old = subject.actor("launcher").unwrap();
    kill(subject.launcher, 9);
    eventually("the launcher has come back", || {
        subject.actor("launcher").is_some_and(|id| id != old)
    })
    .await;
    subject.queued_failed().await;
    subject.running_died(&[Ended::Stopped, Ended::Launcher, Ended::Itself]).await;
    whole(&subject.pool).await;
    subject.all_are_new();
    subject.ends_whole().await;
}

// === The supervisors above ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pool_supervisor_is_killed() {
    let mut subject = Subject::start().await;
    subject.kill_actor("supervisor").await;
    subject.queued_failed().await;
    subject.running_died(&[Ended::Stopped, Ended::Launcher]).await;
    eventually("the workers have come back", || {
        pids(&subject.pool).len() == WORKERS && subject.pool.stats().restarts == WORKERS as u64
    })
    .await;
    whole(&subject.pool).await;
    eventually("the old launcher has left", || !is_alive(subject.launcher)).await;
    subject.all_are_new();
    subject.ends_whole().await;
}

/// Nobody restarts the root: with it the pool is shut down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_root_is_killed() {
    let mut subject = Subject::start().await;
    where_is(subject.name("root")).unwrap().kill();
    for call in subject.queued.drain(..) {
        let error = within(LIMIT, "a queued call", call).await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Restarted { .. } | Error::Closed { .. }), "{error:?}");
    }
    subject.running_died(&[Ended::Stopped, Ended::Launcher, Ended::Shutdown]).await;
    let next = subject.pool.call::<u64>("work", 1).into_future();
    let error = within(LIMIT, "the next call", next).await.unwrap_err();
    assert!(matches!(error, Error::Closed { .. }), "{error:?}");
    finish(subject.pool).await;
    assert!(subject.mark.processes().is_empty(), "shutdown() waits for the processes");
}

// === All of them ===

/// Whatever dies in whatever order, under load: in the end the pool is whole, and every call is accounted for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_killed_in_any_order() {
    let mark = Mark::new();
    let pool = mark.on(pool("holding.py")).workers(WORKERS).start().await.unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..16_u64 {
        let (pool, stop) = (pool.clone(), stop.clone());
        callers.spawn(async move {
            while !stop.is_cancelled() {
                match pool.call::<u64>("work", caller).timeout(LIMIT).await {
                    Ok(got) => assert_eq!(got, caller),
                    Err(Error::Restarted { .. } | Error::WorkerDied(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
    let parts = ["", "worker/1", "launcher", "workers", "", "supervisor", "worker/0", "workers"];
    for (round, part) in parts.iter().cycle().take(16).enumerate() {
        let name = match *part {
            "" => pool.name().to_owned(),
            part => format!("{}/{part}", pool.name()),
        };
        eventually("the actor is there", || where_is(&name).is_some()).await;
        if let Some(actor) = where_is(&name) {
            actor.kill();
        }
        // At once, into the middle of the recovery; and now and then after it.
        if round % 3 == 2 {
            let goal = pool.stats().completed + 20;
            eventually("calls are answered", || pool.stats().completed > goal).await;
        }
    }
    let goal = pool.stats().completed + 100;
    eventually("calls are answered", || pool.stats().completed > goal).await;
    stop.cancel();
    within(LIMIT, "the callers", callers.join_all()).await;
    whole(&pool).await;
    eventually("only the pool's processes are left", || mark.processes().len() == 1 + WORKERS)
        .await;
    finish(pool).await;
    assert!(mark.processes().is_empty());
}

/// It costs its own call, and nothing else.
#[tokio::test]
async fn a_worker_process_is_killed() {
    let mut subject = Subject::start().await;
    kill(subject.pids[0], 9);
    let error = within(LIMIT, "its call", subject.running.remove(0)).await.unwrap().unwrap_err();
    let Error::WorkerDied(death) = &error else { panic!("{error:?}") };
    assert_eq!((death.exit, &death.ended), (Exit::Signal(9), &Ended::Itself));
    subject.release();
    for call in subject.queued.drain(..) {
        within(LIMIT, "a queued call", call).await.unwrap().unwrap();
    }
    subject.running.remove(0).await.unwrap().unwrap();
    subject.ends_whole().await;
}
