//! What a peer sent: a hello of a stranger, or a frame of somebody who has joined.

use std::collections::VecDeque;
use std::time::Instant;

use ferry_core::{Body, Frame, SessionId};
use ferry_memory::{PeerId, Slot};

use super::{Peer, ZmqListenerLink};
use crate::admitted::Refusal;
use crate::link::{Event, LinkError};
use crate::outgoing::Half;
use crate::roster::{goodbye, is_goodbye, status_for};
use crate::zmq::socket::{Incoming, Sent};

impl ZmqListenerLink {
    /// Takes one message; `false` if there is none.
    pub(super) fn step(&mut self) -> Result<bool, LinkError> {
        if !self.socket.receive()? {
            return Ok(false);
        }
        let seen = Instant::now();
        let peer = self.names.get(self.socket.part()).copied();
        let outcome = match peer {
            Some(peer) => self.serve(peer, seen)?,
            None => self.greet()?,
        };
        self.socket.skip_rest()?;
        if let Err(refusal) = outcome {
            let status = status_for(&refusal);
            let why = LinkError::Protocol(refusal.to_string());
            self.pending.push_back(Event::Refused(refusal));
            if let Some(peer) = peer {
                self.drop_peer(peer, Some(status), why);
            }
        }
        Ok(true)
    }

    /// A message of a peer that has joined.
    fn serve(&mut self, peer: PeerId, seen: Instant) -> Result<Result<(), Refusal>, LinkError> {
        let Some(Peer { admitted, .. }) = self.peers.get(&peer) else { return Ok(Ok(())) };
        let breach = |what| Refusal::Breach { session: admitted.admission.session, what };
        let Incoming::Header(header, more) = self.socket.receive_header()? else {
            return Ok(Err(breach("a message whose first part is not a header")));
        };
        let frame = match header.head() {
            Ok(frame) => frame,
            Err(error) => return Ok(Err(error.into())),
        };
        if let Some(status) = is_goodbye(&frame, admitted).filter(|_| !more) {
            self.drop_peer(peer, None, LinkError::Bye(status));
            return Ok(Ok(()));
        }
        let tail = match header.tail() {
            Ok(tail) => tail,
            Err(error) => return Ok(Err(error.into())),
        };
        let mut slot: Slot = match admitted.accept(&frame) {
            Ok(slot) => slot,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if !self.socket.receive_payload(frame.payload_bytes, Half::Request, &mut slot)? {
            let what = "a payload that is not one part of the length in its header";
            return Ok(Err(breach(what)));
        }
        let visible = Instant::now();
        self.pending.push_back(Event::Arrived { peer, frame, slot, tail, seen, visible });
        Ok(Ok(()))
    }

    /// The first message of an identity that nobody speaks by.
    fn greet(&mut self) -> Result<Result<(), Refusal>, LinkError> {
        let identity: Box<[u8]> = self.socket.part().into();
        let peer = PeerId(self.peers_seen);
        let joined = match self.socket.receive_header()? {
            Incoming::Header(header, false) => header
                .head()
                .map_err(Refusal::from)
                .and_then(|hello| self.roster.join(&hello, peer).map(|admitted| (hello, admitted))),
            Incoming::Header(..) | Incoming::Malformed => Err(Refusal::Breach {
                session: SessionId(0),
                what: "no header where a hello was due",
            }),
        };
        let (hello, admitted) = match joined {
            Ok(joined) => joined,
            Err(refusal) => {
                let bye = goodbye(None, status_for(&refusal));
                // A peer that cannot be told is none of ours.
                let _told = self.socket.send_frame(Some(&identity), &bye)?;
                return Ok(Err(refusal));
            }
        };
        self.peers_seen += 1;
        let session = admitted.admission.session;
        let outbox = VecDeque::new();
        self.names.insert(identity.clone(), peer);
        self.peers.insert(peer, Peer { identity: identity.clone(), admitted, outbox });
        let welcome = Frame { body: Body::Welcome, ..hello };
        match self.socket.send_frame(Some(&identity), &welcome)? {
            Sent::Taken => self.pending.push_back(Event::Joined { peer, session }),
            Sent::Full | Sent::Gone => self.drop_peer(peer, None, LinkError::Closed),
        }
        Ok(Ok(()))
    }
}
