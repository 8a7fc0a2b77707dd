//! `ferry infer`: one request, its outputs and where its time went.

mod files;
mod input;
mod inside;
mod output;
mod top;

use std::time::Duration;

use ferry_client::blocking::{Client, Session};
use ferry_client::{BoundTensor, StageTimes, Transport};

use crate::args::InferArgs;
use crate::control;
use crate::failure::Failure;
use crate::printer::Printer;
use crate::shapes;
use input::Input;
use output::Output;

/// What came back, whichever way.
struct Answer {
    transport: Transport,
    /// Why this one.
    reason: String,
    model: String,
    version: u64,
    engine: String,
    session: u64,
    /// Name and shape of what was sent.
    inputs: Vec<(String, Vec<u64>)>,
    outputs: Vec<Output>,
    times: StageTimes,
    labels: Vec<String>,
}

pub(crate) fn run(args: &InferArgs, printer: &Printer) -> Result<(), Failure> {
    let tensors = Input::tensors(args)?;
    let client = control::connect(&args.server)?;
    let model = control::model(&client, &args.model, args.version)?;
    let input = match &args.image {
        Some(path) => Input::picture(path, args.kind, &model)?,
        None => tensors.shaped(&model, &args.shapes)?,
    };
    let asked = shapes::asked(&model, &input.shapes(&args.shapes), input.batch(&args.shapes))?;
    let answer = match args.transport.0 {
        Some(Transport::Local) => inside::infer(&client, args, &input, &model, asked)?,
        transport => through(&client, args, transport, &input, asked)?,
    };
    let files = match &args.output {
        Some(folder) => files::write(folder, &answer.outputs)?,
        None => Vec::new(),
    };
    output::print(&answer, &files, printer)
}

/// One request over a session.
fn through(
    client: &Client,
    args: &InferArgs,
    transport: Option<Transport>,
    input: &Input,
    asked: Vec<(String, Vec<u64>)>,
) -> Result<Answer, Failure> {
    let mut builder = client
        .session(&args.model)
        .version(args.version)
        .wait(args.wait)
        .slots(1)
        .timeout(Duration::from_secs(args.timeout_s));
    if let Some(place) = args.memory {
        builder = builder.place(place);
    }
    if let Some(transport) = transport {
        builder = builder.transport(transport);
    }
    if let Input::Picture(picture) = input {
        builder = builder.request_bytes(picture.bytes().len() as u64);
    }
    builder = asked.iter().fold(builder, |builder, (name, shape)| builder.shape(name, shape));
    let mut session: Session = args.rdma.device().apply(builder).open()?;
    let mut slot = session.slot()?;
    input.fill(&mut slot, &session.agreed().signature)?;
    slot.set_priority(args.priority);
    let reply = session.infer(slot)?;
    let agreed = session.agreed();
    let mut outputs = Vec::new();
    for (index, tensor) in agreed.signature.outputs.iter().enumerate() {
        outputs.push(Output {
            name: tensor.name.clone(),
            dtype: tensor.dtype,
            shape: reply.shape(index)?.to_vec(),
            bytes: reply.output(index)?.to_vec(),
        });
    }
    let shape = |tensor: &BoundTensor| (tensor.name.clone(), tensor.shape.clone());
    let answer = Answer {
        transport: agreed.transport,
        reason: agreed.transport_reason.clone(),
        model: agreed.model.clone(),
        version: agreed.version,
        engine: agreed.engine.clone(),
        session: agreed.session().0,
        inputs: agreed.signature.inputs.iter().map(shape).collect(),
        outputs,
        times: *reply.times(),
        labels: agreed.labels.clone(),
    };
    drop(reply);
    session.close()?;
    Ok(answer)
}
