//! Frames in and out of the areas.

use super::*;

impl Wire {
    /// Sends a frame whose payload lies in its area already. One write, in which header (tail and
    /// head) and payload are gathered where they lie apart here; or, where they lie apart at the peer, two in one
    /// post, the payload's first: a reliable connection keeps the order.
    ///
    /// # Errors
    /// [`LinkError`]; nothing was sent that the peer is told of.
    pub(crate) fn send(
        &mut self,
        frame: &Frame,
        tail: &Tail,
        payload_bytes: usize,
        area: Area,
    ) -> Result<(), LinkError> {
        self.room()?;
        let Pair::Connected(pair, peer) = &self.pair else { return Err(LinkError::Closed) };
        let no_area = || LinkError::os("send", "no such slot, or a shorter one");
        let at = self.outbox_areas.header_at(area).ok_or_else(no_area)?;
        let to = peer.header(area).filter(|_| peer.fits(area, payload_bytes));
        let to = to.ok_or_else(no_area)?;
        let tail = tail.encode();
        let head = Head { frame: *frame, tail_bytes: tail.len() }.encode();
        // There is room for the longest tail in front of every head, here and at the peer.
        let (at, to_address) = (at - tail.len(), to.address - tail.len() as u64);
        let header_bytes =
            u32::try_from(tail.len() + FRAME_BYTES).map_err(|_too_long| no_area())?;
        let view = self.outbox.region.view();
        let written = view.copy_in(at, &tail).and_then(|()| view.copy_in(at + tail.len(), &head));
        written.map_err(|error| LinkError::os("write the header", error))?;
        let task = match area {
            Area::Slot(slot) => Task::Slot(slot.0),
            Area::Control => Task::Control,
        };
        let write = Write {
            id: task_id(self.serial, task),
            address: self.outbox.address() + at as u64,
            bytes: header_bytes,
            local_key: self.outbox.registration.local_key(),
            remote_address: to_address,
            remote_key: to.key,
            immediate: immediate(frame.generation, area),
        };
        match (self.payload(area, payload_bytes), area) {
            (None, _) => pair.write(&write)?,
            (Some(payload), Area::Slot(slot)) if peer.is_apart() => {
                let to = peer.payload(slot, payload_bytes).ok_or_else(no_area)?;
                let id = task_id(self.serial, Task::Payload(slot.0));
                pair.write_apart(id, payload, to.address, to.key, &write)?;
            }
            (Some(payload), _) if self.outbox_areas.is_apart() => {
                pair.write_gathered(&write, payload)?;
            }
            (Some(payload), _) => {
                pair.write(&Write { bytes: header_bytes + payload.bytes, ..write })?;
            }
        }
        self.sends += 1;
        Ok(())
    }

    /// Sends a frame that belongs to no request: it has neither tail nor payload.
    ///
    /// # Errors
    /// As for [`send`](Wire::send).
    pub(crate) fn tell(&mut self, frame: &Frame) -> Result<(), LinkError> {
        self.send(frame, &Tail::NONE, 0, Area::Control)
    }

    /// Where a payload is sent from; `None` for one of no bytes.
    fn payload(&self, area: Area, bytes: usize) -> Option<Part> {
        let Area::Slot(slot) = area else { return None };
        let at = self.outbox_areas.payload_at(slot, bytes).filter(|_| bytes > 0)?;
        let memory = self.payloads.as_ref().map_or(&self.outbox, |payloads| &payloads.outbox);
        Some(Part {
            address: memory.address() + at as u64,
            // As long as an area at most, whose length is 32 bits.
            bytes: u32::try_from(bytes).ok()?,
            local_key: memory.registration.local_key(),
        })
    }

    /// Asks the peer's device whether it is there. The answer is a completion: of success, or that
    /// retries were exceeded.
    ///
    /// # Errors
    /// [`LinkError`]; nothing was asked.
    pub(crate) fn touch(&mut self) -> Result<(), LinkError> {
        self.room()?;
        let Pair::Connected(pair, peer) = &self.pair else { return Err(LinkError::Closed) };
        let no_area = || LinkError::os("send", "no such area");
        let to = peer.header(Area::Control).ok_or_else(no_area)?;
        pair.touch(task_id(self.serial, Task::Touch), to.address, to.key)?;
        self.sends += 1;
        Ok(())
    }

    /// Whether one more frame may be under way: its completion, seen or not, has room in the queue,
    /// and the invalidation that ends the session still has some.
    fn room(&self) -> Result<(), LinkError> {
        if self.sends + 1 < self.sends_max { Ok(()) } else { Err(LinkError::Full) }
    }

    /// The header that lies in an area of the inbox, copied: the peer may write it again.
    pub(crate) fn header(&self, area: Area) -> Option<[u8; FRAME_BYTES]> {
        let at = self.inbox_areas.header_at(area)?;
        let mut header = [0; FRAME_BYTES];
        self.inbox.region().view().copy_out(at, &mut header).ok()?;
        Some(header)
    }

    /// The tail in front of the head in an area of the inbox, as long as that says, copied too.
    ///
    /// # Errors
    /// [`TailError`] if its records make no sense.
    pub(crate) fn tail(&self, area: Area, tail_bytes: usize) -> Result<Tail, TailError> {
        if tail_bytes == 0 {
            return Ok(Tail::NONE);
        }
        let at = self.inbox_areas.header_at(area).and_then(|at| at.checked_sub(tail_bytes));
        let mut tail = vec![0; tail_bytes.min(TAIL_BYTES_MAX)];
        let copied = at.map(|at| self.inbox.region().view().copy_out(at, &mut tail));
        match copied {
            Some(Ok(())) => Tail::decode(&tail),
            _ => Err(TailError::Length(tail_bytes)),
        }
    }
}
