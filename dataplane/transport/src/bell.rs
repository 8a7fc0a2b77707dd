//! Sleeping and being woken inside one process, without a system call while awake.

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::link::Wake;

/// What the owner of an in-process link sleeps on.
///
/// Whoever puts something where the owner looks calls [`notify`](Bell::notify): while the owner
/// is awake that is one fence and one load.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    asleep: AtomicBool,
    rung: AtomicBool,
    lock: Mutex<()>,
    cond: Condvar,
}

impl Bell {
    /// Ends the owner's sleep if it sleeps or is about to. To be called after the work is in
    /// place: the fence orders it before the look at `asleep`, and `sleep` does the reverse, so
    /// that one of the two sees the other.
    pub(crate) fn notify(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    /// Sleeps for at most `at_most`, unless the bell was rung or `has_work` says so.
    pub(crate) fn sleep(&self, at_most: Duration, has_work: impl FnOnce() -> bool) {
        self.asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if !self.rung.load(Ordering::SeqCst) && !has_work() {
            let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            let still = |(): &mut ()| !self.rung.load(Ordering::SeqCst);
            // The guard and whether it timed out are of no interest: both end the sleep.
            drop(self.cond.wait_timeout_while(guard, at_most, still));
        }
        self.asleep.store(false, Ordering::SeqCst);
        self.rung.swap(false, Ordering::SeqCst);
    }
}

impl Wake for Bell {
    fn wake(&self) {
        self.rung.store(true, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) {
            // Taken so that the ring cannot fall between the owner's look and its wait.
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.cond.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_ring_before_the_sleep_ends_it() {
        let bell = Bell::default();
        bell.wake();
        let start = Instant::now();
        bell.sleep(LONG, || false);
        assert!(start.elapsed() < LONG);
    }

    #[test]
    fn no_ring_is_lost_however_the_threads_meet() {
        let bell = Arc::new(Bell::default());
        let ball = Arc::new(AtomicBool::new(false));
        let (other_bell, other_ball) = (Arc::clone(&bell), Arc::clone(&ball));
        let answer = Arc::new(Bell::default());
        let other_answer = Arc::clone(&answer);
        let thread = std::thread::Builder::new().name("ringer".into()).spawn(move || {
            for _ in 0..20_000 {
                other_ball.store(true, Ordering::Release);
                other_bell.notify();
                while other_ball.load(Ordering::Acquire) {
                    other_answer.sleep(LONG, || !other_ball.load(Ordering::Acquire));
                }
            }
        });
        let start = Instant::now();
        for _ in 0..20_000 {
            while !ball.load(Ordering::Acquire) {
                bell.sleep(LONG, || ball.load(Ordering::Acquire));
            }
            ball.store(false, Ordering::Release);
            answer.notify();
        }
        thread.unwrap().join().unwrap();
        assert!(start.elapsed() < LONG, "a ring was slept through");
    }
}
