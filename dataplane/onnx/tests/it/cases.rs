//! Models as others export them, run by both engines: the right numbers, or a clear refusal.

use std::sync::Arc;

use ferry_conformance::cases::{Case, Exchange, Tensor, onnx};
use ferry_core::{BoundSignature, OutputShapes, SlotLayout};
use ferry_engine::{Engine, EngineError, Finished};
use ferry_memory::{Backing, HeapBacking, PeerAccess, Region, SlotTable};
use ferry_onnx::{EngineChoice, Model, open};

use crate::common::{job, options};

/// Room for what nobody knows before: more than any answer takes.
const ROOM_BYTES: u64 = 1 << 20;

/// What tract does not take of what ONNX Runtime serves: it refuses these, and nothing else.
const TRACT_REFUSES: &[&str] = &[];

/// Binds a request, runs it in slots of these, and gives its outputs in the model's order.
fn run(
    engine: &mut dyn Engine,
    binding: &Arc<BoundSignature>,
    table: &Arc<SlotTable>,
    exchange: &Exchange,
) -> Result<Vec<(String, Tensor)>, EngineError> {
    let mut payload = vec![0; usize::try_from(binding.request_bytes()).unwrap()];
    for tensor in &binding.inputs {
        let (_, input) = exchange.inputs.iter().find(|(name, _)| *name == tensor.name).unwrap();
        assert_eq!((input.dtype, &input.shape), (tensor.dtype, &tensor.shape), "{}", tensor.name);
        let at = usize::try_from(tensor.offset).unwrap();
        payload[at..at + input.bytes.len()].copy_from_slice(&input.bytes);
    }
    let job = job(table, binding, &payload);
    let dirty = vec![0x55; job.arrival.slot.reply().bytes()];
    job.arrival.slot.reply().copy_in(0, &dirty).unwrap();
    let Finished { job, outcome } = engine.submit(job).expect("done when submit returns");
    outcome?;
    let agreed = OutputShapes::of(binding.outputs.iter().map(|it| &it.shape)).unwrap();
    let shapes = job.placed.as_ref().map_or(agreed, |placed| placed.shapes.clone());
    let output = |(index, shape): (usize, &[u64])| {
        let tensor = &binding.outputs[index];
        let view = job.output(index).unwrap();
        let mut bytes = vec![0; view.bytes()];
        view.copy_out(0, &mut bytes).unwrap();
        (tensor.name.clone(), Tensor { dtype: tensor.dtype, shape: shape.to_vec(), bytes })
    };
    Ok(shapes.iter().enumerate().map(output).collect())
}

fn bind(model: &Model, exchange: &Exchange) -> Result<Arc<BoundSignature>, String> {
    let shapes = exchange.inputs.iter().map(|(name, it)| (name.clone(), it.shape.clone()));
    let bound = model.signature().bind(&shapes.collect::<Vec<_>>());
    bound.map(Arc::new).map_err(|error| error.to_string())
}

fn table(peer: PeerAccess) -> Arc<SlotTable> {
    let layout = SlotLayout { slots: 1, request_bytes: ROOM_BYTES, reply_bytes: ROOM_BYTES };
    let bytes = SlotTable::bytes(&layout).unwrap();
    let backing: Arc<dyn Backing> = Arc::new(HeapBacking::new(bytes).unwrap());
    SlotTable::over(layout, peer, &Region::whole(backing)).unwrap()
}

/// What came of a case: nothing if all is right.
fn wrongs(choice: EngineChoice, case: &Case, peer: PeerAccess) -> Vec<String> {
    let at = |request: usize, what: String| format!("{choice:?} {} {request}: {what}", case.name);
    let may_be_refused = |exchange: &Exchange| {
        let by_tract = choice == EngineChoice::Tract && TRACT_REFUSES.contains(&&*case.name);
        exchange.may_be_refused || by_tract
    };
    let model = match open(choice, &case.model, &options()) {
        Ok(model) => model,
        Err(error) => {
            let text = error.to_string();
            let names = case.requests[0].outputs.iter().chain(&case.requests[0].inputs);
            let is_clear = names.into_iter().any(|(name, _)| text.contains(name.as_str()));
            let allowed = case.requests.iter().all(may_be_refused);
            return match allowed && is_clear {
                true => Vec::new(),
                false => vec![at(0, format!("refused at the load: {text}"))],
            };
        }
    };
    let mut engine = model.instance().unwrap();
    let slots = table(peer);
    let mut wrongs = Vec::new();
    for (number, exchange) in case.requests.iter().enumerate() {
        let ran = bind(&model, exchange).map_err(EngineError::Shapes);
        let ran = ran.and_then(|binding| run(&mut *engine, &binding, &slots, exchange));
        match ran {
            Ok(_) if !exchange.may_run => wrongs.push(at(number, "was not refused".to_owned())),
            Ok(outputs) => {
                for (name, got) in outputs {
                    let right = exchange.outputs.iter().find(|(right, _)| *right == name);
                    let (_, right) = right.unwrap_or_else(|| panic!("{name} is not an output"));
                    if let Err(why) = case.tolerance.check(&got, right) {
                        wrongs.push(at(number, format!("{name}: {why}")));
                    }
                }
            }
            Err(error) if may_be_refused(exchange) => {
                let text = error.to_string();
                if text.contains("[…]") || text.len() < 20 {
                    wrongs.push(at(number, format!("not a clear refusal: {text}")));
                }
            }
            Err(error) => wrongs.push(at(number, error.to_string())),
        }
    }
    wrongs
}

fn all_are_right(choice: EngineChoice) {
    let cases = onnx();
    assert!(cases.len() >= 40, "{} cases", cases.len());
    for peer in [PeerAccess::None, PeerAccess::Writes] {
        let wrongs: Vec<String> =
            cases.iter().flat_map(|case| wrongs(choice, case, peer)).collect();
        assert!(wrongs.is_empty(), "{} wrong:\n{}", wrongs.len(), wrongs.join("\n"));
    }
}

#[test]
fn onnx_answers_right_or_refuses_clearly() {
    all_are_right(EngineChoice::Ort);
}

#[test]
fn tract_answers_right_or_refuses_clearly() {
    all_are_right(EngineChoice::Tract);
}

/// Nothing that ONNX Runtime serves is refused by us, but what cannot be sent.
#[test]
fn onnx_serves_all_that_can_be_sent() {
    let cases = onnx();
    for case in cases.iter().filter(|case| case.name != "forest_zipmap") {
        let model = open(EngineChoice::Ort, &case.model, &options())
            .unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let (mut engine, slots) = (model.instance().unwrap(), table(PeerAccess::None));
        for exchange in &case.requests {
            let binding =
                bind(&model, exchange).unwrap_or_else(|why| panic!("{}: {why}", case.name));
            let ran = run(&mut *engine, &binding, &slots, exchange);
            assert!(ran.is_ok(), "{}: {:?}", case.name, ran.err());
        }
    }
}
