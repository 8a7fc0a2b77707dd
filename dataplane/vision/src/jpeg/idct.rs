//! Coefficients to samples: the inverse discrete cosine transform of 8 × 8.
//!
//! Loeffler, Ligtenberg and Moschytz (ICASSP 1989), in integers of 13 bits behind the point, rounded
//! as libjpeg's accurate transform (`JDCT_ISLOW`) rounds: the samples are the same to the bit. What
//! lies beside each other is computed side by side, so that compilers make vector code of it.

use std::num::Wrapping;

/// An 8 × 8 block; coefficients are dequantised.
pub(super) type Block = [[i16; 8]; 8];

/// Bits behind the point of the constants, and of what is kept between the two passes.
const BITS: u32 = 13;
const BETWEEN: u32 = 2;

type W = Wrapping<i32>;

/// The last place in zigzag order, above which a block has nothing but its upper left 4 × 4.
pub(super) const SMALL_LAST: usize = 9;

/// The samples of a block that has only its first coefficient.
pub(super) fn flat(dc: i16) -> u8 {
    let value = (i32::from(dc) + 4) >> 3;
    sample(value.clamp(-128, 127))
}

/// The samples of a block.
pub(super) fn whole(block: &Block) -> [[u8; 8]; 8] {
    transform::<8>(block)
}

/// The samples of a block that has nothing but its upper left 4 × 4.
pub(super) fn small(block: &Block) -> [[u8; 8]; 8] {
    transform::<4>(block)
}

fn transform<const N: usize>(block: &Block) -> [[u8; 8]; 8] {
    let columns = pass::<N, { BITS - BETWEEN }>(block);
    let rows = pass::<N, { BITS + BETWEEN + 3 }>(&transposed(&columns));
    let mut samples = [[0; 8]; 8];
    for (x, column) in rows.iter().enumerate() {
        for (row, value) in samples.iter_mut().zip(column) {
            row[x] = sample(i32::from(*value).clamp(-128, 127));
        }
    }
    samples
}

/// A value from -128 to 127 as a sample.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 255")]
const fn sample(value: i32) -> u8 {
    (value + 128) as u8
}

fn transposed(block: &Block) -> Block {
    let mut out = [[0; 8]; 8];
    for (y, row) in block.iter().enumerate() {
        for (x, value) in row.iter().enumerate() {
            out[x][y] = *value;
        }
    }
    out
}

/// One pass over all eight lanes, of which only the first `N` rows are not zero.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "clamped to 16 bits")]
fn pass<const N: usize, const SHIFT: u32>(rows: &Block) -> Block {
    let mut out = [[0; 8]; 8];
    for lane in 0..8 {
        let mut input = [0_i16; 8];
        for k in 0..N {
            input[k] = rows[k][lane];
        }
        let sums = butterfly(input);
        for k in 0..8 {
            let value = (sums[k] + Wrapping(1 << (SHIFT - 1))).0 >> SHIFT;
            out[k][lane] = value.clamp(-32768, 32767) as i16;
        }
    }
    out
}

/// A factor with its 13 bits behind the point.
const fn fixed(value: f64) -> i32 {
    #[expect(clippy::cast_possible_truncation, reason = "factors are below 4")]
    let rounded = (value.abs() * (1 << BITS) as f64 + 0.5) as i32;
    if value < 0.0 { -rounded } else { rounded }
}

/// The transform of eight values, in one dimension.
#[inline(always)]
fn butterfly(input: [i16; 8]) -> [W; 8] {
    let by = |value: i16, factor: i32| Wrapping(i32::from(value).wrapping_mul(factor));
    let [x0, x1, x2, x3, x4, x5, x6, x7] = input;

    let even2 = by(x2, F_0_541) + by(x6, F_0_541 - F_1_847);
    let even3 = by(x2, F_0_541 + F_0_765) + by(x6, F_0_541);
    let even0 = Wrapping(i32::from(x0.wrapping_add(x4)) << BITS);
    let even1 = Wrapping(i32::from(x0.wrapping_sub(x4)) << BITS);
    let (a0, a3) = (even0 + even3, even0 - even3);
    let (a1, a2) = (even1 + even2, even1 - even2);

    let z3 = x7.wrapping_add(x3);
    let z4 = x5.wrapping_add(x1);
    let c3 = by(z3, F_1_175 - F_1_961) + by(z4, F_1_175);
    let c4 = by(z3, F_1_175) + by(z4, F_1_175 - F_0_390);
    let b0 = by(x7, F_0_298 - F_0_899) + by(x1, -F_0_899) + c3;
    let b1 = by(x5, F_2_053 - F_2_562) + by(x3, -F_2_562) + c4;
    let b2 = by(x3, F_3_072 - F_2_562) + by(x5, -F_2_562) + c3;
    let b3 = by(x1, F_1_501 - F_0_899) + by(x7, -F_0_899) + c4;

    [a0 + b3, a1 + b2, a2 + b1, a3 + b0, a3 - b0, a2 - b1, a1 - b2, a0 - b3]
}

const F_0_298: i32 = fixed(0.298_631_336);
const F_0_390: i32 = fixed(0.390_180_644);
const F_0_541: i32 = fixed(0.541_196_100);
const F_0_765: i32 = fixed(0.765_366_865);
const F_0_899: i32 = fixed(0.899_976_223);
const F_1_175: i32 = fixed(1.175_875_602);
const F_1_501: i32 = fixed(1.501_321_110);
const F_1_847: i32 = fixed(1.847_759_065);
const F_1_961: i32 = fixed(1.961_570_560);
const F_2_053: i32 = fixed(2.053_119_869);
const F_2_562: i32 = fixed(2.562_915_447);
const F_3_072: i32 = fixed(3.072_711_026);

#[cfg(test)]
mod tests {
    use super::*;

    /// The transform as annex A.3.3 defines it.
    fn exact(block: &Block) -> [[f64; 8]; 8] {
        let half = |k: usize| if k == 0 { std::f64::consts::FRAC_1_SQRT_2 } else { 1.0 };
        let cosine = |x: usize, u: usize| {
            ((2 * x + 1) as f64 * u as f64 * std::f64::consts::PI / 16.0).cos() * half(u)
        };
        let mut out = [[0.0; 8]; 8];
        for (y, row) in out.iter_mut().enumerate() {
            for (x, value) in row.iter_mut().enumerate() {
                for (v, coefficients) in block.iter().enumerate() {
                    for (u, coefficient) in coefficients.iter().enumerate() {
                        *value += f64::from(*coefficient) * cosine(x, u) * cosine(y, v) / 4.0;
                    }
                }
            }
        }
        out
    }

    #[test]
    fn samples_are_those_of_the_definition() {
        let mut seed = 1_u32;
        let mut random = |below: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) % below
        };
        for round in 0..300 {
            let mut block = [[0_i16; 8]; 8];
            let side = if round % 2 == 0 { 4 } else { 8 };
            for _ in 0..random(12) {
                let (y, x) = (random(side) as usize, random(side) as usize);
                block[y][x] = i16::try_from(random(400)).unwrap() - 200;
            }
            let samples = whole(&block);
            for (row, exact) in samples.iter().zip(exact(&block)) {
                for (sample, exact) in row.iter().zip(exact) {
                    let exact = (exact + 128.0).clamp(0.0, 255.0);
                    assert!((f64::from(*sample) - exact).abs() < 1.0, "{sample} is not {exact}");
                }
            }
            if side == 4 {
                assert_eq!(small(&block), samples);
            }
        }
    }

    #[test]
    fn flat_blocks_are_flat() {
        for dc in -2100..2100 {
            let mut block = [[0; 8]; 8];
            block[0][0] = dc;
            assert_eq!(whole(&block), [[flat(dc); 8]; 8], "{dc}");
        }
    }
}
