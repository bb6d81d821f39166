//! Compact JSON that refuses NaN and infinities.
//!
//! JSON has no spelling for a non-finite float, and `serde_json` writes `null` for one. The reader then sees a
//! missing value where the writer had a broken one, and nobody is told. [`to_writer`] makes it an error that
//! names the place, and writes the very bytes `serde_json::to_writer` writes otherwise.
//!
//! # How
//!
//! [`Strict`] wraps `serde_json`'s serializer and forwards every call; the two float methods check their
//! argument first. Everything nested is handed on inside [`Nested`], which puts the wrapper back on when
//! `serde_json` comes to serialize it. Inlining takes away nearly all of both.
//!
//! The path in an error is not tracked at all: the text written so far says where the writer was
//! (`{"a":[1,{"b":` is `$.a[1].b`), so [`path_to_end`] reads it off that text, after the fact. Success pays
//! nothing for it, and the caller's `Serialize` runs once only, which matters for those that cannot repeat
//! themselves (drained iterators, cells, counters).

use std::fmt::Display;

use serde::Serialize;
use serde::ser::{
    SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

/// Why, and where, a value could not be written as JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} at {path}")]
pub(crate) struct EncodeError {
    /// What is wrong with the value; does not name the place.
    pub(crate) message: String,
    /// The place, from the root `$`, as in `$.a[3].b` or `$["odd key"]`.
    ///
    /// Exact for non-finite floats that are values. For a refused map key it is the map (a key has no path of
    /// its own). For an error a caller's `Serialize` raises itself it is the innermost value being written,
    /// except that one raised in an array still empty is laid to element 0.
    pub(crate) path: String,
}

/// Appends `value` to `out` as compact JSON.
///
/// On success the appended bytes are those of `serde_json::to_writer`.
///
/// # Errors
///
/// When `value` holds a non-finite float, or when `serde_json` or the value's own `Serialize` refuses. `out`
/// then holds what it held before, so that a caller may go on with the same buffer (to answer with the error,
/// say).
///
/// A `Serialize` must pass on the errors it gets. One that drops them and goes on makes broken JSON, here as with
/// any error of `serde_json`.
pub(crate) fn to_writer<T: Serialize + ?Sized>(
    out: &mut Vec<u8>,
    value: &T,
) -> Result<(), EncodeError> {
    let start = out.len();
    let mut json = serde_json::Serializer::new(&mut *out);
    value.serialize(Strict(&mut json)).map_err(|error| give_up(out, start, &error))
}

/// The error path of [`to_writer`], apart because that one is instantiated for every type and this need not be.
#[cold]
fn give_up(out: &mut Vec<u8>, start: usize, error: &serde_json::Error) -> EncodeError {
    let path = path_to_end(out.get(start..).unwrap_or_default());
    out.truncate(start);
    EncodeError { message: error.to_string(), path }
}

/// An array or object that is still open where the text ends.
enum Open<'a> {
    /// With the index of the element begun last.
    Array(usize),
    /// With the member name read last, quotes off and escapes left on; none where a name is due.
    Object(Option<&'a [u8]>),
}

/// The path to the value due, or being written, at the end of `partial`, which is JSON text broken off between
/// two tokens.
///
/// No parser is needed: the text came out of `serde_json`, so only brackets, commas and strings matter. Text
/// that is not JSON after all (a `Serialize` that lies about its length) gives a wrong path, never a panic.
fn path_to_end(partial: &[u8]) -> String {
    let mut stack: Vec<Open<'_>> = Vec::new();
    let mut at = 0;
    while let Some(&byte) = partial.get(at) {
        at += 1;
        match byte {
            b'[' => stack.push(Open::Array(0)),
            b'{' => stack.push(Open::Object(None)),
            b']' | b'}' => {
                stack.pop();
            }
            b',' => match stack.last_mut() {
                Some(Open::Array(index)) => *index += 1,
                Some(Open::Object(name)) => *name = None,
                None => {}
            },
            b'"' => {
                let rest = partial.get(at..).unwrap_or_default();
                let mut escaped = false;
                let ends = |&byte: &u8| {
                    let ends = byte == b'"' && !escaped;
                    escaped = byte == b'\\' && !escaped;
                    ends
                };
                let text = rest.split(ends).next().unwrap_or_default();
                at += text.len() + 1;
                if let Some(Open::Object(name @ None)) = stack.last_mut() {
                    *name = Some(text);
                }
            }
            _ => {}
        }
    }
    // After a finished value (or before any name) nothing is due: the fault is with the container, not with the
    // member it finished last.
    if !matches!(partial.last(), Some(b'[' | b',' | b':')) {
        stack.pop();
    }

    let mut path = String::from("$");
    for open in &stack {
        match open {
            Open::Array(index) => path.push_str(&format!("[{index}]")),
            Open::Object(Some(name)) => push_name(&mut path, name),
            Open::Object(None) => {}
        }
    }
    path
}

/// Adds a member name, quoted unless it reads like an identifier. `name` is in JSON's escapes already, so a
/// hostile one cannot break a log line.
fn push_name(path: &mut String, name: &[u8]) {
    let plain = name.iter().all(|&byte| byte == b'_' || byte.is_ascii_alphanumeric())
        && name.first().is_some_and(|byte| !byte.is_ascii_digit());
    let name = String::from_utf8_lossy(name);
    if plain {
        path.push('.');
        path.push_str(&name);
    } else {
        path.push_str(&format!("[\"{name}\"]"));
    }
}

/// Kept out of line: it is the one thing the float methods add, and inlined it would drag formatting code into
/// every loop over floats.
#[cold]
#[inline(never)]
fn non_finite<E: serde::ser::Error>(value: f64) -> E {
    // `Display` of a float says "NaN", "inf" or "-inf".
    E::custom(format_args!("{value} is not a JSON number (send null or a string instead)"))
}

/// A serializer, or one of its compound serializers, that refuses non-finite floats and leaves all else to the
/// wrapped one.
///
/// Generic because `serde_json` does not always hand nested values the serializer they were begun with: the
/// single field of a `RawValue`, or of a `Number` under `arbitrary_precision`, gets one of its private ones.
struct Strict<S>(S);

/// A value inside another: wraps the serializer it is given before passing it on, without which strictness
/// would end at the first bracket.
struct Nested<'a, T: ?Sized>(&'a T);

impl<T: Serialize + ?Sized> Serialize for Nested<'_, T> {
    #[inline]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(Strict(serializer))
    }
}

/// Methods of `Serializer` that go through as they are.
macro_rules! forward {
    ($($method:ident($($arg:ident: $type:ty),*);)*) => {$(
        #[inline]
        fn $method(self, $($arg: $type),*) -> Result<S::Ok, S::Error> {
            self.0.$method($($arg),*)
        }
    )*};
}

/// Methods of `Serializer` that begin something whose parts are to be checked. Names are passed unchanged:
/// `serde_json` knows `RawValue` and `Number` by theirs.
macro_rules! begin {
    ($($method:ident($($arg:ident: $type:ty),*) -> $compound:ident;)*) => {$(
        #[inline]
        fn $method(self, $($arg: $type),*) -> Result<Self::$compound, S::Error> {
            self.0.$method($($arg),*).map(Strict)
        }
    )*};
}

impl<S: Serializer> Serializer for Strict<S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Strict<S::SerializeSeq>;
    type SerializeTuple = Strict<S::SerializeTuple>;
    type SerializeTupleStruct = Strict<S::SerializeTupleStruct>;
    type SerializeTupleVariant = Strict<S::SerializeTupleVariant>;
    type SerializeMap = Strict<S::SerializeMap>;
    type SerializeStruct = Strict<S::SerializeStruct>;
    type SerializeStructVariant = Strict<S::SerializeStructVariant>;

    #[inline]
    fn serialize_f32(self, v: f32) -> Result<S::Ok, S::Error> {
        if v.is_finite() { self.0.serialize_f32(v) } else { Err(non_finite(f64::from(v))) }
    }

    #[inline]
    fn serialize_f64(self, v: f64) -> Result<S::Ok, S::Error> {
        if v.is_finite() { self.0.serialize_f64(v) } else { Err(non_finite(v)) }
    }

    // The provided 128 bit methods refuse, and the provided `collect_str` and `is_human_readable` would bypass
    // what the wrapped serializer does: these four need forwarding though the trait does not demand it.
    // `collect_seq` and `collect_map` must keep their provided bodies, which come back here.
    forward! {
        serialize_bool(v: bool);
        serialize_i8(v: i8);
        serialize_i16(v: i16);
        serialize_i32(v: i32);
        serialize_i64(v: i64);
        serialize_i128(v: i128);
        serialize_u8(v: u8);
        serialize_u16(v: u16);
        serialize_u32(v: u32);
        serialize_u64(v: u64);
        serialize_u128(v: u128);
        serialize_char(v: char);
        serialize_str(v: &str);
        serialize_bytes(v: &[u8]);
        serialize_none();
        serialize_unit();
        serialize_unit_struct(name: &'static str);
        serialize_unit_variant(name: &'static str, index: u32, variant: &'static str);
    }

    begin! {
        serialize_seq(len: Option<usize>) -> SerializeSeq;
        serialize_tuple(len: usize) -> SerializeTuple;
        serialize_tuple_struct(name: &'static str, len: usize) -> SerializeTupleStruct;
        serialize_tuple_variant(
            name: &'static str, index: u32, variant: &'static str, len: usize
        ) -> SerializeTupleVariant;
        serialize_map(len: Option<usize>) -> SerializeMap;
        serialize_struct(name: &'static str, len: usize) -> SerializeStruct;
        serialize_struct_variant(
            name: &'static str, index: u32, variant: &'static str, len: usize
        ) -> SerializeStructVariant;
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.0.serialize_some(&Nested(value))
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.0.serialize_newtype_struct(name, &Nested(value))
    }

    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.0.serialize_newtype_variant(name, index, variant, &Nested(value))
    }

    #[inline]
    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.0.collect_str(value)
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

/// The compound traits alike but for names: of the method for a part, of the key it takes if any, and of the
/// method for a part left out if any.
macro_rules! compound {
    ($($trait:ident::$part:ident($($key:ident)?) $($skip:ident)?;)*) => {$(
        impl<C: $trait> $trait for Strict<C> {
            type Ok = C::Ok;
            type Error = C::Error;

            #[inline]
            fn $part<T: Serialize + ?Sized>(
                &mut self,
                $($key: &'static str,)?
                value: &T,
            ) -> Result<(), C::Error> {
                self.0.$part($($key,)? &Nested(value))
            }

            $(#[inline]
            fn $skip(&mut self, key: &'static str) -> Result<(), C::Error> {
                self.0.$skip(key)
            })?

            #[inline]
            fn end(self) -> Result<C::Ok, C::Error> {
                self.0.end()
            }
        }
    )*};
}

compound! {
    SerializeSeq::serialize_element();
    SerializeTuple::serialize_element();
    SerializeTupleStruct::serialize_field();
    SerializeTupleVariant::serialize_field();
    SerializeStruct::serialize_field(key) skip_field;
    SerializeStructVariant::serialize_field(key) skip_field;
}

/// Keys go through unwrapped: a key is a string in JSON whatever it was before, and `serde_json` refuses
/// non-finite float keys itself.
impl<C: SerializeMap> SerializeMap for Strict<C> {
    type Ok = C::Ok;
    type Error = C::Error;

    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), C::Error> {
        self.0.serialize_key(key)
    }

    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
        self.0.serialize_value(&Nested(value))
    }

    #[inline]
    fn serialize_entry<K, V>(&mut self, key: &K, value: &V) -> Result<(), C::Error>
    where
        K: Serialize + ?Sized,
        V: Serialize + ?Sized,
    {
        self.0.serialize_entry(key, &Nested(value))
    }

    #[inline]
    fn end(self) -> Result<C::Ok, C::Error> {
        self.0.end()
    }
}

#[cfg(test)]
mod tests;
