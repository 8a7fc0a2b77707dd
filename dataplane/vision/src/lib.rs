//! Picture decode, resize and normalise on the CPU.
//!
//! A picture passes two stages. [`Decoder`] turns the bytes of a JPEG, PNG or WebP file into [`Pixels`];
//! [`Preparer`] turns pixels, decoded here or sent raw by a client, into the tensor that a model
//! wants, as its [`PictureSpec`] says. [`Numbers`] says how its values are stored: as 32-bit
//! floats, or rounded to 16 bits. Each stage owns its buffers, so that one per worker thread
//! serves request after request without allocating.
//!
//! Pictures come from peers, who may be hostile: every size is checked against [`Limits`] before
//! memory is taken for it, and a picture that ends early is an error, never a half-grey tensor.
//!
//! Pixels come out as they are stored, or turned as a camera noted in EXIF: [`Orientation`]. Not
//! done here: colour profiles are ignored.
#![forbid(unsafe_code)]

mod blend;
mod decode;
mod jpeg;
mod limits;
mod normalise;
mod numbers;
mod orientation;
mod pixels;
mod png;
mod prepare;
mod retain;
mod spec;
mod webp;

pub use decode::{Background, DecodeError, DecodeOptions, Decoder};
pub use ferry_core::PixelFormat;
pub use limits::Limits;
pub use numbers::Numbers;
pub use orientation::Orientation;
pub use pixels::{Pixels, PixelsError};
pub use prepare::{PrepareError, Preparer};
pub use spec::{Channels, Filter, Layout, PictureSpec, SpecError};

/// The longest side, in pixels, of a picture and of a model's input.
///
/// It bounds what the resize takes between its two passes (input width × output height), which
/// for a picture one pixel high and millions wide would otherwise dwarf the picture itself.
pub const SIDE_MAX: u32 = 16_384;
