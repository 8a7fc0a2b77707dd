//! Keeping a peer from memory that is not its own any more.

use std::sync::Arc;

use ferry_memory::{Placer, Region};
use ferry_transport::{AdmitError, LinkError};

use crate::areas::Areas;
use crate::options::Fence;
use crate::pool::{Pool, Registered, Room, of_device, own};
use crate::probe::WindowProbe;
use crate::verbs::{Access, Domain, QueuePair, Rts, VerbsError, Window};

/// How the inboxes of a port are fenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fencing {
    /// A window per lease into a registration that many sessions share.
    SharedWindow,
    /// A window per lease into a registration of its own: the device does not check a window's
    /// bounds, so that nobody else's memory may lie in the same registration.
    OwnWindow,
    /// A registration per lease.
    OwnRegistration,
}

impl Fencing {
    /// By what the options want and the probe found.
    ///
    /// # Errors
    /// [`LinkError::Os`] if windows are wanted and there are none that hold.
    pub(crate) fn choose(wanted: Fence, probe: &WindowProbe) -> Result<Fencing, LinkError> {
        match (wanted, probe) {
            (Fence::Registration, _) | (Fence::Auto, WindowProbe::None(_)) => {
                Ok(Fencing::OwnRegistration)
            }
            (_, WindowProbe::Hold) => Ok(Fencing::SharedWindow),
            (_, WindowProbe::Unbounded) => Ok(Fencing::OwnWindow),
            (Fence::Window, WindowProbe::None(why)) => Err(LinkError::os(
                "use memory windows",
                format!("{why}; use the fence `registration` or `auto`"),
            )),
        }
    }

    /// For people and SQL.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Fencing::SharedWindow => "window",
            Fencing::OwnWindow => "window over a registration of its own",
            Fencing::OwnRegistration => "registration",
        }
    }
}

/// Where the sessions of a port get their memory.
#[derive(Debug)]
pub(crate) struct Memory {
    domain: Arc<Domain>,
    fencing: Fencing,
    inboxes: Pool,
    outboxes: Pool,
}

/// The memory of one end of a session.
#[derive(Debug)]
pub(crate) struct Leased {
    /// What its queue pair must belong to.
    pub domain: Arc<Domain>,
    /// What the peer writes: how it is fenced, and the memory.
    pub inbox: (Inbox, Region),
    /// What we send.
    pub outbox: Room,
    /// Payloads of both, where they lie apart from their headers.
    pub payloads: Option<Payloads>,
}

/// Payloads in memory of a device, each direction with a registration of the lease's own.
#[derive(Debug)]
pub(crate) struct Payloads {
    /// What the peer writes.
    pub inbox: Room,
    /// What we send.
    pub outbox: Room,
}

impl Memory {
    /// Without any memory yet.
    pub(crate) fn new(domain: &Arc<Domain>, fencing: Fencing) -> Memory {
        Memory {
            domain: Arc::clone(domain),
            fencing,
            inboxes: Pool::new(domain, Access::Windowed),
            outboxes: Pool::new(domain, Access::Source),
        }
    }

    /// Memory for one lease, divided like this. A placer is asked for memory of its device where
    /// payloads lie apart, else told of the memory.
    ///
    /// # Errors
    /// [`AdmitError`] if memory, registrations or windows are short.
    pub(crate) fn lease(
        &mut self,
        inbox: &Areas,
        outbox: &Areas,
        placer: Option<&dyn Placer>,
    ) -> Result<Leased, AdmitError> {
        let bytes = (inbox.bytes(), outbox.bytes());
        let payloads = inbox.payloads_bytes().zip(outbox.payloads_bytes());
        match placer.zip(payloads) {
            Some(payloads) => self.own_lease(bytes, None, Some(payloads)),
            None => self.host_lease(bytes, placer),
        }
    }

    fn host_lease(
        &mut self,
        (inbox, outbox): (usize, usize),
        told: Option<&dyn Placer>,
    ) -> Result<Leased, AdmitError> {
        if self.fencing == Fencing::OwnRegistration {
            return self.own_lease((inbox, outbox), told, None);
        }
        let memory = match self.fencing {
            Fencing::SharedWindow => self.inboxes.lease(inbox)?,
            _ => own(&self.domain, inbox, Access::Windowed)?,
        };
        let Room { region, registered } = memory.known_to(told)?;
        let window = new_window(&self.domain, &registered).map_err(AdmitError::Attach)?;
        let key = Key::Window { window, is_bound: false };
        let inbox = (Inbox { memory: registered, key }, region);
        let outbox = self.outboxes.lease(outbox)?.known_to(told)?;
        Ok(Leased { domain: Arc::clone(&self.domain), inbox, outbox, payloads: None })
    }

    /// A domain and registrations of the lease's own. Payloads in a device's memory always have
    /// them: the kernel binds no window to a dma-buf.
    fn own_lease(
        &self,
        (inbox, outbox): (usize, usize),
        told: Option<&dyn Placer>,
        payloads: Option<(&dyn Placer, (usize, usize))>,
    ) -> Result<Leased, AdmitError> {
        // A registration's key is good for every queue pair of its domain, and keys can be
        // guessed: the lease is a domain of its own.
        let domain = Domain::new(self.domain.device()).map_err(refused)?;
        let inbox = own(&domain, inbox, Access::RemoteWrite)?.known_to(told)?;
        let inbox = (Inbox { memory: inbox.registered, key: Key::Registration }, inbox.region);
        let outbox = own(&domain, outbox, Access::Source)?.known_to(told)?;
        let on_device = |(placer, bytes): (&dyn Placer, (usize, usize))| {
            Ok::<_, AdmitError>(Payloads {
                inbox: of_device(&domain, placer, bytes.0, Access::Payloads)?,
                outbox: of_device(&domain, placer, bytes.1, Access::Source)?,
            })
        };
        let payloads = payloads.map(on_device).transpose()?;
        Ok(Leased { domain, inbox, outbox, payloads })
    }

    /// Gives back what nobody uses.
    pub(crate) fn trim(&mut self) {
        self.inboxes.trim();
        self.outboxes.trim();
    }
}

fn refused(error: VerbsError) -> AdmitError {
    AdmitError::Attach(error.into())
}

/// How memory is fenced that one peer may write, during one lease.
#[derive(Debug)]
pub(crate) struct Inbox {
    memory: Registered,
    key: Key,
}

#[derive(Debug)]
enum Key {
    /// Of the registration. Goes with it.
    Registration,
    /// Of a window.
    Window { window: Window, is_bound: bool },
    /// Taken back.
    Gone,
}

impl Inbox {
    /// Of its first byte.
    pub(crate) fn address(&self) -> u64 {
        self.memory.address()
    }

    /// What the peer presents; of use once [`is_open`](Inbox::is_open).
    pub(crate) fn key(&self) -> u32 {
        match &self.key {
            Key::Registration => self.memory.registration().remote_key(),
            Key::Window { window, .. } => window.key(),
            Key::Gone => 0,
        }
    }

    /// Lets the peer of `pair` write. `true` if a work request was posted for it, whose completion
    /// [`bound`](Inbox::bound) is to be told of.
    ///
    /// # Errors
    /// [`LinkError`] with what the device says.
    pub(crate) fn open(&mut self, pair: &QueuePair<Rts>, id: u64) -> Result<bool, LinkError> {
        let (address, bytes) = (self.address(), self.memory.bytes() as u64);
        let Key::Window { window, .. } = &mut self.key else { return Ok(false) };
        pair.bind(id, window, address, bytes)?;
        Ok(true)
    }

    /// The work request of [`open`](Inbox::open) is complete.
    pub(crate) fn bound(&mut self) {
        if let Key::Window { is_bound, .. } = &mut self.key {
            *is_bound = true;
        }
    }

    /// Whether the peer can write.
    pub(crate) fn is_open(&self) -> bool {
        !matches!(self.key, Key::Gone | Key::Window { is_bound: false, .. })
    }

    /// Takes the peer's key back. `true` if a work request was posted for it.
    ///
    /// # Errors
    /// [`LinkError`] if nothing can be posted any more.
    pub(crate) fn close(&mut self, pair: &QueuePair<Rts>, id: u64) -> Result<bool, LinkError> {
        match &self.key {
            Key::Window { window, is_bound: true } => {
                pair.invalidate(id, window)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Frees the window, bound or not: its key is of no use afterwards. A registration's own key
    /// goes with this value.
    pub(crate) fn drop_window(&mut self) {
        if matches!(self.key, Key::Window { .. }) {
            self.key = Key::Gone;
        }
    }

    /// Starts again with a new window, before the queue pair of the old one is reset.
    ///
    /// # Errors
    /// [`LinkError`] if the device has no more windows.
    pub(crate) fn forget_binding(&mut self, domain: &Arc<Domain>) -> Result<(), LinkError> {
        if matches!(self.key, Key::Window { .. }) {
            self.key = Key::Gone;
            let window = new_window(domain, &self.memory)?;
            self.key = Key::Window { window, is_bound: false };
        }
        Ok(())
    }
}

fn new_window(domain: &Arc<Domain>, memory: &Registered) -> Result<Window, LinkError> {
    Ok(Window::new(domain, Arc::clone(memory.registration()))?)
}
