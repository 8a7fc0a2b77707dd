//! The two queues between one client and the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crossbeam_queue::ArrayQueue;
use ferry_core::{Frame, Status, Tail};
use ferry_memory::Slot;

use crate::bell::Bell;
use crate::link::LinkError;

const OPEN: u32 = 0;
const CLOSED: u32 = 1;
/// A status on the wire plus this says why the server closed.
const BYE: u32 = 2;

/// What goes from one end to the other.
#[derive(Debug)]
pub(super) struct Moved {
    pub(super) frame: Frame,
    pub(super) slot: Slot,
    pub(super) tail: Tail,
}

/// One connection. A slot is in at most one of the queues, so each holds all of a session's.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) to_server: ArrayQueue<Moved>,
    pub(super) to_client: ArrayQueue<Moved>,
    server_bell: Arc<Bell>,
    pub(super) client_bell: Arc<Bell>,
    client_gone: AtomicBool,
    server_gone: AtomicU32,
}

impl Channel {
    pub(super) fn new(slots: usize, server_bell: Arc<Bell>) -> Channel {
        Channel {
            to_server: ArrayQueue::new(slots),
            to_client: ArrayQueue::new(slots),
            server_bell,
            client_bell: Arc::new(Bell::default()),
            client_gone: AtomicBool::new(false),
            server_gone: AtomicU32::new(OPEN),
        }
    }

    /// Client → server. Gives it back if the queue is full.
    #[expect(clippy::result_large_err, reason = "given back as it came, without an allocation")]
    pub(super) fn request(&self, moved: Moved) -> Result<(), Moved> {
        let pushed = self.to_server.push(moved);
        self.server_bell.notify();
        pushed
    }

    /// Server → client. Gives it back if the queue is full.
    #[expect(clippy::result_large_err, reason = "given back as it came, without an allocation")]
    pub(super) fn reply(&self, moved: Moved) -> Result<(), Moved> {
        let pushed = self.to_client.push(moved);
        self.client_bell.notify();
        pushed
    }

    pub(super) fn leave(&self) {
        self.client_gone.store(true, Ordering::Release);
        self.server_bell.notify();
    }

    pub(super) fn client_is_gone(&self) -> bool {
        self.client_gone.load(Ordering::Acquire)
    }

    /// Ends it from the server's side; the first reason stays.
    pub(super) fn close(&self, why: Option<Status>) {
        let why = why.map_or(CLOSED, |status| BYE + u32::from(status.to_wire()));
        // A second reason is not told: the peer has the first.
        let _told =
            self.server_gone.compare_exchange(OPEN, why, Ordering::AcqRel, Ordering::Relaxed);
        self.client_bell.notify();
    }

    /// Why the server ended it, if it did.
    pub(super) fn server_gone(&self) -> Option<LinkError> {
        match self.server_gone.load(Ordering::Acquire) {
            OPEN => None,
            number => {
                let status = number.checked_sub(BYE).and_then(|n| u16::try_from(n).ok());
                Some(status.and_then(Status::from_wire).map_or(LinkError::Closed, LinkError::Bye))
            }
        }
    }
}
