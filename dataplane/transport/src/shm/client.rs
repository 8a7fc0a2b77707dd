//! The client's end of the link.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ferry_core::{
    Body, Endpoint, Frame, Generation, LinkKind, RegionDescriptor, SessionId, SlotIndex, Token,
};
use ferry_memory::ring::{ASLEEP, AWAKE, Consumer, Producer, SharedRing};
use ferry_memory::{Bell, PeerAccess, SharedBacking, Slot, SlotTable, Word};

use super::layout::{Headers, SessionLayout, SessionMemory, Way};
use super::wire::{self, Received};
use crate::link::{
    Capabilities, EVENTS_PER_POLL_MAX, Event, Events, Link, LinkError, Rejected, SERVER, Transfer,
    Wake, Waker,
};

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
    /// trusts its libraries, and so borrows their bytes.
    ///
    /// # Errors
    /// [`LinkError`] if nobody listens, the proof is refused, what is handed over is not as
    /// described, or `deadline` passes.
    pub fn connect(
        endpoint: &Endpoint,
        session: SessionId,
        generation: Generation,
        token: &Token,
        descriptor: &RegionDescriptor,
        deadline: Instant,
    ) -> Result<(ShmClient, Arc<SlotTable>), LinkError> {
        let Endpoint::Shm { socket: name } = endpoint else {
            let error = "not the endpoint of a link shm";
            return Err(LinkError::os(format!("connect to {endpoint:?}"), error));
        };
        let foreign = |error| LinkError::Protocol(with_source(&error));
        let layout = SessionLayout::described(descriptor).map_err(foreign)?;
        let socket = connect(name, deadline)?;
        let hello = wire::bare(session, generation, Body::Hello { token: *token });
        wire::send(socket.as_fd(), &hello).map_err(|errno| LinkError::os("send hello", errno))?;
        wire::set_patience(&socket, deadline.saturating_duration_since(Instant::now()))?;
        let (welcome, [memfd, bell]) = wire::receive_welcome(&socket)?;
        if (welcome.session, welcome.generation) != (session, generation) {
            return Err(LinkError::Protocol("welcomed to another session".into()));
        }
        let backing =
            SharedBacking::import(memfd, layout.bytes(), layout.slots()).map_err(foreign)?;
        let memory = SessionMemory::new(&Arc::new(backing), &layout).map_err(foreign)?;
        let table = SlotTable::over(layout.slots(), PeerAccess::None, &memory.slots);
        let table = table.map_err(foreign)?;
        let sleeper = memory.replies.sleeper().clone();
        let client = ShmClient {
            session,
            generation,
            socket,
            bell: Bell::from(bell),
            headers: memory.headers,
            requests: Producer::new(memory.requests),
            replies: Consumer::new(memory.replies),
            table: Arc::clone(&table),
            in_flight: (0..layout.slots().slots).map(|_| None).collect(),
            waker: Arc::new(ClientWaker { sleeper, wanted: AtomicBool::new(false) }),
            lost: Loss::None,
            empty_polls: 0,
            looked: Instant::now(),
        };
        Ok((client, table))
    }

    /// Says whether `transfer` may be sent, and as what.
    fn check(&mut self, transfer: &Transfer) -> Result<SlotIndex, LinkError> {
        if let Loss::Noticed(why) | Loss::Told(why) = &self.lost {
            return Err(why.clone());
        }
        if transfer.peer != SERVER {
            return Err(LinkError::NoPeer(transfer.peer));
        }
        let slot = transfer.slot.index();
        let own = Arc::ptr_eq(transfer.slot.table(), &self.table);
        if !own || !matches!(transfer.frame.body, Body::Request(_)) {
            return Err(LinkError::Protocol("not a request in a slot of this session".into()));
        }
        if transfer.frame.payload_bytes > self.table.layout().request_bytes {
            return Err(LinkError::Protocol("the payload is longer than its slot".into()));
        }
        self.requests.reserve().map_err(|_full_or_breach| LinkError::Full)?;
        let header = transfer.frame.encode();
        self.headers
            .write(slot, Way::Request, &header)
            .map_err(|error| LinkError::os("write a header", error))?;
        Ok(slot)
    }

    /// Takes the next reply in.
    fn next(&mut self) -> Result<Option<Event>, LinkError> {
        let broken = |what: &str| LinkError::Protocol(what.to_owned());
        let entry = self.replies.pop().map_err(|error| broken(&error.to_string()))?;
        let Some(entry) = entry else { return Ok(None) };
        let seen = Instant::now();
        let known = u32::try_from(entry).ok().map(SlotIndex);
        let known = known.filter(|slot| slot.at() < self.in_flight.len());
        let slot = known.ok_or_else(|| broken("no such slot in the ring"))?;
        let header = self.headers.read(slot, Way::Reply);
        let header = header.map_err(|error| broken(&error.to_string()))?;
        let frame = Frame::decode(&header).map_err(|error| broken(&error.to_string()))?;
        let own = (frame.session, frame.generation) == (self.session, self.generation);
        let fits = frame.payload_bytes <= self.table.layout().reply_bytes;
        if !own || !fits || frame.slot != slot || !matches!(frame.body, Body::Reply(_)) {
            return Err(broken("what came is no reply to this session"));
        }
        match self.in_flight[slot.at()].take() {
            Some((request, slot)) if request == frame.request => {
                let visible = Instant::now();
                Ok(Some(Event::Arrived { peer: SERVER, frame, slot, seen, visible }))
            }
            other => {
                self.in_flight[slot.at()] = other;
                Err(broken("reply to a request that is not in flight"))
            }
        }
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

fn connect(name: &str, deadline: Instant) -> Result<OwnedFd, LinkError> {
    let refused = |errno: rustix::io::Errno| LinkError::os(format!("connect to {name:?}"), errno);
    let socket = wire::socket().map_err(refused)?;
    wire::set_patience(&socket, deadline.saturating_duration_since(Instant::now()))?;
    rustix::net::connect(&socket, &wire::address(name)?).map_err(refused)?;
    Ok(socket)
}

fn with_source(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

impl Link for ShmClient {
    /// A write is complete when `submit` returns: there is nothing left to report.
    fn capabilities(&self) -> Capabilities {
        Capabilities { kind: LinkKind::Shm, one_sided: true, reports_completion: false }
    }

    fn submit(&mut self, transfer: Transfer) -> Result<(), Rejected> {
        let slot = match self.check(&transfer) {
            Ok(slot) => slot,
            Err(why) => return Err(Rejected { transfer: Box::new(transfer), why }),
        };
        self.in_flight[slot.at()] = Some((transfer.frame.request, transfer.slot));
        let pushed = self.requests.push(u64::from(slot.0));
        debug_assert!(pushed.is_ok(), "there was room: {pushed:?}");
        if self.requests.must_wake() {
            self.bell.ring();
        }
        Ok(())
    }

    fn poll(&mut self, events: &mut Events) {
        if matches!(self.lost, Loss::Told(_)) {
            return;
        }
        let before = events.len();
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
        if matches!(self.lost, Loss::Noticed(_)) || self.waker.was_wanted() {
            return;
        }
        // Anything but an armed, empty ring is for `poll` to see.
        if self.replies.arm() == Ok(true) {
            if !self.waker.was_wanted() {
                self.waker.sleeper.wait(ASLEEP, at_most.min(SLICE));
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

/// Ends a client's sleep on the word that the server wakes, too.
#[derive(Debug)]
struct ClientWaker {
    sleeper: Word,
    /// Somebody wants the current or the next sleep to end.
    wanted: AtomicBool,
}

impl ClientWaker {
    fn was_wanted(&self) -> bool {
        self.wanted.swap(false, Ordering::SeqCst)
    }
}

impl Wake for ClientWaker {
    fn wake(&self) {
        // Store first, look after, as a producer does; the other side raises the word first and
        // looks at `wanted` after.
        self.wanted.store(true, Ordering::SeqCst);
        if self.sleeper.cell().swap(AWAKE, Ordering::SeqCst) == ASLEEP {
            self.sleeper.wake();
        }
    }
}
