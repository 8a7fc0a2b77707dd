//! Memory that somebody lent for reading.

use std::ptr::NonNull;

use bytes::Bytes;
use ferry_core::Placement;

use crate::backing::Backing;

/// Bytes that arrived in a buffer of somebody else's, such as a payload inside a gRPC message:
/// read where they lie, never written.
#[derive(Debug)]
pub struct LentBacking {
    bytes: Bytes,
}

impl LentBacking {
    /// Lends `bytes` for as long as the value lives.
    pub fn new(bytes: Bytes) -> LentBacking {
        LentBacking { bytes }
    }

    /// The bytes, which nobody can change.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }
}

// SAFETY: the buffer behind a `Bytes` neither moves nor changes while any handle to it lives, and
// this value keeps its own, which nothing replaces. It is readable for `bytes()` bytes. It is not
// writable, and says so.
unsafe impl Backing for LentBacking {
    fn placement(&self) -> Placement {
        Placement::Host
    }

    fn bytes(&self) -> usize {
        self.bytes.len()
    }

    fn host(&self) -> Option<NonNull<u8>> {
        Some(NonNull::from(self.as_slice()).cast())
    }

    fn is_writable(&self) -> bool {
        false
    }
}
