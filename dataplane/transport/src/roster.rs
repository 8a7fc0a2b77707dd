//! Who may join a link: the sessions that were admitted, and which peer proved each of them.

use std::collections::HashMap;
use std::sync::Arc;

use ferry_core::{Body, Frame, Generation, SessionId, SlotIndex, Status, Token};
use ferry_memory::{PeerId, SlotTable};

use crate::admitted::{Admission, Admitted, Refusal, no_hello};
use crate::link::AdmitError;

/// The sessions of one link.
///
/// A lease is good for one peer, once. While that peer lives, nobody else can join with the same
/// credentials; when it is gone the lease is spent, and the session is resumed by a new admission
/// with a higher generation, which retires the old slots.
#[derive(Debug)]
pub(crate) struct Roster {
    members: HashMap<SessionId, Member>,
    sessions_max: usize,
}

#[derive(Debug)]
struct Member {
    admission: Admission,
    table: Arc<SlotTable>,
    seat: Seat,
}

/// Who uses a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seat {
    /// Nobody yet.
    Empty,
    /// This peer.
    Taken(PeerId),
    /// A peer that is gone.
    Spent,
}

impl Roster {
    pub(crate) fn new(sessions_max: usize) -> Roster {
        Roster { members: HashMap::new(), sessions_max }
    }

    /// Adds a session with private slots. Where it replaces an older lease, returns the peer that
    /// held it, who is to be cut off.
    pub(crate) fn admit(&mut self, admission: Admission) -> Result<Option<PeerId>, AdmitError> {
        let session = admission.session;
        match self.members.get(&session) {
            Some(old) if old.admission.generation >= admission.generation => {
                return Err(AdmitError::Twice(session));
            }
            None if self.members.len() >= self.sessions_max => {
                return Err(AdmitError::Full(self.sessions_max));
            }
            _ => {}
        }
        let table = admission.private_slots()?;
        let member = Member { admission, table, seat: Seat::Empty };
        let replaced = self.members.insert(session, member);
        Ok(replaced.and_then(|old| old.peer()))
    }

    /// Checks a hello and gives its sender the seat.
    pub(crate) fn join(&mut self, hello: &Frame, peer: PeerId) -> Result<Admitted, Refusal> {
        let session = hello.session;
        let Body::Hello { token } = &hello.body else {
            return Err(no_hello(session));
        };
        let known = self.members.get_mut(&session);
        // An unknown session costs the same comparison as a wrong token.
        let secret = known.as_ref().map_or(Token::new([0; Token::BYTES]), |m| m.admission.token);
        let fits = secret.matches(token);
        let Some(member) = known.filter(|_| fits) else {
            return Err(Refusal::Credentials(session));
        };
        let (named, now) = (hello.generation, member.admission.generation);
        if named != now {
            return Err(Refusal::Generation { session, named, now });
        }
        if hello.payload_bytes != 0 {
            return Err(Refusal::Length { session, bytes: hello.payload_bytes, bytes_max: 0 });
        }
        let what = match member.seat {
            Seat::Empty => {
                member.seat = Seat::Taken(peer);
                let (admission, table) = (member.admission.clone(), Arc::clone(&member.table));
                return Ok(Admitted { peer, admission, table });
            }
            Seat::Taken(_) => "a second peer said hello while the first is connected",
            Seat::Spent => "the peer of this lease is gone: resume the session",
        };
        Err(Refusal::Breach { session, what })
    }

    /// The peer is gone: its lease is spent.
    pub(crate) fn leave(&mut self, session: SessionId, peer: PeerId) {
        if let Some(member) = self.members.get_mut(&session)
            && member.seat == Seat::Taken(peer)
        {
            member.seat = Seat::Spent;
        }
    }

    /// Forgets a session; returns the peer that had joined it, who is to be cut off.
    pub(crate) fn remove(&mut self, session: SessionId) -> Option<PeerId> {
        self.members.remove(&session).and_then(|member| member.peer())
    }
}

impl Member {
    fn peer(&self) -> Option<PeerId> {
        match self.seat {
            Seat::Taken(peer) => Some(peer),
            Seat::Empty | Seat::Spent => None,
        }
    }
}

/// The last frame to a peer; names no session to a peer that has proved none.
pub(crate) fn goodbye(admitted: Option<&Admitted>, status: Status) -> Frame {
    let lease = admitted.map(|admitted| &admitted.admission);
    let (session, generation) =
        lease.map_or((SessionId(0), Generation(0)), |lease| (lease.session, lease.generation));
    let body = Body::Bye { status };
    Frame { session, generation, slot: SlotIndex(0), request: 0, payload_bytes: 0, body }
}

/// The status of a goodbye of the peer's own lease; others are for `accept` to refuse.
pub fn is_goodbye(frame: &Frame, admitted: &Admitted) -> Option<Status> {
    let own = (admitted.admission.session, admitted.admission.generation);
    match frame.body {
        Body::Bye { status } if (frame.session, frame.generation) == own => Some(status),
        _ => None,
    }
}

/// What the refused peer is told. Says no more than the peer knows.
pub fn status_for(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::Credentials(_) | Refusal::Generation { .. } => Status::SessionEnded,
        _ => Status::BadRequest,
    }
}

#[cfg(test)]
mod tests {
    use ferry_core::{SlotLayout, WaitPolicy};

    use super::*;

    const SESSION: SessionId = SessionId(5);

    fn admission(generation: u32) -> Admission {
        let layout = SlotLayout { slots: 1, request_bytes: 10, reply_bytes: 10 };
        let (token, wait) = (Token::new([3; 32]), WaitPolicy::Block);
        Admission {
            session: SESSION,
            generation: Generation(generation),
            token,
            layout,
            wait,
            placer: None,
        }
    }

    fn hello(generation: u32, token: u8) -> Frame {
        let (slot, body) = (SlotIndex(0), Body::Hello { token: Token::new([token; 32]) });
        let generation = Generation(generation);
        Frame { session: SESSION, generation, slot, request: 0, payload_bytes: 0, body }
    }

    #[test]
    fn a_lease_is_good_for_one_peer_once() {
        let mut roster = Roster::new(1);
        assert_eq!(roster.admit(admission(1)).unwrap(), None);
        let unknown = roster.join(&hello(1, 4), PeerId(1)).unwrap_err();
        assert_eq!(unknown, Refusal::Credentials(SESSION));
        let other = roster.join(&hello(2, 3), PeerId(1)).unwrap_err();
        assert!(matches!(other, Refusal::Generation { .. }), "{other}");
        assert_eq!(roster.join(&hello(1, 3), PeerId(1)).unwrap().peer, PeerId(1));
        assert!(roster.join(&hello(1, 3), PeerId(2)).is_err(), "taken");
        roster.leave(SESSION, PeerId(2));
        assert!(roster.join(&hello(1, 3), PeerId(2)).is_err(), "only its own peer leaves");
        roster.leave(SESSION, PeerId(1));
        assert!(roster.join(&hello(1, 3), PeerId(2)).is_err(), "spent");
        assert_eq!(roster.admit(admission(2)).unwrap(), None, "its peer was gone");
        assert!(roster.join(&hello(2, 3), PeerId(2)).is_ok());
        assert_eq!(roster.admit(admission(3)).unwrap(), Some(PeerId(2)), "cut off");
        assert!(matches!(roster.admit(admission(3)), Err(AdmitError::Twice(SESSION))));
        assert!(matches!(roster.admit(admission(2)), Err(AdmitError::Twice(SESSION))));
    }

    #[test]
    fn sessions_are_bounded_and_can_be_removed() {
        let mut roster = Roster::new(1);
        roster.admit(admission(1)).unwrap();
        let other = Admission { session: SessionId(6), ..admission(1) };
        assert!(matches!(roster.admit(other.clone()), Err(AdmitError::Full(1))));
        assert_eq!(roster.remove(SESSION), None, "nobody had joined");
        roster.admit(other).unwrap();
        assert!(matches!(roster.join(&hello(1, 3), PeerId(1)), Err(Refusal::Credentials(_))));
    }
}
