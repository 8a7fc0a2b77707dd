//! What a client asks for when it opens a session.

use std::time::Duration;

use crate::{MemoryChoice, Transport, WaitPolicy};

/// Shapes by the names of their tensors.
pub type NamedShapes = Vec<(String, Vec<u64>)>;

/// Where a client wants the slots of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlacementWish {
    /// In memory of this device; `None`: wherever the transport has them.
    pub cuda_ordinal: Option<u32>,
    /// What host memory is to be to the model's device; `None` is the server's choice.
    pub memory: Option<MemoryChoice>,
}

/// Who records the requests of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecordedBy {
    /// The client, with its own stages.
    Client,
    /// The server, as far as it sees them.
    #[default]
    Server,
    /// Nobody.
    Nobody,
}

/// What a client asks for when it opens a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionSpec {
    /// The lowest version of the frame that the client speaks.
    pub protocol_min: u32,
    /// The highest.
    pub protocol_max: u32,
    /// The model.
    pub model: String,
    /// Its version; 0 is the latest that is loaded.
    pub version: u64,
    /// `None`: the server chooses.
    pub transport: Option<Transport>,
    /// Where the slots are to lie.
    pub placement: PlacementWish,
    /// How the client waits.
    pub wait: WaitPolicy,
    /// How many slots; 0 is the server's default.
    pub slots: u32,
    /// Sizes of open dimensions, by tensor.
    pub shapes: NamedShapes,
    /// Room for requests that are larger than the input tensors, in bytes.
    pub request_bytes_min: u64,
    /// Room for replies that are larger than the server expects, in bytes.
    pub reply_bytes_min: u64,
    /// How long after it arrived the answer to a request is of use; `None`: for ever.
    pub timeout: Option<Duration>,
    /// The run that its requests belong to; 0 is the server's own.
    pub run: i64,
    /// Who records them.
    pub recorded_by: RecordedBy,
    /// What the client calls itself.
    pub client: String,
    /// The client's host: equal for processes that can share memory.
    pub host_id: String,
    /// The client has an RDMA device with an active port.
    pub has_rdma: bool,
    /// The client sees a CUDA device.
    pub has_cuda: bool,
}
