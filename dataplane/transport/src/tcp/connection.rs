//! One connection at the server's end.

use std::net::TcpStream;
use std::time::Instant;

use ferry_core::{Frame, SessionId, Status, Tail};
use ferry_memory::{PeerId, Slot};

use crate::admitted::{Admitted, Refusal};
use crate::link::{Event, LinkError};
use crate::outgoing::Half;
use crate::roster::{goodbye, is_goodbye};
use crate::tcp::stream::{HeaderInbox, Outbox, PayloadInbox, Progress};

/// A connection and how far its two directions are.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) peer: PeerId,
    pub(crate) stream: TcpStream,
    pub(crate) standing: Standing,
    pub(crate) outbox: Outbox,
    /// Whether epoll reports room for writing.
    pub(crate) armed: bool,
    header: HeaderInbox,
    payload: Option<PayloadInbox>,
}

/// What the peer has proved.
#[derive(Debug)]
pub(crate) enum Standing {
    /// Nothing yet; must have by then.
    Unproven {
        /// When the connection is closed.
        until: Instant,
    },
    /// That it owns this session.
    Member(Box<Admitted>),
}

/// What the next step of reading brought.
#[derive(Debug)]
pub(crate) enum Step {
    /// No more for now.
    Blocked,
    /// A request is in its slot.
    Arrived { frame: Frame, slot: Slot, tail: Tail, seen: Instant },
    /// An unproven peer sent its first frame.
    Hello(Frame),
    /// The peer broke a rule.
    Refused(Refusal),
    /// There is nothing more to read.
    Gone(LinkError),
}

impl Connection {
    pub(crate) fn new(peer: PeerId, stream: TcpStream, until: Instant) -> Connection {
        Connection {
            peer,
            stream,
            standing: Standing::Unproven { until },
            outbox: Outbox::default(),
            armed: false,
            header: HeaderInbox::new(),
            payload: None,
        }
    }

    pub(crate) fn session(&self) -> Option<SessionId> {
        match &self.standing {
            Standing::Unproven { .. } => None,
            Standing::Member(admitted) => Some(admitted.admission.session),
        }
    }

    /// Reads on, at most `budget` bytes.
    pub(crate) fn step(&mut self, budget: &mut usize) -> Step {
        self.try_step(budget).unwrap_or_else(Step::Gone)
    }

    fn try_step(&mut self, budget: &mut usize) -> Result<Step, LinkError> {
        if self.payload.is_none() {
            let Some((head, seen)) = self.header.read(&self.stream, budget)? else {
                return Ok(Step::Blocked);
            };
            let accepted = match (head, &self.standing) {
                (Err(error), _) => return Ok(Step::Refused(error.into())),
                (Ok(head), Standing::Unproven { .. }) => return Ok(Step::Hello(head.frame)),
                (Ok(head), Standing::Member(admitted)) => {
                    if let Some(status) = is_goodbye(&head.frame, admitted) {
                        return Ok(Step::Gone(LinkError::Bye(status)));
                    }
                    admitted.accept(&head.frame).map(|slot| PayloadInbox::new(head, slot, seen))
                }
            };
            match accepted {
                Ok(payload) => self.payload = Some(payload),
                Err(refusal) => return Ok(Step::Refused(refusal)),
            }
        }
        let Some(payload) = &mut self.payload else { return Ok(Step::Blocked) };
        match payload.read(Half::Request, &self.stream, budget)? {
            Ok(Progress::Blocked) => Ok(Step::Blocked),
            Ok(Progress::Done) => Ok(self.payload.take().map_or(Step::Blocked, |payload| {
                let PayloadInbox { frame, slot, tail, seen, .. } = payload;
                Step::Arrived { frame, slot, tail, seen }
            })),
            Err(error) => Ok(Step::Refused(error.into())),
        }
    }

    /// Sends what the kernel takes, and reports what is sent wholly.
    pub(crate) fn flush(&mut self, mut report: impl FnMut(Event)) -> Result<(), LinkError> {
        while let Some(sent) = self.outbox.next_sent(&self.stream)? {
            let (peer, elapsed_ns) = (self.peer, sent.elapsed_ns());
            // Dropping it frees the slot: the peer may use it again as soon as it has the reply.
            report(Event::Sent { peer, request: sent.request, elapsed_ns });
        }
        Ok(())
    }

    /// Says goodbye if nothing is half sent. The stream is closed by dropping the connection.
    pub(crate) fn dismiss(&self, status: Status) {
        let admitted = match &self.standing {
            Standing::Unproven { .. } => None,
            Standing::Member(admitted) => Some(&**admitted),
        };
        let frame = goodbye(admitted, status);
        // A peer that does not get it sees the connection close.
        let _told = self.outbox.send_now(&self.stream, &frame);
    }
}
