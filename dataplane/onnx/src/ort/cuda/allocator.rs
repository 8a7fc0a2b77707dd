//! Gives ONNX Runtime device memory of the arena that the calling thread names.
//!
//! The library asks one allocator per device, registered with the process's environment. Which
//! arena it draws from is a matter of what the library is doing: loading weights, trying out
//! algorithms, or recording a stream's graph. [`with_arena`] says so for the calling thread.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use ferry_cuda::{Arena, Device};
use ferry_engine::contained;
use ort::AsPointer;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::sys::{ORT_API_VERSION, OrtAllocator, OrtMemoryInfo};

use crate::runtime::Opened;

/// Blocks that were given out, by address. An arena lives as long as any block of it.
static OWNERS: LazyLock<Mutex<HashMap<u64, Arc<Arena>>>> = LazyLock::new(Mutex::default);

/// Devices with an allocator, and the arena of what is asked for outside [`with_arena`].
static REGISTERED: LazyLock<Mutex<HashMap<u32, Arc<Arena>>>> = LazyLock::new(Mutex::default);

thread_local! {
    static CURRENT: RefCell<Option<Arc<Arena>>> = const { RefCell::new(None) };
}

/// What the library is given. It lives as long as the process, as the environment does.
#[repr(C)]
struct Allocator {
    /// First: the library knows the address of this field, and gives it back as `this`.
    table: OrtAllocator,
    memory: MemoryInfo<'static>,
    stray: Arc<Arena>,
}

/// Runs `work`, during which the library's device memory for this thread comes from `arena`.
pub(super) fn with_arena<R>(arena: &Arc<Arena>, work: impl FnOnce() -> R) -> R {
    struct Restore(Option<Arc<Arena>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(self.0.take());
        }
    }
    let before = CURRENT.replace(Some(Arc::clone(arena)));
    let _restore = Restore(before);
    work()
}

/// Registers the allocator of a device, once per process.
pub(super) fn register(library: &Opened, device: &Arc<Device>) -> ort::Result<()> {
    let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
    if registered.contains_key(&device.ordinal()) {
        return Ok(());
    }
    let ordinal = i32::try_from(device.ordinal()).map_err(ort::Error::wrap)?;
    let stray = Arc::new(Arena::new(device));
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
        memory: MemoryInfo::new(
            AllocationDevice::CUDA,
            ordinal,
            AllocatorType::Device,
            MemoryType::Default,
        )?,
        stray: Arc::clone(&stray),
    });
    let allocator = Box::into_raw(allocator);
    // SAFETY: the environment lives as long as the process, and so does the allocator, which is
    // never freed. Its first field is the table, at the same address.
    let status = unsafe {
        (ort::api().RegisterAllocator)(
            library.environment.ptr().cast_mut(),
            allocator.cast::<OrtAllocator>(),
        )
    };
    // SAFETY: the status was just given to us by the C API and nobody else owns it.
    unsafe { ort::Error::result_from_status(status) }?;
    registered.insert(device.ordinal(), stray);
    Ok(())
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
    let current = CURRENT.try_with(|current| current.borrow().clone()).ok().flatten();
    let arena = current.unwrap_or_else(|| Arc::clone(&this.stray));
    match arena.allocate(bytes) {
        Ok(address) => {
            let mut owners = OWNERS.lock().unwrap_or_else(PoisonError::into_inner);
            owners.insert(address, arena);
            std::ptr::without_provenance_mut(usize::try_from(address).unwrap_or(0))
        }
        Err(error) => {
            tracing::error!(bytes, %error, "no device memory for ONNX Runtime");
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
    // The arena goes here, if this was its last block and nobody else holds it.
    if !owner.is_some_and(|arena| arena.free(address)) {
        tracing::error!(address, "ONNX Runtime frees device memory that it was not given");
    }
}

unsafe extern "system" fn info(this: *const OrtAllocator) -> *const OrtMemoryInfo {
    // SAFETY: as in `allocate`.
    let this = unsafe { &*this.cast::<Allocator>() };
    this.memory.ptr()
}
