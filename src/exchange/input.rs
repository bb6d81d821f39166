//! Arguments that are streams: read when the handler asks, and as far ahead as a window allows.

use std::convert::Infallible;
use std::fmt::{self, Display};
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_core::Stream;
use serde::Serialize;
use tokio::sync::mpsc;

use super::Window;
use crate::board::Link;
use crate::codec;
use crate::port::Command;
use crate::wire::{FrameBuilder, HEADER, Kind};

/// What the argument of an INPUT says: an item, the end, an error instead of it.
const ITEM: u64 = 0;
const END: u64 = 1;
const ERROR: u64 = 2;

/// An item of an input, written; or why there are no more.
type Written = Result<FrameBuilder, String>;

type Source = Pin<Box<dyn Stream<Item = Written> + Send>>;

/// A handler has taken so many items of an input, and is ready for more.
#[derive(Debug)]
pub(crate) struct Want {
    pub(crate) name: String,
    pub(crate) taken: u64,
    /// Where it is.
    pub(crate) link: Link,
}

/// The inputs of a call.
#[derive(Debug, Default)]
pub(crate) struct Inputs(Vec<Input>);

struct Input {
    name: String,
    /// Until its end. The lock is never taken: it lets calls be `Sync`, whatever streams they have.
    stream: Option<Mutex<Source>>,
    window: Window,
    /// Where to send, once the handler has asked.
    link: Option<Link>,
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Inputs {
    /// Adds an input, and returns whether its name is new.
    pub(crate) fn add<S, T, E>(&mut self, name: &str, stream: S) -> bool
    where
        S: Stream<Item = Result<T, E>> + Send + 'static,
        T: Serialize,
        E: Display,
    {
        let is_new = self.0.iter().all(|input| input.name != name);
        let stream = Writer { name: name.to_owned(), count: 0, stream: Box::pin(stream) };
        let stream: Source = Box::pin(stream);
        let (name, window) = (name.to_owned(), Window::default());
        self.0.push(Input { name, stream: Some(Mutex::new(stream)), window, link: None });
        is_new
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Wishes that may wait to be seen. A handler tells what it has taken once per 32 items or 128 Ki characters: eight
    /// times in a window of 1 MiB, which it was sent because the wishes before were seen. Threads that begin at the same time
    /// may each tell the first.
    pub(crate) fn most_wants(&self) -> usize {
        16 * self.0.len()
    }

    /// Whether any of them was asked for an item.
    pub(crate) fn were_read(&self) -> bool {
        self.0.iter().any(|input| input.link.is_some())
    }

    /// Sends call `id` what its handler asks for, for as long as it is polled.
    pub(crate) async fn pump(
        &mut self,
        id: u64,
        wants: &mut mpsc::Receiver<Want>,
        max_frame: usize,
    ) -> Infallible {
        std::future::poll_fn(|cx| self.poll_pump(cx, id, wants, max_frame)).await
    }

    fn poll_pump(
        &mut self,
        cx: &mut Context<'_>,
        id: u64,
        wants: &mut mpsc::Receiver<Want>,
        max_frame: usize,
    ) -> Poll<Infallible> {
        while let Poll::Ready(Some(want)) = wants.poll_recv(cx) {
            if let Some(input) = self.0.iter_mut().find(|input| input.name == want.name) {
                input.window.take(want.taken);
                input.link = Some(want.link);
            }
        }
        for input in &mut self.0 {
            input.poll_pump(cx, id, max_frame);
        }
        Poll::Pending
    }
}

impl Input {
    /// Sends what is there and has room.
    fn poll_pump(&mut self, cx: &mut Context<'_>, id: u64, max_frame: usize) {
        while let (Some(stream), Some(link)) = (&mut self.stream, &self.link)
            && self.window.has_room()
            && let Poll::Ready(next) = poll(stream, cx)
        {
            let (mut frame, what) = match next {
                Some(Ok(frame)) => (frame, ITEM),
                Some(Err(message)) => (self.error(&message), ERROR),
                None => (FrameBuilder::new(Kind::Input, &self.name), END),
            };
            let (frame, what) = match frame.message(id, what, max_frame) {
                Ok(frame) => (frame, what),
                Err(size) => (self.too_large(id, size, max_frame).into(), ERROR),
            };
            // As Python counts, more or less: a character takes four bytes at most.
            self.window.send(frame.size() - HEADER - self.name.len());
            if what != ITEM {
                self.stream = None;
            }
            // A worker that is gone asks for nothing.
            let _ = link.send(Command::Input(id, frame));
        }
    }

    fn error(&self, message: &str) -> FrameBuilder {
        let mut frame = FrameBuilder::new(Kind::Input, &self.name);
        let written = serde_json::to_writer(frame.json(), message);
        debug_assert!(written.is_ok(), "text can always be written");
        frame
    }

    /// This one is always sent.
    fn too_large(&self, id: u64, size: usize, max_frame: usize) -> Vec<u8> {
        let mut frame = self.error(&format!(
            "the next takes {size} bytes, the pool's largest frame is {max_frame}: send less, or raise `max_frame`"
        ));
        frame.finish(id, ERROR, usize::MAX).unwrap_or_default()
    }
}

fn poll(stream: &mut Mutex<Source>, cx: &mut Context<'_>) -> Poll<Option<Written>> {
    stream.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut().poll_next(cx)
}

/// Writes the items of a user's stream.
struct Writer<S> {
    name: String,
    count: u64,
    stream: Pin<Box<S>>,
}

impl<S, T, E> Stream for Writer<S>
where
    S: Stream<Item = Result<T, E>>,
    T: Serialize,
    E: Display,
{
    type Item = Written;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Written>> {
        let next = std::task::ready!(self.stream.as_mut().poll_next(cx));
        Poll::Ready(next.map(|item| {
            let item = item.map_err(|error| error.to_string())?;
            let mut frame = FrameBuilder::new(Kind::Input, &self.name);
            let number = self.count;
            self.count += 1;
            match codec::encode(frame.json(), &item) {
                Ok(buffers) => {
                    frame.beside(buffers);
                    Ok(frame)
                }
                Err(error) => Err(format!("item {number} can't be written: {error}")),
            }
        }))
    }
}

/// A stream whose items cannot fail.
pub(crate) struct Sure<S>(pub(crate) Pin<Box<S>>);

impl<S: Stream> Stream for Sure<S> {
    type Item = Result<S::Item, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx).map(|next| next.map(Ok))
    }
}
