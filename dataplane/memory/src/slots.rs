//! A session's fixed set of slots, and the token that says who holds one.
//!
//! A slot is room for one request and its reply. It has one holder at a time: free → filled →
//! in flight → arrived → read → free. The token [`Slot`] moves through these hands; who drops it
//! gives the slot back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use ferry_core::session::SLOTS_MAX;
use ferry_core::{SlotIndex, SlotLayout};

use crate::backing::MemoryError;
use crate::heap::HeapBacking;
use crate::lent::LentBacking;
use crate::region::{Region, View, ViewMut};

/// Each half of a slot starts at a multiple of this: a page, so that it can be registered with a
/// device on its own.
pub const HALF_ALIGN_BYTES: usize = 4096;

/// Whether somebody outside this process may write the slots' memory at any time.
///
/// Saying `None` of memory that another process or a device has mapped is saying that it is trusted
/// to write a slot only while the slot is in flight, as a client trusts its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAccess {
    /// No: the holder of a slot may borrow its bytes.
    None,
    /// Yes: bytes can only be copied, or handed to native code by address.
    Writes,
}

/// The slots of one lease. A new lease (generation) gets a new table: what an old one still holds
/// can never become part of it.
#[derive(Debug)]
pub struct SlotTable {
    layout: SlotLayout,
    peer: PeerAccess,
    halves: Vec<Halves>,
    /// Bit i is set while slot i is free.
    free: AtomicU64,
    /// Set once the lease is over: nothing is given out any more.
    retired: AtomicBool,
}

#[derive(Debug)]
struct Halves {
    request: Region,
    reply: Region,
}

/// Sizes of the halves, rounded up; checked against what this machine can address.
#[derive(Clone, Copy, Debug)]
struct Strides {
    request: usize,
    reply: usize,
    all: usize,
}

fn strides(layout: &SlotLayout) -> Result<Strides, MemoryError> {
    if layout.slots == 0 || layout.slots > SLOTS_MAX {
        let what = format!("{} slots; a session has 1 to {SLOTS_MAX}", layout.slots);
        return Err(MemoryError::Layout { what });
    }
    let too_long = || MemoryError::Layout { what: format!("{layout:?} is more than fits memory") };
    let round = |bytes: u64| {
        let bytes = usize::try_from(bytes.max(1)).ok()?;
        bytes.checked_next_multiple_of(HALF_ALIGN_BYTES)
    };
    let request = round(layout.request_bytes).ok_or_else(too_long)?;
    let reply = round(layout.reply_bytes).ok_or_else(too_long)?;
    let one = request.checked_add(reply).ok_or_else(too_long)?;
    let all = one.checked_mul(layout.slots as usize).ok_or_else(too_long)?;
    Ok(Strides { request, reply, all })
}

impl SlotTable {
    /// How many bytes the slots of `layout` take, padding included.
    ///
    /// # Errors
    /// [`MemoryError::Layout`] if the layout is empty or too large.
    pub fn bytes(layout: &SlotLayout) -> Result<usize, MemoryError> {
        strides(layout).map(|strides| strides.all)
    }

    /// Slots in memory of this process alone.
    ///
    /// # Errors
    /// [`MemoryError`] if the layout is wrong or memory is short.
    pub fn private(layout: SlotLayout) -> Result<Arc<SlotTable>, MemoryError> {
        let backing = HeapBacking::new(Self::bytes(&layout)?)?;
        Self::over(layout, PeerAccess::None, Region::whole(backing))
    }

    /// Slots inside `region`, one after the other, the request half first. Nobody else in this
    /// process reaches the region from now on.
    ///
    /// # Errors
    /// [`MemoryError`] if the layout is wrong, or the region too short or only lent for reading.
    pub fn over(
        layout: SlotLayout,
        peer: PeerAccess,
        region: Region,
    ) -> Result<Arc<SlotTable>, MemoryError> {
        let strides = strides(&layout)?;
        region.view().check_writable()?;
        let request_bytes = usize::try_from(layout.request_bytes).unwrap_or(usize::MAX);
        let reply_bytes = usize::try_from(layout.reply_bytes).unwrap_or(usize::MAX);
        let mut halves = Vec::with_capacity(layout.slots as usize);
        let mut rest = region;
        for _ in 0..layout.slots {
            let (request, behind) = rest.split_at(strides.request)?;
            let (reply, behind) = behind.split_at(strides.reply)?;
            let request = request.part(0, request_bytes)?;
            halves.push(Halves { request, reply: reply.part(0, reply_bytes)? });
            rest = behind;
        }
        Ok(Self::of(layout, peer, halves))
    }

    /// Slots whose halves the caller has placed: one request and one reply region for each, as
    /// long as the layout says. For links that need something around them, such as room for a
    /// header in front.
    ///
    /// # Errors
    /// [`MemoryError::Layout`] if the layout is wrong or the regions are not what it says.
    pub fn placed(
        layout: SlotLayout,
        peer: PeerAccess,
        halves: impl IntoIterator<Item = (Region, Region)>,
    ) -> Result<Arc<SlotTable>, MemoryError> {
        strides(&layout)?;
        let halves: Vec<_> =
            halves.into_iter().map(|(request, reply)| Halves { request, reply }).collect();
        let fits = |half: &Halves| {
            let bytes = (half.request.bytes() as u64, half.reply.bytes() as u64);
            bytes == (layout.request_bytes, layout.reply_bytes)
        };
        for half in &halves {
            half.request.view().check_writable()?;
            half.reply.view().check_writable()?;
        }
        if halves.len() != layout.slots as usize || !halves.iter().all(fits) {
            let what = format!("regions that are not the {} halves of {layout:?}", halves.len());
            return Err(MemoryError::Layout { what });
        }
        Ok(Self::of(layout, peer, halves))
    }

    fn of(layout: SlotLayout, peer: PeerAccess, halves: Vec<Halves>) -> Arc<SlotTable> {
        let free = u64::MAX >> (64 - layout.slots);
        let (free, retired) = (AtomicU64::new(free), AtomicBool::new(false));
        Arc::new(SlotTable { layout, peer, halves, free, retired })
    }

    /// The agreed sizes.
    pub fn layout(&self) -> &SlotLayout {
        &self.layout
    }

    /// How many slots are free now.
    pub fn free_slots(&self) -> u32 {
        self.free.load(Ordering::Relaxed).count_ones()
    }

    /// Gives out no slot from now on. For the end that lost its link: a late write of the peer may
    /// still land in a slot that was in flight, so none of this lease is used again.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    /// Whether [`retire`](SlotTable::retire) was called.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// Takes any free slot; `None` while all are held, and once the table is retired.
    pub fn acquire(self: &Arc<Self>) -> Option<Slot> {
        if self.is_retired() {
            return None;
        }
        let mut free = self.free.load(Ordering::Relaxed);
        while free != 0 {
            let lowest = free & free.wrapping_neg();
            // Acquire: what the last holder did to the memory happened before.
            free = match self.free.compare_exchange_weak(
                free,
                free & !lowest,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    let index = SlotIndex(lowest.trailing_zeros());
                    return Some(Slot::taken(self, index));
                }
                Err(now) => now,
            };
        }
        None
    }

    /// Takes the slot that a frame names; `None` if there is no such slot or it is held, which
    /// from a peer is a breach of the protocol.
    pub fn claim(self: &Arc<Self>, index: SlotIndex) -> Option<Slot> {
        if index.0 >= self.layout.slots || self.is_retired() {
            return None;
        }
        let bit = 1_u64 << index.0;
        let before = self.free.fetch_and(!bit, Ordering::Acquire);
        (before & bit != 0).then(|| Slot::taken(self, index))
    }

    fn give_back(&self, index: SlotIndex) {
        // Release: what this holder did to the memory happens before the next one's work.
        self.free.fetch_or(1 << index.0, Ordering::Release);
    }
}

/// The one holder of a slot. Dropping it gives the slot back to its table.
#[derive(Debug)]
pub struct Slot {
    table: Arc<SlotTable>,
    index: SlotIndex,
    /// Read instead of the request half.
    lent: Option<Box<LentBacking>>,
    /// Who gives it back instead: whichever goes last.
    kept: Option<SlotHold>,
}

/// Keeps the memory of a slot mapped, and the slot from every other holder, also after its holder
/// is gone: for programs that were given an address in it and may use that later. It leads to no
/// byte itself. The slot goes back to its table when the holder and every hold are dropped.
#[derive(Clone, Debug)]
pub struct SlotHold {
    _kept: Arc<Kept>,
}

#[derive(Debug)]
struct Kept {
    table: Arc<SlotTable>,
    index: SlotIndex,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.table.give_back(self.index);
    }
}

impl Slot {
    fn taken(table: &Arc<SlotTable>, index: SlotIndex) -> Slot {
        Slot { table: Arc::clone(table), index, lent: None, kept: None }
    }

    /// Keeps the slot's memory and its place beside this holder.
    pub fn hold(&mut self) -> SlotHold {
        let (table, index) = (&self.table, self.index);
        let kept = || SlotHold { _kept: Arc::new(Kept { table: Arc::clone(table), index }) };
        self.kept.get_or_insert_with(kept).clone()
    }

    /// Which slot it is.
    pub fn index(&self) -> SlotIndex {
        self.index
    }

    /// The table that it belongs to.
    pub fn table(&self) -> &Arc<SlotTable> {
        &self.table
    }

    /// From now on the request is `bytes`, which lie elsewhere, and not what the request half
    /// holds: a payload that came in a buffer of its own is read there. Nobody can write them.
    pub fn lend_request(&mut self, bytes: Bytes) {
        self.lent = Some(Box::new(LentBacking::new(bytes)));
    }

    /// The request half, or what was lent in its place.
    pub fn request(&self) -> View<'_> {
        match &self.lent {
            Some(lent) => View::whole(&**lent),
            None => self.table.halves[self.index.at()].request.view(),
        }
    }

    /// The reply half.
    pub fn reply(&self) -> View<'_> {
        self.table.halves[self.index.at()].reply.view()
    }

    /// The request half, to write; what was lent in its place refuses every write.
    pub fn request_mut(&mut self) -> ViewMut<'_> {
        let view = self.request();
        // SAFETY: no table but this one reaches the half, which it took over as a region; this is
        // the only token of the slot, and it is borrowed alone.
        unsafe { ViewMut::new(view) }
    }

    /// The reply half, to write.
    pub fn reply_mut(&mut self) -> ViewMut<'_> {
        let view = self.reply();
        // SAFETY: as in `request_mut`.
        unsafe { ViewMut::new(view) }
    }

    /// The request to read and the reply to write, at once.
    pub fn halves_mut(&mut self) -> (View<'_>, ViewMut<'_>) {
        let (request, reply) = (self.request(), self.reply());
        // SAFETY: as in `request_mut`; the halves are regions of their own, which do not overlap.
        (request, unsafe { ViewMut::new(reply) })
    }

    /// The request half as a slice; `None` where a peer may write it or it is not host memory.
    pub fn request_bytes(&self) -> Option<&[u8]> {
        if let Some(lent) = &self.lent {
            return Some(lent.as_slice());
        }
        // SAFETY: `borrow` checked that nobody outside this process writes. Inside it only this
        // token leads to the half, which the table took over as a region, and it gives out nothing
        // that writes while it is borrowed.
        self.borrow(self.request())
            .map(|(base, len)| unsafe { std::slice::from_raw_parts(base, len) })
    }

    /// The request half as a slice to fill in place; `None` also where the request was lent.
    pub fn request_bytes_mut(&mut self) -> Option<&mut [u8]> {
        if self.lent.is_some() {
            return None;
        }
        // SAFETY: as in `request_bytes`, and `&mut self` makes the borrow the only one.
        self.borrow(self.request())
            .map(|(base, len)| unsafe { std::slice::from_raw_parts_mut(base, len) })
    }

    /// The reply half as a slice; `None` where a peer may write it or it is not host memory.
    pub fn reply_bytes(&self) -> Option<&[u8]> {
        // SAFETY: as in `request_bytes`.
        self.borrow(self.reply())
            .map(|(base, len)| unsafe { std::slice::from_raw_parts(base, len) })
    }

    /// The reply half as a slice to write in place.
    pub fn reply_bytes_mut(&mut self) -> Option<&mut [u8]> {
        // SAFETY: as in `request_bytes_mut`.
        self.borrow(self.reply())
            .map(|(base, len)| unsafe { std::slice::from_raw_parts_mut(base, len) })
    }

    fn borrow(&self, view: View<'_>) -> Option<(*mut u8, usize)> {
        match self.table.peer {
            PeerAccess::None => Some((view.host()?.as_ptr(), view.bytes())),
            PeerAccess::Writes => None,
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.kept.is_none() {
            self.table.give_back(self.index);
        }
    }
}

#[cfg(test)]
mod tests;
