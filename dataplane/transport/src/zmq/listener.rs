//! The server's end.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::{Body, Endpoint, Frame, RegionDescriptor, SessionId, Status};
use ferry_memory::{MemoryError, PeerId, Slot};
use zmq::SocketType;

use crate::admitted::{Admission, Admitted, Refusal};
use crate::event::EventWaker;
use crate::link::{
    AdmitError, Capabilities, EVENTS_PER_POLL_MAX, Event, Events, Link, LinkError, Listener,
    Rejected, Transfer, Waker,
};
use crate::outgoing::{Half, Outgoing, reject};
use crate::roster::{Roster, goodbye, is_goodbye, status_for};
use crate::zmq::socket::{Incoming, Sent, ZmqSocket};
use crate::zmq::{CAPABILITIES, ZmqOptions};

/// How often the monitor is asked while polling without sleeping.
const POLLS_PER_LOOK: u32 = 64;

/// When peers are probed after a connection broke: libzmq reports the break before it forgets
/// the peer, by a moment that depends on its own threads.
const PROBES_AFTER: [Duration; 3] =
    [Duration::from_millis(2), Duration::from_millis(20), Duration::from_millis(200)];

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

    /// Takes one message; `false` if there is none.
    fn step(&mut self) -> Result<bool, LinkError> {
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
        let frame = match Frame::decode(&header) {
            Ok(frame) => frame,
            Err(error) => return Ok(Err(error.into())),
        };
        if let Some(status) = is_goodbye(&frame, admitted).filter(|_| !more) {
            self.drop_peer(peer, None, LinkError::Bye(status));
            return Ok(Ok(()));
        }
        let mut slot: Slot = match admitted.accept(&frame) {
            Ok(slot) => slot,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if !self.socket.receive_payload(frame.payload_bytes, Half::Request, &mut slot)? {
            let what = "a payload that is not one part of the length in its header";
            return Ok(Err(breach(what)));
        }
        let visible = Instant::now();
        self.pending.push_back(Event::Arrived { peer, frame, slot, seen, visible });
        Ok(Ok(()))
    }

    /// The first message of an identity that nobody speaks by.
    fn greet(&mut self) -> Result<Result<(), Refusal>, LinkError> {
        let identity: Box<[u8]> = self.socket.part().into();
        let peer = PeerId(self.peers_seen);
        let joined = match self.socket.receive_header()? {
            Incoming::Header(header, false) => Frame::decode(&header)
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

    fn note_break(&mut self) {
        self.broken_again = self.broken.is_some();
        self.broken.get_or_insert_with(Instant::now);
    }

    /// Finds out who is gone after a connection broke.
    fn probe(&mut self) {
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
        let probe = self.broken.zip(PROBES_AFTER.get(self.probes));
        let at_most = probe
            .map_or(at_most, |(since, after)| at_most.min(after.saturating_sub(since.elapsed())));
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
        Endpoint::Zmq { address: self.endpoint.clone() }
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
