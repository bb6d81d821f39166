//! What a session holds.

use bytes::Bytes;
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::SessionError;

/// NumPy allows no more dimensions.
const MAX_DIMENSIONS: usize = 64;

/// The longest `dtype`; those of plain numbers have 3 bytes.
const MAX_DTYPE: usize = 1024;

/// A value of a session. Cheap to clone: the bytes are shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// JSON text, as [`Session::put`](super::Session::put) writes it.
    Json(Bytes),
    /// Bytes; in Python a `bytes` object.
    Bytes(Bytes),
    /// An array of numbers; in Python a NumPy array.
    Array {
        /// The type of its elements, as NumPy's `dtype.str` gives it: `"<f8"`.
        dtype: String,
        /// Its extent in each dimension; empty for a single number.
        shape: Vec<usize>,
        /// Its elements, in C order.
        data: Bytes,
    },
}

impl Value {
    /// Writes it as JSON.
    ///
    /// # Errors
    ///
    /// [`SessionError::Encode`] for what JSON cannot say; NaN and the infinities are such values.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, SessionError> {
        let mut text = Vec::new();
        crate::wire::json::to_writer(&mut text, value)
            .map_err(|error| SessionError::Encode { message: error.to_string() })?;
        Ok(Value::Json(text.into()))
    }

    /// Reads it as JSON.
    ///
    /// # Errors
    ///
    /// [`SessionError::Decode`] if it is not JSON, or none that fits the type.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, SessionError> {
        let wrong = |message: String| SessionError::Decode { message };
        match self {
            Value::Json(text) => {
                serde_json::from_slice(text).map_err(|error| wrong(error.to_string()))
            }
            Value::Bytes(_) => Err(wrong("the value is bytes: read it with `get_value`".into())),
            Value::Array { .. } => {
                Err(wrong("the value is an array: read it with `get_value`".into()))
            }
        }
    }

    /// The bytes that it takes of the store's bounds: its contents, and for an array its dtype and 8 a dimension.
    pub fn size(&self) -> usize {
        match self {
            Value::Json(data) | Value::Bytes(data) => data.len(),
            Value::Array { dtype, shape, data } => dtype.len() + 8 * shape.len() + data.len(),
        }
    }

    /// Whether it is what its kind says.
    pub(crate) fn check(&self) -> Result<(), SessionError> {
        let reject = |message: String| Err(SessionError::Invalid { what: "value", message });
        match self {
            Value::Bytes(_) => Ok(()),
            Value::Json(text) => match serde_json::from_slice::<IgnoredAny>(text) {
                Ok(_) => Ok(()),
                Err(error) => reject(format!("it is not JSON: {error}")),
            },
            Value::Array { dtype, shape, data } => {
                if dtype.is_empty() || dtype.len() > MAX_DTYPE {
                    return reject(format!("a dtype has 1 to {MAX_DTYPE} bytes"));
                }
                if shape.len() > MAX_DIMENSIONS {
                    return reject(format!("an array has at most {MAX_DIMENSIONS} dimensions"));
                }
                let empty = shape.contains(&0);
                let elements =
                    shape.iter().try_fold(1_usize, |product, &extent| product.checked_mul(extent));
                let fits = match elements {
                    _ if empty => data.is_empty(),
                    Some(elements) => !data.is_empty() && data.len().is_multiple_of(elements),
                    None => false,
                };
                if fits {
                    return Ok(());
                }
                reject(format!("{} bytes are no array of shape {shape:?}", data.len()))
            }
        }
    }

    /// The same in memory of its own: a value that is kept must not keep the frame that it came in.
    pub(crate) fn detached(self) -> Self {
        let own = |data: Bytes| Bytes::copy_from_slice(&data);
        match self {
            Value::Json(text) => Value::Json(own(text)),
            Value::Bytes(data) => Value::Bytes(own(data)),
            Value::Array { dtype, shape, data } => Value::Array { dtype, shape, data: own(data) },
        }
    }
}
