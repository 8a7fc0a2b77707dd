//! From an endpoint to a connected link: the one place that names the links of a client. Every
//! client end of a session is made here, for every kind of caller.
//!
//! The link `grpc` is not here, since nothing in the data plane knows gRPC: a [`ControlPlane`]
//! hands it in.
#![forbid(unsafe_code)]

mod machine;
#[cfg(feature = "rdma")]
mod rdma;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::{
    Attachment, Endpoint, Generation, LinkKind, RegionDescriptor, SessionId, SlotLayout, Token,
};
use ferry_cuda::CudaImporter;
use ferry_memory::SlotTable;
#[cfg(feature = "zmq")]
use ferry_transport::ZmqClient;
use ferry_transport::{ConnectError, Link, ShmClient, TcpClient};

pub use ferry_cuda::ImportedBacking;
#[cfg(feature = "rdma")]
pub use ferry_rdma::RdmaOptions;
pub use machine::{has_cuda, has_rdma};

/// How long a data plane may take to be connected.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// The lease of a session, as the server's answer tells it.
#[derive(Debug)]
pub struct Lease<'a> {
    /// The session's name.
    pub session: SessionId,
    /// Which lease of the session this is.
    pub generation: Generation,
    /// What proves that the session is this client's.
    pub token: Token,
    /// Number and sizes of the slots.
    pub layout: SlotLayout,
    /// Where the slots lie.
    pub region: &'a RegionDescriptor,
}

/// What can be chosen.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The device for the link `rdma`.
    #[cfg(feature = "rdma")]
    pub rdma: RdmaOptions,
}

/// A link that is connected for one session.
#[derive(Debug)]
pub struct Connected {
    /// The client's end.
    pub link: Box<dyn Link>,
    /// The session's slots.
    pub table: Arc<SlotTable>,
    /// Where the slots lie, if that is memory of a CUDA device.
    pub device: Option<Arc<ImportedBacking>>,
}

/// What some links need of the control plane.
pub trait ControlPlane {
    /// Tells the server of this end; how its memory is reached. For `rdma`.
    ///
    /// # Errors
    /// Why the server could not be told, or what it said.
    fn attach(&mut self, attachment: &Attachment) -> Result<RegionDescriptor, ConnectError>;

    /// A link that goes through the control plane itself. For `grpc`.
    ///
    /// # Errors
    /// Why there is none.
    fn link(&mut self) -> Result<Box<dyn Link>, ConnectError>;
}

/// Why a link was not connected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The link says so.
    #[error(transparent)]
    Link(#[from] ConnectError),
    /// The link needs what was left out of this program.
    #[error("this program was built without the feature {0}: use another transport")]
    NotBuilt(&'static str),
    /// Both ends of the link are in the server.
    #[error("the link local ends inside the server: use another transport")]
    Inside,
}

/// Connects the data plane of a session. Blocks for at most 5 s, over RDMA 12 s.
///
/// # Errors
/// [`Error`] says why, and what to do.
pub fn connect(
    endpoint: &Endpoint,
    lease: &Lease<'_>,
    options: &Options,
    control: &mut dyn ControlPlane,
) -> Result<Connected, Error> {
    let Lease { session, generation, token, layout, region } = *lease;
    let deadline = Instant::now() + CONNECT_WITHIN;
    match endpoint.link {
        LinkKind::Shm => {
            let importer = CudaImporter::default();
            let (link, table) = ShmClient::connect(
                endpoint,
                session,
                generation,
                token,
                region,
                Some(&importer),
                deadline,
            )?;
            Ok(Connected { link: Box::new(link), table, device: importer.into_opened() })
        }
        LinkKind::Tcp => {
            host(TcpClient::connect(endpoint, session, generation, token, layout, deadline))
        }
        #[cfg(feature = "zmq")]
        LinkKind::Zmq => {
            host(ZmqClient::connect(endpoint, session, generation, token, layout, deadline))
        }
        #[cfg(not(feature = "zmq"))]
        LinkKind::Zmq => Err(Error::NotBuilt("zmq")),
        #[cfg(feature = "rdma")]
        LinkKind::Rdma => host(rdma::connect(lease, &options.rdma, control)),
        #[cfg(not(feature = "rdma"))]
        LinkKind::Rdma => {
            let Options {} = options;
            Err(Error::NotBuilt("rdma"))
        }
        LinkKind::Grpc => {
            let table = SlotTable::private(layout).map_err(ConnectError::Memory)?;
            Ok(Connected { link: control.link()?, table, device: None })
        }
        LinkKind::Local => Err(Error::Inside),
    }
}

/// A link whose slots lie in memory of the host.
fn host<L: Link + 'static>(
    connected: Result<(L, Arc<SlotTable>), ConnectError>,
) -> Result<Connected, Error> {
    let (link, table) = connected?;
    Ok(Connected { link: Box::new(link), table, device: None })
}
