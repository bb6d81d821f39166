//! Writing frames.

use bytes::{Bytes, BytesMut};

use super::{FLAG_BUFFERS, FLAG_SEGMENT, HEADER, Kind, PLACE_UNIT, Placed};

/// Each buffer starts at a multiple of it, counted from the body's start.
const ALIGN: usize = 8;

/// A finished frame on its way: what is encoded, and the buffers that follow it, in whatever memory they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    /// Header, name, table of the buffers, JSON.
    head: Bytes,
    buffers: Vec<Bytes>,
}

impl Message {
    /// What it is.
    pub(crate) fn kind(&self) -> Option<Kind> {
        Kind::from_wire(*self.head.get(4)?)
    }

    /// What follows the rest of the frame.
    pub(crate) fn buffers(&self) -> &[Bytes] {
        &self.buffers
    }

    /// Bytes that it takes, but for padding.
    pub(crate) fn size(&self) -> usize {
        self.head.len() + self.buffers.iter().map(Bytes::len).sum::<usize>()
    }

    /// The frame that says where some of its buffers lie, and has the others.
    pub(crate) fn placed(self, placed: &Placed) -> Self {
        let Self { head, buffers } = self;
        let name = head.get(6..8).map_or(0, |b| usize::from(u16::from_le_bytes([b[0], b[1]])));
        let table = HEADER + name;
        let json = table + 8 + 4 * buffers.len();
        let mut places = vec![0_u32; buffers.len()];
        for place in &placed.places {
            if let Some(number) = places.get_mut(place.index) {
                *number = u32::try_from(place.offset / PLACE_UNIT + 1).unwrap_or(u32::MAX);
            }
        }
        let mut bytes = Vec::with_capacity(head.len() + 16 + 4 * buffers.len());
        bytes.extend_from_slice(&head[..table + 8]);
        bytes.extend_from_slice(&placed.serial.to_le_bytes());
        bytes.extend_from_slice(&placed.generation.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        for (length, place) in head[table + 8..json].chunks_exact(4).zip(&places) {
            bytes.extend_from_slice(length);
            bytes.extend_from_slice(&place.to_le_bytes());
        }
        bytes.extend_from_slice(&head[json..]);
        let inline = buffers.into_iter().zip(places).filter(|(_, place)| *place == 0);
        let buffers: Vec<Bytes> = inline.map(|(buffer, _)| buffer).collect();
        bytes[5] |= FLAG_SEGMENT;
        let body = buffers
            .iter()
            .fold(bytes.len() - HEADER, |at, buffer| at.next_multiple_of(ALIGN) + buffer.len());
        // It is shorter than what was within the limit, or 24 bytes longer: too long for its field it is never.
        bytes[..4].copy_from_slice(&u32::try_from(body).unwrap_or(u32::MAX).to_le_bytes());
        Self { head: bytes.into(), buffers }
    }

    /// The same under another id.
    pub(crate) fn renamed(self, id: u64) -> Self {
        let mut head = BytesMut::from(self.head);
        head[8..16].copy_from_slice(&id.to_le_bytes());
        Self { head: head.freeze(), ..self }
    }

    /// The bytes of the frame, in order; none of the pieces is empty.
    pub(crate) fn into_pieces(self) -> impl Iterator<Item = Bytes> {
        const ZEROS: &[u8] = &[0; ALIGN];
        let mut at = self.head.len() - HEADER;
        let padded = self.buffers.into_iter().flat_map(move |buffer| {
            let padding = at.next_multiple_of(ALIGN) - at;
            at += padding + buffer.len();
            [Bytes::from_static(&ZEROS[..padding]), buffer]
        });
        std::iter::once(self.head).chain(padded).filter(|piece| !piece.is_empty())
    }
}

impl From<Vec<u8>> for Message {
    fn from(frame: Vec<u8>) -> Self {
        Bytes::from(frame).into()
    }
}

impl From<Bytes> for Message {
    fn from(frame: Bytes) -> Self {
        Self { head: frame, buffers: Vec::new() }
    }
}

/// Builds one frame in one buffer: header, name, then whatever JSON is appended. What the header says is filled
/// in at the end.
#[derive(Debug)]
pub(crate) struct FrameBuilder {
    bytes: Vec<u8>,
    name: u16,
    buffers: Vec<Bytes>,
}

impl FrameBuilder {
    /// Starts a frame. `name` is at most 65 535 bytes long; its callers see to that.
    pub(crate) fn new(kind: Kind, name: &str) -> Self {
        debug_assert!(u16::try_from(name.len()).is_ok());
        let mut bytes = Vec::with_capacity(HEADER + name.len() + 104);
        bytes.resize(HEADER, 0);
        bytes[4] = kind as u8;
        bytes[6..8].copy_from_slice(&(name.len() as u16).to_le_bytes());
        bytes.extend_from_slice(name.as_bytes());
        Self { bytes, name: name.len() as u16, buffers: Vec::new() }
    }

    /// A frame without name and JSON.
    pub(crate) fn bare(kind: Kind, id: u64) -> Vec<u8> {
        let mut frame = Self::new(kind, "");
        frame.fill(0, id, 0);
        frame.bytes
    }

    /// Sets a flag.
    pub(crate) fn flag(&mut self, flag: u8) {
        self.bytes[5] |= flag;
    }

    /// Adds to the name, in front of what the body has already. Returns whether it fits.
    pub(crate) fn append_to_name(&mut self, more: &str) -> bool {
        let Ok(length) = u16::try_from(usize::from(self.name) + more.len()) else {
            return false;
        };
        let end = HEADER + usize::from(self.name);
        self.bytes.splice(end..end, more.bytes());
        self.name = length;
        self.bytes[6..8].copy_from_slice(&length.to_le_bytes());
        true
    }

    /// Where the JSON goes.
    pub(crate) fn json(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// These go beside the JSON: see [`FrameBuilder::message`].
    pub(crate) fn beside(&mut self, buffers: Vec<Bytes>) {
        self.buffers = buffers;
    }

    /// Takes the finished frame out, its buffers apart; or returns the size of its body in bytes if that is over `limit`.
    pub(crate) fn message(&mut self, id: u64, arg: u64, limit: usize) -> Result<Message, usize> {
        let buffers = std::mem::take(&mut self.buffers);
        if buffers.is_empty() {
            return self.finish(id, arg, limit).map(Message::from);
        }
        let start = HEADER + usize::from(self.name);
        let lengths = [buffers.len(), self.bytes.len() - start];
        let lengths = lengths.into_iter().chain(buffers.iter().map(Bytes::len));
        // One that is longer is over any limit.
        let table = lengths.flat_map(|n| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes());
        self.bytes.splice(start..start, table.collect::<Vec<u8>>());
        let body = self.bytes.len() - HEADER;
        let length =
            buffers.iter().fold(body, |at, buffer| at.next_multiple_of(ALIGN) + buffer.len());
        match u32::try_from(length) {
            Ok(wire) if length <= limit => {
                self.bytes[5] |= FLAG_BUFFERS;
                self.fill(wire, id, arg);
                Ok(Message { head: std::mem::take(&mut self.bytes).into(), buffers })
            }
            _ => Err(length),
        }
    }

    /// Takes the finished frame out; or returns the size of its body in bytes if that is over `limit`.
    pub(crate) fn finish(&mut self, id: u64, arg: u64, limit: usize) -> Result<Vec<u8>, usize> {
        let length = self.bytes.len() - HEADER;
        match u32::try_from(length) {
            Ok(wire) if length <= limit => {
                self.fill(wire, id, arg);
                Ok(std::mem::take(&mut self.bytes))
            }
            _ => Err(length),
        }
    }

    fn fill(&mut self, length: u32, id: u64, arg: u64) {
        self.bytes[..4].copy_from_slice(&length.to_le_bytes());
        self.bytes[6..8].copy_from_slice(&self.name.to_le_bytes());
        self.bytes[8..16].copy_from_slice(&id.to_le_bytes());
        self.bytes[16..24].copy_from_slice(&arg.to_le_bytes());
    }
}
