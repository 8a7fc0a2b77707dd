//! Starts the lanes.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use ferry_core::{Generation, SessionId, SlotLayout, Token, Transport, WaitPolicy, error_text};
use ferry_cuda::{DeviceBacking, exported_bytes};
use ferry_memory::{MemoryError, ReplyTo, SlotTable};
use ferry_proto::v1;
use ferry_rdma::areas::Areas;
use ferry_rdma::{RdmaListener, RdmaOptions};
use ferry_transport::{
    Handler, LaneOptions, Link, LinkError, Listener, LocalDoor, ShmListener, TcpListenerLink,
    TcpOptions, ZmqListenerLink, ZmqOptions, lane, local,
};

use super::BuildError;
use crate::config::Config;
use crate::error::ApiError;
use crate::serving::handler::LaneHandler;
use crate::serving::lanes::{Door, Lane, Lanes, Measure};
use crate::serving::refusals::Refusals;
use crate::serving::routes::Routes;

/// Most requests that one lane has with its models: 64 sessions with all 64 slots full, at some
/// 250 bytes each.
const IN_FLIGHT_MAX: usize = 4096;

/// Most sessions of one tcp or zmq lane: the default quota of a tenant, four times.
const SESSIONS_MAX: usize = 16_384;

/// Makes a link on the lane's thread.
type Make = Box<dyn FnOnce() -> Result<Box<dyn Listener>, LinkError> + Send>;

/// Starts every lane that is asked for. One that does not start is a finding.
pub(super) fn start(
    config: &Config,
    refusals: &Arc<Refusals>,
) -> Result<(Lanes, Vec<v1::Finding>), BuildError> {
    let counts = config.lanes;
    let mut lanes = Lanes::default();
    let mut findings = Vec::new();
    for (transport, count) in [
        (Transport::Shm, counts.shm),
        (Transport::Tcp, counts.tcp),
        (Transport::Zmq, counts.zmq),
        (Transport::Rdma, counts.rdma),
        (Transport::Local, counts.local),
    ] {
        let mut failed = None;
        for number in 0..count {
            match one(config, transport, number, refusals)? {
                Ok(lane) => lanes.0.push(Arc::new(lane)),
                Err(why) => failed = Some(why),
            }
        }
        findings.push(finding(transport, count, failed));
    }
    Ok((lanes, findings))
}

fn finding(transport: Transport, count: u32, failed: Option<String>) -> v1::Finding {
    let name = transport.name();
    let (detail, fix) = match (&failed, count) {
        (Some(why), _) => (why.clone(), fix(transport)),
        (None, 0) => ("turned off".into(), format!("start the server with --{name}-lanes 1")),
        (None, _) => (format!("{count} lanes"), String::new()),
    };
    match &failed {
        // Most machines have no device, and nobody asked for one.
        Some(why) if transport == Transport::Rdma => tracing::info!(why, fix, "no RDMA here"),
        Some(why) => tracing::error!(transport = name, why, fix, "a lane did not start"),
        None => {}
    }
    let usable = failed.is_none() && count > 0;
    v1::Finding { area: "transport".into(), name: name.into(), usable, detail, fix }
}

fn fix(transport: Transport) -> String {
    match transport {
        Transport::Tcp | Transport::Zmq => {
            "give --data-host an address of this machine that clients reach".into()
        }
        Transport::Rdma => "see `ferry doctor` for what RDMA needs on this machine".into(),
        _ => "raise the limits of descriptors and threads (ulimit -n, ulimit -u)".into(),
    }
}

/// Starts one lane; the inner error says why its link cannot be.
fn one(
    config: &Config,
    transport: Transport,
    number: u32,
    refusals: &Arc<Refusals>,
) -> Result<Result<Lane, String>, BuildError> {
    let name = format!("ferry-{transport}-{number}");
    let (make, door) = match transport {
        Transport::Shm => (shm(config.shm_uids.clone())?, None),
        Transport::Tcp => match data_address(config) {
            Ok(address) => (tcp(address), None),
            Err(why) => return Ok(Err(why)),
        },
        Transport::Zmq => match data_address(config) {
            Ok(address) => (zmq(address, config.request_bytes_max), None),
            Err(why) => return Ok(Err(why)),
        },
        Transport::Rdma => (rdma(config.rdma.clone()), None),
        _ => {
            let (listener, door) = local::listener();
            let make: Make = Box::new(move || Ok(Box::new(listener)));
            let door = Way { lane: name.clone(), door };
            (make, Some(Arc::new(door) as Arc<dyn Door>))
        }
    };
    let options = LaneOptions {
        name: name.clone(),
        // A session that asks for it gets it; a lane without one sleeps.
        most_eager: WaitPolicy::Spin,
        in_flight_max: IN_FLIGHT_MAX,
    };
    let routes = Arc::new(Routes::default());
    let (of_handler, refusals) = (Arc::clone(&routes), Arc::clone(refusals));
    let spawned = lane::spawn(options, move |outbox| {
        let link = make()?;
        let back = Arc::clone(outbox) as Arc<dyn ReplyTo>;
        let handler = LaneHandler::new(transport.name(), of_handler, refusals, back);
        Ok((link, Box::new(handler) as Box<dyn Handler>))
    });
    Ok(spawned.map_err(|error| error_text(&error)).map(|handle| Lane {
        name,
        transport,
        endpoint: handle.endpoint().clone(),
        measure: match transport {
            Transport::Rdma => rdma_bytes as Measure,
            Transport::Shm => shm_bytes,
            _ => |_, layout| SlotTable::bytes(layout),
        },
        handle,
        routes,
        door,
        sessions: AtomicU64::new(0),
    }))
}

fn shm(uids: Option<Vec<u32>>) -> Result<Make, BuildError> {
    let mut random = [0_u8; 16];
    getrandom::fill(&mut random)
        .map_err(|error| BuildError::System(format!("no randomness: {error}")))?;
    let socket = format!("ferry-{:032x}", u128::from_ne_bytes(random));
    Ok(Box::new(move || {
        let listener = ShmListener::bind(&socket)?;
        Ok(match uids {
            Some(uids) => Box::new(listener.only(uids)),
            None => Box::new(listener),
        })
    }))
}

/// Slots of cuda-ipc are whole blocks of a device's memory.
fn shm_bytes(transport: Transport, layout: &SlotLayout) -> Result<usize, MemoryError> {
    let bytes = SlotTable::bytes(layout)?;
    if transport != Transport::CudaIpc {
        return Ok(bytes);
    }
    exported_bytes(bytes).ok_or_else(|| MemoryError::Layout {
        what: format!("{layout:?}: more than a device can have"),
    })
}

fn tcp(address: SocketAddr) -> Make {
    Box::new(move || {
        let listener = TcpListener::bind(address)
            .map_err(|error| LinkError::os(format!("bind {address}"), error))?;
        let options = TcpOptions { sessions_max: SESSIONS_MAX, ..TcpOptions::default() };
        Ok(Box::new(TcpListenerLink::new(listener, options)?))
    })
}

fn zmq(address: SocketAddr, request_bytes_max: u64) -> Make {
    Box::new(move || {
        let options = ZmqOptions { sessions_max: SESSIONS_MAX, request_bytes_max };
        Ok(Box::new(ZmqListenerLink::bind(address, options)?))
    })
}

fn rdma(options: RdmaOptions) -> Make {
    Box::new(move || Ok(Box::new(RdmaListener::open(options)?)))
}

/// Each half has room for a header in front, and each direction an area for frames without a slot.
/// Of gdr, headers and payloads lie apart, and payloads in whole pages of the device.
fn rdma_bytes(transport: Transport, layout: &SlotLayout) -> Result<usize, MemoryError> {
    let divide = if transport == Transport::Gdr { Areas::apart } else { Areas::new };
    let too_long =
        || MemoryError::Layout { what: format!("{layout:?}: more than this machine can address") };
    [layout.request_bytes, layout.reply_bytes].into_iter().try_fold(0_usize, |sum, bytes| {
        let areas = divide(layout.slots, bytes)?;
        let payloads = areas.payloads_bytes().map_or(Some(0), DeviceBacking::exported_bytes);
        let both = payloads.and_then(|payloads| payloads.checked_add(areas.bytes()));
        both.and_then(|both| sum.checked_add(both)).ok_or_else(too_long)
    })
}

/// Where tcp and zmq bind, at a port of the system's choice. What is bound is what is announced,
/// so that it has to be an address that a client can use.
fn data_address(config: &Config) -> Result<SocketAddr, String> {
    let host = config.data_host().trim_start_matches('[').trim_end_matches(']');
    let mut found = (host, 0).to_socket_addrs().map_err(|error| format!("{host}: {error}"))?;
    let first = found.next().ok_or_else(|| format!("{host} has no address"))?;
    if first.ip().is_unspecified() {
        return Err(format!("{host} is every address of this machine and none to connect to"));
    }
    Ok(first)
}

/// The way into a local lane.
#[derive(Debug)]
struct Way {
    lane: String,
    door: LocalDoor,
}

impl Door for Way {
    fn connect(
        &self,
        session: SessionId,
        generation: Generation,
        token: &Token,
    ) -> Result<(Box<dyn Link>, Arc<SlotTable>), ApiError> {
        let connected = self.door.connect(session, generation, token);
        let (link, table) = connected
            .map_err(|error| ApiError::Lane { lane: self.lane.clone(), why: error.to_string() })?;
        Ok((Box::new(link), table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_on_a_device_count_as_the_blocks_that_they_take() {
        let layout = SlotLayout { slots: 2, request_bytes: 602_112, reply_bytes: 4000 };
        let slots = SlotTable::bytes(&layout).unwrap();
        assert_eq!(shm_bytes(Transport::Shm, &layout).unwrap(), slots);
        assert_eq!(shm_bytes(Transport::CudaIpc, &layout).unwrap(), 2 << 20);
        let most = SlotLayout { slots: 64, request_bytes: u64::MAX / 2, reply_bytes: 1 };
        assert!(shm_bytes(Transport::CudaIpc, &most).is_err());
    }

    #[test]
    fn slots_of_gdr_count_as_the_pages_of_the_device_that_they_take() {
        let layout = SlotLayout { slots: 2, request_bytes: 602_112, reply_bytes: 4000 };
        let host = rdma_bytes(Transport::Rdma, &layout).unwrap();
        assert_eq!(host, 2 * (602_112 + 4096) + 4096 + 2 * 8192 + 4096);
        // 2 × 602,112 in 19 pages of 64 KiB and 2 × 4,096 in one, each with one to begin at a
        // boundary; 3 headers of 2 KiB, tails included, each way.
        let device = rdma_bytes(Transport::Gdr, &layout).unwrap();
        assert_eq!(device, (19 + 1 + 1 + 1) * 65_536 + 2 * 3 * 2048);
        let most = SlotLayout { slots: 64, request_bytes: u64::MAX / 2, reply_bytes: 1 };
        assert!(rdma_bytes(Transport::Gdr, &most).is_err());
    }
}
