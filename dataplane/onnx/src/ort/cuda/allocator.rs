//! Gives ONNX Runtime memory of the arena that the calling thread names.
//!
//! The library asks one allocator per kind of memory, registered with the process's environment.
//! Which arena it draws from is a matter of what the library is doing: loading weights, trying out
//! algorithms, or recording a stream's graph. [`with_arena`] and [`with_pins`] say so for the
//! calling thread.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::ffi::c_void;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use ferry_core::error_text;
use ferry_cuda::{Arena, Device};
use ferry_engine::contained;
use ort::AsPointer;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::sys::{ORT_API_VERSION, OrtAllocator, OrtMemoryInfo};

use super::pins::Pins;
use crate::ort::native::check;
use crate::runtime::Opened;

/// Where blocks come from: memory of a device, or of the host.
trait Source: Send + Sync {
    /// The address of at least `bytes` bytes, or why there are none.
    fn allocate(&self, bytes: usize) -> Result<u64, String>;

    /// Takes a block back; false if it is not one that was given out.
    fn free(&self, address: u64) -> bool;
}

impl Source for Arena {
    fn allocate(&self, bytes: usize) -> Result<u64, String> {
        Arena::allocate(self, bytes).map_err(|error| error.to_string())
    }

    fn free(&self, address: u64) -> bool {
        Arena::free(self, address)
    }
}

impl Source for Pins {
    fn allocate(&self, bytes: usize) -> Result<u64, String> {
        Pins::allocate(self, bytes).map_err(|error| error_text(&error))
    }

    fn free(&self, address: u64) -> bool {
        Pins::free(self, address)
    }
}

/// A kind of memory: an allocator of its own.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Device,
    Host,
}

/// Blocks that were given out, by address, which host and devices share. A source lives as long as
/// any block of it.
static OWNERS: LazyLock<Mutex<HashMap<u64, Arc<dyn Source>>>> = LazyLock::new(Mutex::default);

/// Devices with allocators.
static REGISTERED: LazyLock<Mutex<HashSet<u32>>> = LazyLock::new(Mutex::default);

thread_local! {
    /// By [`Kind`].
    static CURRENT: RefCell<[Option<Arc<dyn Source>>; 2]> = const { RefCell::new([None, None]) };
}

/// What the library is given. It lives as long as the process, as the environment does.
#[repr(C)]
struct Allocator {
    /// First: the library knows the address of this field, and gives it back as `this`.
    table: OrtAllocator,
    memory: MemoryInfo<'static>,
    kind: Kind,
    /// What is asked for outside [`with_arena`] or [`with_pins`].
    stray: Arc<dyn Source>,
}

/// Runs `work`, during which the library's device memory for this thread comes from `arena`.
pub(super) fn with_arena<R>(arena: &Arc<Arena>, work: impl FnOnce() -> R) -> R {
    with(Kind::Device, Arc::clone(arena) as Arc<dyn Source>, work)
}

/// Runs `work`, during which the library's pinned memory for this thread comes from `pins`.
pub(super) fn with_pins<R>(pins: &Arc<Pins>, work: impl FnOnce() -> R) -> R {
    with(Kind::Host, Arc::clone(pins) as Arc<dyn Source>, work)
}

fn with<R>(kind: Kind, source: Arc<dyn Source>, work: impl FnOnce() -> R) -> R {
    struct Restore(Kind, Option<Arc<dyn Source>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            let before = self.1.take();
            CURRENT.with_borrow_mut(|current| current[self.0 as usize] = before);
        }
    }
    let before = CURRENT.with_borrow_mut(|current| current[kind as usize].replace(source));
    let _restore = Restore(kind, before);
    work()
}

/// Registers the allocators of a device, once per process.
pub(super) fn register(library: &Opened, device: &Arc<Device>) -> ort::Result<()> {
    let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
    if registered.contains(&device.ordinal()) {
        return Ok(());
    }
    let ordinal = i32::try_from(device.ordinal()).map_err(ort::Error::wrap)?;
    let memory = |name, kind| MemoryInfo::new(name, ordinal, AllocatorType::Device, kind);
    let host = memory(AllocationDevice::CUDA_PINNED, MemoryType::CPUOutput)?;
    let on_device = memory(AllocationDevice::CUDA, MemoryType::Default)?;
    register_one(library, Kind::Host, host, Arc::new(Pins::new(device)))?;
    register_one(library, Kind::Device, on_device, Arc::new(Arena::new(device)))?;
    registered.insert(device.ordinal());
    Ok(())
}

fn register_one(
    library: &Opened,
    kind: Kind,
    memory: MemoryInfo<'static>,
    stray: Arc<dyn Source>,
) -> ort::Result<()> {
    let allocator = Box::new(Allocator {
        table: OrtAllocator {
            version: ORT_API_VERSION,
            Alloc: Some(allocate),
            Free: Some(free),
            Info: Some(info),
            Reserve: Some(reserve),
            GetStats: None,
            AllocOnStream: None,
        },
        memory,
        kind,
        stray,
    });
    let allocator = Box::into_raw(allocator);
    // SAFETY: the environment lives as long as the process, and so does the allocator, which is
    // never freed. Its first field is the table, at the same address.
    check(unsafe {
        (ort::api().RegisterAllocator)(
            library.environment.ptr().cast_mut(),
            allocator.cast::<OrtAllocator>(),
        )
    })
}

unsafe extern "system" fn allocate(this: *mut OrtAllocator, bytes: usize) -> *mut c_void {
    // SAFETY: the library passes the address that it was given: our `Allocator`, which lives as
    // long as the process and is not changed.
    let this = unsafe { &*this.cast::<Allocator>() };
    contained(std::ptr::null_mut(), || give(this, bytes))
}

unsafe extern "system" fn reserve(this: *const OrtAllocator, bytes: usize) -> *mut c_void {
    // SAFETY: as in `allocate`.
    let this = unsafe { &*this.cast::<Allocator>() };
    contained(std::ptr::null_mut(), || give(this, bytes))
}

/// A block, or null, which the library reports as "out of memory".
fn give(this: &Allocator, bytes: usize) -> *mut c_void {
    // Nobody has named one where the thread is ending already.
    let current = CURRENT.try_with(|current| current.borrow()[this.kind as usize].clone());
    let source = current.ok().flatten().unwrap_or_else(|| Arc::clone(&this.stray));
    match source.allocate(bytes) {
        Ok(address) => {
            let mut owners = OWNERS.lock().unwrap_or_else(PoisonError::into_inner);
            owners.insert(address, source);
            std::ptr::without_provenance_mut(usize::try_from(address).unwrap_or(0))
        }
        Err(error) => {
            tracing::error!(bytes, error, kind = ?this.kind, "no memory for ONNX Runtime");
            std::ptr::null_mut()
        }
    }
}

unsafe extern "system" fn free(_this: *mut OrtAllocator, block: *mut c_void) {
    contained((), || take_back(block));
}

fn take_back(block: *mut c_void) {
    if block.is_null() {
        return;
    }
    let address = block.addr() as u64;
    let mut owners = OWNERS.lock().unwrap_or_else(PoisonError::into_inner);
    let owner = owners.remove(&address);
    drop(owners);
    // The source goes here, if this was its last block and nobody else holds it.
    if !owner.is_some_and(|source| source.free(address)) {
        tracing::error!(address, "ONNX Runtime frees memory that it was not given");
    }
}

unsafe extern "system" fn info(this: *const OrtAllocator) -> *const OrtMemoryInfo {
    // SAFETY: as in `allocate`.
    let this = unsafe { &*this.cast::<Allocator>() };
    this.memory.ptr()
}
