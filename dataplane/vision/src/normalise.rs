//! 8-bit pixels to the `f32` tensor of a model.

use crate::spec::{Channels, Layout, PictureSpec};
use ferry_core::PixelFormat;

/// `v × scale − mean`, over `std`, folded into one multiplication and one addition per value:
/// `v × factor + offset`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Affine {
    factor: [f32; 3],
    offset: [f32; 3],
}

impl Affine {
    pub(crate) fn new(spec: &PictureSpec) -> Self {
        let PictureSpec { scale, mean, std, .. } = *spec;
        Self {
            factor: std::array::from_fn(|c| scale / std[c]),
            offset: std::array::from_fn(|c| -mean[c] / std[c]),
        }
    }

    #[inline]
    fn apply(&self, channel: usize, value: u8) -> f32 {
        f32::from(value) * self.factor[channel] + self.offset[channel]
    }

    /// Fills `out` from `bytes`, which hold as many pixels as `out` does.
    pub(crate) fn normalise(
        &self,
        spec: &PictureSpec,
        format: PixelFormat,
        bytes: &[u8],
        out: &mut [f32],
    ) {
        match (format, spec.channels) {
            (PixelFormat::Gray8, Channels::Gray) => self.one_to_one(bytes, out),
            (PixelFormat::Gray8, Channels::Rgb | Channels::Bgr) => {
                self.one_to_three(spec.layout, bytes, out);
            }
            (PixelFormat::Rgb8, Channels::Gray) => self.three_to_one::<false>(bytes, out),
            (PixelFormat::Bgr8, Channels::Gray) => self.three_to_one::<true>(bytes, out),
            (PixelFormat::Rgb8, Channels::Rgb) | (PixelFormat::Bgr8, Channels::Bgr) => {
                self.three_to_three::<false>(spec.layout, bytes, out);
            }
            (PixelFormat::Rgb8, Channels::Bgr) | (PixelFormat::Bgr8, Channels::Rgb) => {
                self.three_to_three::<true>(spec.layout, bytes, out);
            }
        }
    }

    fn one_to_one(&self, bytes: &[u8], out: &mut [f32]) {
        for (value, out) in bytes.iter().zip(out) {
            *out = self.apply(0, *value);
        }
    }

    fn one_to_three(&self, layout: Layout, bytes: &[u8], out: &mut [f32]) {
        match layout {
            Layout::Nchw => {
                for (channel, plane) in out.chunks_exact_mut(bytes.len()).enumerate() {
                    for (value, out) in bytes.iter().zip(plane) {
                        *out = self.apply(channel, *value);
                    }
                }
            }
            Layout::Nhwc => {
                for (value, out) in bytes.iter().zip(out.as_chunks_mut::<3>().0) {
                    *out = std::array::from_fn(|channel| self.apply(channel, *value));
                }
            }
        }
    }

    fn three_to_one<const BLUE_FIRST: bool>(&self, bytes: &[u8], out: &mut [f32]) {
        for (&[a, b, c], out) in bytes.as_chunks::<3>().0.iter().zip(out) {
            let (red, blue) = if BLUE_FIRST { (c, a) } else { (a, c) };
            *out = self.apply(0, luma(red, b, blue));
        }
    }

    fn three_to_three<const SWAP: bool>(&self, layout: Layout, bytes: &[u8], out: &mut [f32]) {
        let pixels = bytes.as_chunks::<3>().0;
        let ordered = |&[a, b, c]: &[u8; 3]| if SWAP { [c, b, a] } else { [a, b, c] };
        match layout {
            Layout::Nchw => {
                // One pass over the pixels fills all three planes.
                let (first, rest) = out.split_at_mut(pixels.len());
                let (second, third) = rest.split_at_mut(pixels.len());
                let planes = first.iter_mut().zip(second).zip(third);
                for (pixel, ((first, second), third)) in pixels.iter().zip(planes) {
                    let [a, b, c] = ordered(pixel);
                    *first = self.apply(0, a);
                    *second = self.apply(1, b);
                    *third = self.apply(2, c);
                }
            }
            Layout::Nhwc => {
                for (pixel, out) in pixels.iter().zip(out.as_chunks_mut::<3>().0) {
                    let [a, b, c] = ordered(pixel);
                    *out = [self.apply(0, a), self.apply(1, b), self.apply(2, c)];
                }
            }
        }
    }
}

/// 0.299 R + 0.587 G + 0.114 B in 16-bit fixed point, rounded: the factors add up to 2^16, so
/// that grey stays what it is.
#[inline]
fn luma(red: u8, green: u8, blue: u8) -> u8 {
    let sum = 19_595 * u32::from(red) + 38_470 * u32::from(green) + 7_471 * u32::from(blue);
    let [_, value, _, _] = (sum + (1 << 15)).to_be_bytes();
    value
}

#[cfg(test)]
mod tests {
    use super::luma;

    #[test]
    fn luma_keeps_grey_and_follows_the_formula() {
        for value in 0..=255 {
            assert_eq!(luma(value, value, value), value);
        }
        // round(0.299 * 255), round(0.587 * 255), round(0.114 * 255)
        assert_eq!([luma(255, 0, 0), luma(0, 255, 0), luma(0, 0, 255)], [76, 150, 29]);
    }
}
