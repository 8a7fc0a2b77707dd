//! PNG files to pixels.

use std::io::Cursor;

use ferry_core::PixelFormat;
use png::{BitDepth, ColorType, Limits as Memory, Transformations};

use crate::DecodeError;
use crate::blend;
use crate::decode::{Background, Decoded};
use crate::limits::Limits;
use crate::orientation;
use crate::retain;

/// What one byte of a deflated stream can become, at most.
const INFLATION_MAX: u64 = 1032;

/// Whether a file begins as PNG files do.
pub(crate) fn is_png(file: &[u8]) -> bool {
    file.starts_with(b"\x89PNG\r\n\x1a\n")
}

/// Decodes a file into `buffer`, the front of which then has the pixels.
pub(crate) fn decode(
    file: &[u8],
    limits: &Limits,
    background: Background,
    buffer: &mut Vec<u8>,
) -> Result<Decoded, DecodeError> {
    // Memory is for the chunks in front of the pixels, of which only small ones are wanted.
    let memory = Memory { bytes: 4 << 20 };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(file), memory);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    let header = decoder.read_header_info()?;
    let (width, height) = (header.width, header.height);
    limits.check(width, height)?;
    let samples = header.color_type.samples() as u64;
    let bits = u64::from(width) * samples * depth(header.bit_depth);
    let claimed = bits.div_ceil(8).saturating_mul(u64::from(height));
    if claimed / INFLATION_MAX > file.len() as u64 {
        return Err(DecodeError::Truncated);
    }
    let mut reader = decoder.read_info()?;
    let len = reader.output_buffer_size();
    let len = len.ok_or(DecodeError::corrupt("more pixels than this machine can address"))?;
    let pixels = retain::scratch(buffer, len);
    let frame = reader.next_frame(pixels)?;
    // The checksums of what follows the pixels too.
    reader.finish()?;
    let exif = reader.info().exif_metadata.as_deref();
    let orientation = exif.map_or(1, orientation::of_exif);
    if (frame.width, frame.height, frame.bit_depth) != (width, height, BitDepth::Eight) {
        return Err(DecodeError::corrupt("a picture of other sides than the header's"));
    }
    let format = match frame.color_type {
        ColorType::Grayscale => PixelFormat::Gray8,
        ColorType::GrayscaleAlpha => {
            blend::grey(pixels, background);
            PixelFormat::Gray8
        }
        ColorType::Rgb => PixelFormat::Rgb8,
        ColorType::Rgba => {
            blend::colour(pixels, background);
            PixelFormat::Rgb8
        }
        ColorType::Indexed => return Err(DecodeError::corrupt("a palette that was not applied")),
    };
    Ok(Decoded { width, height, format, orientation })
}

fn depth(depth: BitDepth) -> u64 {
    match depth {
        BitDepth::One => 1,
        BitDepth::Two => 2,
        BitDepth::Four => 4,
        BitDepth::Eight => 8,
        BitDepth::Sixteen => 16,
    }
}
