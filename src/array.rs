//! Arrays of numbers that travel beside the JSON.

mod dtype;
#[cfg(feature = "ndarray")]
mod ndarray;

use std::fmt;

use bytes::Bytes;
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::codec::placeholder::{Came, What, put, take};
use crate::session::{SessionError, Value};

pub use dtype::Element;

/// NumPy allows no more dimensions.
const MAX_DIMENSIONS: usize = 64;

/// An array in the arguments or the result of a call. Its elements travel beside the JSON, as they are.
///
/// May stand wherever a [`Buffer`](crate::Buffer) may. In Python it is a NumPy array over the very memory that came, or, where
/// NumPy cannot be imported, a `memoryview` of the same format and shape; read-only unless the handler asks for one that it can
/// write (`@snakepen.handler(writable=True)`). A result may have a NumPy array for it, an `array.array`, or whatever else has
/// the buffer protocol.
///
/// Cheap to clone: the elements are shared, and share the memory of the whole answer that they came in.
///
/// ```
/// use snakepen::Array;
///
/// # fn main() -> Result<(), snakepen::ArrayError> {
/// let array = Array::from_slice([2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])?;
/// assert_eq!((array.dtype.as_str(), &array.shape[..]), ("<f8", &[2, 3][..]));
/// assert_eq!(array.to_vec::<f64>()?[4], 5.0);
/// assert!(array.to_vec::<f32>().is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Array {
    /// The type of its elements, as NumPy's `dtype.str` gives it: `"<f8"`. Numbers of more than one byte are little-endian.
    pub dtype: String,
    /// Its extent in each dimension; empty for a single number.
    pub shape: Vec<usize>,
    /// Its elements, in C order.
    pub data: Bytes,
}

/// Why something is not the array that it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArrayError {
    /// Elements of another type were asked for.
    #[error(
        "the array's dtype is {found}, not {expected}: convert it in Python, `array.astype(\"{expected}\")`"
    )]
    Dtype {
        /// What the array has.
        found: String,
        /// What was asked for.
        expected: String,
    },
    /// The elements' bytes are in the wrong order.
    #[error(
        "the dtype {found} is big-endian, arrays travel little-endian: in Python \
         `array.astype(array.dtype.newbyteorder(\"<\"))`"
    )]
    ByteOrder {
        /// What the array has.
        found: String,
    },
    /// No array of such elements travels.
    #[error(
        "the dtype {found:?} is none of bool, integers, floats, complex numbers, dates or fixed-length strings (as in \"<f8\")"
    )]
    Unsupported {
        /// What the array has.
        found: String,
    },
    /// Shape and data disagree.
    #[error("{bytes} bytes are no array of dtype {dtype} and shape {shape:?}")]
    Shape {
        /// The type of its elements.
        dtype: String,
        /// What the array has.
        shape: Vec<usize>,
        /// The length of its data in bytes.
        bytes: usize,
    },
    /// There are too many dimensions.
    #[error("{found} dimensions, an array has at most {MAX_DIMENSIONS}")]
    Dimensions {
        /// What the array has.
        found: usize,
    },
}

impl Array {
    /// An array of these elements, in C order.
    ///
    /// # Errors
    ///
    /// [`ArrayError::Shape`] if there are not as many of them as the shape says.
    pub fn from_slice<T: Element>(
        shape: impl Into<Vec<usize>>,
        elements: &[T],
    ) -> Result<Self, ArrayError> {
        let data = T::to_bytes(elements).into();
        let array = Self { dtype: T::DTYPE.to_owned(), shape: shape.into(), data };
        array.check()?;
        Ok(array)
    }

    /// Copies the elements out, in C order.
    ///
    /// # Errors
    ///
    /// [`ArrayError::Dtype`] if they are of another type, and what [`Array::check`] finds.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>, ArrayError> {
        self.check()?;
        if self.dtype != T::DTYPE {
            let (found, expected) = (self.dtype.clone(), T::DTYPE.to_owned());
            return Err(ArrayError::Dtype { found, expected });
        }
        Ok(T::from_bytes(&self.data))
    }

    /// Whether dtype, shape and data agree, and Python can be sent them.
    ///
    /// # Errors
    ///
    /// [`ArrayError::ByteOrder`], [`ArrayError::Unsupported`], [`ArrayError::Dimensions`], [`ArrayError::Shape`].
    pub fn check(&self) -> Result<(), ArrayError> {
        let size = dtype::item_size(&self.dtype)?;
        if self.shape.len() > MAX_DIMENSIONS {
            return Err(ArrayError::Dimensions { found: self.shape.len() });
        }
        // A zero anywhere makes it empty, however large the others are.
        let bytes = if self.shape.contains(&0) {
            Some(0)
        } else {
            self.shape.iter().try_fold(size, |product, &extent| product.checked_mul(extent))
        };
        if bytes == Some(self.data.len()) {
            return Ok(());
        }
        let (dtype, shape) = (self.dtype.clone(), self.shape.clone());
        Err(ArrayError::Shape { dtype, shape, bytes: self.data.len() })
    }

    /// The same with its elements in memory of their own.
    pub fn detached(&self) -> Self {
        Self { data: Bytes::copy_from_slice(&self.data), ..self.clone() }
    }
}

/// Leaves out the elements; they may be a gigabyte.
impl fmt::Debug for Array {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Array({}, {:?}, {} bytes)", self.dtype, self.shape, self.data.len())
    }
}

impl Serialize for Array {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.check().map_err(S::Error::custom)?;
        put(serializer, &self.data, What::Array(&self.dtype, &self.shape))
    }
}

impl<'de> Deserialize<'de> for Array {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match take(
            deserializer,
            "an array (in Python a NumPy array, an array.array or a memoryview)",
        )? {
            Came::Array { dtype, shape, data } => {
                let array = Self { dtype, shape, data };
                array.check().map_err(D::Error::custom)?;
                Ok(array)
            }
            other => {
                Err(D::Error::custom(format_args!("expected an array, this is {}", other.is())))
            }
        }
    }
}

impl From<Array> for Value {
    fn from(array: Array) -> Self {
        let Array { dtype, shape, data } = array;
        Value::Array { dtype, shape, data }
    }
}

impl TryFrom<Value> for Array {
    type Error = SessionError;

    /// Fails for JSON and bytes, and for an array that calls cannot carry ([`Array::check`]).
    fn try_from(value: Value) -> Result<Self, SessionError> {
        let wrong = |message: String| SessionError::Decode { message };
        let array = match value {
            Value::Array { dtype, shape, data } => Self { dtype, shape, data },
            Value::Json(_) => return Err(wrong("the value is JSON, not an array".to_owned())),
            Value::Bytes(_) => return Err(wrong("the value is bytes, not an array".to_owned())),
        };
        array.check().map_err(|error| wrong(error.to_string()))?;
        Ok(array)
    }
}

#[cfg(test)]
mod tests;
