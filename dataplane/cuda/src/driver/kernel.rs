//! The kernels of this crate, compiled for a device when they are first asked for.

use std::ffi::{CStr, CString, c_void};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use cudarc::driver::sys;
use cudarc::nvrtc::sys as nvrtc;

use super::device::Device;
use super::error::{CudaError, check, not_freed};
use super::stream::{Handle, Stream};
use crate::copying::{COPY, COPY_SOURCE, Launch, copy_launch};
#[cfg(feature = "pictures")]
use crate::picture::{PICTURE_F16, PICTURE_F32, PICTURE_SOURCE, PictureStep};

/// The kernels, loaded on one device.
#[derive(Debug)]
pub struct Kernels {
    modules: Modules,
    copy: Handle<sys::CUfunction>,
    #[cfg(feature = "pictures")]
    pictures: Pictures,
}

/// The kernels that make a model's input.
#[cfg(feature = "pictures")]
#[derive(Debug)]
struct Pictures {
    f32: Handle<sys::CUfunction>,
    f16: Handle<sys::CUfunction>,
}

/// Why there are no kernels.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// The compiler's library is not there.
    #[error(
        "libnvrtc is not found, so that kernels cannot be compiled: install the Python package \
         nvidia-cuda-nvrtc or CUDA, or name its folder by --cuda-libraries"
    )]
    Missing,
    /// The compiler refused.
    #[error("{call}: NVRTC result {code}: {log}")]
    Compile {
        /// The call's name.
        call: &'static str,
        /// The number of the `nvrtcResult`.
        code: u32,
        /// What it printed.
        log: String,
    },
    /// The driver refused.
    #[error(transparent)]
    Driver(#[from] CudaError),
}

impl Kernels {
    /// The kernels of a device, compiled once while anybody uses them. Takes up to a second.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn of(device: &Arc<Device>) -> Result<Arc<Kernels>, KernelError> {
        static LOADED: Mutex<Vec<Weak<Kernels>>> = Mutex::new(Vec::new());
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.retain(|kernels| kernels.strong_count() > 0);
        let known = loaded.iter().filter_map(Weak::upgrade);
        if let Some(kernels) = known.into_iter().find(|it| Arc::ptr_eq(&it.modules.device, device))
        {
            return Ok(kernels);
        }
        let kernels = Arc::new(Kernels::load(device)?);
        loaded.push(Arc::downgrade(&kernels));
        Ok(kernels)
    }

    fn load(device: &Arc<Device>) -> Result<Kernels, KernelError> {
        // SAFETY: opens the compiler's library, whose start-up code has no other effect.
        if !unsafe { nvrtc::is_culib_present() } {
            return Err(KernelError::Missing);
        }
        let (major, minor) = device.attributes().capability;
        let target = format!("--gpu-architecture=sm_{major}{minor}");
        let mut modules = Modules { device: Arc::clone(device), loaded: Vec::new() };
        let copy = modules.load(&compile(COPY_SOURCE, &target)?)?;
        #[cfg(feature = "pictures")]
        let pictures = {
            let pictures = modules.load(&compile(PICTURE_SOURCE, &target)?)?;
            Pictures {
                f32: function(&pictures, PICTURE_F32)?,
                f16: function(&pictures, PICTURE_F16)?,
            }
        };
        Ok(Kernels {
            copy: function(&copy, COPY)?,
            #[cfg(feature = "pictures")]
            pictures,
            modules,
        })
    }

    /// Adds a copy of `bytes` bytes by a kernel, of which one side may be mapped host memory.
    ///
    /// # Errors
    /// What the driver says.
    ///
    /// # Safety
    /// As [`Stream::copy`]; the ranges do not overlap.
    pub(crate) unsafe fn copy(
        &self,
        stream: &Stream,
        to: u64,
        from: u64,
        bytes: usize,
    ) -> Result<(), CudaError> {
        let bytes = bytes as u64;
        let Some(launch) = copy_launch(bytes) else { return Ok(()) };
        let mut parameters = [pointer(&from), pointer(&to), pointer(&bytes)];
        // SAFETY: the parameters are those of the kernel, in its order; the rest is the caller's
        // argument.
        unsafe { self.launch(&self.copy, stream, launch, &mut parameters) }
    }

    /// Adds the making of a model's input of a raw picture.
    ///
    /// # Errors
    /// What the driver says.
    ///
    /// # Safety
    /// From `from` on, [`PictureArgs::source_bytes`](crate::picture::PictureArgs::source_bytes) bytes are mapped for reading, and from `to`
    /// on, [`PictureStep::output_bytes`] for writing, aligned for its numbers, until the work is
    /// done.
    #[cfg(feature = "pictures")]
    pub(crate) unsafe fn picture(
        &self,
        stream: &Stream,
        to: u64,
        from: u64,
        picture: &PictureStep,
    ) -> Result<(), CudaError> {
        use ferry_vision::Numbers;

        let kernel = match picture.numbers {
            Numbers::F32 => &self.pictures.f32,
            Numbers::F16 => &self.pictures.f16,
        };
        let args = &picture.args;
        let mut parameters = [pointer(&from), pointer(&to), pointer(args)];
        // SAFETY: as in `copy`; `PictureArgs` is laid out as both kernels have it.
        unsafe { self.launch(kernel, stream, args.launch(), &mut parameters) }
    }

    /// # Safety
    /// The parameters are those of the function, and what they name is mapped until it is done.
    unsafe fn launch(
        &self,
        function: &Handle<sys::CUfunction>,
        stream: &Stream,
        launch: Launch,
        parameters: &mut [*mut c_void],
    ) -> Result<(), CudaError> {
        self.modules.device.bind()?;
        // SAFETY: function and stream are alive and of one device; the driver copies the
        // parameters before it returns; the rest is the caller's argument.
        let launched = unsafe {
            sys::cuLaunchKernel(
                function.0,
                launch.grid,
                1,
                1,
                launch.block,
                1,
                1,
                launch.shared_bytes,
                stream.raw(),
                parameters.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        check("cuLaunchKernel", launched)
    }
}

/// Where a kernel's parameter lies.
fn pointer<T>(value: &T) -> *mut c_void {
    std::ptr::from_ref(value).cast::<c_void>().cast_mut()
}

/// Modules that are loaded on a device.
#[derive(Debug)]
struct Modules {
    device: Arc<Device>,
    loaded: Vec<Handle<sys::CUmodule>>,
}

impl Modules {
    fn load(&mut self, image: &[u8]) -> Result<Handle<sys::CUmodule>, CudaError> {
        let module = load(&self.device, image)?;
        self.loaded.push(module);
        Ok(module)
    }
}

impl Drop for Modules {
    fn drop(&mut self) {
        if self.device.bind().is_err() {
            return;
        }
        for module in &self.loaded {
            // SAFETY: loaded once, unloaded once; work that uses it held these kernels.
            let unloaded = unsafe { sys::cuModuleUnload(module.0) };
            if let Err(error) = check("cuModuleUnload", unloaded) {
                not_freed(&error, "kernels");
            }
        }
    }
}

fn load(device: &Device, image: &[u8]) -> Result<Handle<sys::CUmodule>, CudaError> {
    device.bind()?;
    let mut module = std::ptr::null_mut();
    // SAFETY: the image is a whole cubin, which the driver copies; a place of ours.
    let loaded = unsafe { sys::cuModuleLoadData(&raw mut module, image.as_ptr().cast()) };
    check("cuModuleLoadData", loaded)?;
    Ok(Handle(module))
}

fn function(
    module: &Handle<sys::CUmodule>,
    name: &str,
) -> Result<Handle<sys::CUfunction>, CudaError> {
    let name = CString::new(name).unwrap_or_default();
    let mut function = std::ptr::null_mut();
    // SAFETY: the module is loaded, the name ends in NUL, a place of ours.
    let got = unsafe { sys::cuModuleGetFunction(&raw mut function, module.0, name.as_ptr()) };
    check("cuModuleGetFunction", got)?;
    Ok(Handle(function))
}

/// Machine code for one architecture: unlike PTX, a driver older than the compiler takes it.
fn compile(source: &str, target: &str) -> Result<Vec<u8>, KernelError> {
    let source = CString::new(source).unwrap_or_default();
    let target = CString::new(target).unwrap_or_default();
    let mut program = Program(std::ptr::null_mut());
    // SAFETY: a text that ends in NUL and is copied; no headers; a place of ours.
    let made = unsafe {
        nvrtc::nvrtcCreateProgram(
            &raw mut program.0,
            source.as_ptr(),
            c"ferry.cu".as_ptr(),
            0,
            std::ptr::null(),
            std::ptr::null(),
        )
    };
    program.check("nvrtcCreateProgram", made)?;
    let options = [target.as_ptr(), c"--std=c++17".as_ptr()];
    // SAFETY: as many options as said, each ending in NUL.
    let compiled = unsafe { nvrtc::nvrtcCompileProgram(program.0, 2, options.as_ptr()) };
    program.check("nvrtcCompileProgram", compiled)?;
    let mut bytes = 0;
    // SAFETY: a place of ours.
    let got = unsafe { nvrtc::nvrtcGetCUBINSize(program.0, &raw mut bytes) };
    program.check("nvrtcGetCUBINSize", got)?;
    let mut image = vec![0_u8; bytes];
    // SAFETY: room for as many bytes as said.
    let got = unsafe { nvrtc::nvrtcGetCUBIN(program.0, image.as_mut_ptr().cast()) };
    program.check("nvrtcGetCUBIN", got)?;
    Ok(image)
}

/// A program in the compiler's hands.
struct Program(nvrtc::nvrtcProgram);

impl Program {
    fn check(&self, call: &'static str, result: nvrtc::nvrtcResult) -> Result<(), KernelError> {
        if result == nvrtc::nvrtcResult::NVRTC_SUCCESS {
            return Ok(());
        }
        Err(KernelError::Compile { call, code: result as u32, log: self.log() })
    }

    fn log(&self) -> String {
        let mut bytes = 0;
        // SAFETY: a place of ours.
        let got = unsafe { nvrtc::nvrtcGetProgramLogSize(self.0, &raw mut bytes) };
        if self.0.is_null() || got != nvrtc::nvrtcResult::NVRTC_SUCCESS {
            return String::new();
        }
        let mut log = vec![0_u8; bytes.max(1)];
        // SAFETY: room for as many bytes as said.
        let _got = unsafe { nvrtc::nvrtcGetProgramLog(self.0, log.as_mut_ptr().cast()) };
        let text = CStr::from_bytes_until_nul(&log).unwrap_or_default();
        text.to_string_lossy().split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: made once, destroyed once.
            let _done = unsafe { nvrtc::nvrtcDestroyProgram(&raw mut self.0) };
        }
    }
}
