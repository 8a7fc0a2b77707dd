//! The device computes what the CPU computes.

use std::sync::Arc;

use ferry_core::{HostMemory, MemoryChoice, Stage};
use ferry_engine::Engine;
use ferry_onnx::{CudaOptions, OrtEngine, OrtOptions, Precision};

use crate::common::{
    At, EVERYWHERE, bytes_of, finish, floats_of, job, model, noise, relative_error, reply, search,
    table, zoo,
};

/// Of the zoo, those with a `Resize`: it makes indices of floats, so that no peer's memory is used in
/// place; the engine copies the input first, also on its own device.
const ALWAYS_COPIED: [&str; 2] = ["deeplabv3-resnet50", "yolov4"];

fn agrees(name: &str) {
    let directory = tempfile::tempdir().unwrap();
    let path = zoo(directory.path(), name);
    let mut cpu = OrtEngine::load(&path, &search(), OrtOptions { threads: 8 }).unwrap();
    let binding = Arc::new(cpu.signature().bind(&[]).unwrap());
    let values = usize::try_from(binding.request_bytes()).unwrap() / 4;
    let request = bytes_of(&noise(values, 7));
    let slots = table(&binding, At::Pageable, 1);
    let reference = floats_of(&reply(&finish(&mut cpu, job(&slots, &binding, &request, 1, 0))));
    for channels_last in [false, true] {
        let options = CudaOptions { channels_last, streams: 2, ..CudaOptions::default() };
        let model = model(&path, options);
        assert_eq!(model.signature(), cpu.signature());
        let mut engine = model.instance().unwrap();
        for at in EVERYWHERE {
            for priority in [0, 1] {
                let slots = table(&binding, at, 2);
                let mut job = job(&slots, &binding, &request, 1, priority);
                job.memory = MemoryChoice::Always(HostMemory::Pinned);
                let finished = finish(&mut engine, job);
                let error = relative_error(&floats_of(&reply(&finished)), &reference);
                let times = finished.outcome.as_ref().unwrap();
                eprintln!(
                    "{name} {at:?} channels_last {channels_last} priority {priority}: error \
                     {error:.2e}, copy_in {:?} infer {:?} copy_out {:?}",
                    times.of(Stage::CopyIn),
                    times.of(Stage::Infer),
                    times.of(Stage::CopyOut)
                );
                assert!(error <= 1e-3, "{name} at {at:?}: {error}");
                let copied = at != At::Device || ALWAYS_COPIED.contains(&name);
                assert_eq!(times.of(Stage::CopyIn).is_some(), copied);
            }
        }
        eprintln!(
            "{name}: graphs {}, weights {} KiB, streams {} KiB",
            model.has_graphs(),
            model.weights_bytes() >> 10,
            engine.streams_bytes() >> 10
        );
    }
    let tf32 = CudaOptions { precision: Precision::Tf32, ..CudaOptions::default() };
    let mut engine = model(&path, tf32).instance().unwrap();
    let finished = finish(&mut engine, job(&slots, &binding, &request, 1, 0));
    let error = relative_error(&floats_of(&reply(&finished)), &reference);
    eprintln!("{name} tf32: error {error:.2e}");
    assert!(error <= 2e-2, "{name} with TF32: {error}");
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
