//! What needs an RDMA device: `./test rdma` runs it, on Soft-RoCE in a virtual machine or on the
//! device that FERRY_RDMA_DEVICE names.
#![expect(clippy::unwrap_used, reason = "a failure is a failed test")]

mod alone;
mod apart;
mod attach;
mod door;
mod hostile;
mod overrun;

mod pretended;
mod raw;
mod stale;
mod suite;
