//! Random numbers that are the same on every machine: integer steps, then exact float arithmetic.

/// SplitMix64: one seed in, well-mixed words out. Used to fill the state of [`Xoshiro`].
#[derive(Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

/// xoshiro256++, one generator per tensor, so that a tensor's values depend on the seed and on its
/// own name and not on what was written before it.
#[derive(Debug)]
pub(crate) struct Xoshiro([u64; 4]);

impl Xoshiro {
    pub(crate) fn new(seed: u64, stream: &str) -> Self {
        let mut mix = SplitMix64(seed ^ fnv1a(stream.as_bytes()));
        Self([mix.next(), mix.next(), mix.next(), mix.next()])
    }

    fn next(&mut self) -> u64 {
        let [s0, s1, s2, s3] = &mut self.0;
        let word = s0.wrapping_add(*s3).rotate_left(23).wrapping_add(*s0);
        let shifted = *s1 << 17;
        *s2 ^= *s0;
        *s3 ^= *s1;
        *s1 ^= *s2;
        *s0 ^= *s3;
        *s2 ^= shifted;
        *s3 = s3.rotate_left(45);
        word
    }

    /// Two numbers, uniform in [-1, 1), each with the 24 bits that an f32 holds exactly.
    pub(crate) fn pair(&mut self) -> [f32; 2] {
        let [a0, a1, a2, _, b0, b1, b2, _] = self.next().to_le_bytes();
        [[a0, a1, a2, 0], [b0, b1, b2, 0]]
            .map(|bytes| u32::from_le_bytes(bytes) as f32 * HALF_RANGE_RECIPROCAL - 1.0)
    }
}

/// 2^-23: maps 0..2^24 to 0..2.
const HALF_RANGE_RECIPROCAL: f32 = 1.0 / 8_388_608.0;

/// FNV-1a, 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix_gives_its_published_sequence() {
        let mut mix = SplitMix64(0);
        assert_eq!(mix.next(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(mix.next(), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn xoshiro_gives_its_published_sequence() {
        let mut rng = Xoshiro([1, 2, 3, 4]);
        assert_eq!(rng.next(), 41_943_041);
        assert_eq!(rng.next(), 58_720_359);
    }

    #[test]
    fn pairs_are_uniform_around_zero() {
        let mut rng = Xoshiro::new(1, "test");
        let values: Vec<f32> = (0..50_000).flat_map(|_| rng.pair()).collect();
        assert!(values.iter().all(|value| (-1.0..1.0).contains(value)));
        let mean = values.iter().sum::<f32>() / 100_000.0;
        let mean_square = values.iter().map(|value| value * value).sum::<f32>() / 100_000.0;
        assert!(mean.abs() < 0.01, "mean {mean}");
        assert!((mean_square - 1.0 / 3.0).abs() < 0.01, "mean square {mean_square}");
    }

    #[test]
    fn drawn_values_are_the_same_bits_everywhere() {
        let drawn = Xoshiro::new(1, "fc.weight").pair().map(f32::to_bits);
        assert_eq!(drawn, [3_212_509_504, 3_205_073_958]);
    }

    #[test]
    fn streams_and_seeds_differ() {
        let first = Xoshiro::new(1, "a").next();
        assert_ne!(first, Xoshiro::new(1, "b").next());
        assert_ne!(first, Xoshiro::new(2, "a").next());
        assert_eq!(first, Xoshiro::new(1, "a").next());
    }
}
