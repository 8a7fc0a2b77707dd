//! Raw pictures become the model's input on the device, whatever memory they lie in.

use std::sync::Arc;

use ferry_core::{HostMemory, MemoryChoice, PixelFormat, RequestKind, Stage, Staged, Why};
use ferry_engine::{Engine, Finished, Job, Picture};
use ferry_onnx::{CudaOptions, OrtEngine, OrtOptions};
use ferry_vision::{
    Channels, DecodeOptions, Filter, Layout, Numbers, PictureSpec, Pixels, Preparer,
};
use ferry_zoo::Precision;

use crate::common::{
    At, finish, job, model, noise, outputs, relative_error, reply, search, stored, table, table_of,
    zoo_in,
};

const SPEC: PictureSpec = PictureSpec {
    width: 224,
    height: 224,
    layout: Layout::Nchw,
    channels: Channels::Rgb,
    resize: Filter::Bilinear,
    scale: 1.0 / 255.0,
    mean: [0.485, 0.456, 0.406],
    std: [0.229, 0.224, 0.225],
};

/// Where the slots are, what the session asked for, and what is expected of it.
type Case = (At, MemoryChoice, Option<(HostMemory, Why)>);

const CASES: [Case; 6] = [
    (At::Pageable, MemoryChoice::Auto, Some((HostMemory::Pinned, Why::Unregistered))),
    (
        At::Pageable,
        MemoryChoice::Always(HostMemory::Pageable),
        Some((HostMemory::Pageable, Why::Asked)),
    ),
    (At::Pinned, MemoryChoice::Always(HostMemory::Pinned), Some((HostMemory::Pinned, Why::Asked))),
    (At::Pinned, MemoryChoice::Always(HostMemory::Mapped), Some((HostMemory::Mapped, Why::Asked))),
    (At::Pinned, MemoryChoice::Auto, Some((HostMemory::Mapped, Why::Idle))),
    (At::Device, MemoryChoice::Auto, None),
];

#[test]
fn the_answer_is_the_same_for_every_memory() {
    pictures_agree(Precision::Fp32, 1e-4);
}

#[test]
fn in_half_precision_too() {
    // The CPU computes such a model in 32 bits, the device in 16: what differs is the model.
    pictures_agree(Precision::Fp16, 2e-2);
}

fn pictures_agree(precision: Precision, error_max: f64) {
    let directory = tempfile::tempdir().unwrap();
    let path = zoo_in(precision, directory.path(), "mobilenetv3-small");
    let mut cpu = OrtEngine::load(&path, &search(), OrtOptions { threads: 8 }).unwrap();
    let binding = Arc::new(cpu.signature().bind(&[]).unwrap());
    let numbers = Numbers::of(binding.inputs[0].dtype).unwrap();
    assert_eq!(numbers == Numbers::F16, precision == Precision::Fp16);
    let mut engine = model(&path, CudaOptions::default()).instance().unwrap();
    assert!(engine.prepares(&Picture { spec: SPEC, decode: DecodeOptions::default() }));
    let values = |done: &Finished| outputs(&binding, &reply(done)).remove(0);
    for (width, height, format) in [
        (546, 500, PixelFormat::Rgb8),
        (1920, 1080, PixelFormat::Bgr8),
        (224, 224, PixelFormat::Rgb8),
        (37, 91, PixelFormat::Gray8),
    ] {
        let count = width as usize * height as usize * format.bytes() as usize;
        let pixels: Vec<u8> =
            noise(count, width).iter().map(|x| x.to_bits().to_le_bytes()[2]).collect();
        let mut preparer = Preparer::new(SPEC).unwrap();
        let mut input = vec![0.0; preparer.output_len()];
        let view = Pixels::new(width, height, format, &pixels).unwrap();
        preparer.prepare(view, &mut input).unwrap();
        let input = stored(&input, numbers);
        let slots = table(&binding, At::Pageable, 1);
        let reference = values(&finish(&mut cpu, job(&slots, &binding, &input, 1, 0)));
        let sent = values(&finish(&mut engine, job(&slots, &binding, &input, 1, 0)));
        for (at, memory, expected) in CASES {
            let slots = table_of(count.max(input.len()) as u64, binding.reply_bytes(), at, 1);
            let mut raw: Job = job(&slots, &binding, &pixels, 1, 0);
            raw.memory = memory;
            let kind = RequestKind::Raw { width, height, format };
            let mut arrival = raw.arrival.into_arrival();
            arrival.what.kind = kind;
            raw.arrival = arrival.into();
            let done = finish(&mut engine, raw);
            let answer = values(&done);
            let error = relative_error(&answer, &reference);
            let times = *done.outcome.as_ref().unwrap();
            eprintln!(
                "{} {width} x {height} {format:?} {at:?} {memory:?}: error {error:.2e}, copy_in \
                 {:?} preprocess {:?} infer {:?} postprocess {:?} copy_out {:?} {:?}",
                precision.name(),
                times.of(Stage::CopyIn),
                times.of(Stage::Preprocess),
                times.of(Stage::Infer),
                times.of(Stage::Postprocess),
                times.of(Stage::CopyOut),
                times.staged()
            );
            assert!(error <= error_max, "{at:?} {memory:?}: {error}");
            // The kernel's tensor is the CPU's to the bit, so that the picture gives what its
            // tensor gives on the same device.
            let error = relative_error(&answer, &sent);
            assert!(error <= error_max / 4.0, "not the tensor's answer: {error}");
            let large = memory == MemoryChoice::Auto && at == At::Pinned && count > (4 << 20);
            let expected = if large { Some((HostMemory::Pinned, Why::Large)) } else { expected };
            assert_eq!(times.staged(), expected.map(|(memory, why)| Staged { memory, why }));
            let copied = matches!(expected, Some((HostMemory::Pageable | HostMemory::Pinned, _)));
            assert_eq!(times.of(Stage::CopyIn).is_some(), copied, "{at:?} {memory:?}");
            assert!(times.of(Stage::Preprocess).is_some());
        }
    }
}
