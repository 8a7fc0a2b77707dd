//! Keeping buffers between requests, but not the memory of one huge picture for ever.

/// What a buffer may keep between requests, in bytes: a 2360 × 2360 RGB picture. A larger
/// picture is served all the same; what it needed is given back at the next smaller one.
pub(crate) const RETAINED_BYTES_MAX: usize = 16 << 20;

/// The first `len` bytes of `buffer`, grown as needed.
///
/// The contents are whatever the last picture left there.
pub(crate) fn scratch<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
    let retained_max = RETAINED_BYTES_MAX / size_of::<T>();
    if buffer.len() > retained_max && len <= retained_max {
        *buffer = Vec::new();
    }
    if buffer.len() < len {
        // Nothing of the old contents is wanted: a fresh allocation saves copying them.
        *buffer = vec![T::default(); len];
    }
    &mut buffer[..len]
}

#[cfg(test)]
mod tests {
    use super::{RETAINED_BYTES_MAX, scratch};

    #[test]
    fn a_smaller_picture_reuses_the_buffer() {
        let mut buffer: Vec<u8> = Vec::new();
        let first = scratch(&mut buffer, 1000).as_ptr();
        assert_eq!(scratch(&mut buffer, 10).as_ptr(), first);
        assert_eq!(scratch(&mut buffer, 10).len(), 10);
        assert_eq!(buffer.len(), 1000);
    }

    #[test]
    fn a_huge_picture_does_not_stay() {
        let mut buffer: Vec<u8> = Vec::new();
        scratch(&mut buffer, RETAINED_BYTES_MAX + 1);
        scratch(&mut buffer, 10);
        assert_eq!(buffer.capacity(), 10);
    }
}
