//! Writing frames.

use bytes::{Bytes, BytesMut};

use super::{FLAG_BUFFERS, HEADER, Kind};

/// Builds one frame in one buffer: header, name, then whatever JSON is appended. What the header says is filled
/// in at the end.
#[derive(Debug)]
pub(crate) struct FrameBuilder {
    bytes: Vec<u8>,
    name: u16,
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
        Self { bytes, name: name.len() as u16 }
    }

    /// A frame without name and JSON.
    pub(crate) fn bare(kind: Kind, id: u64) -> Vec<u8> {
        let mut frame = Self::new(kind, "");
        frame.fill(0, id, 0);
        frame.bytes
    }

    /// What there is so far; the header but for the lengths, which [`FrameBuilder::finish`] fills in.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
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

    /// Adds a table of one buffer, `json`, and the buffer; the body ends with it. At most 4 GiB each; what is larger is
    /// over the limit of any frame.
    pub(crate) fn one_buffer(&mut self, json: &[u8], buffer: &[u8]) {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
        self.bytes[5] |= FLAG_BUFFERS;
        self.bytes.extend_from_slice(&1_u32.to_le_bytes());
        self.bytes.extend_from_slice(&length(json));
        self.bytes.extend_from_slice(&length(buffer));
        self.bytes.extend_from_slice(json);
        let body = self.bytes.len() - HEADER;
        self.bytes.resize(HEADER + body.next_multiple_of(8), 0);
        self.bytes.extend_from_slice(buffer);
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

    /// A finished frame under another id.
    pub(crate) fn renamed(frame: Bytes, id: u64) -> Bytes {
        let mut bytes = BytesMut::from(frame);
        bytes[8..16].copy_from_slice(&id.to_le_bytes());
        bytes.freeze()
    }

    fn fill(&mut self, length: u32, id: u64, arg: u64) {
        self.bytes[..4].copy_from_slice(&length.to_le_bytes());
        self.bytes[6..8].copy_from_slice(&self.name.to_le_bytes());
        self.bytes[8..16].copy_from_slice(&id.to_le_bytes());
        self.bytes[16..24].copy_from_slice(&arg.to_le_bytes());
    }
}
