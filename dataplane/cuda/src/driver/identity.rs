//! Which device is which, for every process.

use cudarc::driver::sys;
use ferry_core::DeviceUuid;

use super::error::{CudaError, check};
use super::probe::{Missing, probe};

/// Why a device was not found by its identity.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// There is no driver.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// The driver refused.
    #[error("read the identities of the CUDA devices")]
    Refused(#[from] CudaError),
    /// This process does not see it.
    #[error(
        "CUDA device {wanted} is not visible to this process, which sees {visible}: check \
         CUDA_VISIBLE_DEVICES and what its container was given, or ask for shm"
    )]
    Invisible {
        /// Who was looked for.
        wanted: DeviceUuid,
        /// Who is there.
        visible: String,
    },
}

/// The number that a device has in this process.
///
/// # Errors
/// [`FindError`].
pub fn find(wanted: DeviceUuid) -> Result<u32, FindError> {
    let mut visible = Vec::new();
    for ordinal in 0..probe()?.devices() {
        let uuid = uuid_of(raw(ordinal)?)?;
        if uuid == wanted {
            return Ok(ordinal);
        }
        visible.push(uuid.to_string());
    }
    Err(FindError::Invisible { wanted, visible: visible.join(", ") })
}

fn raw(ordinal: u32) -> Result<sys::CUdevice, CudaError> {
    let mut raw = 0;
    let number = i32::try_from(ordinal).unwrap_or(i32::MAX);
    // SAFETY: a place of ours, after `cuInit`.
    check("cuDeviceGet", unsafe { sys::cuDeviceGet(&raw mut raw, number) })?;
    Ok(raw)
}

/// The identity of a device.
pub(super) fn uuid_of(raw: sys::CUdevice) -> Result<DeviceUuid, CudaError> {
    let mut uuid = sys::CUuuid { bytes: [0; DeviceUuid::BYTES] };
    // SAFETY: a place of ours and a device that exists.
    check("cuDeviceGetUuid", unsafe { sys::cuDeviceGetUuid_v2(&raw mut uuid, raw) })?;
    Ok(DeviceUuid(uuid.bytes.map(std::ffi::c_char::cast_unsigned)))
}
