//! Binary16: the floats that the CPU makes, rounded.

use ferry_cuda::picture::SourceMemory;
use ferry_vision::{Channels, Filter, PictureSpec, PixelFormat};

use crate::host::{Host, Picture, Place};
use crate::{args, combinations, levels, normalised};

/// The value of binary16 bits, which is exact in `f32`; infinity counts as 2^16, where the next
/// number would be, as rounding takes it.
fn half_value(bits: u16) -> f32 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    let magnitude = match exponent {
        0 => fraction * 2_f32.powi(-24),
        _ => (1024.0 + fraction) * 2_f32.powi(exponent - 25),
    };
    if bits >> 15 == 0 { magnitude } else { -magnitude }
}

/// `bits` is the number nearest to `value`, and the even one of two.
fn is_nearest_half(bits: u16, value: f32) -> bool {
    let magnitude = bits & 0x7fff;
    if bits >> 15 != u16::from(value.is_sign_negative()) || magnitude > 0x7c00 {
        return false;
    }
    let value = f64::from(value.abs()).min(65536.0);
    let away = |bits: u16| (f64::from(half_value(bits)) - value).abs();
    let neighbours = [magnitude.checked_sub(1), (magnitude < 0x7c00).then_some(magnitude + 1)];
    neighbours.into_iter().flatten().all(|other| match away(other).total_cmp(&away(magnitude)) {
        std::cmp::Ordering::Greater => true,
        std::cmp::Ordering::Equal => magnitude.is_multiple_of(2),
        std::cmp::Ordering::Less => false,
    })
}

#[test]
fn halves_are_rounded_to_the_nearest() {
    let mut host = Host::start();
    let picture =
        Picture { width: 16, height: 16, format: PixelFormat::Gray8, bytes: (0..=255).collect() };
    // Ties (2049 and 4098 are) and their neighbours, subnormal numbers, numbers beyond the largest;
    // then anything.
    let powers = (-26..14).map(|power| 2_f32.powi(power));
    let ties = powers.flat_map(|power| [power, power * 1.000_000_1, power * 0.999_999_9]);
    let mut seen = 0;
    // 65504 is the largest; from 65520 on it is infinity.
    let last = [65504.0, 65519.0, 65520.0, 65521.0].map(|value: f32| value / 255.0);
    let any = (0..200).map(|n| 1e-9 * 1.2_f32.powi(n));
    for (n, scale) in last.into_iter().chain(ties).chain(any).enumerate() {
        let mean = [0.0, 1.0 / 255.0, -2048.0 * scale, -4096.0 * scale][n % 4];
        let spec = PictureSpec {
            channels: Channels::Gray,
            scale: if n % 3 == 0 { -scale } else { scale },
            mean: [mean; 3],
            ..levels(16, 16, Filter::Bilinear)
        };
        let expected = picture.prepared(spec);
        let args = args(&spec, &picture, SourceMemory::Device);
        let actual = host.picture_f16(&args, Place::FLUSH, &picture.bytes);
        for (bits, value) in actual.into_iter().zip(expected) {
            assert!(is_nearest_half(bits, value), "{value:e} became {bits:#06x}");
            seen += 1;
        }
    }
    assert_eq!(seen, 324 * 256);
}

#[test]
fn halves_are_the_floats_rounded_in_every_layout() {
    let mut host = Host::start();
    for format in PixelFormat::ALL {
        let picture = Picture::noise(57, 43, format, 11);
        for (resize, channels, layout, memory) in combinations() {
            let spec = PictureSpec { channels, layout, ..normalised(31, 29, resize) };
            let expected = picture.prepared(spec);
            let args = args(&spec, &picture, memory);
            let actual = host.picture_f16(&args, Place::FLUSH, &picture.bytes);
            assert_eq!(actual.len(), expected.len());
            for (bits, value) in actual.into_iter().zip(expected) {
                assert!(is_nearest_half(bits, value), "{value:e} became {bits:#06x}: {spec:?}");
            }
        }
    }
}
