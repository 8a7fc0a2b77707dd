//! The echo keeps what every engine promises.

use std::sync::Arc;

use ferry_conformance::engine::EngineUnderTest;
use ferry_engine::{Echo, Engine};

/// Longer out than in, so that both ways of copying are taken.
fn make() -> EngineUnderTest {
    let engine = Box::new(Echo::new());
    let shapes = [("input".to_owned(), vec![1000]), ("output".to_owned(), vec![4096])];
    let binding = Arc::new(engine.signature().bind(&shapes).unwrap());
    EngineUnderTest { engine, binding, request: (0..=u8::MAX).cycle().take(1000).collect() }
}

ferry_conformance::engine_suite!(make);
