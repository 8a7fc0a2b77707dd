//! The key of a tenant, beside every call of the control plane.

use ferry_proto::channel::KEY_METADATA;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;

use crate::error::Error;

/// A channel to the control plane.
pub type Channel = InterceptedService<tonic::transport::Channel, Key>;

/// Adds the key of the tenant to every call; none where there is none.
#[derive(Clone)]
pub struct Key(Option<MetadataValue<Ascii>>);

impl Key {
    pub(crate) fn new(key: Option<&str>) -> Result<Key, Error> {
        let Some(key) = key else { return Ok(Key(None)) };
        let mut value: MetadataValue<Ascii> = key.parse().map_err(|_not_ascii| Error::Size {
            what: "key of the tenant",
            given: "other characters".into(),
            room: "only visible ASCII can be sent".into(),
        })?;
        value.set_sensitive(true);
        Ok(Key(Some(value)))
    }
}

impl std::fmt::Debug for Key {
    /// Never shows the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Key(…)" } else { "Key(none)" })
    }
}

impl Interceptor for Key {
    fn call(
        &mut self,
        mut request: tonic::Request<()>,
    ) -> Result<tonic::Request<()>, tonic::Status> {
        if let Some(key) = &self.0 {
            request.metadata_mut().insert(KEY_METADATA, key.clone());
        }
        Ok(request)
    }
}
