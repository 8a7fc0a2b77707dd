//! Memory of the engine's own, for tensors that must not be used where they lie.

use std::sync::Arc;

use ferry_core::DType;
use ferry_memory::{Backing, HeapBacking, MemoryError, Region, View};

/// Room for one tensor, kept from request to request.
#[derive(Debug, Default)]
pub(crate) struct Private(Option<Region>);

/// Room is kept if a tensor uses at least this part of it: one session with a huge tensor must not
/// cost its memory for ever.
const WASTE_MAX: usize = 2;

/// What room that is to be written holds before, in debug builds.
const POISON: u8 = 0xA5;

impl Private {
    /// Makes room for `bytes` bytes; what was in it is lost.
    pub(crate) fn reserve(&mut self, bytes: usize) -> Result<(), MemoryError> {
        let room = self.0.as_ref().map_or(0, Region::bytes);
        if room < bytes || room / WASTE_MAX > bytes.max(4096) {
            self.0 = None;
            let backing: Arc<dyn Backing> = Arc::new(HeapBacking::new(bytes)?);
            self.0 = Some(Region::whole(backing));
        }
        Ok(())
    }

    /// The first `bytes` bytes of the room.
    pub(crate) fn view(&self, bytes: usize) -> Result<View<'_>, MemoryError> {
        match &self.0 {
            Some(region) => region.view().part(0, bytes),
            None => Err(MemoryError::OutOfRange { at: 0, len: bytes, bytes: 0 }),
        }
    }

    /// Makes what is not written show: no model gives it.
    pub(crate) fn poison(&self, bytes: usize) -> Result<(), MemoryError> {
        self.view(bytes)?.copy_in(0, &vec![POISON; bytes])
    }

    /// Copies a tensor of `dtype` into the room.
    pub(crate) fn fill(&mut self, from: &View<'_>, dtype: DType) -> Result<(), MemoryError> {
        self.reserve(from.bytes())?;
        let to = self.view(from.bytes())?;
        if dtype != DType::Bool {
            return to.copy_from(from, from.bytes());
        }
        let mut bytes = vec![0; from.bytes()];
        from.copy_out(0, &mut bytes)?;
        only_true_and_false(&mut bytes);
        to.copy_in(0, &bytes)
    }
}

/// Makes every byte 0 or 1: native code may do anything with a boolean that is neither.
pub(crate) fn only_true_and_false(bytes: &mut [u8]) {
    for byte in bytes {
        *byte = u8::from(*byte != 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_follows_the_need() {
        let mut private = Private::default();
        assert!(private.view(1).is_err());
        private.reserve(100_000).unwrap();
        private.reserve(60_000).unwrap();
        assert_eq!(private.0.as_ref().unwrap().bytes(), 100_000, "kept while half is used");
        private.reserve(10_000).unwrap();
        assert_eq!(private.0.as_ref().unwrap().bytes(), 10_000, "given back");
        assert!(private.view(10_001).is_err());
    }

    #[test]
    fn booleans_become_booleans() {
        let mut other = Private::default();
        other.reserve(4).unwrap();
        other.view(4).unwrap().copy_in(0, &[0, 1, 2, 255]).unwrap();
        let mut private = Private::default();
        private.fill(&other.view(4).unwrap(), DType::Bool).unwrap();
        let mut got = [9; 4];
        private.view(4).unwrap().copy_out(0, &mut got).unwrap();
        assert_eq!(got, [0, 1, 1, 1]);
    }
}
