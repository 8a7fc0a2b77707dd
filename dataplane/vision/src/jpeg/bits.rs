//! The bits of a scan.

/// Reads bits from the most significant one down. Behind the end it reads zeros and remembers that
/// it did.
#[derive(Debug)]
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    /// The next byte to be loaded; past the end where zeros were made up.
    at: usize,
    /// The loaded bits, the next one on top.
    window: u64,
    held: u32,
}

impl<'a> Bits<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, window: 0, held: 0 }
    }

    /// Loads until at least 56 bits are held.
    #[inline(always)]
    pub(super) fn refill(&mut self) {
        let ahead = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk::<8>);
        let word = match ahead {
            Some(chunk) => u64::from_be_bytes(*chunk),
            None => self.last_word(),
        };
        self.window |= word >> self.held;
        self.at += ((63 - self.held) >> 3) as usize;
        self.held |= 56;
    }

    /// Loads where fewer bits are held than a code and its value can have.
    #[inline(always)]
    pub(super) fn refill_for_code(&mut self) {
        if self.held < 32 {
            self.refill();
        }
    }

    #[cold]
    fn last_word(&self) -> u64 {
        let mut word = [0; 8];
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        word[..rest.len()].copy_from_slice(rest);
        u64::from_be_bytes(word)
    }

    /// The next `count` bits (1 to 32) without taking them.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "at most 32 bits are left")]
    pub(super) const fn peek(&self, count: u32) -> u32 {
        (self.window >> (64 - count)) as u32
    }

    /// Passes over bits that were loaded.
    #[inline(always)]
    pub(super) const fn skip(&mut self, count: u32) {
        self.window <<= count;
        self.held = self.held.wrapping_sub(count);
    }

    /// Takes up to 16 bits, which must be loaded; none gives 0.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "at most 16 bits are left")]
    pub(super) const fn take(&mut self, count: u32) -> u32 {
        let bits = (self.window >> 1 >> (63 - count)) as u32;
        self.skip(count);
        bits
    }

    /// How many bits were taken.
    fn taken(&self) -> usize {
        self.at * 8 - self.held as usize
    }

    /// Whether bits were taken that are not there.
    pub(super) fn is_overrun(&self) -> bool {
        self.taken() > self.bytes.len() * 8
    }

    /// The bytes of which no bit was taken.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.taken().div_ceil(8)..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::Bits;

    #[test]
    fn bits_come_in_order_and_the_end_is_noticed() {
        let bytes: Vec<u8> = (0..=20).map(|i: u8| i.wrapping_mul(37)).collect();
        let expected: Vec<u32> = bytes
            .iter()
            .flat_map(|byte| (0..8).rev().map(move |i| u32::from(byte >> i & 1)))
            .collect();
        let mut bits = Bits::new(&bytes);
        let mut at = 0;
        for count in (1..=16).cycle() {
            if at + count > expected.len() {
                break;
            }
            bits.refill();
            let wanted = expected[at..at + count].iter().fold(0, |sum, bit| sum << 1 | bit);
            let count_u32 = u32::try_from(count).unwrap();
            assert_eq!(bits.peek(count_u32), wanted);
            assert_eq!(bits.take(count_u32), wanted);
            at += count;
            assert_eq!(bits.rest().len(), bytes.len() - at.div_ceil(8));
            assert!(!bits.is_overrun());
        }
        bits.refill();
        assert_eq!(bits.take(0), 0);
        bits.take(u32::try_from(expected.len() - at).unwrap());
        assert!(!bits.is_overrun());
        bits.refill();
        assert_eq!(bits.take(1), 0);
        assert!(bits.is_overrun());
    }
}
