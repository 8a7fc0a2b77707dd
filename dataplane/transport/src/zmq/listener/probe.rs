//! Who is gone after a connection broke: libzmq says that one did, and not whose.

use std::time::{Duration, Instant};

use ferry_core::{Body, Frame, Status};
use ferry_memory::PeerId;

use super::{Peer, ZmqListenerLink};
use crate::link::LinkError;
use crate::roster::goodbye;
use crate::zmq::socket::Sent;

/// When peers are probed after a connection broke: libzmq reports the break before it forgets
/// the peer, by a moment that depends on its own threads.
const PROBES_AFTER: [Duration; 3] =
    [Duration::from_millis(2), Duration::from_millis(20), Duration::from_millis(200)];

impl ZmqListenerLink {
    pub(super) fn note_break(&mut self) {
        self.broken_again = self.broken.is_some();
        self.broken.get_or_insert_with(Instant::now);
    }

    /// Finds out who is gone after a connection broke.
    pub(super) fn probe(&mut self) {
        let Some(since) = self.broken else { return };
        match PROBES_AFTER.get(self.probes) {
            Some(&after) if since.elapsed() >= after => self.probes += 1,
            Some(_) => return,
            None => {
                self.broken = self.broken_again.then(Instant::now);
                (self.broken_again, self.probes) = (false, 0);
                return;
            }
        }
        let lost = |(peer, member): (&PeerId, &Peer)| {
            let body = Body::Welcome;
            let welcome = Frame { body, ..goodbye(Some(&member.admitted), Status::Ok) };
            let sent = self.socket.send_frame(Some(&member.identity), &welcome);
            matches!(sent, Ok(Sent::Gone)).then_some(*peer)
        };
        let lost: Vec<PeerId> = self.peers.iter().filter_map(lost).collect();
        for peer in lost {
            self.drop_peer(peer, None, LinkError::Closed);
        }
    }

    /// When the next probe is due; `None` if none is.
    pub(super) fn probe_in(&self) -> Option<Duration> {
        let (since, after) = self.broken.zip(PROBES_AFTER.get(self.probes))?;
        Some(after.saturating_sub(since.elapsed()))
    }
}
