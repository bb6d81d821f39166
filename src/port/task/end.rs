//! The end of a port: its process is seen to its end, and what it held is answered or given back.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{
    CLOSED_GRACE, Command, Leave, Live, PortEnd, PortTask, REPORT, Successor, TERM_GRACE,
    UNSTARTED, source,
};
use crate::actors::worker::WorkerMsg;
use crate::error::{Ended, Error, Exit, WorkerDeath};
use crate::port::Event;
use crate::port::answer::answer;
use crate::port::process::LauncherGone;
use crate::request::Request;
use crate::stats::WorkerState;
use crate::sys::Signal;
use crate::wire::{Frame, FrameBuilder, Kind};

/// A call that has run out of time waits at least this long for the news of its worker's exit.
const LEAST_REPORT: Duration = Duration::from_millis(20);

impl PortTask {
    pub(super) async fn end(&mut self, mut live: Live, leave: Leave) -> PortEnd {
        let Self { slot, epoch, .. } = *self;
        // Before the board and the dispatcher hear of it: whoever lets this port take over too late then sees it.
        self.commands.close();
        let (unread, handed_over) = self.unread().await;
        let (leave, successor) = match leave {
            Leave::Replaced(successor) => (Leave::Recycle, Some(successor)),
            leave => (leave, live.successor.take()),
        };
        let successor = handed_over.or(successor).filter(Successor::is_there);
        // First of all: the slot is never without a worker.
        if live.draining {
            // It has been told already.
        } else if let Some(successor) = successor {
            successor.take_over(&self.shared, slot);
            let _ = self.worker.send_message(WorkerMsg::Replaced { epoch });
        } else if matches!(leave, Leave::Recycle) {
            let _ = self.worker.send_message(WorkerMsg::Leaving { epoch });
        }
        self.shared.board.stopping(slot, epoch);
        self.shared.dispatcher(|dispatcher| dispatcher.down(slot, epoch));
        // Calls that were sent here go to another worker.
        unread.into_iter().for_each(|request| self.give_back(request));
        let busy = !live.calls.is_empty();
        let mut leave = leave;
        let mut turns = Vec::new();
        if matches!(leave, Leave::Kill(Ended::Protocol(_))) {
            live.port.distrust();
        }
        // Why those that had their time are ended.
        let collateral = live.calls.collateral(Instant::now(), live.port.holder());
        let collateral = collateral.filter(|_| matches!(leave, Leave::Kill(_)));
        for cancelling in &mut std::mem::take(live.calls.all_cancelling()) {
            cancelling.answer(live.port.take_dump());
            turns.extend(cancelling.take_turn());
            // A handler that was given its time has no more of it because the pool ends.
            if let Leave::Exit { grace } = &mut leave {
                *grace = cancelling.left().min(*grace);
            }
        }
        let (exit, mut ended) = self.exit(&mut live, leave).await;
        drop(turns);
        // Whoever hears of the end finds that what was called for it has ended, or is about to.
        live.desk.close();
        if matches!(ended, Ended::Itself | Ended::ClosedPort | Ended::Launcher)
            && let Some((resident, limit)) = self.over_limit(&live)
        {
            ended = Ended::Memory { resident, limit };
        }
        for frame in live.port.drain(self.source(live.calls.only())) {
            if !self.last_frame(&mut live, &frame) {
                break;
            }
        }
        let mut message = format!("worker {} (pid {}) {exit}{ended}", self.name, live.child.pid());
        let died = collateral.unwrap_or_else(|| ended.clone());
        for told in self.lose(&mut live, exit, &died) {
            message = told;
        }
        let uptime = self.shared.board.down(slot, epoch, Some(message.clone()));
        match ended {
            Ended::Itself
            | Ended::ClosedPort
            | Ended::Protocol(_)
            | Ended::Unhealthy
            | Ended::Suspended => PortEnd::Died { uptime: uptime.unwrap_or_default(), message },
            // No call is to blame, and its replacement would do the same.
            Ended::Memory { .. } if !busy => {
                PortEnd::Died { uptime: uptime.unwrap_or_default(), message }
            }
            _ => PortEnd::Intended,
        }
    }

    /// An answer that was written before the end is an answer. Whether what comes after this may be one.
    fn last_frame(&self, live: &mut Live, frame: &Frame) -> bool {
        match frame.kind {
            Kind::Log => self.log(frame),
            Kind::Item | Kind::Progress => {
                let taken = self.take_beside(live, frame);
                if let Err(error) = taken {
                    tracing::warn!(worker = self.name, %error, "in a worker's last words");
                    return false;
                }
            }
            Kind::Result | Kind::Error => {
                if frame.name() == UNSTARTED {
                    self.passed_at_last(live, frame.id);
                    return true;
                }
                if let Some(request) = live.calls.take_answered(frame.id) {
                    match answer(&request, frame.kind, frame) {
                        Ok(answer) => request.ticket.answer(answer, WorkerState::Stopping),
                        Err(_) => {
                            live.calls.begin(request);
                            return false;
                        }
                    }
                }
            }
            _ => {}
        }
        true
    }

    /// What was sent here and not read: calls, and who is to take over.
    async fn unread(&mut self) -> (Vec<Box<Request>>, Option<Successor>) {
        let (mut requests, mut successor) = (Vec::new(), None);
        // Not `try_recv`, which would miss one that is just being sent.
        while let Some(command) = self.commands.recv().await {
            match command {
                Command::Run(request) => requests.push(request),
                Command::HandOver(handed_over) => successor = Some(handed_over),
                _ => {}
            }
        }
        (requests, successor)
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
                self.ask_to_leave(live, grace).await;
                Ended::Shutdown
            }
            Leave::Recycle | Leave::Replaced(_) => {
                self.ask_to_leave(live, TERM_GRACE).await;
                Ended::Recycled
            }
        };
        let left = live.calls.deadline().map(|at| at.saturating_duration_since(Instant::now()));
        let patience = left.map_or(REPORT, |left| left.clamp(LEAST_REPORT, REPORT));
        match live.child.exit(patience).await {
            Ok(exit) => (exit, ended),
            Err(LauncherGone) if ended == Ended::Itself => (Exit::Unknown, Ended::Launcher),
            Err(LauncherGone) => (Exit::Unknown, ended),
        }
    }

    /// Asks the process to leave, then tells it to, then kills it.
    async fn ask_to_leave(&mut self, live: &mut Live, grace: Duration) {
        live.port.send(FrameBuilder::bare(Kind::Exit, 0).into());
        if !self.leaves_within(live, grace).await {
            live.child.signal(Signal::Term);
            if !self.leaves_within(live, TERM_GRACE).await {
                live.child.kill_group();
            }
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
                reply = live.desk.reply() => live.port.send(reply),
                event = live.port.event(source), if open => match event {
                    Event::Frame(frame) if frame.kind == Kind::Ask => {
                        open = self.ask(live, &frame).is_none();
                    }
                    Event::Frame(frame) => open = self.last_frame(live, &frame),
                    Event::Stack(..) => {}
                    Event::Closed | Event::Broken(_) => open = false,
                },
            }
        }
    }

    /// The worker died with these calls in its hands; returns what is said of it. Those that certainly did not start go to
    /// another worker.
    fn lose(&self, live: &mut Live, exit: Exit, ended: &Ended) -> Vec<String> {
        let started = live.port.started();
        let has_started = |request: &Request| {
            started.as_ref().is_none_or(|started| started.contains(&request.ticket.id))
        };
        let with = |request: Box<Request>| (has_started(&request), request);
        let mut lost: Vec<_> = live.calls.take_all_running().into_iter().map(with).collect();
        let ahead: Vec<_> = live.calls.ahead.take_all().collect();
        // Python comes to them in order, and its place holds the last.
        let begun = ahead.iter().rposition(|request| has_started(request));
        // Each that comes back is the next to run: so the first comes last.
        for (at, mut request) in ahead.into_iter().enumerate().rev() {
            if begun.is_some_and(|last| at <= last) {
                request.begin(Instant::now());
                lost.push((true, request));
            } else {
                self.give_back_queued(request);
            }
        }
        if lost.is_empty() {
            return Vec::new();
        }
        let last = (live.port.stderr_tail(), live.port.take_dump());
        let lose = |(started, request): (bool, Box<Request>)| {
            let death = self.death(&request, exit, ended.clone(), started, last.clone());
            let message = death.to_string();
            if started || matches!(ended, Ended::Shutdown) {
                request.ticket.answer(Err(death), WorkerState::Stopping);
            } else {
                self.give_back_or(request, death);
            }
            message
        };
        lost.into_iter().map(lose).collect()
    }

    pub(super) fn give_back(&self, request: Box<Request>) {
        let death = self.death(&request, Exit::Unknown, Ended::Stopped, false, Default::default());
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

    /// What the caller of a call is told; with its last words on stderr, and its last Python stack.
    fn death(
        &self,
        request: &Request,
        exit: Exit,
        ended: Ended,
        started: bool,
        (stderr, python_stack): (String, String),
    ) -> Error {
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
}
