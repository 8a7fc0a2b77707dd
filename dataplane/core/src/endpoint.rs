//! What a peer must know to reach a link, and to reach memory.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::session::SlotLayout;
use crate::transport::LinkKind;

/// Where the server's end of a link is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The link that leads there.
    pub link: LinkKind,
    /// Where, as the link itself writes it: shm a Unix socket's abstract name without the leading
    /// NUL, tcp `host:port`, zmq `tcp://host:port`. Empty where the link needs none: local is in
    /// the caller's own process, grpc on the session's own channel, and the end of rdma is in the
    /// [`RegionDescriptor::Remote`].
    pub address: String,
}

impl Endpoint {
    /// The end of a link at an address.
    pub fn new(link: LinkKind, address: impl Into<String>) -> Endpoint {
        Endpoint { link, address: address.into() }
    }

    /// The end of a link that needs no address.
    pub fn bare(link: LinkKind) -> Endpoint {
        Endpoint::new(link, "")
    }

    /// The address, if it is one of this link.
    pub fn address_on(&self, link: LinkKind) -> Option<&str> {
        (self.link == link).then_some(self.address.as_str())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.link)?;
        if self.address.is_empty() { Ok(()) } else { write!(f, " at {}", self.address) }
    }
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
    /// Memory of a CUDA device, as the memory itself says it.
    Device(DeviceMemory),
    /// The doorbell in a memfd, as in [`Memfd`](RegionDescriptor::Memfd), and the slots in memory
    /// of a CUDA device.
    OnDevice {
        /// Length of the memfd in bytes, without the slots.
        bytes: u64,
        /// How the slots divide the device's memory.
        layout: SlotLayout,
        /// Where the slots are.
        slots: DeviceMemory,
    },
}

/// Memory of a CUDA device that another process of the same host can open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Names the allocation.
    pub handle: IpcHandle,
    /// The device, as every process knows it: ordinals differ between processes.
    pub device: DeviceUuid,
    /// Where the memory starts in the allocation, in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// What `cuIpcGetMemHandle` gives. Whoever has it can open the memory, as the same user on the
/// same host: it is not shown.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct IpcHandle(pub [u8; IpcHandle::BYTES]);

impl IpcHandle {
    /// Length of a handle in bytes: `CU_IPC_HANDLE_SIZE`.
    pub const BYTES: usize = 64;
}

impl fmt::Debug for IpcHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IpcHandle(…)")
    }
}

/// A CUDA device's identity, as `nvidia-smi -L` shows it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeviceUuid(pub [u8; DeviceUuid::BYTES]);

impl DeviceUuid {
    /// Length in bytes.
    pub const BYTES: usize = 16;
}

impl fmt::Display for DeviceUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GPU")?;
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 0 | 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for DeviceUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceUuid({self})")
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_named_as_nvidia_smi_names_it() {
        let uuid = DeviceUuid(std::array::from_fn(|at| u8::try_from(at * 17).expect("small")));
        assert_eq!(uuid.to_string(), "GPU-00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(format!("{uuid:?}"), "DeviceUuid(GPU-00112233-4455-6677-8899-aabbccddeeff)");
    }

    #[test]
    fn an_endpoint_has_an_address_on_its_own_link_alone() {
        let endpoint = Endpoint::new(LinkKind::Tcp, "127.0.0.1:1");
        assert_eq!(endpoint.address_on(LinkKind::Tcp), Some("127.0.0.1:1"));
        assert_eq!(endpoint.address_on(LinkKind::Zmq), None);
        assert_eq!(endpoint.to_string(), "tcp at 127.0.0.1:1");
        assert_eq!(Endpoint::bare(LinkKind::Rdma).to_string(), "rdma");
    }

    #[test]
    fn a_handle_is_not_shown() {
        assert_eq!(format!("{:?}", IpcHandle([7; IpcHandle::BYTES])), "IpcHandle(…)");
    }
}
