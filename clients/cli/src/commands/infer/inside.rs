//! One request inside the server's process, over its link `local`.

use anyhow::{Context, anyhow};
use ferry_client::blocking::Client;
use ferry_client::{RequestRecord, StageTimes, Transport, v1};
use ferry_proto::rows;

use super::Answer;
use super::input::Input;
use super::output::Output;
use crate::args::InferArgs;
use crate::control;
use crate::failure::Failure;
use crate::npy::Npy;
use crate::shapes;

pub(super) fn infer(
    client: &Client,
    args: &InferArgs,
    input: &Input,
    model: &v1::Model,
    asked: Vec<(String, Vec<u64>)>,
) -> Result<Answer, Failure> {
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
    // A tensor brings its own shape.
    let is_sent = |name: &str| request.inputs.iter().any(|it| it.name == name);
    let others = asked.iter().filter(|(name, _)| !is_sent(name)).cloned();
    let others: Vec<_> = others.map(|(name, shape)| v1::TensorShape { name, shape }).collect();
    request.shapes = others;
    let answer = client.run(control::local(client).infer(request))?.into_inner();
    let outputs = answer.outputs.into_iter().map(output).collect::<anyhow::Result<_>>()?;
    Ok(Answer {
        transport: Transport::Local,
        reason: "asked for".into(),
        model: answer.model,
        version: answer.version,
        engine: answer.engine,
        session: answer.session_id,
        inputs: inputs(input, model, &asked),
        outputs,
        times: stages(answer.stages)?,
        labels: model.labels.clone(),
    })
}

/// Name and shape of what was sent.
fn inputs(
    input: &Input,
    model: &v1::Model,
    asked: &[(String, Vec<u64>)],
) -> Vec<(String, Vec<u64>)> {
    match input {
        Input::Tensors(tensors) => {
            tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shape.clone())).collect()
        }
        Input::Picture(_) => shapes::of_inputs(model, asked),
    }
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
        batch_rows: vec![0],
        stages,
        ..Default::default()
    };
    let rows: Vec<RequestRecord> = rows(&batch).context("the server's answer is not usable")?;
    rows.first().map(|row| row.times).ok_or_else(|| anyhow!("the answer has no stages"))
}
