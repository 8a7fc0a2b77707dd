//! What a session is known by, and the limits that it agreed on.

use std::fmt;

/// Names a session on one server. Never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Counts the leases of one session: each resume adds one, and what an older one still sends is
/// refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u32);

impl Generation {
    /// That of a session just opened.
    pub const FIRST: Generation = Generation(1);

    /// The next one; `None` once 2^32 resumes are used up, when the session has to be opened anew.
    pub const fn next(self) -> Option<Generation> {
        match self.0.checked_add(1) {
            Some(next) => Some(Generation(next)),
            None => None,
        }
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Names one slot of a session, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotIndex(pub u32);

impl SlotIndex {
    /// The index as a `usize`.
    pub fn at(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for SlotIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Names the trace that a request is part of, as its caller's own tracing does: 16 bytes, all zero
/// for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TraceId(pub [u8; 16]);

impl TraceId {
    /// In no trace.
    pub const NONE: TraceId = TraceId([0; 16]);

    /// Whether there is no trace.
    pub fn is_none(&self) -> bool {
        *self == TraceId::NONE
    }
}

impl fmt::Display for TraceId {
    /// 32 hexadecimal digits, as in W3C's `traceparent`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// The secret that proves that a peer is the one that opened the session: 256 random bits.
#[derive(Clone, Copy)]
pub struct Token([u8; 32]);

impl Token {
    /// Length in bytes.
    pub const BYTES: usize = 32;

    /// Wraps bytes that a random source gave or that a peer presented.
    pub const fn new(bytes: [u8; 32]) -> Token {
        Token(bytes)
    }

    /// The bytes, to be presented to the server.
    pub const fn reveal(&self) -> &[u8; 32] {
        &self.0
    }

    /// Compares in time that does not depend on where the first difference is.
    pub fn matches(&self, other: &Token) -> bool {
        let differing = self.0.iter().zip(&other.0).fold(0_u8, |acc, (a, b)| acc | (a ^ b));
        std::hint::black_box(differing) == 0
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Token) -> bool {
        self.matches(other)
    }
}

impl Eq for Token {}

impl fmt::Debug for Token {
    /// Never shows the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Most slots one session may have: the free slots of a session are one 64-bit mask.
pub const SLOTS_MAX: u32 = 64;

/// How many slots a session has and how long each half of one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotLayout {
    /// 1 to [`SLOTS_MAX`].
    pub slots: u32,
    /// Room for a request's payload, in bytes.
    pub request_bytes: u64,
    /// Room for a reply's payload, in bytes.
    pub reply_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_compare_whole_and_stay_secret() {
        let token = Token::new([7; 32]);
        let mut other = [7; 32];
        assert!(token.matches(&Token::new(other)));
        other[31] ^= 1;
        assert!(!token.matches(&Token::new(other)));
        assert!(!format!("{token:?}").contains('7'));
    }

    #[test]
    fn generations_end() {
        assert_eq!(Generation::FIRST.next(), Some(Generation(2)));
        assert_eq!(Generation(u32::MAX).next(), None);
    }
}
