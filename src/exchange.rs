//! What goes to and fro beside a call and its answer: the items of its stream, those of its inputs, its progress.
//!
//! The caller's side and the port's meet in channels. Nothing in them grows: items have a [`Window`], and of progress there
//! is only the last.

pub(crate) mod input;
mod progress;
mod window;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

pub use progress::{Progress, ProgressWatch};

use crate::board::Link;
use crate::codec::Payload;
use crate::wire::{Frame, ProtocolError};
use input::{Inputs, Want};
pub(crate) use window::{HALF_BYTES, HALF_ITEMS, Window};

/// An item that a worker has sent.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) payload: Payload,
    /// The call that it is of, and where to say that it was taken.
    pub(crate) id: u64,
    pub(crate) link: Link,
}

/// The caller's side, through all tries of the call.
#[derive(Debug, Default)]
pub(crate) struct CallerSide {
    /// Where its items go, if it takes any.
    items: Option<Items>,
    /// Between two items.
    pub(crate) item_timeout: Option<Duration>,
    pub(crate) inputs: Inputs,
    pub(crate) progress: Option<watch::Sender<Option<Progress>>>,
}

#[derive(Debug)]
struct Items {
    to: mpsc::UnboundedSender<Item>,
    /// One has arrived.
    began: Arc<AtomicBool>,
}

impl CallerSide {
    /// It takes items.
    pub(crate) fn takes(&mut self, items: mpsc::UnboundedSender<Item>) {
        self.items = Some(Items { to: items, began: Arc::default() });
    }

    /// The port's side for another try, and where that one asks for inputs.
    pub(crate) fn open(&self) -> (PortSide, Option<mpsc::Receiver<Want>>) {
        let (wants, wanted) = match self.inputs.is_empty() {
            true => (None, None),
            false => {
                let (wants, wanted) = mpsc::channel(self.inputs.most_wants());
                (Some(wants), Some(wanted))
            }
        };
        let stream = self.items.as_ref().map(|items| Outlet {
            items: items.to.clone(),
            window: Window::default(),
            timeout: self.item_timeout,
            since: None,
            began: Arc::clone(&items.began),
        });
        (PortSide { stream, wants, progress: self.progress.clone() }, wanted)
    }

    /// Whether nothing goes to and fro beside the call and its answer.
    pub(crate) fn is_plain(&self) -> bool {
        self.items.is_none() && self.inputs.is_empty() && self.progress.is_none()
    }

    /// Whether another try would repeat what cannot be taken back: items that were seen, inputs that were read.
    pub(crate) fn is_used(&self) -> bool {
        let began = |items: &Items| items.began.load(Ordering::Acquire);
        self.items.as_ref().is_some_and(began) || self.inputs.were_read()
    }
}

/// The port's side of one try.
#[derive(Debug, Default)]
pub(crate) struct PortSide {
    stream: Option<Outlet>,
    wants: Option<mpsc::Sender<Want>>,
    progress: Option<watch::Sender<Option<Progress>>>,
}

impl PortSide {
    /// Whether Python may be waiting for something of this call's, and has to be told that it need not.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.stream.is_some() || self.wants.is_some()
    }

    /// Whether items have come.
    pub(crate) fn has_items(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.began.load(Ordering::Relaxed))
    }

    /// Whether its consumer has yet to take what is there, so that Python waits.
    pub(crate) fn is_held_up(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| !stream.window.has_room())
    }

    /// The call is with a worker.
    pub(crate) fn begin(&mut self, now: Instant) {
        if let Some(stream) = &mut self.stream {
            stream.since = Some(now);
        }
    }

    /// When the next item is due, and the time that it has.
    pub(crate) fn item_due(&self) -> Option<(Instant, Duration)> {
        let Outlet { timeout, since, .. } = self.stream.as_ref()?;
        let timeout = (*timeout)?;
        Some(((*since)?.checked_add(timeout)?, timeout))
    }

    /// Python has sent an item.
    pub(crate) fn item(
        &mut self,
        frame: &Frame,
        link: &Link,
        now: Instant,
    ) -> Result<(), ProtocolError> {
        let unexpected = |what: &str| {
            ProtocolError::Unexpected(format!("item {} for id {}: {what}", frame.arg, frame.id))
        };
        let Some(stream) = &mut self.stream else {
            return Err(unexpected("its caller takes none"));
        };
        if !stream.window.has_room() {
            return Err(unexpected("its window is full"));
        }
        let payload = Payload { json: frame.json.clone(), buffers: frame.buffers.clone() };
        if frame.arg != stream.window.send(payload.len()) {
            return Err(unexpected("it is not the next one"));
        }
        stream.tick(now);
        stream.began.store(true, Ordering::Release);
        let item = Item { payload, id: frame.id, link: link.clone() };
        // A consumer that is gone takes no more; its call is about to be given up.
        let _ = stream.items.send(item);
        Ok(())
    }

    /// The consumer has taken so many items.
    pub(crate) fn credit(&mut self, taken: u64, now: Instant) {
        if let Some(stream) = &mut self.stream {
            let was_full = !stream.window.has_room();
            stream.window.take(taken);
            if was_full {
                stream.tick(now);
            }
        }
    }

    /// Python is ready for items of an input.
    pub(crate) fn want(&self, frame: &Frame, link: &Link) -> Result<(), ProtocolError> {
        let want = Want { name: frame.name().to_owned(), taken: frame.arg, link: link.clone() };
        let refused = |why: &str| {
            let name = frame.name();
            Err(ProtocolError::Unexpected(format!(
                "wish for input {name:?} of id {}: {why}",
                frame.id
            )))
        };
        match self.wants.as_ref().map(|wants| wants.try_send(want)) {
            Some(Ok(()) | Err(mpsc::error::TrySendError::Closed(_))) => Ok(()),
            Some(Err(mpsc::error::TrySendError::Full(_))) => refused("it was told before"),
            None => refused("the call has no inputs"),
        }
    }

    /// Python tells how far it is.
    pub(crate) fn progress(&self, frame: &Frame) -> Result<(), ProtocolError> {
        let progress = Progress::parse(&frame.json).map_err(|error| {
            ProtocolError::Unexpected(format!("progress of id {} that says {error}", frame.id))
        })?;
        if let Some(watch) = &self.progress {
            watch.send_replace(Some(progress));
        }
        Ok(())
    }
}

/// Where the items of a stream go.
#[derive(Debug)]
struct Outlet {
    items: mpsc::UnboundedSender<Item>,
    window: Window,
    /// Between two items.
    timeout: Option<Duration>,
    /// Since when Python could have sent the next item; not while the consumer holds it up.
    since: Option<Instant>,
    began: Arc<AtomicBool>,
}

impl Outlet {
    fn tick(&mut self, now: Instant) {
        self.since = self.window.has_room().then_some(now);
    }
}
