//! A request without a session: a model and its inputs by name, whatever protocol brought them.

mod cached;
mod in_place;
mod place;
mod slots;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use bytes::Bytes;
use ferry_core::{
    BoundSignature, BoundTensor, DType, Generation, MemoryChoice, NamedShapes, OutputShapes, Part,
    Request, SessionId, SlotLayout, StageTimes, Status, error_text, payload_bytes,
};
use ferry_memory::{Arrival, Departure, MemoryError, SlotTable};
use ferry_transport::UnixClock;

use super::call::{Call, answer_at_once, fail, keep_answer, serve};
use super::regions::RegionPart;
use super::residents::Residents;
use super::routes::{Meter, Recording, Route};
use super::standing::Standing;
use crate::error::ApiError;
use crate::models::{Cached, Served, Used};
use crate::store::Recorder;
use crate::tenants::{Reservation, Tenant};
use cached::Asked;
use in_place::InPlace;
use slots::{Reply, Spares};

pub use super::call::Came;
pub use place::Contents;
pub(crate) use place::place;

/// Shortest reply half of a slot, in bytes: the texts of errors fit. Halves are whole pages.
pub const REPLY_BYTES_MIN: u64 = 4096;

/// A tensor that lies in a message, or where `C` says.
#[derive(Clone, Debug)]
pub struct InlineTensor<C = Bytes> {
    /// Its name.
    pub name: String,
    /// Its elements.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Its bytes.
    pub contents: C,
}

/// What is to be served.
#[derive(Clone, Debug)]
pub struct InlineRequest {
    /// The model.
    pub model: String,
    /// Its version; 0 is the latest that serves.
    pub version: u64,
    /// What the request is.
    pub what: Request,
    /// The inputs by name; none: the payload holds them.
    pub inputs: Vec<InlineTensor<Contents>>,
    /// A picture, or all inputs one after the other.
    pub payload: Bytes,
    /// Sizes of open dimensions beside those that the inputs show.
    pub shapes: NamedShapes,
    /// When nobody waits for the answer any more.
    pub deadline: Option<Instant>,
    /// Where the only output of the model may be written at once, if its device has that memory.
    pub reply_to: Option<RegionPart>,
    /// What has to go into one message.
    pub in_message: InMessage,
}

/// The outputs that go into the message of an answer.
#[derive(Clone, Debug)]
pub struct InMessage {
    /// Their places in the model's signature; `None`: all go there.
    pub outputs: Option<Vec<usize>>,
    /// What it has room for, in bytes.
    pub bytes_max: u64,
}

impl InMessage {
    /// That there is room for so many bytes.
    ///
    /// # Errors
    /// [`ApiError::Busy`] says what to do.
    pub fn check(&self, bytes: u64) -> Result<(), ApiError> {
        let most = self.bytes_max;
        if bytes <= most {
            return Ok(());
        }
        Err(ApiError::Busy(format!(
            "the outputs have {bytes} bytes, and a message has room for {most}: ask for them in \
             shared memory, or for fewer items at once"
        )))
    }

    /// The bytes of those of all outputs that go there.
    fn bytes(&self, all: impl Iterator<Item = u64>) -> u64 {
        let goes = |at: &usize| self.outputs.as_ref().is_none_or(|them| them.contains(at));
        let bytes = all.enumerate().filter(|(at, _)| goes(at)).map(|(_, bytes)| bytes);
        bytes.fold(0, u64::saturating_add)
    }
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct InlineReply {
    /// The outputs, each a part of the payload.
    pub outputs: Vec<InlineTensor>,
    /// All outputs, one after the other; over the local link empty where inputs were named.
    pub payload: Bytes,
    /// Whether the output is where [`InlineRequest::reply_to`] says; then it has no contents here.
    pub is_in_place: bool,
    /// The shapes of the outputs; `None`: exactly those of the model with these inputs.
    pub shapes: Option<Box<OutputShapes>>,
    /// The durations that are known.
    pub times: StageTimes,
    /// The model that served it.
    pub served: Arc<Served>,
    /// The session that it is stored under.
    pub session: SessionId,
}

impl InlineRequest {
    /// The shapes that are given, and those that the inputs show.
    pub fn all_shapes(&self) -> NamedShapes {
        let inputs = self.inputs.iter().map(|it| (it.name.clone(), it.shape.clone()));
        self.shapes.iter().cloned().chain(inputs).collect()
    }
}

/// Serves requests without a session.
#[derive(Debug)]
pub struct Inline {
    residents: Arc<Residents>,
    recorder: Recorder,
    standing: Standing,
    spares: Arc<Spares>,
}

impl Inline {
    /// Serves with what `residents` bring, and records what it serves.
    pub fn new(residents: Arc<Residents>, recorder: Recorder) -> Inline {
        Inline { residents, recorder, standing: Standing::default(), spares: Arc::default() }
    }

    /// Serves one request. Its timings are in the reply, and in the
    /// store under a standing session.
    ///
    /// # Errors
    /// [`ApiError`] says what does not fit, or how the request ended.
    pub async fn infer(
        &self,
        tenant: Arc<Tenant>,
        request: &InlineRequest,
        came: Came,
    ) -> Result<InlineReply, ApiError> {
        let until = came.until(request.deadline).deadline;
        let served = self.take(&tenant, request, until).await?;
        self.infer_with(served, tenant, request, came).await
    }

    /// As [`infer`](Inline::infer), by the model that the request names and the caller has found.
    ///
    /// # Errors
    /// As [`infer`](Inline::infer).
    pub async fn infer_with(
        &self,
        served: Used,
        tenant: Arc<Tenant>,
        request: &InlineRequest,
        came: Came,
    ) -> Result<InlineReply, ApiError> {
        let answer = self.run(Arc::clone(&served), Arc::clone(&tenant), request, came).await;
        match answer {
            Err(ApiError::Request { status: Status::Draining, .. }) => {
                // Another one may have taken its place meanwhile, and knows of no drain. It must not
                // wait for what this one takes.
                let drained = Arc::downgrade(&served);
                drop(served);
                let until = came.until(request.deadline).deadline;
                match self.take(&tenant, request, until).await {
                    Ok(now) if drained.as_ptr() != Arc::as_ptr(&now) => {
                        let came = Came { seen: Instant::now(), ..came };
                        self.run(Arc::clone(&now), tenant, request, came).await
                    }
                    _ => answer,
                }
            }
            answer => answer,
        }
    }

    /// The model that a request names, brought into memory where it made room.
    async fn take(
        &self,
        tenant: &Arc<Tenant>,
        request: &InlineRequest,
        until: Option<Instant>,
    ) -> Result<Used, ApiError> {
        self.residents.take(tenant, &request.model, request.version, until).await
    }

    async fn run(
        &self,
        served: Arc<Served>,
        tenant: Arc<Tenant>,
        request: &InlineRequest,
        came: Came,
    ) -> Result<InlineReply, ApiError> {
        let binding = Arc::new(served.bind(&request.all_shapes())?);
        // An open output is known when the model has run.
        let known = binding.outputs.iter().map(|it| if it.open { 0 } else { it.bytes });
        request.in_message.check(request.in_message.bytes(known))?;
        let timeout = served.metadata.queue.timeout.and_then(|it| came.seen.checked_add(it));
        let came = came.until(request.deadline).until(timeout);
        let mut run = Run { inline: self, tenant, served, binding, request, came };
        match run.once(0).await {
            // How large the outputs are was not known: now it is.
            Err(ApiError::ReplyTooLarge { outputs: Some(outputs), .. }) => {
                let parts = run.binding.parts(&outputs).unwrap_or_default();
                let bytes = parts.iter().map(|part| part.bytes);
                request.in_message.check(request.in_message.bytes(bytes))?;
                run.came.seen = Instant::now();
                run.once(payload_bytes(&parts)).await
            }
            other => other,
        }
    }

    /// Notes the end of the standing sessions: the server's.
    pub fn close(&self) {
        self.standing.close(&self.recorder);
    }
}

/// One request and what it needs.
struct Run<'a> {
    inline: &'a Inline,
    tenant: Arc<Tenant>,
    served: Arc<Served>,
    binding: Arc<BoundSignature>,
    request: &'a InlineRequest,
    came: Came,
}

impl Run<'_> {
    /// Runs it in a slot of its own with room for a reply of at least `wish` bytes.
    async fn once(&self, wish: u64) -> Result<InlineReply, ApiError> {
        let Run { inline: Inline { recorder, standing, spares, .. }, tenant, served, .. } = self;
        let Run { binding, request, came, .. } = self;
        let layout = SlotLayout {
            slots: 1,
            request_bytes: binding.request_bytes().max(request.payload.len() as u64),
            reply_bytes: served.reply_room(binding, &[], wish)?.max(REPLY_BYTES_MIN),
        };
        // Room that was too small is not tried again.
        let in_place =
            if wish == 0 { InPlace::of(served, binding, request) } else { InPlace::default() };
        let is_in_place = in_place.reply.is_some();
        let layout = in_place.layout(layout);
        let busy = |error: MemoryError| ApiError::Busy(error_text(&error));
        // For as long as the call lasts, it counts as a session of one slot.
        let bytes = SlotTable::bytes(&layout).map_err(busy)?;
        let held = tenant.reserve(1, bytes as u64)?;
        let (table, spares) = match in_place.table(layout).map_err(busy)? {
            Some(table) => (table, None),
            None => (spares.take(tenant, layout).map_err(busy)?, Some(Arc::clone(spares))),
        };
        let full = || ApiError::Internal("a new table is full".into());
        let mut slot = table.acquire().ok_or_else(full)?;
        let payload_bytes = place(&mut slot, binding, request)?;
        let (session, number) = standing.number(tenant, served, recorder)?;
        let recording = Recording { recorder: recorder.clone(), run: 0, clock: UnixClock::read() };
        let generation = Generation::FIRST;
        let route = Arc::new(Route {
            served: Arc::downgrade(served),
            binding: Arc::clone(binding),
            memory: MemoryChoice::Auto,
            generation,
            tenant: Arc::clone(tenant),
            meter: Arc::new(Meter::default()),
            recording: Some(recording),
            largest: AtomicU64::new(0),
            counts: Arc::clone(&served.counts),
            timed: served.timings.of_calls(),
            items: served.items(binding),
            bucket: served.buckets.of(tenant.name()),
            timeout: None,
        });
        let call = Call { session, generation, request: number, what: request.what, came: *came };
        let mut arrival = call.arrival(slot, payload_bytes);
        let kept = served.cache.as_ref();
        let kept = kept.and_then(|cache| Asked::look_up(cache, tenant, binding, &arrival));
        if let Some((_, found)) = &kept {
            // Until now it was looked for.
            arrival.visible = Instant::now();
            if let Some(found) = found {
                return self.kept_answer(&route, arrival, found, held);
            }
        }
        let serving = serve(&route, arrival, came.deadline);
        let departure = match came.deadline {
            None => serving.await?,
            Some(deadline) => in_time(deadline, serving).await?,
        };
        let departure = self.check_room(&route, departure)?;
        if let Some((asked, _)) = kept.filter(|_| departure.status == Status::Ok) {
            asked.keep(&departure);
        }
        let Departure { slot, payload_bytes: bytes, outputs: shapes, times, .. } =
            keep_answer(&route, departure)?;
        let tenant = Arc::clone(tenant);
        let payload =
            Bytes::from_owner(Reply { slot: Some(slot), bytes, tenant, spares, _held: held });
        let outputs = match is_in_place {
            true => outputs_with(binding, shapes.as_deref(), |_| Some(Bytes::new()))?,
            false => outputs(binding, shapes.as_deref(), &payload)?,
        };
        Ok(InlineReply {
            outputs,
            payload,
            is_in_place,
            times,
            shapes,
            served: Arc::clone(served),
            session,
        })
    }
}

impl Run<'_> {
    /// Answers with what was kept. The model does not run, and no output is copied.
    fn kept_answer(
        &self,
        route: &Route,
        arrival: Arrival,
        found: &Cached,
        held: Reservation,
    ) -> Result<InlineReply, ApiError> {
        let departure = answer_at_once(route, arrival, |arrival| {
            let mut departure = arrival.depart(found.payload.len(), StageTimes::NONE);
            departure.times.set_cached();
            departure.outputs = found.shapes.clone();
            departure
        });
        let departure = keep_answer(route, self.check_room(route, departure)?)?;
        let Departure { slot, outputs: shapes, times, session, .. } = departure;
        let (tenant, spares) = (Arc::clone(&self.tenant), Some(Arc::clone(&self.inline.spares)));
        // The next request gets its memory.
        drop(Reply { slot: Some(slot), bytes: 0, tenant, spares, _held: held });
        let payload = found.payload.clone();
        let outputs = outputs(&self.binding, shapes.as_deref(), &payload)?;
        let served = Arc::clone(&self.served);
        let is_in_place = false;
        Ok(InlineReply { outputs, payload, is_in_place, shapes, times, served, session })
    }

    /// That outputs that are not as was known before go into the message; else the request failed.
    fn check_room(&self, route: &Route, departure: Departure) -> Result<Departure, ApiError> {
        let made = departure.outputs.as_deref().filter(|_| departure.status == Status::Ok);
        let Some(parts) = made.and_then(|made| self.binding.parts(made)) else {
            return Ok(departure);
        };
        let in_message = &self.request.in_message;
        match in_message.check(in_message.bytes(parts.iter().map(|part| part.bytes))) {
            Ok(()) => Ok(departure),
            Err(error) => {
                fail(route, departure, Status::ReplyTooLarge);
                Err(error)
            }
        }
    }
}

/// What `serving` comes to before `deadline`. Later the model may still run, and its answer is
/// dropped.
async fn in_time<T>(
    deadline: Instant,
    serving: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    let late = || ApiError::Late("the timeout of the request is over: allow more".into());
    let served = tokio::time::timeout_at(deadline.into(), serving).await;
    served.unwrap_or_else(|_elapsed| Err(late()))
}

/// The outputs, each a part of the payload that is not copied again. `shapes` are theirs, where they
/// are not as agreed.
///
/// # Errors
/// [`ApiError::Internal`] if the payload is not as long as they say.
pub(crate) fn outputs(
    binding: &BoundSignature,
    shapes: Option<&OutputShapes>,
    whole: &Bytes,
) -> Result<Vec<InlineTensor>, ApiError> {
    outputs_with(binding, shapes, |part| {
        let from = usize::try_from(part.offset).ok()?;
        let to = usize::try_from(part.end()).ok().filter(|&to| to <= whole.len())?;
        // The places of tensors without elements may lie behind the end.
        Some(if part.bytes == 0 { Bytes::new() } else { whole.slice(from..to) })
    })
}

/// As [`outputs`], with the contents that `contents` has for each part.
fn outputs_with(
    binding: &BoundSignature,
    shapes: Option<&OutputShapes>,
    contents: impl Fn(&Part) -> Option<Bytes>,
) -> Result<Vec<InlineTensor>, ApiError> {
    let agreed = || OutputShapes::of(binding.outputs.iter().map(|tensor| &tensor.shape));
    let shapes = match shapes {
        Some(shapes) => shapes.clone(),
        None => agreed().map_err(|why| ApiError::Internal(why.to_string()))?,
    };
    let parts = binding.parts(&shapes).unwrap_or_default();
    let all = binding.outputs.iter().zip(shapes.iter()).zip(&parts);
    let one = |((tensor, shape), part): ((&BoundTensor, &[u64]), &Part)| {
        Some(InlineTensor {
            name: tensor.name.clone(),
            dtype: tensor.dtype,
            shape: shape.to_vec(),
            contents: contents(part)?,
        })
    };
    let made = all.map(one).collect::<Option<Vec<_>>>();
    made.filter(|made| made.len() == binding.outputs.len())
        .ok_or_else(|| ApiError::Internal("a reply that is not as long as its outputs".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_that_no_message_holds_are_refused_with_what_to_do() {
        let some = InMessage { outputs: Some(vec![0, 2]), bytes_max: 10 };
        assert_eq!(some.bytes([4, 100, 6].into_iter()), 10);
        some.check(10).unwrap();
        let told = some.check(11).unwrap_err().to_string();
        assert!(told.contains("shared memory"), "{told}");
        let all = InMessage { outputs: None, ..some };
        assert_eq!(all.bytes([u64::MAX, 2].into_iter()), u64::MAX);
    }
}
