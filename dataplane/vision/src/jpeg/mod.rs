//! JPEG files to pixels: 8-bit sequential and progressive files with Huffman codes, in any number
//! of scans.
//!
//! [`header::read`] walks over the whole file first, so that nothing is allocated for a file that
//! breaks a limit or has no end. Then the segments are taken in their order. What a decoder could
//! shrug off (codes that stand for nothing, data that ends early, coefficients out of all range) is
//! an error here: a picture that is half grey would be an answer, and a wrong one.

mod bits;
mod entropy;
mod frame;
mod header;
mod huffman;
mod idct;
mod output;
mod scan;

use entropy::Coded;
use frame::{Frame, PLACES, Quantisation, Scan};
use header::Header;
use huffman::Codes;
use idct::Block;
use output::Colours;
use scan::Tables;

use ferry_core::PixelFormat;

use crate::DecodeError;
use crate::decode::Decoded;
use crate::limits::Limits;
use crate::orientation;
use crate::retain;

/// Whether a file begins as JPEG files do.
pub(crate) fn is_jpeg(file: &[u8]) -> bool {
    file.starts_with(&[0xff, 0xd8])
}

/// What is reused from one file to the next.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    tables: Box<Tables>,
    coded: Coded,
    planes: Vec<u8>,
    coefficients: Vec<Block>,
    rows: output::Rows,
}

/// Decodes a file into `buffer`, the front of which then has the pixels.
pub(crate) fn decode(
    jpeg: &[u8],
    limits: &Limits,
    scratch: &mut Scratch,
    buffer: &mut Vec<u8>,
) -> Result<Decoded, DecodeError> {
    let header = header::read(jpeg, limits)?;
    let format = if header.components == 1 { PixelFormat::Gray8 } else { PixelFormat::Rgb8 };
    let (width, height) = (u32::from(header.width), u32::from(header.height));
    let mut decoded = Decoded { width, height, format, orientation: 1 };
    let out = retain::scratch(buffer, decoded.len()?);
    let mut file = File::new(header, scratch);
    let mut rest = &jpeg[2..header.end];
    let mut in_scan = false;
    // The walk went over the same bytes: where no marker is left, the end-of-image marker follows.
    while let Ok((marker, after)) = header::next_marker(rest, in_scan) {
        let (body, after) = header::segment(after)?;
        rest = after;
        if marker == 0xda {
            in_scan = true;
            let coded_bytes = header::scan_bytes(rest);
            file.scan(body, &rest[..coded_bytes])?;
            rest = &rest[coded_bytes..];
        } else {
            file.segment(marker, body)?;
        }
    }
    decoded.orientation = file.exif.map_or(1, orientation::of_exif);
    file.finish(out)?;
    Ok(decoded)
}

/// A file that is being decoded.
struct File<'a, 's> {
    header: Header,
    scratch: &'s mut Scratch,
    frame: Option<Frame>,
    quantisation: [Option<Quantisation>; 4],
    dc: [Option<Codes>; 4],
    ac: [Option<Codes>; 4],
    restart_interval: u32,
    is_jfif: bool,
    adobe_transform: Option<u8>,
    exif: Option<&'a [u8]>,
}

impl<'a, 's> File<'a, 's> {
    fn new(header: Header, scratch: &'s mut Scratch) -> Self {
        File {
            header,
            scratch,
            frame: None,
            quantisation: [None; 4],
            dc: [None; 4],
            ac: [None; 4],
            restart_interval: 0,
            is_jfif: false,
            adobe_transform: None,
            exif: None,
        }
    }

    fn segment(&mut self, marker: u8, body: &'a [u8]) -> Result<(), DecodeError> {
        match marker {
            0xc0..=0xc2 => self.frame = Some(self.begin(body)?),
            0xc4 => self.huffman(body)?,
            0xdb => self.quantisation(body)?,
            0xdd => match body {
                [high, low] => {
                    self.restart_interval = u32::from(u16::from_be_bytes([*high, *low]));
                }
                _ => return Err(DecodeError::corrupt("a restart interval of the wrong length")),
            },
            0xe0 if body.starts_with(b"JFIF\0") => self.is_jfif = true,
            0xe1 if self.exif.is_none() => self.exif = body.strip_prefix(b"Exif\0\0"),
            0xee if body.starts_with(b"Adobe") => {
                self.adobe_transform = body.get(11).copied().or(self.adobe_transform);
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes the frame header, and the memory that the picture needs while it is decoded.
    fn begin(&mut self, body: &[u8]) -> Result<Frame, DecodeError> {
        let frame = Frame::read(body, &self.header)?;
        let Scratch { planes, coefficients, .. } = &mut *self.scratch;
        retain::scratch(planes, frame.blocks() * 64);
        if frame.progressive {
            retain::scratch(coefficients, frame.blocks()).fill([[0; 8]; 8]);
        }
        Ok(frame)
    }

    fn quantisation(&mut self, mut body: &[u8]) -> Result<(), DecodeError> {
        while let Some((which, rest)) = body.split_first() {
            let bytes = if which >> 4 == 0 { 1 } else { 2 };
            let table = self.quantisation.get_mut(usize::from(which & 15));
            let (Some(table), 0..=1, Some(factors)) = (table, which >> 4, rest.get(..64 * bytes))
            else {
                return Err(DecodeError::corrupt(
                    "a table of quantisation that is cut or misnamed",
                ));
            };
            let mut read = [(0, 0); PLACES];
            for (entry, factor) in read.iter_mut().zip(factors.chunks_exact(bytes)) {
                let factor = factor.iter().fold(0_u16, |sum, byte| sum << 8 | u16::from(*byte));
                *entry = (factor, largest(factor)?);
            }
            *table = Some(read);
            body = &rest[64 * bytes..];
        }
        Ok(())
    }

    fn huffman(&mut self, mut body: &[u8]) -> Result<(), DecodeError> {
        while let Some((which, rest)) = body.split_first() {
            let (codes, bytes) = Codes::read(rest)?;
            let tables = match which >> 4 {
                0 => &mut self.dc,
                1 => &mut self.ac,
                _ => return Err(DecodeError::corrupt("a Huffman table of no class")),
            };
            match tables.get_mut(usize::from(which & 15)) {
                Some(table) => *table = Some(codes),
                None => return Err(DecodeError::corrupt("a Huffman table beyond the fourth")),
            }
            body = &rest[bytes..];
        }
        Ok(())
    }

    fn scan(&mut self, body: &[u8], coded: &[u8]) -> Result<(), DecodeError> {
        let Some(frame) = &mut self.frame else {
            return Err(DecodeError::corrupt("a scan before the frame header"));
        };
        let scan = Scan::read(body, frame)?;
        let Scratch { tables, planes, coefficients, coded: buffer, .. } = &mut *self.scratch;
        for member in &scan.members {
            let component = &mut frame.components[member.component];
            if component.quantisation.is_none() {
                component.quantisation = self.quantisation[component.quantisation_id];
            }
            if scan.first == 0 && scan.before == 0 {
                let codes =
                    self.dc[member.dc_id].or_else(|| usual(frame.progressive, false, member.dc_id));
                tables.dc[member.dc_id].build(&codes.ok_or(NO_TABLE)?)?;
            }
            if scan.last > 0 {
                let codes =
                    self.ac[member.ac_id].or_else(|| usual(frame.progressive, true, member.ac_id));
                tables.ac[member.ac_id].build(&codes.ok_or(NO_TABLE)?)?;
            }
        }
        buffer.load(coded)?;
        let reader = buffer.read(self.restart_interval);
        if frame.progressive {
            let coefficients = &mut coefficients[..frame.blocks()];
            scan::progressive(frame, &scan, tables, reader, coefficients)
        } else {
            let planes = &mut planes[..frame.blocks() * 64];
            scan::sequential(frame, &scan, tables, reader, planes)
        }
    }

    /// All scans have come: makes pixels of them.
    fn finish(self, out: &mut [u8]) -> Result<(), DecodeError> {
        let colours = self.colours();
        let Some(frame) = self.frame else {
            return Err(DecodeError::corrupt("the picture has no frame header"));
        };
        // A progressive file without its last scans would be a picture, only a coarser one.
        if frame.components.iter().any(|component| component.missing_bits != [0; 64]) {
            return Err(DecodeError::Truncated);
        }
        let Scratch { planes, coefficients, rows, .. } = self.scratch;
        let planes = &mut planes[..frame.blocks() * 64];
        if frame.progressive {
            scan::transform(&frame, &coefficients[..frame.blocks()], planes)?;
        }
        match frame.components.len() {
            1 => output::grey(&frame, planes, out),
            _ => output::colour(&frame, planes, colours, rows, out),
        }
        Ok(())
    }

    /// What three components are. JFIF is always YCbCr, Adobe's segment says it; else their names
    /// do.
    fn colours(&self) -> Colours {
        let ids = self.frame.as_ref().map(Frame::ids).unwrap_or_default();
        match self.adobe_transform {
            _ if self.is_jfif => Colours::YCbCr,
            Some(0) => Colours::Rgb,
            Some(_) => Colours::YCbCr,
            None if ids == *b"RGB" => Colours::Rgb,
            None => Colours::YCbCr,
        }
    }
}

const NO_TABLE: DecodeError = DecodeError::corrupt("a scan without its Huffman table");

/// Motion JPEG leaves the tables out where they are those of annex K, which only sequential files
/// can have.
fn usual(progressive: bool, ac: bool, id: usize) -> Option<Codes> {
    if progressive { None } else { Codes::usual(ac, id) }
}

/// The largest quantised coefficient with this factor. Samples of 8 bits give coefficients of at
/// most 1024 in size, and a rounding adds less than `factor`; twice that leaves room for encoders
/// that overshoot. Beyond it decoders differ, and only damaged files are there.
fn largest(factor: u16) -> Result<u16, DecodeError> {
    match factor {
        0 => Err(DecodeError::corrupt("a quantisation by zero")),
        _ => Ok(factor.saturating_add(2048).min(0x7fff) / factor),
    }
}
