//! What becomes of pictures and tensors before the model sees them.

use std::sync::Arc;

use ferry_core::{DType, PixelFormat, RequestKind, Stage, Status};
use ferry_engine::{Picture, Pool, PoolError, PoolOptions, RunOn};
use ferry_memory::{Departure, PeerAccess};
use ferry_vision::{
    Background, Channels, DecodeOptions, Decoder, Filter, Layout, Limits, Numbers, Orientation,
    PictureSpec, Pixels, Preparer,
};
use proptest::prelude::*;

use crate::common::{Client, parts_ns, payload, text};
use crate::mirror::{Mirror, SIDE};

pub(crate) const SPEC: PictureSpec = PictureSpec {
    width: SIDE,
    height: SIDE,
    layout: Layout::Nchw,
    channels: Channels::Rgb,
    resize: Filter::Bilinear,
    scale: 1.0 / 255.0,
    mean: [0.485, 0.456, 0.406],
    std: [0.229, 0.224, 0.225],
};

const LIMITS: Limits = Limits {
    compressed_bytes_max: 100_000,
    side_max: 4096,
    pixels_max: 1 << 22,
    scans_max: 32,
    scan_pixels_max: 1 << 27,
};

const DECODE: DecodeOptions = DecodeOptions {
    limits: LIMITS,
    orientation: Orientation::Stored,
    background: Background([255; 3]),
};

const JPEG: &[u8] = include_bytes!("../../../vision/testdata/quarters_420.jpg");

fn pool_of(dtype: DType, picture: Option<Picture>, run: RunOn) -> Pool {
    let options = PoolOptions { picture, run, ..PoolOptions::default() };
    Pool::start("mirror", vec![Box::new(Mirror::new(dtype))], options).unwrap()
}

fn pool(picture: Option<Picture>, run: RunOn) -> Pool {
    pool_of(DType::F32, picture, run)
}

const PICTURE: Option<Picture> = Some(Picture { spec: SPEC, decode: DECODE });

fn client_of(dtype: DType, peer: PeerAccess) -> Client {
    Client::with(1, 200_000, Mirror::new(dtype).bind(1), peer)
}

fn client(peer: PeerAccess) -> Client {
    client_of(DType::F32, peer)
}

fn run(pool: &Pool, client: &mut Client, kind: RequestKind, bytes: &[u8]) -> Departure {
    let at_once = pool.dispatch(client.work(kind, 0, bytes));
    at_once.unwrap_or_else(|| client.inbox.one())
}

/// What ferry-vision alone makes of the pixels.
fn reference(pixels: Pixels<'_>, numbers: Numbers) -> Vec<u8> {
    let mut preparer = Preparer::new(SPEC).unwrap();
    let mut tensor = vec![0.0; preparer.output_len()];
    preparer.prepare(pixels, &mut tensor).unwrap();
    let mut bytes = vec![0; tensor.len() * numbers.bytes()];
    numbers.store(&tensor, &mut bytes);
    bytes
}

#[test]
fn a_jpeg_becomes_the_model_s_input() {
    let mut decoder = Decoder::new();
    for (numbers, on, peer) in [
        (Numbers::F32, RunOn::Worker, PeerAccess::Writes),
        (Numbers::F32, RunOn::Lane, PeerAccess::None),
        (Numbers::F16, RunOn::Worker, PeerAccess::None),
        (Numbers::F16, RunOn::Lane, PeerAccess::Writes),
    ] {
        let wanted = reference(decoder.decode(JPEG, &DECODE).unwrap(), numbers);
        let pool = pool_of(numbers.dtype(), PICTURE, on);
        let mut client = client_of(numbers.dtype(), peer);
        let reply = run(&pool, &mut client, RequestKind::Jpeg, JPEG);
        assert_eq!(reply.status, Status::Ok);
        assert_eq!(payload(&reply), wanted, "{numbers:?} {on:?}");
        let happened = |stage| reply.times.of(stage).is_some();
        assert!(happened(Stage::Decode) && happened(Stage::Preprocess), "{:?}", reply.times);
        assert!(happened(Stage::Queue), "a lane has better to do than to decode");
        let whole = u64::try_from(reply.seen.elapsed().as_nanos()).unwrap();
        assert!(parts_ns(&reply.times) <= whole);
    }
}

#[test]
fn a_prepared_input_is_private_and_its_memory_is_reused() {
    let mirror = Mirror::new(DType::F32);
    let seen = Arc::clone(&mirror.seen);
    let options = PoolOptions { picture: PICTURE, ..PoolOptions::default() };
    let pool = Pool::start("mirror", vec![Box::new(mirror)], options).unwrap();
    let mut client = client(PeerAccess::Writes);
    for _ in 0..3 {
        assert_eq!(run(&pool, &mut client, RequestKind::Jpeg, JPEG).status, Status::Ok);
    }
    let tensor = vec![0; usize::try_from(client.binding.request_bytes()).unwrap()];
    assert_eq!(run(&pool, &mut client, RequestKind::Tensor, &tensor).status, Status::Ok);
    let seen = seen.lock().unwrap();
    assert!(seen[..3].iter().all(|&one| one == seen[0] && one.1), "{seen:?}");
    assert!(!seen[3].1 && seen[3].0 != seen[0].0, "a tensor is used in place");
}

#[test]
fn pictures_that_are_none_say_why() {
    for on in [RunOn::Worker, RunOn::Lane] {
        let pool = pool(PICTURE, on);
        let mut client = client(PeerAccess::Writes);
        let cut = &JPEG[..JPEG.len() / 2];
        for (bytes, why) in [
            (&b"GIF89a"[..], "not a JPEG"),
            (&[][..], "not a JPEG"),
            (cut, "ends before"),
            (&[0xff; 100_001][..], "limit of 100000"),
        ] {
            let reply = run(&pool, &mut client, RequestKind::Jpeg, bytes);
            assert_eq!(reply.status, Status::BadPicture, "{why}");
            assert!(text(&reply).contains(why), "{}", text(&reply));
        }
        assert_eq!(run(&pool, &mut client, RequestKind::Jpeg, JPEG).status, Status::Ok);
        assert_eq!(pool.stats().failed, 4);
    }
}

#[test]
fn without_a_picture_table_the_fix_is_named() {
    let pool = pool(None, RunOn::Lane);
    let mut client = client(PeerAccess::None);
    let raw = RequestKind::Raw { width: 1, height: 1, format: PixelFormat::Gray8 };
    for kind in [RequestKind::Jpeg, raw] {
        let reply = run(&pool, &mut client, kind, &[0]);
        assert_eq!(reply.status, Status::Unsupported);
        let why = text(&reply);
        assert!(why.contains("add a [picture] table to mirror.toml"), "{why}");
    }
}

#[test]
fn batches_fit_the_session() {
    let pool = pool(PICTURE, RunOn::Lane);
    let bound = Mirror::new(DType::F32).bind(2);
    let bytes = vec![0; usize::try_from(bound.request_bytes()).unwrap()];
    let mut client = Client::with(1, bound.request_bytes(), bound, PeerAccess::None);
    let mut status = |kind, payload: &[u8], batch| {
        let mut work = client.work(kind, 0, payload);
        work.arrival.what.batch = batch;
        let reply = pool.dispatch(work).expect("refused or run at once");
        let why = if reply.status == Status::Ok { String::new() } else { text(&reply) };
        (reply.status, why)
    };
    for (batch, wanted) in [(1, true), (2, true), (0, false), (3, false), (u32::MAX, false)] {
        let (status, why) = status(RequestKind::Tensor, &bytes, batch);
        assert_eq!(status == Status::Ok, wanted, "batch {batch}");
        assert!(wanted || why.contains("1 to 2"), "{why}");
    }
    let (one, why) = status(RequestKind::Jpeg, JPEG, 1);
    assert_eq!(one, Status::BadRequest, "half of the input would be stale");
    assert!(why.contains("batch 1"), "{why}");
    let (two, why) = status(RequestKind::Jpeg, JPEG, 2);
    assert_eq!(two, Status::BadRequest);
    assert!(why.contains("one picture a request"), "{why}");
}

#[test]
fn a_picture_table_must_fit_the_model() {
    let start = |dtype, spec| {
        let picture = Some(Picture { spec, decode: DECODE });
        let options = PoolOptions { picture, ..PoolOptions::default() };
        Pool::start("mirror", vec![Box::new(Mirror::new(dtype))], options)
    };
    for dtype in DType::ALL {
        match start(dtype, SPEC) {
            Ok(_) => assert!(matches!(dtype, DType::F32 | DType::F16), "{dtype}"),
            Err(PoolError::NotForPictures(inputs)) => {
                assert!(!matches!(dtype, DType::F32 | DType::F16) && inputs.contains(dtype.name()));
            }
            Err(other) => panic!("{dtype}: {other}"),
        }
    }
    let flat = PictureSpec { width: 0, ..SPEC };
    assert!(matches!(start(DType::F32, flat), Err(PoolError::Picture(_))));
}

#[test]
fn a_session_of_another_size_is_told_what_a_picture_makes() {
    // One whose slot would take the picture, were its values of another length.
    for (dtype, says) in [(DType::F32, "6912 bytes of FP32"), (DType::F16, "3456 bytes of FP16")] {
        let pool = pool_of(dtype, PICTURE, RunOn::Lane);
        let mut client = Client::with(1, 200_000, Mirror::new(dtype).bind(2), PeerAccess::None);
        let raw = RequestKind::Raw { width: 1, height: 1, format: PixelFormat::Gray8 };
        let reply = run(&pool, &mut client, raw, &[0]);
        assert_eq!(reply.status, Status::BadRequest);
        let why = text(&reply);
        assert!(why.contains(says) && why.contains("batch 1"), "{why}");
    }
}

fn formats() -> impl Strategy<Value = PixelFormat> {
    proptest::sample::select(PixelFormat::ALL.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn raw_pixels_of_exactly_their_length_are_prepared(
        width in 0_u32..60,
        height in 0_u32..60,
        format in formats(),
        off_by in prop_oneof![3 => Just(0_i64), 1 => -200_i64..200],
        seed in any::<u8>(),
        shared in any::<bool>(),
        numbers in prop_oneof![Just(Numbers::F32), Just(Numbers::F16)],
    ) {
        let exact = i64::from(width * height * format.bytes());
        let length = usize::try_from((exact + off_by).max(0)).unwrap();
        let bytes: Vec<u8> = (seed..=u8::MAX).cycle().step_by(7).take(length).collect();
        let pool = pool_of(numbers.dtype(), PICTURE, RunOn::Lane);
        let peer = if shared { PeerAccess::Writes } else { PeerAccess::None };
        let mut client = client_of(numbers.dtype(), peer);
        let kind = RequestKind::Raw { width, height, format };
        let reply = run(&pool, &mut client, kind, &bytes);
        match Pixels::new(width, height, format, &bytes) {
            Ok(pixels) => {
                prop_assert_eq!(reply.status, Status::Ok);
                prop_assert_eq!(payload(&reply), reference(pixels, numbers));
                prop_assert_eq!(reply.times.of(Stage::Decode), None);
                prop_assert_eq!(reply.times.of(Stage::Wake), None);
                prop_assert!(reply.times.of(Stage::Preprocess).is_some());
            }
            Err(_) => {
                prop_assert_eq!(reply.status, Status::BadRequest);
                if i64::try_from(length) != Ok(exact) {
                    let why = text(&reply);
                    prop_assert!(why.contains(&length.to_string()), "{}", why);
                    prop_assert!(why.contains(&exact.to_string()), "{}", why);
                }
            }
        }
        drop(reply);
        prop_assert_eq!(client.table.free_slots(), 1);
    }

    #[test]
    fn tensors_of_exactly_their_length_run(
        in_bytes in 1_u64..5000,
        off_by in prop_oneof![Just(0_i64), -200_i64..200],
    ) {
        let engines = vec![Box::new(ferry_engine::Echo::new()) as _];
        let options = PoolOptions { run: RunOn::Lane, ..PoolOptions::default() };
        let pool = Pool::start("echo", engines, options).unwrap();
        let shapes = [("input".to_owned(), vec![in_bytes])];
        let bound = pool.signature().bind(&shapes).unwrap();
        let mut client = Client::with(1, in_bytes + 200, bound, PeerAccess::None);
        let length = usize::try_from(in_bytes.saturating_add_signed(off_by)).unwrap();
        let reply = run(&pool, &mut client, RequestKind::Tensor, &vec![5; length]);
        if u64::try_from(length) == Ok(in_bytes) {
            prop_assert_eq!(reply.status, Status::Ok);
            prop_assert_eq!(payload(&reply), [5]);
        } else {
            prop_assert_eq!(reply.status, Status::BadRequest);
            let why = text(&reply);
            prop_assert!(why.contains(&length.to_string()), "{}", why);
            prop_assert!(why.contains(&in_bytes.to_string()), "{}", why);
        }
    }
}

#[test]
fn sides_whose_product_overflows_are_refused() {
    let pool = pool(PICTURE, RunOn::Lane);
    let mut client = client(PeerAccess::None);
    for (width, height) in [(u32::MAX, u32::MAX), (1 << 31, 2), (100_000, 1)] {
        let kind = RequestKind::Raw { width, height, format: PixelFormat::Gray8 };
        let reply = run(&pool, &mut client, kind, &[0; 100_000]);
        assert_eq!(reply.status, Status::BadRequest, "{width} x {height}");
    }
}
