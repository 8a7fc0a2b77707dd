//! The server's end of the local link.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ferry_core::{Endpoint, LinkKind, RegionDescriptor, SessionId, Status};
use ferry_memory::{PeerId, Slot};

use super::channel::{Channel, Moved};
use super::{CAPABILITIES, Expected, Hall, LOCAL_SESSIONS_MAX};
use crate::admitted::{Admission, Admitted, Refusal};
use crate::clock::between_ns;
use crate::link::{
    AdmitError, Capabilities, EVENTS_PER_POLL_MAX, Event, Events, Link, LinkError, Listener,
    Rejected, Transfer, Waker,
};

/// The server's end. Dropping it ends every session.
#[derive(Debug)]
pub struct LocalListener {
    hall: Arc<Hall>,
    /// Those connected, by rising [`PeerId`].
    peers: Vec<Peer>,
    peers_so_far: u64,
    /// Which peer the next poll starts with, so that a busy one cannot starve the others.
    turn: usize,
    /// Writes that are complete and not yet reported: whom to, request, nanoseconds.
    sent: VecDeque<(PeerId, u64, u64)>,
}

#[derive(Debug)]
struct Peer {
    admitted: Admitted,
    channel: Arc<Channel>,
}

impl LocalListener {
    pub(super) fn new(hall: Arc<Hall>) -> LocalListener {
        let sent = VecDeque::with_capacity(EVENTS_PER_POLL_MAX);
        LocalListener { hall, peers: Vec::new(), peers_so_far: 0, turn: 0, sent }
    }

    fn at(&self, peer: PeerId) -> Option<usize> {
        self.peers.binary_search_by_key(&peer, |it| it.admitted.peer).ok()
    }

    /// Reports who came to the door.
    fn hear_news(&mut self, events: &mut Events, full: usize) {
        if !self.hall.news.load(Ordering::Acquire) {
            return;
        }
        self.hall.news.swap(false, Ordering::AcqRel);
        while events.len() < full {
            let Some(refusal) = self.hall.refusals.pop() else { break };
            events.push(Event::Refused(refusal));
        }
        while events.len() < full {
            let Some(session) = self.hall.joins.pop() else { return };
            if let Some(peer) = self.join(session) {
                events.push(Event::Joined { peer, session });
            }
        }
        self.hall.news.store(true, Ordering::Release);
    }

    /// Takes a client in, unless its session was evicted meanwhile.
    fn join(&mut self, session: SessionId) -> Option<PeerId> {
        let all = self.hall.expected();
        let expected = all.get(&session)?;
        let channel = Arc::clone(expected.channel.as_ref()?);
        let known = self.peers.iter().any(|it| Arc::ptr_eq(&it.channel, &channel));
        if known || channel.server_gone().is_some() {
            return None;
        }
        let peer = PeerId(self.peers_so_far);
        self.peers_so_far += 1;
        let admission = expected.admission.clone();
        let table = Arc::clone(&expected.table);
        drop(all);
        self.peers.push(Peer { admitted: Admitted { peer, admission, table }, channel });
        Some(peer)
    }

    /// Reports what one peer sent; `false` if the peer is over and must be forgotten.
    fn hear(&mut self, at: usize, events: &mut Events, full: usize) -> bool {
        let peer = &self.peers[at];
        // Read before the queue is emptied: what it sent before it left is delivered.
        let gone = peer.channel.client_is_gone();
        while events.len() < full && !peer.channel.to_server.is_empty() {
            let Some(Moved { frame, slot, tail }) = peer.channel.to_server.pop() else { break };
            let seen = Instant::now();
            let checked = peer.admitted.check(&frame).and_then(|()| peer.is_its(&slot, frame.slot));
            let id = peer.admitted.peer;
            if let Err(refusal) = checked {
                // Nobody but a defect of this process can send it: the session ends here.
                let why = LinkError::Protocol(refusal.to_string());
                peer.channel.close(Some(Status::BadRequest));
                events.push(Event::Refused(refusal));
                events.push(peer.gone(why));
                return false;
            }
            let visible = Instant::now();
            events.push(Event::Arrived { peer: id, frame, slot, tail, seen, visible });
        }
        if gone && events.len() < full {
            events.push(peer.gone(LinkError::Closed));
            return false;
        }
        true
    }
}

impl Peer {
    fn is_its(&self, slot: &Slot, named: ferry_core::SlotIndex) -> Result<(), Refusal> {
        let session = self.admitted.admission.session;
        let own = Arc::ptr_eq(slot.table(), &self.admitted.table) && slot.index() == named;
        if own { Ok(()) } else { Err(Refusal::Slot { session, slot: named.0 }) }
    }

    fn gone(&self, why: LinkError) -> Event {
        let session = Some(self.admitted.admission.session);
        Event::Gone { peer: self.admitted.peer, session, why, slots: Vec::new() }
    }
}

impl Link for LocalListener {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn submit(&mut self, transfer: Transfer) -> Result<(), Rejected> {
        let reject = |transfer: Transfer, why| {
            let transfer = Box::new(transfer);
            Err(Rejected { transfer, why })
        };
        let Some(at) = self.at(transfer.peer) else {
            let why = LinkError::NoPeer(transfer.peer);
            return reject(transfer, why);
        };
        let to = &self.peers[at];
        if to.channel.client_is_gone() {
            return reject(transfer, LinkError::Closed);
        }
        if to.is_its(&transfer.slot, transfer.frame.slot).is_err() {
            let why = LinkError::Protocol("the slot is of another session".into());
            return reject(transfer, why);
        }
        let start = Instant::now();
        let Transfer { peer, frame, slot, tail } = transfer;
        if let Err(Moved { frame, slot, tail }) = to.channel.reply(Moved { frame, slot, tail }) {
            return reject(Transfer { peer, frame, slot, tail }, LinkError::Full);
        }
        self.sent.push_back((peer, frame.request, between_ns(start, Instant::now())));
        Ok(())
    }

    fn poll(&mut self, events: &mut Events) {
        // One place is kept: a refusal is two events.
        let full = events.len() + EVENTS_PER_POLL_MAX - 1;
        while let Some((peer, request, elapsed_ns)) = self.sent.pop_front() {
            events.push(Event::Sent { peer, request, elapsed_ns });
            if events.len() == full {
                return;
            }
        }
        self.hear_news(events, full);
        let peers = self.peers.len();
        let mut over = false;
        for step in 0..peers {
            if events.len() >= full {
                break;
            }
            let at = (self.turn + step) % peers;
            if !self.hear(at, events, full) {
                self.peers[at].channel.close(None);
                over = true;
            }
        }
        self.turn = if peers == 0 { 0 } else { (self.turn + 1) % peers };
        if over {
            self.peers.retain(|peer| peer.channel.server_gone().is_none());
        }
    }

    fn park(&mut self, at_most: Duration) {
        let (hall, peers, sent) = (&self.hall, &self.peers, &self.sent);
        hall.bell.sleep(at_most, || {
            let waits = |it: &Peer| !it.channel.to_server.is_empty() || it.channel.client_is_gone();
            !sent.is_empty() || hall.news.load(Ordering::Acquire) || peers.iter().any(waits)
        });
    }

    fn waker(&self) -> Waker {
        Arc::clone(&self.hall.bell) as Waker
    }
}

impl Listener for LocalListener {
    fn endpoint(&self) -> Endpoint {
        Endpoint::bare(LinkKind::Local)
    }

    fn admit(&mut self, admission: Admission) -> Result<RegionDescriptor, AdmitError> {
        let mut all = self.hall.expected();
        if all.contains_key(&admission.session) {
            return Err(AdmitError::Twice(admission.session));
        }
        if all.len() >= LOCAL_SESSIONS_MAX {
            return Err(AdmitError::Full(LOCAL_SESSIONS_MAX));
        }
        let table = admission.private_slots()?;
        all.insert(admission.session, Expected { admission, table, channel: None });
        Ok(RegionDescriptor::Framed)
    }

    fn evict(&mut self, session: SessionId, status: Status) {
        let Some(expected) = self.hall.expected().remove(&session) else { return };
        if let Some(channel) = &expected.channel {
            channel.close(Some(status));
        }
        self.peers.retain(|peer| peer.admitted.admission.session != session);
    }
}

impl Drop for LocalListener {
    fn drop(&mut self) {
        let mut all = self.hall.expected();
        self.hall.open.store(false, Ordering::Release);
        for (_, expected) in all.drain() {
            if let Some(channel) = expected.channel {
                channel.close(None);
            }
        }
    }
}
