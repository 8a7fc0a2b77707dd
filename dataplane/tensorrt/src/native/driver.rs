//! Whether there is a driver of CUDA that answers.
//!
//! Asked before TensorRT is: where there is none, TensorRT hands out a runtime that ends the
//! process when it is dropped. What works with the driver is behind [`Gpu`](crate::Gpu).

use std::sync::OnceLock;

use libloading::Library;
use libloading::os::unix::{Library as UnixLibrary, RTLD_LAZY, RTLD_LOCAL};

use super::library::with_sources;

/// `CUDA_SUCCESS`.
const SUCCESS: i32 = 0;

/// Never closed: the driver keeps threads of its own.
static DRIVER: OnceLock<Library> = OnceLock::new();

/// Starts the driver and counts the devices; an error says what is missing. A failure is not
/// remembered.
pub(crate) fn check() -> Result<(), String> {
    let library = driver()?;
    // SAFETY: declared `CUresult cuInit(unsigned int)` in cuda.h; CUresult is an int.
    let init = unsafe { library.get::<unsafe extern "C" fn(u32) -> i32>("cuInit") };
    let init = init.map_err(|error| with_sources(&error))?;
    // SAFETY: 0 is the only value that it takes; it may be called any number of times.
    let status = unsafe { init(0) };
    if status != SUCCESS {
        return Err(format!("the driver does not start (cuInit gives {status})"));
    }
    // SAFETY: declared `CUresult cuDeviceGetCount(int *)`.
    let count = unsafe { library.get::<unsafe extern "C" fn(*mut i32) -> i32>("cuDeviceGetCount") };
    let count = count.map_err(|error| with_sources(&error))?;
    let mut devices = 0;
    // SAFETY: the driver was started, and writes one int to an address that is one.
    let status = unsafe { count(&raw mut devices) };
    if status != SUCCESS || devices < 1 {
        return Err("the driver finds no device".to_owned());
    }
    Ok(())
}

fn driver() -> Result<&'static Library, String> {
    if let Some(library) = DRIVER.get() {
        return Ok(library);
    }
    // SAFETY: the driver's library, from where the system's loader finds it; its start-up code has
    // no preconditions, and every process that uses a GPU runs it.
    let library = unsafe { UnixLibrary::open(Some("libcuda.so.1"), RTLD_LAZY | RTLD_LOCAL) };
    let library = library.map_err(|error| with_sources(&error))?;
    Ok(DRIVER.get_or_init(|| library.into()))
}
