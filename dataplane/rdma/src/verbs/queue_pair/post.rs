//! What a queue pair that sends can be given to do.

use rdma_mummy_sys as sys;

use super::{QueuePair, Rts, Write};
use crate::verbs::{VerbsError, Window};

impl QueuePair<Rts> {
    /// Posts one write with an immediate. The bytes stay as they are until its completion.
    ///
    /// # Errors
    /// [`VerbsError`]: out of memory (12) if more was posted than the queue has room for.
    pub fn write(&self, write: &Write) -> Result<(), VerbsError> {
        let mut part =
            sys::ibv_sge { addr: write.address, length: write.bytes, lkey: write.local_key };
        let mut request = blank_request(write.id, sys::ibv_wr_opcode::IBV_WR_RDMA_WRITE_WITH_IMM);
        (request.sg_list, request.num_sge) = (&raw mut part, 1);
        if write.bytes <= self.inline_bytes {
            request.send_flags |= sys::ibv_send_flags::IBV_SEND_INLINE.0;
        }
        request.imm_data_invalidated_rkey_union.imm_data = write.immediate.to_be();
        request.wr.rdma = sys::rdma_t { remote_addr: write.remote_address, rkey: write.remote_key };
        self.post(request)
    }

    /// Posts a write of no bytes and no immediate: the peer's program notices nothing, and its
    /// device acknowledges it if it is there.
    ///
    /// # Errors
    /// [`VerbsError`] with what the device says.
    pub fn touch(&self, id: u64, remote_address: u64, remote_key: u32) -> Result<(), VerbsError> {
        let mut request = blank_request(id, sys::ibv_wr_opcode::IBV_WR_RDMA_WRITE);
        request.wr.rdma = sys::rdma_t { remote_addr: remote_address, rkey: remote_key };
        self.post(request)
    }

    /// Binds a window to bytes of its registration: from its completion on the peer may write
    /// there with the window's new key, through this queue pair only.
    ///
    /// # Errors
    /// [`VerbsError`] with what the device says.
    pub fn bind(
        &self,
        id: u64,
        window: &mut Window,
        at: u64,
        bytes: u64,
    ) -> Result<(), VerbsError> {
        let key = window.next_key();
        let mut request = blank_request(id, sys::ibv_wr_opcode::IBV_WR_BIND_MW);
        request.bind_mw_tso_union.bind_mw = sys::bind_mw_t {
            mw: window.raw(),
            rkey: key,
            bind_info: sys::ibv_mw_bind_info {
                mr: window.registration().raw(),
                addr: at,
                length: bytes,
                mw_access_flags: sys::ibv_access_flags::IBV_ACCESS_REMOTE_WRITE.0,
            },
        };
        self.post(request)
    }

    /// Takes a window's key back: from its completion on nobody writes with it.
    ///
    /// # Errors
    /// [`VerbsError`] with what the device says.
    pub fn invalidate(&self, id: u64, window: &Window) -> Result<(), VerbsError> {
        let mut request = blank_request(id, sys::ibv_wr_opcode::IBV_WR_LOCAL_INV);
        request.imm_data_invalidated_rkey_union.invalidated_rkey = window.key();
        self.post(request)
    }

    fn post(&self, mut request: sys::ibv_send_wr) -> Result<(), VerbsError> {
        let mut refused = std::ptr::null_mut();
        // SAFETY: the request and its one part live until the call returns, which copies them. The
        // bytes that the device will read are inside a registration, or it refuses the request.
        let returned =
            unsafe { sys::ibv_post_send(self.raw(), &raw mut request, &raw mut refused) };
        VerbsError::check("ibv_post_send", returned)
    }
}

fn blank_request(id: u64, opcode: u32) -> sys::ibv_send_wr {
    // SAFETY: numbers, null pointers and unions of them; all zeros is a value of it.
    let mut request: sys::ibv_send_wr = unsafe { std::mem::zeroed() };
    (request.wr_id, request.opcode) = (id, opcode);
    request.send_flags = sys::ibv_send_flags::IBV_SEND_SIGNALED.0;
    request
}
