//! Connecting: a way is chosen, the server is told over the control plane, and a hello goes over
//! the new connection and comes back. Where it does not, the next way is tried.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::{
    Attachment, Generation, Gid, QueuePair, RegionDescriptor, SessionId, SlotLayout, Token,
    error_text,
};
use ferry_memory::SlotTable;
use ferry_transport::connect::Own;
use ferry_transport::event::EventWaker;
use ferry_transport::{ConnectError, LinkError};

use super::RdmaClient;
use crate::areas::Areas;
use crate::fence::{Fencing, Memory};
use crate::gids::GidEntry;
use crate::health::Health;
use crate::options::RdmaOptions;
use crate::port::Port;
use crate::verbs::{CompletionQueue, Path};
use crate::wire::{Parts, Remote, Requests, Wire, Writes, completions_of};

/// How long one way is given to carry a hello and its welcome. A way that leads nowhere shows
/// itself when the device gives up, after 0.5 to 2 s.
const WAY_WITHIN: Duration = Duration::from_secs(3);

/// Most ways that are tried.
const WAYS_MAX: usize = 4;

/// From one of our addresses to one of the server's.
#[derive(Clone, Debug)]
struct Way {
    own: GidEntry,
    server: Gid,
}

/// Tells the server of our end, and answers how its memory is reached: the call `Sessions.Attach`.
pub(crate) type Attach<'a> = dyn FnMut(&Attachment) -> Result<RegionDescriptor, ConnectError> + 'a;

impl RdmaClient {
    /// Connects to the queue pair that the server has made for the session, and makes its slots.
    ///
    /// `attach` tells the server of this end; it is called once for each pair of addresses that is
    /// tried.
    ///
    /// # Errors
    /// [`ConnectError`] says whether the device, the way, the server or the session is the
    /// trouble.
    #[expect(clippy::too_many_arguments, reason = "what a session is, as every link takes it")]
    pub fn connect(
        options: &RdmaOptions,
        session: SessionId,
        generation: Generation,
        token: Token,
        layout: SlotLayout,
        region: &RegionDescriptor,
        attach: &mut Attach<'_>,
        deadline: Instant,
    ) -> Result<(RdmaClient, Arc<SlotTable>), ConnectError> {
        let RegionDescriptor::Remote { queue_pair, .. } = region else {
            return Err(LinkError::Protocol("the server named no queue pair".into()).into());
        };
        let port = Port::open(options)?;
        let ways = ways(&port, queue_pair);
        if ways.is_empty() {
            let what = "no GID of this host leads to one of the server's; see `ferry doctor`";
            return Err(LinkError::os("find a way to the server", what).into());
        }
        let mut client = prepare(port, options, session, generation, layout)?;
        let mut why = None;
        for (number, way) in (1_u32..).zip(ways) {
            let until = deadline.min(Instant::now() + WAY_WITHIN);
            match client.try_way(&way, number, queue_pair, token, attach, until) {
                Ok(()) => {
                    let table = Arc::clone(&client.slots);
                    return Ok((client, table));
                }
                Err(error @ (ConnectError::Refused(_) | ConnectError::Protocol { .. })) => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::warn!(from = %way.own.gid, to = %way.server, %error, "no way");
                    why = Some(error);
                }
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        Err(why.unwrap_or_else(|| ConnectError::Late("the server's queue pair".into())))
    }

    fn try_way(
        &mut self,
        way: &Way,
        number: u32,
        server: &QueuePair,
        token: Token,
        attach: &mut Attach<'_>,
        until: Instant,
    ) -> Result<(), ConnectError> {
        let path = self.port.path(&way.own, server, way.server, server.retry);
        self.gone = false;
        self.wire.reset(&self.port, number)?;
        // What an earlier way left behind would take the room of this one's.
        let mut left = Vec::new();
        while self.queue.poll(&mut left).map_err(LinkError::from)? > 0 {
            left.clear();
        }
        let (number, first_psn) = self.wire.identity();
        let attachment = Attachment {
            queue_pair: self.port.end(number, first_psn, &[way.own.gid]),
            key: self.wire.keys().0,
            server_gid: way.server,
        };
        let RegionDescriptor::Remote { queue_pair, key: Some(key), payloads } =
            attach(&attachment)?
        else {
            let what = "the server opened no memory".into();
            return Err(LinkError::Protocol(what).into());
        };
        // Two keys: payloads lie apart from their headers, in memory of a device.
        let divide = if payloads.is_some() { Areas::apart } else { Areas::new };
        let layout = self.slots.layout();
        let remote = Remote::new(divide(layout.slots, layout.request_bytes)?, key, payloads)?;
        let path = Path { queue_pair: queue_pair.number, first_psn: queue_pair.first_psn, ..path };
        self.wire.connect(&path, remote)?;
        self.greet(token, &way.server.to_string(), until)
    }

    /// Says hello and waits for the answer.
    fn greet(&mut self, token: Token, address: &str, until: Instant) -> Result<(), ConnectError> {
        let hello = self.own.hello(token);
        self.wire.tell(&hello)?;
        self.welcome = None;
        while Instant::now() < until {
            self.drain();
            if let Some(answer) = self.welcome.take() {
                self.own.welcomed(answer, address)?;
                self.is_joined = true;
                return Ok(());
            }
            if self.gone {
                let why = LinkError::os("carry a hello", "the device gave up");
                return Err(ConnectError::Unreachable { address: address.into(), why });
            }
            std::thread::yield_now();
        }
        Err(ConnectError::Late(address.into()))
    }
}

/// Pairs of addresses, best first: the server's in its order, with the one of ours that packets to
/// it leave from; then every other pair of one kind.
fn ways(port: &Port, server: &QueuePair) -> Vec<Way> {
    let mut ways = Vec::new();
    for &gid in &server.gids {
        let family = gid.address().is_ipv4();
        for (_, own) in port.addresses(Some(gid.address())) {
            if own.gid.address().is_ipv4() == family {
                ways.push((ways.len(), Way { own, server: gid }));
                break;
            }
        }
    }
    for &gid in &server.gids {
        for (_, own) in port.addresses(Some(gid.address())) {
            let is_new = ways.iter().all(|(_, way)| (way.own.gid, way.server) != (own.gid, gid));
            if is_new && own.gid.address().is_ipv4() == gid.address().is_ipv4() {
                ways.push((ways.len(), Way { own, server: gid }));
            }
        }
    }
    ways.into_iter().map(|(_, way)| way).take(WAYS_MAX).collect()
}

fn prepare(
    port: Port,
    options: &RdmaOptions,
    session: SessionId,
    generation: Generation,
    layout: SlotLayout,
) -> Result<RdmaClient, ConnectError> {
    let inbox_areas = Areas::new(layout.slots, layout.reply_bytes)?;
    let outbox_areas = Areas::new(layout.slots, layout.request_bytes)?;
    let refused = |error| LinkError::os("register the session's memory", error_text(&error));
    // One session has nobody to share with: its registrations are its own.
    let mut memory = Memory::new(&port.domain, Fencing::OwnRegistration);
    let memory = memory.lease(&inbox_areas, &outbox_areas, None).map_err(refused)?;
    // Where the server's payloads lie shows only when it answers: room for both.
    let (inline_bytes, writes) = (options.inline_bytes, Writes::Two);
    let entries = completions_of(layout.slots, writes);
    let queue = CompletionQueue::new(port.device(), entries).map_err(LinkError::from)?;
    let parts = Parts { serial: 1, memory, inbox_areas, outbox_areas, inline_bytes, writes };
    let wire = Wire::new(&port, &queue, parts)?;
    let slots = wire.slots(layout, Requests::Depart)?;
    let count = layout.slots as usize;
    Ok(RdmaClient {
        own: Own::over(session, generation, Arc::clone(&slots)),
        wire,
        queue,
        port,
        slots,
        posted: vec![None; count],
        early: std::iter::repeat_with(|| None).take(count).collect(),
        welcome: None,
        is_joined: false,
        in_flight: 0,
        heard: Instant::now(),
        is_touching: false,
        health: Health::new(),
        gone: false,
        scratch: Vec::new(),
        pending: VecDeque::new(),
        waker: EventWaker::new()?,
    })
}
