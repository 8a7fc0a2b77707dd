//! From an agreement to a connected link: the only place in the SDK that names links.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::{Attachment, Endpoint, RegionDescriptor, Transport, error_text};
use ferry_cuda::{CudaImporter, ImportedBacking};
use ferry_memory::SlotTable;
use ferry_rdma::verbs::Device;
use ferry_rdma::{RdmaClient, RdmaOptions};
use ferry_transport::shm::ShmClient;
use ferry_transport::tcp::TcpClient;
use ferry_transport::zmq::ZmqClient;
use ferry_transport::{Driver, DriverOptions, Link, LinkError, RecordSink, UnixClock};

use crate::agreed::Agreed;
use crate::error::Error;
use crate::inline::InlineLink;
use crate::options::Options;

/// How long the data plane may take to be connected.
const ATTACH_WITHIN: Duration = Duration::from_secs(5);

/// How long a data plane over RDMA may take: several pairs of addresses may have to be tried, and
/// a device gives up a way that leads nowhere after a second or two.
const ATTACH_RDMA_WITHIN: Duration = Duration::from_secs(12);

/// Tells the server of this end over the control plane, where a link needs that.
pub(crate) type Tell<'a> = dyn Fn(&Attachment) -> Result<RegionDescriptor, Error> + 'a;

/// A connected session: what drives it, and its slots.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) driver: Driver,
    pub(crate) table: Arc<SlotTable>,
    /// Where the slots lie, if that is memory of a CUDA device.
    pub(crate) device: Option<Arc<ImportedBacking>>,
}

/// A link, and its slots.
struct Connected {
    link: Box<dyn Link>,
    table: Arc<SlotTable>,
    device: Option<Arc<ImportedBacking>>,
}

/// Connects the data plane of a session. Blocks for at most
/// [`ATTACH_WITHIN`], over RDMA [`ATTACH_RDMA_WITHIN`].
pub(crate) fn attach(
    server: &str,
    agreed: &Agreed,
    options: &Options,
    first_request: u64,
    sink: Arc<dyn RecordSink>,
    tell: &Tell<'_>,
) -> Result<Attached, Error> {
    let Connected { link, table, device } = connect(server, agreed, options, tell)?;
    let options = DriverOptions {
        session: agreed.session,
        generation: agreed.generation,
        run: agreed.run_id,
        wait: options.wait,
        first_request,
        clock: UnixClock::read(),
    };
    Ok(Attached { driver: Driver::new(link, options, sink), table, device })
}

fn connect(
    server: &str,
    agreed: &Agreed,
    options: &Options,
    tell: &Tell<'_>,
) -> Result<Connected, Error> {
    let Agreed { endpoint, session, generation, token, layout, .. } = agreed;
    let deadline = Instant::now() + ATTACH_WITHIN;
    let transport: Transport = agreed.transport;
    match endpoint {
        Endpoint::Shm { .. } => {
            let importer = CudaImporter::default();
            let connected = ShmClient::connect(
                endpoint,
                *session,
                *generation,
                *token,
                &agreed.region,
                Some(&importer),
                deadline,
            );
            Ok(Connected { device: importer.into_opened(), ..boxed(transport, connected)? })
        }
        Endpoint::Tcp { .. } => {
            let connected =
                TcpClient::connect(endpoint, *session, *generation, *token, *layout, deadline);
            boxed(transport, connected)
        }
        Endpoint::Zmq { .. } => {
            let connected =
                ZmqClient::connect(endpoint, *session, *generation, *token, *layout, deadline);
            boxed(transport, connected)
        }
        Endpoint::Rdma => {
            let deadline = Instant::now() + ATTACH_RDMA_WITHIN;
            let mut attach = |attachment: &Attachment| {
                tell(attachment).map_err(|error| {
                    LinkError::os("tell the server of this end", error_text(&error)).into()
                })
            };
            let connected = RdmaClient::connect(
                &options.rdma,
                *session,
                *generation,
                *token,
                *layout,
                &agreed.region,
                &mut attach,
                deadline,
            );
            boxed(transport, connected)
        }
        Endpoint::Grpc => {
            let table = SlotTable::private(*layout)
                .map_err(|why| Error::Attach { transport, why: error_text(&why) })?;
            let link = Box::new(InlineLink::connect(server, agreed)?);
            Ok(Connected { link, table, device: None })
        }
        Endpoint::Local => Err(Error::Attach {
            transport,
            why: "the link local ends inside the server; use another transport".into(),
        }),
    }
}

/// Whether this process sees a CUDA device.
pub(crate) fn has_cuda() -> bool {
    ferry_cuda::probe().is_ok()
}

/// Whether this host has a device that could be used: one with an active port.
pub(crate) fn has_rdma(options: &RdmaOptions) -> bool {
    let is_wanted = |name: &String| options.device.as_ref().is_none_or(|wanted| wanted == name);
    let is_active = |name: String| {
        let looked = Device::open(&name).and_then(|device| {
            let ports = 1..=device.facts()?.ports;
            Ok(ports.into_iter().any(|port| device.port(port).is_ok_and(|now| now.active)))
        });
        looked.unwrap_or(false)
    };
    // An error means that there is no library or no driver: there is no device either.
    Device::names().unwrap_or_default().into_iter().filter(is_wanted).any(is_active)
}

fn boxed<L: Link + 'static>(
    transport: Transport,
    connected: Result<(L, Arc<SlotTable>), impl std::error::Error>,
) -> Result<Connected, Error> {
    let (link, table) =
        connected.map_err(|why| Error::Attach { transport, why: error_text(&why) })?;
    Ok(Connected { link: Box::new(link), table, device: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_none() {
        let device = Some("no-such-device".to_owned());
        assert!(!has_rdma(&RdmaOptions { device, ..RdmaOptions::default() }));
    }
}
