//! The host's end of a port's socket: bytes, both ways, neither waiting for the other.
//!
//! Not tokio's `UnixStream`, which asks the kernel to tell of room for writing as well: a peer that reads a frame makes
//! room, and the runtime would be woken each time for nothing. Here it is told of that only while a frame waits for room.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys;

#[derive(Debug)]
pub(super) struct Socket {
    reader: AsyncFd<OwnedFd>,
    /// Another descriptor of the same socket, while frames wait for room.
    writer: Option<AsyncFd<OwnedFd>>,
    outgoing: VecDeque<Bytes>,
}

impl Socket {
    /// Takes over a stream socket that doesn't block.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        let reader = sys::watch(socket, Interest::READABLE)?;
        Ok(Self { reader, writer: None, outgoing: VecDeque::new() })
    }

    /// Puts a frame on its way. What the socket takes is gone at once; the rest follows as [`Socket::poll_write`] is
    /// polled.
    pub(super) fn send(&mut self, frame: Bytes) {
        self.outgoing.push_back(frame);
        if self.writer.is_none() {
            self.write();
        }
    }

    /// Writes what is left, as far as the socket has room. Errors show when reading, with whatever the peer still had to
    /// say before them.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) {
        while !self.outgoing.is_empty() {
            if self.writer.is_none() {
                let watched = self.reader.get_ref().try_clone();
                match watched.and_then(|fd| sys::watch(fd, Interest::WRITABLE)) {
                    Ok(writer) => self.writer = Some(writer),
                    Err(error) => {
                        // The rest of the frame cannot be sent any more, so nothing can.
                        tracing::error!(%error, "cannot wait for room in a port's socket");
                        self.outgoing.clear();
                        let _ = sys::shut_down(self.reader.get_ref());
                        return;
                    }
                }
            }
            let Some(writer) = &self.writer else { return };
            match writer.poll_write_ready(cx) {
                Poll::Ready(Ok(mut guard)) => guard.clear_ready(),
                Poll::Ready(Err(_)) | Poll::Pending => return,
            }
            self.write();
        }
        self.writer = None;
    }

    /// Reads into `buffer`; 0 at the end.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.reader.poll_read_ready(cx))?;
            let room = buffer.capacity() - buffer.len();
            match sys::receive(self.reader.get_ref(), buffer) {
                Ok(count) => {
                    // Less than there was room for: it was all there is, and what comes next is told of anew.
                    if 0 < count && count < room {
                        guard.clear_ready();
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Reads what is there.
    pub(super) fn try_read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        sys::receive(self.reader.get_ref(), buffer)
    }

    /// Writes what the socket takes.
    fn write(&mut self) {
        while let Some(frame) = self.outgoing.front_mut() {
            match sys::send(self.reader.get_ref().as_fd(), frame) {
                Ok(count) => {
                    frame.advance(count);
                    if frame.is_empty() {
                        self.outgoing.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.outgoing.clear(),
            }
        }
    }
}
