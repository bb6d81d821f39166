//! Bytes that travel beside the JSON.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::codec::placeholder::{Came, What, put, take};

/// Bytes in the arguments or the result of a call. They travel beside the JSON, as they are.
///
/// May stand anywhere in what a call takes and gives: alone, in a tuple, a struct, a list. In Python it is a
/// `memoryview`, read-only unless the handler asks for one that it can write (`@snakepen.handler(writable=True)`); a result
/// may have `bytes`, `bytearray` or `memoryview` for it. Cheap to clone: the bytes are shared. What came from Python shares
/// the memory of the whole answer; [`Buffer::detached`] is a copy that does not.
///
/// It has no JSON of its own: to serialize or deserialize it anywhere but in a call is an error. So
/// `serde_json::json!` does not take one.
///
/// ```
/// use snakepen::Buffer;
///
/// let buffer = Buffer::from(vec![1, 2, 3]);
/// assert_eq!(&buffer[..], [1, 2, 3]);
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Buffer(Bytes);

impl Buffer {
    /// The same bytes in memory of their own.
    pub fn detached(&self) -> Self {
        Self(Bytes::copy_from_slice(&self.0))
    }

    /// The bytes; nothing is copied.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Bytes> for Buffer {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<&'static [u8]> for Buffer {
    fn from(bytes: &'static [u8]) -> Self {
        Self(Bytes::from_static(bytes))
    }
}

impl From<Buffer> for Bytes {
    fn from(buffer: Buffer) -> Self {
        buffer.0
    }
}

/// Says how many there are; they may be a gigabyte.
impl fmt::Debug for Buffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Buffer({} bytes)", self.0.len())
    }
}

impl Serialize for Buffer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        put(serializer, &self.0, What::Bytes)
    }
}

impl<'de> Deserialize<'de> for Buffer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match take(deserializer, "bytes (in Python bytes, bytearray or memoryview)")? {
            Came::Bytes(data) => Ok(Self(data)),
            other => Err(D::Error::custom(format_args!("expected bytes, this is {}", other.is()))),
        }
    }
}
