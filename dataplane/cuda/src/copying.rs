//! A copy by a kernel, for host memory that a device reaches in place: how it is launched. Plain
//! numbers; nothing here talks to a device.

/// The CUDA C++ of [`COPY`]. Its parameters: the address read, the address written (any alignment
/// for both; the ranges must not overlap), and the bytes, 64 bits wide.
pub const COPY_SOURCE: &str = include_str!("kernels/copy.cu");
/// The kernel that copies bytes.
pub const COPY: &str = "ferry_copy";

/// Threads in a block of every kernel here, as their launch bounds say.
pub(crate) const BLOCK: u32 = 256;
/// What a thread of the copy has under way, in bytes.
const COPY_THREAD_BYTES: u64 = 64;
/// Blocks of a copy: 1 MiB under way, which is more than either way to memory needs, and half of
/// an H100's multiprocessors are left to others.
const COPY_BLOCKS_MAX: u32 = 64;

/// How a kernel is launched: one-dimensional, all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Blocks.
    pub grid: u32,
    /// Threads of a block.
    pub block: u32,
    /// Dynamic shared memory of a block, in bytes: never more than every device has (48 KiB).
    pub shared_bytes: u32,
}

/// How the copy kernel is launched for so many bytes; `None` where there are none to copy.
#[must_use]
pub fn copy_launch(bytes: u64) -> Option<Launch> {
    let blocks = bytes.div_ceil(u64::from(BLOCK) * COPY_THREAD_BYTES);
    let grid = u32::try_from(blocks).unwrap_or(u32::MAX).min(COPY_BLOCKS_MAX);
    (grid > 0).then_some(Launch { grid, block: BLOCK, shared_bytes: 0 })
}
