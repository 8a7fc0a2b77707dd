//! The server's end.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::{Attachment, Body, Endpoint, RegionDescriptor, Retry, SessionId, Status};
use ferry_memory::PeerId;
use ferry_transport::admitted::status_for;
use ferry_transport::event::EventWaker;
use ferry_transport::link::EVENTS_PER_POLL_MAX;
use ferry_transport::{
    Admission, AdmitError, Admitted, Capabilities, Event, Events, Link, LinkError, Listener,
    Refusal, Rejected, Transfer, Waker,
};

use crate::areas::{Area, Areas};
use crate::fence::{Fencing, Memory};
use crate::health::Health;
use crate::options::RdmaOptions;
use crate::port::Port;
use crate::probe::{WindowProbe, probe};
use crate::session::{Heard, Session, Stand};
use crate::verbs::{Completion, CompletionQueue, Operation};
use crate::wait::{CAPABILITIES, sleep};
use crate::wire::{Parts, Requests, Task, Wire, completions_of, read_task_id};

/// Most entries of the completion queue: what 2,900 sessions of 8 slots need.
const COMPLETIONS_MAX: u32 = 65_536;

/// How long attaching waits for the device to open a window. It answers in microseconds.
const OPEN_WITHIN: Duration = Duration::from_secs(2);

/// How long the end of a listener waits for its sessions to be closed.
const DROP_WITHIN: Duration = Duration::from_secs(2);

/// How often sessions that are being closed are looked at while the lane sleeps.
const CLOSING_LOOK: Duration = Duration::from_millis(5);

/// The server's end of the `rdma` link: one port of one device, one completion queue, a queue pair
/// per session.
#[derive(Debug)]
pub struct RdmaListener {
    // Dropped first: what is in it belongs to the port.
    sessions: HashMap<u32, Session>,
    by_id: HashMap<SessionId, u32>,
    memory: Memory,
    queue: Arc<CompletionQueue>,
    port: Port,
    options: RdmaOptions,
    /// Completions that may be outstanding at once.
    completions: u32,
    next_serial: u32,
    health: Health,
    closing: usize,
    scratch: Vec<Completion>,
    pending: VecDeque<Event>,
    waker: Arc<EventWaker>,
}

impl RdmaListener {
    /// Opens a port and finds out what its memory windows are worth.
    ///
    /// # Errors
    /// [`LinkError::Os`] says what is missing, and how to get it.
    pub fn open(options: RdmaOptions) -> Result<RdmaListener, LinkError> {
        let port = Port::open(&options)?;
        port.log();
        let mut probed = probe(&port);
        if options.trust_window_bounds && probed == WindowProbe::Unbounded {
            tracing::warn!("window bounds are trusted, and the device does not check them");
            probed = WindowProbe::Hold;
        }
        let fencing = Fencing::choose(options.fence, &probed)?;
        tracing::info!(
            device = port.device().name(), windows = %probed, fence = fencing.name(),
            "RDMA fence"
        );
        Self::with_fencing(options, port, fencing)
    }

    pub(crate) fn with_fencing(
        options: RdmaOptions,
        port: Port,
        fencing: Fencing,
    ) -> Result<RdmaListener, LinkError> {
        if port.addresses(None).is_empty() {
            let what = "its port has no usable GID: give the network device an address";
            return Err(LinkError::os("use the RDMA device", what));
        }
        let entries = port.facts.completions_max.min(COMPLETIONS_MAX);
        Ok(RdmaListener {
            sessions: HashMap::new(),
            by_id: HashMap::new(),
            memory: Memory::new(&port.domain, fencing),
            queue: CompletionQueue::new(port.device(), entries)?,
            port,
            options,
            completions: 0,
            next_serial: 1,
            health: Health::default(),
            closing: 0,
            scratch: Vec::new(),
            pending: VecDeque::new(),
            waker: EventWaker::new()?,
        })
    }

    /// How sessions' memory is fenced.
    pub fn fencing(&self) -> Fencing {
        self.memory.fencing()
    }

    fn serial(&mut self) -> u32 {
        let serial = self.next_serial;
        // Four billion attachments later, what was late has long come.
        self.next_serial = serial.wrapping_add(1).max(1);
        serial
    }

    /// Takes what the device has completed, and what that leads to.
    fn drain(&mut self) {
        while self.pending.len() < EVENTS_PER_POLL_MAX {
            let mut scratch = std::mem::take(&mut self.scratch);
            let polled = self.queue.poll(&mut scratch);
            let seen = Instant::now();
            for completion in scratch.drain(..) {
                self.complete(&completion, seen);
            }
            self.scratch = scratch;
            match polled {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => return self.end_all(&error.into()),
            }
        }
    }

    fn complete(&mut self, completion: &Completion, seen: Instant) {
        let (serial, task) = read_task_id(completion.id);
        let Some(session) = self.sessions.get_mut(&serial) else { return };
        if let Err(why) = session.wire.complete(task, completion) {
            return self.fail(serial, why);
        }
        if session.wire.is_closing() {
            if let Task::Slot(slot) = task {
                let (sent, _) = session.sent(slot);
                self.pending.extend(sent);
            }
            return;
        }
        let heard = match (task, completion.operation) {
            (Task::Receive, Operation::WrittenWithImmediate(immediate)) => {
                session.hear(immediate, completion.bytes, seen)
            }
            (Task::Receive, _) => Heard::Refused(Refusal::Breach {
                session: session.id(),
                what: "a message that is not a write with an immediate",
            }),
            (Task::Slot(slot), _) => {
                let (sent, heard) = session.sent(slot);
                self.pending.extend(sent);
                heard
            }
            (Task::Control | Task::Window | Task::Touch, _) => Heard::Nothing,
        };
        self.on_heard(serial, heard);
    }

    fn on_heard(&mut self, serial: u32, heard: Heard) {
        let Some(session) = self.sessions.get_mut(&serial) else { return };
        match heard {
            Heard::Nothing => {}
            Heard::Event(event) => self.pending.push_back(event),
            Heard::Hello => {
                let (peer, id) = (session.peer(), session.id());
                let welcome = session.control(Body::Welcome);
                match session.wire.send(&welcome, 0, Area::Control) {
                    Ok(()) => self.pending.push_back(Event::Joined { peer, session: id }),
                    Err(why) => self.fail(serial, why),
                }
            }
            Heard::Goodbye(status) => {
                self.pending.push_back(session.gone(LinkError::Bye(status)));
                session.end(None);
                self.closing += 1;
            }
            Heard::Refused(refusal) if session.stand == Stand::Expected => {
                // Whoever it is has proved nothing; the owner can still attach and join.
                let bye = session.control(Body::Bye { status: status_for(&refusal) });
                self.pending.push_back(Event::Refused(refusal));
                if let Err(why) = session.wire.send(&bye, 0, Area::Control) {
                    self.fail(serial, why);
                }
            }
            Heard::Refused(refusal) => {
                let (status, why) = (status_for(&refusal), refusal.to_string());
                self.pending.push_back(Event::Refused(refusal));
                self.pending.push_back(session.gone(LinkError::Protocol(why)));
                session.end(Some(status));
                self.closing += 1;
            }
        }
    }

    /// A queue pair has failed.
    fn fail(&mut self, serial: u32, why: LinkError) {
        let Some(session) = self.sessions.get_mut(&serial) else { return };
        let was_closing = session.wire.is_closing();
        if session.stand == Stand::Joined {
            let why = self.health.explain(why);
            tracing::warn!(session = %session.id(), %why, "RDMA connection failed");
            self.pending.push_back(session.gone(why));
        }
        session.fail();
        if !was_closing {
            self.closing += 1;
        }
    }

    fn end_all(&mut self, why: &LinkError) {
        let open: Vec<u32> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.stand != Stand::Gone)
            .map(|(&serial, _)| serial)
            .collect();
        for serial in open {
            self.fail(serial, why.clone());
        }
    }

    /// Lets go of sessions that are closed.
    fn reap(&mut self) {
        if self.closing == 0 {
            return;
        }
        let now = Instant::now();
        let (completions, closing) = (&mut self.completions, &mut self.closing);
        let before = *closing;
        self.sessions.retain(|_, session| {
            let is_closed = session.wire.has_closed(now);
            if is_closed {
                *completions -= completions_of(session.admitted.admission.layout.slots);
                *closing -= 1;
            }
            !is_closed
        });
        if self.closing < before {
            self.memory.trim();
        }
    }

    fn check_health(&mut self) {
        if let Some(why) = self.health.check(self.port.device(), self.port.number) {
            self.end_all(&why);
        }
        if self.health.take_moved() {
            self.port.refresh();
        }
        for queue_pair in self.health.take_offenders() {
            let offender = self.sessions.iter().find(|(_, session)| {
                session.stand == Stand::Joined && session.wire.identity().0 == queue_pair
            });
            if let Some((&serial, session)) = offender {
                let what = "a write outside its memory, or with a key that is not its own";
                self.pending
                    .push_back(Event::Refused(Refusal::Breach { session: session.id(), what }));
                self.fail(serial, LinkError::Protocol(what.into()));
            }
        }
    }

    fn end(&mut self, session: SessionId, status: Status) {
        let Some(serial) = self.by_id.remove(&session) else { return };
        let Some(session) = self.sessions.get_mut(&serial) else { return };
        if !session.wire.is_closing() {
            self.closing += 1;
        }
        session.end(Some(status));
    }

    fn connect(
        &mut self,
        serial: u32,
        attachment: &Attachment,
    ) -> Result<RegionDescriptor, LinkError> {
        let next = self.serial();
        let gid = attachment.queue_pair.gids.first().copied();
        let gid = gid.ok_or_else(|| LinkError::Protocol("a queue pair without a GID".into()))?;
        let addresses = self.port.addresses(None);
        let own = addresses.iter().find(|(_, entry)| entry.gid == attachment.server_gid);
        let (_, own) = own.ok_or_else(|| {
            LinkError::Protocol(format!("{} is not a GID of this server", attachment.server_gid))
        })?;
        let path = self.port.path(own, &attachment.queue_pair, gid, Retry::default());
        let Some(mut session) = self.sessions.remove(&serial) else {
            return Err(LinkError::Closed);
        };
        let connected = if session.wire.outbox_bytes() > attachment.key.bytes {
            Err(LinkError::Protocol("the memory for replies is too short".into()))
        } else {
            let wire = &mut session.wire;
            wire.reset(&self.port, next).and_then(|()| wire.connect(&path, attachment.key))
        };
        let serial = session.wire.serial();
        session.admitted.peer = PeerId(u64::from(serial));
        self.by_id.insert(session.id(), serial);
        self.sessions.insert(serial, session);
        connected?;
        self.opened(serial)
    }

    /// Waits until the client's key is good.
    fn opened(&mut self, serial: u32) -> Result<RegionDescriptor, LinkError> {
        let until = Instant::now() + OPEN_WITHIN;
        loop {
            let session = self.sessions.get(&serial).ok_or(LinkError::Closed)?;
            if session.wire.is_closing() {
                return Err(LinkError::os("open a memory window", "the device refused"));
            }
            if session.wire.is_open() {
                let key = Some(session.wire.key());
                return Ok(RegionDescriptor::Remote { queue_pair: self.describe(session), key });
            }
            if Instant::now() > until {
                return Err(LinkError::os("open a memory window", "no completion in 2 s"));
            }
            self.drain();
        }
    }

    fn describe(&self, session: &Session) -> ferry_core::QueuePair {
        let gids: Vec<_> = self.port.addresses(None).iter().map(|(_, entry)| entry.gid).collect();
        let (number, first_psn) = session.wire.identity();
        self.port.end(number, first_psn, &gids)
    }
}

impl Link for RdmaListener {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn submit(&mut self, transfer: Transfer) -> Result<(), Rejected> {
        let peer = transfer.peer;
        let serial = u32::try_from(peer.0).unwrap_or(0);
        match self.sessions.get_mut(&serial) {
            Some(session) => session.reply(transfer),
            None => Err(Rejected { transfer: Box::new(transfer), why: LinkError::NoPeer(peer) }),
        }
    }

    fn poll(&mut self, events: &mut Events) {
        self.drain();
        self.reap();
        if self.health.is_due() {
            self.check_health();
        }
        let count = self.pending.len().min(EVENTS_PER_POLL_MAX);
        events.extend(self.pending.drain(..count));
    }

    fn park(&mut self, at_most: Duration) {
        let at_most = if self.closing > 0 { at_most.min(CLOSING_LOOK) } else { at_most };
        if !self.pending.is_empty() || !self.waker.lie_down() {
            return;
        }
        let armed = self.queue.arm();
        // What came before the queue was armed is not announced.
        self.drain();
        if armed.is_err() || !self.pending.is_empty() {
            return self.waker.get_up(false);
        }
        let woken = sleep(&self.waker, &self.queue, self.port.device(), at_most);
        self.waker.get_up(woken.waker);
        if woken.device {
            self.check_health();
        }
    }

    fn waker(&self) -> Waker {
        Arc::clone(&self.waker) as Waker
    }
}

impl Listener for RdmaListener {
    fn endpoint(&self) -> Endpoint {
        Endpoint::Rdma
    }

    fn admit(&mut self, admission: Admission) -> Result<RegionDescriptor, AdmitError> {
        let (id, layout) = (admission.session, admission.layout);
        if let Some(old) = self.by_id.get(&id).and_then(|serial| self.sessions.get(serial)) {
            if old.generation() >= admission.generation {
                return Err(AdmitError::Twice(id));
            }
            self.end(id, Status::SessionEnded);
        }
        if self.sessions.len() >= self.options.sessions_max {
            return Err(AdmitError::Full(self.options.sessions_max));
        }
        // More completions than the queue has room for would break it for everybody.
        let needed = completions_of(layout.slots);
        if self.completions + needed > self.queue.entries() {
            return Err(AdmitError::Full(self.sessions.len()));
        }
        let inbox_areas = Areas::new(layout.slots, layout.request_bytes)?;
        let outbox_areas = Areas::new(layout.slots, layout.reply_bytes)?;
        let memory = self.memory.lease(inbox_areas.bytes(), outbox_areas.bytes())?;
        let (serial, inline_bytes) = (self.serial(), self.options.inline_bytes);
        let parts = Parts { serial, memory, inbox_areas, outbox_areas, inline_bytes };
        let wire = Wire::new(&self.port, &self.queue, parts).map_err(AdmitError::Attach)?;
        let table = wire.slots(layout, Requests::Arrive)?;
        let admitted = Admitted { peer: PeerId(u64::from(serial)), admission, table };
        let session = Session::new(admitted, wire);
        let queue_pair = self.describe(&session);
        self.sessions.insert(serial, session);
        self.by_id.insert(id, serial);
        self.completions += needed;
        Ok(RegionDescriptor::Remote { queue_pair, key: None })
    }

    fn attach(
        &mut self,
        session: SessionId,
        attachment: &Attachment,
    ) -> Result<RegionDescriptor, AdmitError> {
        let serial = *self.by_id.get(&session).ok_or(AdmitError::NotAttachable(session))?;
        match self.sessions.get(&serial).map(|session| session.stand) {
            Some(Stand::Expected) => {}
            _ => return Err(AdmitError::NotAttachable(session)),
        }
        self.connect(serial, attachment).map_err(AdmitError::Attach)
    }

    fn evict(&mut self, session: SessionId, status: Status) {
        self.end(session, status);
    }
}

impl Drop for RdmaListener {
    /// Tells every client, and takes every key back.
    fn drop(&mut self) {
        let ids: Vec<_> = self.by_id.keys().copied().collect();
        for id in ids {
            self.end(id, Status::Draining);
        }
        let until = Instant::now() + DROP_WITHIN;
        while self.closing > 0 && Instant::now() < until {
            self.pending.clear();
            self.drain();
            self.reap();
            std::thread::yield_now();
        }
    }
}
