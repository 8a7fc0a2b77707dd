//! What `<infiniband/verbs.h>` defines in the header: calls through the tables of function pointers
//! that a device's driver fills in.

use std::ffi::c_int;
use std::mem::offset_of;

use super::abi::*;
use super::library;

/// Calls what a driver put into a context's table; a driver that has no such verb leaves it empty.
macro_rules! through_ops {
    ($(fn $name:ident($object:ident: *mut $kind:ty $(, $arg:ident: $arg_kind:ty)*) -> $ret:ty
        = $op:ident, else $failed:expr;)*) => {
        $(
            /// As ibverbs' manual says of the function of this name.
            pub(in crate::verbs) unsafe fn $name($object: *mut $kind $(, $arg: $arg_kind)*) -> $ret {
                // SAFETY: the caller passes an object of the library that is alive, and with it
                // lives the context that it was made on.
                let context = unsafe { (*$object).context };
                // SAFETY: as above; the table is filled before the context is handed out and is
                // not written after.
                let function = unsafe { (*context).ops.$op };
                match function {
                    // SAFETY: the caller keeps the contract of the verb.
                    Some(function) => unsafe { function($object $(, $arg)*) },
                    None => {
                        library::set_not_supported();
                        $failed
                    }
                }
            }
        )*
    };
}

through_ops! {
    fn ibv_alloc_mw(domain: *mut ibv_pd, kind: ibv_mw_type::Type) -> *mut ibv_mw = alloc_mw,
        else std::ptr::null_mut();
    fn ibv_dealloc_mw(window: *mut ibv_mw) -> c_int = dealloc_mw, else -1;
    fn ibv_poll_cq(queue: *mut ibv_cq, most: c_int, into: *mut ibv_wc) -> c_int = poll_cq, else -1;
    fn ibv_req_notify_cq(queue: *mut ibv_cq, solicited_only: c_int) -> c_int = req_notify_cq,
        else -1;
    fn ibv_post_send(
        pair: *mut ibv_qp, request: *mut ibv_send_wr, refused: *mut *mut ibv_send_wr
    ) -> c_int = post_send, else -1;
    fn ibv_post_recv(
        pair: *mut ibv_qp, request: *mut ibv_recv_wr, refused: *mut *mut ibv_recv_wr
    ) -> c_int = post_recv, else -1;
}

/// `__VERBS_ABI_IS_EXTENDED`: the context lies inside a `verbs_context`.
const EXTENDED: usize = usize::MAX;

/// The larger struct around a context, if there is one that reaches as far as `end`.
///
/// # Safety
/// The context is open.
unsafe fn extended(context: *mut ibv_context, field_at: usize) -> Option<*mut verbs_context> {
    // SAFETY: the context is open.
    if unsafe { (*context).abi_compat }.addr() != EXTENDED {
        return None;
    }
    let around = context.wrapping_byte_sub(offset_of!(verbs_context, context)).cast();
    let around: *mut verbs_context = around;
    // SAFETY: the mark says that the context is the last field of such a struct.
    let bytes = unsafe { (*around).sz };
    // The newest fields lie in front. A library that is older than the header has a struct that
    // begins later, and says so by its length.
    (bytes >= size_of::<verbs_context>() - field_at).then_some(around)
}

/// As ibverbs' manual says of the function of this name.
pub(in crate::verbs) unsafe fn ibv_query_port(
    context: *mut ibv_context,
    port: u8,
    attr: *mut ibv_port_attr,
) -> c_int {
    // SAFETY: the caller keeps the contract of the verb.
    let around = unsafe { extended(context, offset_of!(verbs_context, query_port)) };
    // SAFETY: the field is one that the library's struct has.
    let function = around.and_then(|around| unsafe { (*around).query_port });
    match function {
        // SAFETY: as the caller's contract; the length is the struct's own.
        Some(function) => unsafe { function(context, port, attr, size_of::<ibv_port_attr>()) },
        None => {
            // The older function fills the first fields alone.
            // SAFETY: the caller's struct, of numbers that may all be 0.
            unsafe { attr.write_bytes(0, 1) };
            // SAFETY: the older struct is the beginning of the newer one.
            unsafe { library::ibv_query_port(context, port, attr.cast()) }
        }
    }
}

/// As ibverbs' manual says of the function of this name, for callers that pass no input; what the
/// library does not have is "operation not supported".
pub(in crate::verbs) unsafe fn ibv_query_device_ex(
    context: *mut ibv_context,
    attr: *mut ibv_device_attr_ex,
) -> c_int {
    // SAFETY: the caller keeps the contract of the verb.
    let around = unsafe { extended(context, offset_of!(verbs_context, query_device_ex)) };
    // SAFETY: the field is one that the library's struct has.
    let Some(function) = around.and_then(|around| unsafe { (*around).query_device_ex }) else {
        return libc::EOPNOTSUPP;
    };
    // SAFETY: as the caller's contract; no input is allowed, and the length is the struct's own.
    unsafe { function(context, std::ptr::null(), attr, size_of::<ibv_device_attr_ex>()) }
}
