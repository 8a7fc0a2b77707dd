//! What each operator does to rows. One that is not here, or that is used in another way than those
//! here know, may mix them.

pub(super) use self::counts::weight;

mod counts;
mod indexing;
mod layout;
mod places;
mod products;
mod windows;

use super::node::{Node, axes};
use super::size::Size;
use super::value::{Found, Place, Value, broadcast};

/// Of each element by itself.
const UNARY: &[&str] = &[
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "BitwiseNot",
    "Cast",
    "Ceil",
    "Celu",
    "Cos",
    "Cosh",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "IsInf",
    "IsNaN",
    "LeakyRelu",
    "Log",
    "Mish",
    "Neg",
    "Not",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
];

/// Of elements at the same place, small tensors repeated.
const ELEMENTWISE: &[&str] = &[
    "Add",
    "And",
    "BitShift",
    "BitwiseAnd",
    "BitwiseOr",
    "BitwiseXor",
    "Div",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Max",
    "Mean",
    "Min",
    "Mod",
    "Mul",
    "Or",
    "PRelu",
    "Pow",
    "Sub",
    "Sum",
    "Where",
    "Xor",
];

const UNKNOWN: &str = "nothing is known of what it does to rows";

/// Inputs that are shapes and no data: of an operator, from the first to the last of them.
const OF_SHAPES: &[(&str, std::ops::RangeInclusive<usize>)] = &[
    ("ConstantOfShape", 0..=0),
    ("Expand", 1..=1),
    ("Reshape", 1..=1),
    ("Resize", 3..=3),
    ("Shape", 0..=0),
    ("Slice", 1..=2),
    ("Tile", 1..=1),
];

/// What is known of the outputs of an operator, the first ones at least.
///
/// # Errors
/// Why nothing is.
pub(super) fn outputs(node: &Node<'_>) -> Found<Vec<Value>> {
    if let Some(value) = counts::of(node)?.or(places::of(node)?) {
        return Ok(vec![value]);
    }
    let operator = node.operator();
    let is_shape =
        |at| OF_SHAPES.iter().any(|(name, range)| *name == operator && range.contains(&at));
    let mut inputs = node.inputs.iter().enumerate();
    if inputs.any(|(at, it)| !is_shape(at) && it.is_some_and(Value::counts_rows)) {
        return Err("it computes with the number of rows, or of one of them".to_owned());
    }
    let value = match operator {
        it if UNARY.contains(&it) => node.input(0)?.same(),
        it if ELEMENTWISE.contains(&it) => broadcast(&node.given(), || node.open())?,
        "CastLike" => node.input(0)?.same(),
        "Clip" => with_constants(node)?,
        "Dropout" => dropout(node)?,
        "Softmax" | "LogSoftmax" | "Hardmax" => softmax(node)?,
        "LpNormalization" => along(node, -1)?,
        "CumSum" => cum_sum(node)?,
        "LayerNormalization" | "RMSNormalization" => layer_normalization(node)?,
        "BatchNormalization" => batch_normalization(node)?,
        "InstanceNormalization" | "GroupNormalization" | "LRN" => by_first(node)?,
        "QuantizeLinear" | "DequantizeLinear" => quantize(node)?,
        "ArgMax" | "ArgMin" => arg_max(node)?,
        it if it.starts_with("Reduce") => reduce(node)?,
        "TopK" => return top_k(node),
        _ => return others(node, operator),
    };
    Ok(vec![value])
}

fn others(node: &Node<'_>, operator: &str) -> Found<Vec<Value>> {
    let value = match operator {
        "Conv" | "ConvInteger" | "QLinearConv" => windows::conv(node)?,
        "ConvTranspose" => windows::conv_transpose(node)?,
        "AveragePool" | "LpPool" | "MaxPool" => windows::pool(node)?,
        "GlobalAveragePool" | "GlobalLpPool" | "GlobalMaxPool" => windows::global_pool(node)?,
        "DepthToSpace" | "SpaceToDepth" => windows::blocks(node)?,
        "GridSample" => windows::grid_sample(node)?,
        "Pad" => windows::pad(node)?,
        "Resize" => windows::resize(node)?,
        "MatMul" | "MatMulInteger" | "QLinearMatMul" => products::mat_mul(node)?,
        "Gemm" => products::gemm(node)?,
        "Einsum" => products::einsum(node)?,
        "GRU" | "LSTM" | "RNN" => return products::recurrent(node),
        "Concat" => layout::concat(node)?,
        "Expand" => layout::expand(node)?,
        "Flatten" => layout::flatten(node)?,
        "Reshape" => layout::reshape(node)?,
        "Squeeze" => layout::squeeze(node)?,
        "Unsqueeze" => layout::unsqueeze(node)?,
        "Split" => return layout::split(node),
        "Tile" => layout::tile(node)?,
        "Transpose" => layout::transpose(node)?,
        "Constant" => counts::constant(node)?,
        "ConstantOfShape" => layout::constant_of_shape(node)?,
        "Range" => places::range(node)?,
        "Trilu" => indexing::trilu(node)?,
        "Slice" => indexing::slice(node)?,
        "Gather" => indexing::gather(node)?,
        "GatherElements" | "ScatterElements" => indexing::elements(node)?,
        _ => return Err(UNKNOWN.to_owned()),
    };
    Ok(vec![value])
}

/// What is known of the outputs of an operator of machine learning that is older than networks: on a
/// matrix of rows and their features.
///
/// # Errors
/// Why nothing is.
pub(super) fn learned(node: &Node<'_>) -> Found<Vec<Value>> {
    let x = node.input(0)?;
    x.rows_first()?;
    let [rows, _features] = &*x.shape else { return Err("its input is no matrix".to_owned()) };
    let matrix = || x.with(vec![rows.clone(), node.open()], |axis| axis);
    Ok(match node.operator() {
        "LinearRegressor" | "TreeEnsemble" | "TreeEnsembleRegressor" => vec![matrix()],
        "LinearClassifier" | "TreeEnsembleClassifier" => {
            vec![x.with(vec![rows.clone()], |axis| axis), matrix()]
        }
        "Normalizer" | "Scaler" => vec![x.same()],
        _ => return Err(UNKNOWN.to_owned()),
    })
}

/// Element by element, with settings that are the same for every row.
fn with_constants(node: &Node<'_>) -> Found<Value> {
    node.free_from(1)?;
    Ok(node.input(0)?.same())
}

fn dropout(node: &Node<'_>) -> Found<Value> {
    if let Some(training) = node.optional(2)
        && training.numbers().as_deref() != Some(&[0])
    {
        return Err("it is not known not to train".to_owned());
    }
    with_constants(node)
}

fn softmax(node: &Node<'_>) -> Found<Value> {
    if node.version >= 13 {
        return along(node, -1);
    }
    // Older ones take all axes from this one on as one.
    let x = node.input(0)?;
    let first = node.axis(1, x.rank())?;
    (first..x.rank()).try_for_each(|axis| x.apart_from(axis))?;
    Ok(x.same())
}

fn along(node: &Node<'_>, default: i64) -> Found<Value> {
    let x = node.input(0)?;
    x.apart_from(node.axis(default, x.rank())?)?;
    node.free_from(1)?;
    Ok(x.same())
}

fn cum_sum(node: &Node<'_>) -> Found<Value> {
    let x = node.input(0)?;
    let along = node.input(1)?.numbers().ok_or("its axis is not known")?;
    axes(&along, x.rank())?.into_iter().try_for_each(|axis| x.apart_from(axis))?;
    Ok(x.same())
}

fn layer_normalization(node: &Node<'_>) -> Found<Value> {
    let x = node.input(0)?;
    let first = node.axis(-1, x.rank())?;
    (first..x.rank()).try_for_each(|axis| x.apart_from(axis))?;
    node.free_from(1)?;
    let with_weights = broadcast(&node.given(), || node.open())?;
    if with_weights.rank() > x.rank() {
        return Err("its weights have more dimensions than its input".to_owned());
    }
    Ok(x.same())
}

fn batch_normalization(node: &Node<'_>) -> Found<Value> {
    // Before version 14, more outputs than one meant training.
    if node.int("training_mode", 0) != 0 || node.outputs() > 1 {
        return Err("it trains: it normalises over the rows".to_owned());
    }
    by_first(node)
}

/// Something that works on each slice along the first axis, with weights.
fn by_first(node: &Node<'_>) -> Found<Value> {
    let x = node.input(0)?;
    x.rows_first()?;
    if x.rank() < 2 {
        return Err("its input has no channels".to_owned());
    }
    node.free_from(1)?;
    Ok(x.same())
}

fn quantize(node: &Node<'_>) -> Found<Value> {
    let x = node.input(0)?;
    node.free_from(1)?;
    if node.int("block_size", 0) != 0 {
        return Err("it works in blocks".to_owned());
    }
    if !node.input(1)?.shape.iter().all(|it| it.is(1)) {
        x.apart_from(node.axis(1, x.rank())?)?;
    }
    Ok(x.same())
}

fn arg_max(node: &Node<'_>) -> Found<Value> {
    let x = node.input(0)?;
    let axis = node.axis(0, x.rank())?;
    reduced(x, &[axis], node.int("keepdims", 1) != 0)
}

fn reduce(node: &Node<'_>) -> Found<Value> {
    const KNOWN: [&str; 10] =
        ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"];
    let name = node.operator().trim_start_matches("Reduce");
    if !KNOWN.contains(&name) {
        return Err(UNKNOWN.to_owned());
    }
    let x = node.input(0)?;
    let all = || (0..x.rank()).collect();
    let given = node.list("axes", 1)?.filter(|axes| !axes.is_empty());
    let axes = match given {
        Some(given) => axes(&given, x.rank())?,
        None if node.int("noop_with_empty_axes", 0) != 0 => Vec::new(),
        None => all(),
    };
    reduced(x, &axes, node.int("keepdims", 1) != 0)
}

/// Without `axes`, or with 1 in their place.
fn reduced(x: &Value, axes: &[usize], keep: bool) -> Found<Value> {
    axes.iter().try_for_each(|&axis| x.apart_from(axis))?;
    let goes = |axis: &usize| axes.contains(axis);
    let sizes = x.shape.iter().enumerate();
    if keep {
        let shape = sizes.map(|(at, it)| if goes(&at) { Size::ONE } else { it.clone() });
        return Ok(x.with(shape.collect(), |axis| axis));
    }
    let shape = sizes.filter(|(at, _)| !goes(at)).map(|(_, it)| it.clone());
    Ok(x.with(shape.collect(), |axis| axis - (0..axis).filter(|it| goes(it)).count()))
}

fn top_k(node: &Node<'_>) -> Found<Vec<Value>> {
    let x = node.input(0)?;
    node.free_from(1)?;
    let axis = node.axis(-1, x.rank())?;
    x.apart_from(axis)?;
    let mut shape = x.shape.clone();
    if let Some(size) = shape.get_mut(axis) {
        let count = node.input(1)?.ints().and_then(<[_]>::first).and_then(|it| it.size());
        *size = count.unwrap_or_else(|| node.open());
    }
    let values = x.with(shape, |axis| axis);
    Ok(vec![values.clone(), values])
}

/// Rows along `axis`, which is of rows alone.
fn rows_along(shape: Vec<Size>, axis: usize) -> Value {
    Value { rows: Some(Place::plain(axis)), ..Value::free(shape) }
}
