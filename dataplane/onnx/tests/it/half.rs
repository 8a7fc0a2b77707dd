//! Models in half precision, on the CPU: both libraries run them, pictures become their input, and
//! the answers are those of single precision, nearly.

use std::path::Path;
use std::sync::Arc;

use ferry_core::DType;
use ferry_memory::PeerAccess;
use ferry_onnx::{EngineChoice, open};
use ferry_vision::Numbers;
use ferry_zoo::Precision;

use crate::common::{
    BOTH, difference, floats_of, halves_of, model, noise, options, run, zoo, zoo_in,
};

/// Half precision has 11 bits of mantissa: sums of hundreds of products stay within this.
const RELATIVE_MAX: f32 = 1e-2;

/// What a model gives for the same noise, output by output.
fn answers(choice: EngineChoice, path: &Path) -> Vec<Vec<f32>> {
    let model = model(choice, path);
    let binding = Arc::new(model.signature().bind(&[]).unwrap());
    let mut engine = model.instance().unwrap();
    let [input] = binding.inputs.as_slice() else { panic!("{:?}", binding.inputs) };
    let values = noise(usize::try_from(input.bytes / input.dtype.bytes()).unwrap());
    let numbers = Numbers::of(input.dtype).unwrap();
    let mut request = vec![0; values.len() * numbers.bytes()];
    numbers.store(&values, &mut request);
    let (reply, _) = run(&mut *engine, &binding, PeerAccess::Writes, &request).unwrap();
    let parts = binding.outputs.iter().map(|tensor| {
        let at = usize::try_from(tensor.offset).unwrap();
        let bytes = &reply[at..at + usize::try_from(tensor.bytes).unwrap()];
        assert_eq!(tensor.dtype, input.dtype);
        if tensor.dtype == DType::F16 { halves_of(bytes) } else { floats_of(bytes) }
    });
    parts.collect()
}

fn agrees(name: &str) {
    let directory = tempfile::tempdir().unwrap();
    let full = answers(EngineChoice::Ort, &zoo(directory.path(), name));
    let path = zoo_in(Precision::Fp16, directory.path(), name);
    for choice in BOTH {
        let half = answers(choice, &path);
        assert_eq!(half.len(), full.len());
        for (half, full) in half.iter().zip(&full) {
            let apart = difference(full, half);
            eprintln!("{name} in half precision, {choice:?}: {apart:e} apart");
            assert!(apart > 0.0, "{name} {choice:?}: nothing was rounded");
            assert!(apart <= RELATIVE_MAX, "{name} {choice:?}: {apart}");
        }
    }
}

#[test]
fn an_operator_that_tract_lacks_is_told_with_the_precision_and_the_way_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = zoo_in(Precision::Fp16, directory.path(), "digits");
    let mut file = std::fs::read(&path).unwrap();
    let at = file.windows(6).position(|it| it == b"\"\x04Relu").unwrap();
    file[at + 2..at + 6].copy_from_slice(b"Rely");
    std::fs::write(&path, file).unwrap();
    let refused = open(EngineChoice::Tract, &path, &options()).unwrap_err().to_string();
    for part in ["Rely", "half precision", "engine = \"onnx\"", "32 bits"] {
        assert!(refused.contains(part), "{refused}");
    }
}

#[test]
fn digits() {
    agrees("digits");
}

#[test]
fn mobilenet() {
    agrees("mobilenetv3-small");
}

#[test]
fn resnet50() {
    agrees("resnet50");
}

#[test]
fn efficientnet() {
    agrees("efficientnet-b0");
}

#[test]
#[ignore = "minutes: run with --release before a change of either library"]
fn wide_resnet101() {
    agrees("wide-resnet101-2");
}

#[test]
#[ignore = "minutes: run with --release before a change of either library"]
fn yolov4() {
    agrees("yolov4");
}

#[test]
#[ignore = "minutes: run with --release before a change of either library"]
fn deeplab() {
    agrees("deeplabv3-resnet50");
}
