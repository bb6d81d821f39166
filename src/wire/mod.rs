//! The wire protocol between the host and a worker, version 1 (`ARCHITECTURE.md`, Wire protocol).
//!
//! Plain functions over bytes: no I/O and no runtime. The Python side is `python_worker/snakepen/_wire.py`;
//! both pass the recorded frames of `tests/frames.json`.

mod decoder;
mod encode;
pub(crate) mod json;

pub(crate) use decoder::{Decoder, Direction, Frame, ProtocolError};
pub(crate) use encode::{FrameBuilder, Message};

#[cfg(test)]
mod tests;

/// The protocol's version, sent by the worker in READY.
pub(crate) const VERSION: u64 = 1;

/// Bytes of a frame's header.
pub(crate) const HEADER: usize = 24;

/// The body carries a table of raw buffers beside the JSON.
pub(crate) const FLAG_BUFFERS: u8 = 0x01;

/// Some of the buffers lie in a shared segment. Only with [`FLAG_BUFFERS`].
pub(crate) const FLAG_SEGMENT: u8 = 0x08;

/// A place in a segment is a multiple of this many bytes, so that four bytes name it.
pub(crate) const PLACE_UNIT: usize = 64;

/// The worker asks to be replaced after this answer.
pub(crate) const FLAG_RECYCLE: u8 = 0x02;

/// The caller takes the items of a generator one by one.
pub(crate) const FLAG_STREAM: u8 = 0x04;

/// The caller watches the progress of its handler.
pub(crate) const FLAG_WATCH: u8 = 0x10;

/// Which buffers of a frame lie in a segment, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Placed {
    /// Which segment of its side; they are counted as they are made.
    pub(crate) generation: u32,
    /// Counts the frames of its side that have any.
    pub(crate) serial: u64,
    pub(crate) places: Vec<Place>,
}

/// Where a buffer lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Which of the frame's buffers it is.
    pub(crate) index: usize,
    /// Bytes from the segment's start; a multiple of [`PLACE_UNIT`].
    pub(crate) offset: usize,
    /// Bytes.
    pub(crate) length: usize,
}

/// What a frame is. The numbers are the wire's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Call = 1,
    Cancel = 2,
    Ping = 3,
    Exit = 4,
    Reply = 5,
    Init = 6,
    Credit = 7,
    Input = 8,
    Ready = 65,
    Failed = 66,
    Result = 67,
    Error = 68,
    Pong = 69,
    Log = 70,
    Ask = 71,
    Item = 72,
    Progress = 73,
    Want = 74,
}

impl Kind {
    fn from_wire(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Kind::Call,
            2 => Kind::Cancel,
            3 => Kind::Ping,
            4 => Kind::Exit,
            5 => Kind::Reply,
            6 => Kind::Init,
            7 => Kind::Credit,
            8 => Kind::Input,
            65 => Kind::Ready,
            66 => Kind::Failed,
            67 => Kind::Result,
            68 => Kind::Error,
            69 => Kind::Pong,
            70 => Kind::Log,
            71 => Kind::Ask,
            72 => Kind::Item,
            73 => Kind::Progress,
            74 => Kind::Want,
            _ => return None,
        })
    }

    fn direction(self) -> Direction {
        if (self as u8) < 64 { Direction::ToPython } else { Direction::ToRust }
    }
}

/// Decodes arbitrary bytes, in pieces of the sizes that the first bytes name; nothing may panic, and the pieces
/// may make no difference.
#[cfg(fuzzing)]
pub(crate) fn fuzz(data: &[u8]) {
    let Some((&size, data)) = data.split_first() else {
        return;
    };
    let decode = |chunk: usize| {
        let mut decoder = Decoder::new(Direction::ToRust, 1 << 16);
        let mut seen = Vec::new();
        for piece in data.chunks(chunk) {
            decoder.buffer().extend_from_slice(piece);
            loop {
                match decoder.next_frame() {
                    Ok(Some(frame)) => {
                        seen.push((
                            frame.kind,
                            frame.id,
                            frame.name().to_owned(),
                            frame.json,
                            frame.buffers,
                            frame.placed,
                        ));
                    }
                    Ok(None) => break,
                    Err(error) => return (seen, Err(error)),
                }
            }
        }
        (seen, decoder.finish())
    };
    assert_eq!(decode(usize::from(size) + 1), decode(data.len().max(1)));
}
