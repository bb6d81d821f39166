//! The way of large buffers: through memory that the host and the worker share, beside the frames in the socket.
//!
//! There is one segment to Python, which this side makes and writes, and one from Python, which that side makes and writes;
//! each is used again and again, and replaced by a larger one when it has to be. A frame says which of its buffers lie
//! where ([`Placed`]). What the other side still reads is never written to: a frame's serial comes back through the status
//! page, and until then buffers go through the socket, as do small ones.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;

use crate::sys::{self, Segment, StatusPage};
use crate::wire::{Frame, Message, PLACE_UNIT, Place, Placed, ProtocolError};

/// So many bytes are copied at once before other things have their turn: about half a millisecond.
const STEP: usize = 4 << 20;

/// The smallest segment in bytes.
const LEAST: usize = 1 << 20;

/// So many vectors of at most so many bytes are kept for results to come.
const SHELVED: (usize, usize) = (2, 32 << 20);

/// Memory of results that nobody has any more. To get it anew from the system takes longer than to fill it: 1 MiB is
/// 256 page faults.
#[derive(Debug, Default)]
struct Shelf(Mutex<Vec<Vec<u8>>>);

impl Shelf {
    /// An empty vector for so many bytes.
    fn take(&self, length: usize) -> Vec<u8> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is too small for this has been kept for nothing.
        let mut found = kept.pop().filter(|bytes| bytes.capacity() >= length).unwrap_or_default();
        found.clear();
        found.reserve_exact(length);
        found
    }
}

/// The bytes of a result, which go back to the shelf of their port if that is still there.
struct Lent {
    bytes: Vec<u8>,
    shelf: Weak<Shelf>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let (many, large) = SHELVED;
        if self.bytes.capacity() <= large
            && let Some(shelf) = self.shelf.upgrade()
        {
            let mut kept = shelf.0.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() < many {
                kept.push(std::mem::take(&mut self.bytes));
            }
        }
    }
}

/// Both ways of a port's large buffers, from the host's side.
#[derive(Debug)]
pub(super) struct Lane {
    /// New segments cross here: a byte stream may lose a descriptor to a read that does not expect it.
    socket: OwnedFd,
    /// The size in bytes from which on a buffer goes this way.
    threshold: Option<usize>,
    ours: Option<Segment>,
    generation: u32,
    serial: u64,
    /// Python has not given back what it was sent last.
    busy: bool,
    theirs: Option<(u32, Segment)>,
    shelf: Arc<Shelf>,
}

/// A frame whose large buffers are being copied into the segment.
#[derive(Debug)]
pub(super) struct Placing {
    frame: Message,
    placed: Placed,
    /// Of the places.
    next: usize,
    /// Of that place's bytes.
    copied: usize,
}

impl Placing {
    pub(super) fn size(&self) -> usize {
        self.frame.size()
    }
}

/// A frame whose large buffers are being copied out of the segment.
#[derive(Debug)]
pub(super) struct Receiving {
    frame: Frame,
    placed: Placed,
    next: usize,
    bytes: Vec<u8>,
}

impl Lane {
    /// A lane, and the socket that its worker is to be given.
    pub(super) fn open(threshold: Option<usize>) -> io::Result<(Self, OwnedFd)> {
        let (socket, theirs) = sys::message_pair()?;
        sys::set_nonblocking(&socket)?;
        let lane = Self {
            socket,
            threshold,
            ours: None,
            generation: 0,
            serial: 0,
            busy: false,
            theirs: None,
            shelf: Arc::default(),
        };
        Ok((lane, theirs))
    }

    // === To Python ===

    /// Finds place for the large buffers of a frame; gives back the frame if all of it goes through the socket.
    pub(super) fn place(&mut self, frame: Message, page: &StatusPage) -> Result<Placing, Message> {
        let Some(threshold) = self.threshold else { return Err(frame) };
        let mut places = Vec::new();
        let mut end = 0;
        for (index, buffer) in frame.buffers().iter().enumerate() {
            if buffer.len() >= threshold {
                places.push(Place { index, offset: end, length: buffer.len() });
                end = (end + buffer.len()).next_multiple_of(PLACE_UNIT);
            }
        }
        // The table that says so must not take more than they do: the frame may be as large as one can be.
        if end < 16 + 4 * frame.buffers().len() || !self.is_free(page) {
            return Err(frame);
        }
        if let Err(error) = self.make_room(end) {
            tracing::debug!(%error, "no shared memory, buffers go through the socket");
            return Err(frame);
        }
        self.serial += 1;
        self.busy = true;
        let placed = Placed { generation: self.generation, serial: self.serial, places };
        Ok(Placing { frame, placed, next: 0, copied: 0 })
    }

    /// Whether Python has given back what it was sent last. What it still looks at it keeps, and gets a new segment.
    fn is_free(&mut self, page: &StatusPage) -> bool {
        if self.busy
            && let Ok((serial, kept)) = page.released()
            && serial == self.serial
        {
            self.busy = false;
            if kept {
                self.ours = None;
            }
        }
        !self.busy
    }

    fn make_room(&mut self, size: usize) -> io::Result<()> {
        if self.ours.as_ref().is_some_and(|segment| segment.size() >= size) {
            return Ok(());
        }
        // The old one first: they need not both be there.
        self.ours = None;
        // A quarter more than needed at most, in pages.
        let step = (size.next_power_of_two() / 8).max(4096);
        let segment = Segment::create(size.next_multiple_of(step).max(LEAST))?;
        let generation = self.generation.wrapping_add(1);
        sys::send_message(&self.socket, &generation.to_le_bytes(), &[segment.as_fd()])?;
        self.generation = generation;
        self.ours = Some(segment);
        Ok(())
    }

    /// Copies a part; the frame's pieces once all is there, or if it can't be.
    pub(super) fn fill(&self, placing: &mut Placing) -> Option<Vec<Bytes>> {
        let mut left = STEP;
        while let Some(&Place { index, offset, length }) = placing.placed.places.get(placing.next) {
            let part = left.min(length - placing.copied);
            let buffer = placing.frame.buffers().get(index);
            let bytes = buffer.and_then(|buffer| buffer.get(placing.copied..placing.copied + part));
            let there = bytes
                .zip(self.ours.as_ref())
                .is_some_and(|(bytes, segment)| segment.write(offset + placing.copied, bytes));
            if !there {
                // The worker has said that it is done with what it was not yet sent; let it have it all the same.
                return Some(std::mem::take(&mut placing.frame).into_pieces().collect());
            }
            placing.copied += part;
            left -= part;
            if placing.copied == length {
                placing.next += 1;
                placing.copied = 0;
            } else if left == 0 {
                return None;
            }
        }
        let frame = std::mem::take(&mut placing.frame);
        Some(frame.placed(&placing.placed).into_pieces().collect())
    }

    // === From Python ===

    /// Begins to copy a frame's large buffers out.
    pub(super) fn receive(&mut self, mut frame: Frame) -> Result<Receiving, ProtocolError> {
        let placed = frame.placed.take().map(|placed| *placed).unwrap_or_default();
        if self.theirs.as_ref().is_none_or(|(generation, _)| *generation != placed.generation) {
            self.theirs = None;
            self.theirs = Some((placed.generation, self.adopt(placed.generation)?));
        }
        Ok(Receiving { frame, placed, next: 0, bytes: Vec::new() })
    }

    /// The segment that was sent before the frame that names it.
    fn adopt(&self, generation: u32) -> Result<Segment, ProtocolError> {
        let wrong = |why: String| ProtocolError::Segment { generation, why };
        let mut said = [0; 4];
        let (length, fds) = sys::receive_message(&self.socket, &mut said)
            .map_err(|error| wrong(error.to_string()))?;
        let [fd] =
            <[OwnedFd; 1]>::try_from(fds).map_err(|fds| wrong(format!("{} came", fds.len())))?;
        if length != said.len() || u32::from_le_bytes(said) != generation {
            return Err(wrong("another came".to_owned()));
        }
        Segment::adopt(fd).map_err(|error| wrong(error.to_string()))
    }

    /// Copies a part; whether all is there. Python may write to its segment again then.
    pub(super) fn drain(
        &self,
        receiving: &mut Receiving,
        page: &StatusPage,
    ) -> Result<bool, ProtocolError> {
        let Receiving { frame, placed, next, bytes } = receiving;
        let wrong = |why: String| ProtocolError::Segment { generation: placed.generation, why };
        let Some((_, segment)) = &self.theirs else {
            return Err(wrong("it is gone".to_owned()));
        };
        let mut left = STEP;
        while let Some(&Place { index, offset, length }) = placed.places.get(*next) {
            if bytes.is_empty() {
                *bytes = self.shelf.take(length.min(segment.size()));
            }
            let part = left.min(length - bytes.len());
            if offset.checked_add(length).is_none_or(|end| end > segment.size())
                || !segment.read(offset + bytes.len(), part, bytes)
            {
                let size = segment.size();
                return Err(wrong(format!("{length} bytes at {offset} do not lie in its {size}")));
            }
            left -= part;
            if bytes.len() == length {
                if let Some(buffer) = frame.buffers.get_mut(index) {
                    let shelf = Arc::downgrade(&self.shelf);
                    *buffer = Bytes::from_owner(Lent { bytes: std::mem::take(bytes), shelf });
                }
                *next += 1;
            } else if left == 0 {
                return Ok(false);
            }
        }
        if let Err(error) = page.copied(placed.serial) {
            tracing::error!(%error, "cannot write to a status page");
        }
        Ok(true)
    }
}

impl Receiving {
    /// The frame with all its buffers.
    pub(super) fn into_frame(self) -> Frame {
        self.frame
    }
}
