//! How the requests to a model ended, how large they were and how long each of their stages took,
//! by transport, since it was loaded.
//!
//! A lane's thread adds to numbers that it alone writes, so that nothing of this is a locked
//! instruction on the way of a request; calls share theirs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ferry_core::stage::SERVER_STAGES;
use ferry_core::{RequestKind, Status, Transport};
use ferry_memory::Departure;

/// Upper bounds of the ranges that durations are counted in, in nanoseconds; what is longer than the
/// last is in one range more. The stages of a small request over shared memory take a microsecond,
/// those of a large model seconds. From one to the next it is two to two and a half times as much,
/// which is as wrong as a quantile can be.
pub const BOUNDS_NS: [u64; 22] = {
    let mut bounds = [0; 22];
    let (mut at, mut decade) = (0, 1000);
    while at < bounds.len() {
        bounds[at] = match at % 3 {
            0 => decade,
            1 => decade * 5 / 2,
            _ => decade * 5,
        };
        at += 1;
        if at % 3 == 0 {
            decade *= 10;
        }
    }
    bounds
};

/// Ranges that durations are counted in.
pub const RANGES: usize = BOUNDS_NS.len() + 1;

/// How many bounds are less than each power of two.
const BELOW: [usize; 64] = {
    let mut below = [0; 64];
    let mut power = 0;
    while power < 64 {
        while below[power] < BOUNDS_NS.len() && BOUNDS_NS[below[power]] < 1 << power {
            below[power] += 1;
        }
        power += 1;
    }
    below
};

/// The range that a duration is in. Between two powers of two there is one bound at most.
fn range(ns: u64) -> usize {
    let below = BELOW.get(ns.max(1).ilog2() as usize).copied().unwrap_or_default();
    match BOUNDS_NS.get(below) {
        Some(&bound) if bound < ns => below + 1,
        _ => below,
    }
}

/// What a model was asked, by whoever writes it down.
#[derive(Debug)]
pub struct Timings {
    calls: Arc<Timed>,
    /// As many as lanes that had sessions with the model, times the transports of each.
    lanes: Mutex<Vec<Arc<Timed>>>,
}

/// What one writer wrote down.
#[derive(Debug)]
pub struct Timed {
    transport: Transport,
    /// The lane whose thread writes; `None`: calls, on any thread.
    lane: Option<String>,
    by_status: [AtomicU64; Status::ALL.len()],
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    stages: [Durations; SERVER_STAGES.len()],
}

#[derive(Debug)]
struct Durations {
    ranges: [AtomicU64; RANGES],
    sum_ns: AtomicU64,
}

/// What was written down of one transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfTransport {
    /// Which.
    pub transport: Transport,
    /// Requests by how they ended, in the order of [`Status::ALL`].
    pub by_status: [u64; Status::ALL.len()],
    /// Payloads of requests.
    pub bytes_in: u64,
    /// Payloads of replies.
    pub bytes_out: u64,
    /// How long the stages of those took that ended well, in the order of [`SERVER_STAGES`].
    pub stages: [Histogram; SERVER_STAGES.len()],
}

/// How often something took how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// How often it was in each range; see [`BOUNDS_NS`].
    pub ranges: [u64; RANGES],
    /// How long it took together.
    pub sum_ns: u64,
}

impl Histogram {
    /// How often it happened.
    pub fn count(&self) -> u64 {
        self.ranges.iter().sum()
    }
}

impl Timings {
    /// Where calls are written down, whatever thread answers them. SQL has them as `grpc`, too.
    pub fn of_calls(&self) -> Arc<Timed> {
        Arc::clone(&self.calls)
    }

    /// Where the thread of a lane, and nobody else, writes its sessions' requests down.
    pub fn of_lane(&self, lane: &str, transport: Transport) -> Arc<Timed> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let is = |timed: &&Arc<Timed>| {
            timed.transport == transport && timed.lane.as_deref() == Some(lane)
        };
        if let Some(timed) = lanes.iter().find(is) {
            return Arc::clone(timed);
        }
        let timed = Arc::new(Timed::new(transport, Some(lane.to_owned())));
        lanes.push(Arc::clone(&timed));
        timed
    }

    /// What was written down, by transport, in their order.
    pub fn read(&self) -> Vec<OfTransport> {
        let mut all: Vec<OfTransport> = Vec::new();
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        for timed in lanes.iter().chain([&self.calls]) {
            let transport = timed.transport;
            match all.iter_mut().find(|of| of.transport == transport) {
                Some(of) => timed.add_to(of),
                None => {
                    let mut of = OfTransport::none(transport);
                    timed.add_to(&mut of);
                    all.push(of);
                }
            }
        }
        drop(lanes);
        all.sort_by_key(|of| of.transport.name());
        all
    }
}

impl Timed {
    fn new(transport: Transport, lane: Option<String>) -> Timed {
        let durations = || Durations {
            ranges: std::array::from_fn(|_| AtomicU64::new(0)),
            sum_ns: AtomicU64::new(0),
        };
        Timed {
            transport,
            lane,
            by_status: std::array::from_fn(|_| AtomicU64::new(0)),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            stages: std::array::from_fn(|_| durations()),
        }
    }

    /// Writes down a request whose accounts are closed. A ping never reaches the model.
    pub(crate) fn note(&self, departure: &Departure) {
        if departure.what.kind == RequestKind::Ping {
            return;
        }
        if let Some(count) = self.by_status.get(departure.status as usize) {
            self.add(count, 1);
        }
        self.add(&self.bytes_in, departure.request_bytes as u64);
        if departure.status != Status::Ok {
            return;
        }
        self.add(&self.bytes_out, departure.payload_bytes as u64);
        for (stage, durations) in SERVER_STAGES.iter().zip(&self.stages) {
            if let Some(ns) = departure.times.of(*stage)
                && let Some(count) = durations.ranges.get(range(ns))
            {
                self.add(count, 1);
                self.add(&durations.sum_ns, ns);
            }
        }
    }

    fn add(&self, number: &AtomicU64, more: u64) {
        if self.lane.is_some() {
            // Its only writer, so that nothing can come between.
            number.store(number.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
        } else {
            number.fetch_add(more, Ordering::Relaxed);
        }
    }

    fn add_to(&self, all: &mut OfTransport) {
        let add = |to: &mut u64, from: &AtomicU64| {
            *to = to.wrapping_add(from.load(Ordering::Relaxed));
        };
        all.by_status.iter_mut().zip(&self.by_status).for_each(|(to, from)| add(to, from));
        add(&mut all.bytes_in, &self.bytes_in);
        add(&mut all.bytes_out, &self.bytes_out);
        for (to, from) in all.stages.iter_mut().zip(&self.stages) {
            to.ranges.iter_mut().zip(&from.ranges).for_each(|(to, from)| add(to, from));
            add(&mut to.sum_ns, &from.sum_ns);
        }
    }
}

impl Default for Timings {
    fn default() -> Self {
        Timings { calls: Arc::new(Timed::new(Transport::Grpc, None)), lanes: Mutex::default() }
    }
}

impl OfTransport {
    fn none(transport: Transport) -> OfTransport {
        OfTransport {
            transport,
            by_status: [0; Status::ALL.len()],
            bytes_in: 0,
            bytes_out: 0,
            stages: [Histogram::default(); SERVER_STAGES.len()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_first_range_that_it_does_not_exceed() {
        assert_eq!(BOUNDS_NS[..4], [1000, 2500, 5000, 10_000]);
        assert_eq!(BOUNDS_NS[RANGES - 2], 10_000_000_000);
        let around = |bound: &u64| [bound - 1, *bound, bound + 1];
        let powers = (0..64).map(|power| 1_u64 << power);
        let all = BOUNDS_NS.iter().flat_map(around).chain(powers).chain([0, u64::MAX]);
        for ns in all {
            assert_eq!(range(ns), BOUNDS_NS.partition_point(|bound| *bound < ns), "{ns}");
        }
        let distances = BOUNDS_NS.windows(2).map(|pair| pair[1] * 2 / pair[0]);
        assert!(distances.into_iter().all(|twice| (4..=5).contains(&twice)));
    }

    #[test]
    fn statuses_are_numbered_as_they_are_listed() {
        for (at, status) in Status::ALL.into_iter().enumerate() {
            assert_eq!(status as usize, at);
        }
    }

    #[test]
    fn writers_of_one_transport_are_told_together_and_others_apart() {
        let timings = Timings::default();
        let [one, other] = ["a", "b"].map(|lane| timings.of_lane(lane, Transport::Shm));
        assert!(Arc::ptr_eq(&one, &timings.of_lane("a", Transport::Shm)));
        assert!(!Arc::ptr_eq(&one, &timings.of_lane("a", Transport::CudaIpc)));
        let calls = timings.of_calls();
        for (timed, count) in [(&one, 1), (&other, 2), (&calls, 4)] {
            timed.add(&timed.by_status[0], count);
            timed.add(&timed.stages[1].ranges[3], count);
            timed.add(&timed.stages[1].sum_ns, count * 10);
        }
        let read = timings.read();
        let told: Vec<_> = read
            .iter()
            .filter(|of| of.by_status[0] > 0)
            .map(|of| (of.transport, of.by_status[0], of.stages[1].count(), of.stages[1].sum_ns))
            .collect();
        assert_eq!(told, [(Transport::Grpc, 4, 4, 40), (Transport::Shm, 3, 3, 30)]);
    }
}
