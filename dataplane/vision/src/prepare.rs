//! Pixels to a model's tensor.

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::{U8, U8x3};
use fast_image_resize::{FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer};
use ferry_core::PixelFormat;

use crate::normalise::Affine;
use crate::pixels::Pixels;
use crate::retain::{self, RETAINED_BYTES_MAX};
use crate::spec::{Filter, PictureSpec, SpecError};

/// Brings pictures to one model's size, channels, numbers and layout.
#[derive(Debug)]
pub struct Preparer {
    spec: PictureSpec,
    output_len: usize,
    affine: Affine,
    resizer: Resizer,
    resized: Vec<u8>,
}

impl Preparer {
    /// A preparer for one model.
    ///
    /// # Errors
    /// The model's wish makes no sense: see [`PictureSpec::validate`].
    pub fn new(spec: PictureSpec) -> Result<Self, SpecError> {
        Ok(Self {
            output_len: spec.output_len()?,
            affine: Affine::new(&spec),
            resizer: Resizer::new(),
            resized: Vec::new(),
            spec,
        })
    }

    /// What the model wants.
    #[must_use]
    pub const fn spec(&self) -> &PictureSpec {
        &self.spec
    }

    /// How many `f32` [`Preparer::prepare`] writes.
    #[must_use]
    pub const fn output_len(&self) -> usize {
        self.output_len
    }

    /// Writes the tensor of `pixels` to `out`, all of it.
    ///
    /// The resize works on 8-bit values, as Pillow's does; a picture that has the model's size
    /// already is not resized and not copied.
    ///
    /// # Errors
    /// `out` is not exactly [`Preparer::output_len`] long.
    pub fn prepare(&mut self, pixels: Pixels<'_>, out: &mut [f32]) -> Result<(), PrepareError> {
        if out.len() != self.output_len {
            return Err(PrepareError::OutputLength {
                expected: self.output_len,
                actual: out.len(),
            });
        }
        let Self { spec, affine, resizer, resized, .. } = self;
        let same_size = (pixels.width(), pixels.height()) == (spec.width, spec.height);
        let bytes = if same_size {
            pixels.bytes()
        } else {
            let pixels_out = self.output_len / spec.channels.count();
            let resized = retain::scratch(resized, pixels_out * (pixels.format().bytes() as usize));
            resize(resizer, spec, pixels, resized)?;
            resized
        };
        affine.normalise(spec, pixels.format(), bytes, out);
        Ok(())
    }
}

/// Stretches `pixels` to the model's sides.
fn resize(
    resizer: &mut Resizer,
    spec: &PictureSpec,
    pixels: Pixels<'_>,
    resized: &mut [u8],
) -> Result<(), PrepareError> {
    if resizer.size_of_internal_buffers() > RETAINED_BYTES_MAX {
        resizer.reset_internal_buffers();
    }
    match pixels.format() {
        PixelFormat::Gray8 => resize_as::<U8>(resizer, spec, pixels, resized),
        PixelFormat::Rgb8 | PixelFormat::Bgr8 => resize_as::<U8x3>(resizer, spec, pixels, resized),
    }
}

/// For one type of pixel: the resizer's own choice by a value would bring its code for all fifteen
/// into the binary, and minutes into the build.
fn resize_as<P: PixelTrait>(
    resizer: &mut Resizer,
    spec: &PictureSpec,
    pixels: Pixels<'_>,
    resized: &mut [u8],
) -> Result<(), PrepareError> {
    let algorithm = match spec.resize {
        Filter::Bilinear => ResizeAlg::Convolution(FilterType::Bilinear),
        Filter::Nearest => ResizeAlg::Nearest,
    };
    let from = TypedImageRef::<P>::from_buffer(pixels.width(), pixels.height(), pixels.bytes())?;
    let mut to = TypedImage::<P>::from_buffer(spec.width, spec.height, resized)?;
    resizer.resize_typed(&from, &mut to, &ResizeOptions::new().resize_alg(algorithm))?;
    Ok(())
}

/// Why pixels did not become a tensor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// The tensor's memory has the wrong length.
    #[error(
        "memory for {actual} values where the model's picture has {expected}: give it as many as \
         its description says"
    )]
    OutputLength {
        /// [`Preparer::output_len`].
        expected: usize,
        /// The length given.
        actual: usize,
    },
    /// The resizer refused a buffer: an error in this crate, not in the picture.
    #[error("cannot describe the picture to the resizer: report this")]
    Buffer(#[from] fast_image_resize::ImageBufferError),
    /// The resizer refused the picture: an error in this crate, not in the picture.
    #[error("cannot resize the picture: report this")]
    Resize(#[from] fast_image_resize::ResizeError),
}
