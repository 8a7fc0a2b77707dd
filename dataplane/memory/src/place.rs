//! Where a session's slots are to lie, where that is not plain memory of the host.

use ferry_core::DeviceMemory;

use crate::backing::MemoryError;
use crate::region::Region;

/// Makes memory of a device, or makes memory of the host known to one. A link is given one with
/// the session and knows nothing of the device.
pub trait Placer: Send + Sync + std::fmt::Debug {
    /// Whether slots lie in the device's own memory, made by [`allocate`](Placer::allocate); else
    /// the link makes memory of the host and has it [`register`](Placer::register)ed.
    fn on_device(&self) -> bool;

    /// `bytes` zeroed bytes of the device's memory.
    ///
    /// # Errors
    /// What the device says.
    fn allocate(&self, bytes: usize) -> Result<Region, MemoryError>;

    /// The same memory, which the device can reach from now on.
    ///
    /// # Errors
    /// What the device says.
    fn register(&self, memory: Region) -> Result<Region, MemoryError>;
}

/// Opens memory of a device that another process placed: a client's counterpart to [`Placer`].
pub trait Importer: Send + Sync + std::fmt::Debug {
    /// The memory that is described, for as long as the region lives.
    ///
    /// # Errors
    /// [`MemoryError::Foreign`] where what is described is not there, is shorter than described,
    /// or cannot be reached from here, with what to do; what the device says.
    fn open(&self, described: &DeviceMemory) -> Result<Region, MemoryError>;
}
