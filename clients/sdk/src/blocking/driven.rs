//! What the thread of an async session does with the blocking session that it owns.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ferry_connect::ImportedBacking;
use ferry_core::Status;
use ferry_memory::SlotTable;
use ferry_transport::{DriverState, LinkError, Waker};

use super::Session;
use crate::agreed::Agreed;
use crate::error::Error;
use crate::reply::Reply;

/// What other threads need of a lease.
pub(crate) struct Lease {
    pub(crate) agreed: Arc<Agreed>,
    pub(crate) table: Arc<SlotTable>,
    pub(crate) device: Option<Arc<ImportedBacking>>,
    pub(crate) gone: Arc<AtomicBool>,
    /// Ends a sleep of the thread that waits for the link.
    pub(crate) waker: Waker,
    /// The lease before, if that had too little room.
    pub(crate) outgrown: Option<Arc<Agreed>>,
}

impl Session {
    /// The present lease; `None` where the link is gone already.
    pub(crate) fn lease(&self) -> Option<Lease> {
        Some(Lease {
            agreed: Arc::clone(&self.agreed),
            table: Arc::clone(&self.table),
            device: self.device.clone(),
            gone: Arc::clone(&self.gone),
            waker: self.driver.as_ref().ok()?.waker()?,
            outgrown: self.outgrown().cloned(),
        })
    }

    /// Looks at the link once; why it carries nothing any more, if it does not.
    pub(crate) fn poll(&mut self) -> Option<LinkError> {
        if let Ok(driver) = &mut self.driver {
            driver.poll();
        }
        match &self.driver {
            // Somebody closed it, or a resume failed.
            Err(ended) => Some(ended.why.clone().unwrap_or(LinkError::Bye(Status::SessionEnded))),
            Ok(_) => self.lost(),
        }
    }

    /// An answer that has come, and the number of its request. Where replies had no room and all
    /// others have come, the session is opened again first.
    pub(crate) fn take(&mut self) -> Option<(u64, Result<Reply, Error>)> {
        self.keep_what_came();
        if self.early.is_empty() && self.must_reopen() {
            self.reopen();
        }
        self.early.pop_front()
    }

    /// Waits as the session's policy says; where there is no link, until the thread is unparked.
    pub(crate) fn pause(&mut self, busy: bool, at_most: Duration) {
        match &mut self.driver {
            Ok(driver) if *driver.state() == DriverState::Live => {
                if busy {
                    driver.busy()
                } else {
                    driver.idle(at_most)
                }
            }
            _ => std::thread::park_timeout(at_most),
        }
    }
}
