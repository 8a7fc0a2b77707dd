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

/// Start and length of the allocation that an address lies in, on whichever device it is.
pub(super) fn address_range(address: u64) -> Result<(u64, usize), CudaError> {
    use sys::CUpointer_attribute as A;
    // Not `cuMemGetAddressRange`, which knows the memory of the current context's device alone.
    let start = attribute(A::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, address)?;
    let bytes = attribute(A::CU_POINTER_ATTRIBUTE_RANGE_SIZE, address)?;
    Ok((start, usize::try_from(bytes).unwrap_or(usize::MAX)))
}

pub(super) fn is_device_memory(address: u64, bytes: usize) -> Result<(), CopyError> {
    use sys::CUpointer_attribute as A;
    let kind = attribute(A::CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address);
    let managed = attribute(A::CU_POINTER_ATTRIBUTE_IS_MANAGED, address);
    // Managed memory may be borrowed as a slice. The driver does not know the rest of the host's.
    if (kind, managed) != (Ok(sys::CUmemorytype::CU_MEMORYTYPE_DEVICE as u64), Ok(0)) {
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

/// An attribute of an address that is as wide as 64 bits or less: the device is little-endian, as
/// is every host that it works with.
fn attribute(attribute: sys::CUpointer_attribute, address: u64) -> Result<u64, CudaError> {
    // Of the widest attribute there is, and more: none can be written behind it.
    let mut value = [0_u64; 2];
    // SAFETY: a place of ours that is wide enough; the address is only looked up.
    let got = unsafe { sys::cuPointerGetAttribute(value.as_mut_ptr().cast(), attribute, address) };
    check("cuPointerGetAttribute", got)?;
    Ok(value[0])
}
