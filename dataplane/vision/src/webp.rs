//! WebP files to pixels.

use std::io::Cursor;

use ferry_core::PixelFormat;
use image_webp::WebPDecoder;

use crate::DecodeError;
use crate::blend;
use crate::decode::{Background, Decoded};
use crate::limits::Limits;
use crate::orientation;
use crate::retain;

/// Memory for what stands beside the pixels, of which only EXIF data is wanted.
const MEMORY_BYTES_MAX: usize = 4 << 20;

/// Whether a file begins as WebP files do.
pub(crate) fn is_webp(file: &[u8]) -> bool {
    file.starts_with(b"RIFF") && file.get(8..12) == Some(b"WEBP")
}

/// Decodes a file into `buffer`, the front of which then has the pixels.
pub(crate) fn decode(
    file: &[u8],
    limits: &Limits,
    background: Background,
    buffer: &mut Vec<u8>,
) -> Result<Decoded, DecodeError> {
    let mut decoder = WebPDecoder::new(Cursor::new(file))?;
    let (width, height) = decoder.dimensions();
    limits.check(width, height)?;
    if decoder.is_animated() {
        return Err(DecodeError::unsupported("several pictures that make an animation"));
    }
    decoder.set_memory_limit(MEMORY_BYTES_MAX);
    let exif = decoder.exif_metadata()?;
    let orientation = exif.map_or(1, |exif| {
        // Some writers keep the prefix that it has in JPEG files.
        orientation::of_exif(exif.strip_prefix(b"Exif\0\0").unwrap_or(&exif))
    });
    let len = decoder.output_buffer_size();
    let len = len.ok_or(DecodeError::corrupt("more pixels than this machine can address"))?;
    let pixels = retain::scratch(buffer, len);
    decoder.read_image(pixels)?;
    if decoder.has_alpha() {
        blend::colour(pixels, background);
    }
    Ok(Decoded { width, height, format: PixelFormat::Rgb8, orientation })
}
