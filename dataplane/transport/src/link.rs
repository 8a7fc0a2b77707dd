//! The seam: what a link must do, at either end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::{
    Attachment, Endpoint, Frame, LinkKind, RegionDescriptor, SessionId, Status, Tail,
};
use ferry_memory::{MemoryError, PeerId, Slot};

use crate::admitted::{Admission, Refusal};
use crate::lane::LaneError;

/// The one peer of a client's link.
pub const SERVER: PeerId = PeerId(0);

/// Most events that one [`Link::poll`] returns: enough to amortise the call, few enough that a
/// busy peer cannot starve the replies of the others.
pub const EVENTS_PER_POLL_MAX: usize = 64;

/// Carries frames and payloads between this process and its peers.
///
/// One thread owns a link and calls it. Nothing here blocks but [`park`](Link::park), and nothing
/// allocates per request. Frames keep their order, where the link
/// [carries frames](Capabilities::carries_frames).
pub trait Link: Send {
    /// What the link can do, as plain data.
    fn capabilities(&self) -> Capabilities;

    /// Starts sending a frame and its payload. The slot belongs to the link until an event hands
    /// it out again (client: with the reply) or the write is complete (server: then it is free).
    ///
    /// # Errors
    /// [`Rejected`] gives the transfer back, untouched.
    fn submit(&mut self, transfer: Transfer) -> Result<(), Rejected>;

    /// Moves bytes and appends what happened, at most [`EVENTS_PER_POLL_MAX`] events. Never waits.
    fn poll(&mut self, events: &mut Events);

    /// Sleeps until something may have happened, the waker was used, or `at_most` has passed.
    /// Arms first and looks again before it sleeps, so that nothing that came since the last
    /// `poll` is slept through. May return early for no reason.
    fn park(&mut self, at_most: Duration);

    /// Ends a sleep from any thread.
    fn waker(&self) -> Waker;
}

/// The server's end: many sessions over one link.
pub trait Listener: Link {
    /// Where clients reach it.
    fn endpoint(&self) -> Endpoint;

    /// Expects the client of a session, and makes its slots.
    ///
    /// # Errors
    /// [`AdmitError`] if memory is short or the session is there already.
    fn admit(&mut self, admission: Admission) -> Result<RegionDescriptor, AdmitError>;

    /// Connects the two ends of a session on links where the server has to know the client's end.
    /// May be called again with another address until the client has joined. Answers how the
    /// session's memory is reached from now on.
    ///
    /// # Errors
    /// [`AdmitError::NotAttachable`] on links whose clients connect by themselves,
    /// [`AdmitError::Attach`] with what the device says.
    fn attach(
        &mut self,
        session: SessionId,
        attachment: &Attachment,
    ) -> Result<RegionDescriptor, AdmitError> {
        let _ = attachment;
        Err(AdmitError::NotAttachable(session))
    }

    /// Ends a session on this link: its peer can place no byte any more that anybody reads, and
    /// its memory is not used again. Tells the peer `status` where the link can. Nothing happens
    /// if the session is not there.
    fn evict(&mut self, session: SessionId, status: Status);
}

/// What a link can do. Data, not methods: what is not supported cannot be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Which link it is.
    pub kind: LinkKind,
    /// Payloads land in the peer's memory without the peer's CPU or a copy on its side.
    pub one_sided: bool,
    /// The link itself reports when a write is complete, so that `send` and `reply` are more than
    /// the time of a hand-over to the kernel or a library.
    pub reports_completion: bool,
    /// The peer gets each frame as it was submitted, with its tail, after those that were submitted
    /// before it. Where this is false, each request is a call of its own: calls overtake one
    /// another, each proves its session, and what a call cannot say (a frame of another session,
    /// lease or slot, the tail of a request) is not taken.
    pub carries_frames: bool,
    /// Threads that pass a message on, those of both ends together: one each where both poll, two
    /// each where a library has a thread of its own. Whoever polls on a machine with fewer cores
    /// keeps another one from running.
    pub threads: usize,
}

/// A frame and the slot with its payload.
#[derive(Debug)]
pub struct Transfer {
    /// Whom it is for: [`SERVER`] at a client.
    pub peer: PeerId,
    /// The header; `payload_bytes` bytes of the slot's half go with it.
    pub frame: Frame,
    /// A request's payload lies in its request half, a reply's in its reply half.
    pub slot: Slot,
    /// What is said beside the header; mostly nothing.
    pub tail: Tail,
}

impl Transfer {
    /// A frame without a tail.
    pub fn new(peer: PeerId, frame: Frame, slot: Slot) -> Transfer {
        Transfer { peer, frame, slot, tail: Tail::NONE }
    }
}

/// A transfer that a link did not take.
#[derive(Debug, thiserror::Error)]
#[error("transfer was not taken")]
pub struct Rejected {
    /// Given back.
    pub transfer: Box<Transfer>,
    /// Why.
    #[source]
    pub why: LinkError,
}

/// What happened on a link.
#[derive(Debug)]
pub enum Event {
    /// A frame landed, was checked against the session, and its payload is visible in the slot.
    Arrived {
        /// Who sent it.
        peer: PeerId,
        /// The header.
        frame: Frame,
        /// Server: claimed for this request. Client: the slot that was submitted.
        slot: Slot,
        /// What was said beside the header; mostly nothing.
        tail: Tail,
        /// When the doorbell was seen.
        seen: Instant,
        /// When header and payload had been checked and were visible.
        visible: Instant,
    },
    /// The link reports a write complete.
    Sent {
        /// Whom it went to.
        peer: PeerId,
        /// The request's number.
        request: u64,
        /// Submit → complete, in nanoseconds.
        elapsed_ns: u64,
    },
    /// A peer proved that it owns the session.
    Joined {
        /// The peer's name from now on.
        peer: PeerId,
        /// The session.
        session: SessionId,
    },
    /// Something was refused: a breach of the protocol or a forgery. The peer is cut off where the
    /// refusal says so.
    Refused(Refusal),
    /// The peer is gone: it said so, its process died, or the connection broke. At a client, the
    /// slots in flight come back in `slots`, dirty: a late write may still land in them.
    Gone {
        /// Who.
        peer: PeerId,
        /// The session; `None` if it never proved one.
        session: Option<SessionId>,
        /// Why.
        why: LinkError,
        /// Slots that were in flight.
        slots: Vec<Slot>,
    },
}

/// Events of one poll, reused from poll to poll.
pub type Events = Vec<Event>;

/// Why a link does not carry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The peer closed the connection or its process ended.
    #[error("the peer closed the link")]
    Closed,
    /// The peer ended the session and said why.
    #[error("the peer ended the session: {0}")]
    Bye(Status),
    /// The peer broke the protocol.
    #[error("the peer broke the protocol: {0}")]
    Protocol(String),
    /// No such peer, or not any more.
    #[error("no peer {0:?} on this link")]
    NoPeer(PeerId),
    /// More is in flight than was agreed.
    #[error("the link has no room: more in flight than the session's slots")]
    Full,
    /// The system refused.
    #[error("{what}: {error}")]
    Os {
        /// The operation.
        what: String,
        /// What the system said, as text: errors cross threads and are compared in tests.
        error: String,
    },
}

impl LinkError {
    /// Wraps what the system said.
    pub fn os(what: impl Into<String>, error: impl std::fmt::Display) -> LinkError {
        LinkError::Os { what: what.into(), error: error.to_string() }
    }
}

/// Why a session was not admitted.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// The session is there already.
    #[error("session {0} is already on this link")]
    Twice(SessionId),
    /// Its slots could not be made.
    #[error("make the session's slots")]
    Memory(#[from] MemoryError),
    /// The link has as many sessions as it takes.
    #[error("the link has its {0} sessions; close some or raise the limit")]
    Full(usize),
    /// The link's clients connect by themselves, or the session is not there.
    #[error("session {0} is not on this link, or its link is not attached over the control plane")]
    NotAttachable(SessionId),
    /// The client's end does not fit, or the device refused.
    #[error("connect to the client's end: {0}")]
    Attach(LinkError),
    /// The lane that owns the link did not answer.
    #[error(transparent)]
    Lane(#[from] LaneError),
}

/// Ends a sleep from another thread.
pub trait Wake: Send + Sync {
    /// Makes the current or the next `park` return. Cheap when the owner is awake.
    fn wake(&self);
}

/// Shared by everybody who may have to end a sleep.
pub type Waker = Arc<dyn Wake>;

impl std::fmt::Debug for dyn Link + '_ {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Link").field(&self.capabilities().kind).finish()
    }
}

impl std::fmt::Debug for dyn Listener + '_ {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Listener").field(&self.endpoint()).finish()
    }
}

impl std::fmt::Debug for dyn Wake + '_ {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wake")
    }
}
