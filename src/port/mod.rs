//! A port: one Python process and the way to it.
//!
//! [`Port`] moves bytes: frames over a socket, both ways at once, and the process's output to `tracing`. What a
//! frame means is the business of [`task`], which owns the port for as long as its process lives.

mod answer;
mod callback;
mod desk;
mod dump;
mod lane;
pub(crate) mod output;
pub(crate) mod process;
mod quiet;
pub(crate) mod task;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio_util::io::poll_read_buf;

use crate::config::Limits;
use crate::sys::{self, StatusPage};
use crate::wire::{Decoder, Direction, Frame, Kind, Message, ProtocolError};
use dump::Dump;
use lane::{Lane, Placing, Receiving};
use output::{Lines, Source, Stream};
pub(crate) use task::Command;

/// The worker's ends of a port's descriptors, in the order in which the launcher expects them.
#[derive(Debug)]
pub(crate) struct RemoteEnds {
    socket: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    dump: OwnedFd,
    status: OwnedFd,
    lane: OwnedFd,
}

impl RemoteEnds {
    pub(crate) fn as_fds(&self) -> [BorrowedFd<'_>; 6] {
        [
            self.socket.as_fd(),
            self.stdout.as_fd(),
            self.stderr.as_fd(),
            self.dump.as_fd(),
            self.status.as_fd(),
            self.lane.as_fd(),
        ]
    }
}

/// So many pieces of frames are written at once.
const PIECES: usize = 64;

/// What a port has to tell.
#[derive(Debug)]
pub(crate) enum Event {
    Frame(Frame),
    /// The Python stack that was asked for, of the call of this id.
    Stack(u64, String),
    /// The other end is closed, between frames.
    Closed,
    Broken(ProtocolError),
}

/// What is on its way to Python.
#[derive(Debug)]
enum Outgoing {
    /// A frame's, in order: a large buffer is written from where it lies.
    Piece(Bytes),
    /// A frame that follows as soon as its large buffers are where it says.
    Placing(Placing),
}

/// What there is to read.
enum Next {
    Frame(Box<Frame>),
    /// A frame, once more of it is copied.
    Later,
    Nothing,
}

/// The host's end of a port. Every method may be cancelled at any await: what was read or half-written stays here.
#[derive(Debug)]
pub(crate) struct Port {
    socket: UnixStream,
    decoder: Decoder,
    outgoing: VecDeque<Outgoing>,
    lane: Lane,
    /// A frame whose large buffers are not all here yet; it comes before those that the decoder has.
    receiving: Option<Receiving>,
    stdout: Lines,
    stderr: Lines,
    dump: Dump,
    status: StatusPage,
    /// Frames were read since output was looked for last.
    unheard: bool,
    /// Python has broken the protocol: what it says after that is not listened to.
    broken: bool,
}

impl Port {
    /// A port, and the ends that its process is to be given.
    pub(crate) fn open(limits: &Limits) -> io::Result<(Self, RemoteEnds)> {
        let (ours, socket) = sys::stream_pair()?;
        sys::set_nonblocking(&ours)?;
        let (our_stdout, stdout) = sys::pipe(false)?;
        let (our_stderr, stderr) = sys::pipe(false)?;
        let (our_dump, dump) = sys::pipe(true)?;
        let (our_lane, lane) = Lane::open(limits.shared_memory)?;
        let page = StatusPage::new()?;
        let status = { page.as_fd().try_clone_to_owned()? };
        let port = Self {
            socket: UnixStream::from_std(ours.into())?,
            decoder: Decoder::new(Direction::ToRust, limits.max_frame),
            outgoing: VecDeque::new(),
            lane: our_lane,
            receiving: None,
            stdout: Lines::new(Stream::Stdout, our_stdout)?,
            stderr: Lines::new(Stream::Stderr, our_stderr)?,
            dump: Dump::new(our_dump)?,
            status: page,
            unheard: false,
            broken: false,
        };
        Ok((port, RemoteEnds { socket, stdout, stderr, dump, status, lane }))
    }

    /// Puts a frame on its way. What the socket takes is gone at once; the rest follows as [`Port::event`] is polled.
    pub(crate) fn send(&mut self, frame: Message) {
        self.push(frame);
        self.write();
    }

    /// Puts a frame on its way that Python has no use for yet: with all others that come to that before the next event has
    /// to be waited for.
    pub(crate) fn push(&mut self, frame: Message) {
        // What a call is given has its end with the call; what a handler asks for it may keep as long as it likes.
        let placed = match frame.kind() {
            Some(Kind::Call) => self.lane.place(frame, &self.status),
            _ => Err(frame),
        };
        match placed {
            Ok(placing) => self.outgoing.push_back(Outgoing::Placing(placing)),
            Err(frame) => self.outgoing.extend(frame.into_pieces().map(Outgoing::Piece)),
        }
    }

    /// Bytes that wait for the worker to read.
    pub(crate) fn unsent(&self) -> usize {
        let sizes = self.outgoing.iter().map(|outgoing| match outgoing {
            Outgoing::Piece(bytes) => bytes.len(),
            Outgoing::Placing(placing) => placing.size(),
        });
        sizes.sum()
    }

    /// The next event. Output is passed on meanwhile; what a request wrote, before the answer that followed it.
    pub(crate) async fn event(&mut self, source: Source<'_>) -> Event {
        std::future::poll_fn(|cx| {
            if let Poll::Ready(event) = self.poll_output(cx, source) {
                return Poll::Ready(event);
            }
            let event = std::task::ready!(self.poll_frames(cx));
            if let Event::Frame(frame) = &event
                && frame.is_answer()
            {
                self.end_of_request(source);
            }
            Poll::Ready(event)
        })
        .await
    }

    /// Passes output on, and tells of a stack that was asked for.
    fn poll_output(&mut self, cx: &mut Context<'_>, source: Source<'_>) -> Poll<Event> {
        self.stdout.poll(cx, source);
        self.stderr.poll(cx, source);
        self.dump.poll(cx).map(|(id, stack)| Event::Stack(id, stack))
    }

    /// The answer of a request has come: passes on what the request wrote, finished line or not. Not as the runtime tells of
    /// it: that may do so after it has told of the answer. Once for all answers that were read together: what those requests
    /// wrote was there before.
    fn end_of_request(&mut self, source: Source<'_>) {
        if !std::mem::take(&mut self.unheard) {
            return;
        }
        self.stdout.end_of_request(source);
        self.stderr.end_of_request(source);
    }

    /// The next frame, or the end.
    fn poll_frames(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            match self.next_frame() {
                Ok(Next::Later) => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Ok(Next::Frame(frame)) => return Poll::Ready(Event::Frame(*frame)),
                Ok(Next::Nothing) => {}
                Err(error) => return Poll::Ready(Event::Broken(error)),
            }
            while !self.outgoing.is_empty() {
                let copies = matches!(self.outgoing.front(), Some(Outgoing::Placing(_)));
                // An error shows when reading, with whatever the worker still had to say before it.
                if !copies && self.socket.poll_write_ready(cx).is_pending() {
                    break;
                }
                if self.write() {
                    cx.waker().wake_by_ref();
                    break;
                }
            }
            let read = poll_read_buf(Pin::new(&mut self.socket), cx, self.decoder.buffer());
            match std::task::ready!(read) {
                Ok(1..) => self.unheard = true,
                Ok(0) | Err(_) => return Poll::Ready(self.at_end()),
            }
        }
    }

    /// The next frame that is here, with all its buffers.
    fn next_frame(&mut self) -> Result<Next, ProtocolError> {
        let next = self.decode_next();
        self.broken |= next.is_err();
        next
    }

    fn decode_next(&mut self) -> Result<Next, ProtocolError> {
        if self.receiving.is_none() {
            match self.decoder.next_frame()? {
                None => return Ok(Next::Nothing),
                Some(frame) if frame.placed.is_none() => return Ok(Next::Frame(Box::new(frame))),
                Some(frame) => self.receiving = Some(self.lane.receive(frame)?),
            }
        }
        if let Some(mut receiving) = self.receiving.take() {
            if self.lane.drain(&mut receiving, &self.status)? {
                return Ok(Next::Frame(Box::new(receiving.into_frame())));
            }
            self.receiving = Some(receiving);
        }
        Ok(Next::Later)
    }

    /// Looks for a frame for so long, or until `stop`, rather than to wait until the kernel tells of one.
    fn spin(&mut self, time: Duration, stop: impl Fn() -> bool) {
        if self.receiving.is_some() || !self.decoder.is_empty() {
            return;
        }
        let end = Instant::now() + time;
        let mut chunk = [0; 4 << 10];
        while self.outgoing.is_empty() && !stop() && Instant::now() < end {
            match sys::receive_now(&self.socket, &mut chunk) {
                Ok(count) => {
                    self.unheard = true;
                    return self.decoder.buffer().extend_from_slice(&chunk[..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::hint::spin_loop(),
                // Who polls for frames finds it.
                Err(_) => return,
            }
        }
    }

    /// Waits until nobody holds the other end.
    pub(crate) async fn end_of_stream(&mut self, source: Source<'_>) {
        while !matches!(self.event(source).await, Event::Closed | Event::Broken(_)) {}
    }

    fn at_end(&self) -> Event {
        match self.decoder.finish() {
            Ok(()) => Event::Closed,
            Err(error) => Event::Broken(error),
        }
    }

    /// Writes what the socket takes. Whether there is more to be copied first, which others should not wait for.
    fn write(&mut self) -> bool {
        while let Some(first) = self.outgoing.front_mut() {
            if let Outgoing::Placing(placing) = first {
                let Some(pieces) = self.lane.fill(placing) else { return true };
                self.outgoing.pop_front();
                for piece in pieces.into_iter().rev() {
                    self.outgoing.push_front(Outgoing::Piece(piece));
                }
                continue;
            }
            let mut pieces = [IoSlice::new(&[]); PIECES];
            let ready = self.outgoing.iter().map_while(|outgoing| match outgoing {
                Outgoing::Piece(bytes) => Some(IoSlice::new(bytes)),
                Outgoing::Placing(_) => None,
            });
            let count = pieces.iter_mut().zip(ready).map(|(to, piece)| *to = piece).count();
            let write = || sys::send_pieces(&self.socket, &pieces[..count]);
            match self.socket.try_io(Interest::WRITABLE, write) {
                Ok(count) => self.written(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // Half a frame may be gone, so nothing can follow it. The worker ends at the end of its stream.
                    tracing::debug!(%error, "cannot write to a port");
                    self.outgoing.clear();
                    let _ = sys::end_writing(&self.socket);
                }
            }
        }
        false
    }

    /// So many bytes have gone.
    fn written(&mut self, mut count: usize) {
        while let Some(Outgoing::Piece(piece)) = self.outgoing.front_mut() {
            let part = count.min(piece.len());
            piece.advance(part);
            if !piece.is_empty() {
                return;
            }
            count -= part;
            self.outgoing.pop_front();
        }
    }

    /// After the end of the process: the frames that it had still written, and all its output.
    pub(crate) fn drain(&mut self, source: Source<'_>) -> Vec<Frame> {
        self.stdout.drain(source);
        self.stderr.drain(source);
        let mut frames = Vec::new();
        while !self.broken {
            match self.next_frame() {
                Ok(Next::Frame(frame)) => frames.push(*frame),
                Ok(Next::Later) => {}
                Ok(Next::Nothing) => match self.socket.try_read_buf(self.decoder.buffer()) {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => return frames,
                },
                Err(_) => return frames,
            }
        }
        frames
    }

    /// The ids of the requests that Python has started; of those that have ended, too, until their places are needed.
    pub(crate) fn started(&self) -> Option<Vec<u64>> {
        self.status.started().ok()
    }

    /// The last of what the process wrote to stderr.
    pub(crate) fn stderr_tail(&self) -> String {
        self.stderr.tail()
    }

    /// Names a call that is to be cancelled; the stack that the worker's signal handler then writes is an event.
    pub(crate) fn ask_to_cancel(&mut self, id: u64) {
        self.dump.expect(id);
        if let Err(error) = self.status.cancel(id) {
            tracing::error!(%error, "cannot write to a status page");
        }
    }

    /// Python is about to be asked to look at the calls that are given up.
    pub(crate) fn renew_holder(&mut self) {
        if let Err(error) = self.status.renew_holder() {
            tracing::error!(%error, "cannot use a status page");
        }
    }

    /// The call whose code keeps the event loop from everything else, as far as Python has seen.
    pub(crate) fn holder(&self) -> Option<u64> {
        self.status.holder().ok().flatten()
    }

    /// Nothing more of what Python says is listened to.
    pub(crate) fn distrust(&mut self) {
        self.broken = true;
    }

    /// Takes the first of these calls back, which were written ahead in this order. Whether that came in time: if so, Python
    /// does not start it, and says so when it comes to it.
    pub(crate) fn withdraw(&mut self, ahead: &[u64]) -> bool {
        self.status.withdraw(ahead).unwrap_or_else(|error| {
            tracing::error!(%error, "cannot use a status page");
            false
        })
    }

    /// Python has passed a call over that was taken back.
    pub(crate) fn passed(&mut self, id: u64) {
        if let Err(error) = self.status.passed(id) {
            tracing::error!(%error, "cannot write to a status page");
        }
    }

    /// This call is not to be cancelled any more.
    pub(crate) fn cancelled(&mut self, id: u64) {
        self.dump.forget(id);
        if let Err(error) = self.status.cancelled(id) {
            tracing::error!(%error, "cannot write to a status page");
        }
    }

    /// What faulthandler has written last.
    pub(crate) fn take_dump(&mut self) -> String {
        self.dump.take()
    }
}
