//! An opened port: the device, what it can do, and its addresses.

use std::net::IpAddr;
use std::sync::Arc;

use ferry_core::endpoint::GIDS_MAX;
use ferry_core::{Gid, QueuePair, Retry};
use ferry_transport::LinkError;

use crate::gids::{self, GidEntry, Rank};
use crate::options::RdmaOptions;
use crate::verbs::{Device, DeviceFacts, Domain, LinkLayer, Path, PortFacts};

/// A port of a device, ready to be used.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) domain: Arc<Domain>,
    pub(crate) facts: DeviceFacts,
    pub(crate) number: u8,
    pub(crate) now: PortFacts,
    gid_index: Option<u8>,
    /// The table as it was read last: some hundred small files.
    table: Vec<GidEntry>,
}

impl Port {
    /// Opens the port that the options name, or the first active one.
    ///
    /// # Errors
    /// [`LinkError::Os`] says what is missing and how to get it.
    pub(crate) fn open(options: &RdmaOptions) -> Result<Port, LinkError> {
        let names = Device::names().map_err(|error| {
            LinkError::os(
                "look for RDMA devices",
                match error.error.raw_os_error() {
                    Some(95) => "libibverbs.so.1 is not here: install libibverbs1 and \
                                 ibverbs-providers"
                        .to_owned(),
                    Some(38) => "the kernel has no RDMA support: modprobe ib_uverbs".to_owned(),
                    _ => error.to_string(),
                },
            )
        })?;
        let wanted: Vec<&String> = names
            .iter()
            .filter(|name| options.device.as_ref().is_none_or(|wanted| wanted == *name))
            .collect();
        if wanted.is_empty() {
            return Err(nothing(options, &names));
        }
        let mut why = None;
        for name in wanted {
            match Port::first_active(name, options) {
                Ok(port) => return Ok(port),
                Err(error) => why = why.or(Some(error)),
            }
        }
        Err(why.unwrap_or_else(|| nothing(options, &names)))
    }

    fn first_active(name: &str, options: &RdmaOptions) -> Result<Port, LinkError> {
        let device = Arc::new(Device::open(name)?);
        let facts = device.facts()?;
        let numbers = options.port.map_or(1..=facts.ports, |number| number..=number);
        let mut state = "absent";
        for number in numbers {
            let now = device.port(number)?;
            if now.active {
                let (domain, gid_index) = (Domain::new(&device)?, options.gid_index);
                let mut port = Port { domain, facts, number, now, gid_index, table: Vec::new() };
                port.refresh();
                return Ok(port);
            }
            state = now.state;
        }
        let what = format!(
            "its port is {state}; bring up the network device under it (ip link set … up), or \
             plug in its cable"
        );
        Err(LinkError::os(format!("use the RDMA device {name}"), what))
    }

    /// The device.
    pub(crate) fn device(&self) -> &Arc<Device> {
        self.domain.device()
    }

    /// Whether the device takes dma-bufs; else what it says.
    pub(crate) fn dma_buf(&self) -> Result<(), String> {
        self.domain.takes_dma_bufs().map_err(|error| error.to_string())
    }

    /// The addresses to use, best first, for a peer at `towards` where that is known.
    pub(crate) fn addresses(&self, towards: Option<IpAddr>) -> Vec<(Rank, GidEntry)> {
        let source = towards.and_then(gids::source_towards);
        gids::ranked(self.table.clone(), self.is_ethernet(), source)
    }

    /// Reads the table of addresses again: after the device said that it has changed.
    pub(crate) fn refresh(&mut self) {
        self.table = gids::table(self.device().name(), self.number);
        if let Some(index) = self.gid_index {
            self.table.retain(|entry| entry.index == index);
        }
    }

    /// Our end of a connection, as the peer must know it.
    pub(crate) fn end(&self, number: u32, first_psn: u32, addresses: &[Gid]) -> QueuePair {
        QueuePair {
            number,
            first_psn,
            gids: addresses.iter().copied().take(GIDS_MAX).collect(),
            lid: self.now.lid,
            path_mtu_bytes: self.now.mtu_bytes,
            // No reads and no atomics are used; some devices want one all the same.
            rd_atomic_max: 1,
            dest_rd_atomic_max: 1,
            retry: Retry::default(),
        }
    }

    /// The way from `own` to the peer's `gid`.
    pub(crate) fn path(&self, own: &GidEntry, peer: &QueuePair, gid: Gid, retry: Retry) -> Path {
        // On InfiniBand a local identifier leads there within the subnet, without a global header.
        let same_subnet = own.gid.0[..8] == gid.0[..8];
        Path {
            port: self.number,
            gid_index: own.index,
            gid,
            lid: peer.lid,
            is_global: self.is_ethernet() || peer.lid == 0 || !same_subnet,
            queue_pair: peer.number,
            first_psn: peer.first_psn,
            mtu_bytes: self.now.mtu_bytes.min(peer.path_mtu_bytes),
            dest_rd_atomic: 1,
            rd_atomic: 1,
            retry,
        }
    }

    fn is_ethernet(&self) -> bool {
        self.now.link_layer == LinkLayer::Ethernet
    }

    /// Shows what was chosen, once, when the port is opened for serving.
    pub(crate) fn log(&self) {
        let device = self.device().name();
        for (place, (rank, entry)) in self.addresses(None).iter().enumerate() {
            tracing::info!(
                device, port = self.number, index = entry.index, gid = %entry.gid,
                netdev = entry.device, chosen = place == 0, %rank, "RDMA address"
            );
        }
    }
}

fn nothing(options: &RdmaOptions, names: &[String]) -> LinkError {
    let what = match &options.device {
        Some(wanted) => format!("there is no {wanted}; here are: {}", names.join(", ")),
        None => "there is none; with a plain Ethernet card: rdma link add rxe0 type rxe netdev \
                 eth0 (Soft-RoCE)"
            .into(),
    };
    LinkError::os("look for RDMA devices", what)
}

/// A random packet sequence number, so that a late packet of an earlier connection does not fit.
pub(crate) fn random_psn() -> Result<u32, LinkError> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|error| LinkError::os("random numbers", error))?;
    Ok(u32::from_ne_bytes(bytes) & 0x00ff_ffff)
}
