//! Encoded pictures to pixels, whatever kind of file they are.

use std::panic::{AssertUnwindSafe, catch_unwind};

use ferry_core::PixelFormat;

use crate::jpeg;
use crate::limits::Limits;
use crate::orientation::{self, Orientation};
use crate::pixels::{Pixels, PixelsError};
use crate::retain;
use crate::{png, webp};

/// How files are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DecodeOptions {
    /// What a file may claim.
    pub limits: Limits,
    /// Whether a picture is turned as its EXIF data says.
    pub orientation: Orientation,
    /// What shows through transparent pixels.
    pub background: Background,
}

/// Red, green and blue behind a picture that has transparency: white, unless told otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Background(pub [u8; 3]);

impl Default for Background {
    fn default() -> Self {
        Self([255; 3])
    }
}

/// Decodes picture files into a buffer of its own, reused from one to the next.
///
/// What a file is, its first bytes say:
///
/// * JPEG of 8 bits with one or three components, sequential or progressive, in any number of
///   scans, with any subsampling in whole ratios; Motion JPEG without Huffman tables too;
/// * PNG of every kind; of 16 bits the upper eight are taken, of an animation the first picture;
/// * WebP, lossy and lossless, not animated.
///
/// Grey files give [`PixelFormat::Gray8`], all others [`PixelFormat::Rgb8`]. Colour profiles are
/// ignored, and bytes after the end of the picture too.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    turned: Vec<u8>,
    jpeg: jpeg::Scratch,
}

/// What a buffer holds after decoding.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decoded {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) format: PixelFormat,
    /// As in EXIF: 1 to 8, and 1 where nothing is said.
    pub(crate) orientation: u8,
}

impl Decoded {
    /// The length of the pixels.
    pub(crate) fn len(&self) -> Result<usize, DecodeError> {
        let pixels = u64::from(self.width) * u64::from(self.height);
        let bytes = pixels.saturating_mul(u64::from(self.format.bytes()));
        usize::try_from(bytes).map_err(|_too_long| TOO_LONG)
    }
}

/// More than the address space has: the limits are below it where pointers have 64 bits.
const TOO_LONG: DecodeError = DecodeError::corrupt("more pixels than this machine can address");

impl Decoder {
    /// A decoder without a buffer yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Decodes one file.
    ///
    /// A file that was cut is refused, also where something closed it again, unless nothing but
    /// the last pixels suffers. JPEG has no checksum: bytes that were changed, and not cut off, may
    /// decode to a picture that is wrong.
    ///
    /// # Errors
    /// The file is of no kind that is known, breaks a limit, ends early, contradicts itself, or has
    /// a feature that is not decoded here. The decoder can be used again in every case.
    pub fn decode(
        &mut self,
        file: &[u8],
        options: &DecodeOptions,
    ) -> Result<Pixels<'_>, DecodeError> {
        let max = options.limits.compressed_bytes_max;
        if file.len() > max {
            return Err(DecodeError::TooManyBytes { actual: file.len(), max });
        }
        // Parsers on a stranger's bytes, partly third parties': a slip in one costs the request,
        // not the worker. Buffers are plain bytes, so that nothing half-changed stays behind.
        let decoded = catch_unwind(AssertUnwindSafe(|| self.decode_kind(file, options)))
            .unwrap_or(Err(DecodeError::corrupt("the decoder gave up on it")))?;
        let len = decoded.len()?;
        let turn = match options.orientation {
            Orientation::Stored => 1,
            Orientation::Exif => decoded.orientation,
        };
        let Decoded { width, height, format, .. } = decoded;
        if turn == 1 {
            return Ok(Pixels::new(width, height, format, &self.buffer[..len])?);
        }
        let turned = retain::scratch(&mut self.turned, len);
        let (width, height) = orientation::turn(turn, &decoded, &self.buffer[..len], turned);
        Ok(Pixels::new(width, height, format, turned)?)
    }

    fn decode_kind(
        &mut self,
        file: &[u8],
        options: &DecodeOptions,
    ) -> Result<Decoded, DecodeError> {
        let (buffer, limits) = (&mut self.buffer, &options.limits);
        if jpeg::is_jpeg(file) {
            jpeg::decode(file, limits, &mut self.jpeg, buffer)
        } else if png::is_png(file) {
            png::decode(file, limits, options.background, buffer)
        } else if webp::is_webp(file) {
            webp::decode(file, limits, options.background, buffer)
        } else {
            Err(DecodeError::UnknownKind)
        }
    }
}

/// Why a file did not become pixels.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes begin as no kind of file that is known does.
    #[error("not a JPEG, PNG or WebP file: send one of these, or raw pixels marked as such")]
    UnknownKind,
    /// The file is longer than the limit.
    #[error("a picture file of {actual} bytes, above the limit of {max}: send a smaller one")]
    TooManyBytes {
        /// The file's length in bytes.
        actual: usize,
        /// [`Limits::compressed_bytes_max`].
        max: usize,
    },
    /// The picture would be larger than the limits.
    #[error(
        "a picture of {width} x {height}, above the limit of {side_max} a side and {pixels_max} \
         pixels: scale it down before sending it"
    )]
    TooManyPixels {
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
        /// The longest side allowed, in pixels.
        side_max: u32,
        /// [`Limits::pixels_max`].
        pixels_max: u64,
    },
    /// The file orders more passes than the limit.
    #[error("a JPEG file of more than {max} scans: save it with fewer, or baseline")]
    TooManyScans {
        /// [`Limits::scans_max`].
        max: u32,
    },
    /// The passes over a progressive picture would cost more than the limit.
    #[error(
        "a progressive JPEG file of {width} x {height} with {scans} scans or more, above the limit \
         of {max} pixels x scans: save it with fewer scans or baseline, or scale it down"
    )]
    TooManyScanPixels {
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
        /// Scans up to the one that breaks the limit.
        scans: u32,
        /// [`Limits::scan_pixels_max`].
        max: u64,
    },
    /// The file ends before the picture does.
    #[error("the file ends before its picture does: send all of it")]
    Truncated,
    /// A file of a kind that is known, with a feature that is not decoded here.
    #[error("a picture file with {what}: save it as 8-bit RGB or grey")]
    Unsupported {
        /// What is not supported.
        what: &'static str,
    },
    /// The file contradicts itself.
    #[error("a broken picture file ({what}): save it again")]
    Corrupt {
        /// What is wrong.
        what: &'static str,
    },
    /// The decoder found a PNG file wanting.
    #[error("a broken PNG file: save it again")]
    Png(#[from] ::png::DecodingError),
    /// The decoder found a WebP file wanting.
    #[error("a broken WebP file: save it again")]
    WebP(#[from] image_webp::DecodingError),
    /// The decoded pixels do not make a picture.
    #[error("a decoded picture that cannot be described")]
    Pixels(#[from] PixelsError),
}

impl DecodeError {
    pub(crate) const fn corrupt(what: &'static str) -> Self {
        Self::Corrupt { what }
    }

    pub(crate) const fn unsupported(what: &'static str) -> Self {
        Self::Unsupported { what }
    }
}
