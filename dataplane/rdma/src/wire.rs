//! One end of one session: its memory, its queue pair, and what is outstanding on it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::{FRAME_BYTES, Frame, MemoryKey};
use ferry_memory::{MemoryError, PeerAccess, Region, SlotTable};
use ferry_transport::LinkError;

use crate::areas::{Area, Areas, immediate};
use crate::fence::{Inbox, Leased};
use crate::pool::Registered;
use crate::port::Port;
use crate::verbs::{
    Completion, CompletionQueue, Depth, Domain, Init, Path, QueuePair, Rts, VerbsError, Write,
};

/// Receives beside one per slot: a hello or goodbye that comes at the same time, twice.
const SPARE_RECEIVES: u32 = 2;

/// Work requests beside one per slot: welcome, goodbye, bind, invalidate, touch.
const SPARE_SENDS: u32 = 5;

/// How long the last frames of a session may take, and how long flushing may: the device answers
/// in microseconds; a peer that is gone needs its retries.
const CLOSING_STEP: Duration = Duration::from_millis(700);

/// What a completion belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// A receive.
    Receive,
    /// The frame of a slot.
    Slot(u32),
    /// A frame of the control area.
    Control,
    /// Binding or taking back a window.
    Window,
    /// Asking the peer's device whether it is there.
    Touch,
}

/// The number of a work request: which end, and what it is. Serials are never used twice, so that
/// what is late belongs to nobody.
pub(crate) fn task_id(serial: u32, task: Task) -> u64 {
    let task = match task {
        Task::Receive => 0x100,
        Task::Slot(slot) => slot & 0xff,
        Task::Control => 0x200,
        Task::Window => 0x300,
        Task::Touch => 0x400,
    };
    u64::from(serial) << 32 | u64::from(task)
}

/// What [`task_id`] made of it.
pub(crate) fn read_task_id(id: u64) -> (u32, Task) {
    let (serial, task) = ((id >> 32) as u32, (id & 0xffff_ffff) as u32);
    let task = match task {
        0x100 => Task::Receive,
        0x200 => Task::Control,
        0x300 => Task::Window,
        0x400 => Task::Touch,
        slot => Task::Slot(slot),
    };
    (serial, task)
}

/// The queue pair, as far as it has got.
#[derive(Debug)]
enum Pair {
    Waiting(QueuePair<Init>),
    Connected(QueuePair<Rts>, MemoryKey),
    /// A change of state failed, and took it along.
    Lost,
}

/// How far closing has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// The last frames and the invalidation are on their way.
    Saying {
        until: Instant,
    },
    /// Everything posted is being flushed.
    Flushing {
        until: Instant,
    },
    Closed,
}

/// One end of a session.
#[derive(Debug)]
pub(crate) struct Wire {
    serial: u32,
    phase: Phase,
    sends: u32,
    receives: u32,
    first_psn: u32,
    // Dropped in this order, after the window.
    pair: Pair,
    inbox: Inbox,
    inbox_areas: Areas,
    outbox: Registered,
    outbox_areas: Areas,
    domain: Arc<Domain>,
}

/// What a wire is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    /// Names its work requests.
    pub(crate) serial: u32,
    /// Its memory.
    pub(crate) memory: Leased,
    /// How what the peer writes is divided.
    pub(crate) inbox_areas: Areas,
    /// How what we send is divided.
    pub(crate) outbox_areas: Areas,
    /// See [`RdmaOptions::inline_bytes`](crate::RdmaOptions::inline_bytes).
    pub(crate) inline_bytes: u32,
}

/// Room that a session of so many slots takes of a completion queue.
pub(crate) fn completions_of(slots: u32) -> u32 {
    let depth = depth_of(slots, 0);
    depth.send + depth.receive
}

fn depth_of(slots: u32, inline_bytes: u32) -> Depth {
    Depth { send: slots + SPARE_SENDS, receive: slots + SPARE_RECEIVES, inline_bytes }
}

impl Wire {
    /// A queue pair in INIT with its receives posted.
    ///
    /// # Errors
    /// [`VerbsError`] if the device has no more.
    pub(crate) fn new(
        port: &Port,
        queue: &Arc<CompletionQueue>,
        parts: Parts,
    ) -> Result<Wire, LinkError> {
        let depth = depth_of(parts.inbox_areas.slots(), parts.inline_bytes);
        let Leased { domain, inbox, outbox } = parts.memory;
        let pair = QueuePair::new(&domain, queue, depth)?.init(port.number)?;
        let wire = Wire {
            serial: parts.serial,
            phase: Phase::Open,
            sends: 0,
            receives: depth.receive,
            first_psn: crate::port::random_psn()?,
            inbox,
            inbox_areas: parts.inbox_areas,
            pair: Pair::Waiting(pair),
            outbox,
            outbox_areas: parts.outbox_areas,
            domain,
        };
        wire.post_receives(depth.receive)?;
        Ok(wire)
    }

    pub(crate) fn serial(&self) -> u32 {
        self.serial
    }

    /// Number of the queue pair and of its first packet.
    pub(crate) fn identity(&self) -> (u32, u32) {
        let number = match &self.pair {
            Pair::Waiting(pair) => pair.number(),
            Pair::Connected(pair, _) => pair.number(),
            Pair::Lost => 0,
        };
        (number, self.first_psn)
    }

    fn post_receives(&self, count: u32) -> Result<(), VerbsError> {
        let id = task_id(self.serial, Task::Receive);
        match &self.pair {
            Pair::Waiting(pair) => pair.receive(id, count),
            Pair::Connected(pair, _) => pair.receive(id, count),
            Pair::Lost => Ok(()),
        }
    }

    /// Starts again as `serial`, if the wire was connected: what is left of the old connection is
    /// nobody's. A wire that waits for its peer stays as it is.
    ///
    /// # Errors
    /// [`LinkError`] with what the device says; then the wire can only be dropped.
    pub(crate) fn reset(&mut self, port: &Port, serial: u32) -> Result<(), LinkError> {
        let (pair, was_connected) = match std::mem::replace(&mut self.pair, Pair::Lost) {
            Pair::Waiting(pair) => (pair, false),
            Pair::Connected(pair, _) => {
                self.inbox.forget_binding(&self.domain)?;
                (pair.reset()?.init(port.number)?, true)
            }
            Pair::Lost => return Err(LinkError::os("connect", "the queue pair is lost")),
        };
        if was_connected {
            (self.serial, self.sends, self.phase) = (serial, 0, Phase::Open);
            self.receives = self.receives_at_rest();
            pair.receive(task_id(serial, Task::Receive), self.receives)?;
        }
        self.pair = Pair::Waiting(pair);
        Ok(())
    }

    /// Goes on to RTS with the peer at the end of `path`, and opens the inbox to it. The key is of
    /// use once [`is_open`](Wire::is_open).
    ///
    /// # Errors
    /// [`LinkError`] with what the device says; then the wire can only be dropped.
    pub(crate) fn connect(&mut self, path: &Path, peer: MemoryKey) -> Result<(), LinkError> {
        let Pair::Waiting(waiting) = std::mem::replace(&mut self.pair, Pair::Lost) else {
            return Err(LinkError::os("connect", "the queue pair does not wait for a peer"));
        };
        let pair = waiting.ready_to_receive(path)?.ready_to_send(path, self.first_psn)?;
        if self.inbox.open(&pair, task_id(self.serial, Task::Window))? {
            self.sends += 1;
        }
        self.pair = Pair::Connected(pair, peer);
        Ok(())
    }

    /// Bytes that the peer's memory must have for what we send.
    pub(crate) fn outbox_bytes(&self) -> u64 {
        self.outbox_areas.bytes() as u64
    }

    fn receives_at_rest(&self) -> u32 {
        self.inbox_areas.slots() + SPARE_RECEIVES
    }

    /// Whether the peer can write: its key is good.
    pub(crate) fn is_open(&self) -> bool {
        self.inbox.is_open()
    }

    /// How the peer reaches the inbox.
    pub(crate) fn key(&self) -> MemoryKey {
        MemoryKey {
            address: self.inbox.address(),
            remote_key: self.inbox.key(),
            bytes: self.inbox_areas.bytes() as u64,
        }
    }

    /// Slots over the memory: request halves where `requests` says.
    ///
    /// # Errors
    /// [`MemoryError`] if the layout does not fit.
    pub(crate) fn slots(
        &self,
        layout: ferry_core::SlotLayout,
        requests: Requests,
    ) -> Result<Arc<SlotTable>, MemoryError> {
        let inbox = self.inbox_areas.payloads(self.inbox.region())?;
        let outbox = self.outbox_areas.payloads(&self.outbox.region)?;
        let (halves, peer): (Vec<(Region, Region)>, _) = match requests {
            Requests::Arrive => (inbox.into_iter().zip(outbox).collect(), PeerAccess::Writes),
            // A client trusts the server that it asked, as on every link.
            Requests::Depart => (outbox.into_iter().zip(inbox).collect(), PeerAccess::None),
        };
        SlotTable::placed(layout, peer, halves)
    }

    /// Sends a frame: the header is put in front of the payload that lies in the area already, and
    /// both go to the same area of the peer's in one write.
    ///
    /// # Errors
    /// [`LinkError`]; nothing was sent.
    pub(crate) fn send(
        &mut self,
        frame: &Frame,
        payload_bytes: usize,
        area: Area,
    ) -> Result<(), LinkError> {
        let Pair::Connected(pair, peer) = &self.pair else { return Err(LinkError::Closed) };
        let no_area = || LinkError::os("send", "no such slot");
        let at = self.outbox_areas.header_at(area).ok_or_else(no_area)?;
        let header = frame.encode();
        let view = self.outbox.region.view();
        view.copy_in(at, &header).map_err(|error| LinkError::os("write the header", error))?;
        let bytes = u32::try_from(FRAME_BYTES + payload_bytes).unwrap_or(u32::MAX);
        let task = match area {
            Area::Slot(slot) => Task::Slot(slot.0),
            Area::Control => Task::Control,
        };
        pair.write(&Write {
            id: task_id(self.serial, task),
            address: address_of(&self.outbox.region) + at as u64,
            bytes,
            local_key: self.outbox.registration.local_key(),
            remote_address: peer.address.wrapping_add(at as u64),
            remote_key: peer.remote_key,
            immediate: immediate(frame.generation, area),
        })?;
        self.sends += 1;
        Ok(())
    }

    /// Asks the peer's device whether it is there. The answer is a completion: of success, or that
    /// retries were exceeded.
    ///
    /// # Errors
    /// [`LinkError`]; nothing was asked.
    pub(crate) fn touch(&mut self) -> Result<(), LinkError> {
        let Pair::Connected(pair, peer) = &self.pair else { return Err(LinkError::Closed) };
        pair.touch(task_id(self.serial, Task::Touch), peer.address, peer.remote_key)?;
        self.sends += 1;
        Ok(())
    }

    /// The header that lies in an area of the inbox, copied: the peer may write it again.
    pub(crate) fn header(&self, area: Area) -> Option<[u8; FRAME_BYTES]> {
        let at = self.inbox_areas.header_at(area)?;
        let mut header = [0; FRAME_BYTES];
        self.inbox.region().view().copy_out(at, &mut header).ok()?;
        Some(header)
    }

    /// Keeps count, and posts a receive for one that was used.
    ///
    /// # Errors
    /// [`LinkError`] that names the status of a work request that failed.
    pub(crate) fn complete(
        &mut self,
        task: Task,
        completion: &Completion,
    ) -> Result<(), LinkError> {
        match task {
            Task::Receive => self.receives = self.receives.saturating_sub(1),
            _ => self.sends = self.sends.saturating_sub(1),
        }
        if !completion.status.is_success() {
            let what = match task {
                Task::Receive => "receive",
                Task::Slot(_) | Task::Control | Task::Touch => "RDMA write",
                Task::Window => "memory window",
            };
            let why = format!("{}, vendor error {:#x}", completion.status, completion.vendor_error);
            return Err(LinkError::os(what, why));
        }
        match task {
            Task::Window => self.inbox.bound(),
            Task::Receive if self.phase == Phase::Open => {
                self.post_receives(1)?;
                self.receives += 1;
            }
            _ => {}
        }
        Ok(())
    }

    /// Begins to close: `bye` is sent if the peer can still be reached, its key is taken back.
    pub(crate) fn close(&mut self, bye: Option<&Frame>) {
        if self.phase != Phase::Open {
            return;
        }
        let until = Instant::now() + CLOSING_STEP;
        if let Some(bye) = bye {
            // A peer that cannot be told finds out by itself.
            let _untold = self.send(bye, 0, Area::Control);
        }
        if let Pair::Connected(pair, _) = &self.pair
            && self.inbox.close(pair, task_id(self.serial, Task::Window)).unwrap_or(false)
        {
            self.sends += 1;
        }
        self.phase = Phase::Saying { until };
    }

    /// As [`close`](Wire::close) for a queue pair that has failed already.
    pub(crate) fn abandon(&mut self) {
        if matches!(self.phase, Phase::Open | Phase::Saying { .. }) {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.inbox.drop_window();
        let failed = match &self.pair {
            Pair::Waiting(pair) => pair.fail(),
            Pair::Connected(pair, _) => pair.fail(),
            Pair::Lost => Ok(()),
        };
        self.phase = match failed {
            // Nothing posted before the peer was known is flushed by every device.
            Ok(()) if matches!(self.pair, Pair::Connected(..)) => {
                Phase::Flushing { until: Instant::now() + CLOSING_STEP }
            }
            _ => Phase::Closed,
        };
    }

    /// Goes on with closing; `true` once there is nothing more to wait for.
    pub(crate) fn has_closed(&mut self, now: Instant) -> bool {
        match self.phase {
            Phase::Open => false,
            Phase::Saying { until } if self.sends == 0 || now >= until => {
                self.flush();
                self.has_closed(now)
            }
            Phase::Flushing { until } if self.sends + self.receives == 0 || now >= until => {
                self.phase = Phase::Closed;
                true
            }
            Phase::Saying { .. } | Phase::Flushing { .. } => false,
            Phase::Closed => true,
        }
    }

    /// Whether closing has begun.
    pub(crate) fn is_closing(&self) -> bool {
        self.phase != Phase::Open
    }
}

/// Which way requests go through a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Requests {
    /// At the server: they land in the inbox.
    Arrive,
    /// At the client: they leave from the outbox.
    Depart,
}

fn address_of(region: &Region) -> u64 {
    region.view().host().map_or(0, |base| base.as_ptr() as u64)
}

impl Drop for Wire {
    fn drop(&mut self) {
        // Destroying a queue pair with a bound window takes a minute on Soft-RoCE.
        self.inbox.drop_window();
    }
}
