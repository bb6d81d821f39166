//! Reading frames, in whatever pieces they arrive.

use bytes::{Buf, Bytes, BytesMut};

use super::{
    FLAG_BUFFERS, FLAG_RECYCLE, FLAG_SEGMENT, FLAG_STREAM, FLAG_WATCH, HEADER, Kind, PLACE_UNIT,
    Place, Placed,
};

/// The most raw buffers beside one JSON: a table of empty ones would cost ten times its length in memory.
const MAX_BUFFERS: usize = 65_535;

/// Room kept ready for small frames, in bytes: several of them arrive in one read.
const READ_AHEAD: usize = 64 << 10;

/// Which way a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    ToPython,
    ToRust,
}

/// How the bytes of a peer broke the protocol. That port ends, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtocolError {
    #[error("frame of unknown kind {0}")]
    UnknownKind(u8),
    #[error("frame of kind {0:?} goes the other way")]
    WrongDirection(Kind),
    #[error("frame with reserved flags {0:#04x}")]
    ReservedFlags(u8),
    #[error("frame of {length} bytes is over the limit of {limit} bytes")]
    TooLarge { length: usize, limit: usize },
    #[error("name of {name} bytes in a body of {length} bytes")]
    NameTooLong { name: usize, length: usize },
    #[error("name is not UTF-8")]
    NameNotUtf8,
    #[error("buffer table does not fit the body of {length} bytes")]
    BadBufferTable { length: usize },
    #[error("segment {generation} of shared memory: {why}")]
    Segment { generation: u32, why: String },
    #[error("stream ended {missing} bytes before the end of a frame")]
    Truncated { missing: usize },
    #[error("protocol version {found}, this side speaks {expected}")]
    Version { found: u64, expected: u64 },
    #[error("unexpected frame: {0}")]
    Unexpected(String),
}

/// One frame. Its parts share the memory that it was read into.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// What it is.
    pub(crate) kind: Kind,
    /// `FLAG_*`
    pub(crate) flags: u8,
    /// Request id, or token.
    pub(crate) id: u64,
    /// Per kind: the deadline of a CALL, the version in READY, the level in LOG, the number of an ITEM.
    pub(crate) arg: u64,
    name: Bytes,
    /// The JSON text, unchecked; empty for nothing.
    pub(crate) json: Bytes,
    /// Raw buffers that travel beside the JSON.
    pub(crate) buffers: Vec<Bytes>,
    /// Where those of them are that are empty here.
    pub(crate) placed: Option<Box<Placed>>,
}

impl Frame {
    /// Whether it ends a request.
    pub(crate) fn is_answer(&self) -> bool {
        matches!(self.kind, Kind::Result | Kind::Error)
    }

    /// The handler's name, or a status.
    pub(crate) fn name(&self) -> &str {
        // The decoder has checked it.
        std::str::from_utf8(&self.name).unwrap_or_default()
    }
}

/// The fixed part of a frame.
struct Header {
    length: usize,
    kind: Kind,
    flags: u8,
    name: usize,
    id: u64,
    arg: u64,
}

/// An incremental decoder: feed bytes into [`Decoder::buffer`], take frames from [`Decoder::next_frame`].
/// What it holds survives the cancellation of the read that fills it.
#[derive(Debug)]
pub(crate) struct Decoder {
    buffer: BytesMut,
    direction: Direction,
    limit: usize,
}

impl Decoder {
    /// A decoder of frames that go `direction`, whose bodies are at most `limit` bytes long.
    pub(crate) fn new(direction: Direction, limit: usize) -> Self {
        Self { buffer: BytesMut::with_capacity(READ_AHEAD), direction, limit }
    }

    /// The buffer to append what was read to, with room for what is missing.
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        let missing = match self.header() {
            Ok(Some(header)) => (HEADER + header.length).saturating_sub(self.buffer.len()),
            _ => 0,
        };
        if missing > READ_AHEAD {
            self.buffer.reserve(missing);
        } else if self.buffer.capacity() - self.buffer.len() < READ_AHEAD / 8 {
            self.buffer.reserve(READ_AHEAD);
        }
        &mut self.buffer
    }

    /// Whether it has nothing, not even a part of a frame.
    pub(crate) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The next whole frame, or `None` until more bytes arrive.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame>, ProtocolError> {
        let Some(header) = self.header()? else {
            return Ok(None);
        };
        if self.buffer.len() < HEADER + header.length {
            return Ok(None);
        }
        self.buffer.advance(HEADER);
        let mut body = self.buffer.split_to(header.length).freeze();
        let name = body.split_to(header.name);
        if std::str::from_utf8(&name).is_err() {
            return Err(ProtocolError::NameNotUtf8);
        }
        let Split { json, buffers, placed } = if header.flags & FLAG_BUFFERS == 0 {
            Split { json: body, ..Split::default() }
        } else {
            split_buffers(body, header.name, header.flags & FLAG_SEGMENT != 0)
                .ok_or(ProtocolError::BadBufferTable { length: header.length })?
        };
        if let Some(placed) = &placed {
            let places = placed.places.iter().map(|place| place.length);
            let length = places.fold(header.length, usize::saturating_add);
            if length > self.limit {
                return Err(ProtocolError::TooLarge { length, limit: self.limit });
            }
        }
        Ok(Some(Frame {
            kind: header.kind,
            flags: header.flags,
            id: header.id,
            arg: header.arg,
            name,
            json,
            buffers,
            placed: placed.map(Box::new),
        }))
    }

    /// At the end of the stream: whether it ended between frames.
    pub(crate) fn finish(&self) -> Result<(), ProtocolError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let length = self.header()?.map_or(0, |header| header.length);
        Err(ProtocolError::Truncated {
            missing: HEADER + length - self.buffer.len().min(HEADER + length),
        })
    }

    /// The checked header of the frame that starts the buffer, once it is there.
    fn header(&self) -> Result<Option<Header>, ProtocolError> {
        let Some(mut bytes) = self.buffer.get(..HEADER) else {
            return Ok(None);
        };
        let length = bytes.get_u32_le() as usize;
        let kind = bytes.get_u8();
        let flags = bytes.get_u8();
        let name = usize::from(bytes.get_u16_le());
        let id = bytes.get_u64_le();
        let arg = bytes.get_u64_le();
        let kind = Kind::from_wire(kind).ok_or(ProtocolError::UnknownKind(kind))?;
        if kind.direction() != self.direction {
            return Err(ProtocolError::WrongDirection(kind));
        }
        let with_buffers = if flags & FLAG_BUFFERS == 0 { 0 } else { FLAG_SEGMENT };
        let known = FLAG_BUFFERS | FLAG_RECYCLE | FLAG_STREAM | FLAG_WATCH | with_buffers;
        let reserved = flags & !known;
        if reserved != 0 {
            return Err(ProtocolError::ReservedFlags(reserved));
        }
        if length > self.limit {
            return Err(ProtocolError::TooLarge { length, limit: self.limit });
        }
        if name > length {
            return Err(ProtocolError::NameTooLong { name, length });
        }
        Ok(Some(Header { length, kind, flags, name, id, arg }))
    }
}

/// What follows the name.
#[derive(Default)]
struct Split {
    json: Bytes,
    buffers: Vec<Bytes>,
    placed: Option<Placed>,
}

/// Splits what follows the name into the JSON and the buffers; `None` where the table and the body disagree.
fn split_buffers(mut rest: Bytes, name: usize, segment: bool) -> Option<Split> {
    const ALIGN: usize = 8;
    // Alignment counts from the body's start, which is `name` bytes before `rest`.
    let mut at = name;
    if rest.len() < 8 {
        return None;
    }
    let count = rest.get_u32_le() as usize;
    let json_length = rest.get_u32_le() as usize;
    at += 8;
    let mut placed = None;
    if segment {
        if rest.len() < 16 {
            return None;
        }
        let serial = rest.get_u64_le();
        let generation = rest.get_u32_le();
        if rest.get_u32_le() != 0 {
            return None;
        }
        placed = Some(Placed { generation, serial, places: Vec::new() });
        at += 16;
    }
    let entry = if segment { 8 } else { 4 };
    if count > MAX_BUFFERS || rest.len() / entry < count {
        return None;
    }
    let mut lengths = Vec::with_capacity(count);
    for index in 0..count {
        let length = rest.get_u32_le() as usize;
        match &mut placed {
            None => lengths.push(length),
            Some(placed) => match rest.get_u32_le() as usize {
                0 => lengths.push(length),
                place => {
                    placed.places.push(Place { index, offset: (place - 1) * PLACE_UNIT, length });
                    lengths.push(0);
                }
            },
        }
    }
    at += entry * count;
    if rest.len() < json_length {
        return None;
    }
    let json = rest.split_to(json_length);
    at += json_length;
    let mut buffers = Vec::with_capacity(count);
    let mut places = placed.iter().flat_map(|placed| &placed.places).peekable();
    for (index, length) in lengths.into_iter().enumerate() {
        if places.next_if(|place| place.index == index).is_some() {
            buffers.push(Bytes::new());
            continue;
        }
        let padding = at.next_multiple_of(ALIGN) - at;
        if rest.len() < padding.checked_add(length)? || rest[..padding].iter().any(|&b| b != 0) {
            return None;
        }
        rest.advance(padding);
        buffers.push(rest.split_to(length));
        at += padding + length;
    }
    rest.is_empty().then_some(Split { json, buffers, placed })
}
