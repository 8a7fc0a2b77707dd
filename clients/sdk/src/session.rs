//! An async session: many tasks share it, a thread of its own drives the link.

use std::sync::Arc;
use std::time::Duration;

use ferry_transport::LinkError;
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use crate::agreed::Agreed;
use crate::blocking;
use crate::client::Client;
use crate::error::Error;
use crate::lane::{Asked, Command, Lane, Live};
use crate::options::Options;
use crate::recorder::RecordCounts;
use crate::reply::Reply;
use crate::slot::Slot;

/// Leases that a slot is waited for in, and a request moves to: the present one, and those after it
/// if the link is lost or replies have no room meanwhile. Each that is outgrown is followed by one
/// with twice the room, up to a growth of 1 MiB at a time.
const LEASES_TRIED: usize = 16;

/// A session. Clones share it. Dropping the last one ends it as soon as the runtime gets to it;
/// [`close`](Session::close) tells how that went.
#[derive(Clone, Debug)]
pub struct Session {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    lane: Lane,
    timeout: Duration,
    /// Held by the one task that has the session resumed.
    resuming: Mutex<()>,
}

impl Session {
    pub(crate) async fn open(client: Client, options: Options) -> Result<Session, Error> {
        let timeout = options.timeout;
        let client = blocking::Client::lent(client, Handle::current());
        let lane = Lane::start(client, options).await?;
        let resuming = Mutex::new(());
        Ok(Session { shared: Arc::new(Shared { lane, timeout, resuming }) })
    }

    /// What was agreed with the server, for the present lease.
    pub fn agreed(&self) -> Arc<Agreed> {
        Arc::clone(&self.shared.lane.live().agreed)
    }

    /// A free slot; waits while all are held: this is the back-pressure. If the link was lost, the
    /// session is resumed first. If a reply had no room, the session is opened again first.
    ///
    /// # Errors
    /// [`Error::Resume`] if the link was lost and the session cannot be taken up again.
    ///
    /// # Cancel safety
    /// Dropping the future takes no slot.
    pub async fn slot(&self) -> Result<Slot, Error> {
        for _ in 0..LEASES_TRIED {
            let live = self.live().await?;
            let permit = Arc::clone(&live.permits).acquire_owned().await;
            // Closed: the lease is over, and there is another, or none.
            let Ok(permit) = permit else { continue };
            if !live.is_lost()
                && let Some(inner) = live.table.acquire()
            {
                let (agreed, device) = (Arc::clone(&live.agreed), live.device.as_ref());
                // Given back after the slot that it stands for.
                return Ok(Slot::new(inner, agreed, device, Some(permit)));
            }
            // The lease has just ended, and with it what this stands for: whoever is given it next
            // would find no slot either.
            permit.forget();
        }
        Err(Error::LinkLost(LinkError::Closed))
    }

    /// Sends a request and waits for its reply. If the reply has no room, those to all requests in
    /// flight are waited for too, the session is opened again with that room, and the request is
    /// sent once more. Slots that other tasks hold meanwhile can be sent as before.
    ///
    /// # Errors
    /// [`Error::Request`] with what the server says, [`Error::ReplyTooLarge`], [`Error::LinkLost`],
    /// [`Error::ForeignSlot`], [`Error::Timeout`].
    ///
    /// # Cancel safety
    /// Dropping the future forgets the answer; the slot comes back when the link is done with it.
    pub async fn infer(&self, slot: Slot) -> Result<Reply, Error> {
        let timeout = self.shared.timeout;
        let asked = tokio::time::timeout(timeout, self.ask(slot)).await;
        asked.unwrap_or(Err(Error::Timeout(timeout)))
    }

    async fn ask(&self, mut slot: Slot) -> Result<Reply, Error> {
        let lane = &self.shared.lane;
        for _ in 0..LEASES_TRIED {
            let live = lane.live();
            if live.has_outgrown(&slot) {
                slot = slot.moved_to(self.slot().await?)?;
            } else if !live.has(&slot) {
                return Err(Error::ForeignSlot);
            }
            let answer = lane.tell(|answer| Command::Infer { slot, answer })?;
            slot = match answer.await {
                Ok(Ok(Asked::Answered(reply))) => return Ok(reply),
                Ok(Ok(Asked::Outgrown(slot))) => slot,
                Ok(Err(error)) => return Err(error),
                Err(_dropped) => return Err(live.lost_error()),
            };
        }
        Err(Error::ForeignSlot)
    }

    /// Takes the session up again after its link was lost; see
    /// [`blocking::Session::resume`](crate::blocking::Session::resume).
    ///
    /// # Errors
    /// [`Error::Resume`] says how the link ended, and by its source why nothing could take its
    /// place: [`Error::Refused`], [`Error::Attach`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves the session to be resumed all the same.
    pub async fn resume(&self) -> Result<(), Error> {
        let Shared { lane, resuming, .. } = &*self.shared;
        let _one = resuming.lock().await;
        if !lane.live().is_lost() {
            return Ok(());
        }
        let answer = lane.tell(|answer| Command::Resume { answer })?;
        answer.await.unwrap_or_else(|_dropped| Err(lane.live().lost_error()))
    }

    /// Ends the session: sends the timings that wait and frees what the server holds. Requests in
    /// flight end with [`Error::LinkLost`].
    ///
    /// # Errors
    /// [`Error::Refused`] if the server does not answer.
    pub async fn close(self) -> Result<RecordCounts, Error> {
        let lane = &self.shared.lane;
        let answer = lane.tell(|answer| Command::Close { answer })?;
        answer.await.unwrap_or_else(|_dropped| Err(lane.live().lost_error()))
    }

    async fn live(&self) -> Result<Arc<Live>, Error> {
        let live = self.shared.lane.live();
        if !live.is_lost() {
            return Ok(live);
        }
        self.resume().await?;
        Ok(self.shared.lane.live())
    }
}
