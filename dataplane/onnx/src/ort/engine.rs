//! One instance of a model in ONNX Runtime.

use std::path::Path;
use std::sync::Arc;

use ferry_core::{BoundTensor, DType, Signature, Stage, StageTimes};
use ferry_engine::{Engine, EngineError, Finished, Interrupt, Job, StageClock, check_binding};
use ferry_memory::View;
use ort::session::{RunOptions, Session};

use super::declarations::Declarations;
use super::model::{OrtModel, OrtOptions};
use super::native::given::Left;
use super::native::{Bindings, usable_in_place};
use super::private::Private;
use crate::runtime::Search;

/// An instance of an ONNX file in ONNX Runtime. It computes on the thread that submits.
///
/// Tensors are used where they lie in the slot, with three exceptions, which are copied to or from
/// memory of the engine's own:
///
/// - integers that a peer may write while the model runs: an operator that has checked an index
///   must not find another one when it uses it. Floats too, if an operator of the model makes an
///   index or a size of one or sorts them (`ferry_onnx_file::indices`); elsewhere a float can be
///   wrong and nothing else. Outputs too, as a model may go on computing with what is also an
///   output;
/// - booleans, because bytes other than 0 and 1 are none;
/// - memory that is not the host's, or not aligned.
///
/// Outputs whose shapes are not known before the run lie where the library puts them and are
/// copied to the slot, and so are all behind the first of them, as their places in the reply are
/// known no earlier.
///
/// Stages: `infer` is the binding and the run; `preprocess` and `postprocess` happen only where
/// something was copied.
#[derive(Debug)]
pub struct OrtEngine {
    signature: Signature,
    bindings: Bindings,
    inputs: Vec<Private>,
    outputs: Vec<Private>,
    declarations: Arc<Declarations>,
    floats_are_plain: bool,
}

/// What may be used where it lies.
#[derive(Clone, Copy, Debug)]
struct InPlace {
    /// Whether no peer can write it.
    private: bool,
    /// Whether the model takes floats for numbers and nothing else.
    floats_are_plain: bool,
}

impl InPlace {
    fn allows(self, view: &View<'_>, dtype: DType) -> bool {
        let harmless = match dtype {
            DType::Bool => false,
            _ if dtype.is_float() => self.private || self.floats_are_plain,
            _ => self.private,
        };
        harmless && usable_in_place(view, dtype)
    }
}

/// Ends runs between two operators, those of a loop's body among them: ONNX Runtime does not look
/// in the middle of one.
struct Terminate(Arc<RunOptions>);

impl std::fmt::Debug for Terminate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Terminate(…)")
    }
}

impl Interrupt for Terminate {
    fn interrupt(&self) {
        // It only sets a flag: the library has no reason to refuse.
        if let Err(error) = self.0.terminate() {
            tracing::error!(%error, "a run cannot be ended");
        }
    }

    fn resume(&self) {
        if let Err(error) = self.0.unterminate() {
            tracing::error!(%error, "an instance cannot run again: load the model again");
        }
    }
}

/// Where the library writes an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    /// In the slot.
    Slot,
    /// In memory of the engine's own.
    Own,
    /// Where it likes.
    Theirs,
}

/// What a run left.
struct Ran {
    rooms: Vec<Room>,
    /// Outputs that are not where they were bound.
    left: Left,
}

impl OrtEngine {
    /// Loads one instance; see [`OrtModel::open`] for several that share their weights.
    ///
    /// # Errors
    /// [`EngineError::Library`] if ONNX Runtime is missing, [`EngineError::Model`] if the file is
    /// not one that it can run.
    pub fn load(
        path: &Path,
        search: &Search,
        options: OrtOptions,
    ) -> Result<OrtEngine, EngineError> {
        OrtModel::open(path, search, options)?.instance()
    }

    pub(super) fn new(
        session: Arc<Session>,
        signature: Signature,
        declarations: Arc<Declarations>,
        floats_are_plain: bool,
    ) -> ort::Result<OrtEngine> {
        let room = |count| std::iter::repeat_with(Private::default).take(count).collect();
        let (inputs, outputs) = (room(signature.inputs.len()), room(signature.outputs.len()));
        let bindings = Bindings::new(session, signature.clone())?;
        Ok(OrtEngine { signature, bindings, inputs, outputs, declarations, floats_are_plain })
    }

    fn run(&mut self, job: &mut Job) -> Result<StageTimes, EngineError> {
        let mut stages = StageClock::since(job.arrival.since());
        let shapes = &Arc::clone(&job.binding);
        let fit =
            shapes.inputs.len() == self.inputs.len() && shapes.outputs.len() == self.outputs.len();
        if !fit {
            return check_binding(&self.signature, shapes).map(|()| StageTimes::NONE);
        }
        if self.fill_inputs(job)? {
            stages.end(Stage::Preprocess);
        }
        let rooms = self.rooms(job)?;
        let ran = self.compute(job, &rooms);
        let is_bound = |index: usize| rooms[index] != Room::Theirs;
        let ran = if self.declarations.learn(ran.as_ref(), shapes, is_bound) {
            let rooms = vec![Room::Theirs; rooms.len()];
            self.compute(job, &rooms).map(|left| Ran { rooms, left })
        } else {
            ran.map(|left| Ran { rooms, left })
        }?;
        stages.end(Stage::Infer);
        if self.land(job, &ran)? {
            stages.end(Stage::Postprocess);
        }
        Ok(stages.times())
    }

    fn inputs_in_place(&self, job: &Job) -> InPlace {
        let private = job.inputs_are_private();
        InPlace { private, floats_are_plain: self.floats_are_plain }
    }

    /// Copies the inputs that must not be used where they lie; says whether there were any.
    fn fill_inputs(&mut self, job: &Job) -> Result<bool, EngineError> {
        let in_place = self.inputs_in_place(job);
        let mut copied = false;
        let all = self.inputs.iter_mut().zip(&job.binding.inputs).enumerate();
        for (index, (room, tensor)) in all {
            let view = job.input(index)?;
            if !in_place.allows(&view, tensor.dtype) {
                room.fill(&view, tensor.dtype)?;
                copied = true;
            }
        }
        Ok(copied)
    }

    /// Where the library is to write the outputs; makes room of our own for those that need it.
    fn rooms(&mut self, job: &Job) -> Result<Vec<Room>, EngineError> {
        let private = job.arrival.slot.reply_bytes().is_some();
        let in_place = InPlace { private, floats_are_plain: self.floats_are_plain };
        let mut places_known = !self.declarations.are_wrong();
        let all = self.outputs.iter_mut().zip(&job.binding.outputs).enumerate();
        let room = |(index, (own, tensor)): (usize, (&mut Private, &BoundTensor))| {
            places_known &= !tensor.open;
            if !places_known {
                return Ok(Room::Theirs);
            }
            let view = job.output(index)?;
            if in_place.allows(&view, tensor.dtype) {
                return Ok(Room::Slot);
            }
            own.reserve(view.bytes())?;
            if cfg!(debug_assertions) {
                own.poison(view.bytes())?;
            }
            Ok(Room::Own)
        };
        all.map(room).collect()
    }

    fn compute(&mut self, job: &Job, rooms: &[Room]) -> Result<Left, EngineError> {
        let inputs = input_views(&self.inputs, job, self.inputs_in_place(job))?;
        let mut outputs = Vec::with_capacity(rooms.len());
        for (index, (own, room)) in self.outputs.iter().zip(rooms).enumerate() {
            outputs.push(match room {
                Room::Slot => Some(job.output(index)?),
                Room::Own => Some(own.view(job.output(index)?.bytes())?),
                Room::Theirs => None,
            });
        }
        self.bindings.run(&job.binding, &inputs, &outputs)
    }

    /// Brings the outputs to their places in the slot; says whether something was copied.
    fn land(&self, job: &mut Job, ran: &Ran) -> Result<bool, EngineError> {
        let Ran { rooms, left } = ran;
        if left.is_empty() && rooms.iter().all(|room| *room == Room::Slot) {
            return Ok(false);
        }
        left.place(job)?;
        for (index, (own, room)) in self.outputs.iter().zip(rooms).enumerate() {
            match (left.get(index), room) {
                (Some(given), _) => {
                    let elements = given.elements(&self.bound(job, rooms)?)?;
                    job.output_mut(index)?.copy_in(0, &elements)?;
                }
                (None, Room::Own) => {
                    let mut to = job.output_mut(index)?;
                    let bytes = to.bytes();
                    to.copy_from(&own.view(bytes)?, bytes)?;
                }
                // Nothing before it had another shape than was agreed: its place is the same.
                (None, Room::Slot | Room::Theirs) => {}
            }
        }
        Ok(true)
    }

    /// All memory that a run with these `rooms` was bound to.
    fn bound<'a>(&'a self, job: &'a Job, rooms: &[Room]) -> Result<Vec<View<'a>>, EngineError> {
        let mut bound = input_views(&self.inputs, job, self.inputs_in_place(job))?;
        bound.push(job.arrival.slot.reply());
        let own = self.outputs.iter().zip(rooms).filter(|(_, room)| **room == Room::Own);
        bound.extend(own.filter_map(|(own, _)| own.all()));
        Ok(bound)
    }
}

/// The inputs where the model finds them: those that were copied, and those that were not.
fn input_views<'a>(
    own: &'a [Private],
    job: &'a Job,
    in_place: InPlace,
) -> Result<Vec<View<'a>>, EngineError> {
    let all = own.iter().zip(&job.binding.inputs).enumerate();
    let one = |(index, (own, tensor)): (usize, (&'a Private, &BoundTensor))| {
        let view = job.input(index)?;
        let own = || own.view(view.bytes());
        Ok(if in_place.allows(&view, tensor.dtype) { view } else { own()? })
    };
    all.map(one).collect()
}

impl Engine for OrtEngine {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn depth(&self) -> usize {
        1
    }

    fn interrupt(&self) -> Option<Arc<dyn Interrupt>> {
        Some(Arc::new(Terminate(Arc::clone(self.bindings.run_options()))))
    }

    fn submit(&mut self, mut job: Job) -> Option<Finished> {
        let outcome = self.run(&mut job);
        Some(Finished { job, outcome })
    }

    fn poll(&mut self, _finished: &mut Vec<Finished>) {}
}
