//! The kernels on this CPU: `tests/host` built by the C++ compiler, and spoken to over pipes.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use ferry_cuda::copying::{Launch, copy_launch};
use ferry_cuda::picture::PictureArgs;
use ferry_vision::{PictureSpec, PixelFormat, Pixels, Preparer};

/// Where the source and the output lie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// Both end where memory ends, so that one byte too far is fatal; else both begin where it
    /// begins.
    pub(crate) flush: bool,
    /// How far the source begins behind a multiple of 16, unless flush.
    pub(crate) source_misfit: u32,
    /// The same of the output.
    pub(crate) output_misfit: u32,
}

impl Place {
    pub(crate) const FLUSH: Self = Self { flush: true, source_misfit: 0, output_misfit: 0 };

    pub(crate) const fn at(source_misfit: u32) -> Self {
        Self { flush: false, source_misfit, output_misfit: 0 }
    }
}

/// The program, running.
#[derive(Debug)]
pub(crate) struct Host {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    _folder: tempfile::TempDir,
}

impl Host {
    /// Builds the program, trapping what C++ leaves undefined, and starts it.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("host");
        let main = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host/main.cpp");
        let built = Command::new("c++")
            .args(["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"])
            .args(["-ffp-contract=off", "-U_FORTIFY_SOURCE"])
            .args(["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error", "-x", "c++"])
            .arg(main)
            .arg("-o")
            .arg(&program)
            .status()
            .expect("no C++ compiler (c++): install g++, as ./test does");
        assert!(built.success(), "the kernels do not compile for the CPU: {built}");
        let mut child =
            Command::new(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, input, output, _folder: folder }
    }

    fn launch(
        &mut self,
        kernel: u32,
        launch: Launch,
        place: Place,
        args: &[u8],
        source: &[u8],
        output_bytes: usize,
    ) -> Vec<u8> {
        let numbers = [
            kernel,
            launch.grid,
            launch.block,
            launch.shared_bytes,
            place.source_misfit,
            place.output_misfit,
            u32::from(place.flush),
            u32::try_from(args.len()).unwrap(),
        ];
        let mut order: Vec<u8> = numbers.into_iter().flat_map(u32::to_ne_bytes).collect();
        for bytes in [source.len(), output_bytes] {
            order.extend(u64::try_from(bytes).unwrap().to_ne_bytes());
        }
        let mut output = vec![0; output_bytes];
        let done = [&order, args, source]
            .into_iter()
            .try_for_each(|part| self.input.write_all(part))
            .and_then(|()| self.output.read_exact(&mut output));
        if let Err(error) = done {
            panic!("the kernel did not end well: {error}, {}", self.child.wait().unwrap());
        }
        output
    }

    pub(crate) fn picture_f32(
        &mut self,
        args: &PictureArgs,
        place: Place,
        source: &[u8],
    ) -> Vec<f32> {
        let bytes = usize::try_from(args.output_len()).unwrap() * 4;
        let output = self.launch(0, args.launch(), place, &args.to_bytes(), source, bytes);
        output.as_chunks().0.iter().map(|value| f32::from_ne_bytes(*value)).collect()
    }

    /// The bits of the binary16 values.
    pub(crate) fn picture_f16(
        &mut self,
        args: &PictureArgs,
        place: Place,
        source: &[u8],
    ) -> Vec<u16> {
        let bytes = usize::try_from(args.output_len()).unwrap() * 2;
        let output = self.launch(1, args.launch(), place, &args.to_bytes(), source, bytes);
        output.as_chunks().0.iter().map(|value| u16::from_ne_bytes(*value)).collect()
    }

    pub(crate) fn copy(&mut self, place: Place, source: &[u8]) -> Vec<u8> {
        let launch = copy_launch(u64::try_from(source.len()).unwrap()).unwrap();
        self.launch(2, launch, place, &[], source, source.len())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Between launches it waits for the next: nothing is lost.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A picture of noise.
#[derive(Debug, Clone)]
pub(crate) struct Picture {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) format: PixelFormat,
    pub(crate) bytes: Vec<u8>,
}

impl Picture {
    pub(crate) fn noise(width: u32, height: u32, format: PixelFormat, seed: u64) -> Self {
        let len = usize::try_from(width * height * format.bytes()).unwrap();
        // xorshift64*: never zero, whatever the seed.
        let mut state = seed.wrapping_mul(2).wrapping_add(1);
        let bytes = (0..len)
            .map(|_| {
                state ^= state >> 12;
                state ^= state << 25;
                state ^= state >> 27;
                // A quarter each black and white, for the extremes.
                match state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_be_bytes() {
                    [0..64, ..] => 0,
                    [64..128, ..] => 255,
                    [_, value, ..] => value,
                }
            })
            .collect();
        Self { width, height, format, bytes }
    }

    /// What the CPU makes of it.
    pub(crate) fn prepared(&self, spec: PictureSpec) -> Vec<f32> {
        let mut preparer = Preparer::new(spec).unwrap();
        let mut out = vec![0.0; preparer.output_len()];
        let pixels = Pixels::new(self.width, self.height, self.format, &self.bytes).unwrap();
        preparer.prepare(pixels, &mut out).unwrap();
        out
    }
}
