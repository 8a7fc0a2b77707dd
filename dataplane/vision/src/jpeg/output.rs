//! Planes to pixels: chroma brought to the picture's size, and colours to red, green and blue.
//!
//! Both to the bit as libjpeg does by default: where colours have half of the samples, each new one
//! lies a quarter from its neighbours and is weighted so ("fancy upsampling"); else samples are
//! repeated.

use super::frame::{Component, Frame};

/// What the three components of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colours {
    YCbCr,
    Rgb,
}

/// Writes a grey picture's only plane.
pub(super) fn grey(frame: &Frame, planes: &[u8], out: &mut [u8]) {
    let stride = frame.components[0].stride_blocks * 8;
    for (out, row) in out.chunks_exact_mut(frame.width).zip(planes.chunks_exact(stride)) {
        out.copy_from_slice(&row[..frame.width]);
    }
}

/// Rows that are reused from one picture to the next.
#[derive(Debug, Default)]
pub(super) struct Rows {
    samples: Vec<u8>,
    sums: Vec<u16>,
}

/// Writes a picture of three planes.
pub(super) fn colour(
    frame: &Frame,
    planes: &[u8],
    colours: Colours,
    rows: &mut Rows,
    out: &mut [u8],
) {
    // Rows of repeated or weighted samples may be a little longer than the picture's, and they are
    // converted in whole steps.
    let room = frame.width + AT_ONCE;
    let Rows { samples, sums } = rows;
    samples.resize(3 * room, 0);
    for (y, out) in out.chunks_exact_mut(3 * frame.width).enumerate() {
        let (first, rest) = samples.split_at_mut(room);
        let (second, third) = rest.split_at_mut(room);
        let [Some(first), Some(second), Some(third)] = [(0, first), (1, second), (2, third)]
            .map(|(at, row)| Some(upsample(frame.components.get(at)?, planes, y, row, sums)))
        else {
            return;
        };
        match colours {
            Colours::Rgb => interleave(first, second, third, out),
            Colours::YCbCr => convert(first, second, third, out),
        }
    }
}

fn interleave(red: &[u8], green: &[u8], blue: &[u8], out: &mut [u8]) {
    for (((pixel, red), green), blue) in out.chunks_exact_mut(3).zip(red).zip(green).zip(blue) {
        pixel.copy_from_slice(&[*red, *green, *blue]);
    }
}

/// Pixels that are converted at a time.
const AT_ONCE: usize = 8;

/// ITU-R BT.601 with the full range, in 16 bits behind the point. The rows are longer than the
/// picture's by up to [`AT_ONCE`] samples, so that whole steps are taken to its end.
fn convert(luma: &[u8], blue: &[u8], red: &[u8], out: &mut [u8]) {
    let (luma, _) = luma.as_chunks::<AT_ONCE>();
    let (blue, _) = blue.as_chunks::<AT_ONCE>();
    let (red, _) = red.as_chunks::<AT_ONCE>();
    let out = out.chunks_mut(3 * AT_ONCE);
    for (((out, luma), blue), red) in out.zip(luma).zip(blue).zip(red) {
        let mut pixels = [0; AT_ONCE];
        for (i, pixel) in pixels.iter_mut().enumerate() {
            *pixel = converted(luma[i], blue[i], red[i]);
        }
        let bytes = packed(&pixels);
        match out.first_chunk_mut() {
            Some(all) => *all = bytes,
            None => out.copy_from_slice(&bytes[..out.len()]),
        }
    }
}

/// One pixel: red in the lowest byte, then green and blue. The factors are taken apart so that each
/// product is one of two 16-bit numbers.
#[inline(always)]
fn converted(luma: u8, blue: u8, red: u8) -> u32 {
    let (y, cb, cr) = (i32::from(luma), i32::from(blue) - 128, i32::from(red) - 128);
    // 1.402 = 1 + 26345 / 65536, 1.772 = 2 - 14942 / 65536, and so on.
    let r = y.wrapping_add(cr).wrapping_add(rounded(cr.wrapping_mul(26_345)));
    let b = y.wrapping_add(cb << 1).wrapping_add(rounded(cb.wrapping_mul(-14_942)));
    let both = cb.wrapping_mul(-22_554).wrapping_add(cr.wrapping_mul(18_734));
    let g = y.wrapping_sub(cr).wrapping_add(rounded(both));
    clamped(r) | clamped(g) << 8 | clamped(b) << 16
}

/// Pixels of 32 bits, of which the lower 24 are wanted, without gaps.
#[inline(always)]
fn packed(pixels: &[u32; AT_ONCE]) -> [u8; 3 * AT_ONCE] {
    let [p0, p1, p2, p3, p4, p5, p6, p7] = pixels.map(u64::from);
    let words = [
        p0 | p1 << 24 | p2 << 48,
        p2 >> 16 | p3 << 8 | p4 << 32 | p5 << 56,
        p5 >> 8 | p6 << 16 | p7 << 40,
    ];
    let mut bytes = [0; 3 * AT_ONCE];
    for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
        *bytes = word.to_le_bytes();
    }
    bytes
}

#[inline(always)]
const fn rounded(product: i32) -> i32 {
    product.wrapping_add(1 << 15) >> 16
}

#[inline(always)]
#[expect(clippy::cast_sign_loss, reason = "clamped")]
fn clamped(value: i32) -> u32 {
    value.clamp(0, 255) as u32
}

/// Row `y` of the picture, of one component: in its plane, or made in `out`. `sums` is scratch.
fn upsample<'a>(
    component: &Component,
    planes: &'a [u8],
    y: usize,
    out: &'a mut [u8],
    sums: &mut Vec<u16>,
) -> &'a [u8] {
    let stride = component.stride_blocks * 8;
    let plane = component.first_block * 64;
    let line = |at: usize| &planes[plane + at * stride..][..component.width];
    let at = y / component.high;
    let near = line(at);
    // The neighbour on the side of which the new row lies; at the edge, the row itself.
    let far = || {
        let last = component.height - 1;
        line(if y.is_multiple_of(2) { at.saturating_sub(1) } else { (at + 1).min(last) })
    };
    match (component.wide, component.high) {
        (1, 1) => return &planes[plane + at * stride..][..stride],
        (2, 1) if component.width > 2 => twice_as_wide(near, out),
        (1, 2) => twice_as_high(near, far(), if y.is_multiple_of(2) { 1 } else { 2 }, out),
        (2, 2) if component.width > 2 => {
            sums.clear();
            let pairs = near.iter().zip(far());
            sums.extend(pairs.map(|(near, far)| u16::from(*near) * 3 + u16::from(*far)));
            twice_as_large(sums, out);
        }
        (wide, _) => {
            for (out, sample) in out.chunks_mut(wide).zip(near) {
                out.fill(*sample);
            }
        }
    }
    out
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a weighted mean of 8-bit samples")]
const fn narrow(value: u16) -> u8 {
    value as u8
}

/// Samples at a quarter and three quarters between those of `near`.
fn twice_as_wide(near: &[u8], out: &mut [u8]) {
    let last = near.len() - 1;
    let wide = |at: usize| u16::from(near[at]);
    out[0] = near[0];
    out[1] = narrow((wide(0) * 3 + wide(1) + 2) >> 2);
    for (out, window) in out[2..2 * last].chunks_exact_mut(2).zip(near.windows(3)) {
        let [left, middle, right] = [0, 1, 2].map(|at| u16::from(window[at]));
        out[0] = narrow(middle.wrapping_mul(3).wrapping_add(left).wrapping_add(1) >> 2);
        out[1] = narrow(middle.wrapping_mul(3).wrapping_add(right).wrapping_add(2) >> 2);
    }
    out[2 * last] = narrow((wide(last) * 3 + wide(last - 1) + 1) >> 2);
    out[2 * last + 1] = near[last];
}

fn twice_as_high(near: &[u8], far: &[u8], bias: u16, out: &mut [u8]) {
    for ((out, near), far) in out.iter_mut().zip(near).zip(far) {
        let sum = u16::from(*near).wrapping_mul(3).wrapping_add(u16::from(*far));
        *out = narrow(sum.wrapping_add(bias) >> 2);
    }
}

/// As [`twice_as_wide`], of sums of three times the near row and the far one.
fn twice_as_large(sums: &[u16], out: &mut [u8]) {
    let last = sums.len() - 1;
    out[0] = narrow((sums[0] * 4 + 8) >> 4);
    out[1] = narrow((sums[0] * 3 + sums[1] + 7) >> 4);
    for (out, window) in out[2..2 * last].chunks_exact_mut(2).zip(sums.windows(3)) {
        let middle = window[1].wrapping_mul(3);
        out[0] = narrow(middle.wrapping_add(window[0]).wrapping_add(8) >> 4);
        out[1] = narrow(middle.wrapping_add(window[2]).wrapping_add(7) >> 4);
    }
    out[2 * last] = narrow((sums[last] * 3 + sums[last - 1] + 8) >> 4);
    out[2 * last + 1] = narrow((sums[last] * 4 + 7) >> 4);
}
