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

/// The memory of one direction, divided.
#[derive(Debug)]
pub struct Divided {
    /// Room for headers.
    pub headers: Headers,
    /// The payloads of all slots, in order.
    pub payloads: Vec<Region>,
}

/// Room for headers: of each slot, and of the control area behind them.
#[derive(Debug)]
pub struct Headers(Vec<Region>);

impl Headers {
    /// The header in an area, copied, each byte once: the peer may write it again. `None` for a slot
    /// that does not exist.
    pub fn read(&self, area: Area) -> Option<[u8; FRAME_BYTES]> {
        let room = self.0.get(self.number(area)?)?;
        let mut header = [0; FRAME_BYTES];
        room.view().copy_out(room.bytes().checked_sub(FRAME_BYTES)?, &mut header).ok()?;
        Some(header)
    }

    /// The tail in front of the head in an area, copied as that is. `None` for a slot that does not
    /// exist, and for more than there is room for.
    pub fn read_tail(&self, area: Area, bytes: usize) -> Option<Vec<u8>> {
        let room = self.0.get(self.number(area)?).filter(|_| bytes <= TAIL_BYTES_MAX)?;
        let mut tail = vec![0; bytes];
        room.view().copy_out(room.bytes().checked_sub(FRAME_BYTES + bytes)?, &mut tail).ok()?;
        Some(tail)
    }

    /// Writes the head of an area, and its tail in front of it.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] for a slot that does not exist, or what a device says.
    pub fn write(
        &mut self,
        area: Area,
        tail: &[u8],
        head: &[u8; FRAME_BYTES],
    ) -> Result<(), MemoryError> {
        let (rooms, number) = (self.0.len(), self.number(area));
        let none = || MemoryError::OutOfRange { at: rooms, len: 1, bytes: rooms };
        let room = number.and_then(|at| self.0.get_mut(at)).ok_or_else(none)?;
        let at = room.bytes().saturating_sub(FRAME_BYTES);
        room.view_mut().copy_in(at.saturating_sub(tail.len()), tail)?;
        room.view_mut().copy_in(at, head)
    }

    fn number(&self, area: Area) -> Option<usize> {
        let control = self.0.len().checked_sub(1)?;
        match area {
            Area::Slot(slot) => Some(slot.at()).filter(|&at| at < control),
            Area::Control => Some(control),
        }
    }
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

    /// Divides the memory of one direction, `payloads` where they lie apart: each byte goes to one
    /// owner.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] if a region is too short.
    pub fn divide(
        &self,
        headers: Region,
        payloads: Option<Region>,
    ) -> Result<Divided, MemoryError> {
        let mut divided = Divided { headers: Headers(Vec::new()), payloads: Vec::new() };
        let (mut rest, mut apart) = (headers, payloads);
        for _ in 0..self.slots {
            let room = if apart.is_some() { FRAME_ROOM_BYTES } else { HEADROOM_BYTES };
            let (header, behind) = rest.split_at(room)?;
            divided.headers.0.push(header);
            let (payload, next) = match apart.take() {
                Some(payloads) => {
                    let (payload, next) = payloads.split_at(self.payloads.stride)?;
                    apart = Some(next);
                    (payload, behind)
                }
                None => behind.split_at(self.payloads.stride - HEADROOM_BYTES)?,
            };
            divided.payloads.push(payload.part(0, self.payload_bytes)?);
            rest = next;
        }
        divided.headers.0.push(rest);
        Ok(divided)
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
    use ferry_memory::HeapBacking;

    use super::*;

    #[test]
    fn a_header_ends_where_its_payload_begins() {
        let areas = Areas::new(3, 5000).unwrap();
        let region = Region::whole(HeapBacking::new(areas.bytes()).unwrap());
        let address = |region: &Region| region.view().host().unwrap().addr().get();
        let first = address(&region);
        let Divided { mut headers, payloads } = areas.divide(region, None).unwrap();
        assert_eq!(payloads.len(), 3);
        for (slot, payload) in (0_u32..).zip(&payloads) {
            let area = Area::Slot(SlotIndex(slot));
            let header = areas.header_at(area).unwrap();
            assert_eq!(first + header + FRAME_BYTES, address(payload));
            assert_eq!(payload.bytes(), 5000);
            assert_eq!((header + FRAME_BYTES) % HALF_ALIGN_BYTES, 0);
            headers.write(area, &[8; TAIL_BYTES_MAX], &[7; FRAME_BYTES]).unwrap();
            assert_eq!(headers.read(area), Some([7; FRAME_BYTES]));
            assert_eq!(headers.read_tail(area, 16), Some(vec![8; 16]));
            assert_eq!(headers.read_tail(area, TAIL_BYTES_MAX), Some(vec![8; TAIL_BYTES_MAX]));
            assert_eq!(headers.read_tail(area, TAIL_BYTES_MAX + 8), None);
            let before = payload.view().host().unwrap();
            assert_eq!(address(&headers.0[slot as usize]) + HEADROOM_BYTES, before.addr().get());
            let mut seen = [1; 5000];
            payload.view().copy_out(0, &mut seen).unwrap();
            assert_eq!(seen, [0; 5000], "a header is not written into a payload");
        }
        assert_eq!(headers.read(Area::Control), Some([0; FRAME_BYTES]));
        assert_eq!(headers.read(Area::Slot(SlotIndex(3))), None);
        headers.write(Area::Slot(SlotIndex(3)), &[], &[7; FRAME_BYTES]).unwrap_err();
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
        let heap = |bytes| Region::whole(HeapBacking::new(bytes).unwrap());
        let divided = areas.divide(heap(areas.bytes()), Some(heap(3 * 8192))).unwrap();
        assert_eq!((divided.headers.0.len(), divided.payloads.len()), (4, 3));
        areas.divide(heap(areas.bytes()), Some(heap(2 * 8192))).unwrap_err();
        areas.divide(heap(areas.bytes() - FRAME_ROOM_BYTES - 1), Some(heap(3 * 8192))).unwrap_err();
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
