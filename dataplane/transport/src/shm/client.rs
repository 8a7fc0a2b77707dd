//! The client's end of the link.

mod handshake;
mod waker;

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::{
    Body, Endpoint, Frame, Generation, Head, LinkKind, RegionDescriptor, SessionId, SlotIndex,
    Status, Tail, Token,
};
use ferry_memory::ring::{ASLEEP, Consumer, Producer, SharedRing};
use ferry_memory::{Bell, Importer, Slot, SlotTable};

use self::handshake::Joined;
use self::waker::ClientWaker;
use super::layout::{Headers, Way};
use super::wire::{self, Received};
use crate::clock::between_ns;
use crate::connect::ConnectError;
use crate::link::{
    Capabilities, EVENTS_PER_POLL_MAX, Event, Events, Link, LinkError, Rejected, SERVER, Transfer,
    Waker,
};
use crate::outgoing::Header;

/// The longest sleep without a look at the socket: how late a server's death is noticed. A look is
/// one system call, so that a sleeping client costs 20 of them per second.
const SLICE: Duration = Duration::from_millis(50);
/// Empty polls between two readings of the clock.
const POLLS_PER_CLOCK: u32 = 256;
/// How often a client that polls looks at the socket.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// The client's end of the link `shm`.
#[derive(Debug)]
pub struct ShmClient {
    session: SessionId,
    generation: Generation,
    socket: OwnedFd,
    bell: Bell,
    headers: Headers,
    requests: Producer<SharedRing>,
    replies: Consumer<SharedRing>,
    table: Arc<SlotTable>,
    /// By slot: the number of the request, and the slot that waits for its reply.
    in_flight: Vec<Option<(u64, Slot)>>,
    /// Writes that are complete and not yet reported: request and duration in nanoseconds.
    sent: VecDeque<(u64, u64)>,
    waker: Arc<ClientWaker>,
    lost: Loss,
    empty_polls: u32,
    looked: Instant,
}

/// Whether the server is gone.
#[derive(Debug)]
enum Loss {
    None,
    /// Not told yet.
    Noticed(LinkError),
    Told(LinkError),
}

impl ShmClient {
    /// Connects to `endpoint`, proves the session by its token, and maps the memory that
    /// `descriptor` describes. The slots are the client's: it trusts its server as a program
    /// trusts its libraries, and so borrows their bytes. Slots in memory of a device are opened by
    /// `importer`, last.
    ///
    /// # Errors
    /// [`ConnectError`] if nobody listens, the proof is refused, what is handed over is not as
    /// described, or `deadline` passes.
    pub fn connect(
        endpoint: &Endpoint,
        session: SessionId,
        generation: Generation,
        token: Token,
        descriptor: &RegionDescriptor,
        importer: Option<&dyn Importer>,
        deadline: Instant,
    ) -> Result<(ShmClient, Arc<SlotTable>), ConnectError> {
        let hello = wire::bare(session, generation, Body::Hello { token });
        let Joined { socket, bell, signals, table } =
            handshake::join(endpoint, &hello, descriptor, importer, deadline)?;
        let slots = table.layout().slots as usize;
        let client = ShmClient {
            session,
            generation,
            socket,
            bell,
            headers: signals.headers,
            waker: Arc::new(ClientWaker::new(signals.replies.sleeper().clone())),
            requests: Producer::new(signals.requests),
            replies: Consumer::new(signals.replies),
            table: Arc::clone(&table),
            in_flight: (0..slots).map(|_| None).collect(),
            sent: VecDeque::with_capacity(slots),
            lost: Loss::None,
            empty_polls: 0,
            looked: Instant::now(),
        };
        Ok((client, table))
    }

    /// Checks that `transfer` can be sent, and writes its header. Whether it keeps to what the
    /// session agreed is for the server to say, who cannot believe a client anyway.
    fn prepare(&mut self, transfer: &Transfer) -> Result<SlotIndex, LinkError> {
        if let Loss::Noticed(why) | Loss::Told(why) = &self.lost {
            return Err(why.clone());
        }
        if transfer.peer != SERVER {
            return Err(LinkError::NoPeer(transfer.peer));
        }
        let slot = transfer.slot.index();
        if !Arc::ptr_eq(transfer.slot.table(), &self.table) {
            return Err(LinkError::Protocol("the slot is of another session".into()));
        }
        if transfer.frame.payload_bytes > self.table.layout().request_bytes {
            return Err(LinkError::Protocol("the payload is longer than its slot".into()));
        }
        self.requests.reserve().map_err(|_full_or_breach| LinkError::Full)?;
        let header = Header::new(&transfer.frame, &transfer.tail);
        self.headers
            .write(slot, Way::Request, header.parts())
            .map_err(|error| LinkError::os("write a header", error))?;
        Ok(slot)
    }

    /// Takes the next reply in.
    fn next(&mut self) -> Result<Option<Event>, LinkError> {
        let broken = |what: &str| LinkError::Protocol(what.to_owned());
        let entry = self.replies.pop().map_err(|error| broken(&error.to_string()))?;
        let Some(entry) = entry else { return Ok(None) };
        let known = u32::try_from(entry).ok().map(SlotIndex);
        let known = known.filter(|slot| slot.at() < self.in_flight.len());
        let slot = known.ok_or_else(|| broken("no such slot in the ring"))?;
        let header = self.headers.read(slot, Way::Reply);
        let header = header.map_err(|error| broken(&error.to_string()))?;
        let decoded = Head::decode(&header).map_err(|error| broken(&error.to_string()))?;
        let Head { frame, tail_bytes } = decoded;
        let own = (frame.session, frame.generation) == (self.session, self.generation);
        let fits = frame.payload_bytes <= self.table.layout().reply_bytes;
        if !own || !fits || frame.slot != slot || !matches!(frame.body, Body::Reply(_)) {
            return Err(broken("what came is no reply to this session"));
        }
        let tail = self.read_tail(slot, tail_bytes).map_err(|what| broken(&what))?;
        match self.in_flight[slot.at()].take() {
            Some((request, slot)) if request == frame.request => {
                // One reading for both: nobody asks how long a client takes over a header.
                let (peer, seen) = (SERVER, Instant::now());
                Ok(Some(Event::Arrived { peer, frame, slot, tail, seen, visible: seen }))
            }
            other => {
                self.in_flight[slot.at()] = other;
                Err(broken("reply to a request that is not in flight"))
            }
        }
    }

    fn read_tail(&self, slot: SlotIndex, tail_bytes: usize) -> Result<Tail, String> {
        if tail_bytes == 0 {
            return Ok(Tail::NONE);
        }
        let bytes = self.headers.read_tail(slot, Way::Reply, tail_bytes);
        let bytes = bytes.map_err(|error| error.to_string())?;
        Tail::decode(&bytes).map_err(|error| error.to_string())
    }

    /// Looks whether the server said good-bye or died.
    fn look(&mut self) {
        if !matches!(self.lost, Loss::None) {
            return;
        }
        let why = match wire::receive(self.socket.as_fd()) {
            Received::Nothing => return,
            Received::End => LinkError::Closed,
            Received::Message(Ok(Frame { body: Body::Bye { status }, .. })) => {
                LinkError::Bye(status)
            }
            Received::Message(Ok(_)) => LinkError::Protocol("expected a bye".into()),
            Received::Message(Err(error)) => LinkError::Protocol(error.to_string()),
        };
        self.lost = Loss::Noticed(why);
    }

    /// After an empty poll: now and then a look at the socket, and the news of it.
    fn idle(&mut self, events: &mut Events) {
        self.empty_polls = self.empty_polls.wrapping_add(1);
        if self.empty_polls.is_multiple_of(POLLS_PER_CLOCK) && self.looked.elapsed() >= LOOK_EVERY {
            self.looked = Instant::now();
            self.look();
        }
        if let Loss::Noticed(why) = &self.lost {
            let why = why.clone();
            self.lost = Loss::Told(why.clone());
            let slots = self.in_flight.iter_mut().filter_map(Option::take);
            let slots = slots.map(|(_request, slot)| slot).collect();
            events.push(Event::Gone { peer: SERVER, session: Some(self.session), why, slots });
        }
    }
}

impl Link for ShmClient {
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
        let slot = match self.prepare(&transfer) {
            Ok(slot) => slot,
            Err(why) => return Err(Rejected { transfer: Box::new(transfer), why }),
        };
        let request = transfer.frame.request;
        self.in_flight[slot.at()] = Some((request, transfer.slot));
        let pushed = self.requests.push(u64::from(slot.0));
        debug_assert!(pushed.is_ok(), "there was room: {pushed:?}");
        if self.requests.must_wake() {
            self.bell.ring();
        }
        self.sent.push_back((request, between_ns(start, Instant::now())));
        Ok(())
    }

    fn poll(&mut self, events: &mut Events) {
        if matches!(self.lost, Loss::Told(_)) {
            return;
        }
        let before = events.len();
        while events.len() < before + EVENTS_PER_POLL_MAX {
            let Some((request, elapsed_ns)) = self.sent.pop_front() else { break };
            events.push(Event::Sent { peer: SERVER, request, elapsed_ns });
        }
        while events.len() < before + EVENTS_PER_POLL_MAX {
            match self.next() {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(why) => {
                    if matches!(self.lost, Loss::None) {
                        self.lost = Loss::Noticed(why);
                    }
                    break;
                }
            }
        }
        if events.len() == before {
            self.idle(events);
        }
    }

    fn park(&mut self, at_most: Duration) {
        let told_all = self.sent.is_empty() && !matches!(self.lost, Loss::Noticed(_));
        if !told_all || self.waker.was_wanted() {
            return;
        }
        // Anything but an armed, empty ring is for `poll` to see.
        if self.replies.arm() == Ok(true) {
            if !self.waker.was_wanted() {
                self.waker.sleeper().wait(ASLEEP, at_most.min(SLICE));
            }
            self.replies.disarm();
        }
        if self.replies.is_empty() == Ok(true) {
            self.look();
        }
    }

    fn waker(&self) -> Waker {
        Arc::<ClientWaker>::clone(&self.waker)
    }
}

impl Drop for ShmClient {
    fn drop(&mut self) {
        // Tells a client that left from one that died. The memory goes with the last slot.
        let bye = Body::Bye { status: Status::SessionEnded };
        wire::send(self.socket.as_fd(), &wire::bare(self.session, self.generation, bye)).ok();
    }
}
