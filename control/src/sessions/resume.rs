//! Sessions that go on: their other end is told, or their link is made anew.

use std::sync::PoisonError;
use std::time::Instant;

use ferry_core::{Attachment, Generation, RegionDescriptor, SessionId, Status, Token, error_text};
use ferry_memory::SlotTable;

use super::open::{Opened, admit, take_off};
use super::{Place, Sessions};
use crate::error::ApiError;

impl Sessions {
    /// Tells a session's link of its client's end. May be called again, with another address, until
    /// the client has joined.
    ///
    /// # Errors
    /// [`ApiError`] if the proof does not fit, the session's link takes no attachments, the client has
    /// joined already, or the link cannot reach the client's end.
    pub async fn attach(
        &self,
        id: SessionId,
        token: &Token,
        generation: Generation,
        attachment: Attachment,
    ) -> Result<RegionDescriptor, ApiError> {
        let session = self.prove(id, token, generation)?;
        let _turn = session.turn.lock().await;
        {
            let lease = session.lease();
            if lease.over || lease.generation != generation {
                return Err(ApiError::NoSuchSession);
            }
        }
        match &session.place {
            Place::Lane(lane) if session.agreed.transport.facts().needs_attach => {
                lane.attach(id, attachment).await
            }
            _ => {
                let transport = session.agreed.transport;
                let why = format!(
                    "it is on {transport}, whose clients connect by themselves; only sessions on rdma \
                     and gdr are attached"
                );
                Err(ApiError::field("session", why))
            }
        }
    }

    /// Takes a session up again: the old lease is fenced before the new one begins.
    ///
    /// # Errors
    /// [`ApiError::NoSuchSession`] if the proof does not fit; then nothing has changed. If the lane
    /// does not take the new lease, the session is over.
    pub async fn resume(
        &self,
        id: SessionId,
        token: &Token,
        generation: Generation,
    ) -> Result<Opened, ApiError> {
        self.parts.gate.takes_new()?;
        let session = self.prove(id, token, generation)?;
        let turn = session.turn.lock().await;
        {
            // Whoever resumed or ended it meanwhile was first.
            let mut lease = session.lease();
            if lease.over || lease.generation != generation {
                return Err(ApiError::NoSuchSession);
            }
            let next = generation.next().ok_or(ApiError::NoSuchSession)?;
            (lease.generation, lease.expires) = (next, Instant::now() + self.lease());
        }
        take_off(&session, Status::SessionEnded).await;
        if let Place::Inline(slots) = &session.place {
            let table = SlotTable::private(session.agreed.layout);
            let table = table.map_err(|error| ApiError::Busy(error_text(&error)))?;
            *slots.lock().unwrap_or_else(PoisonError::into_inner) = table;
        }
        match admit(&session).await {
            Ok((endpoint, region)) => {
                tracing::info!(session = %id, generation = generation.0 + 1, "session resumed");
                drop(turn);
                Ok(Opened { session, endpoint, region })
            }
            Err(error) => {
                session.lease().over = true;
                self.forget(&session, "not_admitted");
                Err(error)
            }
        }
    }
}
