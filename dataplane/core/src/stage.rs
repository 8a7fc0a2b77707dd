//! The named steps of a request, and how long each took.

use crate::placement::Staged;

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
    /// Server: put on the engine's queue → an instance took it.
    Queue,
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
    /// Server: submit of the reply → link reports the write complete.
    Reply,
    /// Server: doorbell seen → reply's submit begins.
    Server,
    /// Client: submit → reply readable.
    Total,
}

impl Stage {
    /// How many stages there are.
    pub const COUNT: usize = 13;

    /// Every stage in the order of the walk.
    pub const ALL: [Stage; Stage::COUNT] = [
        Stage::Fill,
        Stage::Send,
        Stage::Receive,
        Stage::Queue,
        Stage::CopyIn,
        Stage::Decode,
        Stage::Preprocess,
        Stage::Infer,
        Stage::Postprocess,
        Stage::CopyOut,
        Stage::Reply,
        Stage::Server,
        Stage::Total,
    ];

    /// The parts of [`Stage::Server`], which is their sum and what no part claims.
    pub const SERVER_PARTS: [Stage; 8] = [
        Stage::Receive,
        Stage::Queue,
        Stage::CopyIn,
        Stage::Decode,
        Stage::Preprocess,
        Stage::Infer,
        Stage::Postprocess,
        Stage::CopyOut,
    ];

    /// The name in SQL (`NAME_ns`) and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Fill => "fill",
            Stage::Send => "send",
            Stage::Receive => "receive",
            Stage::Queue => "queue",
            Stage::CopyIn => "copy_in",
            Stage::Decode => "decode",
            Stage::Preprocess => "preprocess",
            Stage::Infer => "infer",
            Stage::Postprocess => "postprocess",
            Stage::CopyOut => "copy_out",
            Stage::Reply => "reply",
            Stage::Server => "server",
            Stage::Total => "total",
        }
    }
}

/// Marks a stage that did not happen. 2^64-1 ns are 584 years, so no duration is lost to it.
const ABSENT: u64 = u64::MAX;

/// A duration per stage, in nanoseconds; a stage that did not happen has none. With them goes what
/// explains the copies among them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StageTimes {
    ns: [u64; Stage::COUNT],
    staged: Option<Staged>,
}

impl StageTimes {
    /// No stage has happened.
    pub const NONE: StageTimes = StageTimes { ns: [ABSENT; Stage::COUNT], staged: None };

    /// The duration of a stage, if it happened.
    pub fn of(&self, stage: Stage) -> Option<u64> {
        let ns = self.ns[stage as usize];
        (ns != ABSENT).then_some(ns)
    }

    /// Notes that a stage took `ns`. Durations are cut at 2^64-2.
    pub fn set(&mut self, stage: Stage, ns: u64) {
        self.ns[stage as usize] = ns.min(ABSENT - 1);
    }

    /// Notes a duration, or that the stage did not happen.
    pub fn put(&mut self, stage: Stage, ns: Option<u64>) {
        self.ns[stage as usize] = ns.map_or(ABSENT, |ns| ns.min(ABSENT - 1));
    }

    /// What host memory was to the device that ran the model; `None` where none did.
    pub fn staged(&self) -> Option<Staged> {
        self.staged
    }

    /// Notes what host memory was to the device.
    pub fn set_staged(&mut self, staged: Option<Staged>) {
        self.staged = staged;
    }

    /// What no part of the server's time claims: `server − Σ parts`. `None` where the server's
    /// time is not known. Parts that overlap their whole are a defect and show as 0.
    pub fn unattributed(&self) -> Option<u64> {
        let server = self.of(Stage::Server)?;
        let parts = Stage::SERVER_PARTS.iter().filter_map(|&part| self.of(part));
        Some(parts.fold(server, u64::saturating_sub))
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

/// The nine durations that a server reports in a reply: its parts and [`Stage::Server`].
pub type ServerTimes = StageTimes;

/// The stages that travel in a reply's header, in wire order.
pub const WIRE_STAGES: [Stage; 9] = [
    Stage::Receive,
    Stage::Queue,
    Stage::CopyIn,
    Stage::Decode,
    Stage::Preprocess,
    Stage::Infer,
    Stage::Postprocess,
    Stage::CopyOut,
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
        assert_eq!(times.of(Stage::Queue), Some(u64::MAX - 1));
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
    fn order_is_the_discriminant() {
        for (i, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, i);
        }
    }
}
