//! The dump pipe: where a worker writes its Python stack when a call is cancelled, and faulthandler at a fatal signal or
//! where Python itself does not come to it.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use tokio::net::unix::pipe::Receiver;

use crate::sys;

/// What the worker writes before its stack, and after it the id of the call and a line's end; faulthandler doesn't.
const BEGIN: u8 = 22;

/// What the worker writes after its stack; faulthandler doesn't.
const END: u8 = 23;

/// The most that a pipe can hold, in bytes (`/proc/sys/fs/pipe-max-size` for the unprivileged): all that a dead process can
/// have left in it. What comes after that is from one that escaped its group and goes on writing.
const LARGEST_PIPE: usize = 1 << 20;

/// Bytes that are read before other work of the port gets its turn: a worker may write without end.
const PER_POLL: usize = 64 << 10;

/// Where the frames of Snakepen's own loop begin in a stack of faulthandler's; the innermost frame comes first.
const LOOP: &str = "/snakepen/_serve.py\"";

/// The reading end.
#[derive(Debug)]
pub(super) struct Dump {
    pipe: Receiver,
    text: Vec<u8>,
    /// The calls whose stacks were asked for, and are not there yet.
    expected: Vec<u64>,
    /// Nobody can write one any more.
    ended: bool,
}

impl Dump {
    pub(super) fn new(pipe: OwnedFd) -> io::Result<Self> {
        let pipe = Receiver::from_owned_fd(pipe)?;
        Ok(Self { pipe, text: Vec::new(), expected: Vec::new(), ended: false })
    }

    /// The stack of this call is about to be asked for. What is there is of an earlier one, if no other is expected.
    pub(super) fn expect(&mut self, id: u64) {
        if self.expected.is_empty() {
            self.clear();
        }
        self.expected.push(id);
    }

    /// Nothing more is expected of this call. If it was the last one, what is there is of no interest.
    pub(super) fn forget(&mut self, id: u64) {
        self.expected.retain(|&expected| expected != id);
        if self.expected.is_empty() {
            self.clear();
        }
    }

    fn clear(&mut self) {
        self.read(LARGEST_PIPE, Self::at_once);
        self.text.clear();
    }

    /// A stack that was asked for, once it is complete, and whose it is; pending for ever if none was.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(u64, String)> {
        while !self.expected.is_empty() {
            let all = self.read(PER_POLL, Receiver::try_read);
            while let Some(end) = self.text.iter().position(|&byte| byte == END) {
                let rest = self.text.split_off(end + 1);
                let text = std::mem::replace(&mut self.text, rest);
                if let Some(stack) = self.expected_stack(&text[..end]) {
                    return Poll::Ready(stack);
                }
            }
            if !all {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if self.ended || ready!(self.pipe.poll_read_ready(cx)).is_err() {
                self.expected.clear();
            }
        }
        Poll::Pending
    }

    /// The stack in what was written up to its end, if it is of a call that one was asked for of.
    fn expected_stack(&mut self, text: &[u8]) -> Option<(u64, String)> {
        let begin = text.iter().rposition(|&byte| byte == BEGIN)?;
        let mut lines = text[begin + 1..].splitn(2, |&byte| byte == b'\n');
        let id = std::str::from_utf8(lines.next()?).ok()?.parse().ok()?;
        let at = self.expected.iter().position(|&expected| expected == id)?;
        self.expected.swap_remove(at);
        Some((id, tidy(lines.next().unwrap_or_default())))
    }

    /// What was written last, complete or not, in whole lines.
    pub(super) fn take(&mut self) -> String {
        self.read(LARGEST_PIPE, Self::at_once);
        let text = std::mem::take(&mut self.text);
        let last = text.rsplit(|&byte| byte == END).next().unwrap_or_default();
        let lines = last.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        tidy(&last[..lines])
    }

    /// Past the runtime, which reads only what it was told of.
    fn at_once(pipe: &Receiver, chunk: &mut [u8]) -> io::Result<usize> {
        sys::read_now(pipe, chunk)
    }

    /// Reads what is there, but no more than so many bytes; whether that was all.
    fn read(
        &mut self,
        limit: usize,
        read: impl Fn(&Receiver, &mut [u8]) -> io::Result<usize>,
    ) -> bool {
        // More than one stack has never been of use; a worker that writes without end must not fill the host's memory.
        const ENOUGH: usize = 256 << 10;
        let mut chunk = [0; 4096];
        let mut left = limit;
        while left > 0 {
            let Ok(count) = read(&self.pipe, &mut chunk) else {
                return true;
            };
            if count == 0 {
                // Nobody holds the other end: it stays ready for ever, and there is nothing to wait for.
                self.ended = true;
                return true;
            }
            if self.text.len() > ENOUGH {
                self.text.clear();
            }
            self.text.extend_from_slice(&chunk[..count]);
            left = left.saturating_sub(count);
        }
        false
    }
}

/// The last stack, without the frames of Snakepen's own loop.
fn tidy(text: &[u8]) -> String {
    const HEADER: &str = "Stack (most recent call first)";
    let text = String::from_utf8_lossy(text);
    let start = text.rfind(HEADER).unwrap_or(0);
    let text = &text[start..];
    let own = text.find(LOOP).and_then(|at| text[..at].rfind('\n'));
    own.map_or(text, |end| &text[..=end]).to_owned()
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;
    use std::time::Duration;

    use super::{Dump, LARGEST_PIPE, PER_POLL, tidy};
    use crate::sys;

    #[tokio::test]
    async fn nothing_is_expected_of_a_worker_that_is_gone() {
        let (ours, theirs) = sys::pipe(true).unwrap();
        let mut dump = Dump::new(ours).unwrap();
        dump.expect(1);
        drop(theirs);
        let gives_up = poll_fn(|cx| {
            let _ = dump.poll(cx);
            if dump.expected.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        });
        tokio::time::timeout(Duration::from_secs(10), gives_up).await.unwrap();
    }

    #[tokio::test]
    async fn a_full_pipe_is_read_in_turns() {
        let (ours, theirs) = sys::pipe(true).unwrap();
        let size = rustix::pipe::fcntl_setpipe_size(&theirs, LARGEST_PIPE).unwrap();
        assert_eq!(rustix::io::write(&theirs, &vec![b'x'; size]), Ok(size));
        let left = || usize::try_from(rustix::io::ioctl_fionread(&theirs).unwrap()).unwrap();
        let mut dump = Dump::new(ours).unwrap();
        dump.pipe.readable().await.unwrap();
        dump.expect(1);
        assert_eq!(left(), 0, "that was of an earlier stack");

        assert_eq!(rustix::io::write(&theirs, &vec![b'x'; size]), Ok(size));
        dump.pipe.readable().await.unwrap();
        let mut turns = 0;
        poll_fn(|cx| {
            let before = left();
            assert!(dump.poll(cx).is_pending());
            let taken = before - left();
            assert!(taken <= PER_POLL, "{taken}");
            turns += 1;
            // It is woken for the next one.
            if left() > 0 { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        assert!(turns >= size / PER_POLL, "{turns}");
    }

    #[tokio::test]
    async fn stacks_are_told_apart_by_their_calls() {
        let (ours, theirs) = sys::pipe(true).unwrap();
        let mut dump = Dump::new(ours).unwrap();
        dump.expect(1);
        dump.expect(2);
        let written = b"garbage\x162\nof two\n\x17\x169\nof nobody\n\x17faulthandler's\n\x161\nof one\n\x17the rest\n  File ";
        assert_eq!(rustix::io::write(&theirs, written), Ok(written.len()));
        assert_eq!(poll_fn(|cx| dump.poll(cx)).await, (2, "of two\n".to_owned()));
        assert_eq!(poll_fn(|cx| dump.poll(cx)).await, (1, "of one\n".to_owned()));
        assert_eq!(dump.take(), "the rest\n", "as far as it is whole lines");
    }

    #[tokio::test]
    async fn what_was_written_last_is_there_before_the_runtime_tells_of_it() {
        let (ours, theirs) = sys::pipe(true).unwrap();
        let mut dump = Dump::new(ours).unwrap();
        assert_eq!(rustix::io::write(&theirs, b"the end\n"), Ok(8));
        assert_eq!(dump.take(), "the end\n");
        // It is told of all the same, and there is nothing more.
        dump.expect(1);
        assert!(poll_fn(|cx| Poll::Ready(dump.poll(cx))).await.is_pending());
    }

    #[test]
    fn the_frames_of_the_loop_are_cut_away() {
        let text = "Current thread 0x1 (most recent call first):\n  File \"/h.py\", line 3 in work\n  \
                    File \"/x/snakepen/_serve.py\", line 80 in _run\n  File \"<string>\", line 9 in <module>\n";
        assert_eq!(
            tidy(text.as_bytes()),
            "Current thread 0x1 (most recent call first):\n  File \"/h.py\", line 3 in work\n"
        );
        assert_eq!(tidy(b"no frames\n"), "no frames\n");
        let two = "Stack (most recent call first):\n  File \"a\"\nStack (most recent call first):\n  File \"b\"\n";
        assert_eq!(tidy(two.as_bytes()), "Stack (most recent call first):\n  File \"b\"\n");
    }
}
