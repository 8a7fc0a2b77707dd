//! What a lane sleeps on: an epoll over its waker, its door, and every session's bell and socket.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use ferry_memory::PeerId;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::time::Timespec;

use crate::event::EventWaker;
use crate::link::{EVENTS_PER_POLL_MAX, LinkError};

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
    waker: Arc<EventWaker>,
}

impl Notices {
    pub(super) fn new() -> Result<Notices, LinkError> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|errno| LinkError::os("make an epoll", errno))?;
        let waker = EventWaker::new()?;
        let ready = Vec::with_capacity(EVENTS_PER_POLL_MAX);
        let notices = Notices { epoll, ready, waker };
        notices.add(&*notices.waker, Notice::Waker)?;
        Ok(notices)
    }

    pub(super) fn waker(&self) -> &Arc<EventWaker> {
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

#[cfg(test)]
mod tests {
    use ferry_memory::Bell;

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
}
