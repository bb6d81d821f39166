//! The life of a port, in a task of its own: start ([`start`]), serve (here), end ([`end`]).
//!
//! The task owns the process. It outlives the worker actor if need be, so that a process is ended and reaped
//! whatever happens to actors; when the actor is gone it ends the process.

mod actor;
mod ahead;
mod ask;
mod calls;
mod cancel;
mod end;
mod exchange;
mod limits;
mod line;
mod next;
mod start;

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use ractor::ActorRef;
use tokio::sync::{mpsc, oneshot};

use super::desk::Desk;
use super::output::{self, Source};
use super::process::Child;
use super::quiet::Quiet;
use super::{Event, Port};
use crate::actors::launcher::LauncherMsg;
use crate::actors::worker::WorkerMsg;
use crate::board::Link;
use crate::error::{Ended, StartError};
use crate::request::{Request, Why};
use crate::shared::Shared;
use crate::wire::{Frame, FrameBuilder, Kind, Message, ProtocolError};
use calls::Calls;
use limits::Meter;

/// A worker that has closed its port has this long to end by itself, before it is killed.
const CLOSED_GRACE: Duration = Duration::from_millis(200);

/// The status of the ERROR for a call that Python has passed over.
const UNSTARTED: &str = "unstarted";

/// Longer than any call has.
const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// A launcher that has not told of an exit after this time is not waited for.
const REPORT: Duration = Duration::from_secs(1);

/// From TERM to KILL.
const TERM_GRACE: Duration = Duration::from_secs(1);

/// What a port is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// Run this; sent only to an idle worker.
    Run(Box<Request>),
    /// This request is given up.
    Cancel(u64, Why),
    /// So many items of this request's stream were taken in all.
    Credit(u64, u64),
    /// An INPUT for this request.
    Input(u64, Message),
    /// Ping the worker, if it is idle, with this token.
    Ping(u64),
    /// Let this port take over as soon as no call is running, and leave.
    HandOver(Successor),
    /// Let the worker leave in order as soon as no call is running.
    Retire,
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

/// A port that is ready to serve its slot.
#[derive(Clone, Debug)]
pub(crate) struct Successor {
    pub(crate) epoch: u64,
    pub(crate) pid: i32,
    pub(crate) link: Link,
}

impl Successor {
    /// Whether it can take over; one that has ended since it was ready cannot.
    pub(crate) fn is_there(&self) -> bool {
        !self.link.is_closed()
    }

    /// It takes calls from now on. The board first: a pool actor that starts just now reads it there.
    pub(crate) fn take_over(self, shared: &Shared, slot: usize) {
        let Self { epoch, pid, link } = self;
        if shared.board.ready(slot, epoch, pid, link.clone()) {
            shared.startup_ready();
        }
        shared.dispatcher(|dispatcher| dispatcher.up(slot, epoch, link.clone()));
        if link.is_closed() {
            // It ended before anybody counted on it, and said so too early.
            shared.board.stopping(slot, epoch);
            shared.board.down(slot, epoch, None);
            shared.dispatcher(|dispatcher| dispatcher.down(slot, epoch));
        }
    }
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
    /// Keeps the channel of commands open.
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
    /// It is to be replaced.
    Recycle,
    /// Another port of its slot takes over.
    Replaced(Successor),
    Exit {
        grace: Duration,
    },
}

/// What a port that serves has to do next.
enum Turn {
    Leave(Leave),
    Command(Command),
    /// Something is due.
    Alarm,
    /// To what Python has asked.
    Reply(Message),
    Event(Event),
}

/// A started port.
struct Live {
    port: Port,
    child: Child,
    calls: Calls,
    /// The port that takes over as soon as no call is running.
    successor: Option<Successor>,
    /// It leaves as soon as no call is running.
    retiring: bool,
    /// It takes no more calls, its slot has another port, and it leaves as soon as no call is running.
    draining: bool,
    meter: Meter,
    /// Where Python asks.
    desk: Desk,
    /// What is asked before commands and frames: the actor, the alarm, the desk, output.
    early: Quiet,
    /// What is asked after them: the process.
    late: Quiet,
}

impl Live {
    /// When there is something to do.
    fn due(&self) -> Option<tokio::time::Instant> {
        [self.calls.due(), self.meter.due()].into_iter().flatten().min().map(Into::into)
    }
}

impl PortTask {
    pub(crate) async fn run(mut self) {
        let mut last = LastWord {
            worker: self.worker.clone(),
            epoch: self.epoch,
            end: PortEnd::Died {
                uptime: Duration::ZERO,
                message: format!("the task of worker {} panicked", self.name),
            },
        };
        last.end = match self.start().await {
            Ok(mut live) => {
                let ready = WorkerMsg::Ready { epoch: self.epoch, pid: self.pid };
                let _ = self.worker.send_message(ready);
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
    }

    async fn serve(&mut self, live: &mut Live) -> Leave {
        // The pool's timer ends what runs out of time; this one does so where the pool's actor is being restarted. It is
        // only ever moved forward, and fires for nothing where its call has ended: no call pays for setting it.
        let alarm = tokio::time::sleep(NEVER);
        tokio::pin!(alarm);
        loop {
            if let Some(due) = live.due()
                && due < alarm.deadline()
            {
                alarm.as_mut().reset(due);
                live.early.again();
            }
            let source = source(&self.shared, &self.name, live.calls.only());
            let turn = poll_fn(|cx| {
                let first = live.early.poll(cx, |cx| {
                    if Pin::new(&mut self.actor_gone).poll(cx).is_ready() {
                        return Poll::Ready(Turn::Leave(Leave::Kill(Ended::Stopped)));
                    }
                    if alarm.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(Turn::Alarm);
                    }
                    if let Poll::Ready(reply) = live.desk.poll_reply(cx) {
                        return Poll::Ready(Turn::Reply(reply));
                    }
                    live.port.poll_output(cx, source).map(Turn::Event)
                });
                if first.is_ready() {
                    return first;
                }
                if let Poll::Ready(command) = self.commands.poll_recv(cx) {
                    // The task itself holds a sender, so the channel never ends.
                    let end = Turn::Leave(Leave::Kill(Ended::Stopped));
                    return Poll::Ready(command.map_or(end, Turn::Command));
                }
                if let Poll::Ready(event) = live.port.poll_frames(cx) {
                    return Poll::Ready(Turn::Event(event));
                }
                live.late
                    .poll(cx, |cx| live.child.poll_ended(cx))
                    .map(|()| Turn::Leave(Leave::Died))
            });
            let event = match turn.await {
                Turn::Leave(leave) => return leave,
                Turn::Command(command) => {
                    let runs = matches!(command, Command::Run(_));
                    match self.command(live, command) {
                        Some(leave) => return leave,
                        None if runs => self.spin(live),
                        None => {}
                    }
                    continue;
                }
                Turn::Alarm => {
                    let now = tokio::time::Instant::now();
                    while let Some((id, why)) = live.calls.expired(now.into_std()) {
                        self.cancel(live, id, why);
                    }
                    if live.calls.ahead.due().is_some_and(|at| at <= now.into_std()) {
                        self.withdraw_all(live, now.into_std());
                    }
                    let leave = self.climb(live, now.into_std());
                    if let Some(leave) = leave.or_else(|| self.look(live, now.into_std())) {
                        return leave;
                    }
                    alarm.as_mut().reset(live.due().unwrap_or(now + NEVER));
                    continue;
                }
                Turn::Reply(reply) => {
                    live.port.send(reply);
                    continue;
                }
                Turn::Event(event) => event,
            };
            if let Event::Frame(frame) = &event {
                match frame.kind {
                    Kind::Result | Kind::Error => live.port.end_of_request(source),
                    Kind::Ask => live.early.again(),
                    _ => {}
                }
            }
            let leave = match event {
                Event::Frame(frame) => self.frame(live, frame),
                Event::Stack(id, stack) => {
                    self.stack(live, id, stack);
                    None
                }
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
        let is_free = live.calls.is_empty();
        match command {
            Command::Run(request) => self.begin(live, request, Instant::now()),
            // Nothing, if the request has ended meanwhile, or is being ended.
            Command::Cancel(id, why) => self.cancel(live, id, why),
            Command::Credit(id, taken) => self.credit(live, id, taken),
            Command::Input(id, frame) => self.input(live, id, frame),
            Command::Ping(token) if is_free => {
                live.port.send(FrameBuilder::bare(Kind::Ping, token).into());
            }
            // It is busy, and not to be judged by a ping.
            Command::Ping(token) => {
                let _ = self.worker.send_message(WorkerMsg::Pong(token));
            }
            // Its worker hears of it, and serves on.
            Command::HandOver(successor) if !successor.is_there() => {}
            Command::HandOver(successor) if is_free => return Some(Leave::Replaced(successor)),
            // With several calls there may never be a moment without one.
            Command::HandOver(successor) if self.overlaps() => {
                successor.take_over(&self.shared, self.slot);
                self.drain(live, WorkerMsg::Replaced { epoch: self.epoch });
            }
            Command::HandOver(successor) => live.successor = Some(successor),
            Command::Retire if is_free => return Some(Leave::Exit { grace: TERM_GRACE }),
            Command::Retire => live.retiring = true,
            Command::Exit { grace } => return Some(Leave::Exit { grace }),
            Command::Kill(reason) => return Some(Leave::Kill(reason)),
        }
        None
    }

    /// Whether it may never be without a call.
    fn overlaps(&self) -> bool {
        self.shared.config.limits.concurrency > 1 || self.shared.kinds.any_ahead()
    }

    /// Looks for the answer of a call that was sent to an idle worker, if the pool's user wants that. One that follows
    /// another is waited for: the task has had its turn, and others are to have theirs, the answered caller's first.
    fn spin(&self, live: &mut Live) {
        let time = self.shared.config.limits.spin;
        if time.is_zero() || live.calls.lone().is_none() {
            return;
        }
        let Live { port, early, late, .. } = live;
        port.spin(time, || early.is_woken() || late.is_woken() || !self.commands.is_empty());
    }

    /// Finishes the calls that it has, and takes no more; `news` tells its worker so.
    fn drain(&self, live: &mut Live, news: WorkerMsg) {
        live.draining = true;
        let Self { slot, epoch, .. } = *self;
        self.shared.board.draining(slot, epoch, &self.link);
        self.shared.dispatcher(|dispatcher| dispatcher.down(slot, epoch));
        let _ = self.worker.send_message(news);
    }

    fn frame(&self, live: &mut Live, frame: Frame) -> Option<Leave> {
        match frame.kind {
            Kind::Error if frame.name() == UNSTARTED => self.unstarted(live, &frame),
            Kind::Result | Kind::Error => {
                if let Some(request) = live.calls.take_answered(frame.id) {
                    self.finish(live, request, &frame)
                } else if live.calls.cancelling(frame.id).is_some() {
                    self.cancelled(live, &frame)
                } else {
                    let unexpected = unexpected(frame.kind, frame.id).to_string();
                    Some(Leave::Kill(Ended::Protocol(unexpected)))
                }
            }
            Kind::Pong => {
                if let Some(id) = self.fenced(live, frame.id) {
                    return self.proceed(live, id, Instant::now());
                }
                let _ = self.worker.send_message(WorkerMsg::Pong(frame.id));
                None
            }
            Kind::Log => {
                self.log(&frame);
                None
            }
            Kind::Ask => self.ask(live, &frame),
            Kind::Item | Kind::Progress | Kind::Want => self.beside(live, &frame),
            kind => Some(Leave::Kill(Ended::Protocol(unexpected(kind, frame.id).to_string()))),
        }
    }

    fn log(&self, frame: &Frame) {
        match serde_json::from_slice::<String>(&frame.json) {
            Ok(message) => output::log(self.source(frame.id), frame.arg, frame.name(), &message),
            Err(error) => tracing::warn!(worker = self.name, %error, "unreadable log record"),
        }
    }

    fn source(&self, request: u64) -> Source<'_> {
        source(&self.shared, &self.name, request)
    }
}

/// The news of a port's end. They come also if its task panics, as it does in a subscriber of `tracing` that panics: without
/// them the slot would wait for ever.
struct LastWord {
    worker: ActorRef<WorkerMsg>,
    epoch: u64,
    end: PortEnd,
}

impl Drop for LastWord {
    fn drop(&mut self) {
        let Self { epoch, end, .. } = self;
        // An actor that is gone needs no news; its supervisor has them from its end.
        let _ = self.worker.send_message(WorkerMsg::Ended { epoch: *epoch, end: end.clone() });
    }
}

/// Borrows less than [`PortTask::source`], for use beside the task's channels.
fn source<'a>(shared: &'a Shared, worker: &'a str, request: u64) -> Source<'a> {
    Source { pool: &shared.config.name, worker, request }
}

fn unexpected(kind: Kind, id: u64) -> ProtocolError {
    ProtocolError::Unexpected(format!("{kind:?} for id {id}"))
}
