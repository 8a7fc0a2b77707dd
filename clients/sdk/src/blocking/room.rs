//! Replies that the session has no room for: it is opened again with more, and the request sent once
//! more.

use std::sync::Arc;
use std::time::Instant;

use ferry_core::Request;
use ferry_transport::{Completion, Driver};

use super::{Attached, Ended, Session, bring_up};
use crate::error::Error;
use crate::reply::{Reply, wanted};

/// A request whose reply had no room. At most one for each slot: its slot is free again only when
/// it is noted, and none is sent before all are.
#[derive(Debug)]
pub(super) struct Held {
    /// Its number, which its reply keeps.
    request: u64,
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
}

impl Session {
    /// The reply, or nothing if the request will be sent once more.
    ///
    /// # Errors
    /// As [`infer`](Session::infer).
    pub(super) fn reply_or_hold(&mut self, done: Completion) -> Result<Option<Reply>, Error> {
        let again = self.room.again.iter().position(|(request, _)| *request == done.request);
        let again = again.map(|at| self.room.again.swap_remove(at).1);
        let Some(bytes) = wanted(&done, &self.agreed).filter(|_| again.is_none()) else {
            return self.reply(done).map(|reply| Some(reply.numbered(again)));
        };
        let Some(slot) = &done.slot else { return self.reply(done).map(Some) };
        let mut payload = vec![0; done.request_bytes];
        let read = slot.request().copy_out(0, &mut payload);
        read.map_err(Error::memory("read the request that is sent once more"))?;
        let least = &mut self.options.reply_bytes_min;
        *least = bytes.max(*least);
        self.room.held.push(Held { request: done.request, what: done.what, payload });
        Ok(None)
    }

    /// Whether nothing is in flight, and requests wait to be sent once more.
    pub(super) fn must_reopen(&self) -> bool {
        let in_flight = self.driver.as_ref().map_or(0, Driver::in_flight);
        in_flight == 0 && !self.room.held.is_empty()
    }

    /// Opens the session again with room for the replies that had none, and sends their requests
    /// once more.
    ///
    /// # Errors
    /// [`Error::Refused`] where the server has no such room, [`Error::Attach`].
    pub(super) fn reopen(&mut self) -> Result<(), Error> {
        let held = std::mem::take(&mut self.room.held);
        tracing::info!(
            model = self.agreed.model, session = %self.agreed.session,
            reply_bytes = self.options.reply_bytes_min, requests = held.len(),
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
        let agreed = self.client.run(self.client.inner.negotiate(&self.options))?;
        let (up, gone) = bring_up(&self.client, &agreed, &self.options, next_request)?;
        let Attached { driver, table, device } = up;
        (self.driver, self.table, self.device) = (Ok(driver), table, device);
        (self.agreed, self.gone) = (Arc::new(agreed), gone);
        self.used = Instant::now();
        for Held { request, what, payload } in held {
            let slot = self.slot()?.refilled(what, &payload)?;
            let number = self.submit(slot)?;
            self.room.again.push((number, request));
        }
        Ok(())
    }

    /// The error for a request whose reply had no room while others are in flight: opening the
    /// session again would lose them.
    pub(super) fn room_refused(&mut self, request: u64) -> Error {
        self.room.held.retain(|held| held.request != request);
        let text = "take the replies of what else is in flight, and send it again".to_owned();
        Error::ReplyTooLarge { request, bytes: self.options.reply_bytes_min, text }
    }

    /// The number by which the caller knows what the link knows by this one.
    pub(super) fn callers_number(&self, request: u64) -> u64 {
        let again = self.room.again.iter().find(|(now, _)| *now == request);
        again.map_or(request, |(_, callers)| *callers)
    }

    /// The number by which the link knows a request.
    pub(super) fn number_now(&self, request: u64) -> u64 {
        let again = self.room.again.iter().find(|(_, callers)| *callers == request);
        again.map_or(request, |(now, _)| *now)
    }
}
