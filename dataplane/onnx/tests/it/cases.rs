//! Models as others export them, run by both engines: the right numbers, or a clear refusal.

use std::sync::Arc;

use ferry_conformance::cases::{Case, onnx, run};
use ferry_memory::{HeapBacking, PeerAccess, Region, SlotTable};
use ferry_onnx::{EngineChoice, open};

use crate::common::options;

/// What tract does not take of what ONNX Runtime serves: it refuses these, and nothing else.
const TRACT_REFUSES: &[&str] = &[];

fn table(peer: PeerAccess) -> Arc<SlotTable> {
    let bytes = SlotTable::bytes(&run::LAYOUT).unwrap();
    let region = Region::whole(HeapBacking::new(bytes).unwrap());
    SlotTable::over(run::LAYOUT, peer, region).unwrap()
}

/// What came of a case: nothing if all is right.
fn wrongs(choice: EngineChoice, case: &Case, peer: PeerAccess) -> Vec<String> {
    let by_tract = choice == EngineChoice::Tract && TRACT_REFUSES.contains(&&*case.name);
    let load = |path: &_| open(choice, path, &options())?.instance();
    run::wrongs(case, &table(peer), load, by_tract)
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
            let ran = run::ask(&mut *engine, &slots, exchange);
            assert!(ran.is_ok(), "{}: {:?}", case.name, ran.err());
        }
    }
}
