//! Ends a client's sleep.

use std::sync::atomic::{AtomicBool, Ordering};

use ferry_memory::Word;
use ferry_memory::ring::{ASLEEP, AWAKE};

use crate::link::Wake;

/// Wakes a client on the word that the server wakes, too: the flag of the ring of replies.
#[derive(Debug)]
pub(super) struct ClientWaker {
    sleeper: Word,
    /// Somebody wants the current or the next sleep to end.
    wanted: AtomicBool,
}

impl ClientWaker {
    pub(super) fn new(sleeper: Word) -> ClientWaker {
        ClientWaker { sleeper, wanted: AtomicBool::new(false) }
    }

    /// What the client sleeps on.
    pub(super) fn sleeper(&self) -> &Word {
        &self.sleeper
    }

    /// Whether a sleep was to end; asked once, it is forgotten.
    pub(super) fn was_wanted(&self) -> bool {
        self.wanted.swap(false, Ordering::SeqCst)
    }
}

impl Wake for ClientWaker {
    fn wake(&self) {
        // Stores first and looks after, as a producer does; the client raises the flag first and
        // looks at `wanted` after. One of the two sees the other.
        self.wanted.store(true, Ordering::SeqCst);
        if self.sleeper.cell().swap(AWAKE, Ordering::SeqCst) == ASLEEP {
            self.sleeper.wake();
        }
    }
}
