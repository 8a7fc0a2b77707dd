//! A libzmq socket with its monitor, and how messages are put on it and taken off it.

use std::cell::Cell;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use ferry_core::{FRAME_BYTES, FRAME_ROOM_BYTES, Frame, FrameError, Head, Tail, TailError};
use ferry_memory::Slot;
use zmq::{Context, DONTWAIT, Error, Message, POLLIN, POLLOUT, SNDMORE, SocketType};

use crate::event::EventWaker;
use crate::link::LinkError;
use crate::outgoing::{Half, Outgoing};

/// Most whole messages that libzmq holds per peer and direction. What does not fit waits in its
/// slot (going out) or in the peer (coming in). Bounds what a peer can make this process hold: so
/// many times the longest part.
const MESSAGES_MAX: i32 = 8;

/// How often an idle peer is asked for a sign of life, and how long it has to give one. Only
/// finds hosts that vanished: sessions have leases of their own.
const HEARTBEAT_EVERY_MS: i32 = 5_000;
const HEARTBEAT_WITHIN_MS: i32 = 20_000;

/// How long a connection may take to get through the protocol's own greeting.
const GREETING_WITHIN_MS: i32 = 5_000;

/// How often full pipes are tried again while sleeping: a ROUTER does not say which of its peers
/// has room again.
const RETRY: Duration = Duration::from_millis(1);

/// Where the monitor reports; the name is private to the context, and each socket has its own.
const MONITOR: &str = "inproc://monitor";

/// What became of a send.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// libzmq has it.
    Taken,
    /// No room; try again later.
    Full,
    /// There is no such peer any more.
    Gone,
}

/// The parts behind the identity.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// A header, and whether a second part follows.
    Header(Header, bool),
    /// Something else, which is thrown away.
    Malformed,
}

/// A first part that is as long as a header can be.
#[derive(Debug)]
pub(crate) struct Header {
    head: [u8; FRAME_BYTES],
    tail: Vec<u8>,
}

impl Header {
    /// What its head says.
    pub(crate) fn head(&self) -> Result<Frame, FrameError> {
        let Head { frame, tail_bytes } = Head::decode(&self.head)?;
        let (said, came) = (tail_bytes, self.tail.len());
        if said == came { Ok(frame) } else { Err(TailError::Differs { said, came }.into()) }
    }

    /// What its tail says.
    pub(crate) fn tail(&self) -> Result<Tail, FrameError> {
        Tail::decode(&self.tail).map_err(FrameError::from)
    }
}

/// A socket, its monitor, and the one buffer for what is received.
pub(crate) struct ZmqSocket {
    // Dropped in this order: sockets before their context.
    monitor: zmq::Socket,
    socket: zmq::Socket,
    kind: SocketType,
    /// What `ZMQ_FD` says of the socket and of the monitor.
    news: [RawFd; 2],
    part: Message,
    /// Nothing was there to receive, and the socket was not used since.
    is_empty: Cell<bool>,
}

impl std::fmt::Debug for ZmqSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ZmqSocket").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl ZmqSocket {
    /// A socket in a context of its own, not yet bound or connected.
    pub(crate) fn new(
        kind: SocketType,
        part_bytes_max: i64,
        ipv6: bool,
    ) -> Result<ZmqSocket, LinkError> {
        let open = || -> zmq::Result<ZmqSocket> {
            let context = Context::new();
            let socket = context.socket(kind)?;
            socket.set_linger(0)?;
            socket.set_sndhwm(MESSAGES_MAX)?;
            socket.set_rcvhwm(MESSAGES_MAX)?;
            socket.set_maxmsgsize(part_bytes_max)?;
            socket.set_ipv6(ipv6)?;
            socket.set_heartbeat_ivl(HEARTBEAT_EVERY_MS)?;
            socket.set_heartbeat_timeout(HEARTBEAT_WITHIN_MS)?;
            socket.set_handshake_ivl(GREETING_WITHIN_MS)?;
            if kind == SocketType::ROUTER {
                socket.set_router_mandatory(true)?;
            } else {
                // A lease is good for one connection.
                socket.set_reconnect_ivl(-1)?;
            }
            let broken = zmq::SocketEvent::DISCONNECTED.to_raw()
                | zmq::SocketEvent::CLOSED.to_raw()
                | zmq::SocketEvent::CONNECT_RETRIED.to_raw()
                | zmq::SocketEvent::HANDSHAKE_FAILED_PROTOCOL.to_raw();
            socket.monitor(MONITOR, i32::from(broken))?;
            let monitor = context.socket(SocketType::PAIR)?;
            monitor.set_linger(0)?;
            monitor.connect(MONITOR)?;
            let news = [socket.get_fd()?, monitor.get_fd()?];
            let (part, is_empty) = (Message::new(), Cell::new(false));
            Ok(ZmqSocket { monitor, socket, kind, news, part, is_empty })
        };
        let opened = open().map_err(|error| LinkError::os("open a zmq socket", error))?;
        // The descriptor of the monitor rings only for who has found the monitor empty before.
        opened.take_breaks();
        Ok(opened)
    }

    pub(crate) fn socket(&self) -> &zmq::Socket {
        &self.socket
    }

    /// Sends a frame and its payload, to `identity` if this is a ROUTER.
    pub(crate) fn send(
        &self,
        identity: Option<&[u8]>,
        header: &[u8],
        payload: &[u8],
    ) -> Result<Sent, LinkError> {
        let more = if payload.is_empty() { 0 } else { SNDMORE };
        // Sending takes note of what came meanwhile, so that no descriptor tells of it.
        self.is_empty.set(false);
        let send = || -> zmq::Result<()> {
            if let Some(identity) = identity {
                self.socket.send(identity, DONTWAIT | SNDMORE)?;
            }
            // Room is only checked for a message's first part.
            self.socket.send(header, DONTWAIT | more)?;
            if more != 0 {
                self.socket.send(payload, DONTWAIT)?;
            }
            Ok(())
        };
        loop {
            match send() {
                Ok(()) => return Ok(Sent::Taken),
                Err(Error::EAGAIN) => return Ok(Sent::Full),
                Err(Error::EHOSTUNREACH) => return Ok(Sent::Gone),
                Err(Error::EINTR) => {}
                Err(error) => return Err(LinkError::os("send", error)),
            }
        }
    }

    /// Sends a frame without payload.
    pub(crate) fn send_frame(
        &self,
        identity: Option<&[u8]>,
        frame: &Frame,
    ) -> Result<Sent, LinkError> {
        self.send(identity, &frame.encode(), &[])
    }

    /// Sends what is queued; the number of frames that libzmq took, each reported.
    pub(crate) fn send_queued(
        &self,
        identity: Option<&[u8]>,
        outgoing: &Outgoing,
    ) -> Result<Sent, LinkError> {
        self.send(identity, &outgoing.header.joined(), outgoing.payload())
    }

    /// Takes the next part; `false` if there is none.
    pub(crate) fn receive(&mut self) -> Result<bool, LinkError> {
        loop {
            match self.socket.recv(&mut self.part, DONTWAIT) {
                Ok(()) => {
                    self.is_empty.set(false);
                    return Ok(true);
                }
                Err(Error::EAGAIN) => {
                    self.is_empty.set(true);
                    return Ok(false);
                }
                Err(Error::EINTR) => {}
                Err(error) => return Err(LinkError::os("receive", error)),
            }
        }
    }

    /// The part that was received last.
    pub(crate) fn part(&self) -> &[u8] {
        &self.part
    }

    /// Takes a header that follows what was received last.
    pub(crate) fn receive_header(&mut self) -> Result<Incoming, LinkError> {
        if self.kind == SocketType::ROUTER && (!self.part.get_more() || !self.receive()?) {
            return Ok(Incoming::Malformed);
        }
        match self.part().split_first_chunk::<FRAME_BYTES>() {
            Some((&head, tail)) if self.part.len() <= FRAME_ROOM_BYTES => {
                let header = Header { head, tail: tail.to_vec() };
                Ok(Incoming::Header(header, self.part.get_more()))
            }
            _ => Ok(Incoming::Malformed),
        }
    }

    /// Takes the payload that follows a header into its half of the slot. `false` if it is not
    /// exactly one part of `bytes` bytes; the slot is untouched then.
    pub(crate) fn receive_payload(
        &mut self,
        bytes: u64,
        half: Half,
        slot: &mut Slot,
    ) -> Result<bool, LinkError> {
        if bytes == 0 {
            return Ok(!self.part.get_more());
        }
        if !self.part.get_more() || !self.receive()? || self.part.get_more() {
            return Ok(false);
        }
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let into = half.bytes_mut(slot).and_then(|room| room.get_mut(..bytes));
        match into {
            Some(into) if self.part.len() == bytes => {
                into.copy_from_slice(&self.part);
                // Freed now and not at the next receive: libzmq's thread can then use the same
                // memory for the next payload, while it is in the cache.
                self.part = Message::new();
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Throws away the rest of the message that was begun.
    pub(crate) fn skip_rest(&mut self) -> Result<(), LinkError> {
        // Ends: libzmq hands over whole messages only.
        while self.part.get_more() && self.receive()? {}
        Ok(())
    }

    /// Whether a connection broke since the last call.
    pub(crate) fn take_breaks(&self) -> bool {
        let mut any = false;
        // Each report has two parts. Bounded by what the monitor's pipe holds.
        while let Ok(report) = self.monitor.recv_msg(DONTWAIT) {
            any = true;
            if report.get_more() {
                // The address, which says nothing that is needed.
                let _address = self.monitor.recv_msg(DONTWAIT);
            }
        }
        any
    }

    /// Sleeps until there is something to receive or to look at. `waiting`: something could not
    /// be sent. Returns whether a connection broke meanwhile.
    pub(crate) fn park(&self, waker: &EventWaker, waiting: bool, at_most: Duration) -> bool {
        if !waker.lie_down() {
            return false;
        }
        let router = self.kind == SocketType::ROUTER;
        let at_most = if waiting && router { at_most.min(RETRY) } else { at_most };
        let wanted = if waiting && !router { POLLIN | POLLOUT } else { POLLIN };
        // The descriptor of a socket only tells that libzmq's threads left it something to take
        // note of, which sending may have done already: so the socket is asked first, unless the
        // last thing it did was to find, having taken note of all, that nothing is there. The
        // descriptor of the monitor needs no such question, because it is always emptied.
        let knows = self.is_empty.get() && wanted == POLLIN;
        let nothing = |events: zmq::PollEvents| !events.intersects(wanted);
        let (mut rung, mut broke) = (false, false);
        if knows || self.socket.get_events().is_ok_and(nothing) {
            (rung, broke) = self.sleep(waker, at_most);
            broke = broke && self.take_breaks();
        }
        waker.get_up(rung);
        broke
    }

    /// Sleeps on the descriptors alone; whether the waker rang, and whether the monitor did.
    fn sleep(&self, waker: &EventWaker, at_most: Duration) -> (bool, bool) {
        let door = |fd| zmq::PollItem::from_fd(fd, POLLIN);
        let [socket, monitor] = self.news;
        let mut doors = [door(waker.as_fd().as_raw_fd()), door(socket), door(monitor)];
        // Rounded up: a time below one millisecond is not to become a busy loop.
        let at_most_ms = i64::try_from(at_most.as_micros().div_ceil(1000));
        // Interrupted by a signal is as good as early.
        let _early = zmq::poll(&mut doors, at_most_ms.unwrap_or(i64::MAX));
        (doors[0].is_readable(), doors[2].is_readable())
    }
}
