//! A hasher for numbers that this server chose itself.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map from session or peer to what the lane keeps of it.
pub(super) type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// Spreads a 64-bit number with one multiplication. Sessions and peers are numbered by this
/// server, so nobody outside can choose numbers that collide, which is what the standard
/// library's slower hasher is for.
#[derive(Debug, Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        // The map takes its place from the low bits and its tag from the high ones.
        self.0 = mixed ^ (mixed >> 32);
    }
}
