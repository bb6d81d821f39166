//! A port: one Python process and the way to it.
//!
//! [`Port`] moves bytes: frames over a socket, both ways at once, and the process's output to `tracing`. What a
//! frame means is the business of [`task`], which owns the port for as long as its process lives.

mod answer;
mod callback;
mod desk;
mod dump;
pub(crate) mod output;
pub(crate) mod process;
pub(crate) mod task;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio_util::io::poll_read_buf;

use crate::sys::{self, StatusPage};
use crate::wire::{Decoder, Direction, Frame, Kind, Message, ProtocolError};
use dump::Dump;
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
}

impl RemoteEnds {
    pub(crate) fn as_fds(&self) -> [BorrowedFd<'_>; 5] {
        [
            self.socket.as_fd(),
            self.stdout.as_fd(),
            self.stderr.as_fd(),
            self.dump.as_fd(),
            self.status.as_fd(),
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

/// The host's end of a port. Every method may be cancelled at any await: what was read or half-written stays here.
#[derive(Debug)]
pub(crate) struct Port {
    socket: UnixStream,
    decoder: Decoder,
    /// Frames in pieces: a large buffer is written from where it lies.
    outgoing: VecDeque<Bytes>,
    stdout: Lines,
    stderr: Lines,
    dump: Dump,
    status: StatusPage,
}

impl Port {
    /// A port, and the ends that its process is to be given.
    pub(crate) fn open(max_frame: usize) -> io::Result<(Self, RemoteEnds)> {
        let (ours, socket) = sys::stream_pair()?;
        sys::set_nonblocking(&ours)?;
        let (our_stdout, stdout) = sys::pipe(false)?;
        let (our_stderr, stderr) = sys::pipe(false)?;
        let (our_dump, dump) = sys::pipe(true)?;
        let page = StatusPage::new()?;
        let status = { page.as_fd().try_clone_to_owned()? };
        let port = Self {
            socket: UnixStream::from_std(ours.into())?,
            decoder: Decoder::new(Direction::ToRust, max_frame),
            outgoing: VecDeque::new(),
            stdout: Lines::new(Stream::Stdout, our_stdout)?,
            stderr: Lines::new(Stream::Stderr, our_stderr)?,
            dump: Dump::new(our_dump)?,
            status: page,
        };
        Ok((port, RemoteEnds { socket, stdout, stderr, dump, status }))
    }

    /// Puts a frame on its way. What the socket takes is gone at once; the rest follows as [`Port::event`] is polled.
    pub(crate) fn send(&mut self, frame: Message) {
        self.outgoing.extend(frame.into_pieces());
        self.write();
    }

    /// Bytes that wait for the worker to read.
    pub(crate) fn unsent(&self) -> usize {
        self.outgoing.iter().map(Bytes::len).sum()
    }

    /// The next event. Output is passed on meanwhile; what a request wrote, before the answer that followed it: the
    /// kernel tells of both in the order in which they were written.
    pub(crate) async fn event(&mut self, source: Source<'_>) -> Event {
        std::future::poll_fn(|cx| self.poll_event(cx, source)).await
    }

    fn poll_event(&mut self, cx: &mut Context<'_>, source: Source<'_>) -> Poll<Event> {
        self.stdout.poll(cx, source);
        self.stderr.poll(cx, source);
        while !self.outgoing.is_empty() {
            // An error shows when reading, with whatever the worker still had to say before it.
            if self.socket.poll_write_ready(cx).is_pending() {
                break;
            }
            self.write();
        }
        // Before the answer that follows it.
        if let Poll::Ready((id, stack)) = self.dump.poll(cx) {
            return Poll::Ready(Event::Stack(id, stack));
        }
        loop {
            match self.decoder.next_frame() {
                Ok(Some(frame)) => {
                    if matches!(frame.kind, Kind::Result | Kind::Error) {
                        self.stdout.end_of_request(cx, source);
                        self.stderr.end_of_request(cx, source);
                    }
                    return Poll::Ready(Event::Frame(frame));
                }
                Ok(None) => {}
                Err(error) => return Poll::Ready(Event::Broken(error)),
            }
            let read = poll_read_buf(Pin::new(&mut self.socket), cx, self.decoder.buffer());
            match std::task::ready!(read) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(self.at_end()),
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

    /// Writes what the socket takes.
    fn write(&mut self) {
        while !self.outgoing.is_empty() {
            let mut pieces = [IoSlice::new(&[]); PIECES];
            let count = pieces
                .iter_mut()
                .zip(&self.outgoing)
                .map(|(piece, bytes)| *piece = IoSlice::new(bytes))
                .count();
            let write = || sys::send_pieces(&self.socket, &pieces[..count]);
            match self.socket.try_io(Interest::WRITABLE, write) {
                Ok(count) => self.written(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // Half a frame may be gone, so nothing can follow it. The worker ends at the end of its stream.
                    tracing::debug!(%error, "cannot write to a port");
                    self.outgoing.clear();
                    let _ = sys::end_writing(&self.socket);
                }
            }
        }
    }

    /// So many bytes have gone.
    fn written(&mut self, mut count: usize) {
        while let Some(piece) = self.outgoing.front_mut() {
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
        loop {
            match self.decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => match self.socket.try_read_buf(self.decoder.buffer()) {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => return frames,
                },
                Err(_) => return frames,
            }
        }
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
