//! A model under construction: nodes in order, and tensors whose values are made when written.

use crate::precision::Precision;
use ferry_onnx_file::{AttributeProto, FLOAT, INT64, NodeProto};

/// What a tensor is to the one who counts parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Trained: counted as a parameter.
    Parameter,
    /// Running statistics of a batch normalisation: stored, not counted.
    Buffer,
    /// A shape or a scale that a node takes as input: part of the architecture.
    Constant,
}

/// The values of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Data {
    /// In the file's precision, drawn uniformly from `centre - half_width .. centre + half_width`.
    Uniform { centre: f32, half_width: f32 },
    /// f32 in every precision, given: the scales of a `Resize`, which ONNX defines so.
    Floats(Vec<f32>),
    /// i64, given.
    Ints(Vec<i64>),
}

/// A tensor stored in the file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dims: Vec<u64>,
    pub(crate) data: Data,
    pub(crate) role: Role,
}

impl Tensor {
    pub(crate) fn elements(&self) -> u64 {
        self.dims.iter().product()
    }

    pub(crate) fn data_type(&self, precision: Precision) -> i32 {
        match self.data {
            Data::Uniform { .. } => precision.data_type(),
            Data::Floats(_) => FLOAT,
            Data::Ints(_) => INT64,
        }
    }

    pub(crate) fn raw_bytes(&self, precision: Precision) -> u64 {
        let element_bytes = match self.data {
            Data::Uniform { .. } => precision.bytes(),
            Data::Floats(_) => 4,
            Data::Ints(_) => 8,
        };
        self.elements() * element_bytes
    }
}

/// What flows between nodes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Value {
    pub(crate) name: String,
    pub(crate) shape: Vec<u64>,
    /// Expected mean square of the elements for an input of unit variance. Every convolution scales
    /// its weights by it, so that activations neither vanish nor explode, however deep the model.
    pub(crate) mean_square: f32,
}

impl Value {
    /// Channels of an NCHW value.
    pub(crate) fn channels(&self) -> u64 {
        self.shape[1]
    }
}

/// Name and shape of a model's input or output; elements are f32, in a file of half precision
/// 16-bit floats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name in the ONNX file.
    pub name: String,
    /// Dimensions, outermost first.
    pub dims: Vec<u64>,
}

impl TensorInfo {
    /// Size of the tensor in bytes, 4 per element: in single precision.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.dims.iter().product::<u64>() * 4
    }
}

/// A model: its helpers are in [`crate::layers`], its file is written by [`crate::writer`].
#[derive(Debug)]
pub(crate) struct Graph {
    pub(crate) name: &'static str,
    pub(crate) nodes: Vec<NodeProto>,
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) inputs: Vec<TensorInfo>,
    pub(crate) outputs: Vec<TensorInfo>,
    /// The epsilon of every batch normalisation of the model.
    pub(crate) epsilon: f32,
    /// Multiplications with a weight in one run of the convolutions and linear layers so far.
    pub(crate) multiply_adds: u64,
}

impl Graph {
    pub(crate) fn new(name: &'static str, epsilon: f32) -> Self {
        Self {
            name,
            epsilon,
            nodes: vec![],
            tensors: vec![],
            inputs: vec![],
            outputs: vec![],
            multiply_adds: 0,
        }
    }

    /// Parameters as PyTorch counts them: convolution and linear weights and biases, and the weight
    /// and bias of batch normalisations.
    pub(crate) fn parameter_count(&self) -> u64 {
        let parameters = self.tensors.iter().filter(|tensor| tensor.role == Role::Parameter);
        parameters.map(Tensor::elements).sum()
    }

    pub(crate) fn input(&mut self, name: &str, shape: &[u64]) -> Value {
        self.inputs.push(TensorInfo { name: name.to_owned(), dims: shape.to_vec() });
        Value { name: name.to_owned(), shape: shape.to_vec(), mean_square: 1.0 }
    }

    /// Makes `value` a model output called `name`.
    ///
    /// # Panics
    ///
    /// If a node already consumes `value`, or none produces it.
    pub(crate) fn output(&mut self, value: &Value, name: &str) {
        let consumed = self.nodes.iter().any(|node| node.input.contains(&value.name));
        assert!(!consumed, "{} is consumed inside the graph and cannot be renamed", value.name);
        let mut outputs = self.nodes.iter_mut().flat_map(|node| &mut node.output);
        match outputs.find(|output| **output == value.name) {
            Some(output) => name.clone_into(output),
            None => panic!("no node produces {}", value.name),
        }
        self.outputs.push(TensorInfo { name: name.to_owned(), dims: value.shape.clone() });
    }

    /// Appends a node with one output, called as the node is.
    pub(crate) fn node(
        &mut self,
        op_type: &str,
        name: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> String {
        self.nodes.push(NodeProto {
            input: inputs.iter().map(|input| (*input).to_owned()).collect(),
            output: vec![name.to_owned()],
            name: Some(name.to_owned()),
            op_type: Some(op_type.to_owned()),
            attribute: attributes,
            domain: None,
        });
        name.to_owned()
    }

    /// Adds a drawn tensor and returns its name.
    pub(crate) fn drawn(&mut self, name: String, dims: &[u64], role: Role, range: Range) -> String {
        let data = Data::Uniform { centre: range.centre, half_width: range.half_width };
        self.tensors.push(Tensor { name: name.clone(), dims: dims.to_vec(), data, role });
        name
    }

    /// Adds a tensor of given values, one-dimensional, and returns its name.
    pub(crate) fn constant(&mut self, name: String, data: Data) -> String {
        let length = match &data {
            Data::Floats(values) => values.len() as u64,
            Data::Ints(values) => values.len() as u64,
            Data::Uniform { .. } => 0,
        };
        let dims = vec![length];
        self.tensors.push(Tensor { name: name.clone(), dims, data, role: Role::Constant });
        name
    }
}

/// Where the values of a drawn tensor lie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range {
    pub(crate) centre: f32,
    pub(crate) half_width: f32,
}

impl Range {
    pub(crate) const fn around(centre: f32, half_width: f32) -> Self {
        Self { centre, half_width }
    }

    /// Zero mean and the given variance: a uniform distribution of half width `w` has `w² / 3`.
    pub(crate) fn of_variance(variance: f32) -> Self {
        Self { centre: 0.0, half_width: (3.0 * variance).sqrt() }
    }
}
