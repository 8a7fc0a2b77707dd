//! A request that came inside a call: from its slot to its reply.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use ferry_core::{Generation, Request, SessionId, Status};
use ferry_memory::{Arrival, Departure, PeerId, ReplyTo, Slot};
use tokio::sync::oneshot;

use super::routes::Route;
use crate::error::ApiError;

/// When a request came inside a call, from where, and for how long its caller waits.
#[derive(Clone, Copy, Debug)]
pub struct Came {
    /// When its call began.
    pub seen: Instant,
    /// The connection that it came over: of the callers that share a session, each has its turn.
    pub peer: PeerId,
    /// When nobody waits for the answer any more.
    pub deadline: Option<Instant>,
}

impl Came {
    /// As it is, but with a deadline that is no later than `other`.
    pub(crate) fn until(self, other: Option<Instant>) -> Came {
        Came { deadline: self.deadline.into_iter().chain(other).min(), ..self }
    }
}

impl From<Instant> for Came {
    /// From nowhere in particular, and without a deadline.
    fn from(seen: Instant) -> Came {
        Came { seen, peer: PeerId(0), deadline: None }
    }
}

/// What is known of a request beside its payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) session: SessionId,
    pub(crate) generation: Generation,
    pub(crate) request: u64,
    pub(crate) what: Request,
    pub(crate) came: Came,
}

impl Call {
    /// The request in its slot.
    pub(crate) fn arrival(self, slot: Slot, payload_bytes: usize) -> Arrival {
        let Call { session, generation, request, what, came: Came { seen, peer, .. } } = self;
        Arrival {
            peer,
            session,
            generation,
            request,
            what,
            payload_bytes,
            slot,
            seen,
            visible: Instant::now(),
        }
    }
}

/// The way back of one reply that comes from another thread.
#[derive(Debug)]
struct Waiting {
    route: Arc<Route>,
    caller: Mutex<Option<oneshot::Sender<Departure>>>,
}

impl ReplyTo for Waiting {
    fn depart(&self, departure: Departure) {
        self.route.end();
        let caller = self.caller.lock().unwrap_or_else(PoisonError::into_inner).take();
        let unheard = match caller {
            Some(caller) => caller.send(departure).err(),
            None => Some(departure),
        };
        if let Some(mut departure) = unheard {
            // The caller went away; if the model ran already, in vain.
            close(&self.route, &mut departure);
        }
    }

    fn is_gone(&self) -> bool {
        let caller = self.caller.lock().unwrap_or_else(PoisonError::into_inner);
        caller.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

/// Serves a request whose answer is known.
pub(crate) fn answer_at_once(
    route: &Route,
    arrival: Arrival,
    answer: impl FnOnce(Arrival) -> Departure,
) -> Departure {
    match route.begin(arrival) {
        Err(refused) => refused,
        Ok(arrival) => {
            let departure = answer(arrival);
            route.end();
            departure
        }
    }
}

/// A caller that waits for a reply. If it goes away before, the request does not keep its place in
/// the queue.
struct Caller<'a> {
    route: &'a Route,
    session: SessionId,
    peer: PeerId,
    reply: oneshot::Receiver<Departure>,
    is_answered: bool,
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        if self.is_answered {
            return;
        }
        self.reply.close();
        match self.reply.try_recv() {
            // It was on its way.
            Ok(mut departure) => close(self.route, &mut departure),
            Err(_none) => self.route.caller_gone(self.session, self.peer),
        }
    }
}

/// Serves a request that lies in its slot, on this thread where the model allows. Dropped before it
/// ends, the request does not run, if it still waits.
pub(crate) async fn serve(
    route: &Arc<Route>,
    arrival: Arrival,
    deadline: Option<Instant>,
) -> Result<Departure, ApiError> {
    let arrival = match route.begin(arrival) {
        Ok(let_in) => let_in,
        Err(departure) => return Ok(departure),
    };
    let (session, peer) = (arrival.session, arrival.peer);
    let (sender, reply) = oneshot::channel();
    let caller = Mutex::new(Some(sender));
    let waiting = Arc::new(Waiting { route: Arc::clone(route), caller });
    if let Some(departure) = route.dispatch(arrival, waiting, deadline) {
        route.end();
        return Ok(departure);
    }
    let mut caller = Caller { route, session, peer, reply, is_answered: false };
    let replied = (&mut caller.reply).await;
    caller.is_answered = true;
    replied.map_err(|_lost| ApiError::Internal("the request was lost: see the server's log".into()))
}

/// Closes the accounts of a request whose reply is made, and records it where the server does.
fn close(route: &Route, departure: &mut Departure) {
    departure.close(Instant::now(), None);
    route.record(departure);
}

/// The reply's payload, or the error that it is. Closes the accounts: what is left to do is to send.
pub(crate) fn answer(route: &Route, departure: &mut Departure) -> Result<Bytes, ApiError> {
    let payload = payload_of(departure);
    close(route, departure);
    payload
}

/// As [`answer`], for a slot that the reply may keep until it was sent.
pub(crate) fn keep_answer(route: &Route, mut departure: Departure) -> Result<Departure, ApiError> {
    let failed = (departure.status != Status::Ok).then(|| error_of(&departure));
    close(route, &mut departure);
    failed.map_or(Ok(departure), Err)
}

/// Closes the accounts of a request whose reply is of no use: it ended with `status`.
pub(crate) fn fail(route: &Route, mut departure: Departure, status: Status) {
    (departure.status, departure.payload_bytes) = (status, 0);
    close(route, &mut departure);
}

/// The first bytes of the reply in a slot of this process alone.
pub(crate) fn reply_of(slot: &Slot, bytes: usize) -> &[u8] {
    slot.reply_bytes().unwrap_or_default().get(..bytes).unwrap_or_default()
}

fn payload_of(departure: &Departure) -> Result<Bytes, ApiError> {
    if departure.status == Status::Ok {
        return Ok(Bytes::copy_from_slice(reply_of(&departure.slot, departure.payload_bytes)));
    }
    Err(error_of(departure))
}

/// The text in a reply, wherever it lies.
fn text_of(slot: &Slot, bytes: usize) -> String {
    let mut text = vec![0; bytes.min(slot.reply().bytes())];
    // A device that refuses the copy leaves the status without its text.
    let read = slot.reply().copy_out(0, &mut text).is_ok();
    if read { String::from_utf8_lossy(&text).into_owned() } else { String::new() }
}

/// The error that a reply is.
fn error_of(departure: &Departure) -> ApiError {
    let text = text_of(&departure.slot, departure.payload_bytes);
    match departure.status {
        Status::ReplyTooLarge => {
            ApiError::ReplyTooLarge { outputs: departure.outputs.clone(), text }
        }
        status => ApiError::Request { status, text },
    }
}
