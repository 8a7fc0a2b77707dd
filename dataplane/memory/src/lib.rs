//! Owned regions of host memory, slots, the doorbell ring, and the only views into them.
//!
//! This crate is one of the few that may use `unsafe`: it is the fence around memory that another
//! process or a device may write. Outside it there are only copies in, copies out, and borrows
//! that exist while a [`Slot`] is held.
//!
//! # One way to each byte
//!
//! A backing is handed over to a [`Region`], a region to a [`SlotTable`], and the table gives each
//! slot to one holder at a time. Whoever reads borrows, whoever writes borrows alone:
//!
//! ```
//! # use ferry_core::SlotLayout;
//! # use ferry_memory::{HeapBacking, PeerAccess, Region, SlotTable};
//! let layout = SlotLayout { slots: 1, request_bytes: 8, reply_bytes: 8 };
//! let mut region = Region::whole(HeapBacking::new(SlotTable::bytes(&layout)?)?);
//! region.view_mut().copy_in(0, &[7])?;
//! let table = SlotTable::over(layout, PeerAccess::None, region)?;
//! let mut slot = table.acquire().ok_or("no slot is free")?;
//! assert_eq!(slot.request_bytes().ok_or("not borrowed")?[0], 7);
//! slot.request_mut().copy_in(0, &[8])?;
//! let (request, mut reply) = slot.halves_mut();
//! reply.copy_from(&request, 8)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! So none of these compiles: a write under a borrow,
//!
//! ```compile_fail,E0502
//! # fn hold(mut slot: ferry_memory::Slot) {
//! let borrowed = slot.request_bytes();
//! slot.request_mut().copy_in(0, &[8]).ok();
//! drop(borrowed);
//! # }
//! ```
//!
//! a write through what is only shared,
//!
//! ```compile_fail,E0596
//! # fn hold(slot: &ferry_memory::Slot) {
//! slot.reply_mut().copy_in(0, &[8]).ok();
//! # }
//! ```
//!
//! a region that is kept once a table has it,
//!
//! ```compile_fail,E0382
//! # use ferry_memory::{PeerAccess, Region, SlotTable};
//! # fn hold(layout: ferry_core::SlotLayout, mut region: Region) {
//! let table = SlotTable::over(layout, PeerAccess::None, region);
//! region.view_mut().copy_in(0, &[8]).ok();
//! # }
//! ```
//!
//! a second region of the same bytes,
//!
//! ```compile_fail,E0599
//! # fn hold(region: ferry_memory::Region) {
//! let second = region.clone();
//! # }
//! ```
//!
//! and a copy past all of that.
//!
//! ```compile_fail,E0133
//! # use ferry_memory::Backing;
//! # fn hold(backing: &dyn Backing) {
//! backing.copy_in(0, &[8]).ok();
//! # }
//! ```

pub mod arena;
pub mod backing;
pub mod bell;
mod copy;
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
pub mod trim;
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
pub use region::{DmaBuf, Region, RegionAddress, Registrable, View, ViewMut, check_range};
pub use shared::SharedBacking;
pub use slots::{PeerAccess, Slot, SlotHold, SlotTable};
pub use trim::trim_heap;
pub use word::Word;
