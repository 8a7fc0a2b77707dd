//! Every model of the zoo, parsed and built. One test each: the slowest takes some seconds.

use std::path::Path;

use ferry_onnx::{EngineChoice, Options};
use ferry_tensorrt::Precision;

use crate::common::{build, search, zoo};

/// What ONNX Runtime says of the file.
fn by_onnx_runtime(path: &Path) -> ferry_core::Signature {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let library = Path::new(root).join(".cache/onnxruntime/1.30.0/libonnxruntime.so");
    let library = ferry_onnx::Search { explicit: Some(library), candidates: Vec::new() };
    let options = Options { threads: 1, library };
    ferry_onnx::open(EngineChoice::Ort, path, &options).unwrap().signature().clone()
}

/// Builds a model in full and in half precision.
fn builds(name: &str) {
    let directory = tempfile::tempdir().unwrap();
    let path = zoo(directory.path(), name);
    let signature = by_onnx_runtime(&path);
    assert_eq!(ferry_tensorrt::signature(&path, &search()).unwrap(), signature);

    let weights_bytes = std::fs::metadata(&path).unwrap().len();
    let full = build(&path, Precision::Fp32);
    assert_eq!(*full.signature(), signature);
    assert_eq!(full.library_version(), "1.7.1.116");
    let full_bytes = full.engine_bytes().len() as u64;
    // Layers that are fused may lose some weights, but an engine without them is none.
    assert!(full_bytes > weights_bytes / 2, "{full_bytes} bytes of {weights_bytes}");
    drop(full);

    let half = build(&path, Precision::Fp16);
    assert_eq!(*half.signature(), signature, "inputs and outputs stay as they are");
    let half_bytes = half.engine_bytes().len() as u64;
    assert!(half_bytes < full_bytes, "{half_bytes} bytes in half precision, {full_bytes} in full");
    if weights_bytes > 10 << 20 {
        assert!(half_bytes < full_bytes * 6 / 10, "{half_bytes} bytes, in full {full_bytes}");
    }
}

macro_rules! zoo {
    ($($test:ident $name:literal)*) => {
        $(#[test] fn $test() { builds($name); })*

        #[test]
        fn no_model_is_left_out() {
            assert_eq!(ferry_zoo::names(), [$($name),*]);
        }
    };
}

zoo! {
    mobilenetv3_small "mobilenetv3-small"
    resnet50 "resnet50"
    efficientnet_b0 "efficientnet-b0"
    wide_resnet101_2 "wide-resnet101-2"
    yolov4 "yolov4"
    deeplabv3_resnet50 "deeplabv3-resnet50"
    digits "digits"
}

#[test]
fn tf32_is_another_engine() {
    let directory = tempfile::tempdir().unwrap();
    let path = zoo(directory.path(), "digits");
    let full = build(&path, Precision::Fp32);
    let tf32 = build(&path, Precision::Tf32);
    assert_eq!(full.signature(), tf32.signature());
    assert_eq!((full.precision(), tf32.precision()), (Precision::Fp32, Precision::Tf32));
}
