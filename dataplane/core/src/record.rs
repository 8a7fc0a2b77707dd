//! One finished request, as it goes to the store.

use crate::session::{SessionId, TraceId};
use crate::stage::StageTimes;
use crate::status::Status;

/// What is stored of one request. Plain numbers: the hot path copies it into a bounded queue and
/// does nothing else. What a session has in common (model, transport, …) is stored once, with the
/// session.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RequestRecord {
    /// The run that it belongs to; 0 is the server's own.
    pub run: i64,
    /// The session that it came through.
    pub session: SessionId,
    /// Its number within the session.
    pub request: u64,
    /// Wall clock at submit, nanoseconds since 1970, of the host that submitted it.
    pub started_unix_ns: u64,
    /// `ping`, `raw`, `jpeg` or `tensor`.
    pub kind: KindName,
    /// Items in the batch.
    pub batch: u32,
    /// Larger is more urgent; 0 is normal.
    pub priority: u8,
    /// Payload sent, in bytes.
    pub bytes_in: u64,
    /// Payload received, in bytes.
    pub bytes_out: u64,
    /// How it ended.
    pub status: Status,
    /// The trace that it was part of.
    pub trace: TraceId,
    /// Where the time went.
    pub times: StageTimes,
}

/// A request's kind without its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum KindName {
    /// The empty round trip.
    Ping = 0,
    /// Pixels.
    Raw = 1,
    /// A JPEG file.
    Jpeg = 2,
    /// Input tensors.
    Tensor = 3,
}

impl KindName {
    /// Every kind, in wire order.
    pub const ALL: [KindName; 4] =
        [KindName::Ping, KindName::Raw, KindName::Jpeg, KindName::Tensor];

    /// The name in SQL.
    pub const fn name(self) -> &'static str {
        match self {
            KindName::Ping => "ping",
            KindName::Raw => "raw",
            KindName::Jpeg => "jpeg",
            KindName::Tensor => "tensor",
        }
    }

    /// From its number; `None` for one that this build does not know.
    pub fn from_wire(number: u8) -> Option<KindName> {
        KindName::ALL.get(usize::from(number)).copied()
    }
}
