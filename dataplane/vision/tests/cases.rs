//! Pictures of `testdata/cases`: every kind of scan, sampling and orientation that cameras and tools
//! write, with the pixels that libjpeg-turbo makes of them.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::{Path, PathBuf};

use ferry_vision::{DecodeOptions, Decoder, Orientation, PixelFormat};
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/cases")
}

/// An array of bytes: its shape and its values.
fn npy(name: &str) -> (Vec<u32>, Vec<u8>) {
    let file = std::fs::read(folder().join(name)).unwrap();
    let header = 10 + usize::from(u16::from_le_bytes([file[8], file[9]]));
    let text = std::str::from_utf8(&file[10..header]).unwrap();
    assert!(text.contains("|u1") && text.contains("'fortran_order': False"), "{text}");
    let shape = text.split_once('(').unwrap().1.split_once(')').unwrap().0;
    let shape = shape.split(',').filter_map(|dim| dim.trim().parse().ok()).collect();
    (shape, file[header..].to_vec())
}

fn assert_decodes(file: &str, orientation: Orientation, pixels: &str) {
    let jpeg = std::fs::read(folder().join(file)).unwrap();
    let options = DecodeOptions { orientation, ..DecodeOptions::default() };
    let mut decoder = Decoder::new();
    let decoded = decoder.decode(&jpeg, &options).unwrap_or_else(|error| panic!("{file}: {error}"));
    let (shape, wanted) = npy(pixels);
    assert_eq!([decoded.height(), decoded.width(), 3], shape[..], "{file}");
    assert_eq!(decoded.format(), PixelFormat::Rgb8, "{file}");
    // To the bit; 2.5 is what the cases ask for.
    let pairs = decoded.bytes().iter().zip(&wanted);
    let sum: u64 = pairs.map(|(one, other)| u64::from(one.abs_diff(*other))).sum();
    assert_eq!(sum, 0, "{file}: mean difference {}", sum as f64 / wanted.len() as f64);
}

#[test]
fn every_case_decodes_to_its_pixels() {
    let text = std::fs::read_to_string(folder().join("cases.json")).unwrap();
    let list: Value = serde_json::from_str(&text).unwrap();
    let cases = list["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 52);
    for case in cases {
        let file = case["file"].as_str().unwrap();
        assert_decodes(file, Orientation::Stored, case["pixels"].as_str().unwrap());
        if let Some(upright) = case["pixels_upright"].as_str() {
            assert_decodes(file, Orientation::Exif, upright);
        }
    }
}
