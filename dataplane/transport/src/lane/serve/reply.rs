//! Replies on their way out: from the handler or the outbox to the link, until it has handed them
//! on.

use std::time::Instant;

use ferry_core::{Body, Frame, InBatch, Reply, Status, Tail};
use ferry_memory::{Departure, PeerId};

use super::{Lane, Session};
use crate::link::{EVENTS_PER_POLL_MAX, LinkError, Transfer};

impl Lane {
    /// A request came back from the handler. It counts as leaving before it ceases to be in flight:
    /// whoever sees that nothing is in flight sees what is leaving. And it is not in flight any
    /// more when its client has the reply.
    pub(super) fn depart(&mut self, departure: Departure) {
        self.arose(1);
        self.in_flight = self.in_flight.saturating_sub(1);
        self.shared.counters.in_flight.set(self.in_flight);
        self.reply(departure);
        self.left(1);
    }

    /// Sends what other threads made ready, at most as much as one poll brings: a full outbox
    /// must not keep the lane from its link.
    pub(super) fn empty_outbox(&mut self) -> bool {
        for sent in 0..EVENTS_PER_POLL_MAX {
            let Some(departure) = self.shared.outbox().take() else { return sent > 0 };
            self.depart(departure);
        }
        true
    }

    pub(super) fn reply(&mut self, mut departure: Departure) {
        if departure.payload_bytes > departure.slot.reply().bytes() {
            (departure.status, departure.payload_bytes) = (Status::EngineFailed, 0);
        }
        departure.close(Instant::now(), self.woken_for(&departure));
        self.handler.departs(&departure);
        let counters = &self.shared.counters;
        let live = self
            .sessions
            .get_mut(&departure.session)
            .filter(|it| it.generation == departure.generation && it.peer == Some(departure.peer));
        let Some(session) = live else {
            // Dropping the departure frees its slot, in a table that nobody else may use.
            counters.stale.bump();
            return;
        };
        let Departure { peer, request, status, payload_bytes, outputs, times, slot, .. } =
            departure;
        let reply_ns_previous = session.last_reply.and_then(|(_, ns)| ns);
        let frame = Frame {
            session: departure.session,
            generation: departure.generation,
            slot: slot.index(),
            request,
            payload_bytes: payload_bytes as u64,
            body: Body::Reply(Reply { status, times, reply_ns_previous }),
        };
        session.last_reply = Some((request, None));
        let outputs = outputs.filter(|_| matches!(status, Status::Ok | Status::ReplyTooLarge));
        let tail = Tail { batch: InBatch::of(&times).map(Box::new), ..Tail::with_outputs(outputs) };
        match self.link.submit(Transfer { peer, frame, slot, tail }) {
            Ok(()) => {
                counters.replies.bump();
                session.leaving += 1;
                self.arose(1);
            }
            Err(rejected) => {
                counters.unsent.bump();
                if !matches!(rejected.why, LinkError::NoPeer(_) | LinkError::Closed) {
                    // A client that gets no answer would wait for ever: it is told that the link
                    // is of no use any more.
                    self.evict(departure.session, Status::LinkLost);
                }
            }
        }
    }

    /// When the lane began to run, if it slept when this reply became ready.
    fn woken_for(&self, departure: &Departure) -> Option<Instant> {
        let (from, to) = self.slept?;
        (from <= departure.ready && departure.ready < to).then_some(to)
    }

    /// The link has handed a reply on.
    pub(super) fn sent(&mut self, peer: PeerId, request: u64, elapsed_ns: u64) {
        let session = self.by_peer.get(&peer).and_then(|it| self.sessions.get_mut(it));
        let Some(session) = session.filter(|it| it.peer == Some(peer)) else { return };
        if let Session { last_reply: Some((last, ns)), .. } = session
            && *last == request
        {
            *ns = Some(elapsed_ns);
        }
        if session.leaving > 0 {
            session.leaving -= 1;
            self.left(1);
        }
    }

    /// Replies are with the link, or about to be.
    fn arose(&mut self, replies: u64) {
        self.leaving += replies;
        self.shared.counters.leaving.set(self.leaving);
    }

    /// Replies are not with the link any more: handed on, or cut off.
    pub(super) fn left(&mut self, replies: u64) {
        self.leaving = self.leaving.saturating_sub(replies);
        self.shared.counters.leaving.set(self.leaving);
    }
}
