//! The server's end of the link: one lane, many sessions.

mod hear;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::{Endpoint, LinkKind, RegionDescriptor, SessionId, Status, WaitPolicy};
use ferry_memory::PeerId;

use super::door::Door;
use super::notices::Notices;
use super::seats::{SESSIONS_MAX, Seats};
use super::session::Session;
use crate::admitted::{Admission, Refusal};
use crate::clock::between_ns;
use crate::event::EventWaker;
use crate::link::{
    AdmitError, Capabilities, EVENTS_PER_POLL_MAX, Event, Events, Link, LinkError, Listener,
    Rejected, Transfer, Waker,
};
use crate::wait::{ADAPTIVE_SPIN, SPIN_IDLE_MAX};

/// Sessions whose rings are polled although they are silent for the moment. A look at an unchanged
/// ring is a read of a cached line, some nanoseconds; with more, silent ones are armed at once.
const HOT_MAX: usize = 32;
/// Empty polls between two readings of the clock.
const POLLS_PER_CLOCK: u32 = 64;
/// How long bells, sockets and the door go unlooked at while other sessions are polled. A look is a
/// system call of some 0.3 µs, so that it takes about 1 % of a busy lane.
const LOOK_EVERY: Duration = Duration::from_micros(20);

/// The server's end of the link `shm`.
#[derive(Debug)]
pub struct ShmListener {
    notices: Notices,
    door: Door,
    seats: Seats,
    /// The sessions that are polled.
    hot: Vec<PeerId>,
    /// Which of them is first in the next poll, so that none is always last.
    turn: usize,
    /// What happened beside requests and was not told yet. The epoll is not asked for more while
    /// there is something here, which bounds it.
    outbox: VecDeque<Event>,
    /// Writes that are complete and not yet reported: no more than there are slots in flight.
    sent: VecDeque<Event>,
    /// Peers to cut off, found while their session was borrowed.
    broken: Vec<(PeerId, Refusal)>,
    empty_polls: u32,
    looked: Instant,
    look_due: bool,
}

impl ShmListener {
    /// Listens at `socket`, a name in the abstract namespace of Unix sockets. Whoever guesses it
    /// can connect, but not join a session; take 128 random bits nevertheless.
    ///
    /// # Errors
    /// [`LinkError::Os`] if the name is taken or too long, or descriptors are short.
    pub fn bind(socket: &str) -> Result<ShmListener, LinkError> {
        let notices = Notices::new()?;
        let door = Door::open(socket, &notices)?;
        Ok(ShmListener {
            notices,
            door,
            seats: Seats::default(),
            hot: Vec::new(),
            turn: 0,
            outbox: VecDeque::new(),
            sent: VecDeque::new(),
            broken: Vec::new(),
            empty_polls: 0,
            looked: Instant::now(),
            look_due: true,
        })
    }

    /// Lets in nobody but these users of the machine, whatever token they have.
    #[must_use]
    pub fn only(mut self, users: Vec<u32>) -> ShmListener {
        self.door.only(users);
        self
    }

    /// The session is over because its peer is.
    fn lose(&mut self, peer: PeerId, why: LinkError) {
        if let Some(session) = self.retire(peer) {
            let session = Some(session.id());
            self.outbox.push_back(Event::Gone { peer, session, why, slots: Vec::new() });
        }
    }

    /// Takes a session off the lane. Its ring, socket and bell go with what is returned; its
    /// memory when the last slot that somebody holds is dropped.
    fn retire(&mut self, peer: PeerId) -> Option<Session> {
        let session = self.seats.take(peer)?;
        session.admitted.table.retire();
        if session.hot {
            self.hot.retain(|&other| other != peer);
        }
        if let Some(socket) = &session.socket {
            self.notices.remove(socket);
            self.notices.remove(&session.bell);
        }
        Some(session)
    }

    /// Ends the sessions of peers that broke the protocol.
    fn cut_off(&mut self) {
        while let Some((peer, refusal)) = self.broken.pop() {
            let Some(session) = self.seats.of(peer) else { continue };
            session.say_bye(Status::BadRequest);
            let why = LinkError::Protocol(refusal.to_string());
            self.outbox.push_back(Event::Refused(refusal));
            self.lose(peer, why);
        }
    }

    /// Serves the sessions that are polled, until `events` has `most`.
    fn serve(&mut self, events: &mut Events, most: usize) -> Option<Instant> {
        let mut found = None;
        let count = self.hot.len();
        let first = if self.turn < count { self.turn } else { 0 };
        for at in (first..count).chain(0..first) {
            let peer = self.hot[at];
            let Some(session) = self.seats.of(peer) else { continue };
            match session.serve(events, most) {
                Ok(seen) => found = seen.or(found),
                Err(refusal) => self.broken.push((peer, refusal)),
            }
        }
        if found.is_some() {
            self.turn = first + 1;
        }
        if !self.broken.is_empty() {
            self.cut_off();
        }
        found
    }

    /// Arms sessions for which `silent` holds: their next request rings.
    fn arm(&mut self, silent: impl Fn(&Session) -> bool) {
        let (seats, broken) = (&mut self.seats, &mut self.broken);
        self.hot.retain(|&peer| {
            let Some(session) = seats.of(peer) else { return false };
            if !silent(session) {
                return true;
            }
            match session.arm() {
                Ok(armed) => session.hot = !armed,
                Err(refusal) => broken.push((peer, refusal)),
            }
            session.hot
        });
        self.cut_off();
    }

    /// Looks, and arms the sessions that fell silent.
    fn look_round(&mut self) {
        self.look(Duration::ZERO);
        let (now, crowded) = (self.looked, self.hot.len() > HOT_MAX);
        if !self.hot.is_empty() {
            self.arm(|session| session.silence(now) > linger(session, crowded));
        }
    }

    /// Tells what happened beside requests.
    fn tell(&mut self, events: &mut Events, most: usize) {
        for queue in [&mut self.sent, &mut self.outbox] {
            let room = most.saturating_sub(events.len()).min(queue.len());
            events.extend(queue.drain(..room));
        }
    }
}

/// How long a silent session is polled on.
fn linger(session: &Session, crowded: bool) -> Duration {
    match session.admitted.admission.wait {
        _ if crowded => Duration::ZERO,
        WaitPolicy::Spin => SPIN_IDLE_MAX,
        WaitPolicy::Adaptive => ADAPTIVE_SPIN,
        WaitPolicy::Block => Duration::ZERO,
    }
}

impl Link for ShmListener {
    /// A write is complete when the doorbell was written, within `submit`.
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            kind: LinkKind::Shm,
            one_sided: true,
            reports_completion: true,
            carries_frames: true,
            threads: 2,
        }
    }

    fn submit(&mut self, transfer: Transfer) -> Result<(), Rejected> {
        let start = Instant::now();
        let (peer, request) = (transfer.peer, transfer.frame.request);
        let Some(session) = self.seats.of(peer).filter(|session| session.socket.is_some()) else {
            let transfer = Box::new(transfer);
            return Err(Rejected { transfer, why: LinkError::NoPeer(peer) });
        };
        if let Err((why, refusal)) = session.prepare(&transfer) {
            // Cut off in the next poll, which tells of it.
            self.broken.extend(refusal.map(|refusal| (peer, refusal)));
            return Err(Rejected { transfer: Box::new(transfer), why });
        }
        session.reply(transfer);
        let elapsed_ns = between_ns(start, Instant::now());
        self.sent.push_back(Event::Sent { peer, request, elapsed_ns });
        Ok(())
    }

    fn poll(&mut self, events: &mut Events) {
        let most = events.len() + EVENTS_PER_POLL_MAX;
        if !self.broken.is_empty() {
            self.cut_off();
        }
        if self.outbox.is_empty() && (self.look_due || self.hot.is_empty()) {
            self.look_round();
        }
        self.tell(events, most);
        self.empty_polls = self.empty_polls.wrapping_add(1);
        let read_clock = self.empty_polls.is_multiple_of(POLLS_PER_CLOCK);
        // A request brings the time with it, and the lane may work on it for long.
        let now = self.serve(events, most).or_else(|| read_clock.then(Instant::now));
        if let Some(now) = now {
            self.look_due |= now.saturating_duration_since(self.looked) >= LOOK_EVERY;
        }
    }

    fn park(&mut self, at_most: Duration) {
        self.arm(|_| true);
        let untold = !self.outbox.is_empty() || !self.sent.is_empty();
        if untold || !self.hot.is_empty() || !self.notices.waker().lie_down() {
            return;
        }
        let patience = self.door.patience().unwrap_or(at_most);
        self.look(at_most.min(patience));
        self.notices.waker().get_up(false);
    }

    fn waker(&self) -> Waker {
        Arc::<EventWaker>::clone(self.notices.waker())
    }
}

impl Listener for ShmListener {
    fn endpoint(&self) -> Endpoint {
        Endpoint::new(LinkKind::Shm, self.door.name())
    }

    fn admit(&mut self, admission: Admission) -> Result<RegionDescriptor, AdmitError> {
        if self.seats.peer_of(admission.session).is_some() {
            return Err(AdmitError::Twice(admission.session));
        }
        if self.seats.len() >= SESSIONS_MAX {
            return Err(AdmitError::Full(SESSIONS_MAX));
        }
        let peer = self.seats.next_peer();
        let (session, descriptor) = Session::new(peer, admission)?;
        self.seats.put(session);
        Ok(descriptor)
    }

    fn evict(&mut self, session: SessionId, status: Status) {
        let Some(peer) = self.seats.peer_of(session) else { return };
        if let Some(mut session) = self.retire(peer) {
            session.say_bye(status);
            let id = session.id();
            self.outbox
                .retain(|event| !matches!(event, Event::Joined { session, .. } if *session == id));
        }
    }
}
