//! From an agreement to a session's driver.

use std::sync::Arc;

use ferry_connect::{Connected, ControlPlane, ImportedBacking, Lease};
use ferry_core::{Attachment, RegionDescriptor, error_text};
use ferry_memory::SlotTable;
use ferry_transport::{
    ConnectError, Driver, DriverOptions, Link, LinkError, RecordSink, UnixClock,
};

use crate::agreed::Agreed;
use crate::error::Error;
use crate::inline::InlineLink;
use crate::key::Key;
use crate::options::Options;

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

/// The control plane, for the links that need it.
struct Control<'a> {
    server: &'a str,
    key: Option<Key>,
    agreed: &'a Agreed,
    tell: &'a Tell<'a>,
}

impl ControlPlane for Control<'_> {
    fn attach(&mut self, attachment: &Attachment) -> Result<RegionDescriptor, ConnectError> {
        let told = (self.tell)(attachment);
        Ok(told.map_err(|error| LinkError::os("tell the server of this end", error_text(&error)))?)
    }

    fn link(&mut self) -> Result<Box<dyn Link>, ConnectError> {
        let link = InlineLink::connect(self.server, self.key.clone(), self.agreed);
        let link = link.map_err(|error| LinkError::os("connect", error_text(&error)))?;
        Ok(Box::new(link))
    }
}

/// Connects the data plane of a session. Blocks for as long as [`ferry_connect::connect`] does.
pub(crate) fn attach(
    server: &str,
    agreed: &Agreed,
    options: &Options,
    first_request: u64,
    sink: Arc<dyn RecordSink>,
    tell: &Tell<'_>,
) -> Result<Attached, Error> {
    let lease = Lease {
        session: agreed.session,
        generation: agreed.generation,
        token: agreed.token,
        layout: agreed.layout,
        region: &agreed.region,
    };
    let key = options.key.clone();
    let mut control = Control { server, key, agreed, tell };
    let connected =
        ferry_connect::connect(&agreed.endpoint, &lease, &options.connect, &mut control);
    let Connected { link, table, device } = connected
        .map_err(|why| Error::Attach { transport: agreed.transport, why: error_text(&why) })?;
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
