//! Protocol buffers as tonic has them, but a message that would take too much memory is not decoded.

use std::marker::PhantomData;

use bytes::Buf;
use prost::Name;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic::metadata::MetadataValue;
use tonic_prost::{ProstDecoder, ProstEncoder};

use crate::cost::{self, TooCostly};

/// gRPC metadata of an answer to a message that was not decoded.
pub const REFUSED_METADATA: &str = "ferry-refused";

/// The codec of every service of this package.
#[derive(Debug)]
pub struct BoundedCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        BoundedCodec(PhantomData)
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: prost::Message + Send + 'static,
    U: Name + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(ProstDecoder::default())
    }
}

/// Counts, then decodes.
#[derive(Debug)]
pub struct BoundedDecoder<U>(ProstDecoder<U>);

impl<U: Name + Default> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // One message lies in one piece: what does not would be counted in part.
        if from.chunk().len() < from.remaining() {
            return Err(Status::internal("a message in several pieces"));
        }
        let message = &from.chunk()[..from.remaining()];
        cost::check(U::NAME, message).map_err(refused)?;
        self.0.decode(from).map_err(|error| malformed(U::NAME, error))
    }
}

/// What no message is. Whoever sent a request so is at fault; an answer is the server's.
fn malformed(name: &str, error: Status) -> Status {
    match is_answer(name) {
        true => error,
        false => Status::invalid_argument(format!("{name}: {}", error.message())),
    }
}

/// Whether servers send it and clients do not: of the messages by name that are calls or answers of
/// their own. A `TimingBatch` goes both ways, and counts as a client's.
fn is_answer(name: &str) -> bool {
    let name = name.rsplit('.').next().unwrap_or(name);
    name.ends_with("Response") || matches!(name, "Model" | "RecordSummary" | "Run")
}

fn refused(why: TooCostly) -> Status {
    let mut status = match why {
        TooCostly::Memory { .. } | TooCostly::Texts { .. } => {
            Status::resource_exhausted(why.to_string())
        }
        TooCostly::Group { .. } => Status::invalid_argument(why.to_string()),
    };
    let mark = MetadataValue::from_static("memory");
    status.metadata_mut().insert(REFUSED_METADATA, mark);
    status
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;
    use crate::DESCRIPTORS;

    #[test]
    fn answers_are_told_from_requests_by_their_names() {
        let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
        let services = files.file.iter().flat_map(|file| &file.service);
        let mut methods = 0;
        for method in services.flat_map(|service| &service.method) {
            methods += 1;
            let (input, output) = (method.input_type(), method.output_type());
            assert!(!is_answer(input), "{input}");
            assert!(is_answer(output) || output.ends_with(".TimingBatch"), "{output}");
        }
        assert!(methods > 40, "{methods}");
    }

    #[test]
    fn a_malformed_request_is_its_senders_fault_and_a_malformed_answer_the_servers() {
        let code = |name| malformed(name, Status::internal("invalid tag")).code();
        assert_eq!(code("InferRequest"), tonic::Code::InvalidArgument);
        assert_eq!(code("InferResponse"), tonic::Code::Internal);
    }
}
