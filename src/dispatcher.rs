//! The pool's queue, and the ways to its workers: what gives requests to workers, as the scheduler decides.
//!
//! A dispatcher belongs to one incarnation of the pool's actor, and is closed with it. Callers and ports reach it under
//! a lock and not through the actor's mailbox: a worker that has ended a call gets its next one in the same instant,
//! instead of idling until the actor, whose thread may not be running, has had its turn (`ARCHITECTURE.md`, A request's
//! way). Nothing waits while it holds the lock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::error::SendError;

use crate::board::{Board, Link};
use crate::error::{Error, StartError};
use crate::port::Command;
use crate::request::{Request, Why};
use crate::scheduler::{Assignment, Kept, Place, Removed, Scheduler};
use crate::stats::WorkerState;

#[derive(Debug)]
pub(crate) struct Dispatcher(Mutex<Option<Open>>);

#[derive(Debug)]
struct Open {
    scheduler: Scheduler<Box<Request>>,
    /// The way to each slot's worker, with its epoch.
    links: Vec<Option<(u64, Link)>>,
    /// When the pool actor's timer fires.
    timer: Option<Instant>,
    /// Nothing is queued any more.
    aborted: bool,
}

/// What became of a submitted request.
#[derive(Debug)]
pub(crate) enum Submitted {
    /// It is with a worker, or queued, or answered already.
    Done,
    /// Likewise, and the timer has to fire earlier than it would.
    Hurry,
    /// The dispatcher is closed.
    Closed(Box<Request>),
}

impl Dispatcher {
    /// It knows all slots that have ever been: news comes before it has read the board, also of one that is being retired.
    pub(crate) fn new(board: &Board) -> Self {
        let mut scheduler = Scheduler::new(board.active(), board.concurrency());
        let known = board.known();
        scheduler.know(known);
        Self(Mutex::new(Some(Open {
            scheduler,
            links: vec![None; known],
            timer: None,
            aborted: false,
        })))
    }

    /// Drops what is queued, which answers its callers; nothing is accepted any more.
    pub(crate) fn close(&self) {
        let open = self.lock().take();
        drop(open);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open<T>(&self, act: impl FnOnce(&mut Open) -> T) -> Option<T> {
        self.lock().as_mut().map(act)
    }

    // === From callers ===

    pub(crate) fn submit(&self, board: &Board, request: Box<Request>) -> Submitted {
        let mut guard = self.lock();
        let Some(open) = guard.as_mut() else {
            return Submitted::Closed(request);
        };
        let now = Instant::now();
        let Some(request) = open.accept(board, request, now) else {
            return Submitted::Done;
        };
        let (id, deadline, wish) = (request.ticket.id, request.ticket.deadline, request.wish);
        let assigned = open.scheduler.submit(id, deadline, wish, now, request);
        let submitted = open.submitted();
        let Some(assigned) = assigned else {
            board.tell_call_waits();
            return submitted;
        };
        let (link, run) = open.assign(assigned, now);
        // To wake a worker's task may take a system call, which nobody else should wait for. Nothing that concerns this
        // request can overtake it on its way but its expiry, which the port looks after: only its caller could abandon
        // it, and that is who is here.
        drop(guard);
        match link {
            Some(link) => match link.send(run) {
                Ok(()) => submitted,
                Err(SendError(run)) => self.unsent(board, run, submitted),
            },
            None => self.unsent(board, run, submitted),
        }
    }

    /// The worker that a request was given to is gone; the news is on its way.
    fn unsent(&self, board: &Board, run: Command, submitted: Submitted) -> Submitted {
        let Command::Run(mut request) = run else {
            return submitted;
        };
        request.ticket.unassign(WorkerState::Stopping);
        self.resubmit(board, request)
    }

    /// A request that certainly did not start comes back from its worker; it is the next to run.
    pub(crate) fn resubmit(&self, board: &Board, request: Box<Request>) -> Submitted {
        let mut guard = self.lock();
        let Some(open) = guard.as_mut() else {
            return Submitted::Closed(request);
        };
        let now = Instant::now();
        let Some(request) = open.accept(board, request, now) else {
            return Submitted::Done;
        };
        let (id, deadline, wish) = (request.ticket.id, request.ticket.deadline, request.wish);
        let assigned = open.scheduler.resubmit(id, deadline, wish, now, request);
        open.dispatch(assigned, now);
        open.submitted()
    }

    /// A request that was written ahead comes back, as what is before it takes its time; it is the next to run, and no more
    /// written ahead.
    pub(crate) fn withdraw(&self, board: &Board, request: Box<Request>) -> Submitted {
        let mut guard = self.lock();
        let Some(open) = guard.as_mut() else {
            return Submitted::Closed(request);
        };
        let now = Instant::now();
        let slot = open.scheduler.withdraw(request.ticket.id);
        if let Some(request) = open.accept(board, request, now) {
            let (id, deadline, wish) = (request.ticket.id, request.ticket.deadline, request.wish);
            let assigned = open.scheduler.resubmit(id, deadline, wish, now, request);
            open.dispatch(assigned, now);
        }
        if let Some(slot) = slot {
            open.fill(slot, now);
        }
        open.submitted()
    }

    /// A request is given up. Returns whether it is known here: one that runs may not be, before the board is read.
    pub(crate) fn cancel(&self, id: u64, why: Why) -> bool {
        let known = self.open(|open| match open.scheduler.cancel(id) {
            Some(Removed::Queued(request)) => {
                request.give_up(why, Instant::now(), String::new(), WorkerState::Down);
                true
            }
            Some(Removed::Running { slot, epoch, id }) => {
                open.tell(slot, epoch, Command::Cancel(id, why));
                true
            }
            None => false,
        });
        known.unwrap_or(false)
    }

    // === From ports and supervisors ===

    /// The worker of a slot takes calls.
    pub(crate) fn up(&self, slot: usize, epoch: u64, link: Link) {
        self.open(|open| open.up(slot, epoch, link, &[], Instant::now()));
    }

    /// A worker has ended request `id`; returns its next one.
    pub(crate) fn next(
        &self,
        slot: usize,
        epoch: u64,
        id: u64,
        now: Instant,
    ) -> Option<Box<Request>> {
        self.open(|open| {
            open.expire(now);
            let next = open.scheduler.idle(slot, epoch, id, now);
            let Assignment { mut request, ahead, .. } = open.allowed(next, now)?;
            request.assign(slot, epoch, ahead, now);
            if open.scheduler.takes_more(slot) {
                open.fill(slot, now);
            }
            Some(request)
        })?
    }

    /// A worker takes no more calls.
    pub(crate) fn down(&self, slot: usize, epoch: u64) {
        self.open(|open| {
            let Some(link) = open.links.get_mut(slot) else { return };
            link.take_if(|(held, _)| *held == epoch);
            open.scheduler.down(slot, epoch);
        });
    }

    /// A slot's worker could not be started.
    pub(crate) fn broken(&self, slot: usize, error: &Arc<StartError>) {
        self.open(|open| open.broken(slot, error));
    }

    /// Gives calls to the workers of those slots only that are in use: see [`Board::plan`]. The calls of a slot that is
    /// not any more are answered, or go to the slot that their key belongs to now.
    pub(crate) fn resize(&self, board: &Board) {
        self.open(|open| open.resize(board, Instant::now()));
    }

    // === From the pool's actor ===

    /// How long the oldest call has waited that any worker may run.
    pub(crate) fn longest_wait(&self) -> Option<Duration> {
        self.open(|open| open.scheduler.oldest().map(|request| request.ticket.age()))?
    }

    /// Takes over what the board knows of the workers. Called once this dispatcher can be found, so that news is either
    /// on the board by now, or comes here.
    pub(crate) fn adopt(&self, board: &Board) {
        self.open(|open| {
            let now = Instant::now();
            open.resize(board, now);
            for (slot, view) in board.slots().into_iter().enumerate() {
                if let Some(link) = view.link {
                    open.up(slot, view.epoch, link, &view.running, now);
                } else if let Some(error) = view.broken {
                    open.broken(slot, &error);
                }
            }
        });
    }

    /// Answers what has run out of time, and returns when to ask again; whoever asks sets the timer to that.
    pub(crate) fn expire(&self) -> Option<Instant> {
        self.open(|open| {
            open.expire(Instant::now());
            open.timer = open.scheduler.next_deadline();
            open.timer
        })?
    }

    /// Gives up what is queued, and what still comes back: the pool is being shut down.
    pub(crate) fn abort(&self) {
        self.open(|open| {
            open.aborted = true;
            for request in open.scheduler.drain() {
                request.close();
            }
        });
    }
}

impl Open {
    /// Answers a request that no worker can run, because none can be started or all are leaving, or not at once, where it
    /// asks for that, or whose handler is not to be called; gives any other back.
    /// What has run out of time by `now` is out of its way.
    fn accept(
        &mut self,
        board: &Board,
        request: Box<Request>,
        now: Instant,
    ) -> Option<Box<Request>> {
        self.expire(now);
        if self.aborted {
            request.close();
            return None;
        }
        let request = self.placed(request)?;
        if let Some(error) = request.would_deadlock() {
            request.ticket.answer(Err(error), WorkerState::Down);
            return None;
        }
        let request = request.unless_circuit_open(now)?;
        let bound = request.wish.place.bound();
        let broken = match bound {
            Some(slot) => self.scheduler.is_broken(slot),
            None => self.scheduler.all_broken(),
        };
        // None if one was started just now, and the news is on its way.
        if let Some(error) = broken.then(|| board.why_broken(bound)).flatten() {
            request.ticket.answer(Err(Error::Start(error)), WorkerState::Down);
            return None;
        }
        self.admit(request, now)
    }

    /// Answers a request whose slot is not in use any more, unless it has a key, which belongs to another one now; gives
    /// any other back.
    fn placed(&self, mut request: Box<Request>) -> Option<Box<Request>> {
        let size = self.scheduler.size();
        let Some(slot) = request.wish.place.bound().filter(|&slot| self.scheduler.is_closed(slot))
        else {
            return Some(request);
        };
        if request.wish.key.is_none() {
            request.no_such_worker(slot, size);
            return None;
        }
        request.wish.settle(size);
        Some(request)
    }

    /// Answers a request that does not wait for its worker, where it would have to; gives any other back.
    fn admit(&self, request: Box<Request>, now: Instant) -> Option<Box<Request>> {
        match request.wish.place {
            Place::Now(slot) if !self.scheduler.is_free(slot, request.wish, now) => {
                request.refuse(slot);
                None
            }
            _ => Some(request),
        }
    }

    /// Whether the timer is early enough for the earliest deadline.
    fn submitted(&self) -> Submitted {
        match (self.timer, self.scheduler.next_deadline()) {
            (Some(timer), Some(next)) if timer <= next => Submitted::Done,
            (_, None) => Submitted::Done,
            (_, Some(_)) => Submitted::Hurry,
        }
    }

    /// Counts a request as a worker's, and says how to send it there.
    fn assign(
        &self,
        Assignment { slot, epoch, ahead, mut request }: Assignment<Box<Request>>,
        now: Instant,
    ) -> (Option<Link>, Command) {
        request.assign(slot, epoch, ahead, now);
        let link = self.links[slot].as_ref().filter(|(held, _)| *held == epoch);
        (link.map(|(_, link)| link.clone()), Command::Run(request))
    }

    /// The assignment, or the worker's next one, that runs a handler which is to be called: circuits may have opened while
    /// its calls waited.
    fn allowed(
        &mut self,
        mut next: Option<Assignment<Box<Request>>>,
        now: Instant,
    ) -> Option<Assignment<Box<Request>>> {
        loop {
            let Assignment { slot, epoch, ahead, request } = next?;
            let id = request.ticket.id;
            if let Some(request) = request.unless_circuit_open(now) {
                return Some(Assignment { slot, epoch, ahead, request });
            }
            next = self.scheduler.idle(slot, epoch, id, now);
        }
    }

    /// Gives the slot's worker as many requests as it takes.
    fn fill(&mut self, slot: usize, now: Instant) {
        while let Some(next) = self.scheduler.fill(slot, now) {
            self.dispatch(Some(next), now);
        }
    }

    fn dispatch(&mut self, mut next: Option<Assignment<Box<Request>>>, now: Instant) {
        while let Some(assigned) = self.allowed(next.take(), now) {
            let (slot, epoch) = (assigned.slot, assigned.epoch);
            let gathers = assigned.request.wish.batch.is_some();
            let (link, run) = self.assign(assigned, now);
            let unsent = match link {
                Some(link) => link.send(run).err(),
                None => Some(SendError(run)),
            };
            if let Some(SendError(Command::Run(mut request))) = unsent {
                // The worker is gone; the news is on its way.
                request.ticket.unassign(WorkerState::Stopping);
                self.scheduler.down(slot, epoch);
                let Some(request) = self.placed(request) else { return };
                let Some(request) = self.admit(request, now) else { return };
                let (id, deadline) = (request.ticket.id, request.ticket.deadline);
                next = self.scheduler.resubmit(id, deadline, request.wish, now, request);
            } else if gathers {
                // It may be the first of a batch that others have waited for.
                next = self.scheduler.fill(slot, now);
            }
        }
    }

    fn up(&mut self, slot: usize, epoch: u64, link: Link, running: &[Kept], now: Instant) {
        // The board knows more than this one, which is about to read it; or the worker is to leave.
        if slot >= self.links.len() || (self.scheduler.is_closed(slot) && running.is_empty()) {
            return;
        }
        if self.links[slot].as_ref().is_some_and(|(held, _)| *held >= epoch) {
            return;
        }
        self.links[slot] = Some((epoch, link));
        self.scheduler.up(slot, epoch, running);
        self.fill(slot, now);
    }

    fn resize(&mut self, board: &Board, now: Instant) {
        let known = board.known();
        self.links.resize(self.links.len().max(known), None);
        self.scheduler.know(known);
        let before = self.scheduler.size();
        let returned = self.scheduler.resize(board.active());
        // A worker that was to leave may have a seat again.
        for slot in before..self.scheduler.size() {
            self.fill(slot, now);
        }
        for request in returned {
            let Some(request) = self.placed(request) else { continue };
            let (id, deadline, wish) = (request.ticket.id, request.ticket.deadline, request.wish);
            let assigned = self.scheduler.submit(id, deadline, wish, now, request);
            self.dispatch(assigned, now);
        }
        // Those who wait for a call may hold all that is left.
        for request in self.scheduler.take_where(|request| request.would_deadlock().is_some()) {
            if let Some(error) = request.would_deadlock() {
                request.ticket.answer(Err(error), WorkerState::Down);
            }
        }
        // Those that could be started may be gone.
        if self.scheduler.all_broken()
            && let Some(error) = board.why_broken(None)
        {
            for request in self.scheduler.drain() {
                request.ticket.answer(Err(Error::Start(Arc::clone(&error))), WorkerState::Down);
            }
        }
    }

    fn broken(&mut self, slot: usize, error: &Arc<StartError>) {
        if slot >= self.links.len() {
            return;
        }
        for request in self.scheduler.broken(slot) {
            let error = Error::Start(Arc::clone(error));
            request.ticket.answer(Err(error), WorkerState::Down);
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some(removed) = self.scheduler.expire(now) {
            match removed {
                Removed::Queued(request) => request.time_out(now, WorkerState::Down),
                Removed::Running { slot, epoch, id } => {
                    self.tell(slot, epoch, Command::Cancel(id, Why::Expired));
                }
            }
        }
    }

    fn tell(&self, slot: usize, epoch: u64, command: Command) {
        // A worker that is gone has ended its request, or gives it back.
        if let Some((_, link)) = self.links[slot].as_ref().filter(|(held, _)| *held == epoch) {
            let _ = link.send(command);
        }
    }
}

#[cfg(test)]
mod tests;
