//! Files whole and damaged against libjpeg-turbo: what is accepted here has the same pixels there.
//! `measure/corpus.py` makes them.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use ferry_vision::{DecodeError, DecodeOptions, Decoder, Limits};

struct Corpus<'a>(&'a [u8]);

impl<'a> Corpus<'a> {
    fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(bytes);
        self.0 = rest;
        taken
    }

    fn u32(&mut self) -> usize {
        u32::from_le_bytes(self.take(4).try_into().unwrap()) as usize
    }
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// How many files were decoded, and how many were refused that are damaged but readable.
fn compare(corpus: &[u8]) -> (u32, u32) {
    let mut corpus = Corpus(corpus);
    let has_sums = corpus.take(1) == [1];
    let options = DecodeOptions {
        limits: Limits { pixels_max: 1 << 20, ..Limits::default() },
        ..DecodeOptions::default()
    };
    let mut decoder = Decoder::new();
    let (mut decoded, mut refused) = (0, 0);
    for number in 0.. {
        if corpus.0.is_empty() {
            break;
        }
        let length = corpus.u32();
        let jpeg = corpus.take(length);
        let &[channels, damaged] = corpus.take(2) else { unreachable!() };
        let (width, height) = (corpus.u32(), corpus.u32());
        let pixels = width * height * usize::from(channels);
        let wanted = corpus.take(if has_sums { 8 } else { pixels });
        match decoder.decode(jpeg, &options) {
            // An error there can be one of what does not matter here, as of tables without use.
            _ if channels == 0 => {}
            Ok(actual) => {
                assert_eq!((actual.width() as usize, actual.height() as usize), (width, height));
                let actual = actual.bytes();
                let same = match has_sums {
                    true => fnv(actual).to_le_bytes() == wanted,
                    false => actual == wanted,
                };
                assert!(same && actual.len() == pixels, "file {number} has other pixels");
                decoded += 1;
            }
            Err(error) => {
                assert!(damaged == 1, "file {number} is whole: {error}");
                assert!(
                    !matches!(error, DecodeError::Unsupported { .. }),
                    "file {number}: {error}"
                );
                refused += 1;
            }
        }
    }
    (decoded, refused)
}

#[test]
fn what_is_accepted_is_as_libjpeg_turbo_has_it() {
    let (decoded, refused) = compare(include_bytes!("../testdata/differential.bin"));
    assert!(decoded > 60 && refused > 20, "{decoded} decoded, {refused} refused");
}

#[test]
#[ignore = "needs a corpus of measure/corpus.py in FERRY_JPEG_CORPUS"]
fn differential_at_length() {
    let corpus = std::fs::read(std::env::var_os("FERRY_JPEG_CORPUS").unwrap()).unwrap();
    let (decoded, refused) = compare(&corpus);
    assert!(decoded > 0 && refused > 0, "{decoded} decoded, {refused} refused");
}
