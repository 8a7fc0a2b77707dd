//! An engine that computes rows, and tells what it was given.

use std::sync::{Arc, Mutex};

use ferry_core::{BoundSignature, DType, Dim, Signature, StageTimes, TensorSpec};
use ferry_engine::{Engine, EngineError, Finished, Job};

use crate::common::{Barrier, POISON};

/// Bytes of a row of `a`, of `b`, and of the outputs.
pub(crate) const WIDE: u64 = 5;
pub(crate) const NARROW: u64 = 3;

/// What a run was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) rows: u64,
    /// The first byte of each row of `a`.
    pub(crate) firsts: Vec<u8>,
    /// Whether nobody else can change its inputs.
    pub(crate) is_private: bool,
}

/// What an engine does with a row whose first byte is [`POISON`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Poison {
    Fails,
    Panics,
    /// More than one row fails, whatever is in it.
    NoBatch,
    /// As `NoBatch`, with a panic.
    NoBatchPanics,
    /// More than one row has outputs of other shapes than the file says.
    Reshapes,
    Loses,
}

/// Two inputs and two outputs of bytes, all `[n, …]`: `sum[i] = a[i] + b[0]`, `less[i] = b[i] - 1`,
/// row by row. Waits at `barrier` in each run.
pub(crate) struct Rows {
    signature: Signature,
    barrier: Option<Barrier>,
    poison: Poison,
    pub(crate) seen: Arc<Mutex<Vec<Seen>>>,
}

pub(crate) fn signature() -> Signature {
    let spec = |name: &str, width: u64| TensorSpec {
        name: name.to_owned(),
        dtype: DType::U8,
        shape: vec![Dim::Named("n".to_owned()), Dim::Fixed(width)],
    };
    Signature {
        inputs: vec![spec("a", WIDE), spec("b", NARROW)],
        outputs: vec![spec("sum", WIDE), spec("less", NARROW)],
    }
}

pub(crate) fn bind(rows: u64) -> BoundSignature {
    signature().bind(&[("a".to_owned(), vec![rows, WIDE])]).unwrap()
}

/// The payload of a request whose rows begin with `firsts`, and of its reply.
pub(crate) fn request(firsts: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let bound = bind(firsts.len() as u64);
    let payload = |bytes: u64| vec![0; usize::try_from(bytes).unwrap()];
    let (mut ask, mut answer) = (payload(bound.request_bytes()), payload(bound.reply_bytes()));
    for (row, &first) in firsts.iter().enumerate() {
        for (tensor, width) in [(0, WIDE), (1, NARROW)] {
            let width = usize::try_from(width).unwrap();
            let at = usize::try_from(bound.inputs[tensor].offset).unwrap() + row * width;
            for (i, byte) in (0_u8..).zip(&mut ask[at..at + width]) {
                *byte = first.wrapping_add(i).wrapping_add(u8::try_from(tensor).unwrap() * 100);
            }
        }
    }
    compute(&bound, firsts.len(), &ask, &mut answer);
    (ask, answer)
}

fn compute(bound: &BoundSignature, rows: usize, ask: &[u8], answer: &mut [u8]) {
    let [a, b] = [0, 1].map(|i| usize::try_from(bound.inputs[i].offset).unwrap());
    let [sum, less] = [0, 1].map(|i| usize::try_from(bound.outputs[i].offset).unwrap());
    let [wide, narrow] = [WIDE, NARROW].map(|width| usize::try_from(width).unwrap());
    for row in 0..rows {
        let shift = ask[b + row * narrow];
        for i in row * wide..(row + 1) * wide {
            answer[sum + i] = ask[a + i].wrapping_add(shift);
        }
        for i in row * narrow..(row + 1) * narrow {
            answer[less + i] = ask[b + i].wrapping_sub(1);
        }
    }
}

impl Rows {
    pub(crate) fn new(barrier: Option<&Barrier>, poison: Poison) -> Rows {
        let (signature, seen) = (signature(), Arc::default());
        Rows { signature, barrier: barrier.cloned(), poison, seen }
    }

    /// Whether it panics at all.
    pub(crate) fn panics(&self) -> bool {
        self.poison == Poison::Panics
    }

    fn run(&self, job: &mut Job) -> Result<(), EngineError> {
        if let Some(barrier) = &self.barrier {
            barrier.pass();
        }
        let bound = Arc::clone(&job.binding);
        let rows = bound.inputs[0].shape[0];
        let mut ask = vec![0; usize::try_from(bound.request_bytes()).unwrap()];
        for (i, tensor) in bound.inputs.iter().enumerate() {
            let at = usize::try_from(tensor.offset).unwrap();
            let bytes = usize::try_from(tensor.bytes).unwrap();
            job.input(i)?.copy_out(0, &mut ask[at..at + bytes])?;
        }
        let firsts: Vec<u8> =
            ask.chunks(usize::try_from(WIDE).unwrap()).map(|row| row[0]).collect();
        let firsts = firsts[..usize::try_from(rows).unwrap()].to_vec();
        let is_poisoned = firsts.contains(&POISON);
        let is_private = job.inputs_are_private();
        self.seen.lock().unwrap().push(Seen { rows, firsts, is_private });
        match self.poison {
            Poison::Fails if is_poisoned => return Err(EngineError::Run("poisoned".to_owned())),
            Poison::Panics if is_poisoned => panic!("poisoned"),
            Poison::Loses if is_poisoned => return Err(EngineError::Lost("error 700".to_owned())),
            Poison::NoBatch if rows > 1 => return Err(EngineError::Run("one row".to_owned())),
            Poison::NoBatchPanics if rows > 1 => panic!("one row"),
            Poison::Reshapes if rows > 1 => job.place_outputs([[1, WIDE], [1, NARROW]])?,
            _ => {}
        }
        let mut answer = vec![0; usize::try_from(bound.reply_bytes()).unwrap()];
        compute(&bound, usize::try_from(rows).unwrap(), &ask, &mut answer);
        if job.placed.is_some() {
            return Ok(());
        }
        for (i, tensor) in bound.outputs.iter().enumerate() {
            let at = usize::try_from(tensor.offset).unwrap();
            let bytes = usize::try_from(tensor.bytes).unwrap();
            job.output_mut(i)?.copy_in(0, &answer[at..at + bytes])?;
        }
        Ok(())
    }
}

impl Engine for Rows {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn depth(&self) -> usize {
        1
    }

    fn submit(&mut self, mut job: Job) -> Option<Finished> {
        let start = job.arrival.since();
        let outcome = self.run(&mut job).map(|()| {
            let mut times = StageTimes::NONE;
            let elapsed = u64::try_from(start.elapsed().as_nanos()).unwrap();
            times.set(ferry_core::Stage::Infer, elapsed);
            times
        });
        Some(Finished { job, outcome })
    }

    fn poll(&mut self, _finished: &mut Vec<Finished>) {}
}
