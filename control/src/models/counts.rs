//! What a model was asked, and how long that took, since it was loaded.

use std::sync::atomic::{AtomicU64, Ordering};

use ferry_core::{RequestKind, Stage, StageTimes, Status};
use ferry_memory::Departure;
use ferry_transport::UnixClock;

/// Largest run that is told apart: the largest request that a model takes unless its TOML says
/// otherwise, and more than a batch of requests has unless it does.
const SIZES_MAX: u64 = 256;

/// What a run of a larger size counts, so that its requests can count their shares of it.
const RUN: u64 = 1 << 20;

/// Counters that every request to a model adds to, whatever brought it. Each is right by itself;
/// two of them may be a request apart.
#[derive(Debug)]
pub struct Counts {
    clock: UnixClock,
    requests: AtomicU64,
    items: AtomicU64,
    server_ns: AtomicU64,
    queue_ns: AtomicU64,
    input_ns: AtomicU64,
    infer_ns: AtomicU64,
    output_ns: AtomicU64,
    /// By the rows of a run; that of 0 is not used.
    runs: Box<[OfSize]>,
    /// Of larger runs, each [`RUN`].
    larger_runs: AtomicU64,
    failed: AtomicU64,
    failed_ns: AtomicU64,
    last_unix_ns: AtomicU64,
}

/// Runs of one size. Each request adds its share, so that a run of several counts once, and once all
/// of its requests are answered.
#[derive(Debug, Default)]
struct OfSize {
    rows: AtomicU64,
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
    /// Waiting for an instance, for the thread that was woken for it, and for others.
    pub queue_ns: u64,
    /// Until the model's input was ready: gathering, copies to a device, decoding, preparing.
    pub input_ns: u64,
    /// The model.
    pub infer_ns: u64,
    /// From the model's output to the reply.
    pub output_ns: u64,
}

/// Runs of the model with as many rows, and how long they took together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// Rows of each.
    pub rows: u64,
    /// Runs.
    pub count: u64,
    /// As in [`Tally`]; a run of several requests counts once.
    pub input_ns: u64,
    /// The model.
    pub infer_ns: u64,
    /// As in [`Tally`].
    pub output_ns: u64,
}

/// All that was counted, at about one instant.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// Everything that was served.
    pub all: Tally,
    /// How often the model ran for it.
    pub runs: u64,
    /// By size, smallest first; without sizes that nobody asked for, and those above 256.
    pub sizes: Vec<Runs>,
    /// Requests that were not served.
    pub failed: u64,
    /// How long these took together.
    pub failed_ns: u64,
    /// When the last one was served; 0 if none was.
    pub last_unix_ns: u64,
}

const QUEUE: [Stage; 3] = [Stage::Queue, Stage::Wake, Stage::Batch];
const INPUT: [Stage; 4] = [Stage::Gather, Stage::CopyIn, Stage::Decode, Stage::Preprocess];
const OUTPUT: [Stage; 3] = [Stage::Postprocess, Stage::CopyOut, Stage::Scatter];

fn sum(times: &StageTimes, stages: &[Stage]) -> u64 {
    stages.iter().filter_map(|&stage| times.of(stage)).fold(0, u64::saturating_add)
}

fn add(to: &AtomicU64, number: u64) {
    // Most stages of most requests did not happen.
    if number > 0 {
        to.fetch_add(number, Ordering::Relaxed);
    }
}

/// What of `number` falls to `part` of `whole`.
fn share(number: u64, part: u64, whole: u64) -> u64 {
    let share = u128::from(number) * u128::from(part) / u128::from(whole.max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}

impl Counts {
    /// Nothing was asked yet.
    pub fn new() -> Counts {
        Counts {
            clock: UnixClock::read(),
            requests: AtomicU64::new(0),
            items: AtomicU64::new(0),
            server_ns: AtomicU64::new(0),
            queue_ns: AtomicU64::new(0),
            input_ns: AtomicU64::new(0),
            infer_ns: AtomicU64::new(0),
            output_ns: AtomicU64::new(0),
            runs: (0..=SIZES_MAX).map(|_| OfSize::default()).collect(),
            larger_runs: AtomicU64::new(0),
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
        let (input_ns, output_ns) = (sum(times, &INPUT), sum(times, &OUTPUT));
        let infer_ns = times.of(Stage::Infer).unwrap_or_default();
        add(&self.requests, 1);
        add(&self.items, items);
        add(&self.server_ns, server_ns);
        add(&self.queue_ns, sum(times, &QUEUE));
        add(&self.input_ns, input_ns);
        add(&self.infer_ns, infer_ns);
        add(&self.output_ns, output_ns);
        let together = times.batch_rows().map_or(0, |rows| u64::from(rows.get()));
        let rows = items.max(together);
        let of_size = usize::try_from(rows).ok().and_then(|at| self.runs.get(at));
        if let Some(size) = of_size {
            add(&size.rows, items);
            add(&size.input_ns, share(input_ns, items, rows));
            add(&size.infer_ns, share(infer_ns, items, rows));
            add(&size.output_ns, share(output_ns, items, rows));
        } else {
            add(&self.larger_runs, share(RUN, items, rows));
        }
        let unix_ns = self.clock.unix_ns(departure.ready);
        self.last_unix_ns.store(unix_ns, Ordering::Relaxed);
    }

    /// What was counted.
    pub fn read(&self) -> Counted {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let sizes = (0..).zip(&self.runs).skip(1).map(|(rows, of_size)| Runs {
            rows,
            count: load(&of_size.rows) / rows,
            input_ns: load(&of_size.input_ns),
            infer_ns: load(&of_size.infer_ns),
            output_ns: load(&of_size.output_ns),
        });
        let sizes: Vec<Runs> = sizes.filter(|it| it.count > 0).collect();
        // Shares are cut, so that the nearest number is what they come to.
        let larger = load(&self.larger_runs).saturating_add(RUN / 2) / RUN;
        Counted {
            all: Tally {
                requests: load(&self.requests),
                items: load(&self.items),
                server_ns: load(&self.server_ns),
                queue_ns: load(&self.queue_ns),
                input_ns: load(&self.input_ns),
                infer_ns: load(&self.infer_ns),
                output_ns: load(&self.output_ns),
            },
            runs: sizes.iter().map(|it| it.count).sum::<u64>() + larger,
            sizes,
            failed: load(&self.failed),
            failed_ns: load(&self.failed_ns),
            last_unix_ns: load(&self.last_unix_ns),
        }
    }
}

impl Default for Counts {
    fn default() -> Self {
        Counts::new()
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
        let sizes: Vec<_> = counted.sizes.iter().map(|it| (it.rows, it.count)).collect();
        assert_eq!(sizes, [(1, 1), (4, 2), (SIZES_MAX, 1)]);
        let four = counted.sizes[1];
        assert_eq!((four.input_ns, four.infer_ns, four.output_ns), (8, 16, 32));
        let Tally { server_ns, queue_ns, input_ns, infer_ns, output_ns, .. } = counted.all;
        let ns = (server_ns, queue_ns, input_ns, infer_ns, output_ns);
        assert_eq!(ns, (600, 18, 24, 48, 96));
        assert_eq!((counted.all.requests, counted.runs), (6, 6));
        let larger = SIZES_MAX + 1 + (u64::MAX >> 32);
        assert_eq!(counted.all.items, 1 + 8 + SIZES_MAX + larger);
        assert!(counted.last_unix_ns > 1 << 60);
    }

    #[test]
    fn requests_that_ran_as_one_are_one_run_of_all_their_rows() {
        let counts = Counts::new();
        let mut served = departure(RequestKind::Tensor, Status::Ok);
        let mut run = |rows: u32, members: &[u64]| {
            served.times.set_batch_rows(std::num::NonZeroU32::new(rows));
            members.iter().for_each(|&items| counts.count(items, &served));
        };
        run(4, &[1, 1, 2]);
        run(4, &[3]);
        let counted = counts.read();
        let four = Runs { rows: 4, count: 1, input_ns: 7, infer_ns: 14, output_ns: 28 };
        assert_eq!(counted.sizes, [four], "the last one of the second run is not answered yet");
        run(4, &[1]);
        for _ in 0..1000 {
            run(300, &[100, 100, 99, 1]);
        }
        let counted = counts.read();
        let sizes: Vec<_> = counted.sizes.iter().map(|it| (it.rows, it.count)).collect();
        assert_eq!((sizes, counted.runs), (vec![(4, 2)], 1002));
        assert_eq!((counted.all.requests, counted.all.items), (4005, 300_008));
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
