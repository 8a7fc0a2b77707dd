//! The check that every server end makes before it places a payload byte.

use std::sync::Arc;

use ferry_core::{Body, Frame, FrameError, Generation, SessionId, SlotLayout, Token, WaitPolicy};
use ferry_memory::{HeapBacking, MemoryError, PeerAccess, PeerId, Placer, Region, Slot, SlotTable};

pub use crate::roster::{is_goodbye, status_for};

/// What control tells a link about a session that was opened.
#[derive(Clone, Debug)]
pub struct Admission {
    /// The session.
    pub session: SessionId,
    /// The lease; frames of another are refused.
    pub generation: Generation,
    /// The secret that its client will present.
    pub token: Token,
    /// The agreed slots.
    pub layout: SlotLayout,
    /// How the client's end waits; the lane spins only if one of its sessions does.
    pub wait: WaitPolicy,
    /// Where the server's slots are to lie, where that is not plain memory of the host.
    pub placer: Option<Arc<dyn Placer>>,
}

impl Admission {
    /// Slots in memory of the server alone, for links that place what arrives themselves.
    ///
    /// # Errors
    /// [`MemoryError`] if memory is short, or a device refuses it.
    pub fn private_slots(&self) -> Result<Arc<SlotTable>, MemoryError> {
        let Some(placer) = &self.placer else { return SlotTable::private(self.layout) };
        let bytes = SlotTable::bytes(&self.layout)?;
        let memory = if placer.on_device() {
            placer.allocate(bytes)?
        } else {
            placer.register(Region::whole(HeapBacking::new(bytes)?))?
        };
        SlotTable::over(self.layout, PeerAccess::None, memory)
    }
}

/// A session that a link knows, with its slots.
#[derive(Debug)]
pub struct Admitted {
    /// Whom replies go to.
    pub peer: PeerId,
    /// What was agreed.
    pub admission: Admission,
    /// The session's slots.
    pub table: Arc<SlotTable>,
}

/// Something that a peer tried and was not allowed. Counted and logged by whoever owns the lane.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The header makes no sense.
    #[error("frame refused: {0}")]
    Frame(#[from] FrameError),
    /// The token is not that of the session, or there is no such session. Both are answered alike.
    #[error("session {0} refused: unknown, or the token does not fit")]
    Credentials(SessionId),
    /// A stranger that may not even prove a session, or did not begin with a proof.
    #[error("stranger that names session {session} refused: {what}")]
    Stranger {
        /// The session that it named, which may be anybody's.
        session: SessionId,
        /// What it did.
        what: &'static str,
    },
    /// The frame is for another session than the one that this connection proved.
    #[error("frame names session {named}, this connection is of {own}")]
    Session {
        /// The session in the frame.
        named: SessionId,
        /// The session of the connection.
        own: SessionId,
    },
    /// The frame is from an earlier lease, or from one that never was.
    #[error("frame has generation {named}, session {session} is at {now}: resume the session")]
    Generation {
        /// The session.
        session: SessionId,
        /// The generation in the frame.
        named: Generation,
        /// The live one.
        now: Generation,
    },
    /// No such slot, or its last request is not answered yet.
    #[error("session {session} has no free slot {slot}")]
    Slot {
        /// The session.
        session: SessionId,
        /// The slot in the frame.
        slot: u32,
    },
    /// The payload is longer than the slot.
    #[error("payload of {bytes} bytes does not fit the {bytes_max} bytes of a slot")]
    Length {
        /// The session.
        session: SessionId,
        /// Length in the frame.
        bytes: u64,
        /// Room that there is.
        bytes_max: u64,
    },
    /// A frame of this session's client that only the other end may send, or out of order.
    #[error("session {0} sent a frame of a kind that is not expected now")]
    Kind(SessionId),
    /// Ring indices that no honest peer writes, or another breach outside the frame.
    #[error("session {session}: {what}")]
    Breach {
        /// The session.
        session: SessionId,
        /// What was seen.
        what: &'static str,
    },
}

impl Refusal {
    /// The session whose client it was, where that was proved: a session that is only named may be
    /// another's.
    pub fn proved(&self) -> Option<SessionId> {
        match *self {
            Refusal::Frame(_) | Refusal::Credentials(_) | Refusal::Stranger { .. } => None,
            Refusal::Session { own: session, .. }
            | Refusal::Generation { session, .. }
            | Refusal::Slot { session, .. }
            | Refusal::Length { session, .. }
            | Refusal::Kind(session)
            | Refusal::Breach { session, .. } => Some(session),
        }
    }
}

/// The first frame of a stranger is no hello.
pub(crate) fn no_hello(session: SessionId) -> Refusal {
    Refusal::Stranger { session, what: "its first frame is no hello" }
}

impl Admitted {
    /// Checks that `frame` is a request of this session's live lease that fits a free slot, and
    /// claims the slot. No payload byte may be placed before.
    ///
    /// # Errors
    /// [`Refusal`] says which rule it breaks.
    pub fn accept(&self, frame: &Frame) -> Result<Slot, Refusal> {
        self.check(frame)?;
        let session = self.admission.session;
        self.table.claim(frame.slot).ok_or(Refusal::Slot { session, slot: frame.slot.0 })
    }

    /// The part of [`accept`](Admitted::accept) that is about the frame alone: for a link that
    /// moves the slot's own token and has nothing to claim.
    ///
    /// # Errors
    /// [`Refusal`] says which rule it breaks.
    pub fn check(&self, frame: &Frame) -> Result<(), Refusal> {
        let Admission { session, generation, layout, .. } = &self.admission;
        let session = *session;
        if frame.session != session {
            return Err(Refusal::Session { named: frame.session, own: session });
        }
        if frame.generation != *generation {
            let named = frame.generation;
            return Err(Refusal::Generation { session, named, now: *generation });
        }
        if !matches!(frame.body, Body::Request(_)) {
            return Err(Refusal::Kind(session));
        }
        if frame.payload_bytes > layout.request_bytes {
            let (bytes, bytes_max) = (frame.payload_bytes, layout.request_bytes);
            return Err(Refusal::Length { session, bytes, bytes_max });
        }
        Ok(())
    }
}
