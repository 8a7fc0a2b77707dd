//! libibverbs as this crate needs it: opened at run time, so that nothing of RDMA is needed to build
//! or to use the rest.
//!
//! `abi.rs` holds the types of `<infiniband/verbs.h>`, made by `bindgen` from the header that its
//! first lines name; it is checked in, because making it takes libclang and half a minute of
//! every build. Its assertions on sizes and offsets are compiled, so a type that does not fit this
//! machine does not build. `library.rs` has the functions that the library exports, `inline.rs`
//! those that the header defines.

#[expect(
    dead_code,
    non_camel_case_types,
    non_snake_case,
    unreachable_pub,
    clippy::allow_attributes,
    reason = "names and shapes are the header's"
)]
mod abi;
mod inline;
mod library;

pub(super) use abi::*;
// The header hides the library's older function of this name behind its own.
pub(super) use inline::ibv_query_port;
pub(super) use inline::*;
pub(super) use library::*;

/// Where a write goes at the peer.
pub(super) type WriteTarget = ibv_send_wr__bindgen_ty_2__bindgen_ty_1;
/// Which window is bound, and to what.
pub(super) type BindWindow = ibv_send_wr__bindgen_ty_4__bindgen_ty_1;
