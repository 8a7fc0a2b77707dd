//! What every request over the protocol sends, found by asking the server.

use std::collections::HashMap;

use ferry_client::blocking::Client;
use ferry_core::tensor::UnknownDType;
use ferry_core::{BoundTensor, DType, Dim, Signature, TensorSpec};
use ferry_proto::oip;
use ferry_proto::oip::infer_parameter::ParameterChoice;
use ferry_proto::oip::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};

use crate::Error;
use crate::oip::service;
use crate::work::{Shapes, pattern};

/// The protocol's most urgent level; 0 says nothing of it.
const URGENT: u64 = 1;

/// A request's tensors, and where they lie if not in its message.
pub(crate) type Parameters = HashMap<String, oip::InferParameter>;

/// The requests of a run: pattern bytes for a model, and what came back of the first one.
#[derive(Debug)]
pub struct OipWork {
    /// Name of the model.
    pub model: String,
    /// In the model's order.
    pub(crate) inputs: Vec<BoundTensor>,
    /// The bytes of each input.
    pub(crate) source: Vec<Vec<u8>>,
    /// What the first request was answered with, in a message.
    pub(crate) outputs: Vec<Output>,
    template: oip::ModelInferRequest,
}

/// An output of the first answer.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) name: String,
    pub(crate) shape: Vec<u64>,
    pub(crate) bytes: Vec<u8>,
}

/// The inputs of a model, as the server tells them.
///
/// The protocol has no names for dimensions and does not say which are the same, so that each open
/// one has a name of its own here. Outputs are left out: only an answer tells their shapes.
///
/// # Errors
/// [`Error::Call`] as the server refuses, [`Error::Usage`] for inputs that are no plain numbers.
pub fn oip_signature(client: &Client, model: &str, version: u64) -> Result<Signature, Error> {
    let mut service = service(client.control().channel());
    let request =
        oip::ModelMetadataRequest { name: model.to_owned(), version: version_text(version) };
    let metadata = client.run(service.model_metadata(request))?.into_inner();
    let mut open = 0;
    let mut dim = |size: &i64| match u64::try_from(*size) {
        Ok(size) => Dim::Fixed(size),
        Err(_negative) => {
            open += 1;
            Dim::Named(format!("d{}", open - 1))
        }
    };
    let mut inputs = Vec::new();
    for tensor in metadata.inputs {
        let dtype: DType = tensor.datatype.parse().map_err(|_unknown: UnknownDType| {
            Error::Usage(format!(
                "input {:?} of {model} has elements of type {:?}: only plain numbers are sent",
                tensor.name, tensor.datatype
            ))
        })?;
        let shape = tensor.shape.iter().map(&mut dim).collect();
        inputs.push(TensorSpec { name: tensor.name, dtype, shape });
    }
    Ok(Signature { inputs, outputs: Vec::new() })
}

/// Empty: the server's choice.
fn version_text(version: u64) -> String {
    if version == 0 { String::new() } else { version.to_string() }
}

impl OipWork {
    /// Sends one request with these shapes, in a message, and keeps what came back.
    ///
    /// # Errors
    /// [`Error::Usage`] for shapes that do not fit, [`Error::Call`] as the server answers.
    pub fn ask(
        client: &Client,
        (model, version): (&str, u64),
        signature: &Signature,
        shapes: &Shapes,
        priority: u8,
    ) -> Result<OipWork, Error> {
        let bound = signature.bind(shapes).map_err(|why| Error::Usage(why.to_string()))?;
        let lengths = bound.inputs.iter().map(|tensor| usize::try_from(tensor.bytes));
        let too_long = |_too_long| Error::Usage("an input is longer than memory".into());
        let source = lengths.map(|len| len.map(pattern).map_err(too_long));
        let mut work = OipWork {
            model: model.to_owned(),
            source: source.collect::<Result<_, Error>>()?,
            outputs: Vec::new(),
            template: template(model, version, &bound.inputs, priority),
            inputs: bound.inputs,
        };
        let mut request = work.template.clone();
        request.raw_input_contents = work.source.iter().map(|it| it.clone().into()).collect();
        let answer = client.run(service(client.control().channel()).model_infer(request))?;
        work.outputs = outputs(answer.into_inner())?;
        Ok(work)
    }

    /// A request with its tensors in its message, which are still to be put in.
    pub(crate) fn in_message(&self) -> oip::ModelInferRequest {
        self.template.clone()
    }

    /// A request with its tensors where `place` says: for inputs and then for outputs, their
    /// lengths in order.
    pub(crate) fn in_region(
        &self,
        mut place: impl FnMut(u64) -> Parameters,
    ) -> oip::ModelInferRequest {
        let mut request = self.template.clone();
        for (input, tensor) in request.inputs.iter_mut().zip(&self.inputs) {
            input.parameters = place(tensor.bytes);
        }
        let outputs = self.outputs.iter().map(|output| InferRequestedOutputTensor {
            name: output.name.clone(),
            parameters: place(output.bytes.len() as u64),
        });
        request.outputs = outputs.collect();
        request
    }

    /// Name and shape of the inputs.
    pub(crate) fn input_shapes(&self) -> Shapes {
        self.inputs.iter().map(|it| (it.name.clone(), it.shape.clone())).collect()
    }

    /// Name and shape of the outputs.
    pub(crate) fn output_shapes(&self) -> Shapes {
        self.outputs.iter().map(|it| (it.name.clone(), it.shape.clone())).collect()
    }
}

fn template(
    model: &str,
    version: u64,
    inputs: &[BoundTensor],
    priority: u8,
) -> oip::ModelInferRequest {
    let input = |tensor: &BoundTensor| InferInputTensor {
        name: tensor.name.clone(),
        datatype: tensor.dtype.name().to_owned(),
        // Sizes that came as 64-bit numbers with a sign, or were typed and are refused if not.
        shape: tensor.shape.iter().map(|&dim| i64::try_from(dim).unwrap_or(i64::MAX)).collect(),
        ..Default::default()
    };
    let urgent = (priority > 0).then(|| ("priority".to_owned(), parameter(URGENT)));
    oip::ModelInferRequest {
        model_name: model.to_owned(),
        model_version: version_text(version),
        inputs: inputs.iter().map(input).collect(),
        parameters: urgent.into_iter().collect(),
        ..Default::default()
    }
}

/// A number of bytes, or a level, as the protocol's clients write them.
pub(crate) fn parameter(value: u64) -> oip::InferParameter {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    oip::InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(value)) }
}

fn outputs(answer: oip::ModelInferResponse) -> Result<Vec<Output>, Error> {
    let (tensors, bytes) = (answer.outputs, answer.raw_output_contents);
    if tensors.len() != bytes.len() {
        let why = "the server answers with lists of numbers instead of bytes (raw contents), whose \
                   lengths in shared memory are not known";
        return Err(Error::Usage(why.into()));
    }
    let output = |(tensor, bytes): (oip::model_infer_response::InferOutputTensor, bytes::Bytes)| {
        let shape = tensor.shape.iter().map(|&dim| u64::try_from(dim).unwrap_or(0)).collect();
        Output { name: tensor.name, shape, bytes: bytes.to_vec() }
    };
    Ok(tensors.into_iter().zip(bytes).map(output).collect())
}
