//! What a peer must know to reach a link, and to reach memory.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

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
    /// A queue pair of the session's own, which its [`RegionDescriptor::Remote`] describes.
    Rdma,
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
    /// By RDMA writes through one queue pair.
    Remote {
        /// The end that writes are sent to.
        queue_pair: QueuePair,
        /// Names the memory; `None` until both queue pairs are connected and it is opened to the
        /// peer.
        key: Option<MemoryKey>,
        /// Names the memory of the payloads, where they do not lie behind their headers: memory of
        /// a device.
        payloads: Option<MemoryKey>,
    },
}

/// A global identifier of an RDMA port.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Gid(pub [u8; 16]);

impl Gid {
    /// The IP address that it stands for, as RoCEv2 has it.
    pub fn address(&self) -> IpAddr {
        let v6 = Ipv6Addr::from(self.0);
        v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
    }
}

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ipv6Addr::from(self.0).fmt(f)
    }
}

impl fmt::Debug for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gid({self})")
    }
}

/// Most GIDs that one end offers: a port of a bonded card with VLANs shows some 16, of which few
/// lead to the peer.
pub const GIDS_MAX: usize = 8;

/// One end of a reliable connection, as the other end must know it to bring its own queue pair to
/// ready-to-send. Names are those of `ibv_qp_attr`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuePair {
    /// 24 bits, unique on its device.
    pub number: u32,
    /// The packet sequence number that its sends begin with, 24 bits.
    pub first_psn: u32,
    /// Where it can be reached, best first; 1 to [`GIDS_MAX`].
    pub gids: Vec<Gid>,
    /// The local identifier on InfiniBand, 0 on RoCE.
    pub lid: u16,
    /// The largest packet payload of the port: 256, 512, 1024, 2048 or 4096.
    pub path_mtu_bytes: u32,
    /// Reads and atomics that it starts at once.
    pub rd_atomic_max: u8,
    /// Reads and atomics that it serves at once.
    pub dest_rd_atomic_max: u8,
    /// When a write that is not acknowledged is sent again.
    pub retry: Retry,
}

/// How often and how soon a write is sent again, in the codes of `ibv_qp_attr`. The server's are
/// used at both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How long the device waits for an acknowledgement: 4.096 µs · 2^code, 1 to 31. Devices may
    /// take up to four times as long.
    pub ack_timeout: u8,
    /// How often a write is sent again before the peer counts as gone, 0 to 7.
    pub count: u8,
    /// How often a write is sent again to a peer with no receive posted, 0 to 7.
    pub rnr_count: u8,
    /// What a peer without a receive asks us to wait, a code of 0 to 31.
    pub min_rnr_timer: u8,
}

impl Default for Retry {
    /// 67 ms, 6 times: some 0.5 to 2 s until a peer is given up. Not 7, the most there is: Soft-RoCE
    /// takes that for "for ever", and a peer that died would never be noticed. Receives are posted ahead of the
    /// credits that allow a write, so an honest peer never needs the receiver-not-ready retry.
    fn default() -> Retry {
        Retry { ack_timeout: 14, count: 6, rnr_count: 1, min_rnr_timer: 12 }
    }
}

/// Memory of the peer that writes may go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryKey {
    /// Of the first byte, in the peer's address space.
    pub address: u64,
    /// The key that every write presents.
    pub remote_key: u32,
    /// Length in bytes.
    pub bytes: u64,
}

/// What a client tells a server whose link needs to know the client's end before it can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The client's end; its first GID is the one to send to.
    pub queue_pair: QueuePair,
    /// Where replies are written.
    pub key: MemoryKey,
    /// Which of the server's GIDs to send from: the one that the client sends to.
    pub server_gid: Gid,
}
