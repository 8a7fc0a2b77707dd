//! Streams a [`Graph`] into an ONNX file.
//!
//! A model's weights are by far its largest part and are drawn while they are written: at no time
//! is more than one buffer of them in memory. Protobuf wants the length of a message before its
//! content, so every length is computed first, from the shapes.

use std::io::{self, Write};

use prost::Message;

use crate::catalog::Progress;
use crate::graph::{Data, Graph, Tensor, TensorInfo};
use crate::plumbing::signed;
use crate::precision::{Precision, half};
use crate::rng::Xoshiro;
use ferry_onnx_file::{
    DimensionProto, GraphProto, ModelProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TensorTypeProto, TypeProto, ValueInfoProto,
};

/// ONNX IR version 8 and operator set 17 belong together (ONNX 1.12) and are read by every runtime
/// of the last years.
const IR_VERSION: i64 = 8;
const OPSET: i64 = 17;
/// Tags of the three fields written by hand. Wire type 2: a length, then that many bytes.
const MODEL_GRAPH: u8 = tag(7);
const GRAPH_INITIALIZER: u8 = tag(5);
const TENSOR_RAW_DATA: u8 = tag(9);
/// Weights drawn before they are handed to the file and progress is reported: large enough that
/// neither costs anything, small enough that a progress bar moves.
const CHUNK_BYTES: usize = 1 << 20;

const fn tag(field: u8) -> u8 {
    field << 3 | 2
}

/// A graph encoded except for its weights, with all lengths known.
#[derive(Debug)]
pub(crate) struct Encoded<'a> {
    graph: &'a Graph,
    seed: u64,
    precision: Precision,
    /// The model up to and including the length of its graph.
    model: Vec<u8>,
    /// The graph without its initializers.
    nodes: Vec<u8>,
    /// Of each tensor: everything before its values.
    headers: Vec<Vec<u8>>,
    file_bytes: u64,
}

impl<'a> Encoded<'a> {
    pub(crate) fn new(graph: &'a Graph, seed: u64, precision: Precision) -> Self {
        let value_info = |info| value_info(info, precision);
        let nodes = GraphProto {
            node: graph.nodes.clone(),
            name: Some(graph.name.to_owned()),
            input: graph.inputs.iter().map(value_info).collect(),
            output: graph.outputs.iter().map(value_info).collect(),
            ..GraphProto::default()
        };
        let nodes = nodes.encode_to_vec();
        let headers: Vec<Vec<u8>> = graph.tensors.iter().map(|it| header(it, precision)).collect();
        let weights = graph.tensors.iter().map(|it| it.raw_bytes(precision)).sum::<u64>();
        let graph_bytes = bytes_of(&nodes) + headers.iter().map(|h| bytes_of(h)).sum::<u64>();
        let graph_bytes = graph_bytes + weights;

        let rounded = match precision {
            Precision::Fp32 => "",
            Precision::Fp16 => " and rounded to 16 bits",
        };
        let mut model = ModelProto {
            ir_version: Some(IR_VERSION),
            producer_name: Some("ferry-zoo".to_owned()),
            producer_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            // All digits of the seed, so that a file's length does not depend on it.
            doc_string: Some(format!("random weights drawn from seed {seed:#018x}{rounded}")),
            opset_import: vec![OperatorSetIdProto {
                domain: Some(String::new()),
                version: Some(OPSET),
            }],
            ..ModelProto::default()
        }
        .encode_to_vec();
        model.push(MODEL_GRAPH);
        push_varint(&mut model, graph_bytes);
        let file_bytes = bytes_of(&model) + graph_bytes;
        Self { graph, seed, precision, model, nodes, headers, file_bytes }
    }

    /// Length of the whole file.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Writes the file, reporting after every chunk.
    pub(crate) fn write_to(
        &self,
        out: &mut dyn Write,
        progress: &mut dyn FnMut(Progress),
    ) -> io::Result<()> {
        let mut sink = Sink { out, progress, buffer: vec![], written_bytes: 0, encoded: self };
        sink.put(&self.model)?;
        sink.put(&self.nodes)?;
        for (tensor, header) in self.graph.tensors.iter().zip(&self.headers) {
            sink.put(header)?;
            sink.put_values(tensor)?;
        }
        sink.flush()
    }
}

/// Collects bytes into chunks.
struct Sink<'a> {
    out: &'a mut dyn Write,
    progress: &'a mut dyn FnMut(Progress),
    buffer: Vec<u8>,
    written_bytes: u64,
    encoded: &'a Encoded<'a>,
}

impl Sink<'_> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK_BYTES { self.flush() } else { Ok(()) }
    }

    fn put_values(&mut self, tensor: &Tensor) -> io::Result<()> {
        match &tensor.data {
            Data::Floats(values) => values.iter().try_for_each(|v| self.put(&v.to_le_bytes())),
            Data::Ints(values) => values.iter().try_for_each(|v| self.put(&v.to_le_bytes())),
            Data::Uniform { centre, half_width } => {
                let mut rng = Xoshiro::new(self.encoded.seed, &tensor.name);
                let mut draw = || rng.pair().map(|unit| centre + half_width * unit);
                for _ in 0..tensor.elements() / 2 {
                    self.put_drawn(&draw())?;
                }
                if tensor.elements() % 2 == 1 {
                    let [last, _] = draw();
                    self.put_drawn(&[last])?;
                }
                Ok(())
            }
        }
    }

    fn put_drawn(&mut self, values: &[f32]) -> io::Result<()> {
        values.iter().try_for_each(|&value| match self.encoded.precision {
            Precision::Fp32 => self.put(&value.to_le_bytes()),
            Precision::Fp16 => self.put(&half(value)),
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.write_all(&self.buffer)?;
        self.written_bytes += bytes_of(&self.buffer);
        self.buffer.clear();
        let total_bytes = self.encoded.file_bytes;
        (self.progress)(Progress { written_bytes: self.written_bytes, total_bytes });
        Ok(())
    }
}

/// The field of the graph that holds `tensor`, up to where its values begin.
fn header(tensor: &Tensor, precision: Precision) -> Vec<u8> {
    let mut inner = TensorProto {
        dims: tensor.dims.iter().map(|length| signed(*length)).collect(),
        data_type: Some(tensor.data_type(precision)),
        name: Some(tensor.name.clone()),
        ..TensorProto::default()
    }
    .encode_to_vec();
    inner.push(TENSOR_RAW_DATA);
    push_varint(&mut inner, tensor.raw_bytes(precision));
    let mut outer = vec![GRAPH_INITIALIZER];
    push_varint(&mut outer, bytes_of(&inner) + tensor.raw_bytes(precision));
    outer.append(&mut inner);
    outer
}

fn value_info(info: &TensorInfo, precision: Precision) -> ValueInfoProto {
    let dim = |length: &u64| DimensionProto { dim_value: Some(signed(*length)), dim_param: None };
    let shape = TensorShapeProto { dim: info.dims.iter().map(dim).collect() };
    let elem_type = Some(precision.data_type());
    let tensor_type = TensorTypeProto { elem_type, shape: Some(shape) };
    ValueInfoProto {
        name: Some(info.name.clone()),
        r#type: Some(TypeProto { tensor_type: Some(tensor_type), ..TypeProto::default() }),
    }
}

fn bytes_of(bytes: &[u8]) -> u64 {
    bytes.len() as u64
}

/// Base-128, least significant group first, the top bit set on all but the last byte.
fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

#[cfg(test)]
mod tests;
