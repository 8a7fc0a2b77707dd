//! What a picture file may claim before it is refused.

use crate::{DecodeError, SIDE_MAX};

/// Bounds on one picture file, all checked before memory is taken for its pixels.
///
/// Decoding takes 3 bytes a pixel for the result (4 where the file has transparency) and, while it
/// runs, up to 3 more for the planes of a JPEG file and 6 for the coefficients of a progressive one:
/// with the default, 192 MiB, 192 MiB and 384 MiB at the worst. A picture that is turned takes the
/// result twice. Lower `pixels_max` where many workers share little memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest file, in bytes.
    pub compressed_bytes_max: usize,
    /// The longest side, in pixels; never more than [`SIDE_MAX`], whatever is written here.
    pub side_max: u32,
    /// The largest width × height.
    pub pixels_max: u64,
    /// The most scans in one JPEG file. Each scan of a progressive file is a pass over the whole
    /// picture that a few bytes can order; encoders write about ten.
    pub scans_max: u32,
    /// The most pixels × scans of a progressive JPEG file: what all its passes may cost together.
    /// The default gives the largest picture 16 scans, and pictures of half its size all 32.
    pub scan_pixels_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            compressed_bytes_max: 32 << 20,
            side_max: SIDE_MAX,
            pixels_max: 64 << 20,
            scans_max: 32,
            scan_pixels_max: 1 << 30,
        }
    }
}

impl Limits {
    /// Holds the sides that a file's header says against the limits.
    pub(crate) fn check(&self, width: u32, height: u32) -> Result<(), DecodeError> {
        let (side_max, pixels_max) = (self.side_max.min(SIDE_MAX), self.pixels_max);
        if width == 0 || height == 0 {
            return Err(DecodeError::corrupt("a picture without width or height"));
        }
        if width.max(height) > side_max || u64::from(width) * u64::from(height) > pixels_max {
            return Err(DecodeError::TooManyPixels { width, height, side_max, pixels_max });
        }
        Ok(())
    }
}
