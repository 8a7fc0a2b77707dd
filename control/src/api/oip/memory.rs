//! Shared memory that clients register.

use std::sync::Arc;

use ferry_proto::oip::system_shared_memory_status_response::RegionStatus;
use ferry_proto::oip::{
    CudaSharedMemoryRegisterRequest, CudaSharedMemoryStatusResponse,
    SystemSharedMemoryRegisterRequest, SystemSharedMemoryStatusResponse,
    cuda_shared_memory_status_response,
};
use tonic::Extensions;

use crate::api::front::Peer;
use crate::error::ApiError;
use crate::serving::regions::{Kind, Origin, Regions};
use crate::state::State;
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
    let all = regions.list(tenant, Kind::System, name)?;
    let told = all.iter().filter_map(|region| match region.origin() {
        Origin::Device { .. } => None,
        Origin::File { key, offset } => Some(RegionStatus {
            name: region.name.clone(),
            key: key.to_owned(),
            offset,
            byte_size: region.bytes,
        }),
    });
    let regions = told.map(|region| (region.name.clone(), region)).collect();
    Ok(SystemSharedMemoryStatusResponse { regions })
}

/// That the caller is on this host: one that is elsewhere has no memory here to share, and would
/// read that of others.
///
/// # Errors
/// [`ApiError::Field`] if it is not.
pub(super) fn check_host(of_call: &Extensions) -> Result<(), ApiError> {
    check_peer(of_call.get::<Arc<Peer>>().map(Arc::as_ref))
}

/// As [`check_host`], for the connection of a call.
///
/// # Errors
/// As [`check_host`].
pub(super) fn check_peer(peer: Option<&Peer>) -> Result<(), ApiError> {
    if peer.is_some_and(Peer::is_on_this_host) {
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

/// The tenant's regions on GPUs: all, or the one with this name.
///
/// # Errors
/// [`ApiError::NotFound`] if there is none with it.
pub(super) fn cuda_status(
    regions: &Regions,
    tenant: &Tenant,
    name: &str,
) -> Result<CudaSharedMemoryStatusResponse, ApiError> {
    let all = regions.list(tenant, Kind::Cuda, name)?;
    let told = all.iter().filter_map(|region| match region.origin() {
        Origin::File { .. } => None,
        Origin::Device { ordinal } => Some(cuda_shared_memory_status_response::RegionStatus {
            name: region.name.clone(),
            device_id: u64::from(ordinal),
            byte_size: region.bytes,
        }),
    });
    let regions = told.map(|region| (region.name.clone(), region)).collect();
    Ok(CudaSharedMemoryStatusResponse { regions })
}

/// Registers memory of a GPU for the tenant, beside the calls: the GPU may take a second to answer.
///
/// # Errors
/// As [`Regions::register_device`].
pub(super) async fn cuda_register(
    state: &Arc<State>,
    tenant: Arc<Tenant>,
    asked: CudaSharedMemoryRegisterRequest,
) -> Result<(), ApiError> {
    let CudaSharedMemoryRegisterRequest { name, raw_handle, device_id, byte_size } = asked;
    let state = Arc::clone(state);
    beside_calls(move || {
        state.regions.register_device(&tenant, &name, &raw_handle, device_id, byte_size)
    })
    .await
}

/// Forgets the tenant's regions on GPUs: all, or the one with this name. Closing one may take as
/// long as opening it.
///
/// # Errors
/// [`ApiError::Internal`] if the server has a fault.
pub(super) async fn cuda_unregister(
    state: &Arc<State>,
    tenant: Arc<Tenant>,
    name: String,
) -> Result<(), ApiError> {
    let state = Arc::clone(state);
    beside_calls(move || {
        state.regions.unregister(&tenant, Kind::Cuda, &name);
        Ok(())
    })
    .await
}

async fn beside_calls(
    work: impl FnOnce() -> Result<(), ApiError> + Send + 'static,
) -> Result<(), ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(ApiError::Internal(error.to_string())))
}
