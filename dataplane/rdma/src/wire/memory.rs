//! The memory of a wire, as its peer and its slots see it.

use ferry_core::MemoryKey;
use ferry_memory::{MemoryError, PeerAccess, Region, SlotTable};

use super::*;

impl Wire {
    /// How the peer reaches the inbox: its headers, and its payloads where they lie apart.
    pub(crate) fn keys(&self) -> (MemoryKey, Option<MemoryKey>) {
        let headers = MemoryKey {
            address: self.inbox.address(),
            remote_key: self.inbox.key(),
            bytes: self.inbox_areas.bytes() as u64,
        };
        let payloads = self.payloads.as_ref().zip(self.inbox_areas.payloads_bytes());
        let payloads = payloads.map(|(payloads, bytes)| MemoryKey {
            address: payloads.inbox.address(),
            remote_key: payloads.inbox.registration.remote_key(),
            bytes: bytes as u64,
        });
        (headers, payloads)
    }

    /// Whether payloads arrive apart from their headers.
    pub(crate) fn is_apart(&self) -> bool {
        self.payloads.is_some()
    }

    /// Bytes of the write that tells of a frame.
    pub(crate) fn told_bytes(&self, head: &Head) -> u64 {
        let behind = if self.is_apart() { 0 } else { head.frame.payload_bytes };
        ((head.tail_bytes + FRAME_BYTES) as u64).saturating_add(behind)
    }

    /// Slots over the memory: request halves where `requests` says.
    ///
    /// # Errors
    /// [`MemoryError`] if the layout does not fit.
    pub(crate) fn slots(
        &self,
        layout: ferry_core::SlotLayout,
        requests: Requests,
    ) -> Result<Arc<SlotTable>, MemoryError> {
        let (inbox, outbox) = match &self.payloads {
            Some(payloads) => (&payloads.inbox.region, &payloads.outbox.region),
            None => (self.inbox.region(), &self.outbox.region),
        };
        let inbox = self.inbox_areas.payloads(inbox)?;
        let outbox = self.outbox_areas.payloads(outbox)?;
        let (halves, peer): (Vec<(Region, Region)>, _) = match requests {
            Requests::Arrive => (inbox.into_iter().zip(outbox).collect(), PeerAccess::Writes),
            // A client trusts the server that it asked, as on every link.
            Requests::Depart => (outbox.into_iter().zip(inbox).collect(), PeerAccess::None),
        };
        SlotTable::placed(layout, peer, halves)
    }
}

/// Which way requests go through a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Requests {
    /// At the server: they land in the inbox.
    Arrive,
    /// At the client: they leave from the outbox.
    Depart,
}
