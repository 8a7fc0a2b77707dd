//! What links that sleep in the kernel share: the waker.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::link::{LinkError, Wake};

/// Ends a sleep in `poll` or `epoll_wait` through an eventfd.
///
/// While the owner is awake, [`wake`](Wake::wake) is two atomic accesses and no system call.
#[derive(Debug)]
pub struct EventWaker {
    fd: OwnedFd,
    /// Somebody woke since the owner last went to sleep.
    woken: AtomicBool,
    /// The owner sleeps or is about to.
    asleep: AtomicBool,
}

impl EventWaker {
    /// An eventfd of its own.
    ///
    /// # Errors
    /// [`LinkError::Os`] if descriptors are short.
    pub fn new() -> Result<Arc<EventWaker>, LinkError> {
        let fd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
            .map_err(|errno| LinkError::os("make an eventfd", errno))?;
        let (woken, asleep) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Arc::new(EventWaker { fd, woken, asleep }))
    }

    /// Announces a sleep. `false` if somebody woke already: then there is no sleep.
    ///
    /// The owner stores `asleep` and then reads `woken`; a waker stores `woken` and then reads
    /// `asleep`. All four are sequentially consistent, so at least one sees the other.
    pub fn lie_down(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        if self.woken.swap(false, Ordering::SeqCst) {
            self.asleep.store(false, Ordering::SeqCst);
            return false;
        }
        true
    }

    /// Ends what [`lie_down`](EventWaker::lie_down) announced. `rung` says that the eventfd was
    /// seen readable and is to be emptied.
    pub fn get_up(&self, rung: bool) {
        self.asleep.store(false, Ordering::SeqCst);
        self.woken.store(false, Ordering::SeqCst);
        if rung {
            // Nothing to read means that there is nothing to empty.
            let _nothing = rustix::io::read(&self.fd, &mut [0_u8; 8]);
        }
    }
}

impl EventWaker {
    /// Sleeps with nothing else to wait for.
    pub fn doze(&self, at_most: Duration) {
        if !self.lie_down() {
            return;
        }
        let mut door = [PollFd::new(self, PollFlags::IN)];
        // A time too long to be written down is as good as for ever; a signal only wakes early.
        let _early = poll(&mut door, Timespec::try_from(at_most).ok().as_ref());
        self.get_up(door[0].revents().contains(PollFlags::IN));
    }
}

impl AsFd for EventWaker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Wake for EventWaker {
    fn wake(&self) {
        self.woken.store(true, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) {
            // Fails only when the counter is full, and then the owner is being woken already.
            let _full = rustix::io::write(&self.fd, &1_u64.to_ne_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readable(waker: &EventWaker) -> bool {
        rustix::io::read(waker, &mut [0_u8; 8]).is_ok()
    }

    #[test]
    fn a_wake_before_the_sleep_prevents_it_and_costs_no_system_call() {
        let waker = EventWaker::new().unwrap();
        waker.wake();
        assert!(!readable(&waker), "the owner was awake");
        assert!(!waker.lie_down());
        assert!(waker.lie_down(), "one wake ends one sleep");
    }

    #[test]
    fn a_wake_in_the_sleep_rings_and_the_next_sleep_is_undisturbed() {
        let waker = EventWaker::new().unwrap();
        assert!(waker.lie_down());
        waker.wake();
        waker.get_up(true);
        assert!(!readable(&waker));
        assert!(waker.lie_down());
    }
}
