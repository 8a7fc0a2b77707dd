//! Models in half precision: the device computes in 16 bits what the CPU computes in 32.

use std::sync::Arc;

use ferry_core::{DType, HostMemory, MemoryChoice};
use ferry_engine::Engine;
use ferry_onnx::{CudaOptions, OrtEngine, OrtOptions};
use ferry_vision::Numbers;
use ferry_zoo::Precision;

use crate::common::{
    At, EVERYWHERE, finish, job, model, noise, outputs, relative_error, reply, search, stored,
    table, zoo, zoo_in,
};

/// Half precision has 11 bits of mantissa, and each layer rounds. Seen on a CPU, which rounds less
/// often: 1e-3 to 3e-3.
const ERROR_MAX: f64 = 2e-2;

fn agrees(name: &str) {
    let directory = tempfile::tempdir().unwrap();
    let path = zoo(directory.path(), name);
    let mut cpu = OrtEngine::load(&path, &search(), OrtOptions { threads: 8 }).unwrap();
    let full = Arc::new(cpu.signature().bind(&[]).unwrap());
    let values = noise(usize::try_from(full.request_bytes()).unwrap() / 4, 7);
    let slots = table(&full, At::Pageable, 1);
    let request = stored(&values, Numbers::F32);
    let done = finish(&mut cpu, job(&slots, &full, &request, 1, 0));
    let reference = outputs(&full, &reply(&done));

    let path = zoo_in(Precision::Fp16, directory.path(), name);
    for channels_last in [false, true] {
        let options = CudaOptions { channels_last, streams: 2, ..CudaOptions::default() };
        let model = model(&path, options);
        let mut engine = model.instance().unwrap();
        let half = Arc::new(engine.signature().bind(&[]).unwrap());
        assert!(half.inputs.iter().chain(&half.outputs).all(|it| it.dtype == DType::F16));
        let request = stored(&values, Numbers::F16);
        for at in EVERYWHERE {
            let slots = table(&half, at, 1);
            let mut job = job(&slots, &half, &request, 1, 0);
            job.memory = MemoryChoice::Always(HostMemory::Pinned);
            let done = finish(&mut engine, job);
            let answers = outputs(&half, &reply(&done));
            assert_eq!(answers.len(), reference.len());
            for ((answer, reference), tensor) in answers.iter().zip(&reference).zip(&half.outputs) {
                let error = relative_error(answer, reference);
                eprintln!(
                    "{name} {} {at:?} channels_last {channels_last}: {error:.2e}",
                    tensor.name
                );
                assert!(error <= ERROR_MAX, "{name} {} at {at:?}: {error}", tensor.name);
            }
        }
        eprintln!("{name}: weights {} KiB", model.weights_bytes() >> 10);
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
fn deeplab() {
    agrees("deeplabv3-resnet50");
}

#[test]
fn yolo() {
    agrees("yolov4");
}
