//! In which numbers a model takes a picture.

use ferry_core::DType;
use half::f16;
use half::slice::HalfFloatSliceExt;

/// Values that are rounded at a time, on the stack: they stay in the first-level cache.
const CHUNK: usize = 1024;

/// The numbers of a picture's tensor. [`Preparer`](crate::Preparer) computes in 32 bits either
/// way; half precision is rounded from that, so that both hold the same picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Numbers {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
}

impl Numbers {
    /// The numbers of a model's input; `None` where pictures cannot be made of this type.
    #[must_use]
    pub const fn of(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F32 => Some(Self::F32),
            DType::F16 => Some(Self::F16),
            _ => None,
        }
    }

    /// The element type of the tensor.
    #[must_use]
    pub const fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
        }
    }

    /// What one number takes, in bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => size_of::<f32>(),
            Self::F16 => size_of::<f16>(),
        }
    }

    /// Writes `values` to `out` as these numbers lie in this machine's memory.
    ///
    /// Half precision is rounded to the nearest, ties to even: from 65520 on that is infinity, and
    /// what is not a number stays none.
    ///
    /// # Panics
    /// `out` is not [`Numbers::bytes`] long for each value.
    pub fn store(self, values: &[f32], out: &mut [u8]) {
        assert_eq!(out.len(), values.len() * self.bytes(), "room for exactly these values");
        match self {
            Self::F32 => {
                for (bytes, value) in out.as_chunks_mut().0.iter_mut().zip(values) {
                    *bytes = value.to_ne_bytes();
                }
            }
            Self::F16 => {
                let mut halves = [f16::ZERO; CHUNK];
                let pieces = out.chunks_mut(CHUNK * size_of::<f16>());
                for (values, piece) in values.chunks(CHUNK).zip(pieces) {
                    let halves = &mut halves[..values.len()];
                    halves.convert_from_f32_slice(values);
                    for (bytes, half) in piece.as_chunks_mut().0.iter_mut().zip(halves) {
                        *bytes = half.to_ne_bytes();
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn halves(values: &[f32]) -> Vec<u16> {
        let mut bytes = vec![0xaa; values.len() * 2];
        Numbers::F16.store(values, &mut bytes);
        bytes.as_chunks().0.iter().map(|two| u16::from_ne_bytes(*two)).collect()
    }

    /// The value of binary16 bits below infinity, by the definition; exact in `f32`.
    fn wide(bits: u16) -> f32 {
        let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
        let magnitude = match exponent {
            0 => fraction * 2_f32.powi(-24),
            _ => (1024.0 + fraction) * 2_f32.powi(exponent - 25),
        };
        if bits >> 15 == 0 { magnitude } else { -magnitude }
    }

    #[test]
    fn every_half_stays_what_it_is() {
        let all: Vec<u16> = (0..0x7c00).chain(0x8000..0xfc00).collect();
        let values: Vec<f32> = all.iter().map(|&bits| wide(bits)).collect();
        assert_eq!(halves(&values), all);
    }

    #[test]
    fn between_two_halves_the_nearer_is_taken_and_the_even_one_of_a_tie() {
        // Subnormal numbers are among them: all below 0x0400.
        let low: Vec<u16> = (0..0x7bff).collect();
        let ties: Vec<f32> =
            low.iter().map(|&bits| f32::midpoint(wide(bits), wide(bits + 1))).collect();
        let step = |by: i32| -> Vec<f32> {
            let moved = ties.iter().map(|tie| tie.to_bits().wrapping_add_signed(by));
            moved.map(f32::from_bits).collect()
        };
        let even: Vec<u16> = low.iter().map(|bits| bits + bits % 2).collect();
        let high: Vec<u16> = low.iter().map(|bits| bits + 1).collect();
        for (values, expected) in [(step(-1), &low), (ties.clone(), &even), (step(1), &high)] {
            assert_eq!(halves(&values), *expected);
            let negative: Vec<f32> = values.iter().map(|value| -value).collect();
            let expected: Vec<u16> = expected.iter().map(|bits| bits | 0x8000).collect();
            assert_eq!(halves(&negative), expected);
        }
    }

    #[test]
    fn what_is_too_large_is_infinite_and_what_is_too_small_is_zero() {
        let below = |value: f32| f32::from_bits(value.to_bits() - 1);
        let tiny = 2_f32.powi(-25);
        for (value, bits) in [
            (65504.0, 0x7bff),
            (below(65520.0), 0x7bff),
            (65520.0, 0x7c00),
            (f32::MAX, 0x7c00),
            (f32::INFINITY, 0x7c00),
            (below(tiny), 0),
            (tiny, 0),
            (tiny * 1.001, 1),
            (f32::MIN_POSITIVE, 0),
            (1e-45, 0),
            (0.0, 0),
        ] {
            assert_eq!(halves(&[value, -value]), [bits, bits | 0x8000], "{value:e}");
        }
    }

    #[test]
    fn what_is_not_a_number_stays_none() {
        // Quiet, signalling, with the lowest bit of its payload alone, and negative.
        let nans = [0x7fc0_0000, 0x7fa0_0000, 0x7f80_0001, 0xffff_ffff].map(f32::from_bits);
        for bits in halves(&nans) {
            assert!(bits & 0x7fff > 0x7c00, "{bits:#06x}");
        }
    }

    #[test]
    fn lengths_around_a_chunk_are_stored_to_their_end() {
        for len in [0, 1, 7, 8, 9, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 3] {
            let values: Vec<f32> = (0_u16..).take(len).map(f32::from).collect();
            let expected: Vec<u16> = values.iter().map(|&it| f16::from_f32(it).to_bits()).collect();
            assert_eq!(halves(&values), expected, "{len}");
            let mut bytes = vec![0xaa; len * 4];
            Numbers::F32.store(&values, &mut bytes);
            let stored = bytes.as_chunks().0.iter().map(|four| f32::from_ne_bytes(*four));
            assert!(stored.eq(values.iter().copied()), "{len}");
        }
    }

    #[test]
    fn pictures_are_made_of_floats_of_32_and_16_bits() {
        let made: Vec<DType> =
            DType::ALL.into_iter().filter(|it| Numbers::of(*it).is_some()).collect();
        assert_eq!(made, [DType::F16, DType::F32]);
        for numbers in [Numbers::F32, Numbers::F16] {
            assert_eq!(Numbers::of(numbers.dtype()), Some(numbers));
            assert_eq!(u64::try_from(numbers.bytes()), Ok(numbers.dtype().bytes()));
        }
    }
}
