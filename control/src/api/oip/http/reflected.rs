//! Messages as JSON, by their descriptors: each field under its name in the `.proto` file, numbers as
//! numbers, and none left out because it is 0. That is how clients of the protocol read them.

use std::sync::LazyLock;

use prost::Name;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Value;

use crate::error::ApiError;

static POOL: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(ferry_proto::DESCRIPTORS).ok());

/// A message as JSON.
///
/// # Errors
/// [`ApiError::Internal`] if the descriptors of this build do not know it.
pub(super) fn json<M: Name>(message: &M) -> Result<Value, ApiError> {
    let name = M::full_name();
    let descriptor = POOL.as_ref().and_then(|pool| pool.get_message_by_name(&name));
    let descriptor = descriptor.ok_or_else(|| ApiError::Internal(format!("no message {name}")))?;
    let wrong = |why: String| ApiError::Internal(format!("{name} as JSON: {why}"));
    let mut made = DynamicMessage::new(descriptor);
    made.transcode_from(message).map_err(|why| wrong(why.to_string()))?;
    let options =
        SerializeOptions::new().stringify_64_bit_integers(false).skip_default_fields(false);
    let options = options.use_proto_field_name(true);
    let json = made.serialize_with_options(serde_json::value::Serializer, &options);
    json.map_err(|why| wrong(why.to_string()))
}
