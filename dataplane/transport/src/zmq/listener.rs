//! The server's end.

mod hear;
mod probe;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::{Endpoint, LinkKind, RegionDescriptor, SessionId, Status};
use ferry_memory::{MemoryError, PeerId};
use zmq::SocketType;

use crate::admitted::{Admission, Admitted};
use crate::event::EventWaker;
use crate::link::{
    AdmitError, Capabilities, EVENTS_PER_POLL_MAX, Event, Events, Link, LinkError, Listener,
    Rejected, Transfer, Waker,
};
use crate::outgoing::{Half, Outgoing, reject};
use crate::roster::{Roster, goodbye};
use crate::zmq::socket::{Sent, ZmqSocket};
use crate::zmq::{CAPABILITIES, ZmqOptions};

/// How often the monitor is asked while polling without sleeping.
const POLLS_PER_LOOK: u32 = 64;

/// The server's end of the `zmq` link: one ROUTER for all sessions.
#[derive(Debug)]
pub struct ZmqListenerLink {
    socket: ZmqSocket,
    endpoint: String,
    options: ZmqOptions,
    waker: Arc<EventWaker>,
    roster: Roster,
    peers: HashMap<PeerId, Peer>,
    /// Who speaks by an identity. Only identities that proved a session are remembered.
    names: HashMap<Box<[u8]>, PeerId>,
    peers_seen: u64,
    /// Peers with something to send that libzmq had no room for.
    backlog: Vec<PeerId>,
    pending: VecDeque<Event>,
    polls: u32,
    broken: Option<Instant>,
    /// Another connection broke while peers are being probed: one more round.
    broken_again: bool,
    probes: usize,
}

#[derive(Debug)]
struct Peer {
    identity: Box<[u8]>,
    admitted: Admitted,
    /// Bounded by the session's slots: each entry holds a different one.
    outbox: VecDeque<Outgoing>,
}

impl ZmqListenerLink {
    /// Binds a ROUTER; port 0 takes any. To be called on the thread that will own the link.
    ///
    /// # Errors
    /// [`LinkError::Os`] names the address if it is in use or not of this host.
    pub fn bind(address: SocketAddr, options: ZmqOptions) -> Result<ZmqListenerLink, LinkError> {
        let longest = options.part_bytes_max();
        let socket = ZmqSocket::new(SocketType::ROUTER, longest, address.is_ipv6())?;
        socket
            .socket()
            .bind(&format!("tcp://{address}"))
            .map_err(|error| LinkError::os(format!("bind {address}"), error))?;
        let endpoint = socket.socket().get_last_endpoint().ok().and_then(Result::ok);
        let endpoint = endpoint.ok_or_else(|| LinkError::os("read the address", "no text"))?;
        Ok(ZmqListenerLink {
            socket,
            endpoint,
            options,
            waker: EventWaker::new()?,
            roster: Roster::new(options.sessions_max),
            peers: HashMap::new(),
            names: HashMap::new(),
            peers_seen: 0,
            backlog: Vec::new(),
            pending: VecDeque::new(),
            polls: 0,
            broken: None,
            broken_again: false,
            probes: 0,
        })
    }

    /// Forgets a peer. Its identity is a stranger's from now on.
    fn cut(&mut self, peer: PeerId, status: Option<Status>) -> Option<SessionId> {
        let Peer { identity, admitted, outbox } = self.peers.remove(&peer)?;
        self.names.remove(&identity);
        self.backlog.retain(|&other| other != peer);
        if let Some(status) = status {
            // A peer whose pipe is full is not told: it finds out by what it sends next.
            let _told = self.socket.send_frame(Some(&identity), &goodbye(Some(&admitted), status));
        }
        drop(outbox);
        let session = admitted.admission.session;
        self.roster.leave(session, peer);
        Some(session)
    }

    fn drop_peer(&mut self, peer: PeerId, status: Option<Status>, why: LinkError) {
        if let Some(session) = self.cut(peer, status) {
            let session = Some(session);
            self.pending.push_back(Event::Gone { peer, session, why, slots: Vec::new() });
        }
    }

    fn flush(&mut self, peer: PeerId) {
        let Some(Peer { identity, outbox, .. }) = self.peers.get_mut(&peer) else { return };
        while let Some(front) = outbox.front() {
            let why = match self.socket.send_queued(Some(identity), front) {
                Ok(Sent::Taken) => {
                    // Dropping it frees the slot: libzmq has a copy.
                    if let Some(sent) = outbox.pop_front() {
                        let (request, elapsed_ns) = (sent.request, sent.elapsed_ns());
                        self.pending.push_back(Event::Sent { peer, request, elapsed_ns });
                    }
                    continue;
                }
                Ok(Sent::Full) => {
                    if !self.backlog.contains(&peer) {
                        self.backlog.push(peer);
                    }
                    return;
                }
                Ok(Sent::Gone) => LinkError::Closed,
                Err(why) => why,
            };
            return self.drop_peer(peer, None, why);
        }
        self.backlog.retain(|&other| other != peer);
    }
}

impl Link for ZmqListenerLink {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn submit(&mut self, transfer: Transfer) -> Result<(), Rejected> {
        let peer = transfer.peer;
        let Some(member) = self.peers.get_mut(&peer) else {
            return Err(reject(transfer, LinkError::NoPeer(peer)));
        };
        let outgoing = Outgoing::new(transfer, Half::Reply, &member.admitted.table)?;
        member.outbox.push_back(outgoing);
        self.flush(peer);
        Ok(())
    }

    fn poll(&mut self, events: &mut Events) {
        self.polls = self.polls.wrapping_add(1);
        if self.polls.is_multiple_of(POLLS_PER_LOOK) && self.socket.take_breaks() {
            self.note_break();
        }
        self.probe();
        for at in (0..self.backlog.len()).rev() {
            if let Some(&peer) = self.backlog.get(at) {
                self.flush(peer);
            }
        }
        // One at a time: to find that no second one is there takes a system call, which the first
        // one need not wait for.
        while self.pending.is_empty() {
            match self.step() {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::error!(%error, "zmq: the socket fails");
                    break;
                }
            }
        }
        let count = self.pending.len().min(EVENTS_PER_POLL_MAX);
        events.extend(self.pending.drain(..count));
    }

    fn park(&mut self, at_most: Duration) {
        if !self.pending.is_empty() {
            return;
        }
        let at_most = self.probe_in().map_or(at_most, |due| at_most.min(due));
        if self.socket.park(&self.waker, !self.backlog.is_empty(), at_most) {
            self.note_break();
        }
    }

    fn waker(&self) -> Waker {
        Arc::clone(&self.waker) as Waker
    }
}

impl Listener for ZmqListenerLink {
    fn endpoint(&self) -> Endpoint {
        Endpoint::new(LinkKind::Zmq, &self.endpoint)
    }

    /// Refuses sessions with longer requests than [`ZmqOptions::request_bytes_max`].
    fn admit(&mut self, admission: Admission) -> Result<RegionDescriptor, AdmitError> {
        let (bytes, bytes_max) = (admission.layout.request_bytes, self.options.request_bytes_max);
        if bytes > bytes_max {
            let what = format!(
                "requests of {bytes} bytes; this zmq link takes {bytes_max}: raise its limit"
            );
            return Err(MemoryError::Layout { what }.into());
        }
        if let Some(old) = self.roster.admit(admission)? {
            self.cut(old, Some(Status::SessionEnded));
        }
        Ok(RegionDescriptor::Framed)
    }

    fn evict(&mut self, session: SessionId, status: Status) {
        if let Some(peer) = self.roster.remove(session) {
            self.cut(peer, Some(status));
        }
    }
}
