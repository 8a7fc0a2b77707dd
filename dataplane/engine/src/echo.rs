//! The engine that gives back what it got.

use ferry_core::{DType, Dim, Signature, Stage, StageTimes, TensorSpec};
use ferry_memory::{MemoryError, View};

use crate::engine::{Engine, EngineError, Finished, Job};

/// Takes `input` (`UINT8 [in]`) and gives `output` (`UINT8 [out]`), both lengths chosen by the
/// session: `output[i] = input[i mod in]`.
///
/// It moves bytes and nothing else, so that a request to it costs what the transport costs.
#[derive(Debug)]
pub struct Echo {
    signature: Signature,
}

impl Echo {
    /// An instance. They have nothing in common, and none has a state.
    pub fn new() -> Echo {
        let bytes = |name: &str, dim: &str| TensorSpec {
            name: name.to_owned(),
            dtype: DType::U8,
            shape: vec![Dim::Named(dim.to_owned())],
        };
        let inputs = vec![bytes("input", "in")];
        Echo { signature: Signature { inputs, outputs: vec![bytes("output", "out")] } }
    }
}

impl Default for Echo {
    fn default() -> Self {
        Echo::new()
    }
}

impl Engine for Echo {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn depth(&self) -> usize {
        1
    }

    fn submit(&mut self, job: Job) -> Option<Finished> {
        let start = job.arrival.since();
        let outcome = copy(&job).map(|()| {
            let mut times = StageTimes::NONE;
            let elapsed = start.elapsed().as_nanos();
            times.set(Stage::Infer, u64::try_from(elapsed).unwrap_or(u64::MAX));
            times
        });
        Some(Finished { job, outcome: outcome.map_err(EngineError::from) })
    }

    fn poll(&mut self, _finished: &mut Vec<Finished>) {}
}

fn copy(job: &Job) -> Result<(), MemoryError> {
    let (input, output) = (job.input(0)?, job.output(0)?);
    if output.bytes() <= input.bytes() {
        return output.copy_from(&input, output.bytes());
    }
    output.copy_from(&input, input.bytes())?;
    repeat(&output, input.bytes())
}

/// Repeats the first `period` bytes up to the end. What is there doubles with each step: a session
/// that chose 1 byte in and 1 GiB out costs 30 copies, not 2^30.
fn repeat(output: &View<'_>, period: usize) -> Result<(), MemoryError> {
    let mut done = period;
    while done < output.bytes() && done > 0 {
        let step = done.min(output.bytes() - done);
        output.part(done, step)?.copy_from(output, step)?;
        done += step;
    }
    Ok(())
}
