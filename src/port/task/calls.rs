//! The calls that a port holds: one, or as many as the pool's concurrency, its batches and its prefetch allow.

use std::time::Instant;

use super::cancel::Cancelling;
use super::line::Line;
use crate::error::Ended;
use crate::request::{Request, Why};

/// At most 256 of them, so nothing here needs an index.
#[derive(Debug, Default)]
#[allow(clippy::vec_box, reason = "they come and go as boxes")]
pub(super) struct Calls {
    /// Those whose callers wait.
    running: Vec<Box<Request>>,
    /// Those that were written ahead.
    pub(super) ahead: Line,
    /// Those that are being ended, and that Python may still be running.
    cancelling: Vec<Cancelling>,
}

impl Calls {
    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty() && self.cancelling.is_empty() && self.ahead.is_empty()
    }

    /// Whether Python is at nothing, as far as is known.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.cancelling.iter().all(Cancelling::has_ended)
    }

    /// The only call, if there is one and no other shares its work.
    pub(super) fn lone(&self) -> Option<&Request> {
        match &self.running[..] {
            [request] if self.cancelling.is_empty() && self.ahead.is_empty() => {
                Some(&**request).filter(|request| request.wish.batch.is_none())
            }
            _ => None,
        }
    }

    pub(super) fn begin(&mut self, request: Box<Request>) {
        self.running.push(request);
    }

    /// The call of this id whose caller waits.
    pub(super) fn running(&mut self, id: u64) -> Option<&mut Request> {
        self.running
            .iter_mut()
            .find(|request| request.ticket.id == id)
            .map(|request| &mut **request)
    }

    pub(super) fn take_running(&mut self, id: u64) -> Option<Box<Request>> {
        let at = self.running.iter().position(|request| request.ticket.id == id)?;
        Some(self.running.swap_remove(at))
    }

    /// The call of this id that Python has an answer for; it may have come to one that was written ahead, and to which others
    /// that are still to come are no bar.
    pub(super) fn take_answered(&mut self, id: u64) -> Option<Box<Request>> {
        if let Some(request) = self.take_running(id) {
            return Some(request);
        }
        let mut request = self.ahead.take(id)?;
        request.begin(Instant::now());
        Some(request)
    }

    #[allow(clippy::vec_box, reason = "they go on as boxes")]
    pub(super) fn take_all_running(&mut self) -> Vec<Box<Request>> {
        std::mem::take(&mut self.running)
    }

    /// The call of this id that is being ended.
    pub(super) fn cancelling(&mut self, id: u64) -> Option<&mut Cancelling> {
        self.cancelling.iter_mut().find(|cancelling| cancelling.id() == id)
    }

    pub(super) fn is_cancelling(&self, id: u64) -> bool {
        self.cancelling.iter().any(|cancelling| cancelling.id() == id)
    }

    pub(super) fn all_cancelling(&mut self) -> &mut Vec<Cancelling> {
        &mut self.cancelling
    }

    /// Whether the grace of one that is being ended is over.
    pub(super) fn is_any_overdue(&self, now: Instant) -> bool {
        self.cancelling.iter().any(|cancelling| cancelling.is_overdue(now))
    }

    /// Why those that are running end, if the grace of one beside them is over. `holder` keeps the event loop from it.
    pub(super) fn collateral(&self, now: Instant, holder: Option<u64>) -> Option<Ended> {
        let overdue = self.cancelling.iter().find(|cancelling| cancelling.is_overdue(now))?;
        if self.running.is_empty() {
            return None;
        }
        let holder = holder.filter(|&holder| holder != overdue.id());
        let holder = holder.and_then(|holder| self.handler_at_work(holder));
        Some(match holder {
            Some(handler) => Ended::LoopBlocked { handler: handler.to_owned() },
            None => Ended::Collateral { handler: overdue.handler().to_owned() },
        })
    }

    /// The handler of this call, if that has not ended.
    fn handler_at_work(&self, id: u64) -> Option<&str> {
        let mut running = self.running.iter();
        if let Some(request) = running.find(|request| request.ticket.id == id) {
            return Some(request.handler());
        }
        let mut cancelling = self.cancelling.iter().filter(|cancelling| !cancelling.has_ended());
        cancelling.find(|cancelling| cancelling.id() == id).map(Cancelling::handler)
    }

    /// Those whose callers wait.
    pub(super) fn running_ids(&self) -> Vec<u64> {
        self.running.iter().map(|request| request.ticket.id).collect()
    }

    /// How long the most patient caller waits for a handler that takes several calls.
    pub(super) fn patience(&self, batch: u32) -> Option<Instant> {
        let deadlines = self.running.iter().filter_map(|request| {
            let of = request.wish.batch?;
            (of.handler == batch).then_some(request.ticket.deadline)
        });
        deadlines.max()
    }

    /// The numbers of the handlers that take several calls, one at least of whose caller waits.
    pub(super) fn running_batches(&self) -> Vec<u32> {
        if self.cancelling.is_empty() {
            return Vec::new();
        }
        self.running.iter().filter_map(|request| Some(request.wish.batch?.handler)).collect()
    }

    /// When the first of the calls runs out of time whose callers wait.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waited_for().map(Request::due).min()
    }

    /// A call that has run out of time, and of which.
    pub(super) fn expired(&self, now: Instant) -> Option<(u64, Why)> {
        self.waited_for().find_map(|it| Some((it.ticket.id, it.expired(now)?)))
    }

    fn waited_for(&self) -> impl Iterator<Item = &Request> {
        self.running.iter().map(|request| &**request).chain(self.ahead.waiting())
    }

    /// When there is something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        let withdraw_at = self.ahead.due();
        let cancelling = self.cancelling.iter().map(Cancelling::due);
        self.deadline().into_iter().chain(withdraw_at).chain(cancelling).min()
    }

    /// The only call that Python may be running; 0 if there is none, or several.
    pub(super) fn only(&self) -> u64 {
        match (&self.running[..], &self.cancelling[..]) {
            // Its answer may be on the way, and the next have begun.
            _ if !self.ahead.is_empty() => 0,
            ([request], []) => request.ticket.id,
            ([], [cancelling]) => cancelling.id(),
            _ => 0,
        }
    }
}
