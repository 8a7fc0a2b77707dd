//! Decoded pixels, as they lie in memory.

use ferry_core::PixelFormat;

use crate::SIDE_MAX;

/// A picture: rows from the top, pixels from the left, no padding anywhere.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pixels<'a> {
    width: u32,
    height: u32,
    format: PixelFormat,
    bytes: &'a [u8],
}

impl<'a> Pixels<'a> {
    /// Describes `bytes` as a picture.
    ///
    /// # Errors
    /// A side is zero or above [`SIDE_MAX`], or `bytes` is not exactly
    /// `width × height × format.bytes()` long.
    pub fn new(
        width: u32,
        height: u32,
        format: PixelFormat,
        bytes: &'a [u8],
    ) -> Result<Self, PixelsError> {
        if width == 0 || height == 0 || width > SIDE_MAX || height > SIDE_MAX {
            return Err(PixelsError::Side { width, height });
        }
        // Three factors below 2^15 fit in 64 bits.
        let expected = u64::from(width) * u64::from(height) * u64::from(format.bytes());
        if u64::try_from(bytes.len()) != Ok(expected) {
            return Err(PixelsError::Length { expected, actual: bytes.len() });
        }
        Ok(Self { width, height, format, bytes })
    }

    /// Pixels in a row.
    #[must_use]
    pub const fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    #[must_use]
    pub const fn height(&self) -> u32 {
        self.height
    }

    /// How one pixel lies in memory.
    #[must_use]
    pub const fn format(&self) -> PixelFormat {
        self.format
    }

    /// All rows, one after the other.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

impl std::fmt::Debug for Pixels<'_> {
    // The pixels themselves are the peer's business and would fill the log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pixels")
            .field("width", &self.width)
            .field("height", &self.height)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

/// Why bytes are not the picture that somebody says they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PixelsError {
    /// A side is zero or too long.
    #[error("a picture of {width} x {height}: each side must be 1 to {SIDE_MAX} pixels")]
    Side {
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// The bytes do not fit the sides and the format.
    #[error(
        "{actual} bytes where the picture's sides and format make {expected}: send the rows \
         without padding, and the sides and format that they have"
    )]
    Length {
        /// width × height × channels.
        expected: u64,
        /// The bytes given.
        actual: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_must_be_exact() {
        for format in [PixelFormat::Rgb8, PixelFormat::Bgr8, PixelFormat::Gray8] {
            let bytes = vec![0; 2 * 3 * format.bytes() as usize + 1];
            let exact = bytes.len() - 1;
            assert!(Pixels::new(2, 3, format, &bytes[..exact]).is_ok());
            for wrong in [0, exact - 1, exact + 1] {
                assert_eq!(
                    Pixels::new(2, 3, format, &bytes[..wrong]),
                    Err(PixelsError::Length { expected: exact as u64, actual: wrong })
                );
            }
        }
    }

    #[test]
    fn sides_are_bounded() {
        let row = vec![0; SIDE_MAX as usize + 1];
        let gray = PixelFormat::Gray8;
        assert!(Pixels::new(SIDE_MAX, 1, gray, &row[1..]).is_ok());
        for (width, height) in [(0, 1), (1, 0), (SIDE_MAX + 1, 1), (1, u32::MAX)] {
            assert_eq!(
                Pixels::new(width, height, gray, &row),
                Err(PixelsError::Side { width, height })
            );
        }
    }
}
