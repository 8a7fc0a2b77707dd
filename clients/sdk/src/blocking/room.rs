//! Replies that the session has no room for: it is opened again with more, and the request sent once
//! more.

use std::sync::Arc;
use std::time::Instant;

use ferry_core::{Request, error_text};
use ferry_transport::{Completion, Driver};

use super::{Ended, Session, begin};
use crate::agreed::Agreed;
use crate::error::Error;
use crate::reply::wanted;
use crate::slot::Slot;

/// A request whose reply had no room. At most one for each slot: its slot is free again only when
/// it is noted, and no slot is handed out before all are sent once more.
#[derive(Debug)]
pub(super) struct Held {
    /// Its number, which its reply keeps.
    request: u64,
    /// Room that its reply takes.
    bytes: u64,
    what: Request,
    payload: Vec<u8>,
}

/// What is known of requests whose replies had no room.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// To be sent once more when nothing is in flight.
    held: Vec<Held>,
    /// Sent once more: number of the link, number of the caller.
    again: Vec<(u64, u64)>,
    /// What had no room: slots of it that are still out may be sent in the present lease.
    outgrown: Option<Arc<Agreed>>,
}

impl Room {
    /// The number by which the caller knows a request, if it was sent once more.
    pub(super) fn taken(&mut self, request: u64) -> Option<u64> {
        let at = self.again.iter().position(|(now, _)| *now == request)?;
        Some(self.again.swap_remove(at).1)
    }

    /// Keeps a request whose reply had no room; nothing if it had.
    ///
    /// # Errors
    /// [`Error::Memory`] if it cannot be read out of its slot.
    pub(super) fn hold(&mut self, done: &Completion, agreed: &Agreed) -> Option<Result<(), Error>> {
        let (bytes, slot) = (wanted(done, agreed)?, done.slot.as_ref()?);
        let mut payload = vec![0; done.request_bytes];
        if let Err(error) = slot.request().copy_out(0, &mut payload) {
            return Some(Err(Error::memory("read the request that is sent once more")(error)));
        }
        self.held.push(Held { request: done.request, bytes, what: done.what, payload });
        Some(Ok(()))
    }

    /// Whether a request was held; it is no more.
    pub(super) fn drop_held(&mut self, request: u64) -> bool {
        let at = self.held.iter().position(|held| held.request == request);
        at.map(|at| self.held.swap_remove(at)).is_some()
    }

    /// The lease before is over, and none of its slots can be sent.
    pub(super) fn forget(&mut self) {
        self.outgrown = None;
    }
}

impl Session {
    /// Whether requests wait to be sent once more in slots with more room.
    pub(crate) fn is_outgrown(&self) -> bool {
        !self.room.held.is_empty()
    }

    /// Whether nothing is in flight, and requests wait to be sent once more.
    pub(super) fn must_reopen(&self) -> bool {
        self.is_outgrown() && self.driver.as_ref().map_or(0, Driver::in_flight) == 0
    }

    /// Waits for the replies that must come before the session is opened again, and opens it.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::LinkLost`].
    pub(super) fn make_room(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + self.options.timeout;
        while self.is_outgrown() {
            let answer = self.answer(deadline)?;
            self.early.extend(answer);
        }
        Ok(())
    }

    /// Opens the session again with room for the replies that had none, and sends their requests
    /// once more. Those that cannot be sent are answered with the reason.
    pub(super) fn reopen(&mut self) {
        // They go with the link.
        self.keep_what_came();
        let mut held = std::mem::take(&mut self.room.held);
        held.sort_unstable_by_key(|held| held.request);
        if let Err(error) = self.open_larger(&held) {
            let text = format!(
                "the session cannot be opened again with that room: {}",
                error_text(&error)
            );
            tracing::warn!(model = self.agreed.model, %text, "replies have no room");
            self.early.extend(held.into_iter().map(|Held { request, bytes, .. }| {
                (request, Err(Error::ReplyTooLarge { request, bytes, text: text.clone() }))
            }));
            return;
        }
        for Held { request, what, payload, .. } in held {
            let slot = self.acquire().and_then(|slot| slot.refilled(what, &payload));
            match slot.and_then(|slot| self.send(slot)) {
                Ok(now) => self.room.again.push((now, request)),
                Err(error) => self.early.push_back((request, Err(error))),
            }
        }
    }

    /// # Errors
    /// [`Error::Refused`] where the server has no such room, [`Error::Attach`]. The session is
    /// over then, and the next `slot()` opens one as it was before.
    fn open_larger(&mut self, held: &[Held]) -> Result<(), Error> {
        let bytes = held.iter().map(|held| held.bytes).max().unwrap_or(0);
        tracing::info!(
            model = self.agreed.model, session = %self.agreed.session,
            reply_bytes = bytes, requests = held.len(),
            "the model's outputs have no room in the session: it is opened again with more"
        );
        let next_request = match &self.driver {
            Ok(driver) => driver.next_request(),
            Err(ended) => ended.next_request,
        };
        // The old link must be gone before the new one comes, and its last record handed over.
        self.driver = Err(Ended { why: None, next_request });
        if let Err(error) = self.close_on_server() {
            tracing::debug!(%error, "the session is left to its lease");
        }
        let mut options = self.options.clone();
        options.reply_bytes_min = bytes.max(options.reply_bytes_min);
        // Those of the warm-up are sent once more under the next numbers.
        let warmup = held.iter().filter(|held| held.request <= options.warmup).count() as u64;
        if warmup > 0 {
            options.warmup = options.warmup.max(next_request.saturating_sub(1)) + warmup;
        }
        let outgrown = Arc::clone(&self.agreed);
        self.adopt(begin(&self.client, &options, next_request)?);
        (self.options, self.room.outgrown) = (options, Some(outgrown));
        self.used = Instant::now();
        Ok(())
    }

    /// A slot of the present lease with the same request, if the lease of this one was outgrown
    /// since it was handed out.
    ///
    /// # Errors
    /// [`Error::ForeignSlot`], [`Error::SlotsInUse`].
    pub(super) fn of_this_lease(&self, slot: Slot) -> Result<Slot, Error> {
        if self.is_under(&slot.agreed) {
            return Ok(slot);
        }
        if !self.has_outgrown(&slot.agreed) {
            return Err(Error::ForeignSlot);
        }
        slot.moved_to(self.acquire()?)
    }

    /// Whether this is the present lease.
    pub(crate) fn is_under(&self, agreed: &Arc<Agreed>) -> bool {
        Arc::ptr_eq(&self.agreed, agreed)
    }

    /// Whether this is the lease before the present one, which had too little room.
    pub(crate) fn has_outgrown(&self, agreed: &Arc<Agreed>) -> bool {
        self.outgrown().is_some_and(|outgrown| Arc::ptr_eq(outgrown, agreed))
    }

    /// The lease before the present one, if that had too little room.
    pub(crate) fn outgrown(&self) -> Option<&Arc<Agreed>> {
        self.room.outgrown.as_ref()
    }
}
