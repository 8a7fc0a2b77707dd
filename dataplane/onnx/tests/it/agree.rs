//! Two libraries that share no code give the same answers.

use std::sync::Arc;
use std::time::Instant;

use ferry_core::Stage;
use ferry_memory::PeerAccess;
use ferry_onnx::EngineChoice;

use crate::common::{
    BOTH, bytes_of, difference, finish, floats_of, job, model, noise, run, table, zoo,
};

/// Sums in another order differ by this much at most.
const RELATIVE_MAX: f32 = 1e-4;

/// Runs a model of the zoo in both; prints what it took, for those who run it by hand.
fn agree(name: &str, runs: usize) {
    let directory = tempfile::tempdir().unwrap();
    let path = zoo(directory.path(), name);
    let mut outputs = Vec::new();
    for choice in BOTH {
        let start = Instant::now();
        let model = model(choice, &path);
        let mut engine = model.instance().unwrap();
        let load_ms = start.elapsed().as_millis();
        let binding = Arc::new(model.signature().bind(&[]).unwrap());
        let request = bytes_of(&noise(usize::try_from(binding.inputs[0].bytes / 4).unwrap()));
        let slots = table(&binding, PeerAccess::Writes, 1);
        let mut infer_us = Vec::new();
        for _ in 0..runs {
            let job = job(&slots, &binding, &request);
            let (reply, times) = finish(&mut *engine, job).unwrap();
            infer_us.push(times.of(Stage::Infer).unwrap() / 1000);
            outputs.push(reply);
        }
        infer_us.sort_unstable();
        eprintln!("{name} {choice:?}: load {load_ms} ms, infer p50 {} µs", infer_us[runs / 2]);
    }
    let binding = model(EngineChoice::Ort, &path).signature().bind(&[]).unwrap();
    for tensor in &binding.outputs {
        let at = usize::try_from(tensor.offset).unwrap();
        let end = at + usize::try_from(tensor.bytes).unwrap();
        let part = |reply: &Vec<u8>| floats_of(&reply[at..end]);
        let apart = difference(&part(&outputs[0]), &part(&outputs[runs]));
        eprintln!("{name} {}: {apart:e} apart", tensor.name);
        assert!(apart <= RELATIVE_MAX, "{name} {}: {apart}", tensor.name);
    }
}

#[test]
fn on_digits() {
    agree("digits", 3);
}

#[test]
fn on_mobilenet() {
    agree("mobilenetv3-small", 3);
}

#[test]
fn on_efficientnet() {
    agree("efficientnet-b0", 1);
}

#[test]
fn on_resnet50() {
    agree("resnet50", 1);
}

#[test]
#[ignore = "prints p50 of 21 runs for people: cargo test --release -- --ignored timings"]
fn timings() {
    agree("mobilenetv3-small", 21);
    agree("resnet50", 21);
}

#[test]
#[ignore = "half a gigabyte of weights: run with --release before a change of either library"]
fn on_wide_resnet101() {
    agree("wide-resnet101-2", 3);
}

#[test]
#[ignore = "minutes in a debug build: run with --release before a change of either library"]
fn on_yolov4() {
    agree("yolov4", 3);
}

#[test]
#[ignore = "minutes in a debug build: run with --release before a change of either library"]
fn on_deeplab() {
    agree("deeplabv3-resnet50", 3);
}

#[test]
fn digits_are_recognised_by_both() {
    let directory = tempfile::tempdir().unwrap();
    let path = zoo(directory.path(), "digits");
    for choice in BOTH {
        let model = model(choice, &path);
        let binding = Arc::new(model.signature().bind(&[]).unwrap());
        let mut engine = model.instance().unwrap();
        let (mut right, mut all) = (0, 0);
        for held_out in ferry_zoo::digits::held_out().take(100) {
            let input: Vec<f32> =
                held_out.pixels.iter().map(|&pixel| f32::from(pixel) / 255.0).collect();
            let request = bytes_of(&input);
            let (reply, _) = run(&mut *engine, &binding, PeerAccess::None, &request).unwrap();
            let scores = floats_of(&reply);
            let best = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
            right += usize::from(best == usize::from(held_out.label));
            all += 1;
        }
        assert!(right * 100 >= all * 90, "{choice:?}: {right} of {all} recognised");
    }
}
