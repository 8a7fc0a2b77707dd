//! A model's input made of a raw picture on the GPU: what the kernels are told, and how they are
//! launched. Plain numbers; nothing here talks to a device.
//!
//! [`PICTURE_SOURCE`] holds `ferry_picture_f32` and `ferry_picture_f16`, which do in one launch
//! what [`ferry_vision::Preparer`] does on a CPU, and give the same `f32` to the bit (the same
//! rounded to binary16): the tests compile them for the CPU and compare. NVRTC compiles them without
//! headers; `--use_fast_math` must stay off.
//!
//! # What it costs
//!
//! A block makes `R` rows of the output, reads each source row that those need once, in 16-byte
//! loads, and keeps `R` rows of bytes in shared memory. Where the picture is reduced, a source row
//! belongs to the windows of two output rows, so that the source is read (1 + 1 / R) times: `R` is 2 for [`SourceMemory::Device`], where the L2 cache serves the
//! second reading and many blocks matter, and 8 for [`SourceMemory::Mapped`], where each reading
//! crosses PCIe. Bytes moved (RGB to 3 planes of `f32`), and the time that these take on an H100
//! at 3 TB/s of device memory or 50 GB/s of PCIe. Estimates: nothing here was measured.
//!
//! | | source read, `R` = 2 / 8 | written | device | mapped |
//! |---|---|---|---|---|
//! | 500 × 546 → 224 × 224 | 1.2 / 0.9 MB | 0.6 MB | 0.6 µs | 18 µs |
//! | 1920 × 1080 → 520 × 520 | 9.3 / 7.0 MB | 3.2 MB | 4 µs | 140 µs |
//!
//! From device memory the launch and a handful of dependent loads (about 0.6 µs each) and the
//! arithmetic outweigh the bytes: expect 5 to 10 µs for the first row of the table. The kernel
//! takes 103 registers a thread on `sm_90`, so that an H100 runs two blocks of 256 threads on each
//! of its 132 multiprocessors. A thread has 64 bytes under way, a multiprocessor 32 KB (PCIe needs
//! about 75 KB on the whole device, 50 GB/s × 1.5 µs; device memory 15 KB on each multiprocessor).
//! A picture of 500 × 546 is 28 blocks with `R` = 8, 94 of whose threads load: 168 KB.
//!
//! The nearest filter repeats the CPU's running sum of row positions, up to one addition a row of
//! the output above the block's: 2 to 3 µs for 520 rows.

mod precision;

use ferry_vision::{
    Channels, Filter, Layout, Numbers, PictureSpec, PixelFormat, SIDE_MAX, SpecError,
};
use precision::precision;

use crate::copying::{BLOCK, Launch};

/// The CUDA C++ of [`PICTURE_F32`] and [`PICTURE_F16`], one text for NVRTC. Their parameters: the
/// address of the picture's first byte (any alignment), the address of the tensor's first value
/// (aligned for its type), and [`PictureArgs`] by value.
pub const PICTURE_SOURCE: &str =
    concat!(include_str!("kernels/fold.cu"), include_str!("kernels/picture.cu"));
/// The kernel that writes `f32`.
pub const PICTURE_F32: &str = "ferry_picture_f32";
/// The kernel that writes IEEE binary16.
pub const PICTURE_F16: &str = "ferry_picture_f16";

/// What a block may have of shared memory without asking the driver, in bytes: the widest RGB
/// picture's row exactly.
const SHARED_BYTES_MAX: u32 = 48 << 10;
const _: () = assert!(SIDE_MAX * 3 <= SHARED_BYTES_MAX);
/// Output rows of a block that reads device memory, mapped host memory.
const ROWS_DEVICE: u32 = 2;
const ROWS_MAPPED: u32 = 8;

/// Where the picture lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceMemory {
    /// The device's own memory.
    Device,
    /// Host memory that the device reads over PCIe.
    Mapped,
}

/// The picture kernels' third parameter, laid out as the CUDA C++ has it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PictureArgs {
    source_width: u32,
    source_height: u32,
    source_channels: u32,
    width: u32,
    height: u32,
    channels: u32,
    nearest: u32,
    swap: u32,
    planar: u32,
    precision_x: u32,
    precision_y: u32,
    rows: u32,
    factor: [f32; 3],
    offset: [f32; 3],
}

impl PictureArgs {
    /// What the kernel needs to know to make the input that `spec` describes of a picture of
    /// `width` × `height` pixels of `format`.
    ///
    /// It takes microseconds, in proportion to the output's sides, where the picture is reduced:
    /// keep it for the next picture of the same size, as [`PicturePlan`] does.
    ///
    /// # Errors
    /// A side of the picture is out of bounds, or the model's wish makes no sense.
    pub fn new(
        spec: &PictureSpec,
        width: u32,
        height: u32,
        format: PixelFormat,
        memory: SourceMemory,
    ) -> Result<Self, PictureError> {
        spec.validate()?;
        let sides = 1..=SIDE_MAX;
        if !sides.contains(&width) || !sides.contains(&height) {
            return Err(PictureError::Side { width, height });
        }
        let PictureSpec { scale, mean, std, .. } = *spec;
        let rows = match memory {
            SourceMemory::Device => ROWS_DEVICE,
            SourceMemory::Mapped => ROWS_MAPPED,
        };
        let fit = SHARED_BYTES_MAX / row_bytes_folded(width, format.bytes());
        let blue_first = format == PixelFormat::Bgr8;
        Ok(Self {
            source_width: width,
            source_height: height,
            source_channels: format.bytes(),
            width: spec.width,
            height: spec.height,
            channels: if spec.channels == Channels::Gray { 1 } else { 3 },
            nearest: u32::from(spec.resize == Filter::Nearest),
            swap: u32::from(blue_first != (spec.channels == Channels::Bgr)),
            planar: u32::from(spec.layout == Layout::Nchw),
            precision_x: precision(width, spec.width),
            precision_y: precision(height, spec.height),
            rows: rows.min(fit),
            factor: std::array::from_fn(|c| scale / std[c]),
            offset: std::array::from_fn(|c| -mean[c] / std[c]),
        })
    }

    /// The bytes of this structure, in the order in which the kernel reads them.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; size_of::<Self>()] {
        let numbers = [
            self.source_width,
            self.source_height,
            self.source_channels,
            self.width,
            self.height,
            self.channels,
            self.nearest,
            self.swap,
            self.planar,
            self.precision_x,
            self.precision_y,
            self.rows,
        ];
        let affine = self.factor.into_iter().chain(self.offset).map(f32::to_bits);
        let mut bytes = [0; size_of::<Self>()];
        for (to, from) in
            bytes.as_chunks_mut::<4>().0.iter_mut().zip(numbers.into_iter().chain(affine))
        {
            *to = from.to_ne_bytes();
        }
        bytes
    }

    /// How the picture kernels are launched.
    #[must_use]
    pub const fn launch(&self) -> Launch {
        Launch {
            grid: self.height.div_ceil(self.rows),
            block: BLOCK,
            shared_bytes: self.rows * row_bytes_folded(self.source_width, self.source_channels),
        }
    }

    /// The bytes that the kernel may read, from the picture's address on.
    #[must_use]
    pub fn source_bytes(&self) -> u64 {
        u64::from(self.source_width)
            * u64::from(self.source_height)
            * u64::from(self.source_channels)
    }

    /// The values that the kernel writes, all of them, from the tensor's address on.
    #[must_use]
    pub fn output_len(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height) * u64::from(self.channels)
    }
}

/// One picture for one of the picture kernels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PictureStep {
    /// What the kernel is told.
    pub args: PictureArgs,
    /// Which kernel: that of the numbers that it writes.
    pub numbers: Numbers,
}

impl PictureStep {
    /// The bytes that the kernel writes, all of them, from the tensor's address on.
    #[must_use]
    pub fn output_bytes(&self) -> u64 {
        self.args.output_len() * self.numbers.dtype().bytes()
    }
}

/// What one row of the source takes in shared memory, in bytes: whole chunks of 16.
const fn row_bytes_folded(width: u32, channels: u32) -> u32 {
    (width * channels).next_multiple_of(16)
}

/// The arguments for one model and one place, remembered for pictures of the same size.
#[derive(Debug)]
pub struct PicturePlan {
    spec: PictureSpec,
    memory: SourceMemory,
    last: Option<(u32, u32, PixelFormat, PictureArgs)>,
}

impl PicturePlan {
    /// A plan without a picture yet.
    ///
    /// # Errors
    /// The model's wish makes no sense.
    pub fn new(spec: PictureSpec, memory: SourceMemory) -> Result<Self, PictureError> {
        spec.validate()?;
        Ok(Self { spec, memory, last: None })
    }

    /// [`PictureArgs::new`], or what it said last time for the same picture.
    ///
    /// # Errors
    /// A side of the picture is out of bounds.
    pub fn args(
        &mut self,
        width: u32,
        height: u32,
        format: PixelFormat,
    ) -> Result<PictureArgs, PictureError> {
        match self.last {
            Some((w, h, f, args)) if (w, h, f) == (width, height, format) => Ok(args),
            _ => {
                let args = PictureArgs::new(&self.spec, width, height, format, self.memory)?;
                self.last = Some((width, height, format, args));
                Ok(args)
            }
        }
    }
}

/// Why no input can be made of a picture.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PictureError {
    /// A side is zero or too long. The fix is the client's.
    #[error("a picture of {width} x {height}: each side must be 1 to {SIDE_MAX} pixels")]
    Side {
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// The model's wish makes no sense. The fix is in the model's description.
    #[error("the model's picture cannot be made")]
    Spec(#[from] SpecError),
}
