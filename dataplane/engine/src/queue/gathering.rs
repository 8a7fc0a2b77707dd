//! Taking a batch out of the queue, and when it waits for more.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::time::Instant;

use ferry_memory::Departure;

use super::level::{Client, Level};
use super::{Gate, Queue, Queued, State};
use crate::batch::{Batching, Candidate, Picked, Picker};

/// Most clients whose last answer is remembered: more than one batch has room for, mostly.
const ANSWERED_MAX: usize = 256;

/// The level that is not urgent.
const NORMAL: usize = 0;

/// What an instance has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Nothing,
    /// It has as many batches in flight as it may.
    Urgent,
    /// It is at work: a batch that is not full may as well wait for more.
    Busy,
    /// It has nothing in flight.
    Idle,
}

/// What was taken: requests that may run as one, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) requests: Vec<Queued>,
    /// Since when they could have been taken, if they waited for more.
    pub(crate) since: Option<Instant>,
}

/// What the queue knows of the next batch.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    picker: Picker,
    /// Since when the next batch of the normal level waits for more.
    since: Option<Instant>,
    /// Clients and when they were answered last, the latest last.
    answered: VecDeque<(Client, Instant)>,
}

impl Queue {
    /// Takes the next batch to `taken`, which is empty: one request or more, or none if nothing
    /// waits that there is `room` for. Until when it waits for more, if it does: where nothing is in
    /// flight, that time is spent here.
    pub(crate) fn take(
        &self,
        batching: &Batching,
        room: Room,
        taken: &mut Taken,
    ) -> Option<Instant> {
        if self.len() == 0 {
            return None;
        }
        let mut state = self.lock();
        loop {
            let until = state.take(batching, room, taken);
            if until.is_none() || room != Room::Idle {
                self.note_len(&state);
                return until;
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            state.sleepers += 1;
            let woken = self.bell.wait_timeout(state, left.unwrap_or_default());
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
            state.sleepers -= 1;
        }
    }

    /// Notes that a client is answered: it is likely to send again.
    pub(crate) fn answered(&self, departure: &Departure) {
        let client = Client { session: departure.session, peer: departure.peer };
        let mut state = self.lock();
        let answered = &mut state.gathering.answered;
        answered.retain(|(known, _)| *known != client);
        if answered.len() >= ANSWERED_MAX {
            answered.pop_front();
        }
        answered.push_back((client, Instant::now()));
    }
}

impl State {
    fn take(&mut self, batching: &Batching, room: Room, taken: &mut Taken) -> Option<Instant> {
        let at = match room {
            Room::Nothing => return None,
            Room::Urgent => self.level_in_turn(NORMAL + 1),
            Room::Busy | Room::Idle => self.level_in_turn(NORMAL),
        };
        let State { levels, gathering, gate, .. } = self;
        let level = &mut levels[at];
        if at == NORMAL && room == Room::Urgent {
            return None;
        }
        let Some(picked) = gathering.pick(batching, level, at == NORMAL) else {
            // Those that waited for more have gone.
            gathering.since = None;
            return None;
        };
        if at == NORMAL {
            let waits = *gate == Gate::Open && !picked.complete;
            if waits && room == Room::Busy {
                gathering.since.get_or_insert_with(Instant::now);
                return None;
            }
            if waits && let Some(until) = gathering.waits_until(batching, level) {
                gathering.since.get_or_insert_with(Instant::now);
                return Some(until);
            }
            taken.since = gathering.since.take();
        }
        level.take(&gathering.picker.picked, &mut taken.requests);
        self.note_turn(at);
        None
    }
}

impl Gathering {
    /// Chooses the batch that begins with the level's oldest request; `None` if there is none.
    fn pick(&mut self, batching: &Batching, level: &Level, is_normal: bool) -> Option<Picked> {
        let first = &level.first()?.work;
        let is_off = batching.is_off() || !(is_normal || batching.takes_urgent());
        let rows_max = if is_off { None } else { batching.rows_max(first) };
        let Some(rows_max) = rows_max else {
            self.picker.picked.clear();
            self.picker.picked.push(0);
            return Some(Picked { rows: 1, complete: true });
        };
        let candidates = level.iter().map(|Queued { work, .. }| Candidate {
            client: Client::of(&work.arrival),
            rows: batching.rows_beside(first, work),
        });
        Some(self.picker.pick(candidates, batching.sizes(rows_max)))
    }

    /// Until when the batch that was picked waits. It does so only while a client that has nothing
    /// in the queue was answered less than the batch's delay ago. Most clients send again soon after
    /// an answer; with one instance on a CPU nothing is ever in flight while a batch is made, so
    /// that nothing else tells who is about. A client that is alone never waits.
    fn waits_until(&self, batching: &Batching, level: &Level) -> Option<Instant> {
        let delay = batching.options.delay;
        if delay.is_zero() {
            return None;
        }
        let mut answered = self.answered.iter().rev();
        let (_, last) = answered.find(|(client, _)| !self.picker.has_seen(*client))?;
        let oldest = level.first()?.work.arrival.visible;
        let until = oldest.min(*last) + delay;
        (Instant::now() < until).then_some(until)
    }
}
