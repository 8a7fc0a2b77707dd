//! A listener whose attachments come from another thread, as a lane's do.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use ferry_core::{Attachment, Endpoint, RegionDescriptor, SessionId, Status};
use ferry_memory::Placer;
use ferry_rdma::{RdmaListener, RdmaOptions};
use ferry_transport::{
    Admission, AdmitError, Capabilities, ConnectError, Event, Events, Link, LinkError, Listener,
    Refusal, Rejected, Transfer, Waker,
};

/// The device under test.
#[expect(clippy::disallowed_methods, reason = "tests have no main: this is their door")]
pub(crate) fn options() -> RdmaOptions {
    RdmaOptions { device: std::env::var("FERRY_RDMA_DEVICE").ok(), ..RdmaOptions::default() }
}

type Answer = SyncSender<Result<RegionDescriptor, AdmitError>>;
type Ask = (SessionId, Attachment, Answer);

/// The way to the listener's `attach`.
#[derive(Debug)]
pub(crate) struct Door {
    asks: SyncSender<Ask>,
    waker: Waker,
}

impl Door {
    /// Asks the listener, which must be polled meanwhile.
    pub(crate) fn attach(
        &self,
        session: SessionId,
        attachment: &Attachment,
    ) -> Result<RegionDescriptor, ConnectError> {
        let (answer, answered) = sync_channel(1);
        let gone =
            |error: &dyn std::fmt::Display| ConnectError::Link(LinkError::os("attach", error));
        self.asks.send((session, attachment.clone(), answer)).map_err(|error| gone(&error))?;
        self.waker.wake();
        let answer =
            answered.recv_timeout(Duration::from_secs(20)).map_err(|error| gone(&error))?;
        answer.map_err(|error| gone(&format!("{error:?}")))
    }
}

#[derive(Debug)]
struct Attachable {
    inner: RdmaListener,
    /// Where every session's slots are to lie.
    placer: Option<Arc<dyn Placer>>,
    asks: Receiver<Ask>,
}

/// Splits a listener into itself and the way to its `attach`.
pub(crate) fn attachable(inner: RdmaListener) -> (Box<dyn Listener>, Door) {
    attachable_on(inner, None)
}

/// As [`attachable`], with the slots of all sessions in memory of this placer's.
pub(crate) fn attachable_on(
    inner: RdmaListener,
    placer: Option<Arc<dyn Placer>>,
) -> (Box<dyn Listener>, Door) {
    let (send, asks) = sync_channel(64);
    let door = Door { asks: send, waker: inner.waker() };
    (Box::new(Attachable { inner, placer, asks }), door)
}

impl Link for Attachable {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn submit(&mut self, transfer: Transfer) -> Result<(), Rejected> {
        self.inner.submit(transfer)
    }

    fn poll(&mut self, events: &mut Events) {
        for (session, attachment, answer) in self.asks.try_iter() {
            let attached = self.inner.attach(session, &attachment);
            if matches!(attached, Err(AdmitError::NotAttachable(_))) {
                // As the control plane counts it.
                events.push(Event::Refused(Refusal::Credentials(session)));
            }
            // Who asked may be gone.
            drop(answer.send(attached));
        }
        self.inner.poll(events);
    }

    fn park(&mut self, at_most: Duration) {
        self.inner.park(at_most);
    }

    fn waker(&self) -> Waker {
        self.inner.waker()
    }
}

impl Listener for Attachable {
    fn endpoint(&self) -> Endpoint {
        self.inner.endpoint()
    }

    fn admit(&mut self, admission: Admission) -> Result<RegionDescriptor, AdmitError> {
        let placer = self.placer.clone().or_else(|| admission.placer.clone());
        self.inner.admit(Admission { placer, ..admission })
    }

    fn evict(&mut self, session: SessionId, status: Status) {
        self.inner.evict(session, status);
    }
}
