//! Small integers, of which shapes are made.

use bytes::Buf;

use super::super::node::{Node, axis};
use super::super::size::{Int, Size};
use super::super::value::{Content, Found, Value};
use crate::{FLOAT, INT64, TensorProto};

/// Most elements of a tensor that are looked at: more than a shape has dimensions.
const ELEMENTS_MAX: usize = 64;

/// `TensorProto.DataType.INT32`.
const INT32: i32 = 6;
/// `TensorProto.DataType.BOOL`.
const BOOL: i32 = 9;

/// What an operator makes of the integers of shapes; `None` where its inputs are none of these.
///
/// # Errors
/// That the result depends on how many rows there are in a way that nobody follows.
pub(super) fn of(node: &Node<'_>) -> Found<Option<Value>> {
    match node.operator() {
        "Shape" => return shape(node).map(Some),
        "Size" => {
            let all =
                Size::product(&node.input(0)?.shape).ok_or("there is too much of its input")?;
            return Ok(Some(scalar(Int::of(&all))));
        }
        _ => {}
    }
    let inputs = node.given();
    if !inputs.iter().any(|it| it.ints().is_some()) {
        return Ok(None);
    }
    let lists: Option<Vec<_>> = inputs.iter().map(|it| list(it)).collect();
    let (Some(lists), first) = (lists, node.input(0)?) else { return Ok(None) };
    let rank = inputs.iter().map(|it| it.rank()).max().unwrap_or_default();
    let of_each = |of: &dyn Fn(&[&Int]) -> Option<Int>| elementwise(&lists, rank, of);
    Ok(match node.operator() {
        "Identity" => Some(first.clone()),
        "Cast" => cast(node, first),
        "Add" => of_each(&|it| it.first()?.plus(it.get(1)?))?,
        "Sub" => of_each(&|it| it.first()?.minus(it.get(1)?))?,
        "Mul" => of_each(&|it| it.first()?.times(it.get(1)?))?,
        "Div" => of_each(&|it| it.first()?.over(it.get(1)?))?,
        "Mod" => of_each(&|it| remainder(it.first()?, it.get(1)?))?,
        "Equal" => of_each(&|it| it.first()?.equals(it.get(1)?))?,
        "Where" => of_each(&|it| it.get(1)?.or_else(it.get(2)?, it.first()?))?,
        "Concat" if inputs.iter().all(|it| it.rank() == 1) => concat(lists),
        "Gather" => gather(node, first),
        "Slice" => slice(node, first),
        "ReduceProd" => product(node, first)?,
        "Reshape" | "Squeeze" | "Unsqueeze" => reshaped(node, first),
        "ConstantOfShape" => filled(node, first),
        _ => None,
    })
}

fn remainder(of: &Int, by: &Int) -> Option<Int> {
    match (of.as_known(), by.as_known()) {
        (Some(of @ 0..), Some(by @ 1..)) => Some(Int::Known(of % by)),
        _ => (!of.has_rows() && !by.has_rows()).then_some(Int::Any),
    }
}

/// The elements of a scalar or a short list. Those that are not known are the same however many
/// rows there are.
fn list(value: &Value) -> Option<Vec<Int>> {
    if value.rank() > 1 || value.rows.is_some() {
        return None;
    }
    if let Some(ints) = value.ints() {
        return Some(ints.to_vec());
    }
    let count = value.shape.first().map_or(Some(1), Size::as_known)?;
    let count = usize::try_from(count).ok().filter(|&it| it <= ELEMENTS_MAX)?;
    Some(vec![Int::Any; count])
}

fn scalar(int: Int) -> Value {
    Value { shape: Vec::new(), content: Content::Ints(vec![int]), rows: None }
}

fn shape(node: &Node<'_>) -> Found<Value> {
    let shape = &node.input(0)?.shape;
    let rank = i64::try_from(shape.len()).unwrap_or(i64::MAX);
    let at = |name: &str, default: i64| {
        let given = node.int(name, default);
        let from_front = if given < 0 { given.saturating_add(rank) } else { given };
        usize::try_from(from_front.clamp(0, rank)).unwrap_or_default()
    };
    let sizes = shape.get(at("start", 0)..at("end", rank)).unwrap_or_default();
    Ok(Value::list(sizes.iter().map(Int::of).collect()))
}

/// Whether a cast is to integers in which sizes are counted.
pub(super) fn is_integer(node: &Node<'_>) -> bool {
    matches!(i32::try_from(node.int("to", 0)), Ok(INT32 | INT64))
}

fn cast(node: &Node<'_>, x: &Value) -> Option<Value> {
    let is_number = is_integer(node);
    let stays_bool = node.int("to", 0) == i64::from(BOOL)
        && x.numbers().is_some_and(|all| all.iter().all(|it| matches!(it, 0 | 1)));
    (is_number || stays_bool).then(|| x.clone())
}

/// Lists of one length; scalars and lists of one element are repeated.
fn elementwise(
    lists: &[Vec<Int>],
    rank: usize,
    of: &dyn Fn(&[&Int]) -> Option<Int>,
) -> Found<Option<Value>> {
    let count = lists.iter().map(Vec::len).find(|&it| it != 1).unwrap_or(1);
    if lists.iter().any(|it| it.len() != 1 && it.len() != count) {
        return Ok(None);
    }
    let all = (0..count).map(|at| {
        let at: Vec<&Int> = lists.iter().filter_map(|it| it.get(at).or(it.first())).collect();
        of(&at).ok_or_else(|| "it computes with the number of rows".to_owned())
    });
    let ints = all.collect::<Found<Vec<Int>>>()?;
    let list = Value::list(ints);
    Ok(Some(if rank == 0 { Value { shape: Vec::new(), ..list } } else { list }))
}

fn concat(lists: Vec<Vec<Int>>) -> Option<Value> {
    let all = lists.concat();
    (all.len() <= ELEMENTS_MAX).then(|| Value::list(all))
}

fn gather(node: &Node<'_>, x: &Value) -> Option<Value> {
    let (all, indices) = (x.ints()?, node.optional(1)?);
    let picked = indices.numbers()?.into_iter().map(|it| {
        let at = axis(it, all.len()).ok()?;
        all.get(at).cloned()
    });
    let picked = picked.collect::<Option<Vec<_>>>()?;
    if x.rank() != 1 {
        return None;
    }
    Some(Value { shape: indices.shape.clone(), content: Content::Ints(picked), rows: None })
}

fn slice(node: &Node<'_>, x: &Value) -> Option<Value> {
    let one = |attribute: &str, at: usize, default: i64| match node.list(attribute, at).ok()? {
        None => Some(default),
        Some(given) => given.first().copied().filter(|_| given.len() == 1),
    };
    let all = x.ints()?;
    let rank = i64::try_from(all.len()).ok()?;
    let (start, end) = (one("starts", 1, 0)?, one("ends", 2, rank)?);
    let known = matches!(one("axes", 3, 0)?, 0 | -1) && one("steps", 4, 1)? == 1;
    let place = |at: i64| {
        let at = if at < 0 { at.saturating_add(rank) } else { at };
        usize::try_from(at.clamp(0, rank)).ok()
    };
    let part = all.get(place(start)?..place(end)?).unwrap_or_default();
    (known && x.rank() == 1).then(|| Value::list(part.to_vec()))
}

fn product(node: &Node<'_>, x: &Value) -> Found<Option<Value>> {
    let along = node.list("axes", 1)?.unwrap_or_default();
    if x.rank() != 1 || !matches!(&*along, [] | [0] | [-1]) {
        return Ok(None);
    }
    let mut all = x.ints().unwrap_or_default().iter();
    let product = all.try_fold(Int::Known(1), |all, it| all.times(it));
    let product = product.ok_or("it computes with the number of rows")?;
    let keeps = node.int("keepdims", 1) != 0;
    Ok(Some(if keeps { Value::list(vec![product]) } else { scalar(product) }))
}

/// A scalar as a list of one, or the other way round; or a list as it is.
fn reshaped(node: &Node<'_>, x: &Value) -> Option<Value> {
    let ints = x.ints()?.to_vec();
    let list = match node.operator() {
        "Squeeze" => false,
        "Unsqueeze" => x.rank() == 0,
        _ => {
            let target = node.optional(1)?.numbers()?;
            let is_list = |&it: &i64| it == -1 || usize::try_from(it) == Ok(ints.len());
            match &*target {
                [] => false,
                [one] if is_list(one) => true,
                _ => return None,
            }
        }
    };
    match (list, &*ints) {
        (true, _) => Some(Value::list(ints)),
        (false, [one]) if node.operator() != "Unsqueeze" => Some(scalar(one.clone())),
        _ => None,
    }
}

fn filled(node: &Node<'_>, x: &Value) -> Option<Value> {
    let value = match node.attribute("value") {
        None => return None,
        Some(it) => content(it.t.as_ref()?),
    };
    let (Content::Ints(one), [count]) = (value, &*x.numbers()?) else { return None };
    let count = usize::try_from(*count).ok().filter(|&it| it <= ELEMENTS_MAX)?;
    Some(Value::list(vec![one.first()?.clone(); count]))
}

pub(super) fn constant(node: &Node<'_>) -> Found<Value> {
    if let Some(tensor) = node.attribute("value").and_then(|it| it.t.as_ref()) {
        return weight(tensor);
    }
    let known = |ints: &[i64]| ints.iter().copied().map(Int::Known).collect();
    if let Some(one) = node.attribute("value_int") {
        return Ok(scalar(Int::Known(one.i.unwrap_or_default())));
    }
    if let Some(all) = node.attribute_ints("value_ints") {
        return Ok(Value::list(known(all)));
    }
    if node.attribute("value_float").is_some() {
        return Ok(Value::free(Vec::new()));
    }
    if let Some(all) = node.attribute("value_floats") {
        let shape = vec![Size::known(all.floats.len() as u64)];
        let content = Content::Floats(all.floats.clone());
        return Ok(Value { shape, content, rows: None });
    }
    Err("it holds what is no tensor of numbers".to_owned())
}

/// A tensor of the file.
pub(in super::super) fn weight(tensor: &TensorProto) -> Found<Value> {
    let dims = tensor.dims.iter().map(|&dim| u64::try_from(dim).ok().map(Size::known));
    let shape = dims.collect::<Option<Vec<_>>>().ok_or("a weight has a negative size")?;
    Ok(Value {
        content: if shape.len() > 1 { Content::Unknown } else { content(tensor) },
        shape,
        rows: None,
    })
}

/// The elements, where they are few and lie in the tensor as they should.
fn content(tensor: &TensorProto) -> Content {
    let count = tensor.dims.first().map_or(Some(1), |&it| usize::try_from(it).ok());
    let Some(count) = count.filter(|&it| tensor.dims.len() <= 1 && it <= ELEMENTS_MAX) else {
        return Content::Unknown;
    };
    let raw = tensor.raw_data.clone().unwrap_or_default();
    let read = |bytes: usize| (0..raw.len() / bytes).map(move |at| at * bytes);
    let part = |at: usize, bytes: usize| raw.get(at..at + bytes).unwrap_or_default();
    let signed = |bytes: usize| -> Vec<i64> {
        read(bytes).map(|at| part(at, bytes).get_int_le(bytes)).collect()
    };
    let wide = || tensor.int32_data.iter().copied().map(i64::from).collect();
    let is_raw = !raw.is_empty();
    let ints = match tensor.data_type.unwrap_or_default() {
        INT64 if is_raw => signed(8),
        INT64 => tensor.int64_data.clone(),
        INT32 if is_raw => signed(4),
        BOOL if is_raw => raw.iter().map(|&it| i64::from(it != 0)).collect(),
        INT32 | BOOL => wide(),
        FLOAT => {
            let floats = if is_raw {
                read(4).map(|at| part(at, 4).get_f32_le()).collect()
            } else {
                tensor.float_data.clone()
            };
            return if floats.len() == count { Content::Floats(floats) } else { Content::Unknown };
        }
        _ => return Content::Unknown,
    };
    if ints.len() == count {
        Content::Ints(ints.into_iter().map(Int::Known).collect())
    } else {
        Content::Unknown
    }
}
