//! A 32-bit word in shared memory that a thread of either process can sleep on.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use rustix::thread::futex;
use rustix::time::Timespec;

use crate::backing::{Backing, MemoryError};
use crate::shared::SharedBacking;

/// A `u32` inside a [`SharedBacking`], which it keeps mapped.
#[derive(Clone, Debug)]
pub struct Word {
    cell: NonNull<AtomicU32>,
    _memory: Arc<SharedBacking>,
}

// SAFETY: the cell is an atomic in memory that `_memory` keeps mapped.
unsafe impl Send for Word {}
// SAFETY: as above.
unsafe impl Sync for Word {}

impl Word {
    /// The word at byte `at`.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] if it does not lie inside, [`MemoryError::Layout`] if it is not
    /// aligned.
    pub fn new(memory: &Arc<SharedBacking>, at: usize) -> Result<Word, MemoryError> {
        let cell = cell_at::<AtomicU32>(memory, at)?;
        Ok(Word { cell, _memory: Arc::clone(memory) })
    }

    /// The word itself.
    pub fn cell(&self) -> &AtomicU32 {
        // SAFETY: checked for bounds and alignment when made, kept mapped by `_memory`, and every
        // access to it in this crate is atomic.
        unsafe { self.cell.as_ref() }
    }

    /// Sleeps while the word holds `value`, at most `at_most`. May return early for no reason.
    pub fn wait(&self, value: u32, at_most: Duration) {
        // A wait of more seconds than fit is cut to the longest there is.
        let timeout =
            Timespec::try_from(at_most).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        // Not the private flag: the other end is another process. Another value (EAGAIN), a signal
        // (EINTR) and the end of the time (ETIMEDOUT) all mean the same to the caller: look again.
        futex::wait(self.cell(), futex::Flags::empty(), value, Some(&timeout)).ok();
    }

    /// Wakes whoever sleeps on it, in whichever process.
    pub fn wake(&self) {
        // The address is valid and aligned, so that there is nothing to fail.
        let woken = futex::wake(self.cell(), futex::Flags::empty(), u32::MAX);
        debug_assert!(woken.is_ok(), "waking on one's own memory cannot fail: {woken:?}");
    }
}

/// The address of an atomic of type `T` at byte `at` of `memory`.
pub(crate) fn cell_at<T>(memory: &SharedBacking, at: usize) -> Result<NonNull<T>, MemoryError> {
    let (len, bytes) = (size_of::<T>(), memory.bytes());
    if at.checked_add(len).is_none_or(|end| end > bytes) {
        return Err(MemoryError::OutOfRange { at, len, bytes });
    }
    if !at.is_multiple_of(align_of::<T>()) {
        let what = format!("a word of {len} bytes cannot stand at byte {at}: not aligned");
        return Err(MemoryError::Layout { what });
    }
    let base =
        memory.host().ok_or_else(|| MemoryError::Layout { what: "not on the host".into() })?;
    // SAFETY: `at` lies inside the mapping, whose base is aligned to a page.
    Ok(unsafe { base.add(at) }.cast())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use ferry_core::SlotLayout;

    use super::*;

    fn memory() -> Arc<SharedBacking> {
        let layout = SlotLayout { slots: 1, request_bytes: 1, reply_bytes: 1 };
        Arc::new(SharedBacking::create(4096, layout).unwrap().0)
    }

    #[test]
    fn words_lie_inside_and_are_aligned() {
        let memory = memory();
        assert!(Word::new(&memory, 4092).is_ok());
        for at in [4093, 4096, usize::MAX - 3] {
            assert!(matches!(Word::new(&memory, at), Err(MemoryError::OutOfRange { .. })), "{at}");
        }
        for at in [1, 2, 3, 4090] {
            assert!(matches!(Word::new(&memory, at), Err(MemoryError::Layout { .. })), "{at}");
        }
    }

    #[test]
    fn a_wake_through_another_mapping_ends_the_sleep() {
        let layout = SlotLayout { slots: 1, request_bytes: 1, reply_bytes: 1 };
        let (ours, memfd) = SharedBacking::create(4096, layout).unwrap();
        let theirs = SharedBacking::import(memfd, 4096, layout).unwrap();
        let (ours, theirs) = (Arc::new(ours), Arc::new(theirs));
        let ours = Word::new(&ours, 64).unwrap();
        let theirs = Word::new(&theirs, 64).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                theirs.cell().store(1, Ordering::SeqCst);
                theirs.wake();
            });
            while ours.cell().load(Ordering::SeqCst) == 0 {
                // Hangs for ever, and the test with it, if a private futex were used.
                ours.wait(0, Duration::MAX);
            }
        });
    }

    #[test]
    fn another_value_and_the_end_of_the_time_end_the_sleep() {
        let word = Word::new(&memory(), 0).unwrap();
        word.wait(1, Duration::MAX);
        word.wait(0, Duration::from_millis(1));
    }
}
