//! What the driver says when it refuses.

use std::ffi::CStr;

use cudarc::driver::sys;

/// A call that the driver refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {name} ({code}): {text}{fix}")]
pub struct CudaError {
    /// The call's name, such as `cuMemAlloc`.
    pub call: &'static str,
    /// The number of the `CUresult`.
    pub code: u32,
    /// Its name, such as `CUDA_ERROR_OUT_OF_MEMORY`.
    pub name: String,
    /// The driver's own words.
    pub text: String,
    /// What to do, starting with `: `; empty where there is no advice.
    pub fix: &'static str,
}

impl CudaError {
    /// Whether the device has no memory left.
    pub fn is_out_of_memory(&self) -> bool {
        self.code == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY as u32
    }

    /// Whether the context is lost: every later call in this process fails too.
    pub fn is_fatal(&self) -> bool {
        use sys::CUresult as R;
        [
            R::CUDA_ERROR_DEINITIALIZED,
            R::CUDA_ERROR_ECC_UNCORRECTABLE,
            R::CUDA_ERROR_ILLEGAL_ADDRESS,
            R::CUDA_ERROR_LAUNCH_TIMEOUT,
            R::CUDA_ERROR_CONTEXT_IS_DESTROYED,
            R::CUDA_ERROR_ASSERT,
            R::CUDA_ERROR_HARDWARE_STACK_ERROR,
            R::CUDA_ERROR_ILLEGAL_INSTRUCTION,
            R::CUDA_ERROR_MISALIGNED_ADDRESS,
            R::CUDA_ERROR_INVALID_ADDRESS_SPACE,
            R::CUDA_ERROR_INVALID_PC,
            R::CUDA_ERROR_LAUNCH_FAILED,
            R::CUDA_ERROR_DEVICE_UNAVAILABLE,
            // With MPS, what another client does ends this one too.
            R::CUDA_ERROR_MPS_CLIENT_TERMINATED,
            R::CUDA_ERROR_MPS_RPC_FAILURE,
            R::CUDA_ERROR_MPS_SERVER_NOT_READY,
            R::CUDA_ERROR_UNKNOWN,
        ]
        .iter()
        .any(|fatal| *fatal as u32 == self.code)
    }
}

/// The outcome of a call.
pub(crate) fn check(call: &'static str, result: sys::CUresult) -> Result<(), CudaError> {
    if result == sys::CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    Err(error(call, result))
}

fn error(call: &'static str, result: sys::CUresult) -> CudaError {
    use sys::CUresult as R;
    let (mut name, mut text) = (std::ptr::null(), std::ptr::null());
    // SAFETY: the call writes a pointer to a text of the driver's that lives as long as it does,
    // or null for a number that it does not know.
    let _unknown = unsafe { sys::cuGetErrorName(result, &raw mut name) };
    // SAFETY: as above.
    let _unknown = unsafe { sys::cuGetErrorString(result, &raw mut text) };
    let owned = |text: *const std::ffi::c_char| {
        if text.is_null() {
            return String::from("unknown");
        }
        // SAFETY: not null, and a text of the driver's that ends in NUL.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    };
    let fix = match result {
        R::CUDA_ERROR_OUT_OF_MEMORY => ": use fewer slots, sessions or models on this device",
        R::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => ": reboot, or load the driver that was installed",
        _ => "",
    };
    let mut error =
        CudaError { call, code: result as u32, name: owned(name), text: owned(text), fix };
    if error.is_fatal() {
        error.fix = ": this process cannot use the device any more; see `nvidia-smi` and the \
                     kernel's log, and start the process again";
    }
    error
}

/// Logs that something was not given back. After the loss of the device nothing can be, and one
/// line has said so: the driver frees it with the process.
pub(crate) fn not_freed(error: &CudaError, what: &str) {
    if error.is_fatal() {
        tracing::debug!(%error, what, "not freed");
    } else {
        tracing::warn!(%error, what, "not freed");
    }
}
