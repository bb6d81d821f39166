//! What goes to and fro beside the answers: items and their credit, inputs, progress.

use std::time::Instant;

use super::{Leave, Live, PortTask, unexpected};
use crate::error::Ended;
use crate::wire::{Frame, FrameBuilder, Kind, Message, ProtocolError};

impl PortTask {
    /// An ITEM, PROGRESS or WANT.
    pub(super) fn beside(&self, live: &mut Live, frame: &Frame) -> Option<Leave> {
        let error = self.take_beside(live, frame).err()?;
        Some(Leave::Kill(Ended::Protocol(error.to_string())))
    }

    pub(super) fn take_beside(&self, live: &mut Live, frame: &Frame) -> Result<(), ProtocolError> {
        let Some(request) = live.calls.running(frame.id) else {
            // Of a call that is being ended nobody wants to hear. A thread that its handler has left behind may tell its
            // progress, or ask for an input, even later.
            let is_late = frame.kind != Kind::Item || live.calls.cancelling(frame.id).is_some();
            return if is_late { Ok(()) } else { Err(unexpected(frame.kind, frame.id)) };
        };
        match frame.kind {
            Kind::Item => request.side.item(frame, &self.link, Instant::now()),
            Kind::Want => request.side.want(frame, &self.link),
            _ => request.side.progress(frame),
        }
    }

    /// The consumer of a stream has taken so many items. One that has ended needs no credit.
    pub(super) fn credit(&self, live: &mut Live, id: u64, taken: u64) {
        let Live { calls, port, .. } = live;
        if let Some(request) = calls.running(id) {
            request.side.credit(taken, Instant::now());
            let mut frame = FrameBuilder::new(Kind::Credit, "");
            let frame = frame.finish(id, taken, usize::MAX);
            debug_assert!(frame.is_ok(), "it has no body");
            port.send(frame.unwrap_or_default().into());
        }
    }

    pub(super) fn input(&self, live: &mut Live, id: u64, frame: Message) {
        if live.calls.running(id).is_some() {
            live.port.send(frame);
        }
    }
}
