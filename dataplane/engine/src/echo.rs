//! The engine that gives back what it got.

use ferry_core::{DType, Dim, Signature, Stage, StageTimes, TensorSpec, nanos};
use ferry_memory::MemoryError;

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

    fn submit(&mut self, mut job: Job) -> Option<Finished> {
        let start = job.arrival.since();
        let outcome = copy(&mut job).map(|()| {
            let mut times = StageTimes::NONE;
            times.set(Stage::Infer, nanos(start.elapsed()));
            times
        });
        Some(Finished { job, outcome: outcome.map_err(EngineError::from) })
    }

    fn poll(&mut self, _finished: &mut Vec<Finished>) {}
}

fn copy(job: &mut Job) -> Result<(), MemoryError> {
    let (input, mut output) = job.input_and_output()?;
    if output.bytes() <= input.bytes() {
        let bytes = output.bytes();
        return output.copy_from(&input, bytes);
    }
    output.copy_from(&input, input.bytes())?;
    output.repeat(input.bytes())
}
