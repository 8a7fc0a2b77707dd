//! JPEG bytes to pixels.

use ferry_core::PixelFormat;
use std::panic::{AssertUnwindSafe, catch_unwind};

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use crate::header::{self, Header};
use crate::limits::Limits;
use crate::pixels::{Pixels, PixelsError};
use crate::retain;

/// Decodes JPEG files into a buffer of its own, reused from one to the next.
///
/// Baseline and progressive files of 8 bits with one or three components decode, with any
/// subsampling: grey ones to [`PixelFormat::Gray8`], all others to [`PixelFormat::Rgb8`]. Bytes
/// after the end of the picture are ignored.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    guarded: Vec<u8>,
}

impl Decoder {
    /// A decoder without a buffer yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { buffer: Vec::new(), guarded: Vec::new() }
    }

    /// Decodes one file.
    ///
    /// A baseline file of one scan that was cut and closed again with an end-of-image marker,
    /// as some programs do, is refused too, unless only its last 16 × 16 pixels suffer. One of
    /// several scans, as progressive files are, is not always: with its later scans gone it is
    /// still a picture, only coarser. JPEG has no checksum: bytes that were changed, and not
    /// cut off, may decode to a picture that is wrong.
    ///
    /// # Errors
    /// The file is not a JPEG, breaks a limit, ends early, contradicts itself, or is of a kind
    /// that is not decoded here. The decoder can be used again in every case.
    pub fn decode(&mut self, jpeg: &[u8], limits: &Limits) -> Result<Pixels<'_>, DecodeError> {
        let header = header::read(jpeg, limits)?;
        let (format, colours) = match header.components {
            1 => (PixelFormat::Gray8, ColorSpace::Luma),
            _ => (PixelFormat::Rgb8, ColorSpace::RGB),
        };
        let (width, height) = (u32::from(header.width), u32::from(header.height));
        let len = usize::from(header.width)
            .checked_mul(usize::from(header.height) * (format.bytes() as usize))
            .ok_or(DecodeError::corrupt("more pixels than this machine can address"))?;
        let out = retain::scratch(&mut self.buffer, len);
        // Should the decoder leave a hole, it must not show another client's picture.
        out.fill(0);
        let jpeg = match header {
            Header { progressive: false, scans: 1, end, .. } => {
                guard(&mut self.guarded, &jpeg[..end])
            }
            _ => jpeg,
        };
        // A third party's parser on a stranger's bytes: a slip in it costs the request, not the
        // worker. The decoder is dropped by the unwinding and `out` is plain bytes, so nothing
        // half-changed stays behind.
        catch_unwind(AssertUnwindSafe(|| decode_into(jpeg, header, colours, out)))
            .unwrap_or(Err(DecodeError::corrupt("the decoder gave up on it")))?;
        Ok(Pixels::new(width, height, format, out)?)
    }
}

/// What stands between a scan and the end-of-image marker: 128 bits, all ones, each byte 0xff
/// followed by the zero that marks it as data. The decoder reads at most 64 bits ahead.
const GUARD: [u8; 34] = {
    let mut guard = [0xff; 34];
    let mut at = 1;
    while at < 32 {
        guard[at] = 0;
        at += 2;
    }
    guard[33] = 0xd9;
    guard
};

/// Copies a file whose last scan ends where `jpeg` ends, with a guard behind that scan.
///
/// The decoder takes what it misses behind the end-of-image marker for zeros, that is for grey
/// blocks, and says nothing. No Huffman code of a JPEG file consists of ones only (ITU-T T.81,
/// annex C), so that the first block that is missing becomes a bad code, which it reports.
fn guard<'a>(buffer: &'a mut Vec<u8>, jpeg: &[u8]) -> &'a [u8] {
    let guarded = retain::scratch(buffer, jpeg.len() + GUARD.len());
    let (scan, behind) = guarded.split_at_mut(jpeg.len());
    scan.copy_from_slice(jpeg);
    behind.copy_from_slice(&GUARD);
    guarded
}

fn decode_into(
    jpeg: &[u8],
    header: Header,
    colours: ColorSpace,
    out: &mut [u8],
) -> Result<(), DecodeError> {
    let (width, height) = (usize::from(header.width), usize::from(header.height));
    let options = DecoderOptions::new_fast()
        .set_strict_mode(true)
        .set_max_width(width)
        .set_max_height(height)
        .jpeg_set_out_colorspace(colours);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(jpeg), options);
    decoder.decode_headers()?;
    // The limits were checked on what the walk read; the decoder must have read the same.
    let grey = decoder.input_colorspace() == Some(ColorSpace::Luma);
    if decoder.dimensions() != Some((width, height))
        || decoder.output_buffer_size() != Some(out.len())
        || grey != (header.components == 1)
    {
        return Err(DecodeError::corrupt("ambiguous headers"));
    }
    Ok(decoder.decode_into(out)?)
}

/// Why a JPEG file did not become pixels.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes do not begin as a JPEG file does.
    #[error("not a JPEG file: send JPEG, or raw pixels marked as such")]
    NotJpeg,
    /// The file is longer than the limit.
    #[error("a JPEG file of {actual} bytes, above the limit of {max}: send a smaller one")]
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
        width: u16,
        /// Rows.
        height: u16,
        /// The longest side allowed, in pixels.
        side_max: u32,
        /// [`Limits::pixels_max`].
        pixels_max: u64,
    },
    /// The file orders more passes than the limit.
    #[error("a progressive JPEG file of more than {max} scans: save it with fewer, or baseline")]
    TooManyScans {
        /// [`Limits::scans_max`].
        max: u32,
    },
    /// The file ends before the picture does.
    #[error("the JPEG file ends before its picture does: send all of it")]
    Truncated,
    /// A JPEG file, but of a kind that is not decoded here.
    #[error("a JPEG file with {what}: save it as 8-bit RGB or grey, baseline or progressive")]
    Unsupported {
        /// What is not supported.
        what: &'static str,
    },
    /// The file contradicts itself.
    #[error("a broken JPEG file ({what}): save it again")]
    Corrupt {
        /// What is wrong.
        what: &'static str,
    },
    /// The decoder found the file wanting.
    #[error("a broken JPEG file: save it again")]
    Broken(#[from] zune_jpeg::errors::DecodeErrors),
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
