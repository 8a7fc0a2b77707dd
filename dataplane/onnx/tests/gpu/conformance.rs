//! The engine on a device keeps the contract of engines.

use std::sync::Arc;

use ferry_conformance::engine::EngineUnderTest;
use ferry_onnx::{Completion, CudaOptions};

use crate::common::{bytes_of, model, noise, zoo};

fn digits(options: CudaOptions) -> EngineUnderTest {
    // What is not written shows.
    let options = CudaOptions { poison: true, ..options };
    let directory = tempfile::tempdir().unwrap();
    let model = model(&zoo(directory.path(), "digits"), options);
    let engine = Box::new(model.instance().unwrap());
    let binding = Arc::new(model.signature().bind(&[]).unwrap());
    EngineUnderTest { engine, binding, request: bytes_of(&noise(64, 1)) }
}

mod poll {
    fn make() -> ferry_conformance::engine::EngineUnderTest {
        super::digits(ferry_onnx::CudaOptions::default())
    }
    ferry_conformance::engine_suite!(make);
}

mod wait {
    fn make() -> ferry_conformance::engine::EngineUnderTest {
        let completion = super::Completion::Wait;
        super::digits(super::CudaOptions { completion, ..super::CudaOptions::default() })
    }
    ferry_conformance::engine_suite!(make);
}
