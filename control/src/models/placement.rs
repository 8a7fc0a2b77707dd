//! Which GPU `device = "auto"` means.

use std::cmp::Reverse;

/// What a model takes of a GPU beside its weights, at least: context, libraries, room to work in.
const BESIDE_WEIGHTS_BYTES: u64 = 1 << 30;

/// A GPU that an engine could use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuFacts {
    /// Its number.
    pub ordinal: u32,
    /// Its name, such as `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// Memory that nobody uses; `None` where that cannot be told.
    pub free_bytes: Option<u64>,
}

/// A GPU, and what this server has on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) gpu: GpuFacts,
    /// What of the budget models that cannot make room leave; `None` without one.
    pub(super) room_bytes: Option<u64>,
    /// Models there.
    pub(super) models: usize,
    /// Requests that they may have in flight.
    pub(super) streams: usize,
}

/// What was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The number of the GPU.
    pub ordinal: u32,
    /// Why that one, for people.
    pub why: String,
}

impl Candidate {
    /// Whether a model has room: for its weights, as much again for its tensors, and the rest. What
    /// nobody knows is no reason against it.
    fn has_room(&self, needs: u64) -> bool {
        let whole = needs.saturating_mul(2).saturating_add(BESIDE_WEIGHTS_BYTES);
        self.gpu.free_bytes.is_none_or(|free| free >= whole)
            && self.room_bytes.is_none_or(|room| room >= needs)
    }

    fn told(&self) -> String {
        let Candidate { gpu, room_bytes, models, streams } = self;
        let mib = |bytes: u64| bytes >> 20;
        let free = match gpu.free_bytes {
            Some(free) => format!("{} MiB free", mib(free)),
            None => "free memory unknown".to_owned(),
        };
        let room = room_bytes.map(|room| format!(", {} MiB of the budget", mib(room)));
        let room = room.unwrap_or_default();
        format!("cuda:{} {free}{room}, {models} models with {streams} streams", gpu.ordinal)
    }
}

/// Chooses for a model whose weights take `needs` bytes: of the GPUs with room for it the one whose
/// models have the fewest streams, of several the one with the most memory free, then the first one.
/// Where none has room, the one with the most memory free, whose answer then says so. `None` where
/// there is no GPU.
pub(super) fn choose(all: &[Candidate], needs: u64) -> Option<Choice> {
    let rank = |it: &&Candidate| {
        let (has_room, free) = (it.has_room(needs), it.gpu.free_bytes.unwrap_or(0));
        let streams = if has_room { it.streams } else { 0 };
        (!has_room, streams, Reverse(free), it.gpu.ordinal)
    };
    let best = all.iter().min_by_key(rank)?;
    let Candidate { gpu: GpuFacts { ordinal, name, .. }, .. } = best;
    let how = match (all.len(), best.has_room(needs)) {
        (1, _) => "the only GPU",
        (_, true) => {
            "of those with room the one with the fewest streams, then the most free memory"
        }
        (_, false) => "none has room, this one has the most free memory",
    };
    let told: Vec<String> = all.iter().map(Candidate::told).collect();
    let why = format!("cuda:{ordinal} ({name}): {how}: {}", told.join("; "));
    Some(Choice { ordinal: *ordinal, why })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn gpu(ordinal: u32, free_gib: u64, models: usize, streams: usize) -> Candidate {
        let free_bytes = Some(free_gib * GIB);
        let gpu = GpuFacts { ordinal, name: "a GPU".into(), free_bytes };
        Candidate { gpu, room_bytes: None, models, streams }
    }

    fn chosen(all: &[Candidate], needs: u64) -> u32 {
        choose(all, needs).unwrap().ordinal
    }

    #[test]
    fn the_gpu_with_room_and_the_fewest_streams_is_chosen() {
        assert_eq!(choose(&[], 1), None);
        assert_eq!(chosen(&[gpu(0, 8, 0, 0), gpu(1, 8, 0, 0)], GIB), 0, "the first of equals");
        assert_eq!(chosen(&[gpu(0, 8, 0, 0), gpu(1, 9, 0, 0)], GIB), 1, "the most free memory");
        assert_eq!(chosen(&[gpu(0, 80, 2, 32), gpu(1, 8, 1, 16)], GIB), 1, "the fewest streams");
        assert_eq!(chosen(&[gpu(0, 80, 2, 32), gpu(1, 8, 1, 16)], 4 * GIB), 0, "only one has room");
        // Another process has most of it.
        assert_eq!(chosen(&[gpu(0, 2, 0, 0), gpu(1, 60, 3, 48)], GIB), 1);
        assert_eq!(chosen(&[gpu(0, 3, 0, 0), gpu(1, 5, 9, 99)], 50 * GIB), 1, "none has room");
    }

    #[test]
    fn memory_that_is_unknown_is_no_reason_against_a_gpu_and_the_budget_is_one() {
        let mut unknown = gpu(1, 0, 0, 0);
        unknown.gpu.free_bytes = None;
        assert_eq!(chosen(&[gpu(0, 1, 0, 0), unknown.clone()], GIB), 1);
        assert_eq!(chosen(&[gpu(0, 9, 0, 0), unknown], GIB), 0, "known to be free");
        let mut full = gpu(0, 80, 0, 0);
        full.room_bytes = Some(GIB - 1);
        assert_eq!(chosen(&[full, gpu(1, 8, 1, 16)], GIB), 1);
    }

    #[test]
    fn the_reason_tells_of_every_gpu() {
        let mut second = gpu(1, 8, 1, 16);
        second.room_bytes = Some(3 * GIB);
        let Choice { ordinal, why } = choose(&[gpu(0, 80, 2, 32), second], GIB).unwrap();
        assert_eq!(ordinal, 1);
        for part in [
            "cuda:1 (a GPU): of those with room",
            "cuda:0 81920 MiB free, 2 models with 32 streams",
            "cuda:1 8192 MiB free, 3072 MiB of the budget, 1 models with 16 streams",
        ] {
            assert!(why.contains(part), "{part} is not in {why}");
        }
        let why = choose(&[gpu(0, 8, 0, 0)], GIB).unwrap().why;
        assert!(why.contains("the only GPU"), "{why}");
    }
}
