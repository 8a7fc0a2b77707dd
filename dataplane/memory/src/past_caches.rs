//! Copies that leave nothing in this CPU's caches.
//!
//! A device that reads what a core has just written gets it out of that core's cache, line by line,
//! slower than out of memory. Bytes that only a device reads are better written past the caches.

use std::ptr::NonNull;

/// Bytes below which a plain copy is as good.
const WORTH_BYTES: usize = 16 << 10;

/// Copies `from` to `to`. Whoever is told of it afterwards sees all of it.
///
/// # Safety
/// As many bytes behind `to` as `from` has are mapped and writable, and do not overlap it.
pub(crate) unsafe fn copy(to: NonNull<u8>, from: &[u8]) {
    let mut done = 0;
    if from.len() >= WORTH_BYTES {
        // SAFETY: the caller's argument.
        done = unsafe { lines(to, from) };
    }
    let rest = &from[done..];
    // SAFETY: within the range of the caller's argument.
    let to = unsafe { to.add(done) };
    // SAFETY: as above.
    unsafe { std::ptr::copy_nonoverlapping(rest.as_ptr(), to.as_ptr(), rest.len()) };
}

/// Copies as much as whole lines are of; how many bytes that was.
///
/// # Safety
/// As [`copy`].
#[cfg(all(target_arch = "x86_64", not(miri)))]
unsafe fn lines(to: NonNull<u8>, from: &[u8]) -> usize {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
    /// Bytes of a cache line, and of a vector.
    const LINE: usize = 64;
    const VECTOR: usize = size_of::<__m128i>();
    let head = to.as_ptr().align_offset(LINE).min(from.len());
    // SAFETY: the caller's argument; `head` is at most as long as `from`.
    unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), head) };
    let end = head + (from.len() - head) / LINE * LINE;
    for at in (head..end).step_by(VECTOR) {
        let (source, target) = (from[at..].as_ptr(), to.as_ptr().wrapping_add(at));
        // SAFETY: whole vectors below `end` lie in `from`; loads need no alignment, and every
        // x86-64 has these instructions.
        let vector = unsafe { _mm_loadu_si128(source.cast()) };
        // SAFETY: as above, in `to`, where `head` and with it every vector is aligned.
        unsafe { _mm_stream_si128(target.cast(), vector) };
    }
    // Such stores are ordered with nothing: a doorbell must not overtake them.
    // SAFETY: every x86-64 has this instruction.
    unsafe { _mm_sfence() };
    end
}

/// # Safety
/// As [`copy`]; nothing is copied.
#[cfg(any(not(target_arch = "x86_64"), miri))]
unsafe fn lines(_to: NonNull<u8>, _from: &[u8]) -> usize {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_alignment_and_length_is_copied_whole_and_nothing_else_is_touched() {
        let from: Vec<u8> =
            (0..WORTH_BYTES + 300).map(|at| (at % 251).to_le_bytes()[0] | 1).collect();
        for start in 0..70 {
            for len in [0, 1, 63, 64, 65, WORTH_BYTES - 1, WORTH_BYTES, WORTH_BYTES + 129] {
                let offset = start % 7;
                let mut into = vec![0_u8; len + 200];
                let to = NonNull::new(into[start..].as_mut_ptr()).unwrap();
                // SAFETY: `into` has room for `len` bytes from `start` on.
                unsafe { copy(to, &from[offset..offset + len]) };
                assert_eq!(into[start..start + len], from[offset..offset + len], "{start} {len}");
                let around = into[..start].iter().chain(&into[start + len..]);
                assert!(around.copied().all(|byte| byte == 0), "{start} {len}");
            }
        }
    }
}
