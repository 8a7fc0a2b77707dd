//! Which RDMA device this end uses.

use ferry_client::SessionBuilder;

/// Which RDMA device this end uses; chosen as the SDK does where it is not said.
#[derive(Clone, Debug, Default)]
pub struct RdmaDevice {
    /// The device, as `ibv_devices` shows it.
    pub device: Option<String>,
    /// Entry of its port's table of addresses.
    pub gid_index: Option<u8>,
}

impl RdmaDevice {
    /// The same for a ferryd that is started.
    pub(crate) fn of_ferryd(&self) -> Vec<String> {
        let device = self.device.iter().flat_map(|it| ["--rdma-device".into(), it.clone()]);
        let index = self.gid_index.iter();
        let index = index.flat_map(|it| ["--rdma-gid-index".into(), it.to_string()]);
        device.chain(index).collect()
    }

    /// Tells a session what was chosen.
    pub fn apply<'c, C>(&self, builder: SessionBuilder<'c, C>) -> SessionBuilder<'c, C> {
        let builder = match &self.device {
            Some(device) => builder.rdma_device(device),
            None => builder,
        };
        match self.gid_index {
            Some(index) => builder.rdma_gid_index(index),
            None => builder,
        }
    }
}
