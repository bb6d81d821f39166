//! How tables by id find their places.

use std::hash::{BuildHasherDefault, Hasher};

/// Ids are numbers in sequence, of our own making: one multiplication spreads them well enough, and takes a tenth of
/// the time of the default hash, which guards against keys that an attacker chooses.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NumberHasher(u64);

/// Tables by id.
pub(super) type ByNumber = BuildHasherDefault<NumberHasher>;

impl Hasher for NumberHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(byte.into());
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number as u64);
    }

    fn write_u64(&mut self, number: u64) {
        // 2^64 divided by the golden ratio; the high bits, which the table uses as well, are the best spread.
        self.0 = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}
