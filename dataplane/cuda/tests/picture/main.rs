//! The kernels, compiled for this CPU, against ferry-vision.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod half;
mod host;

use std::cell::RefCell;

use ferry_cuda::picture::{PictureArgs, SourceMemory};
use ferry_vision::{Channels, Filter, Layout, PictureSpec, PixelFormat, SIDE_MAX};
use host::{Host, Picture, Place};
use proptest::prelude::*;

const FILTERS: [Filter; 2] = [Filter::Bilinear, Filter::Nearest];
const CHANNELS: [Channels; 3] = [Channels::Rgb, Channels::Bgr, Channels::Gray];
const LAYOUTS: [Layout; 2] = [Layout::Nchw, Layout::Nhwc];
const MEMORIES: [SourceMemory; 2] = [SourceMemory::Device, SourceMemory::Mapped];

/// Levels as they are: 0 to 255.
const fn levels(width: u32, height: u32, resize: Filter) -> PictureSpec {
    PictureSpec {
        width,
        height,
        layout: Layout::Nchw,
        channels: Channels::Rgb,
        resize,
        scale: 1.0,
        mean: [0.0; 3],
        std: [1.0; 3],
    }
}

/// The numbers of most models, the channels told apart.
const fn normalised(width: u32, height: u32, resize: Filter) -> PictureSpec {
    PictureSpec {
        scale: 1.0 / 255.0,
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
        ..levels(width, height, resize)
    }
}

fn args(spec: &PictureSpec, picture: &Picture, memory: SourceMemory) -> PictureArgs {
    PictureArgs::new(spec, picture.width, picture.height, picture.format, memory).unwrap()
}

/// The GPU's answer is the CPU's, bit for bit.
fn assert_same(
    host: &mut Host,
    spec: PictureSpec,
    picture: &Picture,
    memory: SourceMemory,
    place: Place,
) {
    let expected = picture.prepared(spec);
    let actual = host.picture_f32(&args(&spec, picture, memory), place, &picture.bytes);
    assert_eq!(actual.len(), expected.len());
    let bits = |(a, e): &(&f32, &f32)| a.to_bits() != e.to_bits();
    let mut wrong = actual.iter().zip(&expected).enumerate().filter(|(_, pair)| bits(pair));
    if let Some((at, (a, e))) = wrong.next() {
        let others = wrong.count();
        let (width, height, format) = (picture.width, picture.height, picture.format);
        panic!(
            "{width} x {height} {format:?} to {spec:?}, {memory:?}, {place:?}: value {at} is {a}, \
             the CPU's {e}; {others} more differ"
        );
    }
}

#[test]
fn every_format_filter_and_layout_agrees_at_every_size() {
    let mut host = Host::start();
    let sources = [(1, 1), (2, 3), (33, 17), (64, 64), (131, 97)];
    let targets = [(1, 1), (3, 2), (31, 40), (64, 64), (150, 10)];
    let mut seed = 0;
    for (width, height) in sources {
        for (to_width, to_height) in targets {
            for format in PixelFormat::ALL {
                let picture = Picture::noise(width, height, format, seed);
                for (resize, channels, layout, memory) in combinations() {
                    let spec =
                        PictureSpec { channels, layout, ..normalised(to_width, to_height, resize) };
                    assert_same(&mut host, spec, &picture, memory, Place::FLUSH);
                }
                seed += 1;
            }
        }
    }
}

fn combinations() -> impl Iterator<Item = (Filter, Channels, Layout, SourceMemory)> {
    let filters = FILTERS.into_iter();
    filters.flat_map(|filter| {
        CHANNELS.into_iter().flat_map(move |channels| {
            LAYOUTS.into_iter().flat_map(move |layout| {
                MEMORIES.into_iter().map(move |memory| (filter, channels, layout, memory))
            })
        })
    })
}

#[test]
fn the_sizes_of_models_agree() {
    let mut host = Host::start();
    let sources = [(1, 1), (2, 3), (224, 224), (500, 375), (546, 500), (1920, 1080)];
    for (n, (width, height)) in (0_u32..).zip(sources) {
        for (to_width, to_height) in [(224, 224), (520, 520)] {
            for resize in FILTERS {
                for (format, memory) in [
                    (PixelFormat::Rgb8, SourceMemory::Device),
                    (PixelFormat::Bgr8, SourceMemory::Mapped),
                    (PixelFormat::Gray8, SourceMemory::Mapped),
                ] {
                    let picture = Picture::noise(width, height, format, n.into());
                    let spec = normalised(to_width, to_height, resize);
                    assert_same(&mut host, spec, &picture, memory, Place::at(n));
                }
            }
        }
    }
}

#[test]
fn the_longest_sides_agree() {
    let mut host = Host::start();
    let long = SIDE_MAX;
    let sides = [
        (long, 2, 1, 1),
        (long, 3, 5, 3),
        (2, long, 1, 1),
        (1, long, 2, 3),
        (1, 1, long, 1),
        (1, 2, 1, long / 4),
        (long, 2, long, 1),
        (long - 1, 2, long, 3),
    ];
    for (width, height, to_width, to_height) in sides {
        for resize in FILTERS {
            for format in [PixelFormat::Rgb8, PixelFormat::Gray8] {
                let picture = Picture::noise(width, height, format, 7);
                let spec = levels(to_width, to_height, resize);
                assert_same(&mut host, spec, &picture, SourceMemory::Mapped, Place::FLUSH);
            }
        }
    }
}

#[test]
fn a_picture_may_begin_at_any_address() {
    let mut host = Host::start();
    for (width, height) in [(5, 3), (16, 9), (67, 21)] {
        for format in PixelFormat::ALL {
            let picture = Picture::noise(width, height, format, 3);
            for misfit in 0..16 {
                for resize in FILTERS {
                    for side in [7, 33] {
                        let spec = levels(side, side, resize);
                        let place = Place::at(misfit);
                        assert_same(&mut host, spec, &picture, SourceMemory::Device, place);
                    }
                }
            }
        }
    }
}

#[test]
fn a_copy_is_the_same_at_every_address_and_length() {
    let mut host = Host::start();
    let noise = Picture::noise(1031, 1031, PixelFormat::Gray8, 5).bytes;
    let mut place = Place::at(0);
    for source_misfit in 0..16 {
        for output_misfit in [0, 1, source_misfit] {
            (place.source_misfit, place.output_misfit) = (source_misfit, output_misfit);
            for len in [1, 15, 16, 17, 64, 4099] {
                assert_eq!(host.copy(place, &noise[..len]), &noise[..len], "{place:?}, {len}");
            }
        }
    }
    for len in [1, 31, 4096, 16384, 1 << 20, noise.len()] {
        assert!(host.copy(Place::FLUSH, &noise[..len]) == noise[..len], "{len} bytes, flush");
    }
}

fn pictures() -> impl Strategy<Value = Picture> {
    (1..90_u32, 1..90_u32, prop::sample::select(PixelFormat::ALL.to_vec()), any::<u64>())
        .prop_map(|(width, height, format, seed)| Picture::noise(width, height, format, seed))
}

#[test]
fn any_small_picture_agrees_within_one_level() {
    // The runner wants a closure that can be called again.
    let host = RefCell::new(Host::start());
    let strategy = (
        (pictures(), 1..90_u32, 1..90_u32, 0..16_u32),
        prop::sample::select(combinations().collect::<Vec<_>>()),
    );
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let tested = runner.run(&strategy, |((picture, width, height, misfit), how)| {
        let (resize, channels, layout, memory) = how;
        let spec = PictureSpec { channels, layout, ..levels(width, height, resize) };
        let expected = picture.prepared(spec);
        let args = args(&spec, &picture, memory);
        let actual = host.borrow_mut().picture_f32(&args, Place::at(misfit), &picture.bytes);
        prop_assert_eq!(actual.len(), expected.len());
        for (at, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
            let near = (actual - expected).abs() <= 1.0;
            prop_assert!(near, "value {} is {}, the CPU's {}", at, actual, expected);
        }
        Ok(())
    });
    if let Err(error) = tested {
        panic!("{error}");
    }
}
