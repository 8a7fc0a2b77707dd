//! The messages of an ONNX file, as far as anybody here reads or writes them. Fields and tags are
//! those of the published format.
//!
//! ONNX Runtime keeps what a file says to itself, TensorRT's parser the names of open dimensions, and
//! the zoo writes files: all of them use these.
#![forbid(unsafe_code)]

pub mod indices;
pub mod random;
pub mod rows;
pub mod walk;

use bytes::{Buf, Bytes};
use prost::Message;

/// `TensorProto.DataType.FLOAT`: IEEE 754 binary32.
pub const FLOAT: i32 = 1;
/// `TensorProto.DataType.INT64`.
pub const INT64: i32 = 7;
/// `TensorProto.DataType.FLOAT16`: IEEE 754 binary16.
pub const FLOAT16: i32 = 10;
/// `TensorProto.DataLocation.EXTERNAL`.
pub const EXTERNAL: i32 = 1;
/// How deep graphs may lie within each other: what protobuf's own readers allow.
pub const DEPTH_MAX: usize = 100;

/// `AttributeProto.AttributeType`: which field of an attribute holds its value.
mod kind {
    pub(super) const FLOAT: i32 = 1;
    pub(super) const INT: i32 = 2;
    pub(super) const STRING: i32 = 3;
    pub(super) const INTS: i32 = 7;
}

/// The file itself.
#[derive(Clone, PartialEq, Message)]
pub struct ModelProto {
    /// Version of the format.
    #[prost(int64, optional, tag = "1")]
    pub ir_version: Option<i64>,
    /// Who wrote it.
    #[prost(string, optional, tag = "2")]
    pub producer_name: Option<String>,
    /// Their version.
    #[prost(string, optional, tag = "3")]
    pub producer_version: Option<String>,
    /// For people.
    #[prost(string, optional, tag = "6")]
    pub doc_string: Option<String>,
    /// What is computed.
    #[prost(message, optional, tag = "7")]
    pub graph: Option<GraphProto>,
    /// The operators that it uses.
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSetIdProto>,
    /// Functions: only whether there are any.
    #[prost(bytes = "bytes", repeated, tag = "25")]
    pub functions: Vec<Bytes>,
}

/// Which version of which operator set the nodes come from; the empty domain is ONNX's own.
#[derive(Clone, PartialEq, Message)]
pub struct OperatorSetIdProto {
    /// Whose operators.
    #[prost(string, optional, tag = "1")]
    pub domain: Option<String>,
    /// Which of their versions.
    #[prost(int64, optional, tag = "2")]
    pub version: Option<i64>,
}

/// Nodes in execution order, the tensors that they use, and the graph's inputs and outputs.
#[derive(Clone, PartialEq, Message)]
pub struct GraphProto {
    /// In execution order.
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<NodeProto>,
    /// Its name.
    #[prost(string, optional, tag = "2")]
    pub name: Option<String>,
    /// Weights.
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<TensorProto>,
    /// What it takes.
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfoProto>,
    /// What it gives.
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfoProto>,
    /// Sparse initializers: only whether there are any.
    #[prost(bytes = "bytes", repeated, tag = "15")]
    pub sparse_initializer: Vec<Bytes>,
}

/// One operator, its inputs and outputs by name.
#[derive(Clone, PartialEq, Message)]
pub struct NodeProto {
    /// What it takes.
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    /// What it gives.
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    /// Its name.
    #[prost(string, optional, tag = "3")]
    pub name: Option<String>,
    /// Which operator.
    #[prost(string, optional, tag = "4")]
    pub op_type: Option<String>,
    /// Its settings.
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<AttributeProto>,
    /// Whose operators.
    #[prost(string, optional, tag = "7")]
    pub domain: Option<String>,
}

/// One named setting of a node.
#[derive(Clone, PartialEq, Message)]
pub struct AttributeProto {
    /// Its name.
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    /// A number.
    #[prost(float, optional, tag = "2")]
    pub f: Option<f32>,
    /// An integer.
    #[prost(int64, optional, tag = "3")]
    pub i: Option<i64>,
    /// A text.
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub s: Option<Bytes>,
    /// A tensor.
    #[prost(message, optional, tag = "5")]
    pub t: Option<TensorProto>,
    /// A subgraph, as it lies in the file.
    #[prost(bytes = "bytes", optional, tag = "6")]
    pub g: Option<Bytes>,
    /// Numbers.
    #[prost(float, repeated, packed = "false", tag = "7")]
    pub floats: Vec<f32>,
    /// Integers.
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub ints: Vec<i64>,
    /// Texts.
    #[prost(bytes = "bytes", repeated, tag = "9")]
    pub strings: Vec<Bytes>,
    /// Subgraphs, as they lie in the file.
    #[prost(bytes = "bytes", repeated, tag = "11")]
    pub graphs: Vec<Bytes>,
    /// Which of the fields holds the value.
    #[prost(int32, optional, tag = "20")]
    pub r#type: Option<i32>,
}

/// A weight: `raw_data` holds its elements in row-major order, little endian; else one of the other fields does.
#[derive(Clone, PartialEq, Message)]
pub struct TensorProto {
    /// Outermost dimension first.
    #[prost(int64, repeated, packed = "false", tag = "1")]
    pub dims: Vec<i64>,
    /// `TensorProto.DataType`.
    #[prost(int32, optional, tag = "2")]
    pub data_type: Option<i32>,
    /// Elements.
    #[prost(float, repeated, tag = "4")]
    pub float_data: Vec<f32>,
    /// Elements of 32 bits and fewer.
    #[prost(int32, repeated, tag = "5")]
    pub int32_data: Vec<i32>,
    /// Texts.
    #[prost(bytes = "bytes", repeated, tag = "6")]
    pub string_data: Vec<Bytes>,
    /// Elements.
    #[prost(int64, repeated, tag = "7")]
    pub int64_data: Vec<i64>,
    /// Its name.
    #[prost(string, optional, tag = "8")]
    pub name: Option<String>,
    /// Elements, in their own width.
    #[prost(bytes = "bytes", optional, tag = "9")]
    pub raw_data: Option<Bytes>,
    /// Elements.
    #[prost(double, repeated, tag = "10")]
    pub double_data: Vec<f64>,
    /// Elements.
    #[prost(uint64, repeated, tag = "11")]
    pub uint64_data: Vec<u64>,
    /// [`EXTERNAL`] for one that lies in another file.
    #[prost(int32, optional, tag = "14")]
    pub data_location: Option<i32>,
}

/// Name and type of an input or output.
#[derive(Clone, PartialEq, Message)]
pub struct ValueInfoProto {
    /// Its name.
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    /// Its type.
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<TypeProto>,
}

/// The type of a value: one of these.
#[derive(Clone, PartialEq, Message)]
pub struct TypeProto {
    /// A tensor.
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorTypeProto>,
    /// A sequence: only whether it is one. So for the next three.
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub sequence_type: Option<Bytes>,
    /// A map.
    #[prost(bytes = "bytes", optional, tag = "5")]
    pub map_type: Option<Bytes>,
    /// A sparse tensor.
    #[prost(bytes = "bytes", optional, tag = "8")]
    pub sparse_tensor_type: Option<Bytes>,
    /// A value that may be absent.
    #[prost(bytes = "bytes", optional, tag = "9")]
    pub optional_type: Option<Bytes>,
}

/// Element type and shape.
#[derive(Clone, PartialEq, Message)]
pub struct TensorTypeProto {
    /// `TensorProto.DataType`.
    #[prost(int32, optional, tag = "1")]
    pub elem_type: Option<i32>,
    /// Its shape, where it is declared.
    #[prost(message, optional, tag = "2")]
    pub shape: Option<TensorShapeProto>,
}

/// A shape, outermost dimension first.
#[derive(Clone, PartialEq, Message)]
pub struct TensorShapeProto {
    /// Outermost dimension first.
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<DimensionProto>,
}

/// One dimension: a size, or a name, or neither.
#[derive(Clone, PartialEq, Message)]
pub struct DimensionProto {
    /// Its size.
    #[prost(int64, optional, tag = "1")]
    pub dim_value: Option<i64>,
    /// Its name.
    #[prost(string, optional, tag = "2")]
    pub dim_param: Option<String>,
}

impl AttributeProto {
    /// A number.
    pub fn float(name: &str, value: f32) -> Self {
        Self { f: Some(value), ..Self::named(name, kind::FLOAT) }
    }

    /// An integer.
    pub fn int(name: &str, value: i64) -> Self {
        Self { i: Some(value), ..Self::named(name, kind::INT) }
    }

    /// A text.
    pub fn string(name: &str, value: &str) -> Self {
        Self {
            s: Some(Bytes::copy_from_slice(value.as_bytes())),
            ..Self::named(name, kind::STRING)
        }
    }

    /// Integers.
    pub fn ints(name: &str, values: &[i64]) -> Self {
        Self { ints: values.to_vec(), ..Self::named(name, kind::INTS) }
    }

    fn named(name: &str, kind: i32) -> Self {
        Self { name: Some(name.to_owned()), r#type: Some(kind), ..Self::default() }
    }
}

/// Decodes a file. Weights are not copied out of [`Bytes`].
///
/// # Errors
/// What is wrong with it.
pub fn read(file: impl Buf) -> Result<ModelProto, String> {
    let model = ModelProto::decode(file).map_err(|error| error.to_string())?;
    match &model.graph {
        Some(graph) if !graph.output.is_empty() => Ok(model),
        _ => Err("no ONNX model: it has no graph with outputs".to_owned()),
    }
}

impl GraphProto {
    /// A weight that is stored in another file, here or in a graph within this one: the library
    /// would look for it below the working folder. `depth` is how deep that may be.
    ///
    /// # Errors
    /// Where graphs lie deeper, or are no graphs.
    pub fn external_weight(&self, depth: usize) -> Result<Option<String>, String> {
        let attributes = || self.node.iter().flat_map(|node| &node.attribute);
        let constants = attributes().filter_map(|attribute| attribute.t.as_ref());
        let external = |it: &&TensorProto| it.data_location == Some(EXTERNAL);
        if let Some(weight) = self.initializer.iter().chain(constants).find(external) {
            return Ok(Some(weight.name.clone().unwrap_or_default()));
        }
        for graph in attributes().flat_map(|it| it.g.iter().chain(&it.graphs)) {
            let depth = depth.checked_sub(1).ok_or("its graphs lie too deep within each other")?;
            let graph = GraphProto::decode(graph.clone()).map_err(|error| error.to_string())?;
            if let Some(weight) = graph.external_weight(depth)? {
                return Ok(Some(weight));
            }
        }
        Ok(None)
    }

    /// The names of the dimensions of an input or output, where the file gives any: none for
    /// dimensions of a size, and for those that exporters call `""` or `"?"`.
    pub fn dim_names(&self, tensor: &str) -> Vec<Option<&str>> {
        let mut all = self.input.iter().chain(&self.output);
        let value = all.find(|value| value.name.as_deref() == Some(tensor));
        let tensor_type = value.and_then(|it| it.r#type.as_ref()?.tensor_type.as_ref());
        let dims = tensor_type.and_then(|it| it.shape.as_ref()).map_or(&[][..], |it| &it.dim);
        dims.iter().map(DimensionProto::name).collect()
    }
}

impl DimensionProto {
    pub(crate) fn name(&self) -> Option<&str> {
        self.dim_param.as_deref().filter(|name| !matches!(*name, "" | "?"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn external() -> TensorProto {
        let (name, data_location) = (Some("w".to_owned()), Some(EXTERNAL));
        TensorProto { name, data_location, ..TensorProto::default() }
    }

    fn within(attribute: AttributeProto) -> GraphProto {
        let node = NodeProto { attribute: vec![attribute], ..NodeProto::default() };
        GraphProto { node: vec![node], ..GraphProto::default() }
    }

    fn deeper(graph: &GraphProto) -> GraphProto {
        let g = Some(Bytes::from(graph.encode_to_vec()));
        within(AttributeProto { g, ..AttributeProto::default() })
    }

    #[test]
    fn weights_in_other_files_are_found_wherever_they_are() {
        let weight = GraphProto { initializer: vec![external()], ..GraphProto::default() };
        let constant = within(AttributeProto { t: Some(external()), ..AttributeProto::default() });
        let graphs = vec![Bytes::from(weight.encode_to_vec())];
        let branch = within(AttributeProto { graphs, ..AttributeProto::default() });
        for graph in [&weight, &constant, &deeper(&weight), &deeper(&deeper(&constant)), &branch] {
            assert_eq!(graph.external_weight(2).unwrap().as_deref(), Some("w"), "{graph:?}");
        }
        let inside = TensorProto { data_location: None, ..external() };
        let inside = GraphProto { initializer: vec![inside], ..GraphProto::default() };
        assert_eq!(deeper(&inside).external_weight(1).unwrap(), None);
        deeper(&deeper(&inside)).external_weight(1).unwrap_err();
    }
}
