//! What a lane sleeps on: an epoll over its waker, its door, and every session's bell and socket.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ferry_memory::{Bell, MemoryError, PeerId};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::time::Timespec;

use crate::link::{EVENTS_PER_POLL_MAX, LinkError, Wake};

/// Whom a notice is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// Another thread wants the lane awake.
    Waker,
    /// Somebody connected.
    Door,
    /// A connection that proved nothing yet sent something or ended.
    Stranger(PeerId),
    /// A session's socket: a bye or the end of its client.
    Socket(PeerId),
    /// A session's bell.
    Bell(PeerId),
}

/// The kinds of [`Notice`] in the low bits of what epoll keeps for us.
const KIND_BITS: u32 = 3;

impl Notice {
    fn to_data(self) -> EventData {
        let (kind, peer) = match self {
            Notice::Waker => (0, 0),
            Notice::Door => (1, 0),
            Notice::Stranger(peer) => (2, peer.0),
            Notice::Socket(peer) => (3, peer.0),
            Notice::Bell(peer) => (4, peer.0),
        };
        EventData::new_u64(peer << KIND_BITS | kind)
    }

    fn from_data(data: EventData) -> Option<Notice> {
        let (number, peer) = (data.u64(), PeerId(data.u64() >> KIND_BITS));
        match number & ((1 << KIND_BITS) - 1) {
            0 => Some(Notice::Waker),
            1 => Some(Notice::Door),
            2 => Some(Notice::Stranger(peer)),
            3 => Some(Notice::Socket(peer)),
            4 => Some(Notice::Bell(peer)),
            _ => None,
        }
    }

    fn flags(self) -> EventFlags {
        match self {
            // Edges: every ring is a notice, and nobody has to read (see `Bell`).
            Notice::Waker | Notice::Bell(_) => EventFlags::IN | EventFlags::ET,
            Notice::Door => EventFlags::IN,
            Notice::Stranger(_) | Notice::Socket(_) => EventFlags::IN | EventFlags::RDHUP,
        }
    }
}

/// An epoll and the notices of its last wait.
#[derive(Debug)]
pub(super) struct Notices {
    epoll: OwnedFd,
    /// At most as many as one wait brings.
    ready: Vec<Notice>,
    waker: Arc<LaneWaker>,
}

impl Notices {
    pub(super) fn new() -> Result<Notices, LinkError> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|errno| LinkError::os("make an epoll", errno))?;
        let waker = LaneWaker::new().map_err(|error| LinkError::os("make a waker", error))?;
        let waker = Arc::new(waker);
        let ready = Vec::with_capacity(EVENTS_PER_POLL_MAX);
        let notices = Notices { epoll, ready, waker };
        notices.add(&notices.waker.bell, Notice::Waker)?;
        Ok(notices)
    }

    pub(super) fn waker(&self) -> &Arc<LaneWaker> {
        &self.waker
    }

    pub(super) fn add(&self, source: impl AsFd, notice: Notice) -> Result<(), LinkError> {
        epoll::add(&self.epoll, source, notice.to_data(), notice.flags())
            .map_err(|errno| LinkError::os("watch a descriptor", errno))
    }

    /// Stops watching. Closing is not enough where the peer holds the same descriptor.
    pub(super) fn remove(&self, source: impl AsFd) {
        if let Err(errno) = epoll::delete(&self.epoll, source) {
            tracing::debug!(%errno, "was not watched");
        }
    }

    /// Waits for at most `at_most` and takes the notices that there are.
    pub(super) fn wait(&mut self, at_most: Duration) {
        self.ready.clear();
        let timeout =
            Timespec::try_from(at_most).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        let mut space = [MaybeUninit::<epoll::Event>::uninit(); EVENTS_PER_POLL_MAX];
        match epoll::wait(&self.epoll, &mut space, Some(&timeout)) {
            Ok((events, _)) => {
                self.ready.extend(events.iter().filter_map(|event| Notice::from_data(event.data)));
            }
            // A signal ends the wait early, which the caller must expect anyway.
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => tracing::error!(%errno, "waiting for peers failed"),
        }
    }

    /// One of the notices of the last wait.
    pub(super) fn take(&mut self) -> Option<Notice> {
        self.ready.pop()
    }
}

/// Ends a lane's sleep. No system call is made while the lane is awake.
#[derive(Debug)]
pub(super) struct LaneWaker {
    bell: Bell,
    /// Somebody wants the current or the next sleep to end.
    wanted: AtomicBool,
    /// The lane sleeps or is about to.
    asleep: AtomicBool,
}

impl LaneWaker {
    fn new() -> Result<LaneWaker, MemoryError> {
        let (wanted, asleep) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(LaneWaker { bell: Bell::new()?, wanted, asleep })
    }

    /// Before a sleep. False: somebody wants none.
    pub(super) fn falls_asleep(&self) -> bool {
        // Both sides store first and look after, in one total order: either this sees `wanted`, or
        // `wake` sees `asleep` and rings.
        self.asleep.store(true, Ordering::SeqCst);
        if self.wanted.load(Ordering::SeqCst) {
            self.wakes_up();
            return false;
        }
        true
    }

    /// After a sleep.
    pub(super) fn wakes_up(&self) {
        self.asleep.store(false, Ordering::SeqCst);
        self.wanted.store(false, Ordering::SeqCst);
    }
}

impl Wake for LaneWaker {
    fn wake(&self) {
        self.wanted.store(true, Ordering::SeqCst);
        if self.asleep.swap(false, Ordering::SeqCst) {
            self.bell.ring();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_come_back_as_they_went() {
        let peer = PeerId(u64::MAX >> KIND_BITS);
        let all = [
            Notice::Waker,
            Notice::Door,
            Notice::Stranger(peer),
            Notice::Socket(peer),
            Notice::Bell(peer),
        ];
        for notice in all {
            assert_eq!(Notice::from_data(notice.to_data()), Some(notice));
        }
    }

    #[test]
    fn each_edge_of_a_bell_is_noticed_and_nothing_else() {
        let mut notices = Notices::new().unwrap();
        let bell = Bell::new().unwrap();
        let notice = Notice::Bell(PeerId(7));
        notices.add(&bell, notice).unwrap();
        for _ in 0..3 {
            notices.wait(Duration::ZERO);
            assert_eq!(notices.take(), None);
            bell.ring();
            notices.wait(Duration::from_secs(60));
            assert_eq!(notices.take(), Some(notice));
        }
        notices.remove(&bell);
        bell.ring();
        notices.wait(Duration::ZERO);
        assert_eq!(notices.take(), None, "not watched any more");
    }

    #[test]
    fn a_wake_before_the_sleep_is_not_lost() {
        let notices = Notices::new().unwrap();
        notices.waker().wake();
        assert!(!notices.waker().falls_asleep());
        assert!(notices.waker().falls_asleep());
    }
}
