//! Reliable connections. The states of a queue pair are types: what a state does not allow
//! cannot be called.

mod post;

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use ferry_core::{Gid, Retry};
use rdma_mummy_sys as sys;
use sys::ibv_qp_attr_mask as mask;

use super::{CompletionQueue, Domain, Registration, VerbsError};

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
pub struct Write {
    /// Comes back with the completion.
    pub id: u64,
    /// Where the bytes are, in a registration.
    pub address: u64,
    /// How many.
    pub bytes: u32,
    /// The registration's local key.
    pub local_key: u32,
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
        init.sq_sig_all = 1;
        init.cap = sys::ibv_qp_cap {
            max_send_wr: depth.send,
            max_recv_wr: depth.receive,
            max_send_sge: 1,
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

    /// RESET → INIT on `port`. The peer may write, and nothing else.
    ///
    /// # Errors
    /// [`VerbsError`] with what the device says.
    pub fn init(self, port: u8) -> Result<QueuePair<Init>, VerbsError> {
        let mut attr = blank();
        attr.qp_state = sys::ibv_qp_state::IBV_QPS_INIT;
        attr.port_num = port;
        attr.qp_access_flags = sys::ibv_access_flags::IBV_ACCESS_REMOTE_WRITE.0;
        self.modify(
            attr,
            mask::IBV_QP_STATE
                | mask::IBV_QP_PKEY_INDEX
                | mask::IBV_QP_PORT
                | mask::IBV_QP_ACCESS_FLAGS,
        )
    }
}

impl QueuePair<Init> {
    /// INIT → RTR: knows the peer and receives.
    ///
    /// # Errors
    /// [`VerbsError`]: invalid argument (22) mostly means a GID that leads nowhere.
    pub fn ready_to_receive(self, path: &Path) -> Result<QueuePair<Rtr>, VerbsError> {
        let mut attr = blank();
        attr.qp_state = sys::ibv_qp_state::IBV_QPS_RTR;
        attr.path_mtu = match path.mtu_bytes {
            ..512 => sys::ibv_mtu::IBV_MTU_256,
            512..1024 => sys::ibv_mtu::IBV_MTU_512,
            1024..2048 => sys::ibv_mtu::IBV_MTU_1024,
            2048..4096 => sys::ibv_mtu::IBV_MTU_2048,
            _ => sys::ibv_mtu::IBV_MTU_4096,
        };
        attr.dest_qp_num = path.queue_pair;
        attr.rq_psn = path.first_psn;
        attr.max_dest_rd_atomic = path.dest_rd_atomic;
        attr.min_rnr_timer = path.retry.min_rnr_timer;
        attr.ah_attr.port_num = path.port;
        attr.ah_attr.dlid = path.lid;
        attr.ah_attr.is_global = u8::from(path.is_global);
        attr.ah_attr.grh.dgid = sys::ibv_gid { raw: path.gid.0 };
        attr.ah_attr.grh.sgid_index = path.gid_index;
        attr.ah_attr.grh.hop_limit = 64;
        self.modify(
            attr,
            mask::IBV_QP_STATE
                | mask::IBV_QP_AV
                | mask::IBV_QP_PATH_MTU
                | mask::IBV_QP_DEST_QPN
                | mask::IBV_QP_RQ_PSN
                | mask::IBV_QP_MAX_DEST_RD_ATOMIC
                | mask::IBV_QP_MIN_RNR_TIMER,
        )
    }
}

impl QueuePair<Rtr> {
    /// RTR → RTS: sends, its packets numbered from `first_psn`.
    ///
    /// # Errors
    /// [`VerbsError`] with what the device says.
    pub fn ready_to_send(self, path: &Path, first_psn: u32) -> Result<QueuePair<Rts>, VerbsError> {
        let mut attr = blank();
        attr.qp_state = sys::ibv_qp_state::IBV_QPS_RTS;
        attr.sq_psn = first_psn;
        attr.timeout = path.retry.ack_timeout;
        attr.retry_cnt = path.retry.count;
        attr.rnr_retry = path.retry.rnr_count;
        attr.max_rd_atomic = path.rd_atomic;
        self.modify(
            attr,
            mask::IBV_QP_STATE
                | mask::IBV_QP_SQ_PSN
                | mask::IBV_QP_TIMEOUT
                | mask::IBV_QP_RETRY_CNT
                | mask::IBV_QP_RNR_RETRY
                | mask::IBV_QP_MAX_QP_RD_ATOMIC,
        )
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

    /// Any state → ERR: nothing is carried any more, and everything posted completes as flushed.
    ///
    /// # Errors
    /// [`VerbsError`] if the device is gone.
    pub fn fail(&self) -> Result<(), VerbsError> {
        let mut attr = blank();
        attr.qp_state = sys::ibv_qp_state::IBV_QPS_ERR;
        self.change(attr, mask::IBV_QP_STATE)
    }

    /// Any state → RESET: everything posted is dropped without a completion.
    ///
    /// # Errors
    /// [`VerbsError`] if the device is gone.
    pub fn reset(self) -> Result<QueuePair<Reset>, VerbsError> {
        let mut attr = blank();
        attr.qp_state = sys::ibv_qp_state::IBV_QPS_RESET;
        self.modify(attr, mask::IBV_QP_STATE)
    }

    fn modify<T>(
        self,
        attr: sys::ibv_qp_attr,
        what: sys::ibv_qp_attr_mask,
    ) -> Result<QueuePair<T>, VerbsError> {
        self.change(attr, what)?;
        let QueuePair { owned, inline_bytes, .. } = self;
        Ok(QueuePair { owned, inline_bytes, state: PhantomData })
    }

    fn change(
        &self,
        mut attr: sys::ibv_qp_attr,
        what: sys::ibv_qp_attr_mask,
    ) -> Result<(), VerbsError> {
        let what = what.0.cast_signed();
        // SAFETY: the queue pair is alive, and the members that `what` names are filled in.
        let returned = unsafe { sys::ibv_modify_qp(self.raw(), &raw mut attr, what) };
        VerbsError::check("ibv_modify_qp", returned)
    }
}

fn blank() -> sys::ibv_qp_attr {
    // SAFETY: numbers only; all zeros is a value of it.
    unsafe { std::mem::zeroed() }
}

/// Addresses as work requests have them.
impl Registration {
    /// The address of a byte of the region, as work requests name it.
    pub fn address(&self, at: usize) -> u64 {
        let base = self.region().view().host().map_or(0, |base| base.as_ptr() as u64);
        base + at as u64
    }
}
