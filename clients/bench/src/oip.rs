//! Clients of the Open Inference Protocol, against ferryd or any other server that speaks it.

mod caller;
mod region;
pub(crate) mod stored;
mod work;

use std::fmt;

use ferry_client::Channel;
use ferry_proto::channel::MESSAGE_BYTES_MAX;
use ferry_proto::oip::grpc_inference_service_client::GrpcInferenceServiceClient;

pub(crate) use caller::OipCaller;
pub(crate) use region::Region;
pub use work::{OipWork, oip_signature};

/// How tensors travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// In the messages.
    Grpc,
    /// In system shared memory, which the bench registers with the server.
    Shm,
}

impl Carrier {
    /// Every one.
    pub const ALL: [Carrier; 2] = [Carrier::Grpc, Carrier::Shm];

    /// How it is typed and told.
    pub const fn name(self) -> &'static str {
        match self {
            Carrier::Grpc => "grpc",
            Carrier::Shm => "shm",
        }
    }
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

type Service = GrpcInferenceServiceClient<Channel>;

/// Whole tensors travel in its messages.
fn service(channel: Channel) -> Service {
    Service::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}
