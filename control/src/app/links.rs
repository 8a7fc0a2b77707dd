//! The links of this build: one file for each, and one line in [`all`].

mod cuda_ipc;
mod gdr;
mod grpc;
mod local;
mod rdma;
mod shm;
mod tcp;
mod zmq;

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use ferry_core::{Found, HostMemory, LinkKind, MemoryChoice, Placement, WaitPolicy, error_text};
use ferry_cuda::{CudaPlacer, Device};
use ferry_memory::{Placer, ReplyTo};
use ferry_transport::{Handler, LaneOptions, LinkError, Listener, lane};

use crate::config::Config;
use crate::serving::handler::LaneHandler;
use crate::serving::lanes::{Door, Lane, Lanes};
use crate::serving::refusals::Refusals;
use crate::serving::routes::Routes;
use crate::sessions::Carrier;

/// Most requests that one lane has with its models: 64 sessions with all 64 slots full, at some
/// 250 bytes each.
const IN_FLIGHT_MAX: usize = 4096;

/// Most sessions of one tcp or zmq lane: the default quota of a tenant, four times.
const SESSIONS_MAX: usize = 16_384;

/// Makes a link on the lane's thread.
type Make = Box<dyn FnOnce() -> Result<Box<dyn Listener>, LinkError> + Send>;

/// The transports of a link that work here, and what was found about each that is looked for
/// beside the lanes.
type Carried = (Vec<Arc<dyn Carrier>>, Vec<Found>);

/// A link: how its lanes are made, and what they carry.
trait LinkFactory {
    /// Which.
    fn kind(&self) -> LinkKind;

    /// How many lanes it has where the operator does not say; `None`: it needs none.
    fn lanes(&self) -> Option<u32>;

    /// The link of one lane, and the way in for clients inside the server, if it has one.
    ///
    /// # Errors
    /// Why it cannot be.
    fn make(&self, lane: &str) -> Result<(Make, Option<Arc<dyn Door>>), String>;

    /// What to do where a lane does not start.
    fn fix(&self) -> &'static str {
        "raise the limits of descriptors and threads (ulimit -n, ulimit -u)"
    }

    /// Most machines do not have what it needs, and nobody misses it.
    fn may_be_missing(&self) -> bool {
        false
    }

    /// What its lanes carry. Called once they have started; `lives` says whether any has.
    fn carried(&self, lives: bool) -> Carried;
}

/// Every link of this build.
fn all(config: &Config) -> Vec<Box<dyn LinkFactory>> {
    vec![
        Box::new(shm::Shm::new(config)),
        Box::new(tcp::Tcp::new(config)),
        Box::new(zmq::Zmq::new(config)),
        Box::new(rdma::Rdma::new(config)),
        Box::new(local::Local),
        Box::new(grpc::Grpc),
    ]
}

/// How many lanes each link is to have.
pub(super) fn lanes(config: &Config) -> BTreeMap<&'static str, u32> {
    let counted = |it: Box<dyn LinkFactory>| Some((it.kind().name(), lanes_of(&*it, config)?));
    all(config).into_iter().filter_map(counted).collect()
}

/// How many lanes a link is to have; `None`: it needs none.
fn lanes_of(factory: &dyn LinkFactory, config: &Config) -> Option<u32> {
    factory.lanes().map(|default| config.lanes.of(factory.kind()).unwrap_or(default))
}

/// Starts every lane that is asked for. One that does not start is a finding.
pub(super) fn start(config: &Config, refusals: &Arc<Refusals>) -> (Lanes, Carried) {
    let mut lanes = Lanes::default();
    let (mut carriers, mut findings) = (Vec::new(), Vec::new());
    for factory in all(config) {
        let count = lanes_of(&*factory, config);
        let mut failed = None;
        for number in 0..count.unwrap_or(0) {
            match one(&*factory, number, refusals) {
                Ok(lane) => lanes.0.push(Arc::new(lane)),
                Err(why) => failed = Some(why),
            }
        }
        findings.push(finding(&*factory, count, failed));
        let lives = count.is_none() || lanes.best(factory.kind()).is_some();
        let (carried, found) = factory.carried(lives);
        carriers.extend(carried);
        findings.extend(found);
    }
    (lanes, (carriers, findings))
}

fn finding(factory: &dyn LinkFactory, count: Option<u32>, failed: Option<String>) -> Found {
    let name = factory.kind().name();
    match (failed, count) {
        (Some(why), _) => {
            let fix = factory.fix();
            if factory.may_be_missing() {
                tracing::info!(link = name, why, fix, "not on this machine");
            } else {
                tracing::error!(link = name, why, fix, "a lane did not start");
            }
            Found::bad(name, why, fix)
        }
        (None, None) => Found::good(name, "the control plane itself"),
        (None, Some(0)) => {
            Found::bad(name, "turned off", format!("start the server with --lanes {name}=1"))
        }
        (None, Some(count)) => Found::good(name, format!("{count} lanes")),
    }
}

/// Starts one lane.
///
/// # Errors
/// Why its link cannot be.
fn one(factory: &dyn LinkFactory, number: u32, refusals: &Arc<Refusals>) -> Result<Lane, String> {
    let link = factory.kind();
    let name = format!("ferry-{link}-{number}");
    let (make, door) = factory.make(&name)?;
    let options = LaneOptions {
        name: name.clone(),
        // A session that asks for it gets it; a lane without one sleeps.
        most_eager: WaitPolicy::Spin,
        in_flight_max: IN_FLIGHT_MAX,
    };
    let routes = Arc::new(Routes::default());
    let (of_handler, refusals) = (Arc::clone(&routes), Arc::clone(refusals));
    let spawned = lane::spawn(options, move |outbox| {
        let listener = make()?;
        let back = Arc::clone(outbox) as Arc<dyn ReplyTo>;
        let handler = LaneHandler::new(link.name(), of_handler, refusals, back);
        Ok((listener, Box::new(handler) as Box<dyn Handler>))
    });
    let handle = spawned.map_err(|error| error_text(&error))?;
    let (endpoint, sessions) = (handle.endpoint().clone(), AtomicU64::new(0));
    Ok(Lane { name, link, endpoint, handle, routes, door, sessions })
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

/// What to do where such an address is missing.
const DATA_ADDRESS_FIX: &str = "give --data-host an address of this machine that clients reach";

/// Where slots are made for a model on a device, on links that have no memory of their own.
fn slots(
    device: &Arc<Device>,
    placement: Placement,
    memory: MemoryChoice,
) -> Option<Arc<dyn Placer>> {
    match (placement, memory) {
        (Placement::Cuda(_), _) => Some(Arc::new(CudaPlacer::on_device(device))),
        (Placement::Host, MemoryChoice::Always(HostMemory::Pageable)) => None,
        (Placement::Host, _) => Some(Arc::new(CudaPlacer::registered(device))),
    }
}
