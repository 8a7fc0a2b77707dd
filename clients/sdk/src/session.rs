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
use crate::lane::{Command, Lane, Live};
use crate::options::Options;
use crate::recorder::RecordCounts;
use crate::reply::Reply;
use crate::slot::Slot;

/// Leases that a slot is waited for in: the present one, and the one after it.
const SLOT_TRIES: usize = 2;

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
    /// session is resumed first.
    ///
    /// # Errors
    /// [`Error::Resume`] if the link was lost and the session cannot be taken up again.
    ///
    /// # Cancel safety
    /// Dropping the future takes no slot.
    pub async fn slot(&self) -> Result<Slot, Error> {
        for _ in 0..SLOT_TRIES {
            let live = self.live().await?;
            let permit = Arc::clone(&live.permits).acquire_owned().await;
            // A permit stands for a free slot: it is given back after the slot. Whoever waited
            // for one while the link was lost is given one of the next lease.
            if let Ok(permit) = permit
                && !live.is_lost()
                && let Some(inner) = live.table.acquire()
            {
                let (agreed, device) = (Arc::clone(&live.agreed), live.device.as_ref());
                return Ok(Slot::new(inner, agreed, device, Some(permit)));
            }
        }
        Err(Error::LinkLost(LinkError::Closed))
    }

    /// Sends a request and waits for its reply.
    ///
    /// # Errors
    /// [`Error::Request`] with what the server says, [`Error::LinkLost`], [`Error::Timeout`].
    ///
    /// # Cancel safety
    /// Dropping the future forgets the answer; the slot comes back when the link is done with it.
    pub async fn infer(&self, slot: Slot) -> Result<Reply, Error> {
        let Shared { lane, timeout, .. } = &*self.shared;
        let live = lane.live();
        if !Arc::ptr_eq(&live.agreed, &slot.agreed) {
            return Err(Error::ForeignSlot);
        }
        let answer = lane.tell(|answer| Command::Infer { slot, answer })?;
        match tokio::time::timeout(*timeout, answer).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_dropped)) => Err(live.lost_error()),
            Err(_elapsed) => Err(Error::Timeout(*timeout)),
        }
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
