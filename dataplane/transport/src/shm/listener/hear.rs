//! What a lane hears beside requests: knocks, hellos, byes, bells and deaths.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use ferry_core::{Body, Frame, Generation, SessionId, Status};
use ferry_memory::PeerId;

use super::ShmListener;
use crate::admitted::{Refusal, no_hello};
use crate::link::{Event, LinkError};
use crate::shm::door::{Stranger, log_peer};
use crate::shm::notices::Notice;
use crate::shm::wire::{self, Received};

/// Connections taken in per look: the door must not hold up the requests.
const ACCEPTS_PER_LOOK: usize = 16;

impl ShmListener {
    /// Asks the epoll, and acts on what it says.
    pub(super) fn look(&mut self, at_most: Duration) {
        self.notices.wait(at_most);
        self.looked = Instant::now();
        self.look_due = false;
        while let Some(notice) = self.notices.take() {
            match notice {
                Notice::Waker => {}
                Notice::Door => self.answer_door(),
                Notice::Stranger(peer) => self.hear_stranger(peer),
                Notice::Socket(peer) => self.hear_socket(peer),
                Notice::Bell(peer) => self.hear_bell(peer),
            }
        }
        while let Some(late) = self.door.take_late() {
            self.turn_away(late, LinkError::Protocol("proved nothing in time".into()));
        }
    }

    fn answer_door(&mut self) {
        for _ in 0..ACCEPTS_PER_LOOK {
            let Some(socket) = self.door.accept() else { break };
            let peer = self.seats.next_peer();
            if let Err(error) = self.notices.add(&socket, Notice::Stranger(peer)) {
                tracing::warn!(%error, "a client was turned away");
                continue;
            }
            if let Some(oldest) = self.door.keep(peer, socket) {
                self.turn_away(oldest, LinkError::Protocol("proved nothing; others wait".into()));
            }
            // The hello is mostly there already.
            self.hear_stranger(peer);
        }
    }

    fn turn_away(&mut self, stranger: Stranger, why: LinkError) {
        self.notices.remove(&stranger.socket);
        let peer = stranger.peer;
        self.outbox.push_back(Event::Gone { peer, session: None, why, slots: Vec::new() });
    }

    fn hear_stranger(&mut self, peer: PeerId) {
        let Some(stranger) = self.door.stranger(peer) else { return };
        let received = wire::receive(stranger.socket.as_fd());
        if matches!(received, Received::Nothing) {
            return;
        }
        let Some(stranger) = self.door.take(peer) else { return };
        let hello = match received {
            Received::Message(Ok(hello)) if !self.door.admits(&stranger.socket) => {
                let what = "a user of this machine who is not on the list of those that may";
                Err(Refusal::Stranger { session: hello.session, what })
            }
            Received::Message(Ok(hello)) => self.check_hello(&hello),
            Received::Message(Err(error)) => Err(Refusal::Frame(error)),
            Received::Nothing | Received::End => {
                return self.turn_away(stranger, LinkError::Closed);
            }
        };
        self.notices.remove(&stranger.socket);
        match hello {
            Ok(peer) => self.join(peer, stranger.socket),
            Err(refusal) => {
                // All that are refused are told the same.
                let bye = Body::Bye { status: Status::SessionEnded };
                let bye = wire::bare(SessionId(0), Generation(0), bye);
                let told = wire::send(stranger.socket.as_fd(), &bye);
                tracing::debug!(%refusal, ?told, "connection refused");
                self.outbox.push_back(Event::Refused(refusal));
            }
        }
    }

    /// Whether a hello proves a session that waits for its client.
    fn check_hello(&mut self, hello: &Frame) -> Result<PeerId, Refusal> {
        let unknown = Refusal::Credentials(hello.session);
        let Body::Hello { token } = &hello.body else {
            return Err(no_hello(hello.session));
        };
        let peer = self.seats.peer_of(hello.session).ok_or(unknown.clone())?;
        let session = self.seats.of(peer).ok_or(unknown.clone())?;
        let admission = &session.admitted.admission;
        if !admission.token.matches(token) {
            return Err(unknown);
        }
        if admission.generation != hello.generation {
            let (named, now) = (hello.generation, admission.generation);
            return Err(Refusal::Generation { session: hello.session, named, now });
        }
        if session.was_joined() {
            let what = "a second connection: resume the session for new memory";
            return Err(Refusal::Breach { session: hello.session, what });
        }
        Ok(peer)
    }

    fn join(&mut self, peer: PeerId, socket: OwnedFd) {
        let Some(session) = self.seats.of(peer) else { return };
        let id = session.id();
        log_peer(&socket, id);
        // Watched before the client can know the bell.
        let watched = self
            .notices
            .add(&socket, Notice::Socket(peer))
            .and_then(|()| self.notices.add(&session.bell, Notice::Bell(peer)))
            .and_then(|()| session.welcome(socket));
        match watched {
            Ok(()) => {
                session.hot = true;
                self.hot.push(peer);
                self.outbox.push_back(Event::Joined { peer, session: id });
            }
            Err(why) => self.lose(peer, why),
        }
    }

    fn hear_socket(&mut self, peer: PeerId) {
        let Some(session) = self.seats.of(peer) else { return };
        let id = session.id();
        let Some(socket) = &session.socket else { return };
        match wire::receive(socket.as_fd()) {
            Received::Nothing => {}
            Received::End => self.lose(peer, LinkError::Closed),
            Received::Message(Ok(Frame { body: Body::Bye { status }, .. })) => {
                self.lose(peer, LinkError::Bye(status));
            }
            Received::Message(Ok(_)) => self.broken.push((peer, Refusal::Kind(id))),
            Received::Message(Err(error)) => self.broken.push((peer, Refusal::Frame(error))),
        }
        self.cut_off();
    }

    fn hear_bell(&mut self, peer: PeerId) {
        let Some(session) = self.seats.of(peer) else { return };
        match session.rung() {
            Ok(()) if session.hot => {}
            Ok(()) => {
                session.hot = true;
                self.hot.push(peer);
            }
            Err(refusal) => self.broken.push((peer, refusal)),
        }
        self.cut_off();
    }
}
