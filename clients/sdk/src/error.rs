//! What can go wrong, by what the caller can do about it.

use ferry_core::{Status, Transport};
use ferry_transport::LinkError;

/// Why something did not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is not one that this client can talk to. Nothing was sent.
    #[error("the server's address {server:?}: {why}")]
    Address {
        /// The address given.
        server: String,
        /// What is wrong with it, and how it should be.
        why: String,
    },
    /// Nobody answers at the address.
    #[error("connect to {server}: is ferryd running there?")]
    Connect {
        /// The address given.
        server: String,
        /// What the channel said.
        #[source]
        source: tonic::transport::Error,
    },
    /// The server refused a call of the control plane. Its message says what to do.
    #[error("{doing}: {}", .status.message())]
    Refused {
        /// What was asked.
        doing: &'static str,
        /// The answer, with its code and details.
        status: Box<tonic::Status>,
    },
    /// The server's answer makes no sense to this client.
    #[error("{doing}: the server's answer is not usable, update the older end")]
    Answer {
        /// What was asked.
        doing: &'static str,
        /// What is wrong with it.
        #[source]
        source: ferry_proto::WireError,
    },
    /// The data plane could not be connected.
    #[error("connect the transport {transport}: {why}")]
    Attach {
        /// The transport.
        transport: Transport,
        /// Why, and what to do.
        why: String,
    },
    /// The link broke while requests were in flight: whether they ran is not known. The next
    /// `slot()` resumes the session.
    #[error("the link is lost ({0}); requests in flight may or may not have run")]
    LinkLost(LinkError),
    /// The link broke, and the session could not be taken up again either. The next `slot()` tries
    /// it anew.
    #[error("the link was lost ({lost}), and the session could not be taken up again")]
    Resume {
        /// How the link ended; over RDMA with the status of the completion.
        lost: LinkError,
        /// Why nothing could take its place.
        #[source]
        source: Box<Error>,
    },
    /// The server answered a request with something else than outputs.
    #[error("request {request} failed ({status}): {text}")]
    Request {
        /// The request's number.
        request: u64,
        /// How it ended.
        status: Status,
        /// What the server says about it.
        text: String,
    },
    /// The model ran, and its outputs do not fit the session's slots. Only where the session could
    /// not be opened again with that room by itself, or where the reply to the request that was sent
    /// once more is larger still.
    #[error("the session has no room for the reply of {bytes} bytes to request {request}: {text}")]
    ReplyTooLarge {
        /// The request's number.
        request: u64,
        /// What the outputs take: see [`reply_bytes`](crate::SessionBuilder::reply_bytes).
        bytes: u64,
        /// Why there is none.
        text: String,
    },
    /// The answer has not come in time. A request's slot stays in flight until it does.
    #[error("no answer within {0:?}; a request that was sent is still in flight")]
    Timeout(std::time::Duration),
    /// All slots are in flight or hold replies that were not dropped.
    #[error("all {0} slots of the session are in use: take or drop a reply, or open with more")]
    SlotsInUse(u32),
    /// Too many replies were not taken.
    #[error("{0} replies wait: take them with `next_reply` before sending more")]
    RepliesWait(usize),
    /// The slot is of another session, or of this one before it was resumed.
    #[error("the slot is not of this session's present lease: take a new one with `slot()`")]
    ForeignSlot,
    /// There is no such input or output.
    #[error("the model has no {what} {which}; it has {known}")]
    NoTensor {
        /// `input` or `output`.
        what: &'static str,
        /// The index or name asked for.
        which: String,
        /// Those there are.
        known: String,
    },
    /// The data does not fit.
    #[error("{what}: {given} given, but {room}")]
    Size {
        /// What does not fit.
        what: &'static str,
        /// What was given.
        given: String,
        /// What would fit, as a clause.
        room: String,
    },
    /// Memory of a device cannot be borrowed as a slice.
    #[error(
        "the slot lies in memory of {place} ({transport}), where there is no slice: use `set_input` \
         or `write`, or fill it by `device_address`"
    )]
    OnDevice {
        /// Where it lies.
        place: ferry_core::Placement,
        /// The session's transport.
        transport: Transport,
    },
    /// A copy between devices needs a slot on one.
    #[error(
        "the slot of a session on {0} lies in memory of the host: copy the tensor there with \
         `write`, or open the session with the transport cuda-ipc"
    )]
    NotOnDevice(Transport),
    /// A slot's memory could not be copied.
    #[error("{doing}")]
    Memory {
        /// What was copied.
        doing: &'static str,
        /// Why not.
        #[source]
        source: ferry_memory::MemoryError,
    },
    /// A thread or runtime could not be started.
    #[error("start {what}")]
    Start {
        /// What.
        what: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    pub(crate) fn refused(doing: &'static str) -> impl FnOnce(tonic::Status) -> Error {
        move |status| Error::Refused { doing, status: Box::new(status) }
    }

    pub(crate) fn answer(doing: &'static str) -> impl FnOnce(ferry_proto::WireError) -> Error {
        move |source| Error::Answer { doing, source }
    }

    pub(crate) fn memory(doing: &'static str) -> impl FnOnce(ferry_memory::MemoryError) -> Error {
        move |source| Error::Memory { doing, source }
    }

    /// Puts first how the link ended, if it did: a caller that asks for a slot must learn that too.
    pub(crate) fn resume(lost: Option<LinkError>) -> impl FnOnce(Error) -> Error {
        move |error| match lost {
            Some(lost) => Error::Resume { lost, source: Box::new(error) },
            None => error,
        }
    }

    /// Whether the session is not known to the server (any more): open a new one.
    pub(crate) fn session_is_gone(&self) -> bool {
        matches!(self, Error::Refused { status, .. } if status.code() == tonic::Code::NotFound)
    }
}

impl From<ferry_transport::SubmitRefusal> for Error {
    fn from(refusal: ferry_transport::SubmitRefusal) -> Error {
        use ferry_transport::SubmitRefusal;
        match refusal {
            SubmitRefusal::Lost(why) | SubmitRefusal::Link(why) => Error::LinkLost(why),
            SubmitRefusal::TooLong { bytes, bytes_max } => Error::Size {
                what: "request",
                given: format!("{bytes} bytes"),
                room: format!("the slot has room for {bytes_max}"),
            },
            SubmitRefusal::ForeignSlot(_) => Error::ForeignSlot,
            SubmitRefusal::NotTaken(waiting) => Error::RepliesWait(waiting),
        }
    }
}
