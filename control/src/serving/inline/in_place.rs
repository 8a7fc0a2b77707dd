//! Slots whose halves are memory of a device that the client registered: a model on that device
//! reads its input and writes its output there.

use std::sync::Arc;

use ferry_core::{BoundSignature, RequestKind, SlotLayout};
use ferry_memory::{HeapBacking, MemoryError, PeerAccess, Region, SlotTable};

use super::{Contents, InlineRequest};
use crate::models::Served;
use crate::serving::regions::RegionPart;

/// Where a tensor has to begin: where the device's own allocator begins one. Kernels read many
/// elements at once, and one that finds them at an odd address ends the device for everybody.
const ALIGN_BYTES: u64 = 256;

/// The halves that are where the client has them.
#[derive(Debug, Default)]
pub(super) struct InPlace {
    request: Option<Region>,
    pub(super) reply: Option<Region>,
}

impl InPlace {
    /// What of a request can stay where it is: the input of a model that has one, the output of a
    /// model that has one whose size is known.
    pub(super) fn of(
        served: &Served,
        binding: &BoundSignature,
        request: &InlineRequest,
    ) -> InPlace {
        let Some(device) = &served.device else { return InPlace::default() };
        let here = |part: &RegionPart, bytes: u64| {
            let at = part.device().filter(|at| at.ordinal == device.ordinal())?;
            part.on_device(bytes).filter(|_| bytes > 0 && at.address.is_multiple_of(ALIGN_BYTES))
        };
        let input = match (binding.inputs.as_slice(), request.inputs.as_slice()) {
            ([_], [input]) if request.what.kind == RequestKind::Tensor => Some(&input.contents),
            _ => None,
        };
        let output = match binding.outputs.as_slice() {
            [output] if !output.open => request.reply_to.as_ref(),
            _ => None,
        };
        let input = input.and_then(|contents| match contents {
            Contents::Region(part) => here(part, binding.request_bytes()),
            Contents::Message(_) => None,
        });
        InPlace { request: input, reply: output.and_then(|it| here(it, binding.reply_bytes())) }
    }

    /// The layout with these halves in the place of its own.
    pub(super) fn layout(&self, layout: SlotLayout) -> SlotLayout {
        let bytes = |half: &Option<Region>, own| half.as_ref().map_or(own, |it| it.bytes() as u64);
        SlotLayout {
            request_bytes: bytes(&self.request, layout.request_bytes),
            reply_bytes: bytes(&self.reply, layout.reply_bytes),
            ..layout
        }
    }

    /// A table of one slot with these halves, and memory of the host for the other one; `None`
    /// where both are to be found elsewhere.
    ///
    /// # Errors
    /// [`MemoryError`] if memory is short.
    pub(super) fn table(self, layout: SlotLayout) -> Result<Option<Arc<SlotTable>>, MemoryError> {
        let InPlace { request, reply } = self;
        if request.is_none() && reply.is_none() {
            return Ok(None);
        }
        let host = |bytes: u64| {
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            HeapBacking::new(bytes).map(Region::whole)
        };
        let request = request.map_or_else(|| host(layout.request_bytes), Ok)?;
        let reply = reply.map_or_else(|| host(layout.reply_bytes), Ok)?;
        // What the client may write at any time lies on the device, of which there are no slices.
        SlotTable::placed(layout, PeerAccess::None, [(request, reply)]).map(Some)
    }
}
