//! What a model wants of a picture.

use crate::SIDE_MAX;

/// The order of a tensor's dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Batch, channel, row, column: a plane per channel.
    Nchw,
    /// Batch, row, column, channel: the channels of a pixel side by side.
    Nhwc,
}

/// Which channels a model takes, in which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Channels {
    /// Red, green, blue. A grey picture gives the same value to all three.
    Rgb,
    /// Blue, green, red. A grey picture gives the same value to all three.
    Bgr,
    /// Luma. A colour picture gives 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601, the luma of
    /// JPEG itself), rounded to 8 bits, after the resize.
    Gray,
}

impl Channels {
    /// How many there are.
    #[must_use]
    pub const fn count(self) -> usize {
        match self {
            Self::Rgb | Self::Bgr => 3,
            Self::Gray => 1,
        }
    }
}

/// How a picture is brought to the model's size. The whole picture is stretched to it: nothing
/// is cropped or padded, and the aspect ratio is the client's care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Filter {
    /// Convolution with a triangle that grows with the reduction, so that downscaling is
    /// antialiased, as Pillow's `BILINEAR` and torchvision's `antialias=True` do. OpenCV's
    /// `INTER_LINEAR` does not: a model trained on its pictures sees smoother ones here.
    Bilinear,
    /// The pixel whose area covers the centre of the output pixel.
    Nearest,
}

/// What a model wants of a picture: for channel `c` of the model, a pixel value `v` (0 to 255)
/// becomes `(v × scale − mean[c]) / std[c]`.
///
/// Plain data, read from the model's description; [`PictureSpec::validate`] tells whether it
/// makes sense, and [`Preparer::new`](crate::Preparer::new) asks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PictureSpec {
    /// Columns of the tensor.
    pub width: u32,
    /// Rows of the tensor.
    pub height: u32,
    /// The order of its dimensions.
    pub layout: Layout,
    /// Which channels, in which order.
    pub channels: Channels,
    /// How the picture is resized; not at all when it has the right size already.
    pub resize: Filter,
    /// 1/255 where the model wants 0 to 1.
    pub scale: f32,
    /// In the order of `channels`: with BGR, blue comes first. Grey uses the first only.
    pub mean: [f32; 3],
    /// In the order of `channels`. Grey uses the first only.
    pub std: [f32; 3],
}

impl PictureSpec {
    /// Checks that a tensor can be made as described.
    ///
    /// # Errors
    /// A side is zero or above [`SIDE_MAX`], or a number is not finite or divides by zero.
    pub fn validate(&self) -> Result<(), SpecError> {
        let Self { width, height, scale, mean, std, .. } = *self;
        if width == 0 || height == 0 || width > SIDE_MAX || height > SIDE_MAX {
            return Err(SpecError::Side { width, height });
        }
        if !scale.is_finite() || scale == 0.0 {
            return Err(SpecError::Scale(scale));
        }
        let used = ..self.channels.count();
        if let Some(bad) = mean[used].iter().find(|mean| !mean.is_finite()) {
            return Err(SpecError::Mean(*bad));
        }
        let makes_infinities =
            |std: &&f32| !std.is_finite() || !(255.0 * scale / **std).is_finite();
        if let Some(bad) = std[used].iter().find(makes_infinities) {
            return Err(SpecError::Std(*bad));
        }
        Ok(())
    }

    /// How many `f32` the tensor of one picture holds.
    ///
    /// # Errors
    /// As [`PictureSpec::validate`].
    pub fn output_len(&self) -> Result<usize, SpecError> {
        self.validate()?;
        let Self { width, height, .. } = *self;
        // Validated: at most 3 × 2^28.
        let pixels = usize::try_from(width * height)
            .map_err(|_too_long| SpecError::Side { width, height })?;
        Ok(pixels * self.channels.count())
    }
}

/// Why a model's wish cannot be met. The fix is in the model's description.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// A side is zero or too long.
    #[error("the model wants {width} x {height} pixels: each side must be 1 to {SIDE_MAX}")]
    Side {
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// `scale` is zero or not finite.
    #[error("scale is {0}: it must be finite and not zero, for instance 1/255")]
    Scale(f32),
    /// A mean is not finite.
    #[error("a mean is {0}: it must be finite, for instance 0.485")]
    Mean(f32),
    /// A standard deviation is not finite, or so small (or zero) that the result is not.
    #[error("a standard deviation is {0}: it must be finite and not near zero, as 0.229 is")]
    Std(f32),
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: PictureSpec = PictureSpec {
        width: 4,
        height: 2,
        layout: Layout::Nchw,
        channels: Channels::Rgb,
        resize: Filter::Bilinear,
        scale: 1.0,
        mean: [0.0; 3],
        std: [1.0; 3],
    };

    #[test]
    fn the_length_counts_channels() {
        assert_eq!(SPEC.output_len(), Ok(24));
        assert_eq!(PictureSpec { channels: Channels::Gray, ..SPEC }.output_len(), Ok(8));
        let largest = PictureSpec { width: SIDE_MAX, height: SIDE_MAX, ..SPEC };
        assert_eq!(largest.output_len(), Ok(3 << 28));
    }

    #[test]
    fn nonsense_is_named() {
        let side = PictureSpec { width: 0, ..SPEC };
        assert_eq!(side.validate(), Err(SpecError::Side { width: 0, height: 2 }));
        let side = PictureSpec { height: u32::MAX, ..SPEC };
        assert_eq!(side.output_len(), Err(SpecError::Side { width: 4, height: u32::MAX }));
        assert_eq!(PictureSpec { scale: 0.0, ..SPEC }.validate(), Err(SpecError::Scale(0.0)));
        let mean = PictureSpec { mean: [0.0, f32::INFINITY, 0.0], ..SPEC };
        assert_eq!(mean.validate(), Err(SpecError::Mean(f32::INFINITY)));
        let std = PictureSpec { std: [1.0, 1.0, 0.0], ..SPEC };
        assert_eq!(std.validate(), Err(SpecError::Std(0.0)));
    }

    #[test]
    fn gray_ignores_the_channels_it_has_not() {
        let gray = PictureSpec {
            channels: Channels::Gray,
            mean: [0.0, f32::NAN, f32::NAN],
            std: [1.0, 0.0, 0.0],
            ..SPEC
        };
        assert_eq!(gray.validate(), Ok(()));
    }
}
