//! One end of one session: its memory, its queue pair, and what is outstanding on it.

mod carry;
mod closing;
mod memory;
mod remote;
mod task;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::{FRAME_BYTES, Frame, Head, TAIL_BYTES_MAX, Tail, TailError};
use ferry_transport::LinkError;
pub(crate) use memory::Requests;
pub(crate) use remote::Remote;
pub(crate) use task::{Task, read_task_id, task_id};

use crate::areas::{Area, Areas, immediate};
use crate::fence::{Inbox, Leased, Payloads};
use crate::pool::Registered;
use crate::port::Port;
use crate::verbs::{
    Completion, CompletionQueue, Depth, Domain, Init, Part, Path, QueuePair, Rts, VerbsError, Write,
};

/// Receives beside one per slot: a hello or goodbye that comes at the same time, twice.
const SPARE_RECEIVES: u32 = 2;

/// Work requests beside one per slot: welcome, goodbye, bind, invalidate, touch.
const SPARE_SENDS: u32 = 5;

/// How long the last frames of a session may take, and how long flushing may: the device answers
/// in microseconds; a peer that is gone needs its retries.
const CLOSING_STEP: Duration = Duration::from_millis(700);

/// The queue pair, as far as it has got.
#[derive(Debug)]
enum Pair {
    Waiting(QueuePair<Init>),
    Connected(QueuePair<Rts>, Remote),
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
    /// A work request has failed since the last reset.
    failed: bool,
    depth: Depth,
    /// Completions of what this side sends that may be outstanding.
    sends_max: u32,
    queue: Arc<CompletionQueue>,
    sends: u32,
    receives: u32,
    first_psn: u32,
    // Dropped in this order, after the window.
    pair: Pair,
    inbox: Inbox,
    inbox_areas: Areas,
    outbox: Registered,
    outbox_areas: Areas,
    /// Where they do not lie behind their headers.
    payloads: Option<Payloads>,
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
    /// How many writes a frame may take.
    pub(crate) writes: Writes,
}

/// How many writes carry a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writes {
    /// One: header and payload go to one place.
    One,
    /// Perhaps two: the peer's payloads may lie apart from their headers.
    Two,
}

/// Room that a session of so many slots takes of a completion queue.
pub(crate) fn completions_of(slots: u32, writes: Writes) -> u32 {
    let depth = depth_of(slots, 0, writes);
    depth.send + depth.receive
}

/// A payload's own write is not completed unless it fails, but takes room until the header's is.
fn depth_of(slots: u32, inline_bytes: u32, writes: Writes) -> Depth {
    let send = slots + SPARE_SENDS + if writes == Writes::Two { slots } else { 0 };
    Depth { send, receive: slots + SPARE_RECEIVES, inline_bytes }
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
        let slots = parts.inbox_areas.slots();
        let depth = depth_of(slots, parts.inline_bytes, parts.writes);
        let Leased { domain, inbox, outbox, payloads } = parts.memory;
        let pair = QueuePair::new(&domain, queue, depth)?.init(port.number)?;
        let wire = Wire {
            serial: parts.serial,
            phase: Phase::Open,
            failed: false,
            depth,
            sends_max: slots + SPARE_SENDS,
            queue: Arc::clone(queue),
            sends: 0,
            receives: depth.receive,
            first_psn: crate::port::random_psn()?,
            inbox,
            inbox_areas: parts.inbox_areas,
            pair: Pair::Waiting(pair),
            outbox,
            outbox_areas: parts.outbox_areas,
            payloads,
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

    /// Starts again as `serial`, if the wire was connected or a way could not be taken: what is
    /// left of the old connection is nobody's. A wire that waits for its peer stays as it is.
    ///
    /// # Errors
    /// [`LinkError`] with what the device says.
    pub(crate) fn reset(&mut self, port: &Port, serial: u32) -> Result<(), LinkError> {
        let pair = match std::mem::replace(&mut self.pair, Pair::Lost) {
            Pair::Waiting(pair) => {
                self.pair = Pair::Waiting(pair);
                return Ok(());
            }
            Pair::Connected(pair, _) => {
                self.inbox.forget_binding(&self.domain)?;
                pair.reset()?.init(port.number)?
            }
            Pair::Lost => {
                self.inbox.forget_binding(&self.domain)?;
                QueuePair::new(&self.domain, &self.queue, self.depth)?.init(port.number)?
            }
        };
        (self.serial, self.sends, self.phase, self.failed) = (serial, 0, Phase::Open, false);
        // A late packet of the old connection must not fit the new one.
        (self.receives, self.first_psn) = (self.depth.receive, crate::port::random_psn()?);
        pair.receive(task_id(serial, Task::Receive), self.receives)?;
        self.pair = Pair::Waiting(pair);
        Ok(())
    }

    /// Goes on to RTS with the peer at the end of `path`, and opens the inbox to it. The key is of
    /// use once [`is_open`](Wire::is_open).
    ///
    /// # Errors
    /// [`LinkError`] with what the device says; then only a [`reset`](Wire::reset) helps.
    pub(crate) fn connect(&mut self, path: &Path, peer: Remote) -> Result<(), LinkError> {
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

    /// Whether a work request has failed, and with it the connection.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed
    }

    /// Whether the peer can write: its key is good.
    pub(crate) fn is_open(&self) -> bool {
        self.inbox.is_open()
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
            Task::Payload(_) => {}
            _ => self.sends = self.sends.saturating_sub(1),
        }
        if !completion.status.is_success() {
            self.failed = true;
            let what = match task {
                Task::Receive => "receive",
                Task::Slot(_) | Task::Payload(_) | Task::Control | Task::Touch => "RDMA write",
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
}

impl Drop for Wire {
    fn drop(&mut self) {
        // Destroying a queue pair with a bound window takes a minute on Soft-RoCE.
        self.inbox.drop_window();
    }
}
