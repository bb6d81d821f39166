//! The life of a port, in a task of its own: start, serve, end.
//!
//! The task owns the process. It outlives the worker actor if need be, so that a process is ended and reaped
//! whatever happens to actors; when the actor is gone it ends the process.

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ractor::ActorRef;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};

use super::output::{self, Source};
use super::process::{Child, LauncherGone};
use super::{Event, Port};
use crate::actors::launcher::{LauncherMsg, SpawnOrder};
use crate::actors::worker::WorkerMsg;
use crate::board::Link;
use crate::error::{Ended, Error, Exit, PythonException, StartError, WorkerDeath};
use crate::request::{Answer, Request};
use crate::shared::Shared;
use crate::stats::WorkerState;
use crate::sys::Signal;
use crate::wire::{self, FLAG_RECYCLE, Frame, FrameBuilder, Kind, ProtocolError};

/// A worker that has closed its port has this long to end by itself, before it is killed.
const CLOSED_GRACE: Duration = Duration::from_millis(200);

/// Longer than any call has.
const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// A launcher that has not told of an exit after this time is not waited for; nor is it by a call that has run out of
/// time, but for the least.
const REPORT: Duration = Duration::from_secs(1);
const LEAST_REPORT: Duration = Duration::from_millis(20);

/// From TERM to KILL.
const TERM_GRACE: Duration = Duration::from_secs(1);

/// What a port is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// Run this; sent only to an idle worker.
    Run(Box<Request>),
    /// The caller of this request went away.
    Abandon(u64),
    /// This request's time ran out.
    Expire(u64),
    /// Ping the worker, if it is idle, with this token.
    Ping(u64),
    /// Let the worker leave in order: ask, then TERM after the grace, then KILL.
    Exit { grace: Duration },
    /// End the worker now.
    Kill(Ended),
}

/// How a worker's process ended, for its supervisor.
#[derive(Clone, Debug)]
pub(crate) enum PortEnd {
    /// It never became ready.
    StartFailed(Arc<StartError>),
    /// Snakepen ended it on purpose; no fault of the worker's.
    Intended,
    /// It died, so long after it had become ready.
    Died { uptime: Duration, message: String },
}

/// Who a port is, and whom it tells.
#[derive(Debug)]
pub(crate) struct PortTask {
    pub(crate) shared: Arc<Shared>,
    pub(crate) slot: usize,
    pub(crate) epoch: u64,
    pub(crate) name: String,
    /// The process; 0 until there is one.
    pub(crate) pid: i32,
    pub(crate) link: Link,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    /// Resolves when the worker actor is gone.
    pub(crate) actor_gone: oneshot::Receiver<Infallible>,
    pub(crate) worker: ActorRef<WorkerMsg>,
    pub(crate) launcher: ActorRef<LauncherMsg>,
}

/// Why serving ended.
#[derive(Debug)]
enum Leave {
    /// The process ended, or its launcher.
    Died,
    /// The port is closed, between frames or within one: by the end of the process, else for this reason.
    Closed(Ended),
    Kill(Ended),
    Exit {
        grace: Duration,
    },
}

/// A started port.
struct Live {
    port: Port,
    child: Child,
    current: Option<Box<Request>>,
}

impl Live {
    /// When the call that is running runs out of time.
    fn deadline(&self) -> Option<tokio::time::Instant> {
        self.current.as_ref().map(|request| request.ticket.deadline.into())
    }
}

impl PortTask {
    pub(crate) async fn run(mut self) {
        let end = match self.start().await {
            Ok(mut live) => {
                self.announce();
                let leave = self.serve(&mut live).await;
                self.end(live, leave).await
            }
            Err(error) => {
                let error = Arc::new(error);
                self.shared.board.stopping(self.slot, self.epoch);
                self.shared.board.down(self.slot, self.epoch, Some(error.to_string()));
                PortEnd::StartFailed(error)
            }
        };
        // An actor that is gone needs no news; its supervisor has them from its end.
        let _ = self.worker.send_message(WorkerMsg::Ended(end));
    }

    // === Start ===

    async fn start(&mut self) -> Result<Live, StartError> {
        let system = |error: std::io::Error| StartError::System(error.to_string());
        let (port, ends) = Port::open(self.shared.config.limits.max_frame).map_err(system)?;
        let (reply, spawned) = oneshot::channel();
        let order = SpawnOrder {
            slot: self.slot,
            epoch: self.epoch,
            worker: self.name.clone(),
            ends,
            reply,
        };
        let name = self.name.clone();
        let no_launcher = || StartError::Stopped { what: name.clone() };
        self.launcher.send_message(LauncherMsg::Spawn(order)).map_err(|_| no_launcher())?;
        let child = tokio::select! {
            () = told_to_stop(&mut self.actor_gone, &mut self.commands) => return Err(no_launcher()),
            spawned = spawned => spawned.map_err(|_| no_launcher())??,
        };
        self.pid = child.pid();
        self.shared.board.spawned(self.slot, self.epoch, self.pid);
        let mut live = Live { port, child, current: None };
        let timeout = self.shared.config.limits.startup_timeout;
        let ready = tokio::time::timeout(timeout, self.ready(&mut live)).await;
        let error = match ready {
            Ok(Ok(())) => return Ok(live),
            Ok(Err(error)) => error,
            Err(_) => StartError::Timeout {
                what: format!("worker {} (loading its handlers)", self.name),
                timeout,
            },
        };
        live.child.kill_group();
        let _ = live.child.exit(REPORT).await;
        live.port.drain(self.source(0));
        Err(error)
    }

    /// Waits until the worker has said READY.
    async fn ready(&mut self, live: &mut Live) -> Result<(), StartError> {
        loop {
            let source = source(&self.shared, &self.name, 0);
            let event = tokio::select! {
                biased;
                () = told_to_stop(&mut self.actor_gone, &mut self.commands) => {
                    return Err(StartError::Stopped { what: self.name.clone() });
                }
                event = live.port.event(source) => event,
                () = poll_fn(|cx| live.child.poll_ended(cx)) => Event::Closed,
            };
            match event {
                Event::Frame(frame) => {
                    if self.starting_frame(&frame)? {
                        return Ok(());
                    }
                }
                Event::Closed => return Err(self.ended_before_ready(live).await),
                Event::Broken(error) => return Err(self.broke_protocol(&error)),
            }
        }
    }

    /// Whether the frame says that the worker is ready.
    fn starting_frame(&self, frame: &Frame) -> Result<bool, StartError> {
        match frame.kind {
            Kind::Ready if frame.arg == wire::VERSION => Ok(true),
            Kind::Ready => Err(self.broke_protocol(&ProtocolError::Version {
                found: frame.arg,
                expected: wire::VERSION,
            })),
            Kind::Failed => Err(match serde_json::from_slice::<PythonException>(&frame.json) {
                Ok(exception) => StartError::Python {
                    stage: frame.name().to_owned(),
                    exception: Box::new(exception),
                },
                Err(error) => self.broke_protocol(&ProtocolError::Unexpected(error.to_string())),
            }),
            Kind::Log => {
                self.log(frame);
                Ok(false)
            }
            kind => Err(self.broke_protocol(&unexpected(kind, frame.id))),
        }
    }

    async fn ended_before_ready(&self, live: &mut Live) -> StartError {
        if tokio::time::timeout(CLOSED_GRACE, poll_fn(|cx| live.child.poll_ended(cx)))
            .await
            .is_err()
        {
            live.child.kill_group();
        }
        let exit = live.child.exit(REPORT).await.unwrap_or(Exit::Unknown);
        for frame in live.port.drain(self.source(0)) {
            if let Err(error) = self.starting_frame(&frame) {
                return error;
            }
        }
        StartError::Exited {
            what: format!("worker {}", self.name),
            exit,
            stderr: live.port.stderr_tail(),
        }
    }

    fn broke_protocol(&self, error: &ProtocolError) -> StartError {
        StartError::Protocol { what: format!("worker {}", self.name), message: error.to_string() }
    }

    /// The worker takes calls from now on. The board first: a pool actor that starts just now reads it there.
    fn announce(&self) {
        let Self { slot, epoch, ref link, .. } = *self;
        if self.shared.board.ready(slot, epoch, link.clone()) {
            self.shared.startup_ready();
        }
        self.shared.dispatcher(|dispatcher| dispatcher.up(slot, epoch, link.clone()));
        let _ = self.worker.send_message(WorkerMsg::Ready);
    }

    // === Serve ===

    async fn serve(&mut self, live: &mut Live) -> Leave {
        // The pool's timer ends what runs out of time; this one does so where the pool's actor is being restarted. It is
        // only ever moved forward, and fires for nothing where its call has ended: no call pays for setting it.
        let alarm = tokio::time::sleep(NEVER);
        tokio::pin!(alarm);
        loop {
            if let Some(deadline) = live.deadline()
                && deadline < alarm.deadline()
            {
                alarm.as_mut().reset(deadline);
            }
            let running = live.current.as_ref().map_or(0, |request| request.ticket.id);
            let source = source(&self.shared, &self.name, running);
            let event = tokio::select! {
                biased;
                _ = &mut self.actor_gone => return Leave::Kill(Ended::Stopped),
                command = self.commands.recv() => {
                    // The task itself holds a sender, so the channel never ends.
                    let Some(command) = command else { return Leave::Kill(Ended::Stopped) };
                    match self.command(live, command) {
                        Some(leave) => return leave,
                        None => continue,
                    }
                }
                () = &mut alarm => {
                    let now = tokio::time::Instant::now();
                    if live.deadline().is_some_and(|deadline| deadline <= now)
                        && let Some(request) = live.current.take()
                    {
                        request.time_out(now.into_std(), WorkerState::Stopping);
                        return Leave::Kill(Ended::TimedOut);
                    }
                    alarm.as_mut().reset(live.deadline().unwrap_or(now + NEVER));
                    continue;
                }
                event = live.port.event(source) => event,
                () = poll_fn(|cx| live.child.poll_ended(cx)) => return Leave::Died,
            };
            let leave = match event {
                Event::Frame(frame) => self.frame(live, frame),
                Event::Closed => Some(Leave::Closed(Ended::ClosedPort)),
                Event::Broken(error @ ProtocolError::Truncated { .. }) => {
                    Some(Leave::Closed(Ended::Protocol(error.to_string())))
                }
                Event::Broken(error) => Some(Leave::Kill(Ended::Protocol(error.to_string()))),
            };
            if let Some(leave) = leave {
                return leave;
            }
        }
    }

    fn command(&self, live: &mut Live, command: Command) -> Option<Leave> {
        let holds = |id| live.current.as_ref().is_some_and(|request| request.ticket.id == id);
        match command {
            Command::Run(request) => self.begin(live, request),
            Command::Abandon(id) if holds(id) => {
                let request = live.current.take()?;
                request.ticket.abandon(WorkerState::Stopping);
                return Some(Leave::Kill(Ended::Abandoned));
            }
            Command::Expire(id) if holds(id) => {
                let request = live.current.take()?;
                request.time_out(Instant::now(), WorkerState::Stopping);
                return Some(Leave::Kill(Ended::TimedOut));
            }
            // The request has ended meanwhile.
            Command::Abandon(_) | Command::Expire(_) => {}
            Command::Ping(token) if live.current.is_none() => {
                live.port.send(FrameBuilder::bare(Kind::Ping, token).into());
            }
            // It is busy, and not to be judged by a ping.
            Command::Ping(token) => {
                let _ = self.worker.send_message(WorkerMsg::Pong(token));
            }
            Command::Exit { grace } => return Some(Leave::Exit { grace }),
            Command::Kill(reason) => return Some(Leave::Kill(reason)),
        }
        None
    }

    /// Writes a request; one that nobody waits for any more is passed over for the next.
    fn begin(&self, live: &mut Live, request: Box<Request>) {
        let mut next = Some(request);
        while let Some(mut request) = next.take() {
            let id = request.ticket.id;
            let now = Instant::now();
            if live.current.is_some() {
                self.give_back(request);
            } else if request.ticket.is_abandoned() {
                request.ticket.abandon(WorkerState::Idle);
                next = self.next(id);
            } else if request.ticket.deadline <= now {
                request.ticket.unassign(WorkerState::Idle);
                request.time_out(now, WorkerState::Idle);
                next = self.next(id);
            } else {
                live.port.send(request.frame());
                live.current = Some(request);
            }
        }
    }

    /// Request `id` has ended, and the board knows; what is there to run next? Without a dispatcher, nothing: the next
    /// one reads on the board that this worker is idle.
    fn next(&self, id: u64) -> Option<Box<Request>> {
        let Self { slot, epoch, .. } = *self;
        self.shared.dispatcher(|dispatcher| dispatcher.next(slot, epoch, id))?
    }

    fn frame(&self, live: &mut Live, frame: Frame) -> Option<Leave> {
        match frame.kind {
            Kind::Result | Kind::Error => {
                let answers = |request: &mut Box<Request>| request.ticket.id == frame.id;
                match live.current.take_if(answers) {
                    Some(request) => self.finish(live, request, &frame),
                    None => Some(Leave::Kill(Ended::Protocol(
                        unexpected(frame.kind, frame.id).to_string(),
                    ))),
                }
            }
            Kind::Pong => {
                let _ = self.worker.send_message(WorkerMsg::Pong(frame.id));
                None
            }
            Kind::Log => {
                self.log(&frame);
                None
            }
            kind => Some(Leave::Kill(Ended::Protocol(unexpected(kind, frame.id).to_string()))),
        }
    }

    /// A call has its answer. It is counted, then Python gets its next call, then the caller its answer: whoever has an
    /// answer finds it counted.
    fn finish(&self, live: &mut Live, request: Box<Request>, frame: &Frame) -> Option<Leave> {
        let id = request.ticket.id;
        let answer = match answer(&request, frame.kind, frame) {
            Ok(answer) => answer,
            Err(error) => {
                live.current = Some(request);
                return Some(Leave::Kill(Ended::Protocol(error.to_string())));
            }
        };
        if frame.flags & FLAG_RECYCLE != 0 {
            self.shared.board.stopping(self.slot, self.epoch);
            request.ticket.answer(answer, WorkerState::Stopping);
            return Some(Leave::Exit { grace: TERM_GRACE });
        }
        let settled = request.ticket.settle(answer, WorkerState::Idle);
        if let Some(next) = self.next(id) {
            self.begin(live, next);
        }
        settled.send();
        None
    }

    fn log(&self, frame: &Frame) {
        match serde_json::from_slice::<String>(&frame.json) {
            Ok(message) => output::log(self.source(frame.id), frame.arg, frame.name(), &message),
            Err(error) => tracing::warn!(worker = self.name, %error, "unreadable log record"),
        }
    }

    // === End ===

    async fn end(&mut self, mut live: Live, leave: Leave) -> PortEnd {
        let Self { slot, epoch, .. } = *self;
        self.shared.board.stopping(slot, epoch);
        self.shared.dispatcher(|dispatcher| dispatcher.down(slot, epoch));
        self.return_unread().await;
        let (exit, ended) = self.exit(&mut live, leave).await;
        let running = live.current.as_ref().map_or(0, |request| request.ticket.id);
        for frame in live.port.drain(self.source(running)) {
            self.last_frame(&mut live, &frame);
        }
        let mut message = format!("worker {} (pid {}) {exit}{ended}", self.name, live.child.pid());
        if let Some(request) = live.current.take() {
            message = self.lose(&mut live.port, request, exit, &ended);
        }
        let uptime = self.shared.board.down(slot, epoch, Some(message.clone()));
        match ended {
            Ended::Itself | Ended::ClosedPort | Ended::Protocol(_) | Ended::Unhealthy => {
                PortEnd::Died { uptime: uptime.unwrap_or_default(), message }
            }
            _ => PortEnd::Intended,
        }
    }

    /// An answer that was written before the end is an answer.
    fn last_frame(&self, live: &mut Live, frame: &Frame) {
        match frame.kind {
            Kind::Log => self.log(frame),
            Kind::Result | Kind::Error => {
                let answers = |request: &mut Box<Request>| request.ticket.id == frame.id;
                if let Some(request) = live.current.take_if(answers) {
                    match answer(&request, frame.kind, frame) {
                        Ok(answer) => request.ticket.answer(answer, WorkerState::Stopping),
                        Err(_) => live.current = Some(request),
                    }
                }
            }
            _ => {}
        }
    }

    /// Calls that were sent here and not read go to another worker.
    async fn return_unread(&mut self) {
        self.commands.close();
        // Not `try_recv`, which would miss one that is just being sent.
        while let Some(command) = self.commands.recv().await {
            if let Command::Run(request) = command {
                self.give_back(request);
            }
        }
    }

    /// Sees the process to its end.
    async fn exit(&mut self, live: &mut Live, leave: Leave) -> (Exit, Ended) {
        let ended = match leave {
            Leave::Died => Ended::Itself,
            Leave::Kill(reason) => {
                live.child.kill_group();
                reason
            }
            Leave::Closed(reason) => {
                let gone = poll_fn(|cx| live.child.poll_ended(cx));
                if tokio::time::timeout(CLOSED_GRACE, gone).await.is_ok() {
                    Ended::Itself
                } else {
                    live.child.kill_group();
                    reason
                }
            }
            Leave::Exit { grace } => {
                live.port.send(FrameBuilder::bare(Kind::Exit, 0).into());
                if !self.leaves_within(live, grace).await {
                    live.child.signal(Signal::Term);
                    if !self.leaves_within(live, TERM_GRACE).await {
                        live.child.kill_group();
                    }
                }
                Ended::Shutdown
            }
        };
        let left =
            live.deadline().map(|deadline| deadline.duration_since(tokio::time::Instant::now()));
        let patience = left.map_or(REPORT, |left| left.clamp(LEAST_REPORT, REPORT));
        match live.child.exit(patience).await {
            Ok(exit) => (exit, ended),
            Err(LauncherGone) if ended == Ended::Itself => (Exit::Unknown, Ended::Launcher),
            Err(LauncherGone) => (Exit::Unknown, ended),
        }
    }

    /// Whether the process ends within `time`; what it prints meanwhile is read, so that it isn't held up.
    async fn leaves_within(&mut self, live: &mut Live, time: Duration) -> bool {
        let until = tokio::time::sleep(time);
        tokio::pin!(until);
        let mut open = true;
        loop {
            let source = source(&self.shared, &self.name, 0);
            tokio::select! {
                biased;
                () = poll_fn(|cx| live.child.poll_ended(cx)) => return true,
                () = &mut until => return false,
                event = live.port.event(source), if open => match event {
                    Event::Frame(frame) => self.last_frame(live, &frame),
                    Event::Closed | Event::Broken(_) => open = false,
                },
            }
        }
    }

    /// The worker died with this call in its hands. One that certainly did not start goes to another worker.
    fn lose(&self, port: &mut Port, request: Box<Request>, exit: Exit, ended: &Ended) -> String {
        let started = port.started().is_none_or(|started| started == request.ticket.id);
        let death = self.death(&request, exit, ended.clone(), Some((port, started)));
        let message = death.to_string();
        if started || matches!(ended, Ended::Shutdown) {
            request.ticket.answer(Err(death), WorkerState::Stopping);
        } else {
            self.give_back_or(request, death);
        }
        message
    }

    fn give_back(&self, request: Box<Request>) {
        let death = self.death(&request, Exit::Unknown, Ended::Stopped, None);
        self.give_back_or(request, death);
    }

    fn give_back_or(&self, mut request: Box<Request>, error: Error) {
        if !request.may_be_reassigned() {
            request.ticket.answer(Err(error), WorkerState::Stopping);
            return;
        }
        request.ticket.unassign(WorkerState::Stopping);
        self.shared.resubmit(request);
    }

    fn death(
        &self,
        request: &Request,
        exit: Exit,
        ended: Ended,
        port: Option<(&mut Port, bool)>,
    ) -> Error {
        let (stderr, python_stack, started) = match port {
            Some((port, started)) => (port.stderr_tail(), port.take_dump(), started),
            None => (String::new(), String::new(), false),
        };
        Error::WorkerDied(Arc::new(WorkerDeath {
            worker: self.name.clone(),
            pid: self.pid,
            handler: request.handler().to_owned(),
            exit,
            ended,
            started,
            stderr,
            python_stack,
        }))
    }

    fn source(&self, request: u64) -> Source<'_> {
        source(&self.shared, &self.name, request)
    }
}

/// Resolves when a port that is being started is not wanted any more.
async fn told_to_stop(
    actor_gone: &mut oneshot::Receiver<Infallible>,
    commands: &mut mpsc::UnboundedReceiver<Command>,
) {
    let stop = async {
        while let Some(command) = commands.recv().await {
            if matches!(command, Command::Exit { .. } | Command::Kill(_)) {
                return;
            }
        }
    };
    tokio::select! {
        _ = actor_gone => {}
        () = stop => {}
    }
}

/// Borrows less than [`PortTask::source`], for use beside the task's channels.
fn source<'a>(shared: &'a Shared, worker: &'a str, request: u64) -> Source<'a> {
    Source { pool: &shared.config.name, worker, request }
}

fn unexpected(kind: Kind, id: u64) -> ProtocolError {
    ProtocolError::Unexpected(format!("{kind:?} for id {id}"))
}

/// What a RESULT or an ERROR says to the caller.
fn answer(request: &Request, kind: Kind, frame: &Frame) -> Result<Answer, ProtocolError> {
    #[derive(Deserialize)]
    struct Unknown {
        name: String,
        known: Vec<String>,
    }
    #[derive(Deserialize)]
    struct Bad {
        #[serde(rename = "type")]
        type_name: String,
        path: String,
        message: String,
    }
    #[derive(Deserialize)]
    struct Arguments {
        message: String,
    }
    fn parse<'a, T: Deserialize<'a>>(frame: &'a Frame) -> Result<T, ProtocolError> {
        serde_json::from_slice(&frame.json).map_err(|error| {
            ProtocolError::Unexpected(format!("{} that says {error}", frame.name()))
        })
    }
    if !frame.buffers.is_empty() {
        return Err(ProtocolError::Unexpected("raw buffers beside an answer".to_owned()));
    }
    if kind == Kind::Result {
        return Ok(Ok(frame.json.clone()));
    }
    let handler = request.handler().to_owned();
    Ok(Err(match frame.name() {
        "exception" => Error::Python { handler, exception: Arc::new(parse(frame)?) },
        "unknown_handler" => {
            let Unknown { name, known } = parse(frame)?;
            Error::UnknownHandler { name, known }
        }
        "result" => {
            let Bad { type_name, path, message } = parse(frame)?;
            Error::BadResult { handler, type_name, path, message }
        }
        "arguments" => {
            let Arguments { message } = parse(frame)?;
            Error::Encode { handler, message }
        }
        status => return Err(ProtocolError::Unexpected(format!("error of status {status:?}"))),
    }))
}
