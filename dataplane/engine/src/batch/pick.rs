//! Which of the requests that wait become one batch.

use crate::queue::Client;

/// Most requests that are looked at for one batch, so that a long queue is not walked through under
/// its lock: as many as the largest batch can have.
const LOOKED_AT_MAX: usize = 1024;

/// A request that waits, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) client: Client,
    /// Its rows, if it may run with the first one.
    pub(crate) rows: Option<u64>,
}

/// Chooses in turns: the oldest request of each client, then the second of each, and so on, so that
/// no client fills a batch while others wait. The first request of all is always taken. No request
/// overtakes another one of its client: where one cannot be taken, none behind it is.
#[derive(Debug, Default)]
pub(crate) struct Picker {
    clients: Vec<Turns>,
    /// Turn, place in the queue, place in `clients`, rows.
    order: Vec<(u32, usize, usize, u64)>,
    /// Places in the queue, rising.
    pub(crate) picked: Vec<usize>,
}

#[derive(Debug)]
struct Turns {
    client: Client,
    /// Requests that were looked at.
    next: u32,
    /// Nothing more of it can be taken.
    over: bool,
}

/// How many rows a batch may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes<'a> {
    /// Most.
    pub(crate) max: u64,
    /// If some of the batches that are made in the order of a [`Picker`] have one of these sizes, it
    /// is the largest of those.
    pub(crate) preferred: &'a [u64],
    /// If there are any, no other size is taken: the first request runs alone if none is reached.
    pub(crate) only: Option<&'a [u64]>,
}

/// What became of a choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Picked {
    /// All rows of the batch.
    pub(crate) rows: u64,
    /// Waiting would not make it better: it has a size that is preferred, or no room for what waits.
    pub(crate) complete: bool,
}

impl Picker {
    /// Fills `picked`; see [`Picker`].
    pub(crate) fn pick(
        &mut self,
        candidates: impl Iterator<Item = Candidate>,
        sizes: Sizes<'_>,
    ) -> Picked {
        let Sizes { max: rows_max, preferred, only } = sizes;
        self.put_in_order(candidates, rows_max);
        let mut all = Picked::default();
        let (mut best, mut ready, mut first) = (None, None, None);
        self.picked.clear();
        for &(_, at, client, rows) in &self.order {
            let Some(turns) = self.clients.get_mut(client).filter(|it| !it.over) else {
                continue;
            };
            if all.rows + rows > rows_max {
                turns.over = true;
                all.complete = true;
                continue;
            }
            all.rows += rows;
            self.picked.push(at);
            let until_here = Some((self.picked.len(), all.rows));
            first = first.or(until_here);
            if preferred.contains(&all.rows) {
                best = until_here;
            }
            if only.is_some_and(|only| only.contains(&all.rows)) {
                ready = until_here;
            }
        }
        all.complete |= all.rows >= rows_max;
        if let Some((count, rows)) = best {
            self.picked.truncate(count);
            all = Picked { rows, complete: true };
        } else if only.is_some()
            && let Some((count, rows)) = ready.or(first)
        {
            self.picked.truncate(count);
            all.rows = rows;
        }
        self.picked.sort_unstable();
        all
    }

    fn put_in_order(&mut self, candidates: impl Iterator<Item = Candidate>, rows_max: u64) {
        self.clients.clear();
        self.order.clear();
        let mut first_turn = 0;
        for (at, Candidate { client, rows }) in candidates.take(LOOKED_AT_MAX).enumerate() {
            let known = self.clients.iter().position(|it| it.client == client);
            let index = known.unwrap_or(self.clients.len());
            if known.is_none() {
                self.clients.push(Turns { client, next: 0, over: false });
            }
            let Some(turns) = self.clients.get_mut(index).filter(|it| !it.over) else { continue };
            let Some(rows) = rows else {
                turns.over = true;
                continue;
            };
            self.order.push((turns.next, at, index, rows));
            if turns.next == 0 && first_turn + rows <= rows_max {
                first_turn += rows;
                if first_turn == rows_max {
                    // The first turn fills the batch.
                    break;
                }
            }
            turns.next += 1;
        }
        self.clients.iter_mut().for_each(|turns| turns.over = false);
        self.order.sort_unstable();
    }

    /// Whether a request of this client was looked at.
    pub(crate) fn has_seen(&self, client: Client) -> bool {
        self.clients.iter().any(|it| it.client == client)
    }
}

#[cfg(test)]
mod tests;
