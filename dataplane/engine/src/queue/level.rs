//! Requests of one priority that wait, in the order in which they are served: in rounds, in each of
//! which every client has one turn, so that none waits behind all that another one sent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use ferry_core::SessionId;
use ferry_memory::{Arrival, PeerId};

use super::{GivenBack, Queued, Refused, Work};

/// Whoever has turns: a session, or one of the peers that share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Client {
    pub(crate) session: SessionId,
    pub(crate) peer: PeerId,
}

impl Client {
    pub(crate) fn of(arrival: &Arrival) -> Client {
        Client { session: arrival.session, peer: arrival.peer }
    }
}

/// When a request is served: in which round, and in the order of arrival within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    round: u64,
    number: u64,
}

impl Turn {
    const FIRST: Turn = Turn { round: 0, number: 0 };
    const LAST: Turn = Turn { round: u64::MAX, number: u64::MAX };
}

/// A client's request has its turn in the round after the client's last one that waits, and no
/// sooner than in the round after the one that is served. So whoever comes new is never before those
/// who wait for the next round, and nothing is kept of clients that have nothing here.
#[derive(Debug, Default)]
pub(super) struct Level {
    /// Boxed, or the tree's nodes would be some kilobytes.
    waiting: BTreeMap<Turn, Box<Queued>>,
    of_clients: BTreeSet<(Client, Turn)>,
    /// The round that is served.
    round: u64,
    arrived: u64,
    /// No deadline of a request that waits is earlier.
    earliest_deadline: Option<Instant>,
    /// How often in a row a more urgent level was served while requests waited here.
    pub(super) passed_over: u32,
}

impl Level {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn first(&self) -> Option<&Queued> {
        self.waiting.first_key_value().map(|(_, queued)| &**queued)
    }

    /// In the order in which they are served.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Queued> {
        self.waiting.values().map(|queued| &**queued)
    }

    fn last_of(&self, client: Client) -> Option<Turn> {
        let own = (client, Turn::FIRST)..=(client, Turn::LAST);
        self.of_clients.range(own).next_back().map(|(_, turn)| *turn)
    }

    fn next_of(&self, client: Client) -> Turn {
        let last = self.last_of(client).map_or(0, |turn| turn.round);
        Turn { round: last.max(self.round) + 1, number: self.arrived }
    }

    /// Adds a request. Where `bound` wait already, the one whose turn is last has to go, and is given
    /// back: another one, or where none has its turn later, the new one.
    #[expect(clippy::result_large_err, reason = "what has no place goes back as it came")]
    pub(super) fn push(&mut self, queued: Queued, bound: usize) -> Result<Option<Queued>, Queued> {
        let client = Client::of(&queued.work.arrival);
        let turn = self.next_of(client);
        let mut displaced = None;
        if self.len() >= bound {
            if self.waiting.last_key_value().is_none_or(|(last, _)| last.round <= turn.round) {
                return Err(queued);
            }
            displaced = self.waiting.pop_last().map(|(turn, queued)| {
                self.of_clients.remove(&(Client::of(&queued.work.arrival), turn));
                *queued
            });
        }
        self.arrived += 1;
        if let Some(deadline) = queued.work.deadline {
            let earliest = self.earliest_deadline.map_or(deadline, |it| it.min(deadline));
            self.earliest_deadline = Some(earliest);
        }
        self.of_clients.insert((client, turn));
        self.waiting.insert(turn, Box::new(queued));
        Ok(displaced)
    }

    /// How many requests are surely served before the next one of `client`: all that wait, or where
    /// it would overtake some, its own.
    pub(super) fn ahead_of(&self, client: Client) -> usize {
        let turn = self.next_of(client);
        if self.waiting.last_key_value().is_none_or(|(last, _)| *last < turn) {
            return self.len();
        }
        self.of_clients.range((client, Turn::FIRST)..=(client, Turn::LAST)).count()
    }

    pub(super) fn pop(&mut self) -> Option<Queued> {
        let (turn, queued) = self.waiting.pop_first()?;
        self.served(turn, &queued);
        Some(*queued)
    }

    fn served(&mut self, turn: Turn, queued: &Queued) {
        self.of_clients.remove(&(Client::of(&queued.work.arrival), turn));
        self.round = self.round.max(turn.round);
    }

    /// Takes the requests at `places`, which rise and begin with the first.
    pub(super) fn take(&mut self, places: &[usize], to: &mut Vec<Queued>) {
        // What is taken stands among the first, so that few others are walked past.
        let mut wanted = places.iter().peekable();
        let turns = self.waiting.keys().enumerate();
        let turns: Vec<Turn> = turns
            .map_while(|(at, turn)| {
                let next = **wanted.peek()?;
                Some((at == next && wanted.next().is_some()).then_some(*turn))
            })
            .flatten()
            .collect();
        // The round is that of the first: the others go before their turn.
        let round = turns.first().map_or(self.round, |turn| turn.round.max(self.round));
        for turn in turns {
            let Some(queued) = self.waiting.remove(&turn) else { continue };
            self.of_clients.remove(&(Client::of(&queued.work.arrival), turn));
            to.push(*queued);
        }
        self.round = round;
    }

    /// Takes out what waits of a session, or of one `peer` of it, and is `in_vain`.
    pub(super) fn withdraw(
        &mut self,
        session: SessionId,
        peer: Option<PeerId>,
        in_vain: &dyn Fn(&Work) -> Option<Refused>,
        to: &mut GivenBack,
    ) {
        let client = |peer| Client { session, peer };
        let [first, last] = [0, u64::MAX].map(|any| client(peer.unwrap_or(PeerId(any))));
        let own = self.of_clients.range((first, Turn::FIRST)..=(last, Turn::LAST));
        let turns = own.filter_map(|(client, turn)| {
            let why = in_vain(&self.waiting.get(turn)?.work)?;
            Some((*client, *turn, why))
        });
        let turns: Vec<_> = turns.collect();
        for (client, turn, why) in turns {
            self.of_clients.remove(&(client, turn));
            to.extend(self.waiting.remove(&turn).map(|queued| (queued.work, why)));
        }
    }

    /// Takes out what waits in vain for longer than its deadline. Looks at nothing where there is
    /// none, so that a full queue without deadlines costs no walk for each request that it refuses.
    pub(super) fn take_late(&mut self, now: Instant) -> GivenBack {
        if self.earliest_deadline.is_none_or(|earliest| earliest > now) {
            return Vec::new();
        }
        let late = self.waiting.extract_if(.., |_, queued| queued.work.is_late(now));
        let mut given_back = Vec::new();
        for (turn, queued) in late {
            self.of_clients.remove(&(Client::of(&queued.work.arrival), turn));
            given_back.push((queued.work, Refused::Late(None)));
        }
        let left = self.waiting.values().filter_map(|queued| queued.work.deadline);
        self.earliest_deadline = left.min();
        given_back
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = Queued> + use<> {
        self.of_clients.clear();
        self.earliest_deadline = None;
        std::mem::take(&mut self.waiting).into_values().map(|queued| *queued)
    }
}

#[cfg(test)]
mod tests;
