//! PNG and WebP: every kind of pixel, transparency, damage and limits.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "values of pixels are 0 to 255"
)]

use ferry_vision::{Background, DecodeError, DecodeOptions, Decoder, Limits, PixelFormat};
use image_webp::WebPEncoder;
use png::{BitDepth, ColorType, Encoder};
use proptest::prelude::*;

const WIDTH: u32 = 5;
const HEIGHT: u32 = 3;
const LOSSY: &[u8] = include_bytes!("../testdata/quarters_lossy.webp");
const ANIMATED: &[u8] = include_bytes!("../testdata/two_frames.webp");

/// Samples that all differ, `per_pixel` for each pixel.
fn samples(per_pixel: usize) -> Vec<u8> {
    (0..WIDTH as usize * HEIGHT as usize * per_pixel).map(|i| (i * 41 % 256) as u8).collect()
}

fn png(colour: ColorType, depth: BitDepth, data: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, WIDTH, HEIGHT);
    encoder.set_color(colour);
    encoder.set_depth(depth);
    if colour == ColorType::Indexed {
        encoder.set_palette(vec![1, 2, 3, 40, 50, 60]);
        encoder.set_trns(vec![255, 0]);
    }
    encoder.write_header().unwrap().write_image_data(data).unwrap();
    file
}

fn webp(colour: image_webp::ColorType, data: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    WebPEncoder::new(&mut file).encode(data, WIDTH, HEIGHT, colour).unwrap();
    file
}

fn decode(file: &[u8]) -> Result<(PixelFormat, Vec<u8>), DecodeError> {
    let options = DecodeOptions { background: Background([0, 100, 200]), ..Default::default() };
    let mut decoder = Decoder::new();
    let pixels = decoder.decode(file, &options)?;
    Ok((pixels.format(), pixels.bytes().to_vec()))
}

fn over(value: u8, behind: u8, alpha: u8) -> u8 {
    let alpha = f64::from(alpha) / 255.0;
    (f64::from(value) * alpha + f64::from(behind) * (1.0 - alpha)).round() as u8
}

#[test]
fn png_of_every_kind_decodes() {
    use BitDepth::{Eight, One, Sixteen};
    use PixelFormat::{Gray8, Rgb8};
    let upper = |data: &[u8]| data.chunks_exact(2).map(|pair| pair[0]).collect::<Vec<_>>();
    for (colour, per_pixel, format) in [(ColorType::Grayscale, 1, Gray8), (ColorType::Rgb, 3, Rgb8)]
    {
        let (narrow, wide) = (samples(per_pixel), samples(2 * per_pixel));
        assert_eq!(decode(&png(colour, Eight, &narrow)).unwrap(), (format, narrow));
        assert_eq!(decode(&png(colour, Sixteen, &wide)).unwrap(), (format, upper(&wide)));
    }
    let bits = decode(&png(ColorType::Grayscale, One, &[0b1010_0000, 0b0100_0000, 0])).unwrap();
    assert_eq!(bits.0, Gray8);
    assert_eq!(bits.1[..10], [255, 0, 255, 0, 0, 0, 255, 0, 0, 0]);
    let indexed = decode(&png(ColorType::Indexed, One, &[0b0100_0000, 0, 0])).unwrap();
    assert_eq!(indexed.0, Rgb8);
    assert_eq!(indexed.1[..9], [1, 2, 3, 0, 100, 200, 1, 2, 3]);

    let rgba: Vec<u8> = samples(4);
    let colour = |pixel: &[u8]| {
        [(0, 0), (1, 100), (2, 200)].map(|(at, behind)| over(pixel[at], behind, pixel[3]))
    };
    let expected: Vec<u8> = rgba.chunks_exact(4).flat_map(colour).collect();
    assert_eq!(decode(&png(ColorType::Rgba, Eight, &rgba)).unwrap(), (Rgb8, expected.clone()));
    assert_eq!(decode(&webp(image_webp::ColorType::Rgba8, &rgba)).unwrap(), (Rgb8, expected));
    // The luma of the background is 81.5.
    let grey: Vec<u8> = samples(2);
    let expected = grey.chunks_exact(2).map(|pixel| over(pixel[0], 82, pixel[1])).collect();
    assert_eq!(decode(&png(ColorType::GrayscaleAlpha, Eight, &grey)).unwrap(), (Gray8, expected));
}

#[test]
fn webp_decodes_and_an_animation_is_named() {
    let rgb = samples(3);
    let lossless = webp(image_webp::ColorType::Rgb8, &rgb);
    assert_eq!(decode(&lossless).unwrap(), (PixelFormat::Rgb8, rgb));
    let (format, pixels) = decode(LOSSY).unwrap();
    assert_eq!((format, pixels.len()), (PixelFormat::Rgb8, 40 * 24 * 3));
    let at = |x: usize, y: usize| &pixels[(y * 40 + x) * 3..][..3];
    for (pixel, wanted) in
        [(at(3, 3), [255, 0, 0]), (at(36, 3), [0, 255, 0]), (at(3, 21), [0, 0, 255])]
    {
        assert!(pixel.iter().zip(wanted).all(|(a, b)| a.abs_diff(b) < 12), "{pixel:?}");
    }
    let error = decode(ANIMATED).unwrap_err();
    assert!(matches!(error, DecodeError::Unsupported { .. }), "{error}");
}

#[test]
fn orientation_is_read_from_png_and_webp() {
    const EXIF: &[u8] = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let data = samples(1);
    let mut file = Vec::new();
    let mut info = png::Info::with_size(WIDTH, HEIGHT);
    info.color_type = ColorType::Grayscale;
    info.exif_metadata = Some(EXIF.into());
    let encoder = Encoder::with_info(&mut file, info).unwrap();
    encoder.write_header().unwrap().write_image_data(&data).unwrap();
    let mut with_exif = Vec::new();
    let mut encoder = WebPEncoder::new(&mut with_exif);
    encoder.set_exif_metadata(EXIF.to_vec());
    encoder.encode(&data, WIDTH, HEIGHT, image_webp::ColorType::L8).unwrap();

    for file in [file, with_exif] {
        let mut decoder = Decoder::new();
        let mut options = DecodeOptions::default();
        let stored = decoder.decode(&file, &options).unwrap();
        assert_eq!((stored.width(), stored.height()), (WIDTH, HEIGHT));
        options.orientation = ferry_vision::Orientation::Exif;
        let turned = decoder.decode(&file, &options).unwrap();
        assert_eq!((turned.width(), turned.height()), (HEIGHT, WIDTH));
        // Orientation 6: the lower left corner comes to the upper left.
        assert_eq!(turned.bytes()[0], data[2 * WIDTH as usize]);
    }
}

#[test]
fn limits_hold_and_memory_is_not_taken_for_what_breaks_them() {
    let png = png(ColorType::Rgb, BitDepth::Eight, &samples(3));
    let webp = webp(image_webp::ColorType::Rgb8, &samples(3));
    let limits = Limits { pixels_max: 14, ..Limits::default() };
    let strict = DecodeOptions { limits, ..DecodeOptions::default() };
    let mut decoder = Decoder::new();
    for file in [&png, &webp] {
        let error = decoder.decode(file, &strict).unwrap_err();
        assert!(matches!(error, DecodeError::TooManyPixels { width: 5, height: 3, .. }), "{error}");
    }
    // 8000 x 8000 pixels in a file that cannot hold so much.
    let mut hollow = png;
    hollow[16..24].copy_from_slice(&[0, 0, 0x1f, 0x40, 0, 0, 0x1f, 0x40]);
    let sum = crc32(&hollow[12..29]);
    hollow[29..33].copy_from_slice(&sum.to_be_bytes());
    let error = decoder.decode(&hollow, &DecodeOptions::default()).unwrap_err();
    assert!(matches!(error, DecodeError::Truncated), "{error}");
    assert_eq!(format!("{decoder:?}"), format!("{:?}", Decoder::new()), "memory was taken");
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 }
        })
    })
}

#[test]
fn cut_files_are_refused() {
    let png = png(ColorType::Rgb, BitDepth::Eight, &samples(3));
    let webp = webp(image_webp::ColorType::Rgb8, &samples(3));
    for file in [&png, &webp] {
        for len in 0..file.len() - 1 {
            assert!(decode(&file[..len]).is_err(), "cut at {len} of {}", file.len());
        }
    }
}

proptest! {
    #[test]
    fn changed_bytes_never_panic(
        which in 0..3_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut file = match which {
            0 => png(ColorType::Rgba, BitDepth::Sixteen, &samples(8)),
            1 => webp(image_webp::ColorType::Rgba8, &samples(4)),
            _ => LOSSY.to_vec(),
        };
        for (at, value) in changes {
            let at = at.index(file.len());
            file[at] = value;
        }
        let limits = Limits { pixels_max: 1 << 20, ..Limits::default() };
        let options = DecodeOptions { limits, ..DecodeOptions::default() };
        drop(Decoder::new().decode(&file, &options));
    }
}
