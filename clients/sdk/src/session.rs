//! An async session: many tasks share it, a thread of its own drives the link.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ferry_core::Status;
use ferry_cuda::ImportedBacking;
use ferry_memory::SlotTable;
use ferry_transport::LinkError;
use tokio::sync::{RwLock, Semaphore};

use crate::agreed::Agreed;
use crate::attach::{Attached, attach};
use crate::client::Client;
use crate::error::Error;
use crate::lane::Lane;
use crate::options::Options;
use crate::recorder::{RecordCounts, SessionSink};
use crate::reply::Reply;
use crate::slot::Slot;

/// Leases that a slot is waited for in: the present one, and the one after it.
const SLOT_TRIES: usize = 2;

/// A session. Clones share it. Dropping the last one leaves the server's part to the lease;
/// [`close`](Session::close) ends it at once.
#[derive(Clone, Debug)]
pub struct Session {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    options: Options,
    /// The present lease. Replaced by a resume, which waits for nobody but other resumes.
    live: RwLock<Arc<Live>>,
}

/// One lease.
#[derive(Debug)]
struct Live {
    agreed: Arc<Agreed>,
    table: Arc<SlotTable>,
    device: Option<Arc<ImportedBacking>>,
    permits: Arc<Semaphore>,
    lane: Lane,
    gone: Arc<AtomicBool>,
}

impl Live {
    fn is_lost(&self) -> bool {
        self.lane.lost().is_some() || self.gone.load(Ordering::Acquire)
    }

    /// Why the lease carries nothing any more. What no link told, a heartbeat's answer did.
    fn why_lost(&self) -> LinkError {
        self.lane.lost().cloned().unwrap_or(LinkError::Bye(Status::SessionEnded))
    }

    /// Gives out no slot any more, and waits until the thread has handed over its last record.
    async fn end(&self) {
        self.permits.close();
        self.lane.end();
        while !self.lane.has_ended() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Session {
    pub(crate) async fn open(client: Client, options: Options) -> Result<Session, Error> {
        let agreed = client.negotiate(&options).await?;
        let transport = agreed.transport;
        let live = match bring_up(&client, agreed, &options, 1).await {
            Err(error) if options.failed(transport, &error) => {
                let agreed = client.negotiate(&options).await?;
                bring_up(&client, agreed, &options, 1).await?
            }
            other => other?,
        };
        let live = RwLock::new(Arc::new(live));
        Ok(Session { shared: Arc::new(Shared { client, options, live }) })
    }

    /// What was agreed with the server, for the present lease.
    pub async fn agreed(&self) -> Arc<Agreed> {
        Arc::clone(&self.shared.live.read().await.agreed)
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
                return Ok(Slot::new(
                    inner,
                    Arc::clone(&live.agreed),
                    live.device.as_ref(),
                    Some(permit),
                ));
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
        let live = Arc::clone(&*self.shared.live.read().await);
        if !Arc::ptr_eq(&live.agreed, &slot.agreed) {
            return Err(Error::ForeignSlot);
        }
        let answer = live.lane.submit(slot)?;
        let timeout = self.shared.options.timeout;
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_thread_is_gone)) => Err(live.lane.lost_error()),
            Err(_elapsed) => Err(Error::Timeout(timeout)),
        }
    }

    /// Takes the session up again after its link was lost; see
    /// [`blocking::Session::resume`](crate::blocking::Session::resume).
    ///
    /// # Errors
    /// [`Error::Resume`] says how the link ended, and by its source why nothing could take its
    /// place: [`Error::Refused`], [`Error::Attach`].
    pub async fn resume(&self) -> Result<(), Error> {
        let mut live = self.shared.live.write().await;
        if !live.is_lost() {
            return Ok(());
        }
        let why = live.why_lost();
        live.end().await;
        let next = self.shared.next_lease(&live).await.map_err(Error::resume(Some(why)))?;
        *live = Arc::new(next);
        Ok(())
    }

    /// Ends the session: sends the timings that wait and frees what the server holds. Requests in
    /// flight end with [`Error::LinkLost`].
    ///
    /// # Errors
    /// [`Error::Refused`] if the server does not answer.
    pub async fn close(self) -> Result<RecordCounts, Error> {
        let live = self.shared.live.write().await;
        live.end().await;
        let closed = self.shared.client.keeper.close(&live.agreed).await;
        closed.map_err(Error::refused("close the session"))
    }

    async fn live(&self) -> Result<Arc<Live>, Error> {
        let live = Arc::clone(&*self.shared.live.read().await);
        if !live.is_lost() {
            return Ok(live);
        }
        self.resume().await?;
        Ok(Arc::clone(&*self.shared.live.read().await))
    }
}

impl Shared {
    async fn next_lease(&self, last: &Live) -> Result<Live, Error> {
        let Shared { client, options, .. } = self;
        let agreed = client.resume(&last.agreed, options).await?;
        let first_request = last.lane.next_request();
        let transport = agreed.transport;
        let up = bring_up(client, agreed, options, first_request).await;
        // Where the server chose it, the next try opens a session without it.
        up.inspect_err(|error| {
            options.failed(transport, error);
        })
    }
}

async fn bring_up(
    client: &Client,
    agreed: Agreed,
    options: &Options,
    first_request: u64,
) -> Result<Live, Error> {
    let gone = client.keeper.hold(&agreed);
    let agreed = Arc::new(agreed);
    let attaching = {
        let (server, agreed) = (Arc::clone(&client.server), Arc::clone(&agreed));
        let (options, control) = (options.clone(), client.clone());
        let runtime = tokio::runtime::Handle::current();
        let sink = SessionSink::new(&options, &client.keeper.recorder);
        // Connecting blocks for as long as the peer takes.
        tokio::task::spawn_blocking(move || {
            let tell = |attachment: &_| runtime.block_on(control.tell(&agreed, attachment));
            attach(&server, &agreed, &options, first_request, sink, &tell)
        })
    };
    let attached = attaching.await.unwrap_or_else(|panicked| {
        let source = std::io::Error::other(panicked);
        Err(Error::Start { what: "the data plane", source })
    });
    let up = attached.and_then(|Attached { driver, table, device }| {
        Ok((Lane::spawn(driver, Arc::clone(&agreed))?, table, device))
    });
    match up {
        Ok((lane, table, device)) => {
            let permits = Arc::new(Semaphore::new(agreed.layout.slots as usize));
            Ok(Live { agreed, table, device, permits, lane, gone })
        }
        Err(error) => {
            // The server has made the session: free it now, not when its lease ends.
            drop(client.keeper.close(&agreed).await);
            Err(error)
        }
    }
}
