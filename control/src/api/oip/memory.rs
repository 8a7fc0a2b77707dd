//! Shared memory that clients register.

use std::sync::Arc;

use ferry_proto::oip::system_shared_memory_status_response::RegionStatus;
use ferry_proto::oip::{SystemSharedMemoryRegisterRequest, SystemSharedMemoryStatusResponse};
use tonic::Extensions;

use crate::api::front::Peer;
use crate::error::ApiError;
use crate::serving::regions::{Regions, SharedRegion};
use crate::tenants::Tenant;

/// The tenant's regions: all, or the one with this name.
///
/// # Errors
/// [`ApiError::NotFound`] if there is none with it.
pub(super) fn status(
    regions: &Regions,
    tenant: &Tenant,
    name: &str,
) -> Result<SystemSharedMemoryStatusResponse, ApiError> {
    let status = |region: &SharedRegion| RegionStatus {
        name: region.name.clone(),
        key: region.key.clone(),
        offset: region.offset,
        byte_size: region.bytes,
    };
    let all = regions.list(tenant, name)?;
    let regions = all.iter().map(|region| (region.name.clone(), status(region))).collect();
    Ok(SystemSharedMemoryStatusResponse { regions })
}

/// That the caller is on this host: one that is elsewhere has no memory here to share, and would
/// read that of others.
///
/// # Errors
/// [`ApiError::Field`] if it is not.
pub(super) fn check_host(of_call: &Extensions) -> Result<(), ApiError> {
    let peer = of_call.get::<Arc<Peer>>();
    if peer.is_some_and(|peer| peer.is_on_this_host()) {
        return Ok(());
    }
    let why = "memory is shared on one host, and this call came from another one: send tensors in \
               the message";
    Err(ApiError::field("key", why))
}

/// Registers a region for the tenant.
///
/// # Errors
/// As [`Regions::register`].
pub(super) fn register(
    regions: &Regions,
    tenant: &Tenant,
    asked: &SystemSharedMemoryRegisterRequest,
) -> Result<(), ApiError> {
    let SystemSharedMemoryRegisterRequest { name, key, offset, byte_size } = asked;
    regions.register(tenant, name, key, *offset, *byte_size)
}

/// Why memory of a GPU is not registered. Looks for a driver the first time, which takes a moment.
pub(super) fn no_cuda() -> ApiError {
    const INSTEAD: &str = "use system shared memory, or the transport cuda-ipc of ferry.v1";
    let why = match ferry_cuda::probe() {
        Ok(_) => format!("this server opens no handles of this protocol yet: {INSTEAD}"),
        Err(missing) => format!("{missing}. Without a GPU, {INSTEAD}"),
    };
    ApiError::Unsupported { what: "CUDA shared memory".into(), why }
}

/// The error for a region in the memory of a GPU.
pub(super) fn no_cuda_region(name: &str) -> ApiError {
    ApiError::NotFound {
        kind: "CUDA shared memory region",
        name: format!("{name:?}"),
        hint: "this server has none".into(),
    }
}
