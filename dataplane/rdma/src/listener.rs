//! The server's end.

mod attach;
mod device;
mod link;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::{Attachment, Body, Endpoint, RegionDescriptor, Retry, SessionId, Status};
use ferry_memory::{PeerId, Placer};
use ferry_transport::admitted::status_for;
use ferry_transport::event::EventWaker;
use ferry_transport::link::EVENTS_PER_POLL_MAX;
use ferry_transport::{
    Admission, AdmitError, Admitted, Capabilities, Event, Events, Link, LinkError, Listener,
    Refusal, Rejected, Transfer, Waker,
};

use device::{Lost, Opened};

use crate::areas::Areas;
use crate::device_memory::check;
use crate::fence::{Fencing, Memory};
use crate::health::Health;
use crate::options::RdmaOptions;
use crate::port::Port;
use crate::probe::{WindowProbe, probe};
use crate::session::{Heard, Session, Stand};
use crate::verbs::{Completion, CompletionQueue, CompletionStatus, Operation};
use crate::wait::{CAPABILITIES, sleep};
use crate::wire::{Parts, Remote, Requests, Task, Wire, Writes, completions_of, read_task_id};

/// How long attaching waits for the device to open a window. It answers in microseconds.
const OPEN_WITHIN: Duration = Duration::from_secs(2);

/// How long the end of a listener waits for its sessions to be closed.
const DROP_WITHIN: Duration = Duration::from_secs(2);

/// How often sessions that are being closed are looked at while the lane sleeps.
const CLOSING_LOOK: Duration = Duration::from_millis(5);

/// The server's end of the `rdma` link: one port of one device, one completion queue, a queue pair
/// per session.
///
/// A device that is lost ends its sessions and is let go of; the next session looks for it again.
#[derive(Debug)]
pub struct RdmaListener {
    // Dropped first: what is in it belongs to the port.
    sessions: HashMap<u32, Session>,
    by_id: HashMap<SessionId, u32>,
    opened: Option<Opened>,
    /// Where there is none.
    lost: Option<Lost>,
    options: RdmaOptions,
    /// Completions that may be outstanding at once.
    completions: u32,
    next_serial: u32,
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
        Ok(RdmaListener {
            sessions: HashMap::new(),
            by_id: HashMap::new(),
            opened: Some(Opened::open(&options)?),
            lost: None,
            options,
            completions: 0,
            next_serial: 1,
            closing: 0,
            scratch: Vec::new(),
            pending: VecDeque::new(),
            waker: EventWaker::new()?,
        })
    }

    fn serial(&mut self) -> u32 {
        let serial = self.next_serial;
        // Four billion attachments later, what was late has long come.
        self.next_serial = serial.wrapping_add(1).max(1);
        serial
    }

    /// Takes what the device has completed, and what that leads to, as long as somebody takes the
    /// events.
    fn drain(&mut self) {
        self.drain_up_to(EVENTS_PER_POLL_MAX);
    }

    /// Goes on until so many events wait.
    fn drain_up_to(&mut self, events_max: usize) {
        while self.pending.len() < events_max {
            let Some(opened) = &self.opened else { return };
            let mut scratch = std::mem::take(&mut self.scratch);
            let polled = opened.queue.poll(&mut scratch);
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
        let was_well = !session.wire.has_failed() && !session.wire.is_closing();
        if let Err(why) = session.wire.complete(task, completion) {
            if task == Task::Receive && was_well {
                self.refused_by_device(serial, completion.status);
            }
            return self.fail(serial, why);
        }
        if session.wire.is_closing() {
            if let Task::Slot(slot) = task {
                let (sent, _) = session.sent(slot);
                self.pending.extend(sent);
            }
            return;
        }
        if matches!(task, Task::Receive | Task::Control) {
            // The welcome has arrived, or the client goes on because it has.
            self.pending.extend(session.join());
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
            (Task::Payload(_) | Task::Control | Task::Window | Task::Touch, _) => Heard::Nothing,
        };
        self.on_heard(serial, heard);
    }

    fn on_heard(&mut self, serial: u32, heard: Heard) {
        let Some(session) = self.sessions.get_mut(&serial) else { return };
        match heard {
            Heard::Nothing => {}
            Heard::Event(event) => self.pending.push_back(event),
            Heard::Broken(why) => self.cut(serial, why),
            Heard::Hello => {
                let welcome = session.control(Body::Welcome);
                if let Err(why) = session.wire.tell(&welcome) {
                    self.fail(serial, why);
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
                if let Err(why) = session.wire.tell(&bye) {
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

    /// A queue pair has failed. A client that has not joined yet may try another way.
    fn fail(&mut self, serial: u32, why: LinkError) {
        let Some(session) = self.sessions.get_mut(&serial) else { return };
        if matches!(session.stand, Stand::Expected | Stand::Greeted) {
            tracing::info!(session = %session.id(), %why, "no RDMA connection yet");
            session.stand = Stand::Expected;
            return;
        }
        self.cut(serial, why);
    }

    /// Ends a session whose queue pair is of no more use.
    fn cut(&mut self, serial: u32, why: LinkError) {
        let Some(session) = self.sessions.get_mut(&serial) else { return };
        let was_closing = session.wire.is_closing();
        if session.stand == Stand::Joined {
            let why = match &mut self.opened {
                Some(opened) => opened.health.explain(why, opened.port.device()),
                None => why,
            };
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
            self.cut(serial, why.clone());
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
                let slots = session.admitted.admission.layout.slots;
                *completions -= completions_of(slots, Writes::One);
                *closing -= 1;
            }
            !is_closed
        });
        if self.closing < before
            && let Some(opened) = &mut self.opened
        {
            opened.memory.trim();
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
}
