//! Gives memory that was freed back to the system.

/// Gives pages of the heap in which nothing is allocated any more back to the system, also those that
/// the allocator keeps for the threads that freed them. Takes milliseconds: for after a model was
/// unloaded. Does nothing where the C library is not glibc.
pub fn trim_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> std::ffi::c_int;
        }
        // SAFETY: glibc's function of this name and type, which takes its own locks and may be called
        // by any thread at any time; it touches no memory that is allocated.
        unsafe { malloc_trim(0) };
    }
}
