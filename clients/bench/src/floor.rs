//! Our links beside bare references, interleaved in one run.
//!
//! Both sides of a pair are timed by the same loop, around everything that a caller pays: taking
//! the slot, filling it, the round trip, and giving the reply back.

mod bare;
mod bare_grpc;
mod bare_shm;
mod load;
mod ours;
mod pair;
mod rdma;
mod recording;
mod sessions;

pub use bare::references;
pub use load::{Throughput, throughput};
pub(crate) use pair::quantiles;
pub use pair::{Pair, Plan, pair};
pub use rdma::{Beside, rdma};
pub use recording::{Recording, recording};
pub use sessions::{Sessions, sessions};
