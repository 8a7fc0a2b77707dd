//! Whose turn it is: strangers are let in and sent away, and each peer is read for its share.

use std::time::{Duration, Instant};

use ferry_core::{Body, Frame, Status};
use ferry_memory::PeerId;

use super::TcpListenerLink;
use crate::link::{Event, LinkError};
use crate::tcp::connection::{Connection, Standing, Step};
use crate::tcp::doors::Knock;
use crate::tcp::{TURN_BYTES_MAX, TURN_FRAMES_MAX};

/// Up to this many connections are simply read in every poll: a read that finds nothing costs
/// less than asking the kernel which of a few has something.
const SWEEP_MAX: usize = 4;

/// How often the kernel is asked about the listening socket while connections are swept.
const POLLS_PER_LOOK: u32 = 64;

impl TcpListenerLink {
    /// Decides whose turn it is, unless some of the last round still wait for theirs.
    pub(super) fn plan(&mut self) {
        if !self.turns.is_empty() {
            return;
        }
        self.polls = self.polls.wrapping_add(1);
        let sweep = self.connections.len() <= SWEEP_MAX && !self.connections.is_empty();
        if !sweep || self.doors.has_news() || self.polls.is_multiple_of(POLLS_PER_LOOK) {
            self.doors.look(Duration::ZERO);
            let mut accept = false;
            for knock in self.doors.knocks() {
                match knock {
                    Knock::Waker => {}
                    Knock::Listener => accept = true,
                    Knock::Peer(peer) => self.turns.push_back(peer),
                }
            }
            if accept {
                self.accept_waiting();
            }
            self.expire_silent();
        }
        if sweep {
            self.turns.clear();
            self.turns.extend(self.connections.keys());
            // Who was first is last in the next round.
            let first = self.polls as usize % self.turns.len();
            self.turns.rotate_left(first);
        }
    }

    fn accept_waiting(&mut self) {
        let until = Instant::now() + self.options.hello_within;
        for stream in self.doors.accept() {
            let peer = PeerId(self.peers);
            self.peers += 1;
            if self.doors.add(&stream, peer).is_err() {
                continue;
            }
            self.connections.insert(peer, Connection::new(peer, stream, until));
            self.unproven.push_back(peer);
            self.turns.push_back(peer);
        }
    }

    /// Closes unproven connections that are late, and the oldest ones while there are too many.
    fn expire_silent(&mut self) {
        while let Some(&peer) = self.unproven.front() {
            let standing = self.connections.get(&peer).map(|connection| &connection.standing);
            match standing {
                Some(&Standing::Unproven { until })
                    if self.unproven.len() <= self.options.unproven_max
                        && Instant::now() < until =>
                {
                    return;
                }
                Some(Standing::Unproven { .. }) => {
                    let why = LinkError::Protocol("no hello in time".into());
                    self.drop_peer(peer, Some(Status::BadRequest), why);
                }
                Some(Standing::Member(_)) | None => {}
            }
            self.unproven.pop_front();
        }
    }

    /// Reads from one peer until it has nothing, or its share of this round is used.
    pub(super) fn turn(&mut self, peer: PeerId) {
        let mut budget = TURN_BYTES_MAX;
        for _ in 0..TURN_FRAMES_MAX {
            let Some(connection) = self.connections.get_mut(&peer) else { return };
            match connection.step(&mut budget) {
                Step::Blocked => return,
                Step::Arrived { frame, slot, tail, seen } => {
                    let visible = Instant::now();
                    let arrived = Event::Arrived { peer, frame, slot, tail, seen, visible };
                    self.pending.push_back(arrived);
                }
                Step::Hello(frame) => self.hello(peer, &frame),
                Step::Refused(refusal) => return self.refuse(peer, refusal),
                Step::Gone(why) => return self.drop_peer(peer, None, why),
            }
        }
    }

    fn hello(&mut self, peer: PeerId, frame: &Frame) {
        let admitted = match self.roster.join(frame, peer) {
            Ok(admitted) => admitted,
            Err(refusal) => return self.refuse(peer, refusal),
        };
        let session = admitted.admission.session;
        let Some(connection) = self.connections.get_mut(&peer) else { return };
        connection.standing = Standing::Member(Box::new(admitted));
        let welcome = Frame { body: Body::Welcome, ..*frame };
        if connection.outbox.send_now(&connection.stream, &welcome) {
            self.pending.push_back(Event::Joined { peer, session });
        } else {
            self.drop_peer(peer, None, LinkError::Closed);
        }
    }
}
