//! Both engines keep the contract of engines.

use std::sync::Arc;

use ferry_conformance::engine::EngineUnderTest;
use ferry_onnx::EngineChoice;

use crate::common::{bytes_of, model, noise, zoo};

fn digits(choice: EngineChoice) -> EngineUnderTest {
    let directory = tempfile::tempdir().unwrap();
    let engine = model(choice, &zoo(directory.path(), "digits")).instance().unwrap();
    let binding = Arc::new(engine.signature().bind(&[]).unwrap());
    EngineUnderTest { engine, binding, request: bytes_of(&noise(64)) }
}

mod onnx {
    fn make() -> ferry_conformance::engine::EngineUnderTest {
        super::digits(ferry_onnx::EngineChoice::Ort)
    }
    ferry_conformance::engine_suite!(make);
}

mod tract {
    fn make() -> ferry_conformance::engine::EngineUnderTest {
        super::digits(ferry_onnx::EngineChoice::Tract)
    }
    ferry_conformance::engine_suite!(make);
}
