//! From state to state.

use std::marker::PhantomData;

use crate::verbs::sys;
use sys::ibv_qp_attr_mask as mask;

use super::{Init, Path, QueuePair, Reset, Rtr, Rts};
use crate::verbs::VerbsError;

impl QueuePair<Reset> {
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
