//! The body of a call while it comes in: each message is looked at when its length is announced,
//! before anything is reserved for it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tonic::Status;

use super::accept::{Door, Peer};
use super::budget::{Budget, Held};
use super::methods::Method;
use crate::config::Front;
use crate::serving::refusals::Refusals;
use crate::tenants::Tenant;

/// One byte that says whether a message is compressed, and four of its length.
const PREFIX_BYTES: usize = 5;

/// Messages up to this length have bytes of their own, so that large ones cannot keep the
/// operator out.
const SMALL_BYTES: u64 = 64 << 10;

/// Slowest that a long message may come, in bytes a second, once the first moment is over.
pub(crate) const SLOWEST: u64 = 4 << 20;

/// The bytes that messages may take at a time, of all calls together or of one connection's.
#[derive(Clone, Debug)]
pub(crate) struct Budgets {
    small: Arc<Budget>,
    large: Arc<Budget>,
}

impl Budgets {
    /// So many bytes for long messages, and a sixteenth of it for short ones.
    pub(crate) fn new(bytes: u64) -> Budgets {
        Budgets { small: Budget::new(bytes / 16), large: Budget::new(bytes) }
    }

    fn take(&self, bytes: u64) -> Option<Held> {
        let small = (bytes <= SMALL_BYTES).then(|| self.small.take(bytes)).flatten();
        small.or_else(|| self.large.take(bytes))
    }
}

/// What a call holds until it is answered.
#[derive(Debug, Default)]
pub(crate) struct Holding(Mutex<Option<[Held; 2]>>);

impl Holding {
    fn set(&self, held: Option<[Held; 2]>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = held;
    }
}

/// What all bodies of a server share.
#[derive(Debug)]
pub(crate) struct Limits {
    pub(crate) all: Budgets,
    /// First moment that a body may take.
    pub(crate) within: Duration,
    pub(crate) refusals: Arc<Refusals>,
}

impl Limits {
    /// Those of `front`.
    pub(crate) fn new(front: &Front, refusals: &Arc<Refusals>) -> Arc<Limits> {
        Arc::new(Limits {
            all: Budgets::new(front.calls_bytes_max),
            within: front.body_within,
            refusals: Arc::clone(refusals),
        })
    }

    /// Room for `bytes` of a message of this caller.
    ///
    /// # Errors
    /// The refusal, which is noted.
    pub(crate) fn hold(&self, caller: &Caller, bytes: u64) -> Result<[Held; 2], Status> {
        let of_peer = match &caller.peer {
            Some(peer) => peer.budgets.take(bytes),
            None => self.all.take(0),
        };
        let Some((of_all, of_peer)) = self.all.take(bytes).zip(of_peer) else {
            let why = format!(
                "no room for a message of {bytes} bytes: too many are under way, on this \
                 connection or on all (calls-bytes-max is {}); wait for answers",
                self.all.large.limit()
            );
            return Err(self.refuse(caller, "calls_bytes", Status::resource_exhausted(why)));
        };
        Ok([of_all, of_peer])
    }

    /// Notes a refusal.
    pub(crate) fn refuse(&self, caller: &Caller, what: &'static str, status: Status) -> Status {
        let tenant = caller.tenant.as_deref().map(Tenant::name);
        self.refusals.note(caller.door.name(), what, None, tenant, &status.message());
        status
    }
}

/// Who makes a call.
#[derive(Debug)]
pub(crate) struct Caller {
    /// Where it came in.
    pub(crate) door: Door,
    /// The connection that it came by.
    pub(crate) peer: Option<Arc<Peer>>,
    /// The tenant whose key it had.
    pub(crate) tenant: Option<Arc<Tenant>>,
}

/// A body that is watched.
pub(crate) struct Watched<B> {
    body: B,
    method: Method,
    limits: Arc<Limits>,
    caller: Caller,
    holding: Arc<Holding>,
    /// Of the prefix, as far as it is there.
    prefix: [u8; PREFIX_BYTES],
    prefix_bytes: usize,
    /// Of the message, still to come.
    left: usize,
    messages: u64,
    /// Runs while something is owed: the message of a call that has one, the rest of one that began.
    deadline: Option<Pin<Box<Sleep>>>,
    over: bool,
}

impl<B> Watched<B> {
    pub(crate) fn new(
        body: B,
        method: Method,
        limits: &Arc<Limits>,
        caller: Caller,
        holding: Arc<Holding>,
    ) -> Watched<B> {
        let deadline = (!method.is_stream).then(|| Box::pin(tokio::time::sleep(limits.within)));
        Watched {
            body,
            method,
            limits: Arc::clone(limits),
            caller,
            holding,
            prefix: [0; PREFIX_BYTES],
            prefix_bytes: 0,
            left: 0,
            messages: 0,
            deadline,
            over: false,
        }
    }

    /// Counts what came, and looks at each message that begins in it.
    fn look(&mut self, mut data: &[u8]) -> Result<(), Status> {
        while !data.is_empty() {
            if self.left > 0 {
                let part = self.left.min(data.len());
                data = &data[part..];
                self.left -= part;
                if self.left == 0 && self.method.is_stream {
                    self.deadline = None;
                }
                continue;
            }
            let part = (PREFIX_BYTES - self.prefix_bytes).min(data.len());
            let (head, rest) = data.split_at(part);
            self.prefix[self.prefix_bytes..][..part].copy_from_slice(head);
            self.prefix_bytes += part;
            data = rest;
            if self.prefix_bytes == PREFIX_BYTES {
                self.prefix_bytes = 0;
                let [_, length @ ..] = self.prefix;
                self.begin(u32::from_be_bytes(length))?;
            }
        }
        Ok(())
    }

    /// A message of so many bytes is announced.
    fn begin(&mut self, bytes: u32) -> Result<(), Status> {
        self.messages += 1;
        if self.messages > 1 && !self.method.is_stream {
            return Err(Status::invalid_argument("a second message in a call that takes one"));
        }
        let limit = self.method.message_bytes;
        self.left = usize::try_from(bytes).unwrap_or(usize::MAX);
        if self.left > limit {
            let why = format!("a message of {bytes} bytes; this method takes at most {limit}");
            return Err(self.refuse("message_bytes", Status::resource_exhausted(why)));
        }
        // A stream's last message is read when the next one begins.
        self.holding.set(None);
        let bytes = u64::from(bytes);
        self.holding.set(Some(self.limits.hold(&self.caller, bytes)?));
        let within = self.limits.within + Duration::from_secs(bytes / SLOWEST);
        match &mut self.deadline {
            Some(deadline) => {
                // From the start of the call, or of the message in a stream.
                let more = Duration::from_secs(bytes / SLOWEST);
                let until = deadline.deadline() + more;
                deadline.as_mut().reset(until);
            }
            None => {
                self.deadline = Some(Box::pin(tokio::time::sleep_until(Instant::now() + within)))
            }
        }
        Ok(())
    }

    fn refuse(&self, what: &'static str, status: Status) -> Status {
        self.limits.refuse(&self.caller, what, status)
    }

    /// Ends it with an error.
    fn end(&mut self, status: Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.over = true;
        self.holding.set(None);
        Poll::Ready(Some(Err(status)))
    }
}

impl<B> Body for Watched<B>
where
    B: Body<Data = Bytes, Error = Status> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.over {
            return Poll::Ready(None);
        }
        match Pin::new(&mut this.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => match frame.data_ref().map(|data| this.look(data)) {
                Some(Err(status)) => this.end(status),
                _ => Poll::Ready(Some(Ok(frame))),
            },
            Poll::Ready(end) => Poll::Ready(end),
            Poll::Pending => {
                let Some(deadline) = &mut this.deadline else { return Poll::Pending };
                match deadline.as_mut().poll(context) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(()) => {
                        let why = "the message did not come in time (body-seconds)";
                        let status = this.refuse("slow_body", Status::deadline_exceeded(why));
                        this.end(status)
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
