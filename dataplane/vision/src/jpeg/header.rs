//! One walk over a JPEG file's markers, before the decoder sees it.
//!
//! It answers what the decoder cannot be asked beforehand: how large the picture says it is, how
//! many passes over it the file orders, and whether the file reaches its end. Nothing is
//! allocated.

use crate::DecodeError;
use crate::limits::Limits;

/// Segments in one file. An ICC profile makes at most 255 and real files hold a few dozen; the
/// decoder walks all parts of an extended XMP packet again after each segment of the header, so
/// that hundreds of thousands of tiny parts would cost minutes.
const SEGMENTS_MAX: u32 = 1024;

/// Pixels that one byte of a JPEG file can stand for: each bit is at least one 8 × 8 block
/// (a code has at least one bit, and no block's DC coefficient is left out), and a block of a
/// subsampled component covers at most 4 × 4 blocks of pixels.
const PIXELS_PER_BYTE_MAX: u64 = 8 * 64 * 16;

/// What the walk found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) width: u16,
    pub(super) height: u16,
    pub(super) components: u8,
    pub(super) progressive: bool,
    /// Where the end-of-image marker begins, in bytes.
    pub(super) end: usize,
}

/// Walks from the first marker to the end-of-image marker. What follows that is not looked at.
pub(super) fn read(jpeg: &[u8], limits: &Limits) -> Result<Header, DecodeError> {
    let mut rest = jpeg.strip_prefix(&[0xff, 0xd8]).ok_or(DecodeError::UnknownKind)?;
    let mut header = None::<Header>;
    let mut scans = 0;
    for _ in 0..SEGMENTS_MAX {
        let (marker, after) = next_marker(rest, scans > 0)?;
        if marker == 0xd9 {
            if scans == 0 {
                return Err(DecodeError::corrupt("the picture has no scan"));
            }
            let header = header.ok_or(DecodeError::corrupt("the picture has no frame header"))?;
            return Ok(Header { end: jpeg.len() - after.len() - 2, ..header });
        }
        let (body, after) = segment(after)?;
        rest = after;
        match marker {
            // Baseline, extended sequential and progressive, all with Huffman codes.
            0xc0..=0xc2 if header.is_some() => {
                return Err(DecodeError::corrupt("two frame headers"));
            }
            0xc0..=0xc2 => {
                let progressive = marker == 0xc2;
                header = Some(Header { progressive, ..frame(body, jpeg.len(), limits)? });
            }
            0xc3 | 0xc5..=0xc7 | 0xc9..=0xcf => {
                return Err(DecodeError::unsupported("lossless or arithmetic coding"));
            }
            0xda => {
                scans += 1;
                if scans > limits.scans_max {
                    return Err(DecodeError::TooManyScans { max: limits.scans_max });
                }
                if let Some(header) = header {
                    check_passes(&header, scans, limits)?;
                }
            }
            _ => {}
        }
    }
    Err(DecodeError::corrupt("more than 1024 segments"))
}

/// Holds what the passes over a progressive picture cost so far against the limits.
fn check_passes(header: &Header, scans: u32, limits: &Limits) -> Result<(), DecodeError> {
    let Header { width, height, progressive, .. } = *header;
    let pixels = u64::from(width) * u64::from(height);
    let max = limits.scan_pixels_max;
    if progressive && pixels.saturating_mul(u64::from(scans)) > max {
        let (width, height) = (u32::from(width), u32::from(height));
        return Err(DecodeError::TooManyScanPixels { width, height, scans, max });
    }
    Ok(())
}

/// The next marker's code and what follows it.
///
/// Up to the first scan nothing but fill bytes may stand between two segments: if the decoder
/// read a marker where this walk reads none, the limits would be checked on the wrong header.
pub(super) fn next_marker(mut rest: &[u8], in_scan: bool) -> Result<(u8, &[u8]), DecodeError> {
    loop {
        let skipped = rest.iter().position(|byte| *byte == 0xff).ok_or(DecodeError::Truncated)?;
        if skipped > 0 && !in_scan {
            return Err(DecodeError::corrupt("stray bytes between two segments"));
        }
        rest = &rest[skipped..];
        let fill = rest.iter().position(|byte| *byte != 0xff).ok_or(DecodeError::Truncated)?;
        let code = rest[fill];
        rest = &rest[fill + 1..];
        match code {
            // A data byte 0xff, and the restart markers: part of a scan.
            0x00 | 0xd0..=0xd7 if in_scan => {}
            0x00..=0x01 | 0xd0..=0xd8 => {
                return Err(DecodeError::corrupt("a marker that has no place here"));
            }
            _ => return Ok((code, rest)),
        }
    }
}

/// How many coded bytes stand in front of the next marker that is not a restart.
pub(super) fn scan_bytes(rest: &[u8]) -> usize {
    next_marker(rest, true).map_or(rest.len(), |(_, after)| rest.len() - after.len() - 2)
}

/// Splits off a segment's body. Its length counts itself, two bytes.
pub(super) fn segment(rest: &[u8]) -> Result<(&[u8], &[u8]), DecodeError> {
    let (length, body) = rest.split_first_chunk::<2>().ok_or(DecodeError::Truncated)?;
    let body_bytes = usize::from(u16::from_be_bytes(*length))
        .checked_sub(2)
        .ok_or(DecodeError::corrupt("a segment shorter than its own length field"))?;
    body.split_at_checked(body_bytes).ok_or(DecodeError::Truncated)
}

/// Reads a frame header and holds it against the limits.
fn frame(body: &[u8], jpeg_bytes: usize, limits: &Limits) -> Result<Header, DecodeError> {
    let &[precision, h1, h0, w1, w0, components, ..] = body else {
        return Err(DecodeError::corrupt("a frame header cut short"));
    };
    let (width, height) = (u16::from_be_bytes([w1, w0]), u16::from_be_bytes([h1, h0]));
    if precision != 8 {
        return Err(DecodeError::unsupported("samples of other than 8 bits"));
    }
    if width == 0 || height == 0 {
        return Err(DecodeError::corrupt("a picture without width or height"));
    }
    match components {
        1 | 3 => {}
        4 => return Err(DecodeError::unsupported("CMYK colours")),
        _ => return Err(DecodeError::unsupported("a number of colours other than 1 and 3")),
    }
    limits.check(u32::from(width), u32::from(height))?;
    let pixels = u64::from(width) * u64::from(height);
    // A length beyond 64 bits is more than enough for any picture.
    let jpeg_bytes = u64::try_from(jpeg_bytes).unwrap_or(u64::MAX);
    if pixels > jpeg_bytes.saturating_mul(PIXELS_PER_BYTE_MAX) {
        return Err(DecodeError::Truncated);
    }
    Ok(Header { width, height, components, progressive: false, end: 0 })
}
