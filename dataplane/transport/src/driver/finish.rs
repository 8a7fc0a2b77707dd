//! How requests end: with a reply, past their deadline, or with the link.

use std::time::Instant;

use ferry_core::stage::SERVER_STAGES;
use ferry_core::{OutputShapes, Reply, RequestRecord, Stage, StageTimes, Status};
use ferry_memory::Slot;

use super::flight::Flight;
use super::{Completion, Driver, DriverState, Ending};
use crate::clock::between_ns;
use crate::link::LinkError;

/// A reply that came, found good.
pub(super) struct Came {
    pub(super) reply: Reply,
    pub(super) payload_bytes: usize,
    pub(super) slot: Slot,
    pub(super) outputs: Option<Box<OutputShapes>>,
    pub(super) visible: Instant,
}

impl Driver {
    pub(super) fn complete(&mut self, flight: &Flight, came: Came) {
        let Came { reply, payload_bytes, slot, outputs, visible } = came;
        self.replied = visible;
        let mut times = flight.times();
        // Only what belongs in a reply is taken from it.
        for stage in SERVER_STAGES {
            times.put(stage, reply.times.of(stage));
        }
        times.set_staged(reply.times.staged());
        times.set_batch_rows(reply.times.batch_rows());
        times.set(Stage::Total, between_ns(flight.submitted, visible));
        if let Some(mut held) = self.held.take() {
            held.times.put(Stage::Reply, reply.reply_ns_previous);
            self.sink.record(held);
        }
        self.held = Some(self.record(flight, reply.status, payload_bytes as u64, times));
        if flight.given_up {
            // The caller was told when the deadline passed; dropping the slot frees it.
            return;
        }
        self.completions.push_back(Completion {
            request: flight.request,
            what: flight.what,
            request_bytes: flight.request_bytes(),
            slot: Some(slot),
            ending: Ending::Replied,
            status: reply.status,
            payload_bytes,
            outputs,
            times,
        });
    }

    /// The link is over: completes everything in flight as lost. `slots` are those that the link
    /// gave back.
    pub(super) fn give_up(&mut self, why: LinkError, mut slots: Vec<Slot>) {
        self.state = DriverState::Lost(why);
        if let Some(table) = &self.table {
            // A late write may still land in what was in flight: nothing of this lease is reused.
            table.retire();
        }
        self.link = None;
        self.flush();
        while let Some((index, flight)) = self.flights.take_any() {
            let times = flight.times();
            self.sink.record(self.record(&flight, Status::LinkLost, 0, times));
            if flight.given_up {
                continue;
            }
            let at = slots.iter().position(|slot| slot.index() == index);
            self.completions.push_back(Completion {
                request: flight.request,
                what: flight.what,
                request_bytes: flight.request_bytes(),
                slot: at.map(|at| slots.swap_remove(at)),
                ending: Ending::LinkLost,
                status: Status::LinkLost,
                payload_bytes: 0,
                outputs: None,
                times,
            });
        }
        self.next_deadline = None;
    }

    /// Tells the caller of requests whose deadline has passed.
    pub(super) fn expire(&mut self) {
        if self.next_deadline.is_none() {
            return;
        }
        let now = Instant::now();
        if self.next_deadline.is_some_and(|next| now < next) {
            return;
        }
        self.next_deadline = None;
        let completions = &mut self.completions;
        let mut next = None::<Instant>;
        self.flights.each(|flight| {
            let Some(deadline) = flight.deadline.filter(|_| !flight.given_up) else { return };
            if now < deadline {
                next = Some(next.map_or(deadline, |next| next.min(deadline)));
                return;
            }
            flight.given_up = true;
            completions.push_back(Completion {
                request: flight.request,
                what: flight.what,
                request_bytes: flight.request_bytes(),
                slot: None,
                ending: Ending::DeadlinePassed,
                status: Status::LinkLost,
                payload_bytes: 0,
                outputs: None,
                times: flight.times(),
            });
        });
        self.next_deadline = next;
    }

    fn record(
        &self,
        flight: &Flight,
        status: Status,
        bytes_out: u64,
        times: StageTimes,
    ) -> RequestRecord {
        RequestRecord {
            run: self.options.run,
            session: self.options.session,
            request: flight.request,
            started_unix_ns: self.options.clock.unix_ns(flight.submitted),
            kind: flight.what.kind.name(),
            batch: flight.what.batch,
            priority: flight.what.priority,
            bytes_in: flight.bytes_in,
            bytes_out,
            status,
            trace: flight.what.trace,
            times,
        }
    }
}

impl Drop for Driver {
    /// What is still in flight is recorded as lost: nobody will hear of it.
    fn drop(&mut self) {
        self.end(LinkError::Closed);
        self.flush();
    }
}
