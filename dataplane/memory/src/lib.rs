//! Owned regions of host memory, slots, the doorbell ring, and the only views into them.
//!
//! This crate is one of the few that may use `unsafe`: it is the fence around memory that another
//! process or a device may write. Outside it there are only copies in, copies out, and borrows
//! that exist while a [`Slot`] is held.

pub mod arena;
pub mod backing;
pub mod bell;
pub mod exchange;
pub mod far;
pub mod heap;
mod host;
pub mod lent;
mod past_caches;
pub mod place;
pub mod region;
pub mod ring;
pub mod shared;
pub mod slots;
pub mod word;

pub use arena::Arena;
pub use backing::{Backing, DeviceAddress, MemoryError};
pub use bell::Bell;
pub use exchange::{Arrival, Departure, PeerId, ReplyTo, between_ns};
pub use far::FarBacking;
pub use heap::HeapBacking;
pub use host::{host_id, is_this_host};
pub use lent::LentBacking;
pub use place::{Importer, Placer};
pub use region::{DmaBuf, Region, Registrable, View, check_range};
pub use shared::SharedBacking;
pub use slots::{PeerAccess, Slot, SlotTable};
pub use word::Word;
