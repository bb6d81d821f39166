//! The line of a session whose calls run one at a time.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::attempt::{Made, Waiting};
use crate::pool::Anchor;
use crate::request::{Request, Why};
use crate::stats::WorkerState;
use crate::turns::{Turn, Turns};

/// The line of a session, and the call's turn once it has come: kept until the last try has ended.
pub(super) struct Line {
    /// Until it has come.
    waits: Option<oneshot::Receiver<Turn>>,
    turn: Option<Arc<Turn>>,
}

impl Line {
    /// Takes the last place.
    pub(super) fn up(turns: &Turns, session: &str) -> Self {
        Self { waits: Some(turns.line_up(session)), turn: None }
    }

    /// Waits for the call's turn; the request is answered if it doesn't come to that.
    pub(super) async fn wait(
        &mut self,
        anchor: &Anchor,
        request: Option<Box<Request>>,
        made: &Made,
    ) -> Option<Box<Request>> {
        let mut waiting = Waiting(request);
        let deadline = waiting.0.as_ref()?.ticket.deadline.into();
        if let Some(turn) = self.waits.take() {
            tokio::select! {
                biased;
                turn = turn => self.turn = turn.ok().map(Arc::new),
                () = anchor.dead() => {}
                () = made.cancelled() => {
                    let request = waiting.0.take()?;
                    request.give_up(Why::Asked, Instant::now(), String::new(), WorkerState::Down);
                }
                () = tokio::time::sleep_until(deadline) => {
                    waiting.0.take()?.time_out(Instant::now(), WorkerState::Down);
                }
            }
        }
        let mut request = waiting.0.take()?;
        request.turn.clone_from(&self.turn);
        Some(request)
    }
}
