//! The link `rdma`: tensors arrive by RDMA writes in memory that was registered once.
//!
//! One reliable connection per session. A request is one `RDMA_WRITE_WITH_IMM` of header and
//! payload into its slot at the server, a reply one into its slot at the client. The immediate
//! says which slot and which generation. What each end may write is fenced by a memory window or
//! a registration of the lease's own, see [`Fencing`].
#![deny(unsafe_code)]

pub mod areas;
mod client;
mod device_memory;
mod fence;
pub mod gids;
mod health;
mod listener;
mod loopback;
mod options;
mod pool;
mod port;
mod probe;
mod session;
mod survey;
#[expect(unsafe_code, reason = "the fence around libibverbs")]
pub mod verbs;
mod wait;
mod wire;

pub use client::RdmaClient;
pub use device_memory::try_device_memory;
pub use fence::Fencing;
pub use listener::RdmaListener;
pub use options::{Fence, RdmaOptions};
pub use probe::WindowProbe;
pub use survey::survey;
