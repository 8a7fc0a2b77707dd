//! An eventfd: ends the sleep of a thread that waits for many peers at once.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::EventfdFlags;

use crate::backing::MemoryError;

/// One end of a bell.
///
/// Who waits registers it edge-triggered and never reads it: the flags of an eventfd are shared
/// with the peer, who could make it blocking again and empty it between the look and the read.
#[derive(Debug)]
pub struct Bell(OwnedFd);

impl Bell {
    /// A bell that was never rung.
    ///
    /// # Errors
    /// [`MemoryError::Os`] if descriptors are short.
    pub fn new() -> Result<Bell, MemoryError> {
        let made = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        made.map(Bell).map_err(|errno| MemoryError::Os {
            what: "make an eventfd".into(),
            source: errno.into(),
        })
    }

    /// Wakes the waiter, or makes its next wait return at once.
    pub fn ring(&self) {
        // Only a counter at 2^64-2 refuses (EAGAIN), and that bell has been heard.
        rustix::io::write(&self.0, &1_u64.to_ne_bytes()).ok();
    }
}

impl From<OwnedFd> for Bell {
    /// The end that a trusted peer handed over.
    fn from(eventfd: OwnedFd) -> Bell {
        Bell(eventfd)
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ring_counts() {
        let bell = Bell::new().unwrap();
        let mut count = [0; 8];
        assert!(rustix::io::read(&bell, &mut count).is_err(), "never rung");
        let other = Bell::from(bell.as_fd().try_clone_to_owned().unwrap());
        other.ring();
        bell.ring();
        assert_eq!(rustix::io::read(&bell, &mut count), Ok(8));
        assert_eq!(u64::from_ne_bytes(count), 2);
    }
}
