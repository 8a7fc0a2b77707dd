//! Preparing: sizes, channel orders, layouts and numbers.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use ferry_vision::{
    Channels, Filter, Layout, PictureSpec, PixelFormat, Pixels, PrepareError, Preparer, SpecError,
};
use proptest::prelude::*;

/// The identity: a picture of 2 x 2 pixels keeps its values.
const PLAIN: PictureSpec = PictureSpec {
    width: 2,
    height: 2,
    layout: Layout::Nhwc,
    channels: Channels::Rgb,
    resize: Filter::Nearest,
    scale: 1.0,
    mean: [0.0; 3],
    std: [1.0; 3],
};

/// Four pixels; the value tells the pixel (tens) and the channel in memory (units).
const COLOUR: [u8; 12] = [10, 11, 12, 20, 21, 22, 30, 31, 32, 40, 41, 42];
const GRAY: [u8; 4] = [10, 20, 30, 40];

fn prepare(spec: PictureSpec, width: u32, format: PixelFormat, bytes: &[u8]) -> Vec<f32> {
    let row_bytes = width as usize * (format.bytes() as usize);
    let height = u32::try_from(bytes.len() / row_bytes).unwrap();
    let mut preparer = Preparer::new(spec).unwrap();
    // Not zeros: every value must be written.
    let mut out = vec![f32::NAN; preparer.output_len()];
    preparer.prepare(Pixels::new(width, height, format, bytes).unwrap(), &mut out).unwrap();
    out
}

#[test]
fn layouts_and_channel_orders() {
    use Channels::{Bgr, Rgb};
    use Layout::{Nchw, Nhwc};
    use PixelFormat::{Bgr8, Rgb8};

    let kept = [10, 11, 12, 20, 21, 22, 30, 31, 32, 40, 41, 42];
    let swapped = [12, 11, 10, 22, 21, 20, 32, 31, 30, 42, 41, 40];
    let planes = [10, 20, 30, 40, 11, 21, 31, 41, 12, 22, 32, 42];
    let planes_swapped = [12, 22, 32, 42, 11, 21, 31, 41, 10, 20, 30, 40];
    for (format, channels, layout, expected) in [
        (Rgb8, Rgb, Nhwc, kept),
        (Bgr8, Bgr, Nhwc, kept),
        (Rgb8, Bgr, Nhwc, swapped),
        (Bgr8, Rgb, Nhwc, swapped),
        (Rgb8, Rgb, Nchw, planes),
        (Bgr8, Bgr, Nchw, planes),
        (Rgb8, Bgr, Nchw, planes_swapped),
        (Bgr8, Rgb, Nchw, planes_swapped),
    ] {
        let spec = PictureSpec { channels, layout, ..PLAIN };
        let expected = expected.map(|value: u8| f32::from(value));
        assert_eq!(
            prepare(spec, 2, format, &COLOUR),
            expected,
            "{format:?} {channels:?} {layout:?}"
        );
    }
}

#[test]
fn gray_and_colour_become_each_other() {
    let replicated = PictureSpec { layout: Layout::Nchw, ..PLAIN };
    let expected: Vec<f32> = GRAY.repeat(3).into_iter().map(f32::from).collect();
    assert_eq!(prepare(replicated, 2, PixelFormat::Gray8, &GRAY), expected);
    let expected = [10., 10., 10., 20., 20., 20., 30., 30., 30., 40., 40., 40.];
    assert_eq!(prepare(PLAIN, 2, PixelFormat::Gray8, &GRAY), expected);

    let gray = PictureSpec { channels: Channels::Gray, ..PLAIN };
    assert_eq!(prepare(gray, 2, PixelFormat::Gray8, &GRAY), GRAY.map(f32::from));
    let colours = [255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 255];
    assert_eq!(prepare(gray, 2, PixelFormat::Rgb8, &colours), [76., 150., 29., 255.]);
    assert_eq!(prepare(gray, 2, PixelFormat::Bgr8, &colours), [29., 150., 76., 255.]);
}

#[test]
fn numbers_follow_the_models_channel_order() {
    let spec = PictureSpec {
        channels: Channels::Bgr,
        scale: 1.0 / 255.0,
        mean: [0.1, 0.2, 0.3],
        std: [0.5, 0.25, 0.125],
        ..PLAIN
    };
    let pixel = [255, 51, 0];
    let actual = prepare(PictureSpec { width: 1, height: 1, ..spec }, 1, PixelFormat::Rgb8, &pixel);
    // Blue (0.0 - 0.1) / 0.5, green (0.2 - 0.2) / 0.25, red (1.0 - 0.3) / 0.125.
    for (actual, expected) in actual.iter().zip([-0.2, 0.0, 5.6]) {
        assert!((actual - expected).abs() < 1e-6, "{actual} is not {expected}");
    }
}

#[test]
fn nearest_takes_the_pixel_at_the_centre() {
    let row: Vec<u8> = (0..8).collect();
    let gray = PictureSpec { channels: Channels::Gray, height: 1, ..PLAIN };
    let to = |width| prepare(PictureSpec { width, ..gray }, 8, PixelFormat::Gray8, &row);
    // Centres at 2 and 6; at 4/3, 4 and 20/3; up, each pixel twice.
    assert_eq!(to(2), [2., 6.]);
    assert_eq!(to(3), [1., 4., 6.]);
    assert_eq!(to(16), (0..16u8).map(|x| f32::from(x / 2)).collect::<Vec<_>>());
    // The same in columns, and in both.
    let column = PictureSpec { width: 1, height: 2, ..gray };
    assert_eq!(prepare(column, 1, PixelFormat::Gray8, &row), [2., 6.]);
    let colour = PictureSpec { width: 1, height: 1, ..PLAIN };
    assert_eq!(prepare(colour, 2, PixelFormat::Rgb8, &COLOUR), [40., 41., 42.]);
}

#[test]
fn bilinear_downscaling_is_antialiased() {
    // Stripes one pixel wide: any sampling of two neighbours a point would see some of them
    // whole; the convolution sees grey everywhere but at the edges.
    let stripes: Vec<u8> = (0..64).map(|x| if x % 2 == 0 { 0 } else { 255 }).collect();
    let spec = PictureSpec {
        width: 8,
        height: 1,
        channels: Channels::Gray,
        resize: Filter::Bilinear,
        ..PLAIN
    };
    for value in prepare(spec, 64, PixelFormat::Gray8, &stripes) {
        assert!((value - 127.5).abs() <= 8.0, "{value} is not grey");
    }
    // And it agrees with Pillow 13 on Image.resize((3, 1), BILINEAR) of this row.
    let row = [0, 10, 200, 40, 255, 60, 70, 90];
    let spec = PictureSpec { width: 3, ..spec };
    assert_eq!(prepare(spec, 8, PixelFormat::Gray8, &row), [54., 137., 88.]);
}

#[test]
fn a_preparer_serves_pictures_of_all_sizes() {
    let mut preparer = Preparer::new(PictureSpec { width: 5, height: 7, ..PLAIN }).unwrap();
    let mut out = vec![0.0; preparer.output_len()];
    for (side, value) in [(300, 9), (1, 8), (5, 7), (1000, 6)] {
        let bytes = vec![value; side as usize * side as usize * 3];
        let pixels = Pixels::new(side, side, PixelFormat::Rgb8, &bytes).unwrap();
        preparer.prepare(pixels, &mut out).unwrap();
        assert!(out.iter().all(|v| *v == f32::from(value)));
    }
}

#[test]
fn wrong_lengths_and_wishes_are_refused() {
    let mut preparer = Preparer::new(PLAIN).unwrap();
    let pixels = Pixels::new(2, 2, PixelFormat::Gray8, &GRAY).unwrap();
    for actual in [0, 11, 13] {
        let error = preparer.prepare(pixels, &mut vec![0.0; actual]).unwrap_err();
        assert!(
            matches!(error, PrepareError::OutputLength { expected: 12, actual: a } if a == actual)
        );
    }
    let error = Preparer::new(PictureSpec { std: [0.0; 3], ..PLAIN }).unwrap_err();
    assert_eq!(error, SpecError::Std(0.0));
}

proptest! {
    #[test]
    fn a_constant_picture_stays_constant(
        value: [u8; 3],
        (from_width, from_height) in (1..80u32, 1..80u32),
        (width, height) in (1..80u32, 1..80u32),
        bilinear: bool,
    ) {
        let resize = if bilinear { Filter::Bilinear } else { Filter::Nearest };
        let spec = PictureSpec { width, height, resize, ..PLAIN };
        let bytes = value.repeat((from_width * from_height) as usize);
        let out = prepare(spec, from_width, PixelFormat::Rgb8, &bytes);
        let expected = value.map(f32::from);
        prop_assert!(out.chunks(3).all(|pixel| pixel == expected));
    }
}
