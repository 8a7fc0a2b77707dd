//! Memory of a GPU that a client has and this process opens.

use ferry_core::{IpcHandle, error_text};
use ferry_cuda::{Device, ImportError, ImportedBacking, OpenError};
use ferry_memory::{Backing, DeviceAddress, Region};

use crate::error::ApiError;

/// Memory of a device, open here. Should its owner free it, or end, the driver keeps it until it is
/// closed here, so that work under way hurts nobody.
#[derive(Debug)]
pub(super) struct SharedDevice {
    pub(super) handle: IpcHandle,
    memory: ImportedBacking,
}

impl SharedDevice {
    /// Opens the first `bytes` bytes of what the handle names.
    ///
    /// # Errors
    /// [`ApiError::Field`] names what has no meaning; [`ApiError::Unsupported`] where there is no
    /// such device.
    pub(super) fn open(handle: &[u8], ordinal: i64, bytes: u64) -> Result<SharedDevice, ApiError> {
        const INSTEAD: &str = "use system shared memory";
        let no_device = |why: String| ApiError::Unsupported {
            what: "CUDA shared memory".into(),
            why: format!("{why}. Without that GPU, {INSTEAD}"),
        };
        let Ok(handle) = handle.try_into().map(IpcHandle) else {
            let why = format!("{} bytes; a handle has {}", handle.len(), IpcHandle::BYTES);
            return Err(ApiError::field("raw_handle", why));
        };
        let size = usize::try_from(bytes).ok().filter(|&bytes| bytes > 0).ok_or_else(|| {
            ApiError::field("byte_size", format!("{bytes} bytes are no memory of a device"))
        })?;
        let ordinal = u32::try_from(ordinal).map_err(|_negative_or_huge| {
            ApiError::field("device_id", format!("{ordinal} is no number of a device"))
        })?;
        let device = Device::open(ordinal).map_err(|error| match error {
            OpenError::Ordinal { .. } => ApiError::field("device_id", error.to_string()),
            OpenError::Missing(missing) => no_device(missing.to_string()),
            OpenError::Refused { .. } => no_device(error_text(&error)),
        })?;
        let memory = ImportedBacking::on(&device, handle, size).map_err(|error| refused(&error))?;
        Ok(SharedDevice { handle, memory })
    }

    pub(super) fn ordinal(&self) -> u32 {
        self.memory.device().map_or(0, |it| it.ordinal)
    }

    /// Where the device has the byte `at` bytes behind the first.
    pub(super) fn address(&self, at: u64) -> Option<DeviceAddress> {
        let base = self.memory.device()?;
        Some(DeviceAddress { address: base.address.checked_add(at)?, ..base })
    }

    /// `bytes` bytes, `at` bytes behind the first; `None` if they do not lie inside.
    pub(super) fn region(&self, at: u64, bytes: u64) -> Option<Region> {
        let (at, bytes) = (usize::try_from(at).ok()?, usize::try_from(bytes).ok()?);
        Region::whole(self.memory.clone()).part(at, bytes).ok()
    }

    /// Copies to the host what lies `at` bytes behind the first.
    pub(super) fn read(&self, at: u64, into: &mut [u8]) -> Result<(), String> {
        let region = self.region(at, into.len() as u64).ok_or_else(outside)?;
        region.view().copy_out(0, into).map_err(|error| error_text(&error))
    }

    /// Copies from the host to `at` bytes behind the first.
    pub(super) fn write(&self, at: u64, from: &[u8]) -> Result<(), String> {
        let mut region = self.region(at, from.len() as u64).ok_or_else(outside)?;
        region.view_mut().copy_in(0, from).map_err(|error| error_text(&error))
    }
}

/// A part was checked when it was made, so this is a mistake here.
fn outside() -> String {
    "it does not lie inside".to_owned()
}

/// Why a handle is not opened, in the words of whoever registers it.
fn refused(error: &ImportError) -> ApiError {
    let why = match error {
        ImportError::Short { bytes, wanted } => {
            let why = format!("{wanted} bytes; the handle's memory has {bytes}");
            return ApiError::field("byte_size", why);
        }
        ImportError::Own => "it is memory of this server's own".to_owned(),
        ImportError::Twice => {
            "its memory is registered already, or a request that uses it has not ended: name \
             parts of one region by their offset"
                .to_owned()
        }
        ImportError::Gone(error) => format!(
            "no memory behind it (its process has ended or freed it, runs in another container, or \
             these bytes are no handle): {error}"
        ),
        ImportError::Refused(error) => error.to_string(),
    };
    ApiError::field("raw_handle", why)
}
