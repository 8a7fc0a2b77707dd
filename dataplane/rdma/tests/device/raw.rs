//! A peer that posts whatever it likes: the client that no honest program is.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ferry_core::session::SLOTS_MAX;
use ferry_core::{
    Attachment, Body, Frame, Generation, MemoryKey, QueuePair as Pair, RegionDescriptor, Request,
    RequestKind, Retry, SessionId, SlotIndex, SlotLayout, Token, WaitPolicy,
};
use ferry_memory::{HeapBacking, Region};
use ferry_rdma::RdmaListener;
use ferry_rdma::areas::{Area, Areas, immediate};
use ferry_rdma::gids::{self, GidEntry};
use ferry_rdma::verbs::{
    Access, Completion, CompletionQueue, CompletionStatus, Depth, Device, Domain, Part, Path,
    QueuePair, Registration, Rts, Write,
};
use ferry_transport::{Admission, Event, Listener};

use crate::door::options;

const TENSOR: Request = Request::of(RequestKind::Tensor);
/// What every forbidden write writes.
pub(crate) const MARK: u8 = 0xEE;

/// Most writes that a peer has under way: more than any session has slots.
pub(crate) const SENDS_MAX: u32 = 80;

/// What the next peer numbers its packets from.
static NEXT_PSN: AtomicU32 = AtomicU32::new(0x007f_ff00);

/// How long the device may take for one step.
const STEP: Duration = Duration::from_secs(20);

/// Two slots of 3,000 bytes in, 1,000 out.
pub(crate) const LAYOUT: SlotLayout =
    SlotLayout { slots: 2, request_bytes: 3000, reply_bytes: 1000 };

pub(crate) fn admission(session: u64, generation: u32) -> Admission {
    Admission {
        session: SessionId(session),
        generation: Generation(generation),
        token: Token::new([7; 32]),
        layout: LAYOUT,
        wait: WaitPolicy::Spin,
        placer: None,
    }
}

/// The device that peers are on; opened once.
pub(crate) struct Host {
    pub(crate) device: Arc<Device>,
    domain: Arc<Domain>,
    own: GidEntry,
    /// What peers send from, and where they get replies: one peer at a time.
    source: Registration,
    inbox: Registration,
    /// Room in the completion queue of the next peer.
    pub(crate) completions: Cell<u32>,
}

impl Host {
    pub(crate) fn open() -> Host {
        let name = options().device.unwrap_or_else(|| Device::names().unwrap().remove(0));
        let device = Arc::new(Device::open(&name).unwrap());
        let domain = Domain::new(&device).unwrap();
        let ranked = gids::ranked(gids::table(&name, 1), true, None);
        let own = ranked.first().expect("an address").1.clone();
        let register = |bytes, access| {
            let region = Region::whole(Arc::new(HeapBacking::new(bytes).unwrap()));
            Registration::new(&domain, region, access).unwrap()
        };
        let replies = Areas::new(SLOTS_MAX, LAYOUT.reply_bytes).unwrap();
        let (source, inbox) =
            (register(64 << 10, Access::Source), register(replies.bytes(), Access::RemoteWrite));
        Host { device, domain, own, source, inbox, completions: Cell::new(2 * SENDS_MAX) }
    }
}

/// One session of a peer.
pub(crate) struct Peer<'h> {
    host: &'h Host,
    pub(crate) admission: Admission,
    /// What the server was told.
    pub(crate) attachment: Attachment,
    /// The server's memory of this session.
    pub(crate) key: MemoryKey,
    /// Its memory for payloads, where they lie apart.
    pub(crate) payloads: Option<MemoryKey>,
    pair: QueuePair<Rts>,
    queue: Arc<CompletionQueue>,
    posted: Cell<u64>,
    /// What happened at the listener while a write of this peer was waited for.
    pub(crate) seen: RefCell<Vec<Event>>,
}

impl<'h> Peer<'h> {
    /// Admits a session, attaches to it, and joins if `joins`.
    pub(crate) fn open(
        host: &'h Host,
        listener: &mut RdmaListener,
        admission: Admission,
        joins: bool,
    ) -> Peer<'h> {
        let told = listener.admit(admission.clone()).unwrap();
        let peer = Peer::attach(host, listener, &told, admission);
        if joins {
            peer.hello();
            let joined = |event: &Event| matches!(event, Event::Joined { .. });
            until(listener, joined);
        }
        peer
    }

    /// Attaches to a session that was admitted.
    pub(crate) fn attach(
        host: &'h Host,
        listener: &mut RdmaListener,
        told: &RegionDescriptor,
        admission: Admission,
    ) -> Peer<'h> {
        let RegionDescriptor::Remote { queue_pair: server, .. } = told else { panic!("{told:?}") };
        let queue = CompletionQueue::new(&host.device, host.completions.get()).unwrap();
        let depth = Depth { send: SENDS_MAX, receive: 8, inline_bytes: 0 };
        let pair = QueuePair::new(&host.domain, &queue, depth).unwrap().init(1).unwrap();
        pair.receive(0, 8).unwrap();
        let memory = &host.inbox;
        // Below that of every peer before, so that a late packet of one of them comes from ahead:
        // a device acknowledges what comes from behind as something that it has seen.
        let first_psn = NEXT_PSN.fetch_sub(0x100, Ordering::Relaxed) & 0x00ff_ffff;
        // Gives up at once: a session that is gone does not answer.
        let retry = Retry { ack_timeout: 12, count: 1, rnr_count: 0, min_rnr_timer: 1 };
        let attachment = Attachment {
            queue_pair: Pair {
                number: pair.number(),
                first_psn,
                gids: vec![host.own.gid],
                lid: 0,
                path_mtu_bytes: 4096,
                rd_atomic_max: 1,
                dest_rd_atomic_max: 1,
                retry,
            },
            key: MemoryKey {
                address: memory.address(0),
                remote_key: memory.remote_key(),
                bytes: memory.region().bytes() as u64,
            },
            server_gid: server.gids[0],
        };
        let told = listener.attach(admission.session, &attachment).unwrap();
        let RegionDescriptor::Remote { key: Some(key), payloads, queue_pair: server } = told else {
            panic!("{told:?}")
        };
        let path = Path {
            port: 1,
            gid_index: host.own.index,
            gid: server.gids[0],
            lid: server.lid,
            is_global: true,
            queue_pair: server.number,
            first_psn: server.first_psn,
            mtu_bytes: server.path_mtu_bytes,
            dest_rd_atomic: 1,
            rd_atomic: 1,
            retry,
        };
        let pair = pair.ready_to_receive(&path).unwrap().ready_to_send(&path, first_psn).unwrap();
        let (posted, seen) = (Cell::new(0), RefCell::default());
        Peer { host, admission, attachment, key, payloads, pair, queue, posted, seen }
    }

    fn frame(&self, slot: u32, payload_bytes: u64, body: Body) -> Frame {
        let Admission { session, generation, .. } = self.admission;
        Frame { session, generation, slot: SlotIndex(slot), request: 1, payload_bytes, body }
    }

    /// Says hello, as an honest client does.
    pub(crate) fn hello(&self) {
        let frame = self.frame(0, 0, Body::Hello { token: self.admission.token });
        self.post_frame(&frame, Area::Control, 0);
    }

    /// Sends a request of `payload` marked bytes, as an honest client does.
    pub(crate) fn request(&self, slot: u32, payload: usize) {
        let frame = self.frame(slot, payload as u64, Body::Request(TENSOR));
        self.post_frame(&frame, Area::Slot(SlotIndex(slot)), payload);
    }

    /// Sends a header that says `payload` bytes, and nothing else.
    pub(crate) fn claim(&self, slot: u32, payload: u64) {
        let frame = self.frame(slot, payload, Body::Request(TENSOR));
        self.post_frame(&frame, Area::Slot(SlotIndex(slot)), 0);
    }

    fn post_frame(&self, frame: &Frame, area: Area, payload: usize) {
        let divide = if self.payloads.is_some() { Areas::apart } else { Areas::new };
        let areas = divide(LAYOUT.slots, LAYOUT.request_bytes).unwrap();
        let header = frame.encode();
        let view = self.host.source.region().view();
        view.copy_in(0, &header).unwrap();
        view.copy_in(header.len(), &vec![MARK; payload]).unwrap();
        let at = self.key.address + areas.header_at(area).unwrap() as u64;
        let immediate = immediate(frame.generation, area);
        match (self.payloads, area) {
            (Some(payloads), Area::Slot(slot)) if payload > 0 => {
                let write = self.written(at, self.key.remote_key, header.len(), immediate);
                let part = Part {
                    address: write.address + u64::from(write.bytes),
                    bytes: u32::try_from(payload).unwrap(),
                    local_key: write.local_key,
                };
                let to = payloads.address + areas.payload_at(slot, payload).unwrap() as u64;
                self.pair.write_apart(u64::MAX, part, to, payloads.remote_key, &write).unwrap();
            }
            _ => self.post(at, self.key.remote_key, header.len() + payload, immediate),
        }
    }

    /// Posts a write of what lies in the source.
    pub(crate) fn post(&self, address: u64, key: u32, bytes: usize, immediate: u32) {
        self.pair.write(&self.written(address, key, bytes, immediate)).unwrap();
    }

    /// The next write of what lies in the source.
    fn written(&self, address: u64, key: u32, bytes: usize, immediate: u32) -> Write {
        self.posted.set(self.posted.get() + 1);
        Write {
            id: self.posted.get(),
            address: self.host.source.address(0),
            bytes: u32::try_from(bytes).unwrap(),
            local_key: self.host.source.local_key(),
            remote_address: address,
            remote_key: key,
            immediate,
        }
    }

    /// Posts a write of nothing, which the server does not notice.
    pub(crate) fn touch(&self, id: u64) {
        self.pair.touch(id, self.key.address, self.key.remote_key).unwrap();
    }

    /// Writes marks to an address with a key; how it ended. The listener is polled meanwhile.
    pub(crate) fn strike(
        &self,
        listener: &mut RdmaListener,
        address: u64,
        key: u32,
        bytes: usize,
    ) -> CompletionStatus {
        self.host.source.region().view().copy_in(0, &vec![MARK; bytes]).unwrap();
        self.post(address, key, bytes, 0xffff_ff00);
        self.ended(listener)
    }

    /// Waits until the device is done with every write, without letting the listener work.
    pub(crate) fn finish(&self) {
        let (start, mut done) = (Instant::now(), Vec::new());
        while !done.iter().any(|it: &Completion| it.id == self.posted.get()) {
            assert!(start.elapsed() < STEP, "a write did not complete");
            self.queue.poll(&mut done).unwrap();
            std::thread::yield_now();
        }
    }

    /// How the last write ended.
    pub(crate) fn ended(&self, listener: &mut RdmaListener) -> CompletionStatus {
        let (start, mut done) = (Instant::now(), Vec::new());
        while start.elapsed() < STEP {
            self.queue.poll(&mut done).unwrap();
            if let Some(done) = done.iter().find(|done| done.id == self.posted.get()) {
                return done.status;
            }
            done.clear();
            poll(listener, &mut self.seen.borrow_mut());
        }
        panic!("a write did not complete");
    }
}

/// Lets the listener work.
pub(crate) fn poll(listener: &mut RdmaListener, events: &mut Vec<Event>) {
    use ferry_transport::Link;
    let before = events.len();
    listener.poll(events);
    if events.len() == before {
        // What is waited for is done by the kernel, on the same processors.
        std::thread::sleep(Duration::from_micros(20));
    }
}

/// Lets the listener work until something has happened; everything that did.
pub(crate) fn until(listener: &mut RdmaListener, what: impl Fn(&Event) -> bool) -> Vec<Event> {
    let (start, mut events) = (Instant::now(), Vec::new());
    while !events.iter().any(&what) {
        assert!(start.elapsed() < STEP, "waited in vain; seen: {events:?}");
        poll(listener, &mut events);
    }
    events
}
