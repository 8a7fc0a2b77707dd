//! The sessions of a lane, each found by its peer in two steps and no hashing.

use std::collections::HashMap;

use ferry_core::SessionId;
use ferry_memory::PeerId;

use super::session::Session;

/// Most sessions of one lane. Each costs two descriptors once it has joined, and a server's usual
/// limit is some ten thousand of them.
pub(super) const SESSIONS_MAX: usize = 4096;

/// A peer's number is a serial, never used again, and below it the seat.
const SEAT_BITS: u32 = 16;
const _: () = assert!(SESSIONS_MAX < 1 << SEAT_BITS);

/// Who sits where.
#[derive(Debug, Default)]
pub(super) struct Seats {
    seats: Vec<Option<Session>>,
    free: Vec<usize>,
    by_session: HashMap<SessionId, PeerId>,
    serial: u64,
}

impl Seats {
    /// The peer that would get the next seat, or a stranger's name if none is taken.
    pub(super) fn next_peer(&mut self) -> PeerId {
        let seat = self.free.last().copied().unwrap_or(self.seats.len());
        self.serial += 1;
        PeerId(self.serial << SEAT_BITS | seat as u64)
    }

    /// How many sessions there are.
    pub(super) fn len(&self) -> usize {
        self.by_session.len()
    }

    /// Seats a session whose peer [`next_peer`](Seats::next_peer) just named.
    pub(super) fn put(&mut self, session: Session) {
        let peer = session.admitted.peer;
        self.by_session.insert(session.id(), peer);
        match self.free.pop() {
            Some(seat) => self.seats[seat] = Some(session),
            None => self.seats.push(Some(session)),
        }
    }

    /// The peer of a session.
    pub(super) fn peer_of(&self, session: SessionId) -> Option<PeerId> {
        self.by_session.get(&session).copied()
    }

    /// The session of a peer, unless it is gone.
    pub(super) fn of(&mut self, peer: PeerId) -> Option<&mut Session> {
        let session = self.seats.get_mut(seat_of(peer))?.as_mut()?;
        (session.admitted.peer == peer).then_some(session)
    }

    /// Takes a session out; its seat goes to another, its peer's name does not.
    pub(super) fn take(&mut self, peer: PeerId) -> Option<Session> {
        let id = self.of(peer)?.id();
        let session = self.seats[seat_of(peer)].take();
        self.free.push(seat_of(peer));
        self.by_session.remove(&id);
        session
    }
}

fn seat_of(peer: PeerId) -> usize {
    // The mask leaves 16 bits.
    usize::try_from(peer.0 & ((1 << SEAT_BITS) - 1)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use ferry_core::{Generation, SlotLayout, Token, WaitPolicy};

    use super::*;
    use crate::admitted::Admission;

    fn seat(seats: &mut Seats, id: u64) -> PeerId {
        let admission = Admission {
            session: SessionId(id),
            generation: Generation::FIRST,
            token: Token::new([1; 32]),
            layout: SlotLayout { slots: 1, request_bytes: 1, reply_bytes: 1 },
            wait: WaitPolicy::Block,
            placer: None,
        };
        let peer = seats.next_peer();
        seats.put(Session::new(peer, admission).unwrap().0);
        peer
    }

    #[test]
    fn seats_are_used_again_and_names_are_not() {
        let mut seats = Seats::default();
        let (a, b) = (seat(&mut seats, 1), seat(&mut seats, 2));
        assert_eq!(seats.of(b).unwrap().id(), SessionId(2));
        assert!(seats.take(a).is_some());
        assert!(seats.of(a).is_none() && seats.take(a).is_none());
        let c = seat(&mut seats, 3);
        assert_eq!(seat_of(c), seat_of(a));
        assert_ne!(c, a);
        assert!(seats.of(a).is_none(), "the old name does not find the new session");
        assert_eq!(seats.peer_of(SessionId(3)), Some(c));
        assert_eq!((seats.len(), seats.peer_of(SessionId(1))), (2, None));
    }
}
