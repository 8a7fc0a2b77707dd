//! What the clients of links that carry frames share: the handshake and the checks of a reply.

use std::sync::Arc;
use std::time::Instant;

use ferry_core::{
    Body, Endpoint, Frame, FrameError, Generation, LinkKind, SessionId, SlotIndex, SlotLayout,
    Status, Token,
};
use ferry_memory::{MemoryError, Slot, SlotTable};

use crate::admitted::Refusal;
use crate::link::{LinkError, Rejected, SERVER, Transfer};
use crate::outgoing::{Half, Outgoing, reject};

/// Why a client could not connect.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The endpoint is of another link, or its address makes no sense.
    #[error("{0} is no endpoint of the link {1}")]
    Address(Endpoint, LinkKind),
    /// Nobody answers there.
    #[error("no connection to {address}: is the server there, and the port open?")]
    Unreachable {
        /// Where it was tried.
        address: String,
        /// What the system said.
        #[source]
        why: LinkError,
    },
    /// No answer in time.
    #[error("no welcome from {0} before the deadline")]
    Late(String),
    /// The server answered with a goodbye. `session_ended`: the session is unknown to it, has
    /// expired, or the token or the generation does not fit: resume it or open a new one.
    #[error("the server refused the session: {0}")]
    Refused(Status),
    /// What answered does not speak this protocol.
    #[error("the server at {address} does not speak this protocol: {what}")]
    Protocol {
        /// Where it was tried.
        address: String,
        /// What it sent.
        what: String,
    },
    /// The slots could not be made.
    #[error("make the session's slots")]
    Memory(#[from] MemoryError),
    /// The link could not be set up on this host.
    #[error("set up the link")]
    Link(#[from] LinkError),
}

/// The session as its client knows it, with what is in flight.
#[derive(Debug)]
pub struct Own {
    /// Its name.
    pub session: SessionId,
    /// Its lease.
    pub generation: Generation,
    /// Its slots.
    pub layout: SlotLayout,
    table: Arc<SlotTable>,
    /// One entry per slot of the session.
    in_flight: Vec<Option<InFlight>>,
}

#[derive(Debug)]
struct InFlight {
    request: u64,
    slot: Slot,
}

impl Own {
    /// The session, with slots in private memory.
    ///
    /// # Errors
    /// [`MemoryError`] if the layout is wrong or memory short.
    pub fn private(
        session: SessionId,
        generation: Generation,
        layout: SlotLayout,
    ) -> Result<(Own, Arc<SlotTable>), MemoryError> {
        let table = SlotTable::private(layout)?;
        Ok((Own::over(session, generation, Arc::clone(&table)), table))
    }

    /// The session, with slots that the link has made.
    pub fn over(session: SessionId, generation: Generation, table: Arc<SlotTable>) -> Own {
        let layout = *table.layout();
        let in_flight = std::iter::repeat_with(|| None).take(layout.slots as usize).collect();
        Own { session, generation, layout, table, in_flight }
    }

    /// The first frame.
    pub fn hello(&self, token: Token) -> Frame {
        self.frame(Body::Hello { token })
    }

    /// The last frame.
    pub fn bye(&self) -> Frame {
        self.frame(Body::Bye { status: Status::SessionEnded })
    }

    fn frame(&self, body: Body) -> Frame {
        let (session, generation) = (self.session, self.generation);
        Frame { session, generation, slot: SlotIndex(0), request: 0, payload_bytes: 0, body }
    }

    /// What the answer to the hello means.
    ///
    /// # Errors
    /// [`ConnectError::Refused`] or [`ConnectError::Protocol`].
    pub fn welcomed(
        &self,
        answer: Result<Frame, FrameError>,
        address: &str,
    ) -> Result<(), ConnectError> {
        let protocol = |what: String| ConnectError::Protocol { address: address.to_owned(), what };
        let frame = answer.map_err(|error| protocol(error.to_string()))?;
        match frame.body {
            Body::Bye { status } => Err(ConnectError::Refused(status)),
            Body::Welcome if self.is_of_lease(&frame) && frame.payload_bytes == 0 => Ok(()),
            _ => Err(protocol("a frame that is not the answer to a hello".into())),
        }
    }

    /// A request, ready to be sent.
    pub(crate) fn outgoing(&self, gone: bool, transfer: Transfer) -> Result<Outgoing, Rejected> {
        if gone {
            return Err(reject(transfer, LinkError::Closed));
        }
        if transfer.peer != SERVER {
            let why = LinkError::NoPeer(transfer.peer);
            return Err(reject(transfer, why));
        }
        Outgoing::new(transfer, Half::Request, &self.table)
    }

    /// Whether the frame names this lease.
    pub fn is_of_lease(&self, frame: &Frame) -> bool {
        (frame.session, frame.generation) == (self.session, self.generation)
    }

    /// Keeps the slot of a request that was sent until its reply comes.
    pub fn keep(&mut self, request: u64, slot: Slot) {
        let at = slot.index().at();
        self.in_flight[at] = Some(InFlight { request, slot });
    }

    /// Checks that `frame` is a reply to a request in flight that fits its slot; gives the slot.
    ///
    /// # Errors
    /// [`Refusal`] says which rule it breaks.
    pub fn accept(&mut self, frame: &Frame) -> Result<Slot, Refusal> {
        let session = self.session;
        if frame.session != session {
            return Err(Refusal::Session { named: frame.session, own: session });
        }
        if frame.generation != self.generation {
            let (named, now) = (frame.generation, self.generation);
            return Err(Refusal::Generation { session, named, now });
        }
        if !matches!(frame.body, Body::Reply(_)) {
            return Err(Refusal::Kind(session));
        }
        let (bytes, bytes_max) = (frame.payload_bytes, self.layout.reply_bytes);
        if bytes > bytes_max {
            return Err(Refusal::Length { session, bytes, bytes_max });
        }
        let entry = self.in_flight.get_mut(frame.slot.at());
        let held = entry.and_then(|entry| entry.take_if(|held| held.request == frame.request));
        held.map(|held| held.slot).ok_or(Refusal::Slot { session, slot: frame.slot.0 })
    }

    /// Every slot that waits for a reply; none does afterwards.
    pub fn abandon(&mut self) -> impl Iterator<Item = Slot> + '_ {
        self.in_flight.iter_mut().filter_map(|entry| entry.take().map(|held| held.slot))
    }
}

/// Whether there is time left, and how much; at least a millisecond, because 0 means "for ever"
/// to some calls.
pub(crate) fn time_left(
    deadline: Instant,
    address: &str,
) -> Result<std::time::Duration, ConnectError> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(ConnectError::Late(address.to_owned()));
    }
    Ok(left.max(std::time::Duration::from_millis(1)))
}
