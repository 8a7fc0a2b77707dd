//! What a model was asked, and how long that took, since it was loaded.

use std::sync::atomic::{AtomicU64, Ordering};

use ferry_core::{RequestKind, Stage, StageTimes, Status};
use ferry_memory::Departure;
use ferry_transport::UnixClock;

/// Largest batch that is told apart: the largest that a model takes unless its TOML says otherwise.
const SIZES_MAX: u64 = 256;

/// Counters that every request to a model adds to, whatever brought it. Each is right by itself;
/// two of them may be a request apart.
#[derive(Debug)]
pub struct Counts {
    clock: UnixClock,
    /// By batch size; the first has all that are larger than the others.
    sizes: Box<[OfSize]>,
    /// Items of the batches that the first one has.
    items_of_larger: AtomicU64,
    failed: AtomicU64,
    failed_ns: AtomicU64,
    last_unix_ns: AtomicU64,
}

/// Requests with one batch size that were served.
#[derive(Debug, Default)]
struct OfSize {
    requests: AtomicU64,
    server_ns: AtomicU64,
    queue_ns: AtomicU64,
    input_ns: AtomicU64,
    infer_ns: AtomicU64,
    output_ns: AtomicU64,
}

/// Requests that were served: how many, with how many items, and how long they took together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests.
    pub requests: u64,
    /// Items of their batches.
    pub items: u64,
    /// From the doorbell to the reply.
    pub server_ns: u64,
    /// Waiting for an instance, and for the thread that was woken for it.
    pub queue_ns: u64,
    /// Until the model's input was ready: copies to a device, decoding, preparing.
    pub input_ns: u64,
    /// The model.
    pub infer_ns: u64,
    /// From the model's output to the reply.
    pub output_ns: u64,
}

/// All that was counted, at about one instant.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// Everything that was served.
    pub all: Tally,
    /// By batch size, smallest first; without sizes that nobody asked for, and those above 256.
    pub sizes: Vec<(u64, Tally)>,
    /// Requests that were not served.
    pub failed: u64,
    /// How long these took together.
    pub failed_ns: u64,
    /// When the last one was served; 0 if none was.
    pub last_unix_ns: u64,
}

const QUEUE: [Stage; 3] = [Stage::Queue, Stage::Wake, Stage::Batch];
const INPUT: [Stage; 3] = [Stage::CopyIn, Stage::Decode, Stage::Preprocess];
const OUTPUT: [Stage; 2] = [Stage::Postprocess, Stage::CopyOut];

fn sum(times: &StageTimes, stages: &[Stage]) -> u64 {
    stages.iter().filter_map(|&stage| times.of(stage)).fold(0, u64::saturating_add)
}

fn add(to: &AtomicU64, number: u64) {
    // Most stages of most requests did not happen.
    if number > 0 {
        to.fetch_add(number, Ordering::Relaxed);
    }
}

impl Counts {
    /// Nothing was asked yet.
    pub fn new() -> Counts {
        Counts {
            clock: UnixClock::read(),
            sizes: (0..=SIZES_MAX).map(|_| OfSize::default()).collect(),
            items_of_larger: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            failed_ns: AtomicU64::new(0),
            last_unix_ns: AtomicU64::new(0),
        }
    }

    /// Counts a request with so many items whose accounts are closed. A ping never reaches the
    /// model, and is not counted.
    pub(crate) fn count(&self, items: u64, departure: &Departure) {
        if departure.what.kind == RequestKind::Ping {
            return;
        }
        let times = &departure.times;
        let server_ns = times.of(Stage::Server).unwrap_or_default();
        if departure.status != Status::Ok {
            add(&self.failed, 1);
            add(&self.failed_ns, server_ns);
            return;
        }
        let items = items.max(1);
        let of_size = if items > SIZES_MAX { 0 } else { items };
        let of_size = usize::try_from(of_size).ok().and_then(|at| self.sizes.get(at));
        let Some(size) = of_size else { return };
        if items > SIZES_MAX {
            add(&self.items_of_larger, items);
        }
        add(&size.requests, 1);
        add(&size.server_ns, server_ns);
        add(&size.queue_ns, sum(times, &QUEUE));
        add(&size.input_ns, sum(times, &INPUT));
        add(&size.infer_ns, times.of(Stage::Infer).unwrap_or_default());
        add(&size.output_ns, sum(times, &OUTPUT));
        let unix_ns = self.clock.unix_ns(departure.ready);
        self.last_unix_ns.store(unix_ns, Ordering::Relaxed);
    }

    /// What was counted.
    pub fn read(&self) -> Counted {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let mut counted = Counted {
            failed: load(&self.failed),
            failed_ns: load(&self.failed_ns),
            last_unix_ns: load(&self.last_unix_ns),
            ..Counted::default()
        };
        for (size, of_size) in (0..).zip(&self.sizes) {
            let requests = load(&of_size.requests);
            let tally = Tally {
                requests,
                items: if size == 0 { load(&self.items_of_larger) } else { requests * size },
                server_ns: load(&of_size.server_ns),
                queue_ns: load(&of_size.queue_ns),
                input_ns: load(&of_size.input_ns),
                infer_ns: load(&of_size.infer_ns),
                output_ns: load(&of_size.output_ns),
            };
            counted.all.add(&tally);
            if size > 0 && requests > 0 {
                counted.sizes.push((size, tally));
            }
        }
        counted
    }
}

impl Default for Counts {
    fn default() -> Self {
        Counts::new()
    }
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        self.requests += other.requests;
        self.items += other.items;
        self.server_ns += other.server_ns;
        self.queue_ns += other.queue_ns;
        self.input_ns += other.input_ns;
        self.infer_ns += other.infer_ns;
        self.output_ns += other.output_ns;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use ferry_core::{Generation, Request, SessionId, SlotLayout};
    use ferry_memory::{Arrival, PeerId, SlotTable};

    use super::*;

    fn departure(kind: RequestKind, status: Status) -> Departure {
        let layout = SlotLayout { slots: 1, request_bytes: 8, reply_bytes: 8 };
        let now = Instant::now();
        let arrival = Arrival {
            peer: PeerId(0),
            session: SessionId(1),
            generation: Generation::FIRST,
            request: 1,
            what: Request::of(kind),
            payload_bytes: 0,
            slot: SlotTable::private(layout).unwrap().acquire().unwrap(),
            seen: now,
            visible: now,
        };
        let mut times = StageTimes::NONE;
        for (stage, ns) in [(Stage::Queue, 1), (Stage::Wake, 2), (Stage::Decode, 4)] {
            times.set(stage, ns);
        }
        times.set(Stage::Infer, 8);
        times.set(Stage::CopyOut, 16);
        let mut departure = arrival.depart(0, times);
        departure.status = status;
        departure.times.set(Stage::Server, 100);
        departure
    }

    #[test]
    fn stages_are_summed_by_batch_size_and_in_all() {
        let counts = Counts::new();
        let served = departure(RequestKind::Tensor, Status::Ok);
        for items in [1, 4, 4, SIZES_MAX, SIZES_MAX + 1, u64::MAX >> 32] {
            counts.count(items, &served);
        }
        let counted = counts.read();
        let sizes: Vec<_> = counted.sizes.iter().map(|(size, it)| (*size, it.requests)).collect();
        assert_eq!(sizes, [(1, 1), (4, 2), (SIZES_MAX, 1)]);
        let four = counted.sizes[1].1;
        let ns = (four.server_ns, four.queue_ns, four.input_ns, four.infer_ns, four.output_ns);
        assert_eq!(ns, (200, 6, 8, 16, 32));
        assert_eq!((four.items, counted.all.requests), (8, 6));
        let larger = SIZES_MAX + 1 + (u64::MAX >> 32);
        assert_eq!(counted.all.items, 1 + 8 + SIZES_MAX + larger);
        assert!(counted.last_unix_ns > 1 << 60);
    }

    #[test]
    fn failures_are_apart_and_pings_nowhere() {
        let counts = Counts::new();
        counts.count(1, &departure(RequestKind::Tensor, Status::Overloaded));
        counts.count(1, &departure(RequestKind::Ping, Status::Ok));
        let counted = counts.read();
        assert_eq!((counted.failed, counted.failed_ns), (1, 100));
        assert_eq!((counted.all, counted.last_unix_ns), (Tally::default(), 0));
    }
}
