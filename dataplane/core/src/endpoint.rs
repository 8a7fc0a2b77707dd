//! What a peer must know to reach a link, and to reach memory.

use crate::session::SlotLayout;

/// Where the server's end of a link is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// In the caller's own process.
    Local,
    /// A Unix socket in the abstract namespace (no file; gone with the server), where the memory
    /// is handed over.
    Shm {
        /// The abstract name, without the leading NUL.
        socket: String,
    },
    /// `host:port` for plain TCP.
    Tcp {
        /// Address to connect to.
        address: String,
    },
    /// `tcp://host:port` for ZeroMQ.
    Zmq {
        /// Address to connect to.
        address: String,
    },
    /// The session's own gRPC channel.
    Grpc,
}

/// How a session's memory is reached. One variant per way of reaching.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegionDescriptor {
    /// Only through frames on the link: the peer has memory of its own.
    Framed,
    /// One memfd of this length, handed over on the endpoint's socket.
    Memfd {
        /// Length in bytes, which the receiver checks against the descriptor that arrives.
        bytes: u64,
        /// How it is divided.
        layout: SlotLayout,
    },
}
