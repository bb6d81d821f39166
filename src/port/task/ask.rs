//! What Python asks while a handler runs.

use super::{Leave, Live, PortTask};
use crate::context::CallContext;
use crate::error::Ended;
use crate::port::callback::Callback;
use crate::wire::Frame;

/// Bytes of answers that a worker may leave unread, or two of its frames if that is more.
const UNREAD: usize = 64 << 20;

impl Live {
    /// The context of a request, while its handler runs; one that is being ended has what is left of the grace. A batch asks
    /// in the name of its first call, and has the time of its most patient caller.
    fn asker(&mut self, id: u64) -> Option<CallContext> {
        let (context, batch) = match self.calls.running(id) {
            Some(request) => (request.context()?, request.wish.batch.map(|batch| batch.handler)),
            None => {
                let cancelling = self.calls.cancelling(id)?;
                (cancelling.context()?, cancelling.batch())
            }
        };
        Some(match batch.and_then(|batch| self.calls.patience(batch)) {
            Some(deadline) => context.until(deadline),
            None => context,
        })
    }
}

impl PortTask {
    /// Python asks something, and is told.
    pub(super) fn ask(&self, live: &mut Live, frame: &Frame) -> Option<Leave> {
        if live.port.unsent() > UNREAD.max(2 * self.shared.config.limits.max_frame) {
            let message = "it asks, and does not read the answers".to_owned();
            return Some(Leave::Kill(Ended::Protocol(message)));
        }
        let reply = match Callback::of(frame) {
            None => live.desk.ask(frame),
            Some(callback) => {
                let asker = live.asker(frame.arg);
                live.desk.call(callback, frame, asker)
            }
        };
        match reply {
            Ok(reply) => {
                reply.into_iter().for_each(|reply| live.port.send(reply));
                None
            }
            Err(error) => Some(Leave::Kill(Ended::Protocol(error.to_string()))),
        }
    }
}
