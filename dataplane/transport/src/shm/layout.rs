//! How the memory of one session is divided. Both ends compute it from what was agreed.

use std::sync::Arc;

use ferry_core::{
    DeviceMemory, FRAME_BYTES, FRAME_ROOM_BYTES, RegionDescriptor, SlotIndex, SlotLayout,
    TAIL_BYTES_MAX,
};
use ferry_memory::ring::{RING_BYTES, SharedRing, ring_in};
use ferry_memory::slots::HALF_ALIGN_BYTES;
use ferry_memory::{Backing, MemoryError, Placer, Region, SharedBacking, SlotTable};

/// The ring by which the client says which slots hold requests.
const REQUESTS_AT: usize = 0;
/// The ring by which the server says which slots hold replies.
const REPLIES_AT: usize = RING_BYTES;
/// Both rings stand on the first page.
const HEADERS_AT: usize = HALF_ALIGN_BYTES;
const _: () = assert!(REPLIES_AT + RING_BYTES <= HEADERS_AT);

/// Offsets inside the memfd of a session: rings, header cells, and the slots, unless those lie in
/// memory of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLayout {
    slots: SlotLayout,
    slots_at: usize,
    slots_bytes: usize,
    bytes: usize,
}

/// Where the slots of a session are.
#[derive(Debug)]
pub(super) enum Slots<'a> {
    /// In the memfd, which a device gets to know where there is a placer.
    InMemfd(Option<&'a dyn Placer>),
    /// In memory of their own.
    Apart(Arc<dyn Backing>),
}

/// Which way a header goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Client → server.
    Request,
    /// Server → client.
    Reply,
}

impl SessionLayout {
    /// Divides memory for `slots`.
    ///
    /// # Errors
    /// [`MemoryError::Layout`] if the slots are none, too many or too long.
    pub fn new(slots: SlotLayout) -> Result<SessionLayout, MemoryError> {
        let mut layout = SessionLayout::apart(slots)?;
        let too_long = || MemoryError::Layout { what: format!("{slots:?} is more than memory") };
        layout.bytes = layout.slots_at.checked_add(layout.slots_bytes).ok_or_else(too_long)?;
        Ok(layout)
    }

    /// The same without the slots, which lie in memory of a device.
    ///
    /// # Errors
    /// [`MemoryError::Layout`] if the slots are none, too many or too long.
    pub fn apart(slots: SlotLayout) -> Result<SessionLayout, MemoryError> {
        let slots_bytes = SlotTable::bytes(&slots)?;
        let cells = slots.slots as usize * 2 * FRAME_ROOM_BYTES;
        let slots_at = HEADERS_AT + cells.next_multiple_of(HALF_ALIGN_BYTES);
        Ok(SessionLayout { slots, slots_at, slots_bytes, bytes: slots_at })
    }

    /// The layout of memory that a server describes, and the device's memory with the slots, if
    /// that is where they are.
    ///
    /// # Errors
    /// [`MemoryError::Foreign`] if it is not a memfd or not as long as its slots make it.
    pub fn described(
        descriptor: &RegionDescriptor,
    ) -> Result<(SessionLayout, Option<DeviceMemory>), MemoryError> {
        let (bytes, own, device) = match descriptor {
            RegionDescriptor::Memfd { bytes, layout } => {
                (*bytes, SessionLayout::new(*layout)?, None)
            }
            RegionDescriptor::OnDevice { bytes, layout, slots } => {
                (*bytes, SessionLayout::apart(*layout)?, Some(*slots))
            }
            _ => {
                let what = format!("the link shm needs a memfd, the session has {descriptor:?}");
                return Err(MemoryError::Foreign { what });
            }
        };
        let differs = |part: &str, takes: usize, described: u64| {
            let layout = own.slots;
            let what =
                format!("{part} of {layout:?} takes {takes} bytes, described are {described}");
            Err(MemoryError::Foreign { what })
        };
        if u64::try_from(own.bytes).ok() != Some(bytes) {
            return differs("the memfd", own.bytes, bytes);
        }
        match device {
            Some(device) if u64::try_from(own.slots_bytes).ok() != Some(device.bytes) => {
                differs("the device's memory", own.slots_bytes, device.bytes)
            }
            device => Ok((own, device)),
        }
    }

    /// Length of the slots in bytes, wherever they are.
    pub fn slots_bytes(&self) -> usize {
        self.slots_bytes
    }

    /// Length of the memfd in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The agreed slots.
    pub fn slots(&self) -> SlotLayout {
        self.slots
    }

    /// Where the header cell of a slot starts, from the first cell.
    fn cell_at(slot: SlotIndex, way: Way) -> usize {
        let direction = match way {
            Way::Request => 0,
            Way::Reply => FRAME_ROOM_BYTES,
        };
        slot.at() * 2 * FRAME_ROOM_BYTES + direction
    }
}

/// The parts of a session's memory.
#[derive(Debug)]
pub(super) struct SessionMemory {
    pub(super) requests: SharedRing,
    pub(super) replies: SharedRing,
    pub(super) headers: Headers,
    /// Where the slots are.
    pub(super) slots: Region,
}

impl SessionMemory {
    /// Finds the parts of `memory`.
    pub(super) fn new(
        memory: &Arc<SharedBacking>,
        layout: &SessionLayout,
        slots: Slots<'_>,
    ) -> Result<SessionMemory, MemoryError> {
        let mut backing: Arc<dyn Backing> = Arc::<SharedBacking>::clone(memory);
        let apart = match slots {
            Slots::Apart(slots) => Some(slots),
            Slots::InMemfd(None) => None,
            Slots::InMemfd(Some(placer)) => {
                backing = placer.register(backing)?;
                None
            }
        };
        let whole = Region::whole(backing);
        let headers = whole.part(HEADERS_AT, layout.slots_at - HEADERS_AT)?;
        let slots = match apart {
            Some(slots) => Region::whole(slots).part(0, layout.slots_bytes)?,
            None => whole.part(layout.slots_at, layout.slots_bytes)?,
        };
        Ok(SessionMemory {
            requests: ring_in(memory, REQUESTS_AT)?,
            replies: ring_in(memory, REPLIES_AT)?,
            headers: Headers(headers),
            slots,
        })
    }
}

/// The header cells: room for one head and its tail per slot and direction.
#[derive(Debug)]
pub(super) struct Headers(Region);

impl Headers {
    /// Copies a head out. Once: what the peer writes after that is read by nobody.
    pub(super) fn read(&self, slot: SlotIndex, way: Way) -> Result<[u8; FRAME_BYTES], MemoryError> {
        let mut head = [0; FRAME_BYTES];
        self.0.view().copy_out(SessionLayout::cell_at(slot, way), &mut head)?;
        Ok(head)
    }

    /// Copies the tail behind a head out, as long as the head said.
    pub(super) fn read_tail(
        &self,
        slot: SlotIndex,
        way: Way,
        tail_bytes: usize,
    ) -> Result<Vec<u8>, MemoryError> {
        // A head that was decoded tells of no more than a cell has room for.
        let mut tail = vec![0; tail_bytes.min(TAIL_BYTES_MAX)];
        self.0.view().copy_out(SessionLayout::cell_at(slot, way) + FRAME_BYTES, &mut tail)?;
        Ok(tail)
    }

    /// Writes a head, and its tail if there is one.
    pub(super) fn write(
        &self,
        slot: SlotIndex,
        way: Way,
        [head, tail]: [&[u8]; 2],
    ) -> Result<(), MemoryError> {
        let at = SessionLayout::cell_at(slot, way);
        if !tail.is_empty() {
            self.0.view().copy_in(at + FRAME_BYTES, tail)?;
        }
        self.0.view().copy_in(at, head)
    }
}

#[cfg(test)]
mod tests {
    use ferry_core::session::SLOTS_MAX;
    use ferry_core::{DeviceUuid, IpcHandle};

    use super::*;

    const RESNET: SlotLayout = SlotLayout { slots: 2, request_bytes: 602_112, reply_bytes: 4_000 };

    #[test]
    fn parts_follow_each_other_and_do_not_overlap() {
        let layout = SessionLayout::new(RESNET).unwrap();
        assert_eq!(layout.slots_at, 3 * 4096);
        assert_eq!(layout.bytes(), 3 * 4096 + 2 * (602_112 + 4096));
        let most = SlotLayout { slots: SLOTS_MAX, request_bytes: 1, reply_bytes: 1 };
        let layout = SessionLayout::new(most).unwrap();
        let last = SessionLayout::cell_at(SlotIndex(SLOTS_MAX - 1), Way::Reply);
        assert!(HEADERS_AT + last + FRAME_ROOM_BYTES <= layout.slots_at);
        assert_eq!(layout.slots_at % HALF_ALIGN_BYTES, 0);
    }

    #[test]
    fn cells_are_apart() {
        let mut starts: Vec<usize> = (0..SLOTS_MAX)
            .flat_map(|slot| [Way::Request, Way::Reply].map(|way| (SlotIndex(slot), way)))
            .map(|(slot, way)| SessionLayout::cell_at(slot, way))
            .collect();
        starts.sort_unstable();
        assert!(starts.windows(2).all(|pair| pair[1] - pair[0] == FRAME_ROOM_BYTES));
    }

    #[test]
    fn a_thousand_sessions_stay_below_the_agreed_memory() {
        let bytes = SessionLayout::new(RESNET).unwrap().bytes();
        assert!(bytes * 1000 <= 1_300_000_000, "{bytes}");
    }

    #[test]
    fn descriptions_are_checked() {
        let bytes = u64::try_from(SessionLayout::new(RESNET).unwrap().bytes()).unwrap();
        let described =
            |bytes, layout| SessionLayout::described(&RegionDescriptor::Memfd { bytes, layout });
        assert!(described(bytes, RESNET).is_ok());
        assert!(described(bytes + 4096, RESNET).is_err());
        assert!(described(bytes, SlotLayout { slots: 0, ..RESNET }).is_err());
        assert!(SessionLayout::described(&RegionDescriptor::Framed).is_err());
        assert!(SessionLayout::described(&RegionDescriptor::Device(MEMORY)).is_err());
    }

    const MEMORY: DeviceMemory = DeviceMemory {
        handle: IpcHandle([1; IpcHandle::BYTES]),
        device: DeviceUuid([2; DeviceUuid::BYTES]),
        offset: 0,
        bytes: 2 * (602_112 + 4096),
    };

    #[test]
    fn slots_apart_leave_the_rings_and_headers() {
        let layout = SessionLayout::apart(RESNET).unwrap();
        assert_eq!((layout.bytes(), layout.slots_bytes()), (3 * 4096, 2 * (602_112 + 4096)));
        let described = |bytes, slots| {
            let slots = DeviceMemory { bytes: slots, ..MEMORY };
            SessionLayout::described(&RegionDescriptor::OnDevice { bytes, layout: RESNET, slots })
        };
        assert_eq!(described(12_288, MEMORY.bytes).unwrap(), (layout, Some(MEMORY)));
        for (bytes, slots) in [
            (12_288, MEMORY.bytes - 1),
            (12_288, MEMORY.bytes + 1),
            (12_288, u64::MAX),
            (12_288, 0),
            (4096, MEMORY.bytes),
            (12_288 + MEMORY.bytes, MEMORY.bytes),
        ] {
            let error = described(bytes, slots).unwrap_err();
            assert!(matches!(error, MemoryError::Foreign { .. }), "{bytes} {slots}: {error}");
        }
    }
}
