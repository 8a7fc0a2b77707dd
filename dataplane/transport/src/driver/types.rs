//! What goes into a driver and comes out of it.

use ferry_core::{
    Generation, OutputShapes, Request, RequestRecord, SessionId, SlotIndex, StageTimes, Status,
    WaitPolicy,
};
use ferry_memory::Slot;

use crate::clock::UnixClock;
use crate::link::LinkError;

/// Where finished requests are noted.
pub trait RecordSink: Send + Sync + std::fmt::Debug {
    /// Takes one record. Called on the path of every request: it must not block, and drops what
    /// it has no room for.
    fn record(&self, record: RequestRecord);
}

/// What a driver must know of its session.
#[derive(Clone, Copy, Debug)]
pub struct DriverOptions {
    /// The session.
    pub session: SessionId,
    /// Its lease.
    pub generation: Generation,
    /// The run that its records belong to.
    pub run: i64,
    /// How to wait for replies.
    pub wait: WaitPolicy,
    /// Number of the first request: 1, or where the lease before this one ended.
    pub first_request: u64,
    /// Gives records their wall-clock start.
    pub clock: UnixClock,
}

/// Whether a driver's link carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DriverState {
    /// Requests can be submitted.
    Live,
    /// The link is over. To go on, resume the session: new lease, new link, new driver.
    Lost(LinkError),
}

/// How a request came to its end, as its caller sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// A reply came: `status` is the server's.
    Replied,
    /// Its deadline passed. Whether it ran is not known; `status` says
    /// [`LinkLost`](Status::LinkLost). The link keeps the slot until it is done with it.
    DeadlinePassed,
    /// The link broke. Whether it ran is not known.
    LinkLost,
}

/// A request that ended.
#[derive(Debug)]
pub struct Completion {
    /// Its number.
    pub request: u64,
    /// What it was.
    pub what: Request,
    /// Length of its payload, in bytes; the slot still has it where it ended with a reply.
    pub request_bytes: usize,
    /// Its slot; the reply's payload is in it. With [`Ending::LinkLost`] it is dirty (a late write
    /// may still land in it): its table is retired, so that dropping it brings it to nobody. `None`
    /// if a deadline passed, or if the link could not give it back.
    pub slot: Option<Slot>,
    /// How it ended.
    pub ending: Ending,
    /// The status: the server's, or [`Status::LinkLost`].
    pub status: Status,
    /// Length of the payload in the slot's reply half, in bytes.
    pub payload_bytes: usize,
    /// The shapes of the outputs; `None` where they are those that the session agreed.
    pub outputs: Option<Box<OutputShapes>>,
    /// The stages that are known. `reply` is in the record only: it comes with the next reply.
    pub times: StageTimes,
}

/// A request that was not sent.
#[derive(Debug, thiserror::Error)]
#[error("request was not sent")]
pub struct SubmitError {
    /// Given back.
    pub slot: Slot,
    /// Why.
    #[source]
    pub why: SubmitRefusal,
}

/// Why a request was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitRefusal {
    /// The link is over; resume the session.
    #[error("the link is lost, resume the session: {0}")]
    Lost(LinkError),
    /// The payload is longer than the slot.
    #[error("payload of {bytes} bytes does not fit the {bytes_max} bytes of a slot")]
    TooLong {
        /// Length given.
        bytes: usize,
        /// Room that there is.
        bytes_max: usize,
    },
    /// The slot is of another session or another lease.
    #[error("slot {0} is not of this lease; take slots from the session's own table")]
    ForeignSlot(SlotIndex),
    /// Completions pile up.
    #[error("{0} completions were not taken; take them before submitting more")]
    NotTaken(usize),
    /// The link did not take it.
    #[error("the link did not take it: {0}")]
    Link(LinkError),
}
