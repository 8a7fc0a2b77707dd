//! The work requests of a queue pair in RTS.

use crate::verbs::sys;

use super::{QueuePair, Rts, Write};
use crate::verbs::{Part, VerbsError, Window};

impl QueuePair<Rts> {
    /// Posts one write with an immediate. The bytes stay as they are until its completion.
    ///
    /// # Errors
    /// [`VerbsError`]: out of memory (12) if more was posted than the queue has room for.
    pub fn write(&self, write: &Write<'_>) -> Result<(), VerbsError> {
        let mut part = write.part.element();
        let mut request = self.written(write);
        (request.sg_list, request.num_sge) = (&raw mut part, 1);
        self.post(&mut request)
    }

    /// As [`write`](QueuePair::write), with `behind` gathered right behind the bytes of the write:
    /// the two lie apart here and together at the peer. `behind` may be memory of a device.
    ///
    /// # Errors
    /// [`VerbsError`]: out of memory (12) if more was posted than the queue has room for.
    pub fn write_gathered(&self, write: &Write<'_>, behind: Part<'_>) -> Result<(), VerbsError> {
        let mut parts = [write.part.element(), behind.element()];
        let mut request = self.written(write);
        (request.sg_list, request.num_sge) = (parts.as_mut_ptr(), 2);
        // As in `written`, for `behind`.
        request.send_flags &= !sys::ibv_send_flags::IBV_SEND_INLINE.0;
        self.post(&mut request)
    }

    /// Posts a write of `payload` to an address of the peer's of its own, and `write` behind it:
    /// the peer sees them in this order. Of the first, numbered `id`, only a failure is completed;
    /// that `write` is complete says that both are.
    ///
    /// # Errors
    /// [`VerbsError`]: out of memory (12) if more was posted than the queue has room for; then the
    /// first may have been sent, which tells the peer nothing.
    pub fn write_apart(
        &self,
        id: u64,
        payload: Part<'_>,
        remote_address: u64,
        remote_key: u32,
        write: &Write<'_>,
    ) -> Result<(), VerbsError> {
        let (mut part, mut header) = (payload.element(), write.part.element());
        let mut second = self.written(write);
        (second.sg_list, second.num_sge) = (&raw mut header, 1);
        let mut request = blank_request(id, sys::ibv_wr_opcode::IBV_WR_RDMA_WRITE);
        request.send_flags = 0;
        (request.sg_list, request.num_sge) = (&raw mut part, 1);
        request.wr.rdma = sys::WriteTarget { remote_addr: remote_address, rkey: remote_key };
        request.next = &raw mut second;
        self.post(&mut request)
    }

    /// A write with its immediate, without its bytes.
    fn written(&self, write: &Write<'_>) -> sys::ibv_send_wr {
        let mut request = blank_request(write.id, sys::ibv_wr_opcode::IBV_WR_RDMA_WRITE_WITH_IMM);
        // The processor reads what is inline: it cannot read a device's memory.
        if write.part.is_of_host() && write.part.bytes() <= self.inline_bytes {
            request.send_flags |= sys::ibv_send_flags::IBV_SEND_INLINE.0;
        }
        request.__bindgen_anon_1.imm_data = write.immediate.to_be();
        request.wr.rdma =
            sys::WriteTarget { remote_addr: write.remote_address, rkey: write.remote_key };
        request
    }

    /// Posts a write of no bytes and no immediate: the peer's program notices nothing, and its
    /// device acknowledges it if it is there.
    ///
    /// # Errors
    /// [`VerbsError`] with what the device says.
    pub fn touch(&self, id: u64, remote_address: u64, remote_key: u32) -> Result<(), VerbsError> {
        let mut request = blank_request(id, sys::ibv_wr_opcode::IBV_WR_RDMA_WRITE);
        request.wr.rdma = sys::WriteTarget { remote_addr: remote_address, rkey: remote_key };
        self.post(&mut request)
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
        request.__bindgen_anon_2.bind_mw = sys::BindWindow {
            mw: window.raw(),
            rkey: key,
            bind_info: sys::ibv_mw_bind_info {
                mr: window.registration().raw(),
                addr: at,
                length: bytes,
                mw_access_flags: sys::ibv_access_flags::IBV_ACCESS_REMOTE_WRITE.0,
            },
        };
        self.post(&mut request)
    }

    /// Takes a window's key back: from its completion on nobody writes with it.
    ///
    /// # Errors
    /// [`VerbsError`] with what the device says.
    pub fn invalidate(&self, id: u64, window: &Window) -> Result<(), VerbsError> {
        let mut request = blank_request(id, sys::ibv_wr_opcode::IBV_WR_LOCAL_INV);
        request.__bindgen_anon_1.invalidate_rkey = window.key();
        self.post(&mut request)
    }

    fn post(&self, request: &mut sys::ibv_send_wr) -> Result<(), VerbsError> {
        let mut refused = std::ptr::null_mut();
        // SAFETY: the request, its parts and the one behind it live until the call returns, which
        // copies them. The bytes are a `Part` of a registration that is borrowed until then, which
        // holds them mapped: the device reads them by its key, and those that are inline are
        // memory of the host.
        let returned =
            unsafe { sys::ibv_post_send(self.raw(), &raw mut *request, &raw mut refused) };
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
