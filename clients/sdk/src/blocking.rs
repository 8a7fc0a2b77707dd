//! For programs without an async runtime, and for least latency: the caller's own thread drives
//! the link, and nothing hops to another one.

mod client;
mod driven;
mod room;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ferry_connect::ImportedBacking;
use ferry_core::Status;
use ferry_core::session::SLOTS_MAX;
use ferry_memory::SlotTable;
use ferry_transport::{Completion, Driver, DriverState, Ending, LinkError};

use crate::agreed::Agreed;
use crate::attach::{Attached, attach};
use crate::error::Error;
use crate::options::Options;
use crate::recorder::{RecordCounts, SessionSink};
use crate::reply::Reply;
use crate::slot::Slot;
use room::Room;

pub use client::Client;
pub(crate) use driven::Lease;

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
    /// No longer than [`SLOTS_MAX`] when a request is sent, and twice that after a lost link.
    early: VecDeque<Result<Reply, Error>>,
    /// Requests whose `infer` gave up: nobody takes their replies. Each holds a slot until then, so
    /// that there are no more of them than slots.
    given_up: Vec<u64>,
    /// Requests whose replies had no room.
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
        let mut agreed = client.run(client.inner.negotiate(&options))?;
        let (Attached { driver, table, device }, gone) =
            match bring_up(&client, &agreed, &options, 1) {
                Err(error) if options.failed(agreed.transport, &error) => {
                    agreed = client.run(client.inner.negotiate(&options))?;
                    bring_up(&client, &agreed, &options, 1)?
                }
                other => other?,
            };
        Ok(Session {
            driver: Ok(driver),
            table,
            device,
            agreed: Arc::new(agreed),
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

    /// What was agreed with the server.
    pub fn agreed(&self) -> &Agreed {
        &self.agreed
    }

    /// A free slot. If the link was lost, the session is resumed first.
    ///
    /// # Errors
    /// [`Error::SlotsInUse`] if there is none: take or drop a reply. [`Error::Resume`] if the link
    /// was lost and the session cannot be taken up again.
    pub fn slot(&mut self) -> Result<Slot, Error> {
        let now = Instant::now();
        if now.saturating_duration_since(self.used) >= QUIET
            && let Ok(driver) = &mut self.driver
        {
            driver.poll();
        }
        self.used = now;
        if self.driver.is_err() || self.lost().is_some() {
            self.resume()?;
        }
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

    /// Sends a request and waits for its reply. Replies to earlier requests that come meanwhile are
    /// kept for [`next_reply`](Session::next_reply).
    ///
    /// # Errors
    /// [`Error::Request`] with what the server says, [`Error::LinkLost`], [`Error::Timeout`]: such
    /// a request's reply is dropped when it comes.
    pub fn infer(&mut self, slot: Slot) -> Result<Reply, Error> {
        let request = self.submit(slot)?;
        let deadline = Instant::now() + self.options.timeout;
        loop {
            let done = match self.complete(deadline) {
                Ok(done) => done,
                Err(error) => {
                    self.given_up.push(request);
                    return Err(error);
                }
            };
            if done.request == self.number_now(request) {
                match self.reply_or_hold(done)? {
                    Some(reply) => return Ok(reply),
                    None if self.must_reopen() => self.reopen()?,
                    // What else is in flight goes with the link.
                    None => return Err(self.room_refused(request)),
                }
                continue;
            }
            self.keep(done);
        }
    }

    /// Keeps a reply for who sent the request, if anybody still waits for it.
    fn keep(&mut self, done: Completion) {
        let callers = self.callers_number(done.request);
        if let Some(at) = self.given_up.iter().position(|&request| request == callers) {
            self.given_up.swap_remove(at);
            return;
        }
        // What had no room is sent once more, by whoever asks for a reply next.
        if let Some(reply) = self.reply_or_hold(done).transpose() {
            self.early.push_back(reply);
        }
    }

    /// Sends a request and returns at once with its number. Several may be in flight; take their
    /// replies with [`next_reply`](Session::next_reply), which come in the order in which they are
    /// ready.
    ///
    /// # Errors
    /// [`Error::LinkLost`], [`Error::ForeignSlot`], [`Error::RepliesWait`].
    pub fn submit(&mut self, slot: Slot) -> Result<u64, Error> {
        if self.early.len() >= SLOTS_MAX as usize {
            return Err(Error::RepliesWait(self.early.len()));
        }
        // The driver takes the table of the first slot for its own: it must not be that of the last
        // lease.
        if !Arc::ptr_eq(&slot.agreed, &self.agreed) {
            return Err(Error::ForeignSlot);
        }
        let fill_ns = u64::try_from(slot.handed_out.elapsed().as_nanos()).ok();
        let bytes = usize::try_from(slot.payload_bytes).unwrap_or(usize::MAX);
        let driver = self.driver.as_mut().map_err(|ended| ended.error())?;
        driver.submit(slot.inner, bytes, slot.what, fill_ns).map_err(|error| {
            // A link that takes nothing any more says so in its next events.
            driver.poll();
            error.why.into()
        })
    }

    /// The next reply to what was submitted; `None` if nothing is in flight. A request that the
    /// link took with it when it broke has a reply too: [`Error::LinkLost`].
    ///
    /// # Errors
    /// [`Error::Request`] with what the server says, [`Error::LinkLost`], [`Error::Timeout`]: the
    /// reply can still come, and be taken.
    pub fn next_reply(&mut self) -> Option<Result<Reply, Error>> {
        let deadline = Instant::now() + self.options.timeout;
        loop {
            if let Some(reply) = self.early.pop_front() {
                return Some(reply);
            }
            if self.must_reopen()
                && let Err(error) = self.reopen()
            {
                return Some(Err(error));
            }
            let driver = self.driver.as_mut().ok()?;
            if driver.in_flight() == 0 && !driver.wait(Some(Instant::now())) {
                return None;
            }
            match self.complete(deadline) {
                Ok(done) => self.keep(done),
                Err(error) => return Some(Err(error)),
            }
        }
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
        while let Some(done) = self.driver.as_mut().ok().and_then(Driver::take) {
            self.keep(done);
        }
        self.given_up.clear();
        // The old link must be gone before the new one comes.
        self.driver = Err(Ended { why: why.clone(), next_request });
        self.take_up(next_request).map_err(Error::resume(why))
    }

    fn take_up(&mut self, first_request: u64) -> Result<(), Error> {
        let agreed = self.client.run(self.client.inner.resume(&self.agreed, &self.options))?;
        let up = bring_up(&self.client, &agreed, &self.options, first_request);
        // Where the server chose it, the next try opens a session without it.
        let (Attached { driver, table, device }, gone) = up.inspect_err(|error| {
            self.options.failed(agreed.transport, error);
        })?;
        (self.driver, self.table, self.gone) = (Ok(driver), table, gone);
        self.device = device;
        self.agreed = Arc::new(agreed);
        Ok(())
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

    fn complete(&mut self, deadline: Instant) -> Result<Completion, Error> {
        let driver = self.driver.as_mut().map_err(|ended| ended.error())?;
        if driver.wait(Some(deadline)) {
            return driver.take().ok_or(Error::LinkLost(LinkError::Closed));
        }
        match driver.state() {
            DriverState::Lost(why) => Err(Error::LinkLost(why.clone())),
            DriverState::Live => Err(Error::Timeout(self.options.timeout)),
        }
    }

    fn reply(&self, done: Completion) -> Result<Reply, Error> {
        if done.ending == Ending::LinkLost {
            return Err(Error::LinkLost(self.lost().unwrap_or(LinkError::Closed)));
        }
        Reply::from_completion(done, &self.agreed)
    }
}

impl Ended {
    fn error(&self) -> Error {
        Error::LinkLost(self.why.clone().unwrap_or(LinkError::Closed))
    }
}

fn bring_up(
    client: &Client,
    agreed: &Agreed,
    options: &Options,
    first_request: u64,
) -> Result<(Attached, Arc<AtomicBool>), Error> {
    let keeper = &client.inner.keeper;
    let gone = keeper.hold(agreed);
    let sink = SessionSink::new(options, &keeper.recorder);
    let tell = |attachment: &_| client.run(client.inner.tell(agreed, attachment));
    match attach(&client.inner.server, agreed, options, first_request, sink, &tell) {
        Ok(attached) => Ok((attached, gone)),
        Err(error) => {
            // The server has made the session: free it now, not when its lease ends.
            drop(client.run(keeper.close(agreed)));
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
