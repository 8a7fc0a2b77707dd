//! Decoding: pictures that must decode, and files that must be refused.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use ferry_vision::{DecodeError, DecodeOptions, Decoder, Limits, PixelFormat, Pixels};
use proptest::prelude::*;

const BASELINE_420: &[u8] = include_bytes!("../testdata/quarters_420.jpg");
const BASELINE_444: &[u8] = include_bytes!("../testdata/quarters_444.jpg");
const PROGRESSIVE: &[u8] = include_bytes!("../testdata/quarters_progressive.jpg");
const GRAY: &[u8] = include_bytes!("../testdata/ramp_gray.jpg");
const CMYK: &[u8] = include_bytes!("../testdata/quarters_cmyk.jpg");
const GOOD: [&[u8]; 4] = [BASELINE_420, BASELINE_444, PROGRESSIVE, GRAY];

fn decode(jpeg: &[u8]) -> Result<Vec<u8>, DecodeError> {
    Ok(Decoder::new().decode(jpeg, &DecodeOptions::default())?.bytes().to_vec())
}

fn with(limits: Limits) -> DecodeOptions {
    DecodeOptions { limits, ..DecodeOptions::default() }
}

/// The file with its frame header (baseline or progressive) changed: `at` counts from the
/// marker, so 4 is the precision, 5 the height, 7 the width, 9 the number of components.
fn with_frame(jpeg: &[u8], at: usize, value: &[u8]) -> Vec<u8> {
    let is_frame = |pair: &[u8]| pair[0] == 0xff && matches!(pair[1], 0xc0 | 0xc2);
    let start = jpeg.windows(2).position(is_frame).unwrap() + at;
    let mut changed = jpeg.to_vec();
    changed[start..start + value.len()].copy_from_slice(value);
    changed
}

fn pixel(pixels: &Pixels<'_>, column: usize, row: usize) -> [u8; 3] {
    let start = (row * pixels.width() as usize + column) * 3;
    pixels.bytes()[start..start + 3].try_into().unwrap()
}

fn assert_near(actual: &[u8], expected: &[u8], tolerance: u8) {
    let near = actual.iter().zip(expected).all(|(a, e)| a.abs_diff(*e) <= tolerance);
    assert!(near && actual.len() == expected.len(), "{actual:?} is not near {expected:?}");
}

#[test]
fn colour_files_show_their_quarters() {
    let mut decoder = Decoder::new();
    for jpeg in [BASELINE_420, BASELINE_444, PROGRESSIVE] {
        let pixels = decoder.decode(jpeg, &DecodeOptions::default()).unwrap();
        assert_eq!((pixels.width(), pixels.height()), (40, 24));
        assert_eq!(pixels.format(), PixelFormat::Rgb8);
        // Red, green, blue, white; the tolerance is what quality 90 costs.
        assert_near(&pixel(&pixels, 3, 3), &[255, 0, 0], 6);
        assert_near(&pixel(&pixels, 36, 3), &[0, 255, 0], 6);
        assert_near(&pixel(&pixels, 3, 21), &[0, 0, 255], 6);
        assert_near(&pixel(&pixels, 36, 21), &[255, 255, 255], 6);
    }
}

#[test]
fn a_gray_file_shows_its_ramp() {
    let mut decoder = Decoder::new();
    let pixels = decoder.decode(GRAY, &DecodeOptions::default()).unwrap();
    assert_eq!((pixels.width(), pixels.height()), (33, 17));
    assert_eq!(pixels.format(), PixelFormat::Gray8);
    let ramp: Vec<u8> = (0..33u16).map(|x| u8::try_from(x * 255 / 32).unwrap()).collect();
    for row in pixels.bytes().chunks(33) {
        assert_near(row, &ramp, 6);
    }
}

#[test]
fn the_buffer_is_reused_and_shows_nothing_of_the_last_picture() {
    let mut decoder = Decoder::new();
    let first = decoder.decode(BASELINE_444, &DecodeOptions::default()).unwrap().bytes().as_ptr();
    let second = decoder.decode(GRAY, &DecodeOptions::default()).unwrap();
    assert_eq!(second.bytes().as_ptr(), first);
    assert_eq!(second.bytes(), decode(GRAY).unwrap());
}

#[test]
fn bytes_after_the_picture_are_ignored() {
    for jpeg in GOOD {
        let longer = [jpeg, b"\xff\xd8 trailing bytes"].concat();
        assert_eq!(decode(&longer).unwrap(), decode(jpeg).unwrap());
    }
}

#[test]
fn every_truncation_is_an_error() {
    for jpeg in GOOD {
        for len in 0..jpeg.len() {
            let error = decode(&jpeg[..len]).unwrap_err();
            let expected = match len {
                0..2 => matches!(error, DecodeError::UnknownKind),
                _ => matches!(error, DecodeError::Truncated),
            };
            assert!(expected, "cut at {len} of {}: {error:?}", jpeg.len());
        }
    }
}

#[test]
fn a_file_cut_and_closed_again_is_an_error() {
    for jpeg in GOOD {
        let scan = jpeg.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
        // The last byte before the end may hold nothing but padding bits.
        for len in scan + 2..jpeg.len() - 3 {
            let closed = [&jpeg[..len], b"\xff\xd9"].concat();
            assert!(decode(&closed).is_err(), "cut at {len} of {}", jpeg.len());
        }
    }
}

#[test]
fn bombs_are_refused_from_the_header() {
    let mut decoder = Decoder::new();
    let limits = DecodeOptions::default();
    for jpeg in GOOD {
        let bomb = with_frame(jpeg, 5, &[0xff; 4]);
        let error = decoder.decode(&bomb, &limits).unwrap_err();
        assert!(
            matches!(error, DecodeError::TooManyPixels { width: 65535, height: 65535, .. }),
            "{error:?}"
        );
        // 8000 x 8000 is within the limits, but not within what a file so short can hold.
        let hollow = with_frame(jpeg, 5, &[0x1f, 0x40, 0x1f, 0x40]);
        let error = decoder.decode(&hollow, &limits).unwrap_err();
        assert!(matches!(error, DecodeError::Truncated), "{error:?}");
    }
    let untouched = format!("{:?}", Decoder::new());
    assert_eq!(format!("{decoder:?}"), untouched, "memory was taken for a refused picture");
}

#[test]
fn each_limit_is_kept() {
    let fits = Limits {
        compressed_bytes_max: PROGRESSIVE.len(),
        side_max: 40,
        pixels_max: 40 * 24,
        scans_max: 10,
        scan_pixels_max: 40 * 24 * 10,
    };
    let error = |limits| Decoder::new().decode(PROGRESSIVE, &with(limits)).unwrap_err();
    assert!(Decoder::new().decode(PROGRESSIVE, &with(fits)).is_ok());
    let bytes = Limits { compressed_bytes_max: PROGRESSIVE.len() - 1, ..fits };
    assert!(matches!(error(bytes), DecodeError::TooManyBytes { .. }));
    let side = Limits { side_max: 39, ..fits };
    assert!(matches!(error(side), DecodeError::TooManyPixels { side_max: 39, .. }));
    let pixels = Limits { pixels_max: 40 * 24 - 1, ..fits };
    assert!(matches!(error(pixels), DecodeError::TooManyPixels { pixels_max: 959, .. }));
    let scans = Limits { scans_max: 9, ..fits };
    assert!(matches!(error(scans), DecodeError::TooManyScans { max: 9 }));
    let passes = Limits { scan_pixels_max: 40 * 24 * 10 - 1, ..fits };
    let passes = error(passes);
    assert!(matches!(passes, DecodeError::TooManyScanPixels { scans: 10, max: 9599, .. }));
    assert!(passes.to_string().contains("9599 pixels x scans"), "{passes}");
}

/// The progressive file as one of 8000 x 8000, long enough for that, its last scan `more` times
/// more. It has 10 scans, as libjpeg-turbo makes them.
fn large_with_scans(more: usize) -> Vec<u8> {
    let comment = [&[0xff, 0xfe, 0xff, 0xff][..], &[0; 65533]].concat();
    let large = with_frame(PROGRESSIVE, 5, &[0x1f, 0x40, 0x1f, 0x40]);
    let last = large.windows(2).rposition(|pair| pair == [0xff, 0xda]).unwrap();
    let end = large.len() - 2;
    let mut file = [&large[..2], &comment, &large[2..end]].concat();
    file.extend(large[last..end].repeat(more));
    file.extend([0xff, 0xd9]);
    file
}

#[test]
fn passes_over_a_large_picture_are_bounded_and_those_of_usual_files_are_not() {
    let mut decoder = Decoder::new();
    let untouched = format!("{decoder:?}");
    let error = decoder.decode(&large_with_scans(10), &DecodeOptions::default()).unwrap_err();
    assert!(matches!(error, DecodeError::TooManyScanPixels { scans: 17, .. }), "{error:?}");
    assert_eq!(format!("{decoder:?}"), untouched, "memory was taken for a refused picture");
    // What it lacks to be a picture is found by decoding it.
    let error = decoder.decode(&large_with_scans(0), &DecodeOptions::default()).unwrap_err();
    assert!(!matches!(error, DecodeError::TooManyScanPixels { .. }), "{error:?}");
}

#[test]
fn kinds_that_are_not_decoded_are_named() {
    let twelve_bits = with_frame(BASELINE_444, 4, &[12]);
    let two_components = with_frame(BASELINE_444, 9, &[2]);
    for (jpeg, expected) in [
        (CMYK, "CMYK colours"),
        (&twelve_bits, "samples of other than 8 bits"),
        (&two_components, "a number of colours other than 1 and 3"),
    ] {
        let error = decode(jpeg).unwrap_err();
        assert!(matches!(error, DecodeError::Unsupported { what } if what == expected), "{error}");
    }
}

#[test]
fn broken_headers_are_refused() {
    let gray_as_colour = with_frame(GRAY, 9, &[3]);
    let colour_as_gray = with_frame(BASELINE_444, 9, &[1]);
    let no_scan = b"\xff\xd8\xff\xd9";
    for jpeg in [
        &with_frame(BASELINE_444, 5, &[0, 0]),
        &with_frame(BASELINE_444, 7, &[0, 0]),
        &gray_as_colour,
        &colour_as_gray,
        &no_scan[..],
        &[&BASELINE_444[..2], b"stray", &BASELINE_444[2..]].concat(),
        &[&BASELINE_444[..2], b"\xff\x00", &BASELINE_444[2..]].concat(),
        // A comment segment, over and over.
        &[&BASELINE_444[..2], &b"\xff\xfe\x00\x02".repeat(2000), &BASELINE_444[2..]].concat(),
    ] {
        let error = decode(jpeg).unwrap_err();
        assert!(matches!(error, DecodeError::Corrupt { .. }), "{error:?}");
    }
    assert!(matches!(decode(b"GIF89a\r\n").unwrap_err(), DecodeError::UnknownKind));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(decode(&bytes).is_err());
        let marked = [&[0xff, 0xd8][..], &bytes, &[0xff, 0xd9]].concat();
        drop(decode(&marked));
    }

    #[test]
    fn changed_bytes_never_panic(
        which in 0..GOOD.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut jpeg = GOOD[which].to_vec();
        for (at, value) in changes {
            let at = at.index(jpeg.len());
            jpeg[at] = value;
        }
        // Small enough for thousands of cases, whatever size the change makes the picture.
        let limits = Limits { pixels_max: 1 << 20, ..Limits::default() };
        if let Ok(pixels) = Decoder::new().decode(&jpeg, &with(limits)) {
            prop_assert!(pixels.bytes().len() <= 3 << 20);
        }
    }
}
