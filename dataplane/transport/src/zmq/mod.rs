//! ZeroMQ over TCP: the server is a ROUTER, each client a DEALER.
//!
//! A message is the header (head and tail) as one part and, if there is a payload, the payload as a
//! second one; at the server the peer's identity comes before them. Anything else is refused. The
//! first message of a peer is its hello: its identity is bound to the session whose token it
//! presents, and only that identity speaks for the session from then on. One peer per lease, as
//! on the `tcp` link.
//!
//! **Copies.** libzmq owns its buffers: a payload is copied once out of the slot and once into it,
//! the second time after its header was checked. Headers that are refused cost no copy.
//!
//! **What is timed.** libzmq hands over whole messages. `seen` is when the header was taken from
//! it, `visible` when the payload was copied into the slot: time on the wire is not part of
//! `receive`. `Sent` means that libzmq took the message over.
//!
//! **Death.** A peer that goes without a word shows by a monitor of its socket: the server then
//! sends every peer a second welcome, which a client overlooks and which cannot be sent to
//! the dead. Heartbeats of the protocol find hosts that vanished.
//!
//! **What libzmq does not let us bound.** How many connections there are, and how many parts a
//! peer sends in one message before it ends it: libzmq collects them outside our sight. Only the
//! length of each part is bounded, and the number of complete messages that wait. Use `tcp` where
//! strangers can connect.

mod client;
mod listener;
mod socket;

use ferry_core::{FRAME_ROOM_BYTES, LinkKind};

use crate::link::Capabilities;

pub use client::ZmqClient;
pub use listener::ZmqListenerLink;

/// Version of libzmq, such as `4.3.4`.
pub fn library_version() -> String {
    let (major, minor, patch) = zmq::version();
    format!("{major}.{minor}.{patch}")
}

const CAPABILITIES: Capabilities = Capabilities {
    kind: LinkKind::Zmq,
    one_sided: false,
    reports_completion: false,
    carries_frames: true,
    threads: 4,
};

/// Limits of the server's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZmqOptions {
    /// Most sessions at a time.
    pub sessions_max: usize,
    /// Longest request payload of any session, in bytes. libzmq has to know it before the first
    /// session is admitted: it drops a peer that announces more, before it allocates anything.
    pub request_bytes_max: u64,
}

impl ZmqOptions {
    /// `ZMQ_MAXMSGSIZE`: the longest part that is not hostile.
    fn part_bytes_max(&self) -> i64 {
        part_bytes_max(self.request_bytes_max)
    }
}

impl Default for ZmqOptions {
    fn default() -> ZmqOptions {
        ZmqOptions { sessions_max: 1024, request_bytes_max: 64 << 20 }
    }
}

fn part_bytes_max(payload_bytes_max: u64) -> i64 {
    let header = i64::try_from(FRAME_ROOM_BYTES).unwrap_or(i64::MAX);
    i64::try_from(payload_bytes_max).unwrap_or(i64::MAX).max(header)
}
