//! What a call is to be, while it is not made yet; and the making of it.

use std::convert::Infallible;
use std::fmt::Display;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_core::Stream;
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::CancelHandle;
use super::attempt::{Made, Placed, Tries};
use super::line::Line;
use crate::codec::{self, Payload};
use crate::context::Nested;
use crate::error::Error;
use crate::exchange::input::Sure;
use crate::exchange::{CallerSide, Item, ProgressWatch};
use crate::pool::Anchor;
use crate::retry::Retry;
use crate::scheduler::{Place, Wish};
use crate::session::SessionError;
use crate::sys;
use crate::wire::{FLAG_STREAM, FLAG_WATCH, FrameBuilder, Kind, Message};

/// Two bytes count them; a session's id has 255 at most, and the names of inputs the rest.
const LONGEST_NAME: usize = 65_000;

/// What a [`Call`](super::Call) or a [`CallStream`](super::CallStream) is to be.
#[derive(Debug)]
pub(crate) struct Plan {
    anchor: Arc<Anchor>,
    pub(super) handler: Arc<str>,
    pub(super) wish: Wish,
    frame: Result<FrameBuilder, Error>,
    pub(super) timeout: Duration,
    /// The session in whose line it waits.
    line: Option<Arc<str>>,
    in_session: bool,
    cancel: Option<CancellationToken>,
    pub(super) idempotent: bool,
    pub(super) side: CallerSide,
}

impl Plan {
    pub(crate) fn new(
        anchor: Arc<Anchor>,
        place: Place,
        handler: &str,
        args: &impl Serialize,
    ) -> Self {
        Self::encoded(anchor, handler, place, encode(handler, None, args))
    }

    /// A call whose arguments are encoded already.
    pub(crate) fn raw(anchor: Arc<Anchor>, handler: &str, args: Payload) -> Self {
        let frame = named(handler, None).map(|mut frame| {
            frame.json().extend_from_slice(&args.json);
            frame.beside(args.buffers);
            frame
        });
        Self::encoded(anchor, handler, Place::Anywhere, frame)
    }

    /// A call that belongs to a session, in line with the others or not.
    pub(crate) fn in_session(
        anchor: Arc<Anchor>,
        session: Result<&str, SessionError>,
        in_order: bool,
        handler: &str,
        args: &impl Serialize,
    ) -> Self {
        let line = session.as_ref().ok().filter(|_| in_order).map(|&id| id.into());
        let frame = session.map_err(Error::from).and_then(|id| encode(handler, Some(id), args));
        Self { line, in_session: true, ..Self::encoded(anchor, handler, Place::Anywhere, frame) }
    }

    fn encoded(
        anchor: Arc<Anchor>,
        handler: &str,
        place: Place,
        frame: Result<FrameBuilder, Error>,
    ) -> Self {
        Self {
            frame,
            handler: handler.into(),
            timeout: anchor.shared.config.limits.call_timeout,
            anchor,
            wish: Wish { place, ..Wish::default() },
            line: None,
            in_session: false,
            cancel: None,
            idempotent: false,
            side: CallerSide::default(),
        }
    }

    pub(super) fn cancel_handle(&mut self) -> CancelHandle {
        CancelHandle(self.cancel.get_or_insert_default().clone())
    }

    pub(super) fn progress(&mut self) -> ProgressWatch {
        let sender = self.side.progress.get_or_insert_with(|| watch::Sender::new(None));
        ProgressWatch::new(sender.subscribe())
    }

    /// At such a place; the slot is found by the key when the call is made.
    pub(super) fn at(&mut self, place: Place, key: &str) {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        self.wish.place = place;
        self.wish.key = Some(hasher.finish());
    }

    pub(super) fn input<S>(&mut self, name: &str, stream: S)
    where
        S: Stream<Item: Serialize> + Send + 'static,
    {
        self.try_input::<_, S::Item, Infallible>(name, Sure(Box::pin(stream)));
    }

    pub(super) fn try_input<S, T, E>(&mut self, name: &str, stream: S)
    where
        S: Stream<Item = Result<T, E>> + Send + 'static,
        T: Serialize,
        E: Display,
    {
        let Ok(frame) = &mut self.frame else { return };
        // In the frame's name, after that of the handler and the id of the session.
        let nobody = if self.in_session || !self.side.inputs.is_empty() { "" } else { "\0" };
        let is_new = self.side.inputs.add(name, stream);
        let message = if name.is_empty() || name.contains('\0') {
            format!(
                "an input is the argument of that name, which is not empty and has no zero byte, not {name:?}"
            )
        } else if !is_new {
            format!("there are two inputs called {name:?}")
        } else if !frame.append_to_name(&format!("{nobody}\0{name}")) {
            "the names of its inputs take more than 64 KiB".to_owned()
        } else {
            return;
        };
        let handler = (*self.handler).to_owned();
        self.frame = Err(Error::Encode { handler, message });
    }

    pub(super) fn pool(&self) -> &str {
        &self.anchor.shared.config.name
    }

    /// See [`Call::place`](super::Call::place).
    pub(super) async fn place(self: Box<Self>) -> Result<Placed, Error> {
        let Self { anchor, handler, wish, frame, timeout, .. } = *self;
        let (id, at) = (anchor.shared.next_id(), Instant::now());
        let made = Made { id, handler, at, timeout, cancel: None, outer: None };
        let frame = finish(frame?, &made, anchor.shared.config.limits.max_frame)?;
        Placed::new(&anchor, wish, frame, &made).await
    }

    /// What is to be tried, now; its items, if it has any, go to `items`. `outer` are the calls that wait for it.
    pub(super) fn tries(
        self: Box<Self>,
        items: Option<mpsc::UnboundedSender<Item>>,
        outer: Option<Arc<Nested>>,
    ) -> Result<Tries, Error> {
        let Self {
            anchor,
            handler,
            wish,
            frame,
            mut timeout,
            line,
            cancel,
            idempotent,
            mut side,
            ..
        } = *self;
        let shared = &anchor.shared;
        let (mut frame, at) = (frame?, Instant::now());
        if let Some(outer) = &outer {
            timeout = timeout.min(outer.deadline.saturating_duration_since(at));
            let blocks = |session: &Arc<str>| outer.blocks_turn(shared, session, &handler);
            if let Some(error) = line.as_ref().and_then(blocks) {
                return Err(error);
            }
        }
        let line = line.map(|session| Line::up(&shared.turns, &session));
        let made = Made { id: shared.next_id(), handler, at, timeout, cancel, outer };
        if let Some(items) = items {
            frame.flag(FLAG_STREAM);
            side.takes(items);
        }
        if side.progress.is_some() {
            frame.flag(FLAG_WATCH);
        }
        let frame = finish(frame, &made, shared.config.limits.max_frame)?;
        let retry = Retry::new(if idempotent { shared.config.limits.retries } else { 0 });
        Ok(Tries { anchor, wish, frame, made, line, retry, side })
    }
}

fn encode(
    handler: &str,
    session: Option<&str>,
    args: &impl Serialize,
) -> Result<FrameBuilder, Error> {
    let mut frame = named(handler, session)?;
    let buffers = codec::encode(frame.json(), args).map_err(|error| Error::Encode {
        handler: handler.to_owned(),
        message: error.to_string(),
    })?;
    frame.beside(buffers);
    Ok(frame)
}

/// A CALL without arguments.
fn named(handler: &str, session: Option<&str>) -> Result<FrameBuilder, Error> {
    let refuse = |message: String| {
        let handler = format!("{}…", handler.chars().take(40).collect::<String>());
        Err(Error::Encode { handler, message })
    };
    if handler.len() > LONGEST_NAME {
        return refuse(format!(
            "the handler's name takes {} bytes, at most {LONGEST_NAME} fit",
            handler.len()
        ));
    }
    if handler.contains('\0') {
        return refuse("a handler's name has no zero byte".to_owned());
    }
    Ok(match session {
        None => FrameBuilder::new(Kind::Call, handler),
        Some(id) => FrameBuilder::new(Kind::Call, &format!("{handler}\0{id}")),
    })
}

fn finish(mut frame: FrameBuilder, made: &Made, limit: usize) -> Result<Message, Error> {
    let deadline = sys::monotonic_ns(made.at).saturating_add(nanos(made.timeout));
    match frame.message(made.id, deadline, limit) {
        Ok(frame) => Ok(frame),
        Err(size) => Err(Error::TooLarge { handler: (*made.handler).to_owned(), size, limit }),
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
