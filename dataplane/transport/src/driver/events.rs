//! What the link reports, checked against what is in flight.

use ferry_core::{Body, Frame, Reply};
use ferry_memory::Slot;

use super::Driver;
use super::finish::Came;
use super::flight::Flight;
use crate::link::{Event, LinkError};

impl Driver {
    pub(super) fn on_event(&mut self, event: Event) {
        if self.link.is_none() {
            // Given up in the middle of these events; slots among them go with their table.
            return;
        }
        match event {
            Event::Arrived { frame, slot, tail, visible, .. } => match self.check(&frame, &slot) {
                Ok((flight, mut reply, payload_bytes)) => {
                    if let Some(batch) = tail.batch {
                        batch.note(&mut reply.times);
                    }
                    let came = Came { reply, payload_bytes, slot, outputs: tail.outputs, visible };
                    self.complete(&flight, came);
                }
                Err(what) => self.give_up(LinkError::Protocol(what.into()), vec![slot]),
            },
            Event::Sent { request, elapsed_ns, .. } => {
                if let Some(flight) = self.flights.find(request) {
                    flight.send_ns = Some(elapsed_ns);
                }
            }
            Event::Gone { why, slots, .. } => self.give_up(why, slots),
            Event::Refused(refusal) => {
                self.give_up(LinkError::Protocol(refusal.to_string()), Vec::new());
            }
            Event::Joined { .. } => {}
        }
    }

    /// Whether a frame is the reply to what is in flight in its slot. Takes the flight if so.
    fn check(
        &mut self,
        frame: &Frame,
        slot: &Slot,
    ) -> Result<(Flight, Reply, usize), &'static str> {
        let Body::Reply(reply) = frame.body else {
            return Err("a frame that is not a reply");
        };
        if frame.session != self.options.session {
            return Err("a reply for another session");
        }
        if frame.generation != self.options.generation {
            return Err("a reply of another lease");
        }
        if frame.slot != slot.index() {
            return Err("a reply that names another slot than its own");
        }
        let payload_bytes = usize::try_from(frame.payload_bytes).unwrap_or(usize::MAX);
        if payload_bytes > slot.reply().bytes() {
            return Err("a reply that is longer than its slot");
        }
        match self.flights.get(frame.slot) {
            Some(flight) if flight.request == frame.request => {}
            _ => return Err("a reply to a request that is not in flight"),
        }
        let flight = self.flights.take(frame.slot).ok_or("a reply to a free slot")?;
        Ok((flight, reply, payload_bytes))
    }
}
