//! The client's end of the local link.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::SessionId;
use ferry_memory::SlotTable;

use super::CAPABILITIES;
use super::channel::{Channel, Moved};
use crate::clock::between_ns;
use crate::link::{
    Capabilities, EVENTS_PER_POLL_MAX, Event, Events, Link, LinkError, Rejected, SERVER, Transfer,
    Waker,
};

/// One client's end. Dropping it tells the server.
#[derive(Debug)]
pub struct LocalClient {
    session: SessionId,
    channel: Arc<Channel>,
    table: Arc<SlotTable>,
    /// Writes that are complete and not yet reported: request and duration in nanoseconds.
    sent: VecDeque<(u64, u64)>,
    /// The end was reported: nothing comes any more.
    over: bool,
}

impl LocalClient {
    pub(super) fn new(session: SessionId, channel: Arc<Channel>, table: Arc<SlotTable>) -> Self {
        let sent = VecDeque::with_capacity(table.layout().slots as usize);
        LocalClient { session, channel, table, sent, over: false }
    }
}

impl Link for LocalClient {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn submit(&mut self, transfer: Transfer) -> Result<(), Rejected> {
        let why = if transfer.peer != SERVER {
            Some(LinkError::NoPeer(transfer.peer))
        } else if !Arc::ptr_eq(transfer.slot.table(), &self.table) {
            Some(LinkError::Protocol("the slot is of another session".into()))
        } else {
            self.channel.server_gone()
        };
        if let Some(why) = why {
            return Err(Rejected { transfer: Box::new(transfer), why });
        }
        let start = Instant::now();
        let Transfer { peer, frame, slot, tail } = transfer;
        if let Err(Moved { frame, slot, tail }) = self.channel.request(Moved { frame, slot, tail })
        {
            let transfer = Box::new(Transfer { peer, frame, slot, tail });
            return Err(Rejected { transfer, why: LinkError::Full });
        }
        self.sent.push_back((frame.request, between_ns(start, Instant::now())));
        Ok(())
    }

    fn poll(&mut self, events: &mut Events) {
        let full = events.len() + EVENTS_PER_POLL_MAX;
        while let Some((request, elapsed_ns)) = self.sent.pop_front() {
            events.push(Event::Sent { peer: SERVER, request, elapsed_ns });
            if events.len() == full {
                return;
            }
        }
        // Read before the queue is emptied: replies that went before the end are delivered.
        let gone = if self.over { None } else { self.channel.server_gone() };
        while events.len() < full && !self.channel.to_client.is_empty() {
            let Some(Moved { frame, slot, tail }) = self.channel.to_client.pop() else { break };
            let (peer, seen) = (SERVER, Instant::now());
            events.push(Event::Arrived { peer, frame, slot, tail, seen, visible: seen });
        }
        if let Some(why) = gone
            && events.len() < full
        {
            self.over = true;
            // What the server has not taken comes back; what it holds it drops.
            let slots = std::iter::from_fn(|| self.channel.to_server.pop());
            let slots = slots.map(|moved| moved.slot).collect();
            events.push(Event::Gone { peer: SERVER, session: Some(self.session), why, slots });
        }
    }

    fn park(&mut self, at_most: Duration) {
        let (channel, over, sent) = (&self.channel, self.over, &self.sent);
        self.channel.client_bell.sleep(at_most, || {
            !sent.is_empty()
                || !channel.to_client.is_empty()
                || (!over && channel.server_gone().is_some())
        });
    }

    fn waker(&self) -> Waker {
        Arc::clone(&self.channel.client_bell) as Waker
    }
}

impl Drop for LocalClient {
    fn drop(&mut self) {
        self.channel.leave();
    }
}
