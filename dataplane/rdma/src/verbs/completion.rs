//! Completion queues.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use crate::verbs::sys;

use super::{CompletionStatus, Device, VerbsError, never_blocks};

/// Most completions that are taken from the device in one call.
const BATCH: usize = 32;

/// What was completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A write of this side's.
    Write,
    /// A write of the peer's, with its immediate.
    WrittenWithImmediate(u32),
    /// A window was bound.
    Bind,
    /// A key was made invalid.
    Invalidate,
    /// Something else, by its number. Failed completions do not say what they were.
    Other(u32),
}

/// The end of one work request.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    /// The number that it was posted with.
    pub id: u64,
    /// How it ended. Of a failed one only this and the number mean anything.
    pub status: CompletionStatus,
    /// What it was.
    pub operation: Operation,
    /// Bytes that a peer's write has written.
    pub bytes: u32,
    /// What the device's maker has to say about a failure.
    pub vendor_error: u32,
}

/// What announces completions by a descriptor. Reading it never blocks: `new` gives no value whose
/// descriptor was not told so.
#[derive(Debug)]
struct Channel {
    raw: NonNull<sys::ibv_comp_channel>,
    device: Arc<Device>,
}

impl Channel {
    fn new(device: &Arc<Device>) -> Result<Channel, VerbsError> {
        // SAFETY: the context is open.
        let raw = unsafe { sys::ibv_create_comp_channel(device.context()) };
        let raw = NonNull::new(raw).ok_or_else(|| VerbsError::last("ibv_create_comp_channel"))?;
        let channel = Channel { raw, device: Arc::clone(device) };
        // A channel that could not be told is only destroyed, which waits for nothing.
        never_blocks(&channel)?;
        Ok(channel)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the channel is alive.
        let fd = unsafe { self.raw.as_ref().fd };
        // SAFETY: the descriptor lives as long as the channel.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: no queue uses it: a queue keeps its channel.
        let returned = unsafe { sys::ibv_destroy_comp_channel(self.raw.as_ptr()) };
        VerbsError::log("ibv_destroy_comp_channel", returned);
        let _kept_until_here = &self.device;
    }
}

/// A completion queue with the descriptor that announces completions.
#[derive(Debug)]
pub struct CompletionQueue {
    raw: NonNull<sys::ibv_cq>,
    entries: u32,
    /// Dropped after the queue is destroyed.
    channel: Channel,
}

// SAFETY: libibverbs locks its queues; the pointers go to the library only.
unsafe impl Send for CompletionQueue {}
// SAFETY: as above.
unsafe impl Sync for CompletionQueue {}

impl CompletionQueue {
    /// A queue with room for at least `entries` completions. More than that may never be
    /// outstanding: whoever posts counts.
    ///
    /// # Errors
    /// [`VerbsError`] if the device has no such queue.
    pub fn new(device: &Arc<Device>, entries: u32) -> Result<Arc<CompletionQueue>, VerbsError> {
        let channel = Channel::new(device)?;
        let count = i32::try_from(entries).unwrap_or(i32::MAX);
        let (context, none) = (device.context(), std::ptr::null_mut());
        // SAFETY: context and channel are alive; the vector 0 always exists.
        let raw = unsafe { sys::ibv_create_cq(context, count, none, channel.raw.as_ptr(), 0) };
        let raw = NonNull::new(raw).ok_or_else(|| VerbsError::last("ibv_create_cq"))?;
        Ok(Arc::new(CompletionQueue { raw, entries, channel }))
    }

    /// Room that was asked for.
    pub fn entries(&self) -> u32 {
        self.entries
    }

    pub(super) fn raw(&self) -> *mut sys::ibv_cq {
        self.raw.as_ptr()
    }

    /// Takes what is complete, in order, a batch at most; how many.
    ///
    /// # Errors
    /// [`VerbsError`] if the queue is broken, which only an overrun or a lost device does.
    pub fn poll(&self, into: &mut Vec<Completion>) -> Result<usize, VerbsError> {
        let mut batch = [const { MaybeUninit::<sys::ibv_wc>::uninit() }; BATCH];
        let most = i32::try_from(BATCH).unwrap_or(1);
        // SAFETY: the batch has room for as many as are asked for.
        let got = unsafe { sys::ibv_poll_cq(self.raw(), most, batch.as_mut_ptr().cast()) };
        let Ok(got) = usize::try_from(got) else {
            return Err(VerbsError::last("ibv_poll_cq"));
        };
        for entry in batch.iter().take(got) {
            // SAFETY: the library has filled the first `got` entries, all of them plain numbers.
            let entry = unsafe { entry.assume_init_ref() };
            into.push(read(entry));
        }
        Ok(got)
    }

    /// Has the next completion announced by the descriptor. What is complete already is not:
    /// poll once more after this.
    ///
    /// # Errors
    /// [`VerbsError`] if the device is gone.
    pub fn arm(&self) -> Result<(), VerbsError> {
        // SAFETY: the queue is alive.
        let returned = unsafe { sys::ibv_req_notify_cq(self.raw(), 0) };
        VerbsError::check("ibv_req_notify_cq", returned)
    }

    /// Takes the announcements that wait on the descriptor.
    pub fn hush(&self) {
        loop {
            let (mut queue, mut context) = (std::ptr::null_mut(), std::ptr::null_mut());
            let channel = self.channel.raw.as_ptr();
            // SAFETY: the channel is alive, and does not block, as `Channel` says.
            let returned =
                unsafe { sys::ibv_get_cq_event(channel, &raw mut queue, &raw mut context) };
            if returned != 0 {
                return;
            }
            // SAFETY: each announcement is acknowledged once, or destroying the queue would wait
            // for ever. This queue is the only one on the channel.
            unsafe { sys::ibv_ack_cq_events(self.raw(), 1) };
        }
    }
}

fn read(entry: &sys::ibv_wc) -> Completion {
    use sys::ibv_wc_opcode as code;
    let status = CompletionStatus(entry.status);
    let operation = match entry.opcode {
        _ if !status.is_success() => Operation::Other(entry.opcode),
        code::IBV_WC_RDMA_WRITE => Operation::Write,
        code::IBV_WC_RECV_RDMA_WITH_IMM => {
            // SAFETY: both members of the union are 32-bit numbers.
            let immediate = unsafe { entry.__bindgen_anon_1.imm_data };
            Operation::WrittenWithImmediate(u32::from_be(immediate))
        }
        code::IBV_WC_BIND_MW => Operation::Bind,
        code::IBV_WC_LOCAL_INV => Operation::Invalidate,
        other => Operation::Other(other),
    };
    Completion {
        id: entry.wr_id,
        status,
        operation,
        bytes: entry.byte_len,
        vendor_error: entry.vendor_err,
    }
}

impl AsFd for CompletionQueue {
    /// Readable when an announcement waits.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        self.hush();
        // SAFETY: queue pairs keep the queue, so none uses it any more.
        VerbsError::log("ibv_destroy_cq", unsafe { sys::ibv_destroy_cq(self.raw()) });
    }
}
