//! The client's end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::{Body, Endpoint, Generation, LinkKind, SessionId, SlotLayout, Token};
use ferry_memory::{Slot, SlotTable};
use zmq::SocketType;

use crate::admitted::Refusal;
use crate::connect::{ConnectError, Own, time_left};
use crate::event::EventWaker;
use crate::link::{
    Capabilities, EVENTS_PER_POLL_MAX, Event, Events, Link, LinkError, Rejected, SERVER, Transfer,
    Waker,
};
use crate::outgoing::{Half, Outgoing};
use crate::zmq::socket::{Header, Incoming, Sent, ZmqSocket};
use crate::zmq::{CAPABILITIES, part_bytes_max};

/// How long after a connection broke what came before is still waited for: libzmq reports the
/// break first.
const BREAK_GRACE: Duration = Duration::from_millis(20);

/// How often the monitor is asked while polling without sleeping.
const POLLS_PER_LOOK: u32 = 64;

/// How long a goodbye may hold up the end of the socket.
const GOODBYE_LINGER_MS: i32 = 100;

/// The client's end of the `zmq` link: one DEALER for one session.
#[derive(Debug)]
pub struct ZmqClient {
    socket: ZmqSocket,
    waker: Arc<EventWaker>,
    own: Own,
    outbox: VecDeque<Outgoing>,
    broken: Option<Instant>,
    gone: bool,
    pending: VecDeque<Event>,
    polls: u32,
}

impl ZmqClient {
    /// Connects, proves the session, and makes its slots. To be called on the thread that will
    /// own the link.
    ///
    /// # Errors
    /// [`ConnectError`] says whether the address, the server or the session is the trouble.
    pub fn connect(
        endpoint: &Endpoint,
        session: SessionId,
        generation: Generation,
        token: Token,
        layout: SlotLayout,
        deadline: Instant,
    ) -> Result<(ZmqClient, Arc<SlotTable>), ConnectError> {
        let wrong = || ConnectError::Address(endpoint.clone(), LinkKind::Zmq);
        let address = endpoint.address_on(LinkKind::Zmq).ok_or_else(wrong)?;
        if address.contains('\0') {
            return Err(wrong());
        }
        let (own, table) = Own::private(session, generation, layout)?;
        let longest = part_bytes_max(layout.reply_bytes);
        let mut socket = ZmqSocket::new(SocketType::DEALER, longest, address.contains('['))?;
        socket.socket().connect(address).map_err(|_unusable| wrong())?;
        let waker = EventWaker::new()?;
        socket.send_frame(None, &own.hello(token))?;
        let answer = await_answer(&mut socket, &waker, address, deadline)?;
        own.welcomed(answer.head(), address)?;
        let client = ZmqClient {
            socket,
            waker,
            own,
            outbox: VecDeque::new(),
            broken: None,
            gone: false,
            pending: VecDeque::new(),
            polls: 0,
        };
        Ok((client, table))
    }

    fn flush(&mut self) {
        while let Some(front) = self.outbox.front() {
            match self.socket.send_queued(None, front) {
                Ok(Sent::Taken) => {
                    let Some(sent) = self.outbox.pop_front() else { return };
                    let (request, elapsed_ns) = (sent.request, sent.elapsed_ns());
                    self.own.keep(request, sent.slot);
                    self.pending.push_back(Event::Sent { peer: SERVER, request, elapsed_ns });
                }
                Ok(Sent::Full) => return,
                Ok(Sent::Gone) => return self.end(LinkError::Closed),
                Err(why) => return self.end(why),
            }
        }
    }

    /// Takes one message; `false` if there is none.
    fn step(&mut self) -> Result<bool, LinkError> {
        if !self.socket.receive()? {
            return Ok(false);
        }
        let seen = Instant::now();
        let Incoming::Header(header, _) = self.socket.receive_header()? else {
            return Err(self.breach("a message whose first part is not a header"));
        };
        let frame = header.head().map_err(|error| self.refuse(error.into()))?;
        match frame.body {
            Body::Bye { status } => return Err(LinkError::Bye(status)),
            // The server finds out who is still there.
            Body::Welcome if self.own.is_of_lease(&frame) => {
                self.socket.skip_rest()?;
                return Ok(true);
            }
            _ => {}
        }
        let tail = header.tail().map_err(|error| self.refuse(error.into()))?;
        let mut slot = self.own.accept(&frame).map_err(|refusal| self.refuse(refusal))?;
        if !self.socket.receive_payload(frame.payload_bytes, Half::Reply, &mut slot)? {
            self.own.keep(frame.request, slot);
            return Err(self.breach("a payload that is not one part of the length in its header"));
        }
        let (peer, visible) = (SERVER, Instant::now());
        self.pending.push_back(Event::Arrived { peer, frame, slot, tail, seen, visible });
        Ok(true)
    }

    fn breach(&mut self, what: &'static str) -> LinkError {
        self.refuse(Refusal::Breach { session: self.own.session, what })
    }

    fn refuse(&mut self, refusal: Refusal) -> LinkError {
        let why = LinkError::Protocol(refusal.to_string());
        self.pending.push_back(Event::Refused(refusal));
        why
    }

    fn read_all(&mut self) {
        // Counts messages, not events: a server's second welcomes make no event.
        for _ in 0..EVENTS_PER_POLL_MAX {
            match self.step() {
                // As at the server: the first one does not wait for a look at the second.
                Ok(true) if !self.pending.is_empty() => return,
                Ok(true) => {}
                Ok(false) => {
                    if self.broken.is_some_and(|since| since.elapsed() >= BREAK_GRACE) {
                        self.end(LinkError::Closed);
                    }
                    return;
                }
                Err(why) => return self.end(why),
            }
        }
    }

    /// The connection is of no more use: gives back every slot in flight.
    fn end(&mut self, why: LinkError) {
        self.gone = true;
        let unsent = self.outbox.drain(..).map(|outgoing| outgoing.slot);
        let slots: Vec<Slot> = self.own.abandon().chain(unsent).collect();
        let session = Some(self.own.session);
        self.pending.push_back(Event::Gone { peer: SERVER, session, why, slots });
    }
}

/// Waits for the first message, which is to be a header alone.
fn await_answer(
    socket: &mut ZmqSocket,
    waker: &EventWaker,
    address: &str,
    deadline: Instant,
) -> Result<Header, ConnectError> {
    let mut broken: Option<Instant> = None;
    loop {
        if socket.receive()? {
            return match socket.receive_header()? {
                Incoming::Header(header, false) => Ok(header),
                _ => {
                    let what = "a message that is not a header".into();
                    Err(ConnectError::Protocol { address: address.to_owned(), what })
                }
            };
        }
        if broken.is_some_and(|since| since.elapsed() >= BREAK_GRACE) {
            let (address, why) = (address.to_owned(), LinkError::Closed);
            return Err(ConnectError::Unreachable { address, why });
        }
        let left = time_left(deadline, address)?;
        let at_most = if broken.is_some() { BREAK_GRACE.min(left) } else { left };
        if socket.park(waker, false, at_most) {
            broken.get_or_insert_with(Instant::now);
        }
    }
}

impl Link for ZmqClient {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn submit(&mut self, transfer: Transfer) -> Result<(), Rejected> {
        let outgoing = self.own.outgoing(self.gone, transfer)?;
        self.outbox.push_back(outgoing);
        self.flush();
        Ok(())
    }

    fn poll(&mut self, events: &mut Events) {
        if !self.gone && self.pending.len() < EVENTS_PER_POLL_MAX {
            self.polls = self.polls.wrapping_add(1);
            if self.polls.is_multiple_of(POLLS_PER_LOOK) && self.socket.take_breaks() {
                self.broken.get_or_insert_with(Instant::now);
            }
            self.flush();
        }
        if !self.gone && self.pending.len() < EVENTS_PER_POLL_MAX {
            self.read_all();
        }
        let count = self.pending.len().min(EVENTS_PER_POLL_MAX);
        events.extend(self.pending.drain(..count));
    }

    fn park(&mut self, at_most: Duration) {
        if !self.pending.is_empty() {
            return;
        }
        if self.gone {
            // What the server still sends is not looked at: now only the waker counts.
            return self.waker.doze(at_most);
        }
        let at_most = if self.broken.is_some() { at_most.min(BREAK_GRACE) } else { at_most };
        if self.socket.park(&self.waker, !self.outbox.is_empty(), at_most) {
            self.broken.get_or_insert_with(Instant::now);
        }
    }

    fn waker(&self) -> Waker {
        Arc::clone(&self.waker) as Waker
    }
}

impl Drop for ZmqClient {
    /// Says goodbye, so that the server need not wait to find out.
    fn drop(&mut self) {
        if !self.gone && self.socket.send_frame(None, &self.own.bye()).is_ok() {
            // Without it the goodbye is thrown away; the default of 0 is no harm either.
            let _lingers = self.socket.socket().set_linger(GOODBYE_LINGER_MS);
        }
    }
}
