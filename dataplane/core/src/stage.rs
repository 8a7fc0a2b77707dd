//! The named steps of a request, and how long each took.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::placement::Staged;

/// A duration in nanoseconds, as stages are told. More than `u64::MAX`, which is 584 years, is that.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A step of a request. See `docs/MEASURING.md` for where each starts and stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(usize)]
pub enum Stage {
    /// Client: slot handed out → caller says it is filled. Outside the total.
    Fill,
    /// Client: submit → link reports the write complete.
    Send,
    /// Server: doorbell seen → header checked, write visible.
    Receive,
    /// Server: visible → the thread that runs the model takes it, without what is `wake` and
    /// `batch`.
    Queue,
    /// Server: a thread that slept was told of work → it runs; at the model and at the lane.
    Wake,
    /// Server: an instance could have taken it → the batch that it is part of is complete, or has
    /// waited long enough. Also a run of that batch, where it failed and the request ran again.
    Batch,
    /// Server: the model had to be loaded first. Kept for models that come and go.
    Load,
    /// Server: taken into a batch → the inputs of the whole batch are in place, without what is
    /// `decode` and `preprocess` of this request.
    Gather,
    /// Server: host-to-device copy, by device events.
    CopyIn,
    /// Server: compressed image → pixels.
    Decode,
    /// Server: pixels → model input.
    Preprocess,
    /// Server: model input ready → model output ready.
    Infer,
    /// Server: model output → reply tensor.
    Postprocess,
    /// Server: device-to-host copy, by device events.
    CopyOut,
    /// Server: outputs of the batch ready → those of this request in its reply.
    Scatter,
    /// Server: reply ready → its submit begins, without what is `wake`.
    Outbox,
    /// Server: submit of the reply → link reports the write complete.
    Reply,
    /// Server: doorbell seen → reply's submit begins.
    Server,
    /// Client: submit → reply readable.
    Total,
}

impl Stage {
    /// How many stages there are.
    pub const COUNT: usize = 19;

    /// Every stage in the order of the walk.
    pub const ALL: [Stage; Stage::COUNT] = [
        Stage::Fill,
        Stage::Send,
        Stage::Receive,
        Stage::Queue,
        Stage::Wake,
        Stage::Batch,
        Stage::Load,
        Stage::Gather,
        Stage::CopyIn,
        Stage::Decode,
        Stage::Preprocess,
        Stage::Infer,
        Stage::Postprocess,
        Stage::CopyOut,
        Stage::Scatter,
        Stage::Outbox,
        Stage::Reply,
        Stage::Server,
        Stage::Total,
    ];

    /// The parts of [`Stage::Server`], which is their sum and what no part claims.
    pub const SERVER_PARTS: [Stage; 14] = [
        Stage::Receive,
        Stage::Queue,
        Stage::Wake,
        Stage::Batch,
        Stage::Load,
        Stage::Gather,
        Stage::CopyIn,
        Stage::Decode,
        Stage::Preprocess,
        Stage::Infer,
        Stage::Postprocess,
        Stage::CopyOut,
        Stage::Scatter,
        Stage::Outbox,
    ];

    /// The name in SQL (`NAME_ns`) and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Fill => "fill",
            Stage::Send => "send",
            Stage::Receive => "receive",
            Stage::Queue => "queue",
            Stage::Wake => "wake",
            Stage::Batch => "batch",
            Stage::Load => "load",
            Stage::Gather => "gather",
            Stage::CopyIn => "copy_in",
            Stage::Decode => "decode",
            Stage::Preprocess => "preprocess",
            Stage::Infer => "infer",
            Stage::Postprocess => "postprocess",
            Stage::CopyOut => "copy_out",
            Stage::Scatter => "scatter",
            Stage::Outbox => "outbox",
            Stage::Reply => "reply",
            Stage::Server => "server",
            Stage::Total => "total",
        }
    }
}

/// The longest duration in nanoseconds, 78 hours: what 48 bits hold, without the value that says
/// that a stage did not happen.
pub const DURATION_MAX_NS: u64 = (1 << 48) - 2;

/// Bytes of a duration in a frame.
pub const DURATION_BYTES: usize = 6;

/// See [`StageTimes::is_accounted`].
const UNATTRIBUTED_ALLOWED_NS: u64 = 500;

/// A duration as it stands in a frame: all ones if it did not happen.
pub(crate) fn write_duration(ns: Option<u64>) -> [u8; DURATION_BYTES] {
    let number = ns.map_or(DURATION_MAX_NS + 1, |ns| ns.min(DURATION_MAX_NS));
    let [a, b, c, d, e, f, _, _] = number.to_le_bytes();
    [a, b, c, d, e, f]
}

/// What [`write_duration`] wrote.
pub(crate) fn read_duration(bytes: [u8; DURATION_BYTES]) -> Option<u64> {
    let [a, b, c, d, e, f] = bytes;
    let number = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
    (number <= DURATION_MAX_NS).then_some(number)
}

/// A duration per stage, in nanoseconds; a stage that did not happen has none. With them goes what
/// explains them: what host memory was to the device, and how large the batch was.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StageTimes {
    /// As they stand in a frame: a third shorter than numbers, and these are in every record.
    ns: [[u8; DURATION_BYTES]; Stage::COUNT],
    staged: Option<Staged>,
    batch_rows: Option<NonZeroU32>,
    is_cached: bool,
}

impl StageTimes {
    /// No stage has happened.
    pub const NONE: StageTimes = StageTimes {
        ns: [[0xff; DURATION_BYTES]; Stage::COUNT],
        staged: None,
        batch_rows: None,
        is_cached: false,
    };

    /// The duration of a stage, if it happened.
    pub fn of(&self, stage: Stage) -> Option<u64> {
        read_duration(self.ns[stage as usize])
    }

    /// Notes that a stage took `ns`. Durations are cut at [`DURATION_MAX_NS`].
    pub fn set(&mut self, stage: Stage, ns: u64) {
        self.put(stage, Some(ns));
    }

    /// Adds to a stage that may have happened in part already.
    pub fn add(&mut self, stage: Stage, ns: u64) {
        self.set(stage, self.of(stage).unwrap_or(0).saturating_add(ns));
    }

    /// Notes a duration, or that the stage did not happen.
    pub fn put(&mut self, stage: Stage, ns: Option<u64>) {
        self.ns[stage as usize] = write_duration(ns);
    }

    /// What host memory was to the device that ran the model; `None` where none did.
    pub fn staged(&self) -> Option<Staged> {
        self.staged
    }

    /// Notes what host memory was to the device.
    pub fn set_staged(&mut self, staged: Option<Staged>) {
        self.staged = staged;
    }

    /// How many rows the batch had in which the model computed the request together with others;
    /// `None` where it ran alone.
    pub fn batch_rows(&self) -> Option<NonZeroU32> {
        self.batch_rows
    }

    /// Notes how many rows the batch had.
    pub fn set_batch_rows(&mut self, rows: Option<NonZeroU32>) {
        self.batch_rows = rows;
    }

    /// Whether the answer was one that had been kept, so that the model did not run.
    pub fn is_cached(&self) -> bool {
        self.is_cached
    }

    /// Notes that the answer was one that had been kept.
    pub fn set_cached(&mut self) {
        self.is_cached = true;
    }

    /// What no part of the server's time claims: `server − Σ parts`. `None` where the server's
    /// time is not known. Parts that overlap their whole are a defect and show as 0.
    pub fn unattributed(&self) -> Option<u64> {
        let server = self.of(Stage::Server)?;
        let parts = Stage::SERVER_PARTS.iter().filter_map(|&part| self.of(part));
        Some(parts.fold(server, u64::saturating_sub))
    }

    /// Whether the stages account for the time: no more than 1 % of the total is unattributed, or
    /// half a microsecond, which is what some readings of the clock take. `None` where total or
    /// server is not known.
    pub fn is_accounted(&self) -> Option<bool> {
        let allowed = (self.of(Stage::Total)? / 100).max(UNATTRIBUTED_ALLOWED_NS);
        self.unattributed().map(|ns| ns <= allowed)
    }
}

impl Default for StageTimes {
    fn default() -> Self {
        StageTimes::NONE
    }
}

impl std::fmt::Debug for StageTimes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let happened = Stage::ALL.iter().filter_map(|&s| self.of(s).map(|ns| (s.name(), ns)));
        f.debug_map().entries(happened).finish()
    }
}

/// The durations that a server reports in a reply: its parts and [`Stage::Server`].
pub type ServerTimes = StageTimes;

/// The stages that a server times.
pub const SERVER_STAGES: [Stage; 15] = [
    Stage::Receive,
    Stage::Queue,
    Stage::Wake,
    Stage::Batch,
    Stage::Load,
    Stage::Gather,
    Stage::CopyIn,
    Stage::Decode,
    Stage::Preprocess,
    Stage::Infer,
    Stage::Postprocess,
    Stage::CopyOut,
    Stage::Scatter,
    Stage::Outbox,
    Stage::Server,
];

/// Those of them that travel in a reply's head, in wire order. What only a request in a batch has is
/// in the tail: see [`InBatch`](crate::InBatch).
pub const WIRE_STAGES: [Stage; 13] = [
    Stage::Receive,
    Stage::Queue,
    Stage::Wake,
    Stage::Batch,
    Stage::Load,
    Stage::CopyIn,
    Stage::Decode,
    Stage::Preprocess,
    Stage::Infer,
    Stage::Postprocess,
    Stage::CopyOut,
    Stage::Outbox,
    Stage::Server,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_happen_is_none_and_zero_is_zero() {
        let mut times = StageTimes::NONE;
        assert_eq!(times.of(Stage::Queue), None);
        times.set(Stage::Queue, 0);
        assert_eq!(times.of(Stage::Queue), Some(0));
        times.set(Stage::Queue, u64::MAX);
        assert_eq!(times.of(Stage::Queue), Some(DURATION_MAX_NS));
        times.add(Stage::Queue, 1);
        assert_eq!(times.of(Stage::Queue), Some(DURATION_MAX_NS));
        times.add(Stage::Wake, 3);
        times.add(Stage::Wake, 4);
        assert_eq!(times.of(Stage::Wake), Some(7));
    }

    #[test]
    fn durations_have_48_bits_and_come_back() {
        for ns in [None, Some(0), Some(1), Some(DURATION_MAX_NS)] {
            assert_eq!(read_duration(write_duration(ns)), ns);
        }
        assert_eq!(read_duration(write_duration(Some(u64::MAX))), Some(DURATION_MAX_NS));
        assert_eq!(write_duration(None), [0xff; DURATION_BYTES]);
    }

    #[test]
    fn unattributed_is_what_is_left() {
        let mut times = StageTimes::NONE;
        assert_eq!(times.unattributed(), None);
        times.set(Stage::Server, 100);
        times.set(Stage::Receive, 10);
        times.set(Stage::Infer, 80);
        times.set(Stage::Send, 1000);
        assert_eq!(times.unattributed(), Some(10));
        times.set(Stage::Queue, 50);
        assert_eq!(times.unattributed(), Some(0));
    }

    #[test]
    fn the_time_is_accounted_for_within_1_percent_or_half_a_microsecond() {
        let mut times = StageTimes::NONE;
        assert_eq!(times.is_accounted(), None);
        for (total, server, infer, accounted) in [
            (10_000, 5_000, 4_500, true),
            (10_000, 5_000, 4_499, false),
            (100_000, 50_000, 49_000, true),
            (100_000, 50_000, 48_999, false),
        ] {
            times.set(Stage::Total, total);
            times.set(Stage::Server, server);
            times.set(Stage::Infer, infer);
            assert_eq!(times.is_accounted(), Some(accounted), "{total} {server} {infer}");
        }
    }

    #[test]
    fn order_is_the_discriminant() {
        for (i, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, i);
        }
    }
}
