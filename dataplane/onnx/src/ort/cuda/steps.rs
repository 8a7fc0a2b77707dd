//! What is put on a stream for a request: the ways of its bytes, and the model's graph.

use ferry_core::{BoundTensor, Stage, StageTimes};
use ferry_cuda::{Flight, FlightError, Kernels, Plan, Runner};
use ferry_engine::Job;
use ferry_memory::View;

use super::context::Recorded;
use super::held::{Places, Way, long};
use crate::ort::native::given::Left;

/// What the places of outputs hold before a run that is to write them all, where that is tested.
const POISON: u8 = 0xA5;

/// What a request takes beside its job.
pub(super) struct Parts<'a> {
    pub(super) places: &'a Places,
    pub(super) kernels: Option<&'a Kernels>,
    pub(super) recorded: &'a Recorded,
    /// Whether the places of outputs are filled before.
    pub(super) poison: bool,
}

/// Puts one request on a stream: its copies, and the graph, each with a mark behind it.
pub(super) fn enqueue(
    plan: &mut Plan<'_>,
    job: &Job,
    parts: &Parts<'_>,
) -> Result<(), FlightError> {
    come(plan, job, parts.places, parts.kernels)?;
    if parts.poison {
        poison(plan, job, parts.places)?;
    }
    // SAFETY: the graph was recorded for the addresses of `places`, which are those of the job's
    // slot and of the stream's staging memory, and uses the stream's workspace and the model's
    // weights. The flight keeps job, staging memory, workspace and model. One stream runs one
    // thing at a time, and no other stream uses this workspace.
    unsafe { plan.graph(&parts.recorded.graph) }?;
    for stray in &parts.recorded.strays {
        // SAFETY: as for the graph: both are among what it was recorded with, and the library had
        // a tensor as long as the output at `from` when the recorded run was over.
        unsafe { plan.stream().copy(stray.to, stray.from, stray.bytes) }?;
    }
    plan.mark(Stage::Infer)?;
    go(plan, job, parts.places, parts.kernels)
}

/// The payload's way to the model's input.
fn come(
    plan: &mut Plan<'_>,
    job: &Job,
    places: &Places,
    kernels: Option<&Kernels>,
) -> Result<(), FlightError> {
    if !job.members.is_empty() {
        return come_together(plan, job, places, kernels);
    }
    let bounce = places.staging.bounce_in();
    let payload = match (&job.prepared, places.request, &bounce) {
        (Some(region), _, _) => region.view(),
        (None, Way::Bounce, Some(bounce)) => bounce.view().part(0, job.arrival.payload_bytes)?,
        (None, _, _) => job.arrival.slot.request().part(0, job.arrival.payload_bytes)?,
    };
    let input = places.staging.request();
    let bytes = usize::try_from(job.binding.request_bytes()).unwrap_or(usize::MAX);
    let no_kernel = || FlightError::Unreachable(payload.placement());
    // SAFETY, for each step: the flight keeps the job, and with it slot and prepared region, and
    // the staging memory, which is another one.
    let Some(picture) = &places.picture else {
        return match places.request {
            Way::InPlace => Ok(()),
            Way::Copy | Way::Bounce => {
                // SAFETY: as above.
                unsafe { plan.copy(&input, &payload, bytes) }?;
                plan.mark(Stage::CopyIn)
            }
            Way::Kernel => {
                let kernels = kernels.ok_or_else(no_kernel)?;
                // SAFETY: as above.
                unsafe { plan.copy_by_kernel(kernels, &input, &payload, bytes) }?;
                plan.mark(Stage::Preprocess)
            }
        };
    };
    let kernels = kernels.ok_or_else(no_kernel)?;
    let pixels = match (places.request, places.staging.raw()) {
        (Way::Copy | Way::Bounce, Some(raw)) => {
            // SAFETY: as above.
            unsafe { plan.copy(&raw, &payload, payload.bytes()) }?;
            plan.mark(Stage::CopyIn)?;
            raw.part(0, payload.bytes())?
        }
        (Way::Kernel, Some(raw)) => {
            // SAFETY: as above.
            unsafe { plan.copy_by_kernel(kernels, &raw, &payload, payload.bytes()) }?;
            raw.part(0, payload.bytes())?
        }
        (Way::Copy | Way::Bounce | Way::Kernel, None) => return Err(no_kernel()),
        (Way::InPlace, _) => payload,
    };
    // SAFETY: as above.
    unsafe { plan.picture(kernels, &input, &pixels, picture) }?;
    plan.mark(Stage::Preprocess)
}

/// The ways of the inputs of a batch's requests to the model's inputs, one behind the other.
fn come_together(
    plan: &mut Plan<'_>,
    job: &Job,
    places: &Places,
    kernels: Option<&Kernels>,
) -> Result<(), FlightError> {
    let (bounce, input) = (places.staging.bounce_in(), places.staging.request());
    for (member, ways) in job.members.iter().zip(&places.members) {
        for index in 0..job.binding.inputs.len() {
            let (own, at) = member.input(&job.binding, index)?;
            let bytes = own.bytes();
            let to = input.part(at, bytes)?;
            let from = match (ways.request, &bounce) {
                (Way::Bounce, Some(bounce)) => bounce.view().part(at, bytes)?,
                _ => own,
            };
            // SAFETY: as in `come`: the flight keeps the job, and with it the slot of each request.
            unsafe { carry(plan, ways.request, kernels, (&to, &from)) }?;
        }
    }
    plan.mark(Stage::CopyIn)
}

/// The ways of the model's outputs to the slots of a batch's requests.
fn go_apart(
    plan: &mut Plan<'_>,
    job: &Job,
    places: &Places,
    kernels: Option<&Kernels>,
) -> Result<(), FlightError> {
    let (bounce, output) = (places.staging.bounce_out(), places.staging.reply());
    for (member, ways) in job.members.iter().zip(&places.members) {
        for index in 0..job.binding.outputs.len() {
            let (own, at) = member.output(&job.binding, index)?;
            let bytes = own.bytes();
            let from = output.part(at, bytes)?;
            let to = match (ways.reply, &bounce) {
                (Way::Bounce, Some(bounce)) => bounce.part(at, bytes)?,
                _ => own,
            };
            // SAFETY: as in `come_together`.
            unsafe { carry(plan, ways.reply, kernels, (&to, &from)) }?;
        }
    }
    plan.mark(Stage::CopyOut)
}

/// Copies all of a view, by a kernel where that is its way.
///
/// # Safety
/// As [`Plan::copy`]; the views do not overlap.
unsafe fn carry(
    plan: &mut Plan<'_>,
    way: Way,
    kernels: Option<&Kernels>,
    (to, from): (&View<'_>, &View<'_>),
) -> Result<(), FlightError> {
    match kernels.filter(|_| way == Way::Kernel) {
        // SAFETY: the caller's argument.
        Some(kernels) => unsafe { plan.copy_by_kernel(kernels, to, from, from.bytes()) },
        // SAFETY: the caller's argument.
        None => unsafe { plan.copy(to, from, from.bytes()) },
    }
}

/// The way of the model's output to the slot.
fn go(
    plan: &mut Plan<'_>,
    job: &Job,
    places: &Places,
    kernels: Option<&Kernels>,
) -> Result<(), FlightError> {
    if !job.members.is_empty() {
        return go_apart(plan, job, places, kernels);
    }
    let (output, slot) = (places.staging.reply(), job.arrival.slot.reply());
    let reply = match (places.reply, places.staging.bounce_out()) {
        (Way::Bounce, Some(bounce)) => bounce,
        _ => slot,
    };
    let bytes = usize::try_from(job.binding.reply_bytes()).unwrap_or(usize::MAX);
    match places.reply {
        Way::InPlace => Ok(()),
        Way::Copy | Way::Bounce => {
            // SAFETY: as in `come`.
            unsafe { plan.copy(&reply, &output, bytes) }?;
            plan.mark(Stage::CopyOut)
        }
        Way::Kernel => {
            let kernels = kernels.ok_or(FlightError::Unreachable(reply.placement()))?;
            // SAFETY: as in `come`.
            unsafe { plan.copy_by_kernel(kernels, &reply, &output, bytes) }?;
            plan.mark(Stage::Postprocess)
        }
    }
}

/// Fills the places of outputs with what no model gives.
fn poison(plan: &mut Plan<'_>, job: &Job, places: &Places) -> Result<(), FlightError> {
    let outputs: &[BoundTensor] = &job.binding.outputs;
    for (tensor, place) in outputs.iter().zip(places.outputs(job)) {
        let Some(place) = place else { continue };
        // SAFETY: the place of an output, as long as that, which is the model's to write.
        unsafe { plan.stream().fill(place, POISON, long(tensor.bytes)) }?;
    }
    Ok(())
}

/// Copies the outputs of a run from where it left them to their places in the reply.
fn gather(plan: &mut Plan<'_>, job: &Job, places: &Places, left: &Left) -> Result<(), FlightError> {
    let bounce = places.staging.bounce_out().filter(|_| places.reply == Way::Bounce);
    for (index, bound) in places.outputs(job).enumerate() {
        let slot = job.output(index)?;
        let to = match &bounce {
            Some(bounce) => bounce.part(job.output_offset(index)?, slot.bytes())?,
            None => slot,
        };
        let Some(from) = left.get(index).map(|given| given.address as u64).or(bound) else {
            continue;
        };
        let is_there = to.device().is_some_and(|it| it.address == from);
        if is_there || to.bytes() == 0 {
            continue;
        }
        // SAFETY: as in `come`. From `from` on, the library has a tensor of the shape that the
        // output's place was made for, which the flight keeps, or a place that was bound for it.
        unsafe { plan.copy_from(&to, from) }?;
    }
    plan.mark(Stage::CopyOut)
}

/// One of the two ways of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    In { poison: bool },
    Out,
}

/// One of the two ways of a request, and waits for it.
pub(super) fn copy_and_wait(
    runner: &mut Runner,
    job: &Job,
    places: &Places,
    kernels: Option<&Kernels>,
    half: Half,
) -> Result<StageTimes, FlightError> {
    // `job` and `places` are borrowed until it is over, so the flight need not keep them.
    let started = runner.start((), |(), plan| match half {
        Half::In { poison: poisoned } => {
            come(plan, job, places, kernels)?;
            if poisoned { poison(plan, job, places) } else { Ok(()) }
        }
        Half::Out => go(plan, job, places, kernels),
    });
    let flight = started.map_err(|((), error)| error)?;
    wait(flight, runner)
}

/// Brings the outputs of a run to their places in the reply, and waits for it.
pub(super) fn gather_and_wait(
    runner: &mut Runner,
    job: &Job,
    places: &Places,
    left: Left,
) -> Result<StageTimes, FlightError> {
    // The flight keeps what is the library's; the rest is borrowed until it is over.
    let started = runner.start(left, |left, plan| gather(plan, job, places, left));
    let flight = started.map_err(|(_left, error)| error)?;
    wait(flight, runner)
}

fn wait<K>(flight: Flight<K>, runner: &mut Runner) -> Result<StageTimes, FlightError> {
    let (_kept, times) = flight.finish(runner);
    Ok(times?)
}
