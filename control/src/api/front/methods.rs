//! What each method of the control plane may cost. A method that is not named here is refused no
//! message of usual size, and no large one is taken from it.

use ferry_proto::channel::MESSAGE_BYTES_MAX;

/// Messages of all methods but those that carry tensors or timings: the longest are a heartbeat for
/// 4,096 sessions and the texts of a run.
const SMALL: usize = 256 << 10;

/// Two and a half of the largest batch of timings that is taken.
const TIMINGS: usize = 4 << 20;

/// What one method takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Method {
    /// Longest message, in bytes.
    pub(crate) message_bytes: usize,
    /// Its caller sends messages for as long as the call lasts.
    pub(crate) is_stream: bool,
}

/// What the method of this path (`/package.Service/Method`) takes.
pub(crate) fn method(path: &str) -> Method {
    let (message_bytes, is_stream) = match path {
        "/ferry.v1.Inference/Infer"
        | "/ferry.v1.Local/Infer"
        | "/ferry.v1.Local/Drive"
        | "/inference.GRPCInferenceService/ModelInfer"
        // Files that come with it are refused, with the reason and not for their length.
        | "/inference.GRPCInferenceService/RepositoryModelLoad" => (MESSAGE_BYTES_MAX, false),
        "/inference.GRPCInferenceService/ModelStreamInfer" => (MESSAGE_BYTES_MAX, true),
        "/ferry.v1.Runs/Record" => (TIMINGS, true),
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo" => (SMALL, true),
        _ => (SMALL, false),
    };
    Method { message_bytes, is_stream }
}

#[cfg(test)]
mod tests {
    use ferry_proto::DESCRIPTORS;
    use prost::Message;

    use super::*;

    #[test]
    fn the_table_agrees_with_the_descriptors_about_streams() {
        let files = prost_types::FileDescriptorSet::decode(DESCRIPTORS).unwrap();
        let mut large = 0;
        for file in &files.file {
            for service in &file.service {
                for it in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), it.name());
                    let found = method(&path);
                    assert_eq!(found.is_stream, it.client_streaming(), "{path}");
                    large += usize::from(found.message_bytes > SMALL);
                }
            }
        }
        assert_eq!(large, 7, "Infer twice, Drive and Record; two of the protocol's, and its load");
    }
}
