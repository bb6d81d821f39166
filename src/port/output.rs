//! What Python prints and logs, on its way to `tracing`.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::unix::pipe;
use tracing::Level;

use crate::sys;

/// The target of every event that comes from Python.
macro_rules! target {
    () => {
        "snakepen::python"
    };
}

/// A line longer than this arrives in pieces.
const LONGEST_LINE: usize = 16 << 10;

/// So much of stderr is kept for the crash report, in bytes.
const KEPT: usize = 8 << 10;

/// Bytes of one read.
const CHUNK: usize = 4 << 10;

/// At most so many reads before other work gets its turn.
const READS_PER_POLL: usize = 16;

/// Where output comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    pub(crate) pool: &'a str,
    pub(crate) worker: &'a str,
    /// The id of the request that is running; 0 for none.
    pub(crate) request: u64,
}

/// Python's level number for the most verbose level at which anybody listens.
pub(crate) fn python_log_level() -> u32 {
    if tracing::enabled!(target: target!(), Level::DEBUG) {
        10
    } else if tracing::enabled!(target: target!(), Level::INFO) {
        20
    } else if tracing::enabled!(target: target!(), Level::ERROR)
        && !tracing::enabled!(target: target!(), Level::WARN)
    {
        40
    } else {
        30
    }
}

/// Passes a record of Python's `logging` on.
pub(crate) fn log(source: Source<'_>, level: u64, logger: &str, message: &str) {
    macro_rules! emit {
        ($level:expr) => {
            tracing::event!(
                target: target!(), $level, pool = source.pool, worker = source.worker,
                request = source.request, logger, "{message}"
            )
        };
    }
    match level {
        40.. => emit!(Level::ERROR),
        30..40 => emit!(Level::WARN),
        20..30 => emit!(Level::INFO),
        10..20 => emit!(Level::DEBUG),
        _ => emit!(Level::TRACE),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// Reads one of a process's output streams line by line. Only a newline ends a line: a progress bar that rewrites its
/// line is passed on when it ends, or when its request does.
#[derive(Debug)]
pub(crate) struct Lines {
    stream: Stream,
    pipe: Option<pipe::Receiver>,
    chunk: Box<[u8]>,
    partial: Vec<u8>,
    tail: Vec<u8>,
}

impl Lines {
    pub(crate) fn new(stream: Stream, read_end: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            stream,
            pipe: Some(pipe::Receiver::from_owned_fd(read_end)?),
            chunk: vec![0; CHUNK].into_boxed_slice(),
            partial: Vec::new(),
            tail: Vec::new(),
        })
    }

    /// Passes on what is there. Never says when it is done: more may come, and if not, that is no event.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, source: Source<'_>) {
        for _ in 0..READS_PER_POLL {
            let Some(pipe) = &mut self.pipe else { return };
            let mut chunk = std::mem::take(&mut self.chunk);
            let mut buffer = ReadBuf::new(&mut chunk);
            let polled = Pin::new(pipe).poll_read(cx, &mut buffer);
            let filled = buffer.filled().len();
            match polled {
                Poll::Ready(Ok(())) if filled > 0 => self.take(&chunk[..filled], source),
                Poll::Ready(_) => self.pipe = None,
                Poll::Pending => {}
            }
            self.chunk = chunk;
            if polled.is_pending() {
                return;
            }
        }
        cx.waker().wake_by_ref();
    }

    /// A request has ended: what it wrote is there by now, whether or not the runtime has told of it, and ends here,
    /// finished line or not.
    pub(crate) fn end_of_request(&mut self, source: Source<'_>) {
        self.read_all(source);
        if !self.partial.is_empty() {
            self.flush(source);
        }
    }

    /// After the end of the process: passes on everything that is there, the last line too, finished or not.
    pub(crate) fn drain(&mut self, source: Source<'_>) {
        self.read_all(source);
        // A process that escaped its group may still hold the other end.
        self.pipe = None;
        self.flush(source);
    }

    /// Passes on all that the pipe holds now, past the runtime, which reads only what it was told of. What is written
    /// meanwhile is not waited for.
    fn read_all(&mut self, source: Source<'_>) {
        let held = |pipe: &pipe::Receiver| rustix::io::ioctl_fionread(pipe).unwrap_or(0);
        let mut left = self.pipe.as_ref().map_or(0, held);
        while left > 0 {
            let Some(pipe) = &self.pipe else { return };
            let mut chunk = std::mem::take(&mut self.chunk);
            let read = sys::read_now(pipe, &mut chunk);
            if let Ok(count) = read {
                self.take(&chunk[..count], source);
            }
            self.chunk = chunk;
            match read {
                // Who polls for output finds the end.
                Ok(0) | Err(_) => return,
                Ok(count) => left = left.saturating_sub(count as u64),
            }
        }
    }

    /// The last of what was written.
    pub(crate) fn tail(&self) -> String {
        let kept = &self.tail[self.tail.len().saturating_sub(KEPT)..];
        String::from_utf8_lossy(kept).into_owned()
    }

    fn take(&mut self, bytes: &[u8], source: Source<'_>) {
        if self.stream == Stream::Stderr {
            self.tail.extend_from_slice(bytes);
            if self.tail.len() > 4 * KEPT {
                self.tail.drain(..self.tail.len() - KEPT);
            }
        }
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            self.partial.extend_from_slice(&rest[..end]);
            self.flush(source);
            rest = &rest[end + 1..];
        }
        self.partial.extend_from_slice(rest);
        if self.partial.len() >= LONGEST_LINE {
            let rest = self.partial.split_off(whole_characters(&self.partial));
            self.flush(source);
            self.partial = rest;
        }
    }

    fn flush(&mut self, source: Source<'_>) {
        let line = String::from_utf8_lossy(&self.partial);
        let line = line.trim_end_matches('\r');
        if line.is_empty() {
            self.partial.clear();
            return;
        }
        let Source { pool, worker, request } = source;
        match self.stream {
            Stream::Stdout => {
                tracing::info!(target: target!(), pool, worker, request, stream = "stdout", "{line}");
            }
            Stream::Stderr => {
                tracing::warn!(target: target!(), pool, worker, request, stream = "stderr", "{line}");
            }
        }
        self.partial.clear();
    }
}

/// The length of the text without a character that is cut off at its end.
fn whole_characters(text: &[u8]) -> usize {
    let from = text.len().saturating_sub(3);
    let lead = text[from..].iter().rposition(|&byte| byte & 0xC0 != 0x80).map(|at| from + at);
    match lead {
        Some(lead)
            if std::str::from_utf8(&text[lead..]).is_err_and(|e| e.error_len().is_none()) =>
        {
            lead
        }
        _ => text.len(),
    }
}

#[cfg(test)]
mod tests;
