//! The client's end.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::{
    Body, Endpoint, FRAME_BYTES, Frame, Generation, LinkKind, SessionId, SlotLayout, Token,
};
use ferry_memory::{Slot, SlotTable};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::admitted::Refusal;
use crate::connect::{ConnectError, Own, time_left};
use crate::event::EventWaker;
use crate::link::{
    Capabilities, EVENTS_PER_POLL_MAX, Event, Events, Link, LinkError, Rejected, SERVER, Transfer,
    Waker,
};
use crate::outgoing::Half;
use crate::tcp::doors::prepare;
use crate::tcp::stream::{HeaderInbox, Outbox, PayloadInbox, Progress};
use crate::tcp::{CAPABILITIES, TURN_BYTES_MAX, TURN_FRAMES_MAX};

/// The client's end of the `tcp` link: one connection for one session.
#[derive(Debug)]
pub struct TcpClient {
    stream: TcpStream,
    waker: Arc<EventWaker>,
    own: Own,
    outbox: Outbox,
    header: HeaderInbox,
    payload: Option<PayloadInbox>,
    /// Sending failed: what the server said before is still to be read.
    unsendable: bool,
    gone: bool,
    pending: VecDeque<Event>,
}

impl TcpClient {
    /// Connects, proves the session, and makes its slots.
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
    ) -> Result<(TcpClient, Arc<SlotTable>), ConnectError> {
        let Some(address) = endpoint.address_on(LinkKind::Tcp) else {
            return Err(ConnectError::Address(endpoint.clone(), LinkKind::Tcp));
        };
        let resolved = address
            .to_socket_addrs()
            .map_err(|error| unreachable(address, LinkError::os("resolve", error)))?;
        let (own, table) = Own::private(session, generation, layout)?;
        let stream = reach(resolved, address, deadline)?;
        greet(&stream, &own, token, address, deadline)?;
        let client = TcpClient {
            stream,
            waker: EventWaker::new()?,
            own,
            outbox: Outbox::default(),
            header: HeaderInbox::new(),
            payload: None,
            unsendable: false,
            gone: false,
            pending: VecDeque::new(),
        };
        prepare(&client.stream, None)
            .map_err(|error| unreachable(address, LinkError::os("set up the socket", error)))?;
        Ok((client, table))
    }

    /// Hands on to the kernel what it takes.
    fn flush(&mut self) {
        while !self.unsendable {
            match self.outbox.next_sent(&self.stream) {
                Ok(Some(sent)) => {
                    let (request, elapsed_ns) = (sent.request, sent.elapsed_ns());
                    self.own.keep(request, sent.slot);
                    self.pending.push_back(Event::Sent { peer: SERVER, request, elapsed_ns });
                }
                Ok(None) => return,
                Err(_) => self.unsendable = true,
            }
        }
    }

    fn read_all(&mut self) {
        let mut budget = TURN_BYTES_MAX;
        for _ in 0..TURN_FRAMES_MAX {
            match self.step(&mut budget) {
                Ok(true) => {}
                Ok(false) if self.unsendable => return self.end(LinkError::Closed),
                Ok(false) => return,
                Err(why) => return self.end(why),
            }
        }
    }

    /// Reads one message; `false` if it is not complete yet.
    fn step(&mut self, budget: &mut usize) -> Result<bool, LinkError> {
        if self.payload.is_none() {
            let Some((head, seen)) = self.header.read(&self.stream, budget)? else {
                return Ok(false);
            };
            let accepted = head.map_err(Refusal::from).and_then(|head| match head.frame.body {
                Body::Bye { .. } => Ok((head, None)),
                _ => self.own.accept(&head.frame).map(|slot| (head, Some(slot))),
            });
            match accepted {
                Ok((head, Some(slot))) => {
                    self.payload = Some(PayloadInbox::new(head, slot, seen));
                }
                Ok((head, None)) => return Err(farewell(&head.frame)),
                Err(refusal) => return Err(self.refuse(refusal)),
            }
        }
        let Some(payload) = &mut self.payload else { return Ok(false) };
        match payload.read(Half::Reply, &self.stream, budget)? {
            Ok(Progress::Blocked) => return Ok(false),
            Ok(Progress::Done) => {}
            Err(error) => return Err(self.refuse(error.into())),
        }
        if let Some(PayloadInbox { frame, slot, tail, seen, .. }) = self.payload.take() {
            let (peer, visible) = (SERVER, Instant::now());
            self.pending.push_back(Event::Arrived { peer, frame, slot, tail, seen, visible });
        }
        Ok(true)
    }

    fn refuse(&mut self, refusal: Refusal) -> LinkError {
        let why = LinkError::Protocol(refusal.to_string());
        self.pending.push_back(Event::Refused(refusal));
        why
    }

    /// The connection is of no more use: gives back every slot in flight.
    fn end(&mut self, why: LinkError) {
        self.gone = true;
        // Fails if the peer was faster, and then it is shut down all the same.
        let _shut = self.stream.shutdown(std::net::Shutdown::Both);
        let half_read = self.payload.take().map(|payload| payload.slot);
        let slots: Vec<Slot> =
            self.own.abandon().chain(self.outbox.abandon()).chain(half_read).collect();
        let session = Some(self.own.session);
        self.pending.push_back(Event::Gone { peer: SERVER, session, why, slots });
    }
}

fn unreachable(address: &str, why: LinkError) -> ConnectError {
    ConnectError::Unreachable { address: address.to_owned(), why }
}

fn farewell(frame: &Frame) -> LinkError {
    match frame.body {
        Body::Bye { status } => LinkError::Bye(status),
        _ => LinkError::Closed,
    }
}

/// Connects to the first address that answers.
fn reach(
    resolved: impl Iterator<Item = SocketAddr>,
    address: &str,
    deadline: Instant,
) -> Result<TcpStream, ConnectError> {
    let mut why = LinkError::os("resolve", "the name has no address");
    for candidate in resolved {
        match TcpStream::connect_timeout(&candidate, time_left(deadline, address)?) {
            Ok(stream) => return Ok(stream),
            Err(error) => why = LinkError::os("connect", error),
        }
    }
    time_left(deadline, address)?;
    Err(unreachable(address, why))
}

/// Says hello and waits for the answer.
fn greet(
    mut stream: &TcpStream,
    own: &Own,
    token: Token,
    address: &str,
    deadline: Instant,
) -> Result<(), ConnectError> {
    let broken = |error| unreachable(address, LinkError::os("say hello", error));
    stream.set_write_timeout(Some(time_left(deadline, address)?)).map_err(broken)?;
    stream.write_all(&own.hello(token).encode()).map_err(broken)?;
    let mut answer = [0_u8; FRAME_BYTES];
    let mut got = 0;
    while got < FRAME_BYTES {
        stream.set_read_timeout(Some(time_left(deadline, address)?)).map_err(broken)?;
        match stream.read(&mut answer[got..]) {
            Ok(0) => return Err(unreachable(address, LinkError::Closed)),
            Ok(read) => got += read,
            Err(error) => match error.kind() {
                ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut => {}
                _ => return Err(broken(error)),
            },
        }
    }
    own.welcomed(Frame::decode(&answer), address)
}

impl Link for TcpClient {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn submit(&mut self, transfer: Transfer) -> Result<(), Rejected> {
        let outgoing = self.own.outgoing(self.gone || self.unsendable, transfer)?;
        self.outbox.push(outgoing);
        self.flush();
        Ok(())
    }

    fn poll(&mut self, events: &mut Events) {
        if !self.gone && self.pending.len() < EVENTS_PER_POLL_MAX {
            self.flush();
            self.read_all();
        }
        let count = self.pending.len().min(EVENTS_PER_POLL_MAX);
        events.extend(self.pending.drain(..count));
    }

    fn park(&mut self, at_most: Duration) {
        if self.gone && self.pending.is_empty() {
            // A connection that is gone is always readable: now only the waker counts.
            return self.waker.doze(at_most);
        }
        if !self.pending.is_empty() || self.unsendable || !self.waker.lie_down() {
            return;
        }
        let mut wanted = PollFlags::IN;
        if !self.outbox.is_empty() {
            wanted |= PollFlags::OUT;
        }
        let waker = PollFd::new(&*self.waker, PollFlags::IN);
        let mut doors = [waker, PollFd::new(&self.stream, wanted)];
        let timeout = Timespec::try_from(at_most).ok();
        // Interrupted by a signal is as good as early.
        let _early = rustix::event::poll(&mut doors, timeout.as_ref());
        let rung = doors[0].revents().contains(PollFlags::IN);
        self.waker.get_up(rung);
    }

    fn waker(&self) -> Waker {
        Arc::clone(&self.waker) as Waker
    }
}

impl Drop for TcpClient {
    /// Says goodbye, so that the server need not wait to find out.
    fn drop(&mut self) {
        if !self.gone {
            let _told = self.outbox.send_now(&self.stream, &self.own.bye());
        }
    }
}
