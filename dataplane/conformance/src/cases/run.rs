//! Cases, run by an engine: the right numbers, or a clear refusal.

use std::path::Path;
use std::sync::Arc;

use ferry_core::{BoundSignature, BoundTensor, OutputShapes, SlotLayout};
use ferry_engine::{Engine, EngineError, Finished, Job};
use ferry_memory::SlotTable;

use super::{Case, Exchange, Tensor};
use crate::engine::{finish, job_in};

/// Room for what nobody knows before: more than any answer takes.
const ROOM_BYTES: u64 = 1 << 20;

/// One slot, with room for every request and every answer of the cases.
pub const LAYOUT: SlotLayout =
    SlotLayout { slots: 1, request_bytes: ROOM_BYTES, reply_bytes: ROOM_BYTES };

/// What the room for a reply holds before: no answer of a case.
const DIRT: u8 = 0x55;

/// Asks an engine, and gives its outputs in the model's order.
///
/// # Errors
/// [`EngineError::Shapes`] for a request that is none of the model; what the engine says.
///
/// # Panics
/// If the case's files are not as they should be, or an output cannot be read.
pub fn ask(
    engine: &mut dyn Engine,
    slots: &Arc<SlotTable>,
    exchange: &Exchange,
) -> Result<Vec<(String, Tensor)>, EngineError> {
    let shapes = exchange.inputs.iter().map(|(name, it)| (name.clone(), it.shape.clone()));
    let bound = engine.signature().bind(&shapes.collect::<Vec<_>>());
    let binding = Arc::new(bound.map_err(|error| EngineError::Shapes(error.to_string()))?);
    let Finished { job, outcome } = finish(engine, request(slots, &binding, exchange));
    outcome?;
    let agreed = OutputShapes::of(binding.outputs.iter().map(|it| &it.shape));
    let agreed = agreed.unwrap_or_else(|why| panic!("{why}"));
    let shapes = job.placed.as_ref().map_or(agreed, |placed| placed.shapes.clone());
    let all = binding.outputs.iter().zip(shapes.iter()).enumerate();
    Ok(all.map(|(index, (tensor, shape))| output(&job, index, tensor, shape)).collect())
}

/// A request in a slot whose reply is dirty.
fn request(slots: &Arc<SlotTable>, binding: &Arc<BoundSignature>, exchange: &Exchange) -> Job {
    let mut slot = slots.acquire().unwrap_or_else(|| panic!("no slot is free"));
    let mut written = Ok(());
    for tensor in &binding.inputs {
        let input = exchange.inputs.iter().find(|(name, _)| *name == tensor.name);
        let (_, input) = input.unwrap_or_else(|| panic!("no input {:?}", tensor.name));
        assert_eq!((input.dtype, &input.shape), (tensor.dtype, &tensor.shape), "{}", tensor.name);
        written = written.and(slot.request_mut().copy_in(long(tensor.offset), &input.bytes));
    }
    let dirty = vec![DIRT; slot.reply().bytes()];
    let written = written.and(slot.reply_mut().copy_in(0, &dirty));
    assert!(written.is_ok(), "the slot has room: {written:?}");
    job_in(slot, binding, 1, long(binding.request_bytes()))
}

fn output(job: &Job, index: usize, tensor: &BoundTensor, shape: &[u64]) -> (String, Tensor) {
    let view = job.output(index).unwrap_or_else(|error| panic!("output {index}: {error}"));
    let mut bytes = vec![0; view.bytes()];
    view.copy_out(0, &mut bytes).unwrap_or_else(|error| panic!("output {index}: {error}"));
    (tensor.name.clone(), Tensor { dtype: tensor.dtype, shape: shape.to_vec(), bytes })
}

fn long(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// What came of a case: nothing if all is right. `open` loads its file; `may_be_refused` says what
/// this engine need not serve, beside what no engine need.
pub fn wrongs(
    case: &Case,
    slots: &Arc<SlotTable>,
    open: impl FnOnce(&Path) -> Result<Box<dyn Engine>, EngineError>,
    may_be_refused: bool,
) -> Vec<String> {
    let at = |request: usize, what: String| format!("{} {request}: {what}", case.name);
    let may_be_refused = |it: &Exchange| it.may_be_refused || may_be_refused;
    let mut engine = match open(&case.model) {
        Ok(engine) => engine,
        Err(error) => {
            let text = error.to_string();
            let mut tensors =
                case.requests.iter().flat_map(|it| it.outputs.iter().chain(&it.inputs));
            let is_clear = tensors.any(|(name, _)| text.contains(name.as_str()));
            return match is_clear && case.requests.iter().all(may_be_refused) {
                true => Vec::new(),
                false => vec![at(0, format!("refused at the load: {text}"))],
            };
        }
    };
    let mut wrongs = Vec::new();
    for (number, exchange) in case.requests.iter().enumerate() {
        let why = match ask(&mut *engine, slots, exchange) {
            Ok(_) if !exchange.may_run => vec!["was not refused".to_owned()],
            Ok(outputs) => differences(case, exchange, &outputs),
            Err(error) if may_be_refused(exchange) => {
                let text = error.to_string();
                let is_clear = !text.contains("[…]") && text.len() >= 20;
                if is_clear { Vec::new() } else { vec![format!("not a clear refusal: {text}")] }
            }
            Err(error) => vec![error.to_string()],
        };
        wrongs.extend(why.into_iter().map(|why| at(number, why)));
    }
    wrongs
}

/// How outputs differ from the right ones.
fn differences(case: &Case, exchange: &Exchange, outputs: &[(String, Tensor)]) -> Vec<String> {
    let difference = |(name, got): &(String, Tensor)| {
        let right = exchange.outputs.iter().find(|(right, _)| right == name);
        let Some((_, right)) = right else { return Some(format!("{name} is not an output")) };
        case.tolerance.check(got, right).err().map(|why| format!("{name}: {why}"))
    };
    outputs.iter().filter_map(difference).collect()
}
