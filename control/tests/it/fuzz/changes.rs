//! Changes of bytes, the same for the same seed.

/// Longest input.
const BYTES_MAX: usize = 16 << 10;

/// Numbers at which something turns: ends of integers, of varints, and of what is allowed.
const EDGES: [u64; 12] = [
    0,
    1,
    4,
    16,
    127,
    128,
    255,
    u16::MAX as u64,
    u32::MAX as u64,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// Makes inputs out of others.
pub(super) struct Changes(u64);

impl Changes {
    pub(super) fn new(seed: u64) -> Changes {
        // A generator of this kind never leaves 0.
        Changes(seed | 1)
    }

    /// Xorshift, which is as random as this needs.
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end.max(1)).unwrap()).unwrap()
    }

    /// One of the population, changed in one to four places.
    pub(super) fn of_one(&mut self, population: &[Vec<u8>]) -> Vec<u8> {
        let mut input = population[self.below(population.len())].clone();
        for _ in 0..=self.below(4) {
            self.change(&mut input, population);
        }
        input.truncate(BYTES_MAX);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, population: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        let end = (at + 1 + self.below(8)).min(input.len());
        match self.below(8) {
            0 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << self.below(8);
                }
            }
            1 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = byte.wrapping_add_signed([-1, 1, 8, -8][self.below(4)]);
                }
            }
            2 => drop(input.drain(at..end.max(at))),
            3 => {
                let copied = input[at..end.max(at)].to_vec();
                insert(input, at, copied);
            }
            4 => {
                let edge = EDGES[self.below(EDGES.len())];
                let made = match self.below(3) {
                    0 => varint(edge),
                    1 => edge.to_string().into_bytes(),
                    _ => edge.to_le_bytes().to_vec(),
                };
                insert(input, at, made);
            }
            5 => {
                let made = self.next().to_le_bytes()[..self.below(8)].to_vec();
                insert(input, at, made);
            }
            6 => self.number(input, at),
            _ => {
                let other = &population[self.below(population.len())];
                let from = self.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }

    /// Makes the number that stands at or behind `at` another one.
    fn number(&mut self, input: &mut Vec<u8>, at: usize) {
        let digit = input[at..].iter().position(u8::is_ascii_digit);
        let Some(from) = digit.map(|more| at + more) else { return };
        let behind = input[from..].iter().position(|it| !it.is_ascii_digit());
        let end = behind.map_or(input.len(), |more| from + more);
        let sign = ["", "-"][self.below(2)];
        let made = format!("{sign}{}", EDGES[self.below(EDGES.len())]);
        input.splice(from..end, made.into_bytes());
    }
}

fn insert(into: &mut Vec<u8>, at: usize, bytes: Vec<u8>) {
    into.splice(at..at, bytes);
}

/// A number as protobuf writes it.
fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
    bytes
}
