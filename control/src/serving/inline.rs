//! A request without a session: a model and its inputs by name, all in one call.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use ferry_core::{
    BoundSignature, BoundTensor, DType, Generation, MemoryChoice, OutputShapes, Part, SlotLayout,
    error_text, payload_bytes,
};
use ferry_memory::{MemoryError, Slot, SlotTable};
use ferry_proto::{WireError, server_times_to_wire, v1};
use ferry_transport::UnixClock;

use crate::api::inference::{answer, arrival, serve};
use crate::error::ApiError;
use crate::models::Served;
use crate::serving::routes::{Meter, Recording, Route};
use crate::sessions::REPLY_BYTES_MIN;
use crate::state::State;
use crate::tenants::Tenant;

/// Serves one request. Its timings are in the reply, and in the store under a standing session.
pub(crate) async fn infer(
    state: &State,
    tenant: Arc<Tenant>,
    request: &v1::InferRequest,
    seen: Instant,
) -> Result<v1::InferResponse, ApiError> {
    let served = state.models.get(&request.model, request.version)?;
    let binding = Arc::new(bind(&served, request)?);
    let mut run = Run { state, tenant, served: &served, binding, request, seen };
    match run.once(0).await {
        // How large the outputs are was not known: now it is.
        Err(ApiError::ReplyTooLarge { outputs: Some(outputs), .. }) => {
            let parts = run.binding.parts(&outputs).unwrap_or_default();
            run.seen = Instant::now();
            run.once(payload_bytes(&parts)).await
        }
        other => other,
    }
}

/// One request and what it needs.
struct Run<'a> {
    state: &'a State,
    tenant: Arc<Tenant>,
    served: &'a Arc<Served>,
    binding: Arc<BoundSignature>,
    request: &'a v1::InferRequest,
    seen: Instant,
}

impl Run<'_> {
    /// Runs it in a slot of its own with room for a reply of at least `wish` bytes.
    async fn once(&self, wish: u64) -> Result<v1::InferResponse, ApiError> {
        let Run { state, tenant, served, binding, request, seen } = self;
        let layout = SlotLayout {
            slots: 1,
            request_bytes: binding.request_bytes().max(request.payload.len() as u64),
            reply_bytes: served.reply_room(binding, &[], wish)?.max(REPLY_BYTES_MIN),
        };
        // For as long as the call lasts, it counts as a session of one slot.
        let busy = |error: MemoryError| ApiError::Busy(error_text(&error));
        let bytes = SlotTable::bytes(&layout).map_err(busy)?;
        let _held = tenant.reserve(1, bytes as u64)?;
        let table = SlotTable::private(layout).map_err(busy)?;
        let full = || ApiError::Internal("a new table is full".into());
        let slot = table.acquire().ok_or_else(full)?;
        let payload_bytes = place(&slot, binding, request)?;
        let (session, number) = state.standing.number(tenant, served, &state.recorder)?;
        let recording =
            Recording { recorder: state.recorder.clone(), run: 0, clock: UnixClock::read() };
        let route = Arc::new(Route {
            served: Arc::downgrade(served),
            binding: Arc::clone(binding),
            memory: MemoryChoice::Auto,
            generation: Generation::FIRST,
            tenant: Arc::clone(tenant),
            meter: Arc::new(Meter::default()),
            recording: Some(recording),
            largest: AtomicU64::new(0),
        });
        let generation = Generation::FIRST;
        let mut arrival = arrival(slot, session, generation, request, payload_bytes, *seen)?;
        arrival.request = number;
        let mut departure = serve(&route, arrival).await?;
        let whole = answer(&route, &mut departure)?;
        Ok(v1::InferResponse {
            outputs: outputs(binding, departure.outputs.as_deref(), &whole)?,
            server_times: server_times_to_wire(&departure.times),
            model: served.name.clone(),
            version: served.version,
            engine: served.engine.to_owned(),
            ..v1::InferResponse::default()
        })
    }
}

/// Chooses the open dimensions: by the inputs themselves, and by the shapes that are given.
pub(crate) fn bind(
    served: &Served,
    request: &v1::InferRequest,
) -> Result<BoundSignature, ApiError> {
    let given = request.shapes.iter().map(|it| (it.name.clone(), it.shape.clone()));
    let inputs = request.inputs.iter().map(|it| (it.name.clone(), it.shape.clone()));
    let shapes: Vec<(String, Vec<u64>)> = given.chain(inputs).collect();
    served.bind(&shapes)
}

/// Copies the inputs to their places, or the payload as it is; how many bytes that makes.
pub(crate) fn place(
    slot: &Slot,
    binding: &BoundSignature,
    request: &v1::InferRequest,
) -> Result<usize, ApiError> {
    let copied = |at: usize, bytes: &[u8]| {
        slot.request().copy_in(at, bytes).map_err(|error| ApiError::Internal(error_text(&error)))
    };
    if request.inputs.is_empty() {
        copied(0, &request.payload)?;
        return Ok(request.payload.len());
    }
    for wanted in &binding.inputs {
        let mut all = request.inputs.iter().filter(|it| it.name == wanted.name);
        let (Some(input), None) = (all.next(), all.next()) else {
            let why = format!("the model wants {:?} exactly once", wanted.name);
            return Err(ApiError::field("inputs", why));
        };
        let dtype: DType =
            input.datatype.parse().map_err(|why| WireError::invalid("inputs.datatype", why))?;
        if dtype != wanted.dtype || input.contents.len() as u64 != wanted.bytes {
            let why = format!(
                "{:?} is {} of {} bytes; the model wants {} {:?}, {} bytes",
                input.name,
                dtype,
                input.contents.len(),
                wanted.dtype,
                wanted.shape,
                wanted.bytes
            );
            return Err(ApiError::field("inputs", why));
        }
        let at = usize::try_from(wanted.offset)
            .map_err(|error| ApiError::Internal(error.to_string()))?;
        copied(at, &input.contents)?;
    }
    let bytes = binding.request_bytes();
    usize::try_from(bytes).map_err(|error| ApiError::Internal(error.to_string()))
}

/// The outputs, each a part of the payload that is not copied again. `shapes` are theirs, where they
/// are not as agreed.
///
/// # Errors
/// [`ApiError::Internal`] if the payload is not as long as they say.
pub(crate) fn outputs(
    binding: &BoundSignature,
    shapes: Option<&OutputShapes>,
    whole: &bytes::Bytes,
) -> Result<Vec<v1::InlineTensor>, ApiError> {
    let agreed = || OutputShapes::of(binding.outputs.iter().map(|tensor| &tensor.shape));
    let shapes = match shapes {
        Some(shapes) => shapes.clone(),
        None => agreed().map_err(|why| ApiError::Internal(why.to_string()))?,
    };
    let parts = binding.parts(&shapes).unwrap_or_default();
    let all = binding.outputs.iter().zip(shapes.iter()).zip(&parts);
    let one = |((tensor, shape), part): ((&BoundTensor, &[u64]), &Part)| {
        let from = usize::try_from(part.offset).ok()?;
        let to = usize::try_from(part.end()).ok().filter(|&to| to <= whole.len())?;
        Some(v1::InlineTensor {
            name: tensor.name.clone(),
            datatype: tensor.dtype.name().to_owned(),
            shape: shape.to_vec(),
            // The places of tensors without elements may lie behind the end.
            contents: if part.bytes == 0 { bytes::Bytes::new() } else { whole.slice(from..to) },
        })
    };
    let made = all.map(one).collect::<Option<Vec<_>>>();
    made.filter(|made| made.len() == binding.outputs.len())
        .ok_or_else(|| ApiError::Internal("a reply that is not as long as its outputs".into()))
}
