//! A value as JSON with raw buffers beside it, and back.
//!
//! A [`Buffer`](crate::Buffer) or an [`Array`](crate::Array) puts its bytes into a list while it is serialized, and a
//! *placeholder* into the JSON: an object whose only key is [`KEY`], which says where in the list they are
//! ([`placeholder`]). The list is a thread-local, there for as long as one of our own [`encode`] or [`decode`] is at work.
//!
//! No value of a user's is taken for a placeholder. Nothing is looked for where no buffers are; where there are, the text
//! [`OPENING`], which JSON cannot have inside of a string, must stand in it once for each.

pub(crate) mod placeholder;

use std::cell::RefCell;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::wire::json::{self, EncodeError};

/// The key of a placeholder.
const KEY: &str = "\0snakepen";

/// How a placeholder begins in JSON; both sides write it so.
const OPENING: &[u8] = br#"{"\u0000snakepen":"#;

/// What a lone surrogate in place of the zero makes of a key: one that nothing but `IgnoredAny` reads.
const UNREADABLE: &[u8] = br"\ud800";

/// What a RESULT carries.
#[derive(Clone, Debug, Default)]
pub(crate) struct Payload {
    /// The JSON text, unchecked.
    pub(crate) json: Bytes,
    /// What its placeholders stand for.
    pub(crate) buffers: Vec<Bytes>,
}

impl Payload {
    /// Bytes of all of it.
    pub(crate) fn len(&self) -> usize {
        self.json.len() + self.buffers.iter().map(Bytes::len).sum::<usize>()
    }
}

/// The buffers that a value may take while it is read.
#[derive(Debug)]
struct Reading {
    buffers: Vec<Bytes>,
    taken: Vec<bool>,
}

thread_local! {
    static WRITING: RefCell<Option<Vec<Bytes>>> = const { RefCell::new(None) };
    static READING: RefCell<Option<Reading>> = const { RefCell::new(None) };
}

// === To Python ===

/// Appends `value` to `out` as compact JSON, and returns what goes beside it. On an error `out` is as it was.
pub(crate) fn encode<T: Serialize + ?Sized>(
    out: &mut Vec<u8>,
    value: &T,
) -> Result<Vec<Bytes>, EncodeError> {
    let start = out.len();
    let scope = Writing::begin();
    json::to_writer(out, value)?;
    let buffers = scope.end();
    if !buffers.is_empty() && places(out.get(start..).unwrap_or_default()).len() != buffers.len() {
        out.truncate(start);
        return Err(EncodeError {
            message: "a buffer is not an object of its own in the JSON, or a map has its key: give it a field of its own, \
                      not one that is flattened, internally tagged, or made into text"
                .to_owned(),
            path: "$".to_owned(),
        });
    }
    Ok(buffers)
}

/// A list of buffers for as long as one value is written; what was there before comes back at its end, also where a
/// `Serialize` panics or encodes another call.
struct Writing(Option<Vec<Bytes>>);

impl Writing {
    fn begin() -> Self {
        Self(WRITING.replace(Some(Vec::new())))
    }

    fn end(self) -> Vec<Bytes> {
        // The rest is up to `drop`.
        WRITING.take().unwrap_or_default()
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        WRITING.set(self.0.take());
    }
}

// === From Python ===

/// Reads a value, and the buffers that stand in it.
pub(crate) fn decode<T: DeserializeOwned>(payload: &Payload) -> Result<T, String> {
    if payload.buffers.is_empty() {
        return serde_json::from_slice(&payload.json).map_err(|error| error.to_string());
    }
    let places = checked_places(payload)?;
    let (value, taken) = read(&payload.json, &payload.buffers).map_err(|error| {
        let count = payload.buffers.len();
        format!(
            "{error}; there are {count} buffers and arrays in it: read those as `snakepen::Buffer` or `snakepen::Array`"
        )
    })?;
    if taken.iter().all(|&taken| taken) {
        return Ok(value);
    }
    // A buffer that was not taken was skipped, which is fine, or its placeholder was read as if it were data. Which of
    // them, a text tells whose placeholders can be skipped and not read.
    let mut text = payload.json.to_vec();
    for (at, index) in places {
        if taken.get(index).is_none_or(|&taken| !taken)
            && let Some(zero) = text.get_mut(at + 2..at + 2 + UNREADABLE.len())
        {
            zero.copy_from_slice(UNREADABLE);
        }
    }
    read(&text, &payload.buffers).map(|(value, _)| value).map_err(|_| {
        let missed = taken.iter().filter(|&&taken| !taken).count();
        format!(
            "{missed} of the result's {} buffers and arrays are where the type has no place for them: read them as \
             `snakepen::Buffer` or `snakepen::Array`",
            taken.len()
        )
    })
}

/// The value, and which buffers it has taken.
fn read<T: DeserializeOwned>(text: &[u8], buffers: &[Bytes]) -> Result<(T, Vec<bool>), String> {
    struct Restore(Option<Reading>);
    impl Drop for Restore {
        fn drop(&mut self) {
            READING.set(self.0.take());
        }
    }
    let taken = vec![false; buffers.len()];
    let _before = Restore(READING.replace(Some(Reading { buffers: buffers.to_vec(), taken })));
    let value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    Ok((value, READING.take().map(|reading| reading.taken).unwrap_or_default()))
}

/// The placeholders of a payload, if there is one for each buffer.
fn checked_places(payload: &Payload) -> Result<Vec<(usize, usize)>, String> {
    let places = places(&payload.json);
    let count = payload.buffers.len();
    let mut seen = vec![false; count];
    for &(_, index) in &places {
        match seen.get_mut(index) {
            Some(seen) if !*seen => *seen = true,
            _ => {
                return Err(format!("a placeholder for buffer {index} of {count} is one too many"));
            }
        }
    }
    if places.len() == count {
        return Ok(places);
    }
    Err(format!("{} placeholders for {count} buffers", places.len()))
}

/// Where in a JSON text placeholders begin, and the index that each names.
fn places(text: &[u8]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(rest) = text.get(at..) {
        let Some(next) = rest.iter().position(|&byte| byte == b'{') else { break };
        at += next;
        if text[at..].starts_with(OPENING) {
            let index = text[at + OPENING.len()..].iter().skip(1).map_while(|&byte| {
                let digit = byte.wrapping_sub(b'0');
                (digit < 10).then_some(usize::from(digit))
            });
            // At most as many as there are buffers are right, so that too large a number is wrong either way.
            let index = index.take(9).fold(0, |index, digit| 10 * index + digit);
            found.push((at, index));
        }
        at += 1;
    }
    found
}

#[cfg(test)]
mod tests;
