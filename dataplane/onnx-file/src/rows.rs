//! Whether the rows of a model mean nothing to each other, shown by its graph.
//!
//! Requests of several clients run as one by laying their inputs behind each other along the first
//! dimension. This is right only if row `i` of every output depends on row `i` of the inputs alone,
//! and not on how many rows there are. An open first dimension does not say so: it may be time, or a
//! set of boxes, and then each client would get what others sent.
//!
//! Each tensor of the graph is followed, operator by operator: along which axis its rows lie
//! (`value::Place`), or that it is the same whatever the inputs hold, or which sizes it lists. An
//! operator is followed in the ways that `operators` lists. Of all others nothing is known, and
//! so of no output that they reach. The sizes of all dimensions are taken to be at least 1.
//!
//! This is as true as its list, and as the libraries keep to what ONNX says of each operator.

mod node;
mod operators;
mod size;
mod value;

use std::cell::Cell;
use std::collections::{HashMap, HashSet};

use self::node::Node;
use self::size::{ROWS, Size, Symbol};
use self::value::{Found, Place, RANK_MAX, Value};
use crate::indices::OWN_DOMAINS;
use crate::walk::{BYTES, Message, fields};
use crate::{DimensionProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto};

/// Versions of ONNX's operators whose meaning is known. Before 7, tensors were repeated by other
/// rules.
const VERSIONS: std::ops::RangeInclusive<i64> = 7..=27;

/// Longest payload of a field of a weight that is looked at: shapes are shorter, and weights are
/// not needed.
const PAYLOAD_MAX: usize = 1024;

/// Why it is not shown that the rows of a model's outputs depend on the same rows of its inputs
/// alone; `None` if it is. `model` is an ONNX file; weights in other files are not needed.
///
/// The first dimension of every input is taken to be the rows, as many in all of them.
pub fn doubt(model: &[u8]) -> Option<String> {
    Walk::default().doubt(model).err()
}

/// What is known of the tensors of a graph, by name.
#[derive(Default)]
struct Walk {
    known: HashMap<String, Found<Value>>,
    next: Cell<Symbol>,
}

/// A graph in parts: nodes may stand before the weights that they use.
#[derive(Default)]
struct Parts<'a> {
    nodes: Vec<&'a [u8]>,
    weights: Vec<&'a [u8]>,
    inputs: Vec<&'a [u8]>,
    outputs: Vec<&'a [u8]>,
}

fn decoded<T: prost::Message + Default>(bytes: &[u8]) -> Found<T> {
    T::decode(bytes).map_err(|error| format!("not the format of an ONNX file: {error}"))
}

impl Walk {
    fn doubt(&mut self, model: &[u8]) -> Found<()> {
        self.next.set(ROWS + 1);
        let (mut version, mut graph) = (None::<i64>, None);
        for field in fields(model, 0)? {
            let field = field?;
            match (field.number, field.wire) {
                (7, BYTES) if graph.is_none() => graph = Some(parts(field.payload)?),
                (7, BYTES) => return Err("it has two graphs".to_owned()),
                (8, BYTES) => {
                    let set: OperatorSetIdProto = decoded(field.payload)?;
                    if !OWN_DOMAINS.contains(&set.domain.unwrap_or_default().as_bytes()) {
                        continue;
                    }
                    // Some exporters name the same one twice.
                    let given = set.version.unwrap_or_default();
                    if *version.get_or_insert(given) != given {
                        return Err("it names two versions of ONNX's operators".to_owned());
                    }
                }
                (25, BYTES) => return Err("it defines operators of its own".to_owned()),
                _ => {}
            }
        }
        let version = version.ok_or("it names no version of ONNX's operators")?;
        if !VERSIONS.contains(&version) {
            let (first, last) = (VERSIONS.start(), VERSIONS.end());
            return Err(format!(
                "it uses version {version} of ONNX's operators; known are {first} to {last}"
            ));
        }
        let graph = graph.ok_or("it has no graph")?;
        for weight in &graph.weights {
            self.weight(weight)?;
        }
        let inputs = graph.inputs.iter().map(|it| decoded(it));
        let inputs = inputs.collect::<Found<Vec<ValueInfoProto>>>()?;
        let first = |input| dims(input).and_then(|it| it.first()).and_then(DimensionProto::name);
        let rows = inputs.iter().filter_map(first).collect();
        inputs.iter().try_for_each(|input| self.input(input, &rows))?;
        for node in &graph.nodes {
            self.node(&decoded(node)?, version)?;
        }
        graph.outputs.iter().try_for_each(|output| self.output(&decoded(output)?))
    }

    fn add(&mut self, name: &str, value: Found<Value>) -> Found<()> {
        let value = value.and_then(|value| match value.rank() {
            0..=RANK_MAX => Ok(value),
            rank => Err(format!("tensor {name:?} has {rank} dimensions")),
        });
        match self.known.insert(name.to_owned(), value) {
            None => Ok(()),
            Some(_) => Err(format!("two tensors are called {name:?}")),
        }
    }

    fn weight(&mut self, bytes: &[u8]) -> Found<()> {
        let mut few = Vec::new();
        for field in fields(bytes, 0)? {
            let field = field?;
            if field.payload.len() <= PAYLOAD_MAX {
                few.extend_from_slice(field.whole);
            }
        }
        let tensor: TensorProto = decoded(&few)?;
        let name = tensor.name.clone().unwrap_or_default();
        self.add(&name, operators::weight(&tensor))
    }

    /// Adds an input; `rows` are the names of the first dimensions of all of them.
    fn input(&mut self, input: &ValueInfoProto, rows: &HashSet<&str>) -> Found<()> {
        let name = input.name.as_deref().unwrap_or_default();
        // Old files list weights among the inputs.
        if self.known.contains_key(name) {
            return Ok(());
        }
        let dims = dims(input).ok_or_else(|| format!("input {name:?} declares no shape"))?;
        let Some((DimensionProto { dim_value: None, .. }, behind)) = dims.split_first() else {
            return Err(format!("the first dimension of input {name:?} is fixed"));
        };
        let mut shape = vec![Size::open(ROWS)];
        for dim in behind {
            if dim.name().is_some_and(|it| rows.contains(it)) {
                return Err(format!("a dimension of input {name:?} has the name of the rows"));
            }
            // Sizes of one name may differ: sessions are not held to them.
            let size = dim.dim_value.and_then(|it| u64::try_from(it).ok()).map(Size::known);
            shape.push(size.unwrap_or_else(|| self.open()));
        }
        let value = Value { rows: Some(Place::plain(0)), ..Value::free(shape) };
        self.add(name, Ok(value))
    }

    fn open(&self) -> Size {
        let symbol = self.next.get();
        self.next.set(symbol.saturating_add(1));
        Size::open(symbol)
    }

    /// Follows one operator. What is not known of its outputs is told by those that need them.
    fn node(&mut self, proto: &NodeProto, version: i64) -> Found<()> {
        let first = proto.output.iter().find(|it| !it.is_empty()).map_or("", String::as_str);
        let operator = proto.op_type.as_deref().unwrap_or_default();
        let name = proto.name.as_deref().filter(|it| !it.is_empty()).unwrap_or(first);
        let told = |why: String| format!("operator {operator}, node {name:?}: {why}");
        let followed = self.follow(proto, version);
        let mut values = match followed {
            Ok(values) => values.map_err(told).map(Vec::into_iter),
            Err(of_input) => Err(of_input),
        };
        for output in &proto.output {
            let value = match &mut values {
                Ok(values) => values
                    .next()
                    .ok_or_else(|| told(format!("nothing is known of its output {output:?}"))),
                Err(why) => Err(why.clone()),
            };
            if !output.is_empty() {
                self.add(output, value)?;
            }
        }
        Ok(())
    }

    /// What an operator gives; the outer error is one of what it takes.
    fn follow(&self, proto: &NodeProto, version: i64) -> Result<Found<Vec<Value>>, String> {
        let mut inputs = Vec::with_capacity(proto.input.len());
        for name in &proto.input {
            inputs.push(match self.known.get(name) {
                _ if name.is_empty() => None,
                Some(value) => Some(value.as_ref().map_err(String::clone)?),
                None => return Err(format!("nothing is known of tensor {name:?}")),
            });
        }
        let mut names: Vec<_> = proto.attribute.iter().map(|it| it.name.as_deref()).collect();
        names.sort_unstable();
        if names.windows(2).any(|it| it.first() == it.last()) {
            return Ok(Err("it has an attribute twice".to_owned()));
        }
        let node = Node { proto, inputs, version, next: &self.next };
        Ok(match proto.domain.as_deref().unwrap_or_default() {
            own if OWN_DOMAINS.contains(&own.as_bytes()) => operators::outputs(&node),
            "ai.onnx.ml" => operators::learned(&node),
            domain => Err(format!("it is one of {domain:?}, of which nothing is known")),
        })
    }

    fn output(&self, output: &ValueInfoProto) -> Found<()> {
        let name = output.name.as_deref().unwrap_or_default();
        let known = self.known.get(name).cloned();
        let value = known.unwrap_or_else(|| Err(format!("nothing gives output {name:?}")))?;
        if value.rows == Some(Place::plain(0)) {
            return Ok(());
        }
        Err(match &value.rows {
            None => format!("output {name:?} does not have the rows of the inputs"),
            Some(Place { axis: 0, .. }) => {
                format!("output {name:?} has several elements along its first dimension for a row")
            }
            Some(Place { axis, .. }) => {
                format!("the rows of output {name:?} lie along axis {axis}")
            }
        })
    }
}

/// The dimensions of an input, where they are declared.
fn dims(input: &ValueInfoProto) -> Option<&[DimensionProto]> {
    let of_type = input.r#type.as_ref()?.tensor_type.as_ref()?;
    Some(&of_type.shape.as_ref()?.dim)
}

fn parts(graph: &[u8]) -> Found<Parts<'_>> {
    let mut parts = Parts::default();
    for field in fields(graph, 0)? {
        let field = field?;
        match (field.message_in(Message::MainGraph), field.number) {
            (Some(Message::Node), _) => parts.nodes.push(field.payload),
            (Some(Message::Weight), _) => parts.weights.push(field.payload),
            (_, 11) if field.wire == BYTES => parts.inputs.push(field.payload),
            (_, 12) if field.wire == BYTES => parts.outputs.push(field.payload),
            _ => {}
        }
    }
    Ok(parts)
}
