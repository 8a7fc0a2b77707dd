//! The device under a listener: opened, lost, let go of, and taken up again.

use super::*;

/// How often a device that was lost is looked for. Opening one takes up to a tenth of a second, and
/// whoever asks for a session waits for it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a device refuses that knows which key, or which address, it was.
const OFFENCE: &str = "a write outside its memory, or with a key that is not its own";

/// A device in use.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) memory: Memory,
    pub(super) queue: Arc<CompletionQueue>,
    pub(super) port: Port,
    pub(super) health: Health,
    /// Why no session can be on it at present.
    pub(super) trouble: Option<LinkError>,
}

/// A device that was lost.
#[derive(Debug)]
pub(super) struct Lost {
    why: LinkError,
    looked: Instant,
}

impl Opened {
    /// Opens a port and finds out what its memory windows are worth.
    pub(super) fn open(options: &RdmaOptions) -> Result<Opened, LinkError> {
        let port = Port::open(options)?;
        port.log();
        let mut probed = probe(&port);
        if options.trust_window_bounds && probed == WindowProbe::Unbounded {
            tracing::warn!("window bounds are trusted, and the device does not check them");
            probed = WindowProbe::Hold;
        }
        let fencing = Fencing::choose(options.fence, &probed)?;
        tracing::info!(
            device = port.device().name(), windows = %probed, fence = fencing.name(),
            "RDMA fence"
        );
        if port.addresses(None).is_empty() {
            let what = "its port has no usable GID: give the network device an address";
            return Err(LinkError::os("use the RDMA device", what));
        }
        let entries = port.facts.completions_max.min(options.completions_max);
        Ok(Opened {
            memory: Memory::new(&port.domain, fencing),
            queue: CompletionQueue::new(port.device(), entries)?,
            port,
            health: Health::new(),
            trouble: None,
        })
    }
}

impl RdmaListener {
    /// The device; opens it again if it was lost.
    pub(super) fn device(&mut self) -> Result<&mut Opened, AdmitError> {
        if let Some(lost) = &mut self.lost
            && lost.looked.elapsed() >= LOOK_EVERY
        {
            lost.looked = Instant::now();
            match Opened::open(&self.options) {
                Ok(opened) => {
                    tracing::info!(device = opened.port.device().name(), "RDMA is back");
                    (self.opened, self.lost) = (Some(opened), None);
                }
                Err(why) => lost.why = why,
            }
        }
        let gone = || self.lost.as_ref().map_or(LinkError::Closed, |lost| lost.why.clone());
        match &mut self.opened {
            Some(Opened { health, trouble: Some(why), .. }) if health.is_lost() => {
                Err(AdmitError::Attach(why.clone()))
            }
            Some(opened) => Ok(opened),
            None => Err(AdmitError::Attach(gone())),
        }
    }

    /// Looks at what happened to the device beside completions.
    pub(super) fn check_health(&mut self) {
        let Some(Opened { port, health, trouble, .. }) = &mut self.opened else { return };
        let was_well = trouble.is_none();
        trouble.clone_from(&health.check(port.device(), port.number));
        if health.take_moved() {
            port.refresh();
        }
        let (trouble, offenders) = (trouble.clone(), health.take_offenders());
        if let Some(why) = trouble.filter(|_| was_well) {
            self.end_all(&why);
        }
        for queue_pair in offenders {
            self.offended(queue_pair);
        }
    }

    /// A queue pair's peer wrote where it may not.
    fn offended(&mut self, queue_pair: u32) {
        let offender = self.sessions.iter().find(|(_, session)| {
            session.stand == Stand::Joined && session.wire.identity().0 == queue_pair
        });
        if let Some((&serial, session)) = offender {
            let refusal = Refusal::Breach { session: session.id(), what: OFFENCE };
            self.pending.push_back(Event::Refused(refusal));
            self.fail(serial, LinkError::Protocol(OFFENCE.into()));
        }
    }

    /// A receive is the first to fail on a connection that nobody closed: the device has refused
    /// what the peer sent, and broken the queue pair. Devices that raise no event tell nothing
    /// else. Had a write of ours failed, or the peer gone away, that write's completion would have
    /// come first.
    pub(super) fn refused_by_device(&mut self, serial: u32, status: CompletionStatus) {
        if let Some(Opened { port, health, .. }) = &mut self.opened {
            health.take_events(port.device());
            if health.is_lost() {
                return;
            }
        }
        let Some(session) = self.sessions.get(&serial) else { return };
        let what = match status {
            CompletionStatus::REMOTE_ACCESS => OFFENCE,
            _ => "its peer sent what the device refuses, which broke the connection",
        };
        let refusal = Refusal::Breach { session: session.id(), what };
        self.pending.push_back(Event::Refused(refusal));
    }

    /// Lets go of a device that is lost, once its last session is closed: drivers that raise no
    /// event keep whoever removes it waiting until then.
    pub(super) fn let_go(&mut self) {
        let is_lost = |opened: &mut Opened| opened.health.is_lost() && self.sessions.is_empty();
        if let Some(Opened { port, trouble, .. }) = self.opened.take_if(is_lost) {
            tracing::warn!(device = port.device().name(), "RDMA device given up");
            let why = trouble.unwrap_or(LinkError::Closed);
            // Looked for at once when the next session wants it.
            let looked = Instant::now().checked_sub(LOOK_EVERY).unwrap_or_else(Instant::now);
            self.lost = Some(Lost { why, looked });
        }
    }
}
