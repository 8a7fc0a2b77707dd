//! Frames in and out of the areas.

use super::*;

impl Wire {
    /// Sends a frame: the header is put in front of the payload that lies in the area already, and
    /// both go to the same area of the peer's in one write.
    ///
    /// # Errors
    /// [`LinkError`]; nothing was sent.
    pub(crate) fn send(
        &mut self,
        frame: &Frame,
        payload_bytes: usize,
        area: Area,
    ) -> Result<(), LinkError> {
        self.room()?;
        let Pair::Connected(pair, peer) = &self.pair else { return Err(LinkError::Closed) };
        let no_area = || LinkError::os("send", "no such slot");
        let at = self.outbox_areas.header_at(area).ok_or_else(no_area)?;
        let header = frame.encode();
        let view = self.outbox.region.view();
        view.copy_in(at, &header).map_err(|error| LinkError::os("write the header", error))?;
        let bytes = u32::try_from(FRAME_BYTES + payload_bytes).unwrap_or(u32::MAX);
        let task = match area {
            Area::Slot(slot) => Task::Slot(slot.0),
            Area::Control => Task::Control,
        };
        pair.write(&Write {
            id: task_id(self.serial, task),
            address: address_of(&self.outbox.region) + at as u64,
            bytes,
            local_key: self.outbox.registration.local_key(),
            remote_address: peer.address.wrapping_add(at as u64),
            remote_key: peer.remote_key,
            immediate: immediate(frame.generation, area),
        })?;
        self.sends += 1;
        Ok(())
    }

    /// Asks the peer's device whether it is there. The answer is a completion: of success, or that
    /// retries were exceeded.
    ///
    /// # Errors
    /// [`LinkError`]; nothing was asked.
    pub(crate) fn touch(&mut self) -> Result<(), LinkError> {
        self.room()?;
        let Pair::Connected(pair, peer) = &self.pair else { return Err(LinkError::Closed) };
        pair.touch(task_id(self.serial, Task::Touch), peer.address, peer.remote_key)?;
        self.sends += 1;
        Ok(())
    }

    /// Whether one more frame may be under way: its completion, seen or not, has room in the queue,
    /// and the invalidation that ends the session still has some.
    fn room(&self) -> Result<(), LinkError> {
        if self.sends + 1 < self.depth.send { Ok(()) } else { Err(LinkError::Full) }
    }

    /// The header that lies in an area of the inbox, copied: the peer may write it again.
    pub(crate) fn header(&self, area: Area) -> Option<[u8; FRAME_BYTES]> {
        let at = self.inbox_areas.header_at(area)?;
        let mut header = [0; FRAME_BYTES];
        self.inbox.region().view().copy_out(at, &mut header).ok()?;
        Some(header)
    }
}
