//! How a session's memory is divided, and what the immediate of a write says.

use ferry_core::session::SLOTS_MAX;
use ferry_core::{FRAME_BYTES, FRAME_ROOM_BYTES, Generation, SlotIndex, TAIL_BYTES_MAX};
use ferry_memory::slots::HALF_ALIGN_BYTES;
use ferry_memory::{MemoryError, Region};

/// Room in front of each payload, so that the payload stays page-aligned: the tail ends where the
/// head begins, the head where the payload begins, and one write carries all.
const HEADROOM_BYTES: usize = HALF_ALIGN_BYTES;
const _: () = assert!(FRAME_ROOM_BYTES <= HEADROOM_BYTES);

/// The slot of an immediate that means the control area.
const CONTROL: u32 = 0xff;

/// One direction of a session: an area per slot, each a header and a payload, and one for the
/// frames that belong to no request (hello, welcome, goodbye).
///
/// Each payload lies right behind its header, or all payloads lie in a region of their own, apart
/// from the headers: then that region may be a device's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Areas {
    slots: u32,
    payload_bytes: usize,
    headers: Grid,
    payloads: Grid,
    is_apart: bool,
}

/// Where things of one kind lie in their region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Grid {
    first: usize,
    stride: usize,
}

impl Grid {
    fn at(self, number: usize) -> usize {
        self.first + number * self.stride
    }
}

/// Names an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// Of this slot.
    Slot(SlotIndex),
    /// Of frames that belong to no request.
    Control,
}

impl Areas {
    /// The areas of `slots` payloads of this length, each behind its header.
    ///
    /// # Errors
    /// [`MemoryError::Layout`] if that is nothing, or more than this machine can address.
    pub fn new(slots: u32, payload_bytes: u64) -> Result<Areas, MemoryError> {
        let stride = stride(slots, payload_bytes)?;
        Ok(Areas {
            slots,
            payload_bytes: usize::try_from(payload_bytes).unwrap_or(usize::MAX),
            headers: Grid { first: HEADROOM_BYTES - FRAME_BYTES, stride },
            payloads: Grid { first: HEADROOM_BYTES, stride },
            is_apart: false,
        })
    }

    /// As [`new`](Areas::new), with the payloads in a region of their own.
    ///
    /// # Errors
    /// As for [`new`](Areas::new).
    pub fn apart(slots: u32, payload_bytes: u64) -> Result<Areas, MemoryError> {
        let stride = stride(slots, payload_bytes)? - HEADROOM_BYTES;
        Ok(Areas {
            slots,
            payload_bytes: usize::try_from(payload_bytes).unwrap_or(usize::MAX),
            headers: Grid { first: TAIL_BYTES_MAX, stride: FRAME_ROOM_BYTES },
            payloads: Grid { first: 0, stride },
            is_apart: true,
        })
    }

    /// How many slots.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Whether payloads lie in a region of their own.
    pub fn is_apart(&self) -> bool {
        self.is_apart
    }

    /// Bytes of the region with the headers; where the payloads lie behind them, of everything.
    pub fn bytes(&self) -> usize {
        self.headers.at(self.slots as usize) + FRAME_BYTES
    }

    /// Bytes of the region with the payloads alone, where there is one.
    pub fn payloads_bytes(&self) -> Option<usize> {
        self.is_apart.then(|| self.payloads.at(self.slots as usize))
    }

    /// Where an area's head begins; in front of it there is room for the longest tail. A slot that
    /// does not exist has none.
    pub fn header_at(&self, area: Area) -> Option<usize> {
        let number = match area {
            Area::Slot(slot) if slot.0 < self.slots => slot.at(),
            Area::Slot(_) => return None,
            Area::Control => self.slots as usize,
        };
        Some(self.headers.at(number))
    }

    /// Where the first `bytes` bytes of a slot's payload begin, in the region with the payloads. A
    /// slot that does not exist has none, and a payload that is longer than the slot neither.
    pub fn payload_at(&self, slot: SlotIndex, bytes: usize) -> Option<usize> {
        let fits = slot.0 < self.slots && bytes <= self.payload_bytes;
        fits.then(|| self.payloads.at(slot.at()))
    }

    /// The payloads of all slots, in order, of the region that they lie in.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] if the region is too short.
    pub fn payloads(&self, region: &Region) -> Result<Vec<Region>, MemoryError> {
        (0..self.slots as usize)
            .map(|slot| region.part(self.payloads.at(slot), self.payload_bytes))
            .collect()
    }
}

/// From one slot to the next where each payload has room for a header in front.
fn stride(slots: u32, payload_bytes: u64) -> Result<usize, MemoryError> {
    let wrong = || MemoryError::Layout {
        what: format!(
            "{slots} slots of {payload_bytes} bytes: 1 to {SLOTS_MAX} fit, of memory's size"
        ),
    };
    let payload = usize::try_from(payload_bytes.max(1)).map_err(|_too_long| wrong())?;
    let stride = payload
        .checked_next_multiple_of(HALF_ALIGN_BYTES)
        .and_then(|bytes| bytes.checked_add(HEADROOM_BYTES))
        .ok_or_else(wrong)?;
    let total = stride.checked_mul(slots as usize).and_then(|all| all.checked_add(HEADROOM_BYTES));
    // A write's length is 32 bits.
    let fits = u32::try_from(stride).is_ok() && total.is_some();
    if slots == 0 || slots > SLOTS_MAX || !fits {
        return Err(wrong());
    }
    Ok(stride)
}

/// What travels in an immediate: the low 24 bits of the generation, and the area.
pub fn immediate(generation: Generation, area: Area) -> u32 {
    let area = match area {
        // A slot that does not exist stays one.
        Area::Slot(slot) => slot.0.min(CONTROL - 1),
        Area::Control => CONTROL,
    };
    generation.0 << 8 | area
}

/// What an immediate says: the area, and whether it is of `generation`.
pub fn read_immediate(immediate: u32, generation: Generation) -> (Area, bool) {
    let area = match immediate & 0xff {
        CONTROL => Area::Control,
        slot => Area::Slot(SlotIndex(slot)),
    };
    (area, immediate >> 8 == generation.0 & 0x00ff_ffff)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ferry_memory::HeapBacking;

    use super::*;

    #[test]
    fn a_header_ends_where_its_payload_begins() {
        let areas = Areas::new(3, 5000).unwrap();
        let region = Region::whole(Arc::new(HeapBacking::new(areas.bytes()).unwrap()));
        let payloads = areas.payloads(&region).unwrap();
        assert_eq!(payloads.len(), 3);
        for (slot, payload) in (0_u32..).zip(&payloads) {
            let header = areas.header_at(Area::Slot(SlotIndex(slot))).unwrap();
            let behind = region.part(header + FRAME_BYTES, 5000).unwrap();
            assert_eq!(behind.view().host(), payload.view().host());
            assert_eq!(payload.bytes(), 5000);
            assert_eq!((header + FRAME_BYTES) % HALF_ALIGN_BYTES, 0);
        }
        let control = areas.header_at(Area::Control).unwrap();
        assert_eq!(control + FRAME_BYTES, areas.bytes());
        assert_eq!(areas.header_at(Area::Slot(SlotIndex(3))), None);
    }

    #[test]
    fn headers_and_payloads_that_lie_apart_do_not_touch() {
        let areas = Areas::apart(3, 5000).unwrap();
        assert_eq!((areas.bytes(), areas.payloads_bytes()), (4 * FRAME_ROOM_BYTES, Some(3 * 8192)));
        for slot in 0..3 {
            let at = SlotIndex(slot);
            assert_eq!(
                areas.header_at(Area::Slot(at)),
                Some(at.at() * FRAME_ROOM_BYTES + TAIL_BYTES_MAX)
            );
            assert_eq!(areas.payload_at(at, 5000), Some(at.at() * 8192));
            assert_eq!(areas.payload_at(at, 5001), None, "longer than the slot");
        }
        assert_eq!(areas.header_at(Area::Control), Some(3 * FRAME_ROOM_BYTES + TAIL_BYTES_MAX));
        assert_eq!(areas.header_at(Area::Slot(SlotIndex(3))), None);
        assert_eq!(areas.payload_at(SlotIndex(3), 0), None);
        let region = Region::whole(Arc::new(HeapBacking::new(3 * 8192).unwrap()));
        assert_eq!(areas.payloads(&region).unwrap().len(), 3);
        areas.payloads(&region.part(0, 2 * 8192).unwrap()).unwrap_err();
        assert_eq!(Areas::new(3, 5000).unwrap().payloads_bytes(), None);
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        for (slots, bytes) in [(0, 10), (65, 10), (1, u64::MAX), (64, 1 << 32), (2, u64::MAX / 2)] {
            assert!(Areas::new(slots, bytes).is_err(), "{slots} of {bytes}");
            assert!(Areas::apart(slots, bytes).is_err(), "{slots} of {bytes}");
        }
        assert_eq!(Areas::new(1, 0).unwrap().bytes(), 3 * 4096);
    }

    #[test]
    fn immediates_come_back() {
        for generation in [1, 0x00ff_ffff, 0x0100_0000, u32::MAX] {
            let generation = Generation(generation);
            for area in [Area::Control, Area::Slot(SlotIndex(0)), Area::Slot(SlotIndex(63))] {
                let sent = immediate(generation, area);
                assert_eq!(read_immediate(sent, generation), (area, true));
                let other = Generation(generation.0 ^ 1);
                assert_eq!(read_immediate(sent, other), (area, false));
            }
        }
        let none = immediate(Generation(1), Area::Slot(SlotIndex(4000)));
        assert_eq!(read_immediate(none, Generation(1)), (Area::Slot(SlotIndex(0xfe)), true));
    }
}
