//! A request that came inside a call: from its slot to its reply.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use ferry_core::{Generation, Request, SessionId, Stage, StageTimes, Status};
use ferry_memory::{Arrival, Departure, PeerId, ReplyTo, Slot};
use tokio::sync::oneshot;

use super::routes::{Note, Route, ns};
use crate::error::ApiError;

/// What is known of a request beside its payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) session: SessionId,
    pub(crate) generation: Generation,
    pub(crate) request: u64,
    pub(crate) what: Request,
    /// When its call began.
    pub(crate) seen: Instant,
}

impl Call {
    /// The request in its slot.
    pub(crate) fn arrival(self, slot: Slot, payload_bytes: usize) -> Arrival {
        let Call { session, generation, request, what, seen } = self;
        Arrival {
            peer: PeerId(0),
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
    note: Note,
    caller: Mutex<Option<oneshot::Sender<Departure>>>,
}

impl ReplyTo for Waiting {
    fn depart(&self, departure: Departure) {
        self.route.finish(Some(self.note), &departure);
        let caller = self.caller.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(caller) = caller {
            // A caller that went away drops it, and the slot is free.
            drop(caller.send(departure));
        }
    }
}

/// Serves a request that lies in its slot, on this thread where the model allows.
pub(crate) async fn serve(route: &Arc<Route>, arrival: Arrival) -> Result<Departure, ApiError> {
    let (arrival, note) = match route.begin(arrival) {
        Ok(let_in) => let_in,
        Err(departure) => return Ok(departure),
    };
    let (sender, receiver) = oneshot::channel();
    let caller = Mutex::new(Some(sender));
    let waiting = Arc::new(Waiting { route: Arc::clone(route), note, caller });
    if let Some(departure) = route.dispatch(arrival, waiting) {
        route.finish(Some(note), &departure);
        return Ok(departure);
    }
    let lost = |_| ApiError::Internal("the request was lost: see the server's log".into());
    receiver.await.map_err(lost)
}

/// The durations of a reply, its call's included.
pub(crate) fn server_times(departure: &Departure) -> StageTimes {
    let mut times = departure.times;
    times.set(Stage::Receive, ns(departure.seen, departure.visible));
    times.set(Stage::Server, ns(departure.seen, Instant::now()));
    times
}

/// The reply's payload, or the error that it is.
pub(crate) fn payload_of(departure: &Departure) -> Result<Bytes, ApiError> {
    let all = departure.slot.reply_bytes().unwrap_or_default();
    let bytes = all.get(..departure.payload_bytes).unwrap_or_default();
    if departure.status == Status::Ok {
        return Ok(Bytes::copy_from_slice(bytes));
    }
    let text = String::from_utf8_lossy(bytes).into_owned();
    Err(ApiError::Request { status: departure.status, text })
}
