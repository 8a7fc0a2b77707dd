//! A request without a session: a model and its inputs by name, all in one call.

use std::sync::Arc;
use std::time::Instant;

use ferry_core::{BoundSignature, DType, Generation, MemoryChoice, SlotLayout, error_text};
use ferry_memory::{Slot, SlotTable};
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
    let binding = bind(&served, request)?;
    let layout = SlotLayout {
        slots: 1,
        request_bytes: binding.request_bytes().max(request.payload.len() as u64),
        reply_bytes: binding.reply_bytes().max(REPLY_BYTES_MIN),
    };
    // For as long as the call lasts, it counts as a session of one slot.
    let bytes = SlotTable::bytes(&layout).map_err(|error| ApiError::Busy(error_text(&error)))?;
    let _held = tenant.reserve(1, bytes as u64)?;
    let table = SlotTable::private(layout).map_err(|error| ApiError::Busy(error_text(&error)))?;
    let mut slot =
        table.acquire().ok_or_else(|| ApiError::Internal("a new table is full".into()))?;
    let payload_bytes = place(&mut slot, &binding, request)?;
    let (session, number) = state.standing.number(&tenant, &served, &state.recorder)?;
    let recording =
        Recording { recorder: state.recorder.clone(), run: 0, clock: UnixClock::read() };
    let route = Arc::new(Route {
        served: Arc::downgrade(&served),
        binding: Arc::new(binding),
        memory: MemoryChoice::Auto,
        generation: Generation::FIRST,
        tenant,
        meter: Arc::new(Meter::default()),
        recording: Some(recording),
    });
    let generation = Generation::FIRST;
    let mut arrival = arrival(slot, session, generation, request, payload_bytes, seen)?;
    arrival.request = number;
    let mut departure = serve(&route, arrival).await?;
    let whole = answer(&route, &mut departure)?;
    Ok(v1::InferResponse {
        outputs: outputs(&route.binding, &whole),
        server_times: server_times_to_wire(&departure.times),
        model: served.name.clone(),
        version: served.version,
        engine: served.engine.to_owned(),
        ..v1::InferResponse::default()
    })
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
    slot: &mut Slot,
    binding: &BoundSignature,
    request: &v1::InferRequest,
) -> Result<usize, ApiError> {
    let mut copied = |at: usize, bytes: &[u8]| {
        let copied = slot.request_mut().copy_in(at, bytes);
        copied.map_err(|error| ApiError::Internal(error_text(&error)))
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

/// The outputs, each a part of the payload that is not copied again.
pub(crate) fn outputs(binding: &BoundSignature, whole: &bytes::Bytes) -> Vec<v1::InlineTensor> {
    let part = |tensor: &ferry_core::BoundTensor| {
        let from = usize::try_from(tensor.offset).ok()?;
        let to = from.checked_add(usize::try_from(tensor.bytes).ok()?)?;
        (to <= whole.len()).then(|| v1::InlineTensor {
            name: tensor.name.clone(),
            datatype: tensor.dtype.name().to_owned(),
            shape: tensor.shape.clone(),
            contents: whole.slice(from..to),
        })
    };
    binding.outputs.iter().filter_map(part).collect()
}
