//! For programs without an async runtime, and for least latency: the caller's own thread drives
//! the link, and nothing hops to another one.

mod client;
mod driven;
mod replies;
mod room;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ferry_connect::ImportedBacking;
use ferry_core::session::SLOTS_MAX;
use ferry_core::{Status, nanos};
use ferry_memory::SlotTable;
use ferry_transport::{Driver, DriverState, LinkError};

use crate::agreed::Agreed;
use crate::attach::{Attached, attach};
use crate::error::Error;
use crate::options::Options;
use crate::recorder::{RecordCounts, SessionSink};
use crate::slot::Slot;
use room::Room;

pub use client::Client;
pub(crate) use driven::Lease;
pub use replies::Answer;

/// How long closing may take before it is left to the session's lease.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// After so long without a request the link is looked at before a slot is handed out: whether it
/// broke meanwhile. It costs one poll, which busy sessions need not pay.
const QUIET: Duration = Duration::from_millis(1);

/// A session whose link is driven by the calling thread.
#[derive(Debug)]
pub struct Session {
    /// Dropped before the client: its last record goes through the client's tasks.
    driver: Result<Driver, Ended>,
    table: Arc<SlotTable>,
    device: Option<Arc<ImportedBacking>>,
    agreed: Arc<Agreed>,
    gone: Arc<AtomicBool>,
    client: Client,
    options: Options,
    /// Replies to earlier requests that came while another one was waited for, in their order.
    /// No longer than [`SLOTS_MAX`] when the application sends a request, and twice that after a
    /// lease that ended.
    early: VecDeque<Answer>,
    /// Requests whose `infer` gave up: nobody takes their replies. Each holds a slot until then, so
    /// that there are no more of them than slots.
    given_up: Vec<u64>,
    /// Requests whose replies had no room, and the lease that they had.
    room: Room,
    /// When the last slot was handed out.
    used: Instant,
    closed: bool,
}

/// What is kept of a link until another one has taken its place.
#[derive(Clone, Debug)]
struct Ended {
    /// Why it ended, where nobody asked it to.
    why: Option<LinkError>,
    /// Requests of the next link go on from here.
    next_request: u64,
}

impl Session {
    pub(crate) fn open(client: Client, options: Options) -> Result<Session, Error> {
        let Up { agreed, attached: Attached { driver, table, device }, gone } =
            begin(&client, &options, 1)?;
        Ok(Session {
            driver: Ok(driver),
            table,
            device,
            agreed,
            gone,
            client,
            options,
            early: VecDeque::new(),
            given_up: Vec::new(),
            room: Room::default(),
            used: Instant::now(),
            closed: false,
        })
    }

    /// What was agreed with the server, for the present lease.
    pub fn agreed(&self) -> &Agreed {
        &self.agreed
    }

    /// A free slot. If the link was lost, the session is resumed first. If a reply had no room,
    /// the replies to all requests in flight are waited for and kept for
    /// [`next_reply`](Session::next_reply), and the session is opened again with that room.
    ///
    /// # Errors
    /// [`Error::SlotsInUse`] if there is none: take or drop a reply. [`Error::Resume`] if the link
    /// was lost and the session cannot be taken up again. [`Error::Timeout`] if a reply that must
    /// come first does not.
    pub fn slot(&mut self) -> Result<Slot, Error> {
        self.look_after_quiet();
        self.revive()?;
        if self.is_outgrown() {
            self.make_room()?;
            self.revive()?;
        }
        self.acquire()
    }

    /// A free slot if there is one and nothing has to be waited for; else [`slot`](Session::slot)
    /// gives one, or says why not. For callers that must not wait where they are.
    pub fn slot_at_once(&mut self) -> Option<Slot> {
        self.look_after_quiet();
        let waits = self.driver.is_err() || self.lost().is_some() || self.is_outgrown();
        if waits { None } else { self.acquire().ok() }
    }

    fn look_after_quiet(&mut self) {
        let now = Instant::now();
        if now.saturating_duration_since(self.used) >= QUIET
            && let Ok(driver) = &mut self.driver
        {
            driver.poll();
        }
        self.used = now;
    }

    /// Takes the session up again if there is need.
    fn revive(&mut self) -> Result<(), Error> {
        let is_over = self.driver.is_err() || self.lost().is_some();
        if is_over { self.resume() } else { Ok(()) }
    }

    fn acquire(&self) -> Result<Slot, Error> {
        let inner = self.table.acquire().ok_or(Error::SlotsInUse(self.agreed.layout.slots))?;
        Ok(Slot::new(inner, Arc::clone(&self.agreed), self.device.as_ref(), None))
    }

    /// A free slot, or `None` if all are in use. For programs that keep several requests in flight.
    ///
    /// # Errors
    /// As [`slot`](Session::slot), but for the slots that are in use.
    pub fn try_slot(&mut self) -> Result<Option<Slot>, Error> {
        match self.slot() {
            Err(Error::SlotsInUse(_)) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Sends a request and returns at once with its number. Several may be in flight; take their
    /// replies with [`next_reply`](Session::next_reply), which come in the order in which they are
    /// ready.
    ///
    /// # Errors
    /// [`Error::LinkLost`], [`Error::ForeignSlot`], [`Error::RepliesWait`]. [`Error::SlotsInUse`] if
    /// the session was opened again with more room since the slot was taken, and slots that were
    /// taken meanwhile leave none for it. The slot is given up in any case.
    pub fn submit(&mut self, slot: Slot) -> Result<u64, Error> {
        if self.early.len() >= SLOTS_MAX as usize {
            return Err(Error::RepliesWait(self.early.len()));
        }
        let slot = self.of_this_lease(slot)?;
        self.send(slot)
    }

    /// Sends a request in a slot of the present lease: the driver takes the table of the first slot
    /// for its own.
    fn send(&mut self, slot: Slot) -> Result<u64, Error> {
        let fill_ns = Some(nanos(slot.handed_out.elapsed()));
        let bytes = slot.payload_len();
        let driver = self.driver.as_mut().map_err(|ended| ended.error())?;
        driver.submit(slot.inner, bytes, slot.what, fill_ns).map_err(|error| {
            // A link that takes nothing any more says so in its next events.
            driver.poll();
            error.why.into()
        })
    }

    /// Takes the session up again after its link was lost: a new lease, new slots. Where the
    /// server does not know the session any more (it was restarted, or the lease is over), a new
    /// one is opened with the same options.
    ///
    /// # Errors
    /// [`Error::Resume`] says how the link ended, and by its source why nothing could take its
    /// place: [`Error::Refused`], [`Error::Attach`]. Where the link had not ended, it is the source
    /// alone.
    pub fn resume(&mut self) -> Result<(), Error> {
        let next_request = match &self.driver {
            Ok(driver) => driver.next_request(),
            Err(ended) => ended.next_request,
        };
        let why = self.lost();
        if let Ok(driver) = &mut self.driver {
            // A request that is still in flight has a reply too.
            driver.end(why.clone().unwrap_or(LinkError::Closed));
        }
        self.keep_what_came();
        self.given_up.clear();
        // The old link must be gone before the new one comes.
        self.driver = Err(Ended { why: why.clone(), next_request });
        self.take_up(next_request).map_err(Error::resume(why))
    }

    fn take_up(&mut self, first_request: u64) -> Result<(), Error> {
        let agreed = self.client.run(self.client.inner.resume(&self.agreed, &self.options))?;
        let transport = agreed.transport;
        let up = bring_up(&self.client, agreed, &self.options, first_request);
        // Where the server chose it, the next try opens a session without it.
        let up = up.inspect_err(|error| {
            self.options.failed(transport, error);
        })?;
        self.adopt(up);
        Ok(())
    }

    /// Goes on with another lease.
    fn adopt(&mut self, up: Up) {
        let Attached { driver, table, device } = up.attached;
        (self.driver, self.table, self.device) = (Ok(driver), table, device);
        (self.agreed, self.gone) = (up.agreed, up.gone);
        self.room.forget();
    }

    /// Ends the session: sends the timings that wait and frees what the server holds. Dropping
    /// does the same, without telling how it went.
    ///
    /// # Errors
    /// [`Error::Refused`] if the server does not answer.
    pub fn close(mut self) -> Result<RecordCounts, Error> {
        self.close_now()
    }

    pub(crate) fn close_now(&mut self) -> Result<RecordCounts, Error> {
        self.end();
        self.close_on_server()
    }

    fn close_on_server(&self) -> Result<RecordCounts, Error> {
        let (keeper, agreed) = (&self.client.inner.keeper, &self.agreed);
        let closed = self
            .client
            .run(async { tokio::time::timeout(CLOSE_WITHIN, keeper.close(agreed)).await });
        match closed {
            Ok(closed) => closed.map_err(Error::refused("close the session")),
            Err(_elapsed) => Err(Error::Timeout(CLOSE_WITHIN)),
        }
    }

    /// Ends the link. Its last record is there from now on, so that it is sent with what waits.
    fn end(&mut self) {
        self.closed = true;
        self.driver = Err(Ended { why: None, next_request: 1 });
    }

    /// Why the link carries nothing any more, where nobody asked it to end.
    fn lost(&self) -> Option<LinkError> {
        match self.driver.as_ref().map(Driver::state) {
            Err(ended) => ended.why.clone(),
            Ok(DriverState::Lost(why)) => Some(why.clone()),
            // A heartbeat was answered so.
            Ok(DriverState::Live) => {
                let is_gone = self.gone.load(Ordering::Acquire);
                is_gone.then_some(LinkError::Bye(Status::SessionEnded))
            }
        }
    }
}

impl Ended {
    fn error(&self) -> Error {
        Error::LinkLost(self.why.clone().unwrap_or(LinkError::Closed))
    }
}

/// A lease whose link is connected.
struct Up {
    agreed: Arc<Agreed>,
    attached: Attached,
    gone: Arc<AtomicBool>,
}

/// Opens a session; where a transport of the server's choice does not work, without that.
fn begin(client: &Client, options: &Options, first_request: u64) -> Result<Up, Error> {
    let agree = || client.run(client.inner.negotiate(options));
    let agreed = agree()?;
    let transport = agreed.transport;
    match bring_up(client, agreed, options, first_request) {
        Err(error) if options.failed(transport, &error) => {
            bring_up(client, agree()?, options, first_request)
        }
        other => other,
    }
}

fn bring_up(
    client: &Client,
    agreed: Agreed,
    options: &Options,
    first_request: u64,
) -> Result<Up, Error> {
    let keeper = &client.inner.keeper;
    let gone = keeper.hold(&agreed);
    let sink = SessionSink::new(options, &keeper.recorder);
    let tell = |attachment: &_| client.run(client.inner.tell(&agreed, attachment));
    match attach(&client.inner.server, &agreed, options, first_request, sink, &tell) {
        Ok(attached) => Ok(Up { agreed: Arc::new(agreed), attached, gone }),
        Err(error) => {
            // The server has made the session: free it now, not when its lease ends.
            drop(client.run(keeper.close(&agreed)));
            Err(error)
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.closed {
            return;
        }
        if let Some(runtime) = self.client.lender() {
            // It may have ended, and nobody may be kept waiting here.
            self.end();
            let keeper = Arc::clone(&self.client.inner.keeper);
            let agreed = Arc::clone(&self.agreed);
            runtime.spawn(async move { drop(keeper.close(&agreed).await) });
        } else if let Err(error) = self.close_now() {
            tracing::debug!(%error, "the session is left to its lease");
        }
    }
}
