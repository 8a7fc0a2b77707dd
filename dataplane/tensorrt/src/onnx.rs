//! What an ONNX file says, read without the library: the names of open dimensions, which its
//! parser keeps to itself, and what must be known before it is asked. The tags are the format's.

use bytes::Bytes;
use prost::Message;

/// `TensorProto.DataType`.
pub(crate) const FLOAT: i32 = 1;
pub(crate) const FLOAT16: i32 = 10;
/// How deep graphs may lie within each other: what protobuf's own readers allow.
pub(crate) const DEPTH_MAX: usize = 100;
/// `TensorProto.DataLocation.EXTERNAL`.
const EXTERNAL: i32 = 1;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ModelProto {
    #[prost(int64, optional, tag = "1")]
    pub(crate) ir_version: Option<i64>,
    #[prost(message, optional, tag = "7")]
    pub(crate) graph: Option<GraphProto>,
    #[prost(message, repeated, tag = "8")]
    pub(crate) opset_import: Vec<OperatorSetIdProto>,
    /// Functions: only whether there are any.
    #[prost(bytes = "bytes", repeated, tag = "25")]
    pub(crate) functions: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct OperatorSetIdProto {
    #[prost(string, optional, tag = "1")]
    pub(crate) domain: Option<String>,
    #[prost(int64, optional, tag = "2")]
    pub(crate) version: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    pub(crate) node: Vec<NodeProto>,
    #[prost(string, optional, tag = "2")]
    pub(crate) name: Option<String>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) initializer: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    pub(crate) input: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "12")]
    pub(crate) output: Vec<ValueInfoProto>,
    /// Sparse initializers: only whether there are any.
    #[prost(bytes = "bytes", repeated, tag = "15")]
    pub(crate) sparse_initializer: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct NodeProto {
    #[prost(string, repeated, tag = "1")]
    pub(crate) input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(crate) output: Vec<String>,
    #[prost(string, optional, tag = "3")]
    pub(crate) name: Option<String>,
    #[prost(string, optional, tag = "4")]
    pub(crate) op_type: Option<String>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) attribute: Vec<AttributeProto>,
    #[prost(string, optional, tag = "7")]
    pub(crate) domain: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct AttributeProto {
    #[prost(string, optional, tag = "1")]
    pub(crate) name: Option<String>,
    #[prost(float, optional, tag = "2")]
    pub(crate) f: Option<f32>,
    #[prost(int64, optional, tag = "3")]
    pub(crate) i: Option<i64>,
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub(crate) s: Option<Bytes>,
    #[prost(message, optional, tag = "5")]
    pub(crate) t: Option<TensorProto>,
    /// A subgraph, as it lies in the file.
    #[prost(bytes = "bytes", optional, tag = "6")]
    pub(crate) g: Option<Bytes>,
    #[prost(float, repeated, packed = "false", tag = "7")]
    pub(crate) floats: Vec<f32>,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub(crate) ints: Vec<i64>,
    #[prost(bytes = "bytes", repeated, tag = "9")]
    pub(crate) strings: Vec<Bytes>,
    /// Subgraphs, as they lie in the file.
    #[prost(bytes = "bytes", repeated, tag = "11")]
    pub(crate) graphs: Vec<Bytes>,
    #[prost(int32, optional, tag = "20")]
    pub(crate) r#type: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TensorProto {
    #[prost(int64, repeated, packed = "false", tag = "1")]
    pub(crate) dims: Vec<i64>,
    #[prost(int32, optional, tag = "2")]
    pub(crate) data_type: Option<i32>,
    #[prost(float, repeated, tag = "4")]
    pub(crate) float_data: Vec<f32>,
    #[prost(int32, repeated, tag = "5")]
    pub(crate) int32_data: Vec<i32>,
    #[prost(bytes = "bytes", repeated, tag = "6")]
    pub(crate) string_data: Vec<Bytes>,
    #[prost(int64, repeated, tag = "7")]
    pub(crate) int64_data: Vec<i64>,
    #[prost(string, optional, tag = "8")]
    pub(crate) name: Option<String>,
    #[prost(bytes = "bytes", optional, tag = "9")]
    pub(crate) raw_data: Option<Bytes>,
    #[prost(double, repeated, tag = "10")]
    pub(crate) double_data: Vec<f64>,
    #[prost(uint64, repeated, tag = "11")]
    pub(crate) uint64_data: Vec<u64>,
    #[prost(int32, optional, tag = "14")]
    pub(crate) data_location: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ValueInfoProto {
    #[prost(string, optional, tag = "1")]
    pub(crate) name: Option<String>,
    #[prost(message, optional, tag = "2")]
    pub(crate) r#type: Option<TypeProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TypeProto {
    #[prost(message, optional, tag = "1")]
    pub(crate) tensor_type: Option<TensorTypeProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TensorTypeProto {
    #[prost(int32, optional, tag = "1")]
    pub(crate) elem_type: Option<i32>,
    #[prost(message, optional, tag = "2")]
    pub(crate) shape: Option<TensorShapeProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TensorShapeProto {
    #[prost(message, repeated, tag = "1")]
    pub(crate) dim: Vec<DimensionProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DimensionProto {
    #[prost(int64, optional, tag = "1")]
    pub(crate) dim_value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    pub(crate) dim_param: Option<String>,
}

/// Decodes a file. Weights are not copied.
pub(crate) fn read(file: &Bytes) -> Result<ModelProto, String> {
    let model = ModelProto::decode(file.clone()).map_err(|error| error.to_string())?;
    match &model.graph {
        Some(graph) if !graph.output.is_empty() => Ok(model),
        _ => Err("no ONNX model: it has no graph with outputs".to_owned()),
    }
}

impl GraphProto {
    /// A weight that is stored in another file, here or in a graph within this one: the library
    /// would look for it below the working folder. `depth` is how deep that may be.
    pub(crate) fn external_weight(&self, depth: usize) -> Result<Option<String>, String> {
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
    pub(crate) fn dim_names(&self, tensor: &str) -> Vec<Option<&str>> {
        let mut all = self.input.iter().chain(&self.output);
        let value = all.find(|value| value.name.as_deref() == Some(tensor));
        let tensor_type = value.and_then(|it| it.r#type.as_ref()?.tensor_type.as_ref());
        let dims = tensor_type.and_then(|it| it.shape.as_ref()).map_or(&[][..], |it| &it.dim);
        dims.iter().map(DimensionProto::name).collect()
    }
}

impl DimensionProto {
    fn name(&self) -> Option<&str> {
        self.dim_param.as_deref().filter(|name| !matches!(*name, "" | "?"))
    }
}
