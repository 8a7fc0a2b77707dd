//! A 32-bit word in shared memory that a thread of either process can sleep on.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use rustix::thread::futex;
use rustix::time::Timespec;

use crate::backing::MemoryError;
use crate::region::Region;

/// A `u32` inside shared memory, which it keeps mapped.
#[derive(Clone, Debug)]
pub struct Word {
    cell: NonNull<AtomicU32>,
    _memory: Arc<Region>,
}

// SAFETY: the cell is an atomic in memory that `_memory` keeps mapped.
unsafe impl Send for Word {}
// SAFETY: as above.
unsafe impl Sync for Word {}

impl Word {
    /// The word at the start of `memory`, of which nobody in this process reaches the rest.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] if it does not lie inside, [`MemoryError::Layout`] if it is not
    /// aligned or not memory of the host.
    pub fn new(memory: Region) -> Result<Word, MemoryError> {
        Word::inside(&Arc::new(memory), 0)
    }

    /// The word at byte `at`. What else lies in `memory` is reached by atomics alone.
    pub(crate) fn inside(memory: &Arc<Region>, at: usize) -> Result<Word, MemoryError> {
        let cell = cell_at::<AtomicU32>(memory, at)?;
        Ok(Word { cell, _memory: Arc::clone(memory) })
    }

    /// The word itself.
    pub fn cell(&self) -> &AtomicU32 {
        // SAFETY: checked for bounds and alignment when made, kept mapped by `_memory`, and reached
        // by atomics alone: the region is behind this word and those beside it.
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
pub(crate) fn cell_at<T>(memory: &Region, at: usize) -> Result<NonNull<T>, MemoryError> {
    let (len, bytes) = (size_of::<T>(), memory.bytes());
    if at.checked_add(len).is_none_or(|end| end > bytes) {
        return Err(MemoryError::OutOfRange { at, len, bytes });
    }
    let base = memory.view().host().ok_or(MemoryError::NotOfHost(memory.view().placement()))?;
    // SAFETY: `at` lies inside the region.
    let cell = unsafe { base.add(at) };
    if !cell.addr().get().is_multiple_of(align_of::<T>()) || !memory.view().is_writable() {
        let what = format!("a word of {len} bytes cannot stand at byte {at}: not aligned");
        return Err(MemoryError::Layout { what });
    }
    Ok(cell.cast())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use ferry_core::SlotLayout;

    use super::*;
    use crate::heap::HeapBacking;
    use crate::shared::SharedBacking;

    fn memory() -> Region {
        Region::whole(HeapBacking::new(4096).unwrap())
    }

    #[test]
    fn words_lie_inside_and_are_aligned() {
        let memory = Arc::new(memory());
        assert!(Word::inside(&memory, 4092).is_ok());
        for at in [4093, 4096, usize::MAX - 3] {
            let word = Word::inside(&memory, at);
            assert!(matches!(word, Err(MemoryError::OutOfRange { .. })), "{at}");
        }
        for at in [1, 2, 3, 4090] {
            assert!(matches!(Word::inside(&memory, at), Err(MemoryError::Layout { .. })), "{at}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no shared mappings")]
    fn a_wake_through_another_mapping_ends_the_sleep() {
        let layout = SlotLayout { slots: 1, request_bytes: 1, reply_bytes: 1 };
        let (ours, memfd) = SharedBacking::create(4096, layout).unwrap();
        let theirs = SharedBacking::import(memfd, 4096, layout).unwrap();
        let word = |backing| Word::new(Region::whole(backing).split_at(64).unwrap().1).unwrap();
        let (ours, theirs) = (word(ours), word(theirs));
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
        let word = Word::new(memory()).unwrap();
        word.wait(1, Duration::MAX);
        word.wait(0, Duration::from_millis(1));
    }
}
