//! Copies into and out of memory of the host that a peer may write at any time.

use std::ptr::NonNull;

use crate::backing::MemoryError;
use crate::region::check_range;

/// Copies up to this long are volatile: headers and what goes with them, which decide what is done
/// next. Longer ones are payloads, which nobody interprets while they move.
const VOLATILE_BYTES_MAX: usize = 2048;

/// What is read or written at a time.
const WORD: usize = size_of::<u64>();

/// Copies `from` to `at` of the `bytes` bytes behind `base`.
///
/// # Safety
/// The bytes are mapped and writable. No code of this process reads or writes them meanwhile, and
/// none of them is borrowed; another process or a device may.
pub(crate) unsafe fn into_host(
    base: NonNull<u8>,
    bytes: usize,
    at: usize,
    from: &[u8],
) -> Result<(), MemoryError> {
    check_range(at, from.len(), bytes)?;
    // SAFETY: `at` is at most `bytes` (checked above).
    let to = unsafe { base.add(at) };
    if from.len() > VOLATILE_BYTES_MAX {
        // SAFETY: the range was checked above. `from` is borrowed, and so cannot overlap bytes of
        // which none is.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), from.len()) };
        return Ok(());
    }
    let (head, words, tail) = pieces(to, from.len());
    for at in (0..head).chain(words..tail) {
        // SAFETY: inside the range that was checked above.
        let to = unsafe { to.add(at) };
        // SAFETY: as above.
        unsafe { to.write_volatile(from[at]) };
    }
    for at in (head..words).step_by(WORD) {
        let mut word = [0; WORD];
        word.copy_from_slice(&from[at..at + WORD]);
        // SAFETY: inside the range that was checked above.
        let to = unsafe { to.add(at) }.cast::<u64>();
        // SAFETY: as above, and aligned by `pieces`.
        unsafe { to.write_volatile(u64::from_ne_bytes(word)) };
    }
    Ok(())
}

/// Copies the bytes at `at` of the `bytes` bytes behind `base` to `into`. Short ones are each read
/// exactly once: what is checked afterwards is what is used, whatever the peer writes meanwhile.
///
/// # Safety
/// The bytes are mapped and readable, and no code of this process writes them meanwhile; another
/// process or a device may.
pub(crate) unsafe fn out_of_host(
    base: NonNull<u8>,
    bytes: usize,
    at: usize,
    into: &mut [u8],
) -> Result<(), MemoryError> {
    check_range(at, into.len(), bytes)?;
    // SAFETY: `at` is at most `bytes` (checked above).
    let from = unsafe { base.add(at) };
    if into.len() > VOLATILE_BYTES_MAX {
        // SAFETY: the range was checked above. `into` is borrowed alone, and so cannot overlap it.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), into.as_mut_ptr(), into.len()) };
        return Ok(());
    }
    let (head, words, tail) = pieces(from, into.len());
    for at in (0..head).chain(words..tail) {
        // SAFETY: inside the range that was checked above.
        let from = unsafe { from.add(at) };
        // SAFETY: as above.
        into[at] = unsafe { from.read_volatile() };
    }
    for at in (head..words).step_by(WORD) {
        // SAFETY: inside the range that was checked above.
        let from = unsafe { from.add(at) }.cast::<u64>();
        // SAFETY: as above, and aligned by `pieces`.
        let word = unsafe { from.read_volatile() };
        into[at..at + WORD].copy_from_slice(&word.to_ne_bytes());
    }
    Ok(())
}

/// Where the first whole aligned word begins, where the last one ends, and the length.
fn pieces(base: NonNull<u8>, len: usize) -> (usize, usize, usize) {
    let head = (base.addr().get().wrapping_neg() % WORD).min(len);
    (head, head + (len - head) / WORD * WORD, len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_alignment_and_length_is_copied_whole_and_nothing_else_is_touched() {
        let from: Vec<u8> = (0..3000_usize).map(|at| (at % 251).to_le_bytes()[0] | 1).collect();
        let lengths = [0, 1, 7, 8, 9, 15, 16, 17, 127, 128, 129, 2047, 2048, 2049, 2900];
        for (start, len) in (0..17).flat_map(|start| lengths.map(|len| (start, len))) {
            let mut memory = vec![0_u64; 400];
            let (base, room) = (NonNull::from(memory.as_mut_slice()).cast::<u8>(), 3200);
            // SAFETY: `memory` has so many bytes, and is not used meanwhile.
            unsafe { into_host(base, room, start, &from[..len]) }.unwrap();
            let mut seen = vec![0xA5; len];
            // SAFETY: as above.
            unsafe { out_of_host(base, room, start, &mut seen) }.unwrap();
            assert_eq!(seen, from[..len], "{len} bytes at {start}");
            let bytes: Vec<u8> = memory.iter().flat_map(|word| word.to_ne_bytes()).collect();
            let around = bytes[..start].iter().chain(&bytes[start + len..]);
            assert!(around.copied().all(|byte| byte == 0), "{len} bytes at {start}");
        }
    }
}
