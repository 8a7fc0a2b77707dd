//! What a JPEG file may claim before it is refused.

use crate::SIDE_MAX;

/// Bounds on one JPEG file, all checked before memory is taken for its pixels.
///
/// Decoding takes 3 bytes a pixel for the result and, while it runs, up to 6 more for a
/// progressive file (its coefficients): with the default, 192 MiB and 384 MiB at the worst.
/// Lower `pixels_max` where many workers share little memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest file, in bytes.
    pub compressed_bytes_max: usize,
    /// The longest side, in pixels; never more than [`SIDE_MAX`], whatever is written here.
    pub side_max: u32,
    /// The largest width × height.
    pub pixels_max: u64,
    /// The most scans in one file. Each scan of a progressive file is a pass over the whole
    /// picture that a few bytes can order; encoders write about ten.
    pub scans_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            compressed_bytes_max: 32 << 20,
            side_max: SIDE_MAX,
            pixels_max: 64 << 20,
            scans_max: 32,
        }
    }
}
