//! Pictures from files: encoded ones as they are, or pixels from them, from PPM and from PGM.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use ferry_client::{Error, PixelFormat, Slot, v1};
use ferry_vision::{Background, DecodeOptions, Decoder, Orientation};

/// A picture, ready to be sent.
#[derive(Debug, PartialEq)]
pub enum Picture {
    /// The file as it is.
    Jpeg(Vec<u8>),
    /// Pixels.
    Raw {
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
        /// What a pixel is.
        format: PixelFormat,
        /// Rows from the top, tightly packed.
        pixels: Vec<u8>,
    },
}

/// How a picture is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PictureKind {
    /// The file as it is; the server decodes it.
    Jpeg,
    /// Pixels; a JPEG file is decoded here first.
    Raw,
}

impl Picture {
    /// Reads a file, to be sent as `kind` says; what is decoded here comes out as `options` say, which
    /// [`decode_options`] has for a model.
    ///
    /// # Errors
    /// What is wrong with the file, by its name.
    pub fn read(
        path: &Path,
        kind: Option<PictureKind>,
        options: &DecodeOptions,
    ) -> anyhow::Result<Picture> {
        let file = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let what = || path.display().to_string();
        if file.starts_with(b"P6") || file.starts_with(b"P5") {
            if kind == Some(PictureKind::Jpeg) {
                bail!("{} holds pixels, not an encoded picture: use --kind raw", what());
            }
            return pnm(&file).with_context(what);
        }
        match kind {
            // Whether it really is a picture is for the server to say: that is what it does.
            None | Some(PictureKind::Jpeg) => Ok(Picture::Jpeg(file)),
            Some(PictureKind::Raw) => decode(&file, options).with_context(what),
        }
    }

    /// How many bytes are sent.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Picture::Jpeg(file) => file,
            Picture::Raw { pixels, .. } => pixels,
        }
    }

    /// Copies the picture into a slot.
    ///
    /// # Errors
    /// As [`Slot::set_jpeg`] and [`Slot::set_raw`].
    pub fn fill(&self, slot: &mut Slot) -> Result<(), Error> {
        match self {
            Picture::Jpeg(file) => slot.set_jpeg(file),
            Picture::Raw { width, height, format, pixels } => {
                slot.set_raw(*width, *height, *format, pixels)
            }
        }
    }

    /// What goes beside the payload where there is no slot.
    pub fn info(&self, priority: u8) -> v1::RequestInfo {
        let kind = match self {
            Picture::Jpeg(_) => ferry_core::RequestKind::Jpeg,
            Picture::Raw { width, height, format, .. } => {
                ferry_core::RequestKind::Raw { width: *width, height: *height, format: *format }
            }
        };
        ferry_core::Request { priority, ..ferry_core::Request::of(kind) }.into()
    }
}

/// How a server decodes files for this model.
pub fn decode_options(model: &v1::Model) -> DecodeOptions {
    let Some(rule) = &model.picture_files else { return DecodeOptions::default() };
    let background = <[u8; 3]>::try_from(&rule.background[..]).map(Background);
    DecodeOptions {
        orientation: if rule.turned { Orientation::Exif } else { Orientation::Stored },
        background: background.unwrap_or_default(),
        ..DecodeOptions::default()
    }
}

fn decode(file: &[u8], options: &DecodeOptions) -> anyhow::Result<Picture> {
    let mut decoder = Decoder::new();
    let pixels = decoder.decode(file, options)?;
    Ok(Picture::Raw {
        width: pixels.width(),
        height: pixels.height(),
        format: pixels.format(),
        pixels: pixels.bytes().to_vec(),
    })
}

/// Binary PPM (P6) and PGM (P5) with 8 bits a channel.
fn pnm(file: &[u8]) -> anyhow::Result<Picture> {
    let format = if file[1] == b'6' { PixelFormat::Rgb8 } else { PixelFormat::Gray8 };
    let mut at = 2;
    let mut numbers = [0_u32; 3];
    for number in &mut numbers {
        at = skip_blanks(file, at);
        let digits = file[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let text = std::str::from_utf8(&file[at..at + digits])?;
        *number = text.parse().context("its header is damaged")?;
        at += digits;
    }
    let [width, height, most] = numbers;
    if most != 255 {
        bail!("it has {most} levels; only 255 is usable");
    }
    let wanted = u64::from(width) * u64::from(height) * u64::from(format.bytes());
    let pixels = file.get(at + 1..).unwrap_or_default();
    if pixels.len() as u64 != wanted {
        bail!("it has {} bytes of pixels, {width} × {height} needs {wanted}", pixels.len());
    }
    Ok(Picture::Raw { width, height, format, pixels: pixels.to_vec() })
}

fn skip_blanks(file: &[u8], mut at: usize) -> usize {
    while let Some(byte) = file.get(at) {
        match byte {
            b'#' => at += file[at..].iter().take_while(|&&byte| byte != b'\n').count(),
            byte if byte.is_ascii_whitespace() => at += 1,
            _ => break,
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_are_read_and_damage_is_said() {
        let picture = pnm(b"P6 # wide\n2 1\n255\nabcdef").unwrap();
        let pixels = b"abcdef".to_vec();
        let expected = Picture::Raw { width: 2, height: 1, format: PixelFormat::Rgb8, pixels };
        assert_eq!(picture, expected);
        assert!(pnm(b"P5 2 2 255\nab").is_err() && pnm(b"P5 2 2 65535\nab").is_err());
        assert!(pnm(b"P6").is_err() && pnm(b"P6 99999999999 1 255\n").is_err());
    }
}
