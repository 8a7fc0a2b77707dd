//! The link `rdma`, whose two ends have to know each other first.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::Attachment;
use ferry_memory::SlotTable;
use ferry_rdma::{RdmaClient, RdmaOptions};
use ferry_transport::ConnectError;

use crate::{ControlPlane, Lease};

/// How long it may take: several pairs of addresses may have to be tried, and a device gives up a
/// way that leads nowhere after a second or two.
const CONNECT_WITHIN: Duration = Duration::from_secs(12);

pub(crate) fn connect(
    lease: &Lease<'_>,
    options: &RdmaOptions,
    control: &mut dyn ControlPlane,
) -> Result<(RdmaClient, Arc<SlotTable>), ConnectError> {
    RdmaClient::connect(
        options,
        lease.session,
        lease.generation,
        lease.token,
        lease.layout,
        lease.region,
        &mut |attachment: &Attachment| control.attach(attachment),
        Instant::now() + CONNECT_WITHIN,
    )
}
