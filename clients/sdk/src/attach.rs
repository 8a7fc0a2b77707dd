//! From an agreement to a connected link: the only place in the SDK that names links.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::{Endpoint, Transport};
use ferry_memory::SlotTable;
use ferry_transport::shm::ShmClient;
use ferry_transport::tcp::TcpClient;
use ferry_transport::zmq::ZmqClient;
use ferry_transport::{Driver, DriverOptions, Link, RecordSink, UnixClock};

use crate::agreed::Agreed;
use crate::error::Error;
use crate::inline::InlineLink;
use crate::options::Options;

/// How long the data plane may take to be connected.
const ATTACH_WITHIN: Duration = Duration::from_secs(5);

/// A connected session: what drives it, and its slots.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) driver: Driver,
    pub(crate) table: Arc<SlotTable>,
}

/// Connects the data plane of a session. Blocks for at most [`ATTACH_WITHIN`].
pub(crate) fn attach(
    server: &str,
    agreed: &Agreed,
    options: &Options,
    first_request: u64,
    sink: Arc<dyn RecordSink>,
) -> Result<Attached, Error> {
    let (link, table) = connect(server, agreed)?;
    let options = DriverOptions {
        session: agreed.session,
        generation: agreed.generation,
        run: agreed.run_id,
        wait: options.wait,
        first_request,
        clock: UnixClock::read(),
    };
    Ok(Attached { driver: Driver::new(link, options, sink), table })
}

fn connect(server: &str, agreed: &Agreed) -> Result<(Box<dyn Link>, Arc<SlotTable>), Error> {
    let Agreed { endpoint, session, generation, token, layout, .. } = agreed;
    let deadline = Instant::now() + ATTACH_WITHIN;
    let transport: Transport = agreed.transport;
    match endpoint {
        Endpoint::Shm { .. } => {
            let connected = ShmClient::connect(
                endpoint,
                *session,
                *generation,
                *token,
                &agreed.region,
                deadline,
            );
            boxed(transport, connected)
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
        Endpoint::Grpc => {
            let table = SlotTable::private(*layout)
                .map_err(|why| Error::Attach { transport, why: chain(&why) })?;
            Ok((Box::new(InlineLink::connect(server, agreed)?), table))
        }
        Endpoint::Local => Err(Error::Attach {
            transport,
            why: "the link local ends inside the server; use another transport".into(),
        }),
    }
}

fn boxed<L: Link + 'static>(
    transport: Transport,
    connected: Result<(L, Arc<SlotTable>), impl std::error::Error>,
) -> Result<(Box<dyn Link>, Arc<SlotTable>), Error> {
    let (link, table) = connected.map_err(|why| Error::Attach { transport, why: chain(&why) })?;
    Ok((Box::new(link), table))
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(why) = cause {
        text = format!("{text}: {why}");
        cause = why.source();
    }
    text
}
