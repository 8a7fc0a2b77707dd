//! `ferry infer`: one request, its outputs and where its time went.

mod top;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use ferry_client::blocking::{Client, Session};
use ferry_client::{BoundSignature, DType, RequestRecord, Slot, Stage, StageTimes, Transport, v1};
use ferry_proto::rows;
use serde_json::{Map, Value, json};

use crate::args::InferArgs;
use crate::control;
use crate::failure::Failure;
use crate::npy::{self, Npy};
use crate::picture::Picture;
use crate::printer::{Printer, human_ns};
use top::top;

/// What is sent.
enum Input {
    Picture(Picture),
    Tensors(Vec<(String, Npy)>),
}

/// What came back, whichever way.
struct Answer {
    transport: Transport,
    /// Why this one.
    reason: String,
    model: String,
    version: u64,
    engine: String,
    session: u64,
    outputs: Vec<Output>,
    times: StageTimes,
    labels: Vec<String>,
}

struct Output {
    name: String,
    dtype: DType,
    shape: Vec<u64>,
    bytes: Vec<u8>,
}

pub(crate) fn run(args: &InferArgs, printer: &Printer) -> Result<(), Failure> {
    let input = input(args)?;
    let client = control::connect(&args.server)?;
    let answer = match args.transport.0 {
        Some(Transport::Local) => inside(&client, args, &input)?,
        transport => through(&client, args, transport, &input)?,
    };
    let files = match &args.output {
        Some(folder) => write(folder, &answer.outputs)?,
        None => Vec::new(),
    };
    print(&answer, &files, printer)
}

fn input(args: &InferArgs) -> Result<Input, Failure> {
    if let Some(path) = &args.image {
        return Ok(Input::Picture(Picture::read(path, args.kind)?));
    }
    let mut tensors = Vec::new();
    for input in &args.inputs {
        let (name, path) = input.split_once('=').ok_or_else(|| {
            Failure::Usage(format!("--input {input:?}: write it as NAME=FILE.npy"))
        })?;
        tensors.push((name.to_owned(), npy::read(Path::new(path))?));
    }
    if tensors.is_empty() {
        return Err(Failure::Usage("nothing to send: give --image or --input".into()));
    }
    Ok(Input::Tensors(tensors))
}

/// One request over a session.
fn through(
    client: &Client,
    args: &InferArgs,
    transport: Option<Transport>,
    input: &Input,
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
    builder = match input {
        Input::Picture(picture) => builder.request_bytes(picture.bytes().len() as u64),
        Input::Tensors(tensors) => tensors
            .iter()
            .fold(builder, |builder, (name, tensor)| builder.shape(name, &tensor.shape)),
    };
    let mut session: Session = args.rdma.apply(builder).open()?;
    let mut slot = session.slot()?;
    fill(&mut slot, session.agreed().signature.clone(), input)?;
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
    let answer = Answer {
        transport: agreed.transport,
        reason: agreed.transport_reason.clone(),
        model: agreed.model.clone(),
        version: agreed.version,
        engine: agreed.engine.clone(),
        session: agreed.session().0,
        outputs,
        times: *reply.times(),
        labels: agreed.labels.clone(),
    };
    drop(reply);
    session.close()?;
    Ok(answer)
}

fn fill(slot: &mut Slot, signature: BoundSignature, input: &Input) -> Result<(), Failure> {
    match input {
        Input::Picture(picture) => Ok(picture.fill(slot)?),
        Input::Tensors(tensors) => {
            for wanted in &signature.inputs {
                if !tensors.iter().any(|(name, _)| *name == wanted.name) {
                    let text = format!("input {:?} is missing: --input {0}=FILE.npy", wanted.name);
                    return Err(Failure::Usage(text));
                }
            }
            for (name, tensor) in tensors {
                let index = slot.input_index(name)?;
                let wanted = signature.inputs[index].dtype;
                if tensor.dtype != wanted {
                    let text = format!("input {name:?} is {wanted}, the file has {}", tensor.dtype);
                    return Err(Failure::Usage(text));
                }
                // The shape was negotiated, so the lengths are equal.
                slot.set_input(index, &tensor.bytes)?;
            }
            Ok(())
        }
    }
}

/// One request inside the server's process, over its link `local`.
fn inside(client: &Client, args: &InferArgs, input: &Input) -> Result<Answer, Failure> {
    let mut request =
        v1::InferRequest { model: args.model.clone(), version: args.version, ..Default::default() };
    match input {
        Input::Picture(picture) => {
            request.payload = picture.bytes().to_vec().into();
            request.info = Some(picture.info(args.priority));
        }
        Input::Tensors(tensors) => {
            let inline = |(name, tensor): &(String, Npy)| v1::InlineTensor {
                name: name.clone(),
                datatype: tensor.dtype.name().to_owned(),
                shape: tensor.shape.clone(),
                contents: tensor.bytes.clone().into(),
            };
            request.inputs = tensors.iter().map(inline).collect();
            let tensor = ferry_core::Request::of(ferry_client::RequestKind::Tensor);
            let info = ferry_core::Request { priority: args.priority, ..tensor };
            request.info = Some(info.into());
        }
    }
    let answer = client.run(control::local(client).infer(request))?.into_inner();
    let get = v1::GetModelRequest { name: args.model.clone(), version: answer.version };
    let model = client.run(control::models(client).get(get))?.into_inner();
    let outputs = answer.outputs.into_iter().map(output).collect::<anyhow::Result<_>>()?;
    Ok(Answer {
        transport: Transport::Local,
        reason: "asked for".into(),
        model: answer.model,
        version: answer.version,
        engine: answer.engine,
        session: answer.session_id,
        outputs,
        times: stages(answer.stages)?,
        labels: model.labels,
    })
}

fn output(tensor: v1::InlineTensor) -> anyhow::Result<Output> {
    Ok(Output {
        dtype: tensor.datatype.parse().context("the server's answer is not usable")?,
        name: tensor.name,
        shape: tensor.shape,
        bytes: tensor.contents.to_vec(),
    })
}

/// Stages travel as one row of a batch: it is read as one.
fn stages(stages: Vec<u64>) -> anyhow::Result<StageTimes> {
    let batch = v1::TimingBatch {
        session: Some(v1::SessionRef::default()),
        request: vec![0],
        started_unix_ns: vec![0],
        kind: vec![0],
        batch: vec![1],
        priority: vec![0],
        bytes_in: vec![0],
        bytes_out: vec![0],
        status: vec![0],
        staged: vec![0],
        stages,
        ..Default::default()
    };
    let rows: Vec<RequestRecord> = rows(&batch).context("the server's answer is not usable")?;
    rows.first().map(|row| row.times).ok_or_else(|| anyhow!("the answer has no stages"))
}

fn write(folder: &Path, outputs: &[Output]) -> anyhow::Result<Vec<String>> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let one = |output: &Output| {
        // A model's names may hold what a file's may not.
        let name: String =
            output.name.chars().map(|c| if "/\\\0".contains(c) { '_' } else { c }).collect();
        let path = folder.join(format!("{name}.npy"));
        npy::write(&path, output.dtype, &output.shape, &output.bytes)?;
        Ok(path.display().to_string())
    };
    outputs.iter().map(one).collect()
}

fn print(answer: &Answer, files: &[String], printer: &Printer) -> Result<(), Failure> {
    let top = top(&answer.outputs, &answer.labels);
    if printer.is_json() {
        let stage = |stage: &Stage| (stage.name().to_owned(), json!(answer.times.of(*stage)));
        let outputs = answer.outputs.iter().enumerate().map(|(i, output)| {
            json!({
                "name": output.name,
                "datatype": output.dtype.name(),
                "shape": output.shape,
                "file": files.get(i),
            })
        });
        return printer.json(&json!({
            "transport": answer.transport.name(),
            "transport_reason": answer.reason,
            "model": answer.model,
            "version": answer.version,
            "engine": answer.engine,
            "session": format!("{:016x}", answer.session),
            "outputs": outputs.collect::<Vec<_>>(),
            "top": top.iter().map(|(class, label, score)| {
                json!({ "class": class, "label": label, "score": score })
            }).collect::<Vec<_>>(),
            "total_ns": answer.times.of(Stage::Total),
            "unattributed_ns": answer.times.unattributed(),
            "stages": Stage::ALL.iter().map(stage).collect::<Map<String, Value>>(),
        }));
    }
    printer.out(&format!(
        "{} v{} ({}) over {}: {}",
        answer.model, answer.version, answer.engine, answer.transport, answer.reason
    ))?;
    for (class, label, score) in &top {
        let label = label.as_deref().map(|label| format!(" {label}")).unwrap_or_default();
        printer.out(&format!("  class {class}{label}: {score:.4}"))?;
    }
    files.iter().try_for_each(|file| printer.out(&format!("  wrote {file}")))?;
    let times = &answer.times;
    let named = Stage::ALL.iter().filter_map(|&stage| Some((stage.name(), times.of(stage)?)));
    let named = named.chain(times.unattributed().map(|ns| ("unattributed", ns)));
    let rows: Vec<_> = named.map(|(name, ns)| vec![name.to_owned(), human_ns(ns as f64)]).collect();
    printer.table(&["stage", "time"], &rows)
}
