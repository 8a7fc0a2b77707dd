//! What `libibverbs.so.1` exports.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use super::abi::*;

/// The library's name since its first stable interface (rdma-core 17 and MLNX_OFED 4 have it).
const NAME: &str = "libibverbs.so.1";

/// Declares the functions of the library: a table of those that it has, and for each a function of
/// its name. Where the library is not installed, or too old to have the function, that sets `errno`
/// to "operation not supported" (95) and returns what the verb returns when it fails.
macro_rules! exported {
    ($(fn $name:ident($($arg:ident: $kind:ty),*) -> $ret:ty, else $failed:expr;)*) => {
        /// What was found in the library.
        #[derive(Debug)]
        struct Table {
            $($name: Option<unsafe extern "C" fn($($kind),*) -> $ret>,)*
            /// Keeps what the functions point into.
            _library: libloading::Library,
        }

        fn table() -> Option<&'static Table> {
            static TABLE: OnceLock<Option<Table>> = OnceLock::new();
            let open = || {
                // SAFETY: libibverbs may be opened at any time: what it runs when it is opened
                // reads its own configuration and starts no thread.
                let library = unsafe { libloading::Library::new(NAME) }.ok()?;
                Some(Table {
                    $($name: {
                        let name = concat!(stringify!($name), "\0").as_bytes();
                        // SAFETY: the function of this name has this type since it exists: the
                        // library versions its symbols, and this asks for the default one.
                        unsafe { library.get(name) }.ok().map(|symbol| *symbol)
                    },)*
                    _library: library,
                })
            };
            TABLE.get_or_init(open).as_ref()
        }

        $(
            /// As ibverbs' manual says of the function of this name.
            pub(in crate::verbs) unsafe fn $name($($arg: $kind),*) -> $ret {
                match table().and_then(|table| table.$name) {
                    // SAFETY: the caller keeps the contract of the function.
                    Some(function) => unsafe { function($($arg),*) },
                    None => {
                        set_not_supported();
                        $failed
                    }
                }
            }
        )*
    };
}

exported! {
    fn ibv_get_device_list(count: *mut c_int) -> *mut *mut ibv_device, else std::ptr::null_mut();
    fn ibv_free_device_list(list: *mut *mut ibv_device) -> (), else ();
    fn ibv_get_device_name(device: *mut ibv_device) -> *const c_char, else std::ptr::null();
    fn ibv_open_device(device: *mut ibv_device) -> *mut ibv_context, else std::ptr::null_mut();
    fn ibv_close_device(context: *mut ibv_context) -> c_int, else -1;
    fn ibv_get_async_event(context: *mut ibv_context, event: *mut ibv_async_event) -> c_int, else -1;
    fn ibv_ack_async_event(event: *mut ibv_async_event) -> (), else ();
    fn ibv_query_device(context: *mut ibv_context, attr: *mut ibv_device_attr) -> c_int, else -1;
    fn ibv_query_port(context: *mut ibv_context, port: u8, attr: *mut _compat_ibv_port_attr) -> c_int,
        else -1;
    fn ibv_alloc_pd(context: *mut ibv_context) -> *mut ibv_pd, else std::ptr::null_mut();
    fn ibv_dealloc_pd(domain: *mut ibv_pd) -> c_int, else -1;
    fn ibv_reg_mr_iova2(
        domain: *mut ibv_pd, address: *mut c_void, bytes: usize, iova: u64, access: c_uint
    ) -> *mut ibv_mr, else std::ptr::null_mut();
    fn ibv_reg_dmabuf_mr(
        domain: *mut ibv_pd, offset: u64, bytes: usize, iova: u64, fd: c_int, access: c_int
    ) -> *mut ibv_mr, else std::ptr::null_mut();
    fn ibv_dereg_mr(registration: *mut ibv_mr) -> c_int, else -1;
    fn ibv_create_comp_channel(context: *mut ibv_context) -> *mut ibv_comp_channel,
        else std::ptr::null_mut();
    fn ibv_destroy_comp_channel(channel: *mut ibv_comp_channel) -> c_int, else -1;
    fn ibv_create_cq(
        context: *mut ibv_context, entries: c_int, cq_context: *mut c_void,
        channel: *mut ibv_comp_channel, vector: c_int
    ) -> *mut ibv_cq, else std::ptr::null_mut();
    fn ibv_destroy_cq(queue: *mut ibv_cq) -> c_int, else -1;
    fn ibv_get_cq_event(
        channel: *mut ibv_comp_channel, queue: *mut *mut ibv_cq, context: *mut *mut c_void
    ) -> c_int, else -1;
    fn ibv_ack_cq_events(queue: *mut ibv_cq, count: c_uint) -> (), else ();
    fn ibv_create_qp(domain: *mut ibv_pd, attr: *mut ibv_qp_init_attr) -> *mut ibv_qp,
        else std::ptr::null_mut();
    fn ibv_modify_qp(pair: *mut ibv_qp, attr: *mut ibv_qp_attr, mask: c_int) -> c_int, else -1;
    fn ibv_destroy_qp(pair: *mut ibv_qp) -> c_int, else -1;
}

/// Leaves `errno` as a verb does that its device has not.
pub(super) fn set_not_supported() {
    // SAFETY: the address of this thread's own `errno`, which is always there.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    unsafe { *errno = libc::EOPNOTSUPP };
}
