//! What the kernels are told: bounds, refusals, and what is remembered.

use ferry_cuda::copying::copy_launch;
use ferry_cuda::picture::{PictureArgs, PictureError, PicturePlan, PictureStep, SourceMemory};
use ferry_vision::{
    Channels, Filter, Layout, Numbers, PictureSpec, PixelFormat, SIDE_MAX, SpecError,
};

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

#[test]
fn launches_are_bounded() {
    assert_eq!(copy_launch(0), None);
    assert_eq!(copy_launch(1).unwrap().grid, 1);
    assert_eq!(copy_launch(u64::MAX).unwrap().grid, 64);
    for width in [1, 5, 500, 8192, 8193, SIDE_MAX] {
        for height in [1, 224, SIDE_MAX] {
            for (format, memory) in PixelFormat::ALL.into_iter().zip(MEMORIES) {
                let spec = levels(height, width, Filter::Bilinear);
                let args = PictureArgs::new(&spec, width, height, format, memory).unwrap();
                let launch = args.launch();
                assert!(launch.grid >= 1 && launch.grid <= spec.height, "{launch:?}");
                let shared = width * format.bytes()..=48 << 10;
                assert!(shared.contains(&launch.shared_bytes), "{launch:?}");
            }
        }
    }
}

#[test]
fn a_step_writes_as_many_bytes_as_its_numbers_take() {
    for (channels, values) in [(Channels::Rgb, 3 * 35), (Channels::Gray, 35)] {
        let spec = PictureSpec { channels, ..levels(7, 5, Filter::Nearest) };
        let args = PictureArgs::new(&spec, 99, 3, PixelFormat::Bgr8, SourceMemory::Device).unwrap();
        for (numbers, bytes) in [(Numbers::F32, 4), (Numbers::F16, 2)] {
            assert_eq!(PictureStep { args, numbers }.output_bytes(), values * bytes);
        }
    }
}

#[test]
fn nonsense_is_named() {
    let spec = levels(4, 4, Filter::Bilinear);
    for (width, height) in [(0, 1), (1, 0), (SIDE_MAX + 1, 1), (1, u32::MAX)] {
        let made = PictureArgs::new(&spec, width, height, PixelFormat::Rgb8, SourceMemory::Device);
        assert_eq!(made, Err(PictureError::Side { width, height }));
    }
    let spec = PictureSpec { width: 0, ..spec };
    let made = PictureArgs::new(&spec, 4, 4, PixelFormat::Rgb8, SourceMemory::Device);
    let expected = SpecError::Side { width: 0, height: 4 };
    assert_eq!(made, Err(PictureError::Spec(expected)));
    let plan = PicturePlan::new(spec, SourceMemory::Device);
    assert_eq!(plan.unwrap_err(), PictureError::Spec(expected));
}

#[test]
fn a_plan_remembers_one_picture_and_mistakes_no_other_for_it() {
    let spec = levels(7, 9, Filter::Bilinear);
    let mut plan = PicturePlan::new(spec, SourceMemory::Mapped).unwrap();
    let (rgb, grey) = (PixelFormat::Rgb8, PixelFormat::Gray8);
    let pictures = [(40, 30, rgb), (40, 30, rgb), (30, 40, rgb), (30, 40, grey), (40, 30, rgb)];
    for (width, height, format) in pictures {
        let fresh = PictureArgs::new(&spec, width, height, format, SourceMemory::Mapped);
        assert_eq!(plan.args(width, height, format), fresh);
    }
    assert!(plan.args(0, 30, rgb).is_err());
}
