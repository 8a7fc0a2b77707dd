//! The gRPC services: thin, each call in terms of the rest of this crate.

mod admin;
mod drive;
pub(crate) mod inference;
mod local;
mod models;
mod runs;
mod sessions;
mod to_wire;

use std::sync::Arc;

use tonic::metadata::MetadataMap;

pub use admin::AdminService;
pub use inference::InferenceService;
pub use local::LocalService;
pub use models::ModelsService;
pub(crate) use models::loaded_event;
pub use runs::RunsService;
pub use sessions::SessionsService;

use crate::error::ApiError;
use crate::sessions::Caller;
use crate::state::State;
use crate::tenants::Tenant;

/// gRPC metadata with a tenant's key, or the operator's.
pub const KEY_METADATA: &str = "ferry-key";

fn key(metadata: &MetadataMap) -> Option<&[u8]> {
    metadata.get(KEY_METADATA).map(|value| value.as_encoded_bytes())
}

/// Whose call it is.
fn tenant(state: &State, metadata: &MetadataMap) -> Result<Arc<Tenant>, ApiError> {
    let found = state.tenants.find(key(metadata)).cloned();
    if let Err(error) = &found {
        state.refusals.note("grpc", "wrong_key", None, None, error);
    }
    found
}

fn caller(state: &State, metadata: &MetadataMap) -> Result<Caller, ApiError> {
    Ok(Caller { tenant: tenant(state, metadata)?, is_inside: false })
}

/// Whether the caller may do what an operator does.
fn operator(state: &State, metadata: &MetadataMap) -> Result<(), ApiError> {
    let allowed = state.tenants.check_operator(key(metadata));
    if let Err(error) = &allowed {
        state.refusals.note("grpc", "not_operator", None, None, error);
    }
    allowed
}
