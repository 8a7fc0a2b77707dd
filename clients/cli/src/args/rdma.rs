//! Which RDMA device this end uses.

use clap::Args as Group;
use ferry_bench::RdmaDevice;

/// Which RDMA device this end uses.
#[derive(Clone, Debug, Default, Group)]
pub(crate) struct RdmaArgs {
    /// RDMA device of this host, for --transport rdma [default: the first with an active port].
    #[arg(long, value_name = "NAME", env = "FERRY_RDMA_DEVICE")]
    rdma_device: Option<String>,
    /// Entry of its port's table of addresses [default: by rank, see ferry doctor].
    #[arg(long, value_name = "INDEX", env = "FERRY_RDMA_GID_INDEX")]
    rdma_gid_index: Option<u8>,
}

impl RdmaArgs {
    /// What was chosen.
    pub(crate) fn device(&self) -> RdmaDevice {
        RdmaDevice { device: self.rdma_device.clone(), gid_index: self.rdma_gid_index }
    }
}
