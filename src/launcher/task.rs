//! The task that owns the launcher's process: it passes spawn orders on, hands out the children, and tells each
//! port of its exit.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use ractor::ActorRef;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::process::{self, LauncherProcess};
use super::protocol::{FromLauncher, ToLauncher};
use crate::actors::launcher::{LauncherMsg, SpawnOrder};
use crate::error::{Exit, StartError};
use crate::port::output::Source;
use crate::port::process::Child;
use crate::shared::Shared;
use crate::sys::{self, PoolCgroup, Process, WorkerCgroup};
use crate::wire;

/// At most so many spawns are under way: each has five descriptors in flight, which the kernel counts.
const UNDER_WAY: usize = 16;

/// A launcher that was asked to leave has this long.
const LEAVE: Duration = Duration::from_secs(1);

/// A launcher that was given an order is looked after no later than this.
const SOON: Duration = Duration::from_secs(1);

/// The bootstrap's exit status for a Python that is too old.
const UNSUPPORTED: i32 = 96;

/// How the launcher ended.
#[derive(Clone, Debug)]
pub(crate) enum LauncherEnd {
    /// As it was told.
    Left,
    /// It never became ready.
    StartFailed(Arc<StartError>),
    /// It died, so long after it had become ready.
    Died { uptime: Duration, message: String },
}

/// What the launcher's task is told.
#[derive(Debug)]
pub(crate) enum Order {
    Spawn(SpawnOrder),
    /// Leave in order once no worker of it is left.
    Retire,
    /// Leave in order.
    Exit,
}

#[derive(Debug)]
pub(crate) struct LauncherTask {
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: String,
    /// Which of the launcher actor's processes this is.
    pub(crate) generation: u64,
    pub(crate) orders: mpsc::UnboundedReceiver<Order>,
    /// Spawn orders that came before the launcher was ready.
    pub(crate) early: VecDeque<SpawnOrder>,
    /// Resolves when the launcher's actor is gone.
    pub(crate) actor_gone: oneshot::Receiver<Infallible>,
    pub(crate) actor: ActorRef<LauncherMsg>,
}

/// Why the launcher is not ready.
enum NotReady {
    Because(StartError),
    /// Its process ended; how tells why.
    Ended,
}

impl From<StartError> for NotReady {
    fn from(error: StartError) -> Self {
        NotReady::Because(error)
    }
}

/// Why the task stopped serving.
enum Leave {
    Ordered,
    Died(String),
}

type Reply = oneshot::Sender<Result<Child, StartError>>;

/// A spawn that the launcher has been told of: who waits for it, and the cgroup that is made for it.
type UnderWay = (Reply, Option<WorkerCgroup>);

/// Spawns and exits that somebody waits for.
#[derive(Default)]
struct Book {
    next_token: u64,
    waiting: VecDeque<SpawnOrder>,
    under_way: HashMap<u64, UnderWay>,
    exits: HashMap<i32, oneshot::Sender<Exit>>,
}

impl LauncherTask {
    pub(crate) async fn run(mut self) {
        let mut last = LastWord {
            actor: self.actor.clone(),
            generation: self.generation,
            end: LauncherEnd::Died {
                uptime: Duration::ZERO,
                message: format!("the task of {} panicked", self.name),
            },
        };
        last.end = match self.start().await {
            Err(StartError::Stopped { .. }) => LauncherEnd::Left,
            Err(error) => {
                let error = Arc::new(error);
                self.shared.startup_failed(&error);
                LauncherEnd::StartFailed(error)
            }
            Ok(mut launcher) => {
                let ready = Instant::now();
                let generation = self.generation;
                let _ = self.actor.send_message(LauncherMsg::Ready { generation });
                let waiting = std::mem::take(&mut self.early);
                let mut book = Book { waiting, ..Book::default() };
                let leave = self.serve(&mut launcher, &mut book).await;
                // The ports learn that nobody will tell them of exits any more, and see to their processes.
                drop(book);
                self.end(launcher, leave, ready.elapsed()).await
            }
        };
    }

    // === Start ===

    async fn start(&mut self) -> Result<LauncherProcess, StartError> {
        let shared = Arc::clone(&self.shared);
        let started = tokio::task::spawn_blocking(move || process::start(&shared.config))
            .await
            .map_err(|error| StartError::System(error.to_string()))??;
        let mut launcher = LauncherProcess::adopt(started).map_err(system)?;
        let timeout = self.shared.config.limits.startup_timeout;
        let not_ready = match tokio::time::timeout(timeout, self.ready(&mut launcher)).await {
            Ok(Ok(())) => return Ok(launcher),
            Ok(Err(not_ready)) => not_ready,
            Err(_) => NotReady::Because(StartError::Timeout {
                what: "the launcher (starting Python, preloading modules)".to_owned(),
                timeout,
            }),
        };
        let source = source(&self.shared, &self.name);
        if matches!(not_ready, NotReady::Ended) {
            launcher.leaves_within(LEAVE, source).await;
        }
        let (exit, stderr) = launcher.finish(source).await;
        Err(match not_ready {
            NotReady::Because(error) => error,
            NotReady::Ended if exit == Exit::Code(UNSUPPORTED) => {
                StartError::UnsupportedPython(stderr.trim().to_owned())
            }
            NotReady::Ended => StartError::Exited { what: "the launcher".to_owned(), exit, stderr },
        })
    }

    async fn ready(&mut self, launcher: &mut LauncherProcess) -> Result<(), NotReady> {
        let cgroup = self.shared.cgroup.as_ref().map(PoolCgroup::directory);
        let config = self.shared.config.for_launcher(cgroup)?;
        let configure = ToLauncher::Configure { version: wire::VERSION, config };
        match launcher.send(&configure, &[]).await {
            // One that died at once has more to say than "broken pipe".
            Err(error) if error.kind() == io::ErrorKind::Other => return Err(system(error).into()),
            Ok(()) | Err(_) => {}
        }
        let Self { orders, early, actor_gone, .. } = self;
        let told_to_leave = async {
            while let Some(Order::Spawn(order)) = orders.recv().await {
                early.push_back(order);
            }
        };
        let stopped = || StartError::Stopped { what: "the launcher".to_owned() };
        let received = tokio::select! {
            _ = actor_gone => return Err(stopped().into()),
            () = told_to_leave => return Err(stopped().into()),
            received = launcher.receive(source(&self.shared, &self.name)) => received,
        };
        match received {
            Ok(Some((FromLauncher::Ready { version, python, fresh, threads }, _))) => {
                self.check_ready(version, &python, fresh, &threads)
            }
            Ok(Some((FromLauncher::Failed { stage, module, error }, _))) => {
                let module = module.map(|name| format!(" of `{name}`")).unwrap_or_default();
                Err(NotReady::Because(StartError::Python {
                    stage: format!("{stage}{module}"),
                    python: self.shared.config.interpreter.path.clone(),
                    exception: Box::new(error),
                }))
            }
            Ok(Some((other, _))) => Err(broke_protocol(format!("unexpected {other:?}")).into()),
            Ok(None) => Err(NotReady::Ended),
            Err(error) => Err(broke_protocol(error.to_string()).into()),
        }
    }

    fn check_ready(
        &self,
        version: u64,
        python: &str,
        fresh: bool,
        threads: &[String],
    ) -> Result<(), NotReady> {
        if version != wire::VERSION {
            let expected = wire::VERSION;
            return Err(
                broke_protocol(format!("version {version}, this side speaks {expected}")).into()
            );
        }
        tracing::debug!(pool = self.shared.config.name, python, fresh, "launcher is ready");
        if !threads.is_empty() {
            tracing::warn!(
                pool = self.shared.config.name,
                threads = threads.join(", "),
                "site set-up or preloaded modules started threads, so workers cannot be forked safely: every \
                 worker is a fresh interpreter (leave out of `preload` what starts them, as pyarrow does)"
            );
        }
        Ok(())
    }

    // === Serve ===

    async fn serve(&mut self, launcher: &mut LauncherProcess, book: &mut Book) -> Leave {
        let interval = self.shared.config.limits.health_interval;
        let timeout = self.shared.config.limits.health_timeout;
        let mut tokens = 0;
        let mut pinged = None;
        let mut retiring = false;
        if let Err(error) = book.spawn_next(launcher).await {
            return Leave::Died(format!("takes no orders: {error}"));
        }
        let timer = sleep_until(Instant::now() + interval);
        tokio::pin!(timer);
        loop {
            let source = source(&self.shared, &self.name);
            tokio::select! {
                biased;
                _ = &mut self.actor_gone => return Leave::Ordered,
                received = launcher.receive(source) => match received {
                    Ok(Some((FromLauncher::Pong { token }, _))) => {
                        if pinged.take_if(|expected| *expected == token).is_some() {
                            timer.as_mut().reset(Instant::now() + interval);
                        }
                    }
                    Ok(Some((message, fd))) => {
                        if let Err(what) = book.hear(message, fd) {
                            return Leave::Died(what);
                        }
                    }
                    Ok(None) => return Leave::Died("closed its control socket".to_owned()),
                    Err(error) => return Leave::Died(format!("broke its protocol: {error}")),
                },
                () = &mut timer => {
                    if sys::usage(launcher.pid()).is_ok_and(|usage| usage.stopped) {
                        return Leave::Died("is stopped by a signal (SIGSTOP?)".to_owned());
                    }
                    if pinged.is_some() {
                        return Leave::Died("did not answer a ping".to_owned());
                    }
                    tokens += 1;
                    pinged = Some(tokens);
                    if let Err(error) = send(launcher, &ToLauncher::Ping { token: tokens }, &[]).await {
                        return Leave::Died(format!("takes no pings: {error}"));
                    }
                    timer.as_mut().reset(Instant::now() + timeout);
                }
                order = self.orders.recv() => match order {
                    Some(Order::Spawn(order)) => {
                        book.waiting.push_back(order);
                        // Somebody waits for it: if it is stopped, that shows soon.
                        let soon = Instant::now() + SOON;
                        if pinged.is_none() && soon < timer.deadline() {
                            timer.as_mut().reset(soon);
                        }
                    }
                    Some(Order::Retire) => retiring = true,
                    Some(Order::Exit) | None => return Leave::Ordered,
                },
            }
            if retiring && book.is_done() {
                return Leave::Ordered;
            }
            if let Err(error) = book.spawn_next(launcher).await {
                return Leave::Died(format!("takes no orders: {error}"));
            }
        }
    }

    // === End ===

    async fn end(
        &self,
        mut launcher: LauncherProcess,
        leave: Leave,
        uptime: Duration,
    ) -> LauncherEnd {
        let source = source(&self.shared, &self.name);
        if matches!(leave, Leave::Ordered) && send(&launcher, &ToLauncher::Exit, &[]).await.is_ok()
        {
            launcher.leaves_within(LEAVE, source).await;
        }
        let pid = launcher.pid();
        let (exit, stderr) = launcher.finish(source).await;
        match leave {
            Leave::Ordered => LauncherEnd::Left,
            Leave::Died(what) => LauncherEnd::Died {
                uptime,
                message: format!(
                    "{} (pid {pid}) {what}; it {exit}; stderr: {}",
                    self.name,
                    stderr.trim_end()
                ),
            },
        }
    }
}

/// The news of a launcher's end; also if its task panics, as it does in a subscriber of `tracing` that panics.
struct LastWord {
    actor: ActorRef<LauncherMsg>,
    generation: u64,
    end: LauncherEnd,
}

impl Drop for LastWord {
    fn drop(&mut self) {
        let Self { generation, end, .. } = self;
        let ended = LauncherMsg::Ended { generation: *generation, end: end.clone() };
        let _ = self.actor.send_message(ended);
    }
}

/// Sends what the socket has room for; a launcher that leaves it full does not work.
async fn send(
    launcher: &LauncherProcess,
    message: &ToLauncher<'_>,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    tokio::time::timeout(LEAVE, launcher.send(message, fds)).await?
}

fn system(error: io::Error) -> StartError {
    StartError::System(error.to_string())
}

fn broke_protocol(message: String) -> StartError {
    StartError::Protocol { what: "the launcher".to_owned(), message }
}

fn source<'a>(shared: &'a Shared, name: &'a str) -> Source<'a> {
    Source { pool: &shared.config.name, worker: name, request: 0 }
}

impl Book {
    /// Whether nobody waits for a spawn or an exit.
    fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.under_way.is_empty() && self.exits.is_empty()
    }

    /// Passes on as many spawn orders as may be under way.
    async fn spawn_next(&mut self, launcher: &LauncherProcess) -> io::Result<()> {
        while self.under_way.len() < UNDER_WAY
            && let Some(order) = self.waiting.pop_front()
        {
            let SpawnOrder { slot, epoch, worker, ends, cgroup, reply } = order;
            if reply.is_closed() {
                continue;
            }
            self.next_token += 1;
            let token = self.next_token;
            let message = ToLauncher::Spawn { token, slot, epoch, worker: &worker };
            send(launcher, &message, &ends.as_fds()).await?;
            self.under_way.insert(token, (reply, cgroup));
        }
        Ok(())
    }

    fn hear(&mut self, message: FromLauncher, fd: Option<OwnedFd>) -> Result<(), String> {
        match message {
            FromLauncher::Spawned { token, pid } => {
                let Some((reply, cgroup)) = self.under_way.remove(&token) else {
                    return Err(format!("spawned what nobody ordered (token {token})"));
                };
                let Some(pidfd) = fd else {
                    // No room for it here. The worker ends when it finds its port closed.
                    let error = format!("no descriptor is left for the process {pid}");
                    let _ = reply.send(Err(StartError::System(error)));
                    return Ok(());
                };
                let (told, reports) = oneshot::channel();
                self.exits.insert(pid, told);
                let child = Child::new(Process::new(pid, pidfd), cgroup, reports).map_err(system);
                // A port that is gone: the child is dropped with the answer, and that kills it.
                let _ = reply.send(child);
            }
            FromLauncher::SpawnFailed { token, message } => {
                if let Some((reply, _)) = self.under_way.remove(&token) {
                    let _ = reply.send(Err(StartError::System(message)));
                }
            }
            FromLauncher::Exited { pid, code, signal } => {
                let exit = match (code, signal) {
                    (Some(code), _) => Exit::Code(code),
                    (None, Some(signal)) => Exit::Signal(signal),
                    (None, None) => Exit::Unknown,
                };
                if let Some(told) = self.exits.remove(&pid) {
                    let _ = told.send(exit);
                }
            }
            FromLauncher::Pong { .. } => {}
            other @ (FromLauncher::Ready { .. } | FromLauncher::Failed { .. }) => {
                return Err(format!("said {other:?} twice"));
            }
        }
        Ok(())
    }
}
