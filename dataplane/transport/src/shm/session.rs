//! The server's end of one session.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::{Body, FrameError, Head, RegionDescriptor, SessionId, SlotIndex, Status, Tail};
use ferry_memory::ring::{Consumer, Producer, RingError, SharedRing};
use ferry_memory::{Backing, Bell, MemoryError, PeerAccess, PeerId, SharedBacking, SlotTable};

use super::layout::{Headers, SessionLayout, SessionMemory, Slots, Way};
use super::wire;
use crate::admitted::{Admission, Admitted, Refusal};
use crate::link::{Event, Events, LinkError, Transfer};
use crate::outgoing::Header;

/// Bells more than were asked for, before the peer is cut off. An honest one rings at most once
/// per raised flag; the slack is for nothing known.
const BELLS_UNASKED_MAX: u64 = 16;

/// The memory of a session, its memfd, and what its client is told.
fn memory(
    admission: &Admission,
) -> Result<(SessionMemory, OwnedFd, RegionDescriptor), MemoryError> {
    let (slots, placer) = (admission.layout, admission.placer.as_deref());
    let undescribed = |what: &str| MemoryError::Layout { what: format!("{slots:?}: {what}") };
    let too_long = "more than a descriptor can say";
    if let Some(placer) = placer.filter(|it| it.on_device()) {
        let layout = SessionLayout::apart(slots)?;
        let apart = placer.allocate(layout.slots_bytes())?;
        let Some(RegionDescriptor::Device(device)) = apart.describe() else {
            return Err(undescribed("the device's memory cannot be opened by another process"));
        };
        let (backing, memfd) = SharedBacking::create(layout.bytes(), slots)?;
        let memory = SessionMemory::new(&Arc::new(backing), &layout, Slots::Apart(apart))?;
        let bytes = u64::try_from(layout.bytes()).map_err(|_overflow| undescribed(too_long))?;
        let described = RegionDescriptor::OnDevice { bytes, layout: slots, slots: device };
        return Ok((memory, memfd, described));
    }
    let layout = SessionLayout::new(slots)?;
    let (backing, memfd) = SharedBacking::create(layout.bytes(), slots)?;
    let described = backing.describe().ok_or_else(|| undescribed(too_long))?;
    let memory = SessionMemory::new(&Arc::new(backing), &layout, Slots::InMemfd(placer))?;
    Ok((memory, memfd, described))
}

/// A session that was admitted; joined once its client has proved itself.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) admitted: Admitted,
    pub(super) bell: Bell,
    /// Open for as long as the client lives.
    pub(super) socket: Option<OwnedFd>,
    /// Whether the lane polls the ring, rather than waits for the bell.
    pub(super) hot: bool,
    /// When a request was last seen.
    active: Instant,
    /// Until it is handed over, once.
    memfd: Option<OwnedFd>,
    headers: Headers,
    requests: Consumer<SharedRing>,
    replies: Producer<SharedRing>,
    armed_times: u64,
    rung_times: u64,
}

impl Session {
    /// Makes the session's memory.
    pub(super) fn new(
        peer: PeerId,
        admission: Admission,
    ) -> Result<(Session, RegionDescriptor), MemoryError> {
        let (memory, memfd, descriptor) = memory(&admission)?;
        let table = SlotTable::over(admission.layout, PeerAccess::Writes, &memory.slots)?;
        let session = Session {
            admitted: Admitted { peer, admission, table },
            bell: Bell::new()?,
            socket: None,
            hot: false,
            active: Instant::now(),
            memfd: Some(memfd),
            headers: memory.headers,
            requests: Consumer::new(memory.requests),
            replies: Producer::new(memory.replies),
            armed_times: 0,
            rung_times: 0,
        };
        Ok((session, descriptor))
    }

    /// Which session it is.
    pub(super) fn id(&self) -> SessionId {
        self.admitted.admission.session
    }

    /// Hands the memory and the bell to the client that proved itself.
    pub(super) fn welcome(&mut self, socket: OwnedFd) -> Result<(), LinkError> {
        let memfd = self.memfd.take().ok_or(LinkError::Closed)?;
        let admission = &self.admitted.admission;
        let frame = wire::bare(admission.session, admission.generation, Body::Welcome);
        wire::send_welcome(socket.as_fd(), &frame, memfd.as_fd(), self.bell.as_fd())
            .map_err(|errno| LinkError::os("hand the session's memory over", errno))?;
        self.socket = Some(socket);
        self.active = Instant::now();
        Ok(())
    }

    /// Whether its memory was handed out already: it is never handed out twice.
    pub(super) fn was_joined(&self) -> bool {
        self.memfd.is_none()
    }

    /// Appends the requests that came, until `events` has `most`. Says when the last one
    /// was seen, if there was one.
    pub(super) fn serve(
        &mut self,
        events: &mut Events,
        most: usize,
    ) -> Result<Option<Instant>, Refusal> {
        let mut found = None;
        while events.len() < most {
            let Some(entry) = self.requests.pop().map_err(|error| self.breach(error))? else {
                break;
            };
            let seen = Instant::now();
            found = Some(seen);
            self.active = seen;
            events.push(self.arrived(entry, seen)?);
        }
        Ok(found)
    }

    fn arrived(&self, entry: u64, seen: Instant) -> Result<Event, Refusal> {
        let session = self.id();
        let slots = self.admitted.admission.layout.slots;
        let slot = u32::try_from(entry).ok().filter(|&slot| slot < slots).map(SlotIndex);
        let slot = slot.ok_or(Refusal::Breach { session, what: "no such slot in the ring" })?;
        let unreadable = |_error| Refusal::Breach { session, what: "header cannot be read" };
        let header = self.headers.read(slot, Way::Request).map_err(unreadable)?;
        let Head { frame, tail_bytes } = Head::decode(&header)?;
        self.admitted.check(&frame)?;
        let tail = if tail_bytes == 0 {
            Tail::NONE
        } else {
            let tail = self.headers.read_tail(slot, Way::Request, tail_bytes);
            Tail::decode(&tail.map_err(unreadable)?).map_err(FrameError::from)?
        };
        let named = frame.slot.0;
        let claimed = self.admitted.table.claim(slot).filter(|_| named == slot.0);
        let slot = claimed.ok_or(Refusal::Slot { session, slot: named })?;
        let invisible = |_error| Refusal::Breach { session, what: "payload cannot be seen" };
        slot.request().make_visible().map_err(invisible)?;
        let (peer, visible) = (self.admitted.peer, Instant::now());
        Ok(Event::Arrived { peer, frame, slot, tail, seen, visible })
    }

    /// Checks that a reply can be sent, and writes its header. A refusal says that the peer has to
    /// be cut off.
    pub(super) fn prepare(
        &mut self,
        transfer: &Transfer,
    ) -> Result<(), (LinkError, Option<Refusal>)> {
        let Transfer { frame, slot, tail, .. } = transfer;
        let own = Arc::ptr_eq(slot.table(), &self.admitted.table) && frame.slot == slot.index();
        let fits = frame.payload_bytes <= self.admitted.admission.layout.reply_bytes;
        if !own || !fits || !matches!(frame.body, Body::Reply(_)) {
            let why = "not a reply in a slot of this session, or longer than it";
            return Err((LinkError::Protocol(why.into()), None));
        }
        self.replies.reserve().map_err(|error| {
            // As many entries as there can be slots: an honest client never lets it fill.
            let why = match error {
                RingError::Full => LinkError::Full,
                RingError::Breach { .. } => LinkError::Protocol(error.to_string()),
            };
            (why, Some(self.breach(error)))
        })?;
        let written =
            self.headers.write(slot.index(), Way::Reply, Header::new(frame, tail).parts());
        written.map_err(|error| (LinkError::os("write a header", error), None))
    }

    /// Rings for a reply that was prepared.
    pub(super) fn reply(&mut self, transfer: Transfer) {
        let index = transfer.slot.index();
        // The slot is free before the client can know of the reply and use it again.
        drop(transfer);
        let pushed = self.replies.push(u64::from(index.0));
        debug_assert!(pushed.is_ok(), "there was room: {pushed:?}");
        self.wake_client();
    }

    fn wake_client(&mut self) {
        if self.replies.must_wake() {
            self.replies.memory().sleeper().wake();
        }
    }

    /// Raises the flag, so that the next request rings the bell. False: there is one already.
    pub(super) fn arm(&mut self) -> Result<bool, Refusal> {
        self.armed_times += 1;
        self.requests.arm().map_err(|error| self.breach(error))
    }

    /// Notes that the bell rang.
    pub(super) fn rung(&mut self) -> Result<(), Refusal> {
        self.rung_times += 1;
        if self.rung_times > self.armed_times + BELLS_UNASKED_MAX {
            let session = self.id();
            return Err(Refusal::Breach {
                session,
                what: "rings the bell of a lane that is awake",
            });
        }
        self.requests.disarm();
        self.active = Instant::now();
        Ok(())
    }

    /// For how long it has been silent.
    pub(super) fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.active)
    }

    /// Tells the client that it is over, and ends its sleep so that it sees.
    pub(super) fn say_bye(&mut self, status: Status) {
        let Some(socket) = &self.socket else { return };
        let admission = &self.admitted.admission;
        let bye = wire::bare(admission.session, admission.generation, Body::Bye { status });
        if let Err(errno) = wire::send(socket.as_fd(), &bye) {
            tracing::debug!(session = %admission.session, %errno, "peer took no bye");
        }
        self.wake_client();
    }

    fn breach(&self, error: RingError) -> Refusal {
        let what = match error {
            RingError::Full => "takes no replies",
            RingError::Breach { .. } => "ring index that no honest peer writes",
        };
        Refusal::Breach { session: self.id(), what }
    }
}
