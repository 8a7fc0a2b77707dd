//! Taking a batch out of the queue, and when it waits for more.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::time::Instant;

use ferry_core::SessionId;

use super::{Gate, Queue, Queued, State};
use crate::batch::{Batching, Candidate, Picked, Picker};

/// Most sessions whose last answer is remembered: more than one batch has room for, mostly.
const ANSWERED_MAX: usize = 256;

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
    /// Sessions and when they were answered last, the latest last.
    answered: VecDeque<(SessionId, Instant)>,
}

impl Queue {
    /// Takes the next batch to `taken`, which is empty: one request or more, or none if nothing
    /// waits. Until when it waits for more, if it does: with `may_sleep` that time is spent here.
    pub(crate) fn take(
        &self,
        batching: &Batching,
        may_sleep: bool,
        taken: &mut Taken,
    ) -> Option<Instant> {
        if self.len() == 0 {
            return None;
        }
        let mut state = self.lock();
        loop {
            let until = state.take(batching, taken);
            if until.is_none() || !may_sleep {
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

    /// Notes that a session is answered: it is likely to send again.
    pub(crate) fn answered(&self, session: SessionId) {
        let mut state = self.lock();
        let answered = &mut state.gathering.answered;
        answered.retain(|(known, _)| *known != session);
        if answered.len() >= ANSWERED_MAX {
            answered.pop_front();
        }
        answered.push_back((session, Instant::now()));
    }
}

impl State {
    fn take(&mut self, batching: &Batching, taken: &mut Taken) -> Option<Instant> {
        let is_urgent = self.is_turn_of_urgent();
        let State { urgent, normal, gathering, gate, .. } = self;
        let level = if is_urgent { urgent } else { normal };
        let picked = gathering.pick(batching, level)?;
        if !is_urgent {
            let waits = *gate == Gate::Open && !picked.complete;
            if waits && let Some(until) = gathering.waits_until(batching, level) {
                gathering.since.get_or_insert_with(Instant::now);
                return Some(until);
            }
            taken.since = gathering.since.take();
        }
        // From behind, so that the places of the others stay what they are.
        let places = gathering.picker.picked.iter().rev();
        taken.requests.extend(places.filter_map(|&at| level.remove(at)));
        taken.requests.reverse();
        None
    }
}

impl Gathering {
    /// Chooses the batch that begins with the level's oldest request; `None` if there is none.
    fn pick(&mut self, batching: &Batching, level: &VecDeque<Queued>) -> Option<Picked> {
        let first = &level.front()?.work;
        let rows_max = if batching.is_off() { None } else { batching.rows_max(first) };
        let Some(rows_max) = rows_max else {
            self.picker.picked.clear();
            self.picker.picked.push(0);
            return Some(Picked { rows: 1, complete: true });
        };
        let candidates = level.iter().map(|Queued { work, .. }| Candidate {
            session: work.arrival.session,
            rows: batching.rows_beside(first, work),
        });
        Some(self.picker.pick(candidates, rows_max, &batching.options.preferred))
    }

    /// Until when the batch that was picked waits. It does so only while a session that has nothing
    /// in the queue was answered less than the batch's delay ago. Most clients send again soon after
    /// an answer; with one instance on a CPU nothing is ever in flight while a batch is made, so
    /// that nothing else tells who is about. A client that is alone never waits.
    fn waits_until(&self, batching: &Batching, level: &VecDeque<Queued>) -> Option<Instant> {
        let delay = batching.options.delay;
        if delay.is_zero() {
            return None;
        }
        let mut answered = self.answered.iter().rev();
        let (_, last) = answered.find(|(session, _)| !self.picker.has_seen(*session))?;
        let oldest = level.front()?.work.arrival.visible;
        let until = oldest.min(*last) + delay;
        (Instant::now() < until).then_some(until)
    }
}
