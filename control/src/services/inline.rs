//! One request whose tensors came inside a call.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use ferry_core::{BoundSignature, BoundTensor, Request, Stage, StageTimes, Status};
use ferry_memory::{Arrival, Departure, PeerId, ReplyTo};
use ferry_proto::{WireError, v1};
use tokio::sync::oneshot;

use crate::error::ApiError;
use crate::routes::{Note, Route, ns};
use crate::sessions::Session;

/// A served request.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) payload: Bytes,
    pub(super) times: StageTimes,
}

/// The way back of one request.
#[derive(Debug)]
struct Back {
    route: Arc<Route>,
    note: Note,
    sender: Mutex<Option<oneshot::Sender<Departure>>>,
}

impl ReplyTo for Back {
    fn depart(&self, departure: Departure) {
        self.route.finish(Some(self.note), &departure);
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sender) = sender {
            // A caller that is gone does not read it; the slot is free all the same.
            drop(sender.send(departure));
        }
    }
}

/// What was asked beside the payload; a plain tensor where nothing is said.
pub(super) fn what(info: Option<&v1::RequestInfo>) -> Result<Request, WireError> {
    Request::try_from(info.unwrap_or(&v1::RequestInfo::default()))
}

/// Serves one request of a session whose tensors come in calls.
pub(super) async fn serve(
    session: &Session,
    request: u64,
    what: Request,
    payload: &[u8],
) -> Result<Answer, ApiError> {
    let seen = Instant::now();
    let table = session.inline_slots().ok_or_else(|| {
        let transport = session.agreed.transport;
        ApiError::field("session", format!("it is of transport {transport}, not of grpc"))
    })?;
    let slot = table.acquire().ok_or_else(|| {
        let slots = session.agreed.layout.slots;
        ApiError::Busy(format!("all {slots} slots of the session are in flight; open with more"))
    })?;
    slot.request().copy_in(0, payload).map_err(|_outside| {
        let room = slot.request().bytes();
        ApiError::field("payload", format!("{} bytes; the slot has {room}", payload.len()))
    })?;
    let route = session.route();
    let arrival = Arrival {
        peer: PeerId(0),
        session: session.id,
        generation: route.generation,
        request,
        what,
        payload_bytes: payload.len(),
        slot,
        seen,
        visible: Instant::now(),
    };
    let departure = match route.begin(arrival) {
        Err(departure) => departure,
        Ok((arrival, note)) => {
            let (sender, receiver) = oneshot::channel();
            let sender = Mutex::new(Some(sender));
            let back = Arc::new(Back { route: Arc::clone(&route), note, sender });
            match route.dispatch(arrival, back) {
                Some(departure) => {
                    route.finish(Some(note), &departure);
                    departure
                }
                None => receiver.await.map_err(|_dropped| {
                    ApiError::Internal("the model dropped the request without an answer".into())
                })?,
            }
        }
    };
    answer(&departure)
}

fn answer(departure: &Departure) -> Result<Answer, ApiError> {
    let whole = departure.slot.reply_bytes().unwrap_or_default();
    let payload = whole.get(..departure.payload_bytes).unwrap_or_default();
    if departure.status != Status::Ok {
        let text = String::from_utf8_lossy(payload).into_owned();
        return Err(ApiError::Request { status: departure.status, text });
    }
    let payload = Bytes::copy_from_slice(payload);
    let mut times = departure.times;
    times.set(Stage::Receive, ns(departure.seen, departure.visible));
    times.set(Stage::Server, ns(departure.seen, Instant::now()));
    Ok(Answer { payload, times })
}

/// The session that a call without one opens for itself: shapes from its inputs, room for its
/// payload.
pub(super) fn own_session(
    call: &v1::InferRequest,
    transport: v1::Transport,
) -> v1::OpenSessionRequest {
    let frame = u32::from(ferry_core::frame::VERSION);
    let given =
        |it: &v1::InlineTensor| v1::TensorShape { name: it.name.clone(), shape: it.shape.clone() };
    let inputs = call.inputs.iter().map(given);
    let mut asked = v1::OpenSessionRequest {
        protocol_min: frame,
        protocol_max: frame,
        model: call.model.clone(),
        version: call.version,
        slots: 1,
        shapes: inputs.chain(call.shapes.iter().cloned()).collect(),
        request_bytes_min: call.payload.len() as u64,
        client: "Infer".into(),
        ..Default::default()
    };
    asked.set_transport(transport);
    asked
}

/// The payload of a call: as it is, or made from its inputs by name.
pub(super) fn payload(
    call: &v1::InferRequest,
    binding: &BoundSignature,
) -> Result<Bytes, ApiError> {
    if call.inputs.is_empty() {
        return Ok(call.payload.clone());
    }
    let bytes = usize::try_from(binding.request_bytes()).unwrap_or(usize::MAX);
    let mut payload = vec![0; bytes];
    for wanted in &binding.inputs {
        let given = call.inputs.iter().find(|input| input.name == wanted.name);
        let given = given.ok_or_else(|| {
            ApiError::field("inputs", format!("input {:?} is missing", wanted.name))
        })?;
        check(given, wanted)?;
        let at = usize::try_from(wanted.offset).unwrap_or(usize::MAX);
        let room = at.checked_add(given.contents.len()).and_then(|end| payload.get_mut(at..end));
        room.ok_or_else(|| ApiError::Internal("a tensor outside its payload".into()))?
            .copy_from_slice(&given.contents);
    }
    Ok(payload.into())
}

fn check(given: &v1::InlineTensor, wanted: &BoundTensor) -> Result<(), ApiError> {
    let name = &wanted.name;
    if given.datatype != wanted.dtype.name() {
        let why = format!("input {name:?} is {}, given is {:?}", wanted.dtype, given.datatype);
        return Err(ApiError::field("inputs", why));
    }
    if given.contents.len() as u64 != wanted.bytes {
        let (has, wants) = (given.contents.len(), wanted.bytes);
        let why = format!("input {name:?} has {has} bytes, its shape needs {wants}");
        return Err(ApiError::field("inputs", why));
    }
    Ok(())
}

/// The outputs by name.
pub(super) fn outputs(payload: &Bytes, binding: &BoundSignature) -> Vec<v1::InlineTensor> {
    let tensor = |tensor: &BoundTensor| {
        let at = usize::try_from(tensor.offset).unwrap_or(usize::MAX).min(payload.len());
        let end = usize::try_from(tensor.offset + tensor.bytes).unwrap_or(usize::MAX);
        v1::InlineTensor {
            name: tensor.name.clone(),
            datatype: tensor.dtype.name().to_owned(),
            shape: tensor.shape.clone(),
            contents: payload.slice(at..end.min(payload.len())),
        }
    };
    binding.outputs.iter().map(tensor).collect()
}
