//! Reliable connections. The states of a queue pair are types: what a state does not allow
//! cannot be called.

mod post;
mod states;

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::verbs::sys;
use ferry_core::{Gid, Retry};

use super::{CompletionQueue, Domain, Part, VerbsError};

/// Made, and good for nothing yet.
#[derive(Debug)]
pub struct Reset;
/// Takes receives.
#[derive(Debug)]
pub struct Init;
/// Receives.
#[derive(Debug)]
pub struct Rtr;
/// Receives and sends.
#[derive(Debug)]
pub struct Rts;

/// Room in the queues of a queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    /// Work requests of this side.
    pub send: u32,
    /// Writes of the peer that were not seen yet.
    pub receive: u32,
    /// Bytes that a work request may carry itself; less if the device has less.
    pub inline_bytes: u32,
}

/// The way to the peer's queue pair.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// Our port, from 1.
    pub port: u8,
    /// Which entry of our port's table we send from.
    pub gid_index: u8,
    /// Where to.
    pub gid: Gid,
    /// Where to on InfiniBand.
    pub lid: u16,
    /// Whether packets have a global route header: always on RoCE.
    pub is_global: bool,
    /// The peer's queue pair.
    pub queue_pair: u32,
    /// What its packets are numbered from.
    pub first_psn: u32,
    /// Bytes of one packet.
    pub mtu_bytes: u32,
    /// Reads and atomics of the peer's that we serve at once.
    pub dest_rd_atomic: u8,
    /// Reads and atomics that we start at once.
    pub rd_atomic: u8,
    /// When a write is sent again.
    pub retry: Retry,
}

/// One write, header and payload in one piece of local memory.
#[derive(Clone, Copy, Debug)]
pub struct Write<'r> {
    /// Comes back with the completion.
    pub id: u64,
    /// What is written.
    pub part: Part<'r>,
    /// Where they go.
    pub remote_address: u64,
    /// The peer's key.
    pub remote_key: u32,
    /// What the peer is told with them.
    pub immediate: u32,
}

#[derive(Debug)]
struct Owned {
    raw: NonNull<sys::ibv_qp>,
    _queue: Arc<CompletionQueue>,
    _domain: Arc<Domain>,
}

// SAFETY: libibverbs locks its queues; the pointer goes to the library only.
unsafe impl Send for Owned {}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: destroyed once. Its windows are gone: their owner drops them first.
        let returned = unsafe { sys::ibv_destroy_qp(self.raw.as_ptr()) };
        VerbsError::log("ibv_destroy_qp", returned);
    }
}

/// A reliable connection in one of its states.
#[derive(Debug)]
pub struct QueuePair<S> {
    owned: Owned,
    inline_bytes: u32,
    state: PhantomData<S>,
}

impl QueuePair<Reset> {
    /// A new queue pair whose completions all go to `queue`.
    ///
    /// # Errors
    /// [`VerbsError`] if the device has no such queue pair.
    pub fn new(
        domain: &Arc<Domain>,
        queue: &Arc<CompletionQueue>,
        depth: Depth,
    ) -> Result<QueuePair<Reset>, VerbsError> {
        // How much can be inline is not told: it is tried, and done without.
        Self::with_inline(domain, queue, depth, depth.inline_bytes)
            .or_else(|_| Self::with_inline(domain, queue, depth, 0))
    }

    fn with_inline(
        domain: &Arc<Domain>,
        queue: &Arc<CompletionQueue>,
        depth: Depth,
        inline_bytes: u32,
    ) -> Result<QueuePair<Reset>, VerbsError> {
        // SAFETY: numbers and null pointers; all zeros is a value of it.
        let mut init: sys::ibv_qp_init_attr = unsafe { std::mem::zeroed() };
        (init.send_cq, init.recv_cq) = (queue.raw(), queue.raw());
        init.qp_type = sys::ibv_qp_type::IBV_QPT_RC;
        // Each work request says whether its completion is wanted.
        init.sq_sig_all = 0;
        init.cap = sys::ibv_qp_cap {
            max_send_wr: depth.send,
            max_recv_wr: depth.receive,
            max_send_sge: 2,
            max_recv_sge: 1,
            max_inline_data: inline_bytes,
        };
        // SAFETY: domain and queue are alive, and the new value keeps them.
        let raw = unsafe { sys::ibv_create_qp(domain.raw(), &raw mut init) };
        let raw = NonNull::new(raw).ok_or_else(|| VerbsError::last("ibv_create_qp"))?;
        let owned = Owned { raw, _queue: Arc::clone(queue), _domain: Arc::clone(domain) };
        let inline_bytes = init.cap.max_inline_data;
        Ok(QueuePair { owned, inline_bytes, state: PhantomData })
    }
}

impl<S> QueuePair<S> {
    /// Its number on the device.
    pub fn number(&self) -> u32 {
        // SAFETY: the queue pair is alive.
        unsafe { self.owned.raw.as_ref().qp_num }
    }

    fn raw(&self) -> *mut sys::ibv_qp {
        self.owned.raw.as_ptr()
    }

    /// Posts `count` receives that only take the immediate of a write.
    ///
    /// # Errors
    /// [`VerbsError`] if more are posted than the queue has room for.
    pub fn receive(&self, id: u64, count: u32) -> Result<(), VerbsError> {
        for _ in 0..count {
            let mut request = sys::ibv_recv_wr {
                wr_id: id,
                next: std::ptr::null_mut(),
                sg_list: std::ptr::null_mut(),
                num_sge: 0,
            };
            let mut refused = std::ptr::null_mut();
            // SAFETY: the request lives until the call returns, and names no memory.
            let returned =
                unsafe { sys::ibv_post_recv(self.raw(), &raw mut request, &raw mut refused) };
            VerbsError::check("ibv_post_recv", returned)?;
        }
        Ok(())
    }
}
