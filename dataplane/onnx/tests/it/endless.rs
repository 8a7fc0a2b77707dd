//! A model whose loop takes as many turns as a request says: the run is ended from outside.

use std::sync::Arc;
use std::time::Duration;

use ferry_conformance::turns;
use ferry_engine::{Engine, EngineError};
use ferry_memory::PeerAccess;
use ferry_onnx::EngineChoice;

use crate::common::{model, run};
use crate::tiny::file;

#[test]
fn onnx_runtime_ends_a_loop_and_runs_the_next_request() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "turns.onnx", &turns::onnx());
    let model = model(EngineChoice::Ort, &path);
    let binding = Arc::new(model.signature().bind(&[]).unwrap());
    let (mut one, mut other) = (model.instance().unwrap(), model.instance().unwrap());
    let interrupt = one.interrupt().expect("ONNX Runtime can end a run");
    let three = |engine: &mut dyn Engine| {
        let (reply, _) = run(engine, &binding, PeerAccess::None, &turns::request(3, 7)).unwrap();
        assert_eq!(reply, 21_i64.to_le_bytes());
    };
    three(&mut *one);
    let endless = turns::request(turns::ENDLESS, 7);
    for _ in 0..2 {
        let ended = std::thread::scope(|scope| {
            let running = scope.spawn(|| run(&mut *one, &binding, PeerAccess::None, &endless));
            std::thread::sleep(Duration::from_millis(20));
            interrupt.interrupt();
            // Instances share the session, and none is ended but the one that was meant.
            three(&mut *other);
            running.join().unwrap()
        });
        assert!(matches!(ended, Err(EngineError::Run(_))), "{ended:?}");
        interrupt.resume();
        three(&mut *one);
    }
}

#[test]
fn tract_says_that_it_cannot() {
    let directory = tempfile::tempdir().unwrap();
    let path = crate::common::zoo(directory.path(), "digits");
    let engine = model(EngineChoice::Tract, &path).instance().unwrap();
    assert!(engine.interrupt().is_none());
}
