//! What elements are, as NumPy's `dtype.str` says it.

use super::ArrayError;

/// A type of elements that Rust and NumPy have in common: `bool`, the integers of 8 to 64 bits, `f32`, `f64`.
pub trait Element: Copy + sealed::Sealed {
    /// NumPy's name of it, such as `"<f8"`.
    const DTYPE: &str;

    #[doc(hidden)]
    fn to_bytes(elements: &[Self]) -> Vec<u8>;
    #[doc(hidden)]
    fn from_bytes(bytes: &[u8]) -> Vec<Self>;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! elements {
    ($($type:ty: $dtype:literal),*) => {$(
        impl sealed::Sealed for $type {}

        impl Element for $type {
            const DTYPE: &str = $dtype;

            fn to_bytes(elements: &[Self]) -> Vec<u8> {
                // Written so that it compiles to a plain copy.
                let mut bytes = vec![0; size_of_val(elements)];
                for (to, from) in bytes.chunks_exact_mut(size_of::<Self>()).zip(elements) {
                    to.copy_from_slice(&from.to_le_bytes());
                }
                bytes
            }

            fn from_bytes(bytes: &[u8]) -> Vec<Self> {
                let (items, _) = bytes.as_chunks();
                items.iter().map(|&item| Self::from_le_bytes(item)).collect()
            }
        }
    )*};
}

elements! {
    i8: "|i1", i16: "<i2", i32: "<i4", i64: "<i8", u8: "|u1", u16: "<u2", u32: "<u4", u64: "<u8", f32: "<f4", f64: "<f8"
}

impl sealed::Sealed for bool {}

impl Element for bool {
    const DTYPE: &str = "|b1";

    fn to_bytes(elements: &[Self]) -> Vec<u8> {
        elements.iter().map(|&element| u8::from(element)).collect()
    }

    fn from_bytes(bytes: &[u8]) -> Vec<Self> {
        bytes.iter().map(|&byte| byte != 0).collect()
    }
}

/// The size of an element in bytes.
pub(super) fn item_size(dtype: &str) -> Result<usize, ArrayError> {
    let unsupported = || ArrayError::Unsupported { found: dtype.chars().take(80).collect() };
    let mut letters = dtype.chars();
    let (Some(order), Some(kind)) = (letters.next(), letters.next()) else {
        return Err(unsupported());
    };
    let rest = letters.as_str();
    let count = match kind {
        // Followed by their unit.
        'M' | 'm' => rest.strip_prefix('8').map(|_| 8),
        _ if rest.starts_with('0') && rest.len() > 1 => None,
        _ => rest.bytes().all(|byte| byte.is_ascii_digit()).then(|| rest.parse().ok()).flatten(),
    };
    let size = match (kind, count) {
        ('b', Some(1)) => 1,
        ('i' | 'u', Some(size @ (1 | 2 | 4 | 8))) => size,
        ('f', Some(size @ (2 | 4 | 8 | 12 | 16))) => size,
        ('c', Some(size @ (8 | 16 | 24 | 32))) => size,
        ('M' | 'm', Some(size)) => size,
        ('S', Some(size)) => size,
        ('U', Some(letters)) if u32::try_from(letters).is_ok() => {
            usize::checked_mul(letters, 4).ok_or_else(unsupported)?
        }
        _ => return Err(unsupported()),
    };
    match order {
        '<' => Ok(size),
        '|' if size == 1 || kind == 'S' => Ok(size),
        '>' => Err(ArrayError::ByteOrder { found: dtype.to_owned() }),
        _ => Err(unsupported()),
    }
}
