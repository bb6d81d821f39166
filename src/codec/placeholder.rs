//! What stands in the JSON for a buffer: `{"\0snakepen": [index]}` for bytes, `[index, dtype, shape]` for an array, and
//! `[index, "arrow"]` for a stream of Arrow's IPC format.

use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::ser::{Error as _, SerializeMap, Serializer};

use super::{KEY, READING, WRITING};

/// The most buffers beside one JSON; that of the wire protocol.
const MAX_BUFFERS: usize = 65_535;

/// What a table says it is.
const ARROW: &str = "arrow";

/// What a buffer is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum What<'a> {
    Bytes,
    Array(&'a str, &'a [usize]),
    #[cfg(feature = "arrow")]
    Arrow,
}

/// A buffer as it comes.
#[derive(Debug)]
pub(crate) enum Came {
    Bytes(Bytes),
    Array {
        dtype: String,
        shape: Vec<usize>,
        data: Bytes,
    },
    /// Read with the feature `arrow`.
    Arrow(#[cfg_attr(not(feature = "arrow"), expect(dead_code))] Bytes),
}

impl Came {
    /// What it is, for an error.
    pub(crate) fn is(&self) -> String {
        match self {
            Came::Arrow(_) => {
                "an Arrow table: read it as `snakepen::ArrowTable` (feature `arrow`)".to_owned()
            }
            Came::Bytes(data) => format!("{} bytes: read them as `snakepen::Buffer`", data.len()),
            Came::Array { dtype, shape, .. } => {
                format!(
                    "an array of dtype {dtype} and shape {shape:?}: read it as `snakepen::Array`"
                )
            }
        }
    }
}

/// Puts a buffer beside the JSON that is being written, and its placeholder into it.
pub(crate) fn put<S: Serializer>(
    serializer: S,
    data: &Bytes,
    what: What<'_>,
) -> Result<S::Ok, S::Error> {
    let index = WRITING.with_borrow_mut(|list| {
        let list = list.as_mut().ok_or(
            "a Buffer or Array is sent only as an argument of a call, or as a part of one: it has no JSON of its own \
             (`json!` and `to_value` ask for that: use a tuple or a struct; a session takes one by `put_value`)",
        )?;
        if list.len() >= MAX_BUFFERS {
            return Err("one call carries at most 65535 buffers");
        }
        list.push(data.clone());
        Ok(list.len() - 1)
    });
    let index = index.map_err(S::Error::custom)?;
    let mut map = serializer.serialize_map(Some(1))?;
    match what {
        What::Bytes => map.serialize_entry(KEY, &(index,))?,
        What::Array(dtype, shape) => map.serialize_entry(KEY, &(index, dtype, shape))?,
        #[cfg(feature = "arrow")]
        What::Arrow => map.serialize_entry(KEY, &(index, ARROW))?,
    }
    map.end()
}

/// Takes the buffer whose placeholder comes next; `expected` is for errors.
pub(crate) fn take<'de, D: Deserializer<'de>>(
    deserializer: D,
    expected: &'static str,
) -> Result<Came, D::Error> {
    deserializer.deserialize_map(Placeholder(expected))
}

struct Placeholder(&'static str);

impl<'de> Visitor<'de> for Placeholder {
    type Value = Came;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Came, A::Error> {
        if map.next_key::<String>()?.as_deref() != Some(KEY) {
            return Err(A::Error::invalid_type(Unexpected::Map, &self));
        }
        let Entry { index, dtype, shape } = map.next_value()?;
        if map.next_key::<IgnoredAny>()?.is_some() {
            return Err(A::Error::invalid_type(Unexpected::Map, &self));
        }
        let data = READING.with_borrow_mut(|reading| {
            let reading = reading.as_mut()?;
            *reading.taken.get_mut(index)? = true;
            reading.buffers.get(index).cloned()
        });
        let Some(data) = data else {
            return Err(A::Error::custom(
                "a Buffer or Array is read only from the result of a call: its bytes are not here",
            ));
        };
        match (dtype, shape) {
            (None, _) => Ok(Came::Bytes(data)),
            (Some(dtype), Some(shape)) => Ok(Came::Array { dtype, shape, data }),
            (Some(kind), None) if kind == ARROW => Ok(Came::Arrow(data)),
            (Some(kind), None) => {
                Err(A::Error::custom(format_args!("a buffer of unknown kind {kind:?}")))
            }
        }
    }
}

/// What a placeholder says.
struct Entry {
    index: usize,
    dtype: Option<String>,
    shape: Option<Vec<usize>>,
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Entry;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a placeholder for a buffer")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Entry, A::Error> {
                let index =
                    list.next_element()?.ok_or_else(|| A::Error::invalid_length(0, &self))?;
                let dtype = list.next_element()?;
                let shape = list.next_element()?;
                Ok(Entry { index, dtype, shape })
            }
        }
        deserializer.deserialize_seq(List)
    }
}
