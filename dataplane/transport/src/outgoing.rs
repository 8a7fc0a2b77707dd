//! A frame with its payload on the way out of a slot.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use ferry_core::{FRAME_BYTES, Frame, Head, Tail, nanos};
use ferry_memory::{Slot, SlotTable};

use crate::link::{LinkError, Rejected, Transfer};

/// Which half of a slot a payload lies in.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Half {
    Request,
    Reply,
}

impl Half {
    pub(crate) fn bytes(self, slot: &Slot) -> Option<&[u8]> {
        match self {
            Half::Request => slot.request_bytes(),
            Half::Reply => slot.reply_bytes(),
        }
    }

    pub(crate) fn bytes_mut(self, slot: &mut Slot) -> Option<&mut [u8]> {
        match self {
            Half::Request => slot.request_bytes_mut(),
            Half::Reply => slot.reply_bytes_mut(),
        }
    }
}

/// A head and its tail, one after the other as they go over a wire.
#[derive(Debug)]
pub(crate) struct Header {
    head: [u8; FRAME_BYTES],
    /// Mostly nothing.
    tail: Vec<u8>,
}

impl Header {
    pub(crate) fn new(frame: &Frame, tail: &Tail) -> Header {
        let tail = tail.encode();
        Header { head: Head { frame: *frame, tail_bytes: tail.len() }.encode(), tail }
    }

    pub(crate) fn parts(&self) -> [&[u8]; 2] {
        [&self.head, &self.tail]
    }

    /// Both in one piece.
    pub(crate) fn joined(&self) -> Cow<'_, [u8]> {
        if self.tail.is_empty() {
            Cow::Borrowed(&self.head)
        } else {
            Cow::Owned(self.parts().concat())
        }
    }
}

/// Something to send: the header, and where its payload lies.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) header: Header,
    pub(crate) request: u64,
    pub(crate) slot: Slot,
    half: Half,
    payload_bytes: usize,
    since: Instant,
}

/// Gives a transfer back.
pub(crate) fn reject(transfer: Transfer, why: LinkError) -> Rejected {
    Rejected { transfer: Box::new(transfer), why }
}

impl Outgoing {
    /// Takes a transfer apart, if its slot is of `table` and its payload lies in it.
    pub(crate) fn new(
        transfer: Transfer,
        half: Half,
        table: &Arc<SlotTable>,
    ) -> Result<Outgoing, Rejected> {
        let Transfer { frame, slot, tail, .. } = &transfer;
        if !Arc::ptr_eq(slot.table(), table) {
            return Err(reject(transfer, LinkError::os("send", "the slot is of another session")));
        }
        let payload_bytes = usize::try_from(frame.payload_bytes).unwrap_or(usize::MAX);
        if half.bytes(slot).is_none_or(|bytes| bytes.len() < payload_bytes) {
            return Err(reject(transfer, LinkError::os("send", "the payload is not in the slot")));
        }
        let (header, request, since) = (Header::new(frame, tail), frame.request, Instant::now());
        Ok(Outgoing { header, request, slot: transfer.slot, half, payload_bytes, since })
    }

    /// The payload, in its slot.
    pub(crate) fn payload(&self) -> &[u8] {
        let all = self.half.bytes(&self.slot).unwrap_or_default();
        all.get(..self.payload_bytes).unwrap_or_default()
    }

    /// Time since the submit.
    pub(crate) fn elapsed_ns(&self) -> u64 {
        nanos(self.since.elapsed())
    }
}
