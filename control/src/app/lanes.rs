//! Starts the lanes. A link that cannot start is told, and the others serve.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::{Context, anyhow};
use ferry_core::{Transport, WaitPolicy};
use ferry_transport::lane::spawn;
use ferry_transport::local::listener;
use ferry_transport::{
    Handler, LaneError, LaneHandle, LaneOptions, LinkError, Listener, LocalDoor, Outbox,
    ShmListener, TcpListenerLink, TcpOptions, ZmqListenerLink, ZmqOptions,
};

use crate::config::Config;
use crate::handler::LaneHandler;
use crate::lanes::{Lane, Lanes};
use crate::refusals::Refusals;
use crate::routes::Routes;

/// Transports whose lanes did not start, and why.
pub(super) type Failed = Vec<(Transport, String)>;

/// Starts every lane of the configuration.
///
/// # Errors
/// The host of the data plane has no address.
pub(super) fn start(config: &Config, refusals: &Arc<Refusals>) -> anyhow::Result<(Lanes, Failed)> {
    let address = data_address(config)?;
    let mut lanes = Lanes::default();
    let mut failed = Failed::new();
    let counts = [
        (Transport::Shm, config.lanes.shm),
        (Transport::Tcp, config.lanes.tcp),
        (Transport::Zmq, config.lanes.zmq),
        (Transport::Local, config.lanes.local),
    ];
    for (transport, count) in counts {
        for number in 0..count {
            match one(transport, number, address, refusals) {
                Ok(lane) => lanes.0.push(Arc::new(lane)),
                Err(error) => {
                    let why = error.to_string();
                    tracing::error!(%transport, why, "lane not started");
                    failed.push((transport, why));
                    break;
                }
            }
        }
    }
    Ok((lanes, failed))
}

/// Where tcp and zmq bind: a port of the system's choice on the data plane's host.
fn data_address(config: &Config) -> anyhow::Result<SocketAddr> {
    let host = config.data_host().trim_start_matches('[').trim_end_matches(']');
    let mut found = (host, 0).to_socket_addrs().with_context(|| {
        format!("the data plane's host {host:?} has no address; set --data-host")
    })?;
    found.next().ok_or_else(|| anyhow!("the data plane's host {host:?} has no address"))
}

fn one(
    transport: Transport,
    number: u32,
    address: SocketAddr,
    refusals: &Arc<Refusals>,
) -> Result<Lane, LaneError> {
    let name = format!("{transport}-{number}");
    let routes = Arc::new(Routes::default());
    let options = LaneOptions {
        name: name.clone(),
        // A silent session that asked to spin lets its lane sleep after a while: see `Waiter`.
        most_eager: WaitPolicy::Spin,
        ..LaneOptions::default()
    };
    let (link, known) = (transport.name(), Arc::clone(&routes));
    let refusals = Arc::clone(refusals);
    let handler = move |outbox: &Arc<Outbox>| {
        let outbox = Arc::clone(outbox) as Arc<dyn ferry_memory::ReplyTo>;
        Box::new(LaneHandler::new(link, known, refusals, outbox)) as Box<dyn Handler>
    };
    let (handle, door): (LaneHandle, Option<LocalDoor>) = match transport {
        Transport::Local => {
            let (listener, door) = listener();
            let make = move |outbox: &Arc<Outbox>| {
                Ok((Box::new(listener) as Box<dyn Listener>, handler(outbox)))
            };
            (spawn(options, make)?, Some(door))
        }
        _ => {
            let make = move |outbox: &Arc<Outbox>| Ok((bind(transport, address)?, handler(outbox)));
            (spawn(options, make)?, None)
        }
    };
    let endpoint = handle.endpoint().clone();
    Ok(Lane { name, transport, endpoint, handle, routes, door, sessions: AtomicU64::new(0) })
}

/// Makes the server's end of a link, on the lane's own thread.
fn bind(transport: Transport, address: SocketAddr) -> Result<Box<dyn Listener>, LinkError> {
    Ok(match transport {
        Transport::Shm => Box::new(ShmListener::bind(&socket_name()?)?),
        Transport::Tcp => {
            let listener = TcpListener::bind(address)
                .map_err(|error| LinkError::os(format!("bind {address}"), error))?;
            Box::new(TcpListenerLink::new(listener, TcpOptions::default())?)
        }
        Transport::Zmq => Box::new(ZmqListenerLink::bind(address, ZmqOptions::default())?),
        other => return Err(LinkError::Protocol(format!("{other} has no lane in this build"))),
    })
}

/// A name that nobody can have taken: abstract sockets have no other protection.
fn socket_name() -> Result<String, LinkError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| LinkError::os("get randomness", error))?;
    Ok(format!("ferry-{:032x}", u128::from_ne_bytes(bytes)))
}
