//! Numbers one by one, and whole models, which ONNX Runtime runs in both forms.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ferry_core::{Generation, MemoryChoice, Request, RequestKind, SessionId, SlotLayout};
use ferry_engine::Job;
use ferry_memory::{Arrival, PeerId, SlotTable};
use ferry_onnx::{EngineChoice, Options};

use super::*;

fn half(number: f32) -> u16 {
    super::half(number).to_bits()
}

fn wide(half: u16) -> f32 {
    let (sign, rest) = (f32::from(half >> 15), half & 0x7FFF);
    let (exponent, mantissa) = (i32::from(rest >> 10), f32::from(rest & 0x3FF));
    let size = match exponent {
        0 => mantissa * 2_f32.powi(-24),
        31 => f32::INFINITY,
        _ => (1.0 + mantissa / 1024.0) * 2_f32.powi(exponent - 15),
    };
    if sign == 0.0 { size } else { -size }
}

#[test]
fn every_half_and_every_middle_between_two() {
    for bits in 0..0x7C00_u16 {
        for sign in [0, 0x8000] {
            assert_eq!(half(wide(bits | sign)), bits | sign, "{bits:x}");
        }
        if bits == 0x7BFF {
            continue;
        }
        let (low, high) = (wide(bits), wide(bits + 1));
        let middle = low + (high - low) / 2.0;
        let even = if bits % 2 == 0 { bits } else { bits + 1 };
        assert_eq!(half(middle), even, "between {bits:x} and the next");
        assert_eq!(half(f32::from_bits(middle.to_bits() - 1)), bits);
        assert_eq!(half(f32::from_bits(middle.to_bits() + 1)), bits + 1);
    }
    assert_eq!(half(f32::MAX), 0x7BFF);
    assert_eq!(half(-1e9), 0xFBFF);
    assert_eq!(half(65_520.0), 0x7BFF);
    assert_eq!(half(f32::NEG_INFINITY), 0xFC00);
    assert_eq!(half(f32::NAN) & 0x7E00, 0x7E00);
    assert_eq!(half(f32::MIN_POSITIVE), 0);
}

/// What ONNX Runtime makes of a file, and of noise.
fn answer(path: &Path) -> Vec<f32> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let library = Path::new(root).join(".cache/onnxruntime/1.30.0/libonnxruntime.so");
    let library = ferry_onnx::Search { explicit: Some(library), candidates: Vec::new() };
    let options = Options { threads: 1, library };
    let mut engine = ferry_onnx::load(EngineChoice::Ort, path, &options).unwrap().engine;
    let binding = Arc::new(engine.signature().bind(&[]).unwrap());
    let layout = SlotLayout {
        slots: 1,
        request_bytes: binding.request_bytes(),
        reply_bytes: binding.reply_bytes(),
    };
    let mut slot = SlotTable::private(layout).unwrap().acquire().unwrap();
    let mut state = 1_u32;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from(u16::try_from(state >> 16).unwrap()) / 32_768.0 - 1.0
    });
    let payload_bytes = usize::try_from(binding.request_bytes()).unwrap();
    let request: Vec<u8> = noise.take(payload_bytes / 4).flat_map(f32::to_le_bytes).collect();
    slot.request_mut().copy_in(0, &request).unwrap();
    let now = Instant::now();
    let arrival = Arrival {
        peer: PeerId(1),
        session: SessionId(1),
        generation: Generation::FIRST,
        request: 1,
        what: Request::of(RequestKind::Tensor),
        payload_bytes,
        slot,
        seen: now,
        visible: now,
    };
    let job = Job {
        arrival: arrival.into(),
        binding,
        prepared: None,
        placed: None,
        members: Vec::new(),
        memory: MemoryChoice::Auto,
    };
    let finished = engine.submit(job).expect("done when submit returns");
    finished.outcome.unwrap();
    let mut reply = vec![0; usize::try_from(finished.job.binding.outputs[0].bytes).unwrap()];
    finished.job.output(0).unwrap().copy_out(0, &mut reply).unwrap();
    reply.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect()
}

#[test]
fn a_model_in_half_precision_gives_nearly_the_same() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["digits", "mobilenetv3-small", "resnet50"] {
        let path = ferry_zoo::write(name, directory.path(), 1, &mut |_| {}).unwrap().model;
        let file = Bytes::from(std::fs::read(&path).unwrap());
        let converted = convert(ferry_onnx_file::read(file.clone()).unwrap()).unwrap();
        assert!(converted.len() < file.len(), "{} bytes of {}", converted.len(), file.len());
        let half = directory.path().join("half.onnx");
        std::fs::write(&half, converted).unwrap();

        let (full, half) = (answer(&path), answer(&half));
        let largest = full.iter().fold(0.0_f32, |largest, it| largest.max(it.abs()));
        let apart = full.iter().zip(&half).map(|(a, b)| (a - b).abs()).fold(0.0_f32, f32::max);
        assert!(largest > 0.0 && half.iter().all(|it| it.is_finite()), "{name}");
        assert!(apart <= largest * 2e-2, "{name}: {apart} apart, the largest is {largest}");
        assert!(apart > 0.0, "{name}: nothing was rounded");
    }
}
