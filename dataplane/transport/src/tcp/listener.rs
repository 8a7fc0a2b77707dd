//! The server's end.

mod turns;

use std::collections::{BTreeMap, VecDeque};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::{Endpoint, LinkKind, RegionDescriptor, SessionId, Status};
use ferry_memory::PeerId;

use crate::admitted::{Admission, Refusal};
use crate::event::EventWaker;
use crate::link::{
    AdmitError, Capabilities, EVENTS_PER_POLL_MAX, Event, Events, Link, LinkError, Listener,
    Rejected, Transfer, Waker,
};
use crate::outgoing::{Half, Outgoing, reject};
use crate::roster::{Roster, status_for};
use crate::tcp::connection::{Connection, Standing};
use crate::tcp::doors::Doors;
use crate::tcp::{CAPABILITIES, TcpOptions};

/// The server's end of the `tcp` link: one listening socket and its connections.
#[derive(Debug)]
pub struct TcpListenerLink {
    address: SocketAddr,
    options: TcpOptions,
    doors: Doors,
    waker: Arc<EventWaker>,
    roster: Roster,
    connections: BTreeMap<PeerId, Connection>,
    peers: u64,
    /// Peers whose turn to be read has come, in order.
    turns: VecDeque<PeerId>,
    /// Peers with something to send that the kernel had no room for.
    backlog: Vec<PeerId>,
    /// Unproven peers, oldest first; those that have proved themselves or left are skipped.
    unproven: VecDeque<PeerId>,
    pending: VecDeque<Event>,
    polls: u32,
}

impl TcpListenerLink {
    /// Takes connections from `listener`, which is bound already: whoever binds it says what to do
    /// when the address is in use.
    ///
    /// # Errors
    /// [`LinkError::Os`] if the system gives no epoll or eventfd.
    pub fn new(listener: TcpListener, options: TcpOptions) -> Result<TcpListenerLink, LinkError> {
        let address =
            listener.local_addr().map_err(|error| LinkError::os("read the address", error))?;
        let waker = EventWaker::new()?;
        let doors = Doors::new(listener, &waker, options.socket_buffer_bytes)?;
        Ok(TcpListenerLink {
            address,
            options,
            doors,
            waker,
            roster: Roster::new(options.sessions_max),
            connections: BTreeMap::new(),
            peers: 0,
            turns: VecDeque::new(),
            backlog: Vec::new(),
            unproven: VecDeque::new(),
            pending: VecDeque::new(),
            polls: 0,
        })
    }

    /// Where the listening socket is bound.
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// Forgets a connection; closing it is what ends it.
    fn cut(&mut self, peer: PeerId, status: Option<Status>) -> Option<SessionId> {
        let connection = self.connections.remove(&peer)?;
        if let Some(status) = status {
            connection.dismiss(status);
        }
        let session = connection.session();
        if let Some(session) = session {
            self.roster.leave(session, peer);
        }
        self.backlog.retain(|&other| other != peer);
        session
    }

    /// Cuts a peer off and reports it. Its slots in flight here go back to their table.
    fn drop_peer(&mut self, peer: PeerId, status: Option<Status>, why: LinkError) {
        if self.connections.contains_key(&peer) {
            let session = self.cut(peer, status);
            self.pending.push_back(Event::Gone { peer, session, why, slots: Vec::new() });
        }
    }

    fn refuse(&mut self, peer: PeerId, refusal: Refusal) {
        let (status, why) = (status_for(&refusal), LinkError::Protocol(refusal.to_string()));
        self.pending.push_back(Event::Refused(refusal));
        self.drop_peer(peer, Some(status), why);
    }

    fn flush(&mut self, peer: PeerId) {
        let Some(connection) = self.connections.get_mut(&peer) else { return };
        let pending = &mut self.pending;
        let flushed = connection.flush(|event| pending.push_back(event));
        if let Err(why) = flushed {
            return self.drop_peer(peer, None, why);
        }
        let waits = !connection.outbox.is_empty();
        if connection.armed && !waits {
            self.doors.arm(connection, false);
        }
        match self.backlog.iter().position(|&other| other == peer) {
            Some(at) if !waits => {
                self.backlog.swap_remove(at);
            }
            None if waits => self.backlog.push(peer),
            _ => {}
        }
    }

    fn flush_backlog(&mut self) {
        for at in (0..self.backlog.len()).rev() {
            // Flushing removes at most this entry, and other ones only behind it.
            if let Some(&peer) = self.backlog.get(at) {
                self.flush(peer);
            }
        }
    }
}

impl Link for TcpListenerLink {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn submit(&mut self, transfer: Transfer) -> Result<(), Rejected> {
        let peer = transfer.peer;
        let Some(connection) = self.connections.get_mut(&peer) else {
            return Err(reject(transfer, LinkError::NoPeer(peer)));
        };
        let Standing::Member(admitted) = &connection.standing else {
            return Err(reject(transfer, LinkError::NoPeer(peer)));
        };
        let outgoing = Outgoing::new(transfer, Half::Reply, &admitted.table)?;
        connection.outbox.push(outgoing);
        self.flush(peer);
        Ok(())
    }

    fn poll(&mut self, events: &mut Events) {
        self.flush_backlog();
        if self.pending.len() < EVENTS_PER_POLL_MAX {
            self.plan();
        }
        while self.pending.len() < EVENTS_PER_POLL_MAX {
            let Some(peer) = self.turns.pop_front() else { break };
            self.turn(peer);
        }
        let count = self.pending.len().min(EVENTS_PER_POLL_MAX);
        events.extend(self.pending.drain(..count));
    }

    fn park(&mut self, at_most: Duration) {
        if !self.pending.is_empty() || !self.turns.is_empty() || !self.waker.lie_down() {
            return;
        }
        for peer in &self.backlog {
            if let Some(connection) = self.connections.get_mut(peer) {
                self.doors.arm(connection, true);
            }
        }
        let standing = self.unproven.front().and_then(|peer| self.connections.get(peer));
        let at_most = match standing.map(|connection| &connection.standing) {
            Some(Standing::Unproven { until }) => {
                at_most.min(until.saturating_duration_since(Instant::now()))
            }
            _ => at_most,
        };
        self.doors.look(at_most);
        self.waker.get_up(self.doors.waker_rang());
    }

    fn waker(&self) -> Waker {
        Arc::clone(&self.waker) as Waker
    }
}

impl Listener for TcpListenerLink {
    fn endpoint(&self) -> Endpoint {
        Endpoint::new(LinkKind::Tcp, self.address.to_string())
    }

    fn admit(&mut self, admission: Admission) -> Result<RegionDescriptor, AdmitError> {
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
