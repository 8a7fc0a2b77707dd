//! Which RDMA device this end uses.

use clap::Args as Group;
use ferry_client::SessionBuilder;

/// Which RDMA device this end uses.
#[derive(Clone, Debug, Default, Group)]
pub(crate) struct RdmaArgs {
    /// RDMA device of this host, for --transport rdma [default: the first with an active port].
    #[arg(long, value_name = "NAME", env = "FERRY_RDMA_DEVICE")]
    pub(crate) rdma_device: Option<String>,
    /// Entry of its port's table of addresses [default: by rank, see ferry doctor].
    #[arg(long, value_name = "INDEX", env = "FERRY_RDMA_GID_INDEX")]
    pub(crate) rdma_gid_index: Option<u8>,
}

impl RdmaArgs {
    /// The same for a ferryd that is started.
    pub(crate) fn of_ferryd(&self) -> Vec<String> {
        let device = self.rdma_device.iter().flat_map(|it| ["--rdma-device".into(), it.clone()]);
        let index = self.rdma_gid_index.iter();
        let index = index.flat_map(|it| ["--rdma-gid-index".into(), it.to_string()]);
        device.chain(index).collect()
    }

    /// Tells a session what was chosen.
    pub(crate) fn apply<'c, C>(&self, builder: SessionBuilder<'c, C>) -> SessionBuilder<'c, C> {
        let builder = match &self.rdma_device {
            Some(device) => builder.rdma_device(device),
            None => builder,
        };
        match self.rdma_gid_index {
            Some(index) => builder.rdma_gid_index(index),
            None => builder,
        }
    }
}
