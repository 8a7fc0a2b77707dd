//! What happens to a device beside completions.

use std::time::{Duration, Instant};

use ferry_transport::LinkError;

use crate::verbs::{Device, DeviceEvent};

/// How many polls pass between two looks at the device: one system call per 4,096 polls.
const POLLS_PER_LOOK: u32 = 4096;

/// How many polls pass between two looks at the clock, for a lane that is busy and sleeps between
/// its requests.
const POLLS_PER_CLOCK: u32 = 64;

/// How often it is asked whether the device is still there: not every driver tells.
const PRESENCE_EVERY: Duration = Duration::from_secs(1);

/// How long a port may be down before its sessions are given up: as long as the device sends a
/// write again. A shorter gap costs retransmissions and nothing else.
const DOWN_MAX: Duration = Duration::from_secs(2);

/// Most events that one look takes.
const EVENTS_MAX: usize = 64;

/// What is known of a device's trouble.
#[derive(Debug)]
pub(crate) struct Health {
    polls: u32,
    /// When it was asked last whether the device is there.
    looked: Instant,
    down_since: Option<Instant>,
    fatal: Option<LinkError>,
    offenders: Vec<u32>,
    /// The port's addresses have changed.
    moved: bool,
}

impl Health {
    /// Of a device that was just opened.
    pub(crate) fn new() -> Health {
        Health {
            polls: 0,
            looked: Instant::now(),
            down_since: None,
            fatal: None,
            offenders: Vec::new(),
            moved: false,
        }
    }

    /// Whether the device is to be looked at; to be asked once per poll.
    pub(crate) fn is_due(&mut self) -> bool {
        self.polls = self.polls.wrapping_add(1);
        self.polls.is_multiple_of(POLLS_PER_LOOK)
            || self.down_since.is_some()
            || self.polls.is_multiple_of(POLLS_PER_CLOCK) && self.asks_presence()
    }

    fn asks_presence(&self) -> bool {
        self.looked.elapsed() >= PRESENCE_EVERY
    }

    /// Notes what the device has to say.
    pub(crate) fn take_events(&mut self, device: &Device) {
        for _ in 0..EVENTS_MAX {
            let Some(event) = device.next_event() else { break };
            self.note(event, device.name());
        }
        if self.asks_presence() {
            self.look_for(device);
        }
    }

    fn look_for(&mut self, device: &Device) {
        self.looked = Instant::now();
        if self.fatal.is_none() && !device.is_there() {
            self.note(DeviceEvent::DeviceFatal, device.name());
        }
    }

    /// Takes what the device has to say; the reason if no session on it can go on.
    pub(crate) fn check(&mut self, device: &Device, port: u8) -> Option<LinkError> {
        self.take_events(device);
        if self.fatal.is_some() {
            return self.fatal.clone();
        }
        let since = self.down_since?;
        if device.port(port).is_ok_and(|now| now.active) {
            self.down_since = None;
            return None;
        }
        (since.elapsed() > DOWN_MAX).then(|| {
            LinkError::os(
                format!("use port {port} of {}", device.name()),
                "it has been down for 2 s; bring its network device or cable up again",
            )
        })
    }

    fn note(&mut self, event: DeviceEvent, device: &str) {
        tracing::warn!(device, ?event, "RDMA device event");
        match event {
            DeviceEvent::PortDown => self.down_since = self.down_since.or(Some(Instant::now())),
            DeviceEvent::PortActive => (self.down_since, self.moved) = (None, true),
            DeviceEvent::AddressChange => self.moved = true,
            DeviceEvent::DeviceFatal => {
                self.fatal = Some(LinkError::os(
                    format!("use {device}"),
                    "the device failed or was taken away",
                ));
            }
            DeviceEvent::CompletionQueueError => {
                self.fatal = Some(LinkError::os(
                    format!("use {device}"),
                    "its completion queue overran or broke",
                ));
            }
            DeviceEvent::AccessError { queue_pair } if self.offenders.len() < EVENTS_MAX => {
                self.offenders.push(queue_pair);
            }
            DeviceEvent::AccessError { .. }
            | DeviceEvent::QueuePairFatal { .. }
            | DeviceEvent::Other(_) => {}
        }
    }

    /// Queue pairs whose peers wrote where they may not.
    pub(crate) fn take_offenders(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.offenders)
    }

    /// Whether the addresses changed since this was asked last.
    pub(crate) fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// Whether the device is of no more use, and only opening it again can help.
    pub(crate) fn is_lost(&self) -> bool {
        self.fatal.is_some()
    }

    /// Why a connection failed, with what is known of the device and its port by now.
    pub(crate) fn explain(&mut self, why: LinkError, device: &Device) -> LinkError {
        self.take_events(device);
        // The other end may have found out first, and closed.
        self.look_for(device);
        let trouble = match (&self.fatal, self.down_since) {
            (Some(fatal), _) => fatal.to_string(),
            (None, Some(_)) => "the port is down".into(),
            (None, None) => return why,
        };
        match why {
            LinkError::Os { what, error } => LinkError::os(what, format!("{error}; {trouble}")),
            why => why,
        }
    }
}
