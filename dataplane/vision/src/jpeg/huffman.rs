//! Huffman tables (ITU-T T.81, annexes C, F.2.2 and K.3).

use super::bits::Bits;
use crate::DecodeError;

/// Bits that one look at the table resolves.
const LOOK: u32 = 10;

/// A table as a file has it: how many codes there are of each length from 1 to 16, and what they
/// stand for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Codes {
    counts: [u8; 16],
    symbols: [u8; 256],
}

impl Codes {
    /// Reads one table and says how many bytes it took.
    pub(super) fn read(body: &[u8]) -> Result<(Codes, usize), DecodeError> {
        let short = DecodeError::corrupt("a Huffman table cut short");
        let Some((counts, rest)) = body.split_first_chunk::<16>() else { return Err(short) };
        let total = counts.iter().map(|count| usize::from(*count)).sum::<usize>();
        if total > 256 {
            return Err(DecodeError::corrupt("a Huffman table of more than 256 codes"));
        }
        let Some(listed) = rest.get(..total) else { return Err(short) };
        let mut symbols = [0; 256];
        symbols[..total].copy_from_slice(listed);
        Ok((Codes { counts: *counts, symbols }, 16 + total))
    }

    /// The tables that Motion JPEG leaves out: `id` 0 is luminance, 1 is chrominance.
    pub(super) fn usual(ac: bool, id: usize) -> Option<Codes> {
        let body: &[u8] = match (ac, id) {
            (false, 0) => &usual::DC_LUMINANCE,
            (false, 1) => &usual::DC_CHROMINANCE,
            (true, 0) => &usual::AC_LUMINANCE,
            (true, 1) => &usual::AC_CHROMINANCE,
            _ => return None,
        };
        Codes::read(body).ok().map(|(codes, _)| codes)
    }
}

/// What stands next in a scan.
#[derive(Debug, Clone, Copy)]
pub(super) struct Next {
    /// Zeros before the value, and in the low half the number of its bits.
    pub(super) symbol: u8,
    /// The value, sign extended.
    pub(super) value: i32,
}

/// A table made ready for decoding.
#[derive(Debug)]
pub(super) struct Table {
    /// For the next [`LOOK`] bits: the bits to skip (0: the code is longer), the symbol and, where
    /// its bits are among them too, the value.
    look: [(u8, u8, i16); 1 << LOOK],
    /// For each length, the first code that is longer, on top of 16 bits.
    above: [u32; 17],
    /// For each length, what to add to a code for the index of its symbol.
    offset: [i32; 17],
    symbols: [u8; 256],
}

impl Default for Table {
    fn default() -> Self {
        Self { look: [(0, 0, 0); 1 << LOOK], above: [0; 17], offset: [0; 17], symbols: [0; 256] }
    }
}

impl Table {
    /// Makes this the table of `codes`.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "lengths are at most 16, codes 16 bits, indices 256"
    )]
    pub(super) fn build(&mut self, codes: &Codes) -> Result<(), DecodeError> {
        self.look.fill((0, 0, 0));
        self.symbols = codes.symbols;
        let (mut code, mut index) = (0_u32, 0_usize);
        for length in 1..=16_u32 {
            let count = u32::from(codes.counts[length as usize - 1]);
            // No code may consist of ones only.
            if count > 0 && code + count >= 1 << length {
                return Err(DecodeError::corrupt(
                    "a Huffman table with more codes than there can be",
                ));
            }
            self.offset[length as usize] = index as i32 - code as i32;
            for _ in 0..count {
                if length <= LOOK {
                    let from = (code << (LOOK - length)) as usize;
                    let entries = &mut self.look[from..from + (1 << (LOOK - length))];
                    enter(entries, from as u32, length, self.symbols[index]);
                }
                code += 1;
                index += 1;
            }
            self.above[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Ok(())
    }

    /// Takes a code and the value behind it: at most 31 bits, which must be loaded.
    #[inline(always)]
    pub(super) fn next(&self, bits: &mut Bits<'_>) -> Result<Next, DecodeError> {
        let (skip, symbol, value) = self.look[bits.peek(LOOK) as usize];
        if value != 0 {
            bits.skip(u32::from(skip));
            return Ok(Next { symbol, value: i32::from(value) });
        }
        let symbol = if skip == 0 { self.long(bits)? } else { symbol };
        bits.skip(u32::from(skip));
        let size = u32::from(symbol & 15);
        let raw = bits.take(size);
        Ok(Next { symbol, value: extend(raw, size) })
    }

    /// A code that one look does not resolve.
    #[cold]
    fn long(&self, bits: &mut Bits<'_>) -> Result<u8, DecodeError> {
        let code = bits.peek(16);
        for length in LOOK + 1..=16 {
            let at = length as usize;
            if code < self.above[at] {
                let index = (code >> (16 - length)).wrapping_add_signed(self.offset[at]);
                bits.skip(length);
                return self.symbols.get(index as usize).copied().ok_or(BAD_CODE);
            }
        }
        Err(BAD_CODE)
    }
}

const BAD_CODE: DecodeError = DecodeError::corrupt("a code that no table of it has");

/// Fills the entries of one code, the first of which is for the bits `from`.
#[expect(clippy::cast_possible_truncation, reason = "at most 16, and values of at most 8 bits")]
fn enter(entries: &mut [(u8, u8, i16)], from: u32, length: u32, symbol: u8) {
    let size = u32::from(symbol & 15);
    for (bits, entry) in (from..).zip(entries) {
        *entry = if size > 0 && length + size <= LOOK {
            let raw = bits >> (LOOK - length - size) & ((1 << size) - 1);
            ((length + size) as u8, symbol, extend(raw, size) as i16)
        } else {
            (length as u8, symbol, 0)
        };
    }
}

/// The value that `size` bits (0 to 15) stand for: those that begin with a zero are negative.
#[inline(always)]
#[expect(clippy::cast_possible_wrap, reason = "at most 15 bits")]
pub(super) const fn extend(raw: u32, size: u32) -> i32 {
    let negative = (raw << 1 >> size) ^ 1;
    (raw as i32).wrapping_sub((negative << size) as i32).wrapping_add(negative as i32)
}

/// The tables of T.81, annex K.3, as a DHT segment has them.
mod usual {
    pub(super) const DC_LUMINANCE: [u8; 28] = [
        0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, // counts
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11,
    ];
    pub(super) const DC_CHROMINANCE: [u8; 28] = [
        0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, // counts
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11,
    ];
    pub(super) const AC_LUMINANCE: [u8; 178] = [
        0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125, // counts
        0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61,
        0x07, 0x22, 0x71, 0x14, 0x32, 0x81, 0x91, 0xa1, 0x08, 0x23, 0x42, 0xb1, 0xc1, 0x15, 0x52,
        0xd1, 0xf0, 0x24, 0x33, 0x62, 0x72, 0x82, 0x09, 0x0a, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x25,
        0x26, 0x27, 0x28, 0x29, 0x2a, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45,
        0x46, 0x47, 0x48, 0x49, 0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5a, 0x63, 0x64,
        0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x83,
        0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99,
        0x9a, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6,
        0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3,
        0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda, 0xe1, 0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8,
        0xe9, 0xea, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0xfa,
    ];
    pub(super) const AC_CHROMINANCE: [u8; 178] = [
        0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 119, // counts
        0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61,
        0x71, 0x13, 0x22, 0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xa1, 0xb1, 0xc1, 0x09, 0x23, 0x33,
        0x52, 0xf0, 0x15, 0x62, 0x72, 0xd1, 0x0a, 0x16, 0x24, 0x34, 0xe1, 0x25, 0xf1, 0x17, 0x18,
        0x19, 0x1a, 0x26, 0x27, 0x28, 0x29, 0x2a, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44,
        0x45, 0x46, 0x47, 0x48, 0x49, 0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5a, 0x63,
        0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a,
        0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97,
        0x98, 0x99, 0x9a, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4,
        0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca,
        0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda, 0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7,
        0xe8, 0xe9, 0xea, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0xfa,
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(codes: &Codes) -> Table {
        let mut table = Table::default();
        table.build(codes).unwrap();
        table
    }

    #[test]
    fn extension_follows_figure_f12() {
        let all = |size| (0..1_u32 << size).map(|raw| extend(raw, size)).collect::<Vec<_>>();
        assert_eq!(extend(0, 0), 0);
        assert_eq!(all(1), [-1, 1]);
        assert_eq!(all(2), [-3, -2, 2, 3]);
        assert_eq!((extend(0, 15), extend(0x7fff, 15)), (-32767, 32767));
    }

    #[test]
    fn every_code_of_the_usual_tables_gives_its_symbol() {
        for (ac, id) in [(false, 0), (false, 1), (true, 0), (true, 1)] {
            let codes = Codes::usual(ac, id).unwrap();
            let table = table(&codes);
            let (mut code, mut index) = (0_u32, 0);
            for length in 1..=16_u32 {
                for _ in 0..codes.counts[length as usize - 1] {
                    let symbol = codes.symbols[index];
                    let size = u32::from(symbol & 15);
                    // The code, and ones for its value: the largest.
                    let ones = (1_u64 << size) - 1;
                    let word = (u64::from(code) << size | ones) << (64 - length - size);
                    let bytes = word.to_be_bytes();
                    let mut bits = Bits::new(&bytes);
                    bits.refill();
                    let next = table.next(&mut bits).unwrap();
                    assert_eq!((next.symbol, next.value), (symbol, i32::try_from(ones).unwrap()));
                    assert_eq!(bits.rest().len(), 8 - (length + size).div_ceil(8) as usize);
                    code += 1;
                    index += 1;
                }
                code <<= 1;
            }
        }
    }

    #[test]
    fn codes_that_cannot_be_are_refused() {
        let mut body = vec![0; 17];
        body[0] = 2;
        body.push(1);
        let (codes, _) = Codes::read(&body).unwrap();
        assert!(Table::default().build(&codes).is_err());
        assert!(Codes::read(&[1; 16]).is_err());
        assert!(Codes::read(&[255; 300]).is_err());
        let mut bits = Bits::new(&[0xff; 8]);
        bits.refill();
        assert!(table(&Codes::usual(true, 0).unwrap()).next(&mut bits).is_err());
    }
}
