//! The end of a process that has opened the library.

use std::ffi::c_int;

unsafe extern "C" {
    /// POSIX's: ends the process at once, without what `atexit` registered.
    safe fn _exit(status: c_int) -> !;
}

/// Ends the process at once. Its destructors are left out: the library's own take away what a load
/// that nothing can stop is still using, and a process that was to end in order would crash.
pub fn leave(status: i32) -> ! {
    _exit(status)
}
