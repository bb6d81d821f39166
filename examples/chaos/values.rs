//! Contents that tell whose they are: as chaos_notes.py makes them.

use std::path::Path;

use bytes::Bytes;
use fastrand::Rng;
use snakepen::{Array, Buffer};

/// Where pieces begin: anywhere before this.
const STARTS: u64 = 1 << 20;

/// The largest piece, in bytes.
pub(crate) const LARGEST: usize = 3 << 20;

/// Random bytes, written to a file for Python.
pub(crate) fn pattern(seed: u64, file: &Path) -> std::io::Result<Bytes> {
    let mut rng = Rng::with_seed(seed);
    let words = (STARTS as usize + LARGEST) / 8;
    let bytes: Vec<u8> = (0..words).flat_map(|_| rng.u64(..).to_ne_bytes()).collect();
    std::fs::write(file, &bytes)?;
    Ok(bytes.into())
}

/// What a buffer of a call is to hold; nothing is copied.
pub(crate) fn piece(pattern: &Bytes, nonce: u64, index: u64, size: usize) -> Buffer {
    let start = (nonce % STARTS * 0x9E37_79B1 + index * 0x85EB_CA6B) % STARTS;
    let start = start as usize;
    pattern.slice(start..start + size).into()
}

/// The same as an array: of numbers of one, two or four bytes, in two dimensions.
pub(crate) fn array(pattern: &Bytes, nonce: u64, index: u64, size: usize) -> Array {
    let (dtype, width) = [("|u1", 1), ("<u2", 2), ("<i4", 4)][index as usize % 3];
    let columns = 1 + index as usize % 5;
    // One without elements would need NumPy.
    let rows = (size / width / columns).max(1);
    let data = piece(pattern, nonce, index, rows * columns * width).into_bytes();
    Array { dtype: dtype.to_owned(), shape: vec![rows, columns], data }
}

/// A size of any order of magnitude, zero included; as often around the least that goes through shared memory.
pub(crate) fn size(rng: &mut Rng, largest: usize) -> usize {
    const SHARED: usize = 256 << 10;
    let magnitude = rng.u32(1..=21);
    let size = match rng.u8(..8) {
        0 => rng.usize(SHARED - 2..=SHARED + 2),
        1 => rng.usize(..2),
        _ => rng.usize(..1 << magnitude),
    };
    size.min(largest)
}

/// As in chaos_notes.py.
pub(crate) fn mixed(nonce: u64, number: u64) -> String {
    format!("{:x}", (nonce ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}
