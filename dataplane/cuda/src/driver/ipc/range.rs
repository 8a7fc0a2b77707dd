//! What lies behind an address.

use cudarc::driver::sys;

use crate::driver::error::{CudaError, check};

/// Why device memory was not copied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// The driver refused.
    #[error(transparent)]
    Refused(#[from] CudaError),
    /// Not memory of a device.
    #[error("{address:#x} is not memory of a CUDA device: copy host memory with `write`")]
    NotDevice {
        /// Where.
        address: u64,
    },
    /// Outside an allocation.
    #[error("{bytes} bytes from {address:#x} on are not within one allocation of a CUDA device")]
    Outside {
        /// Where.
        address: u64,
        /// How many.
        bytes: usize,
    },
}

/// Start and length of the allocation that an address lies in.
pub(super) fn address_range(address: u64) -> Result<(u64, usize), CudaError> {
    let (mut start, mut bytes) = (0, 0);
    // SAFETY: places of ours; the address is only looked up.
    let got = unsafe { sys::cuMemGetAddressRange_v2(&raw mut start, &raw mut bytes, address) };
    check("cuMemGetAddressRange", got)?;
    Ok((start, bytes))
}

pub(super) fn is_device_memory(address: u64, bytes: usize) -> Result<(), CopyError> {
    use sys::CUpointer_attribute as A;
    let kind = attribute(A::CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address);
    let managed = attribute(A::CU_POINTER_ATTRIBUTE_IS_MANAGED, address);
    // Managed memory may be borrowed as a slice.
    if (kind, managed) != (Some(sys::CUmemorytype::CU_MEMORYTYPE_DEVICE as u32), Some(0)) {
        return Err(CopyError::NotDevice { address });
    }
    let (start, allocated) = address_range(address)?;
    let end = u64::try_from(bytes).ok().and_then(|bytes| address.checked_add(bytes));
    let allocated = u64::try_from(allocated).unwrap_or(u64::MAX);
    if end.is_none_or(|end| end > start.saturating_add(allocated)) {
        return Err(CopyError::Outside { address, bytes });
    }
    Ok(())
}

/// An attribute of an address that is as wide as 32 bits; `None` for an address that the driver
/// does not know.
fn attribute(attribute: sys::CUpointer_attribute, address: u64) -> Option<u32> {
    // Of the widest attribute there is, and more: none can be written behind it.
    let mut value = [0_u32; 4];
    // SAFETY: a place of ours that is wide enough; the address is only looked up.
    let got = unsafe { sys::cuPointerGetAttribute(value.as_mut_ptr().cast(), attribute, address) };
    check("cuPointerGetAttribute", got).ok()?;
    Some(value[0])
}
