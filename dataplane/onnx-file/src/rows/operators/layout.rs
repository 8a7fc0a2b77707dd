//! Operators that move elements and compute nothing.

use super::super::node::{Node, axes};
use super::super::size::{Int, ROWS, Size};
use super::super::value::{Found, Place, Value, broadcast};
use super::rows_along;

const TOO_MUCH: &str = "its sizes cannot be counted";
const NEGATIVE: &str = "it names a negative size";

/// The sizes that integers of a shape name; an unknown one is a size of its own.
fn sizes(node: &Node<'_>, ints: &[Int]) -> Found<Vec<Size>> {
    let size = |int: &Int| match int {
        Int::Any => Ok(node.open()),
        known => known.size().ok_or_else(|| NEGATIVE.to_owned()),
    };
    ints.iter().map(size).collect()
}

fn shape_at<'a>(node: &'a Node<'_>, input: usize) -> Found<&'a [Int]> {
    node.input(input)?.ints().ok_or_else(|| "the shape that it makes is not known".to_owned())
}

pub(super) fn reshape(node: &Node<'_>) -> Found<Value> {
    let (x, target) = (node.input(0)?, shape_at(node, 1)?);
    let zero_is_zero = node.int("allowzero", 0) != 0;
    let mut inferred = None;
    let mut shape = Vec::with_capacity(target.len());
    for (at, int) in target.iter().enumerate() {
        shape.push(match int {
            Int::Known(0) if !zero_is_zero => {
                x.shape.get(at).cloned().ok_or("it copies a size that its input does not have")?
            }
            Int::Known(-1) if inferred.is_none() => {
                inferred = Some(at);
                Size::ONE
            }
            Int::Known(_) => int.size().ok_or(NEGATIVE)?,
            Int::Size(size) => size.clone(),
            // It may be 0, and copy how many rows there are.
            Int::Any if x.axis() == Some(at) && !zero_is_zero => {
                return Err("it computes the dimension where the rows lie".to_owned());
            }
            Int::Any => node.open(),
        });
    }
    if let Some(at) = inferred {
        let others = Size::product(&shape).ok_or(TOO_MUCH)?;
        let all = Size::product(&x.shape).ok_or(TOO_MUCH)?;
        let size = match all.over(&others) {
            Some(size) => size,
            // What is left has none.
            None if others.has_rows() == all.has_rows() => node.open(),
            None => return Err("the size that it infers is not known to be the rows".to_owned()),
        };
        shape.splice(at..=at, [size]);
    }
    x.in_shape(shape)
}

pub(super) fn flatten(node: &Node<'_>) -> Found<Value> {
    let x = node.input(0)?;
    // One behind the last axis may be named too.
    let axis = match node.int("axis", 1) {
        axis if axis < 0 => node.axis(1, x.rank()).ok(),
        axis => usize::try_from(axis).ok(),
    };
    let parts = axis.and_then(|axis| x.shape.split_at_checked(axis));
    let (front, behind) = parts.ok_or("it names an axis that its input does not have")?;
    let product = |sizes: &[Size]| Size::product(sizes).ok_or_else(|| TOO_MUCH.to_owned());
    x.in_shape(vec![product(front)?, product(behind)?])
}

pub(super) fn squeeze(node: &Node<'_>) -> Found<Value> {
    let x = node.input(0)?;
    // Without axes it would take every dimension of 1: the rows too, if there is but one.
    let given = node.list("axes", 1)?.ok_or("it does not say which axes it takes away")?;
    let gone = axes(&given, x.rank())?;
    gone.iter().try_for_each(|&axis| x.apart_from(axis))?;
    super::reduced(x, &gone, false)
}

pub(super) fn unsqueeze(node: &Node<'_>) -> Found<Value> {
    let x = node.input(0)?;
    let given = node.list("axes", 1)?.ok_or("its axes are missing")?;
    let rank = x.rank().saturating_add(given.len());
    let new = axes(&given, rank)?;
    let old: Vec<usize> = (0..rank).filter(|at| !new.contains(at)).collect();
    if old.len() != x.rank() {
        return Err("it names an axis twice".to_owned());
    }
    let mut sizes = x.shape.iter().cloned();
    let size = |at| if new.contains(&at) { Size::ONE } else { sizes.next().unwrap_or(Size::ONE) };
    let shape = (0..rank).map(size).collect();
    Ok(x.with(shape, |axis| old.get(axis).copied().unwrap_or(axis)))
}

pub(super) fn transpose(node: &Node<'_>) -> Found<Value> {
    let x = node.input(0)?;
    let order = match node.attribute_ints("perm") {
        None => (0..x.rank()).rev().collect(),
        Some(given) => axes(given, x.rank())?,
    };
    if order.len() != x.rank() || (0..x.rank()).any(|axis| !order.contains(&axis)) {
        return Err("its order is none of all axes".to_owned());
    }
    let shape = order.iter().filter_map(|&axis| x.shape.get(axis).cloned()).collect();
    Ok(x.with(shape, |axis| order.iter().position(|&it| it == axis).unwrap_or(axis)))
}

pub(super) fn concat(node: &Node<'_>) -> Found<Value> {
    let all = node.given();
    let first = node.input(0)?;
    let axis = node.axis(1, first.rank())?;
    let mut total = Some(Size::known(0));
    for value in &all {
        value.apart_from(axis)?;
        if value.rows != first.rows || value.rank() != first.rank() {
            return Err("its inputs do not have their rows along the same axis".to_owned());
        }
        let size = value.shape.get(axis).and_then(Size::as_known);
        total = total.and_then(|it| Some(Size::known(it.as_known()?.checked_add(size?)?)));
    }
    let mut shape = first.shape.clone();
    if all.len() > 1
        && let Some(size) = shape.get_mut(axis)
    {
        *size = total.unwrap_or_else(|| node.open());
    }
    Ok(first.with(shape, |axis| axis))
}

pub(super) fn split(node: &Node<'_>) -> Found<Vec<Value>> {
    let x = node.input(0)?;
    let axis = node.axis(0, x.rank())?;
    x.apart_from(axis)?;
    node.free_from(1)?;
    let count = node.proto.output.len();
    let given = node.list("split", 1).ok().flatten().filter(|it| it.len() == count);
    let size = x.shape.get(axis).and_then(Size::as_known);
    let equal = size.and_then(|it| Some((it, u64::try_from(count).ok()?)));
    let equal = equal.filter(|(size, count)| size.is_multiple_of(*count));
    let has_sizes = node.optional(1).is_some() || node.attribute("split").is_some();
    let part = |at: usize| {
        let given = given.as_ref().and_then(|it| u64::try_from(*it.get(at)?).ok());
        let equal = equal.filter(|_| !has_sizes).map(|(size, count)| size / count);
        given.or(equal).map(Size::known)
    };
    let value = |at| {
        let mut shape = x.shape.clone();
        if let Some(size) = shape.get_mut(axis) {
            *size = part(at).unwrap_or_else(|| node.open());
        }
        x.with(shape, |axis| axis)
    };
    Ok((0..count).map(value).collect())
}

pub(super) fn expand(node: &Node<'_>) -> Found<Value> {
    let x = node.input(0)?;
    let shape = sizes(node, shape_at(node, 1)?)?;
    let mut counted = shape.iter().enumerate().filter(|(_, it)| it.has_rows());
    let target = match (counted.next(), counted.next()) {
        (None, _) => Value::free(shape),
        (Some((axis, size)), None) => {
            // Every element along the rows is the same before, or there are as many already.
            let rows = x.rows.clone().filter(|it| {
                it.axis + shape.len() == axis + x.rank() && x.shape.get(it.axis) == Some(size)
            });
            match rows {
                Some(rows) => Value { rows: Some(Place { axis, ..rows }), ..Value::free(shape) },
                None if *size == Size::open(ROWS) => rows_along(shape, axis),
                None => return Err("it makes more than the rows".to_owned()),
            }
        }
        (Some(_), Some(_)) => return Err("it has the rows in two dimensions".to_owned()),
    };
    broadcast(&[x, &target], || node.open())
}

pub(super) fn tile(node: &Node<'_>) -> Found<Value> {
    let x = node.input(0)?;
    let repeats = shape_at(node, 1)?;
    if repeats.len() != x.rank() {
        return Err("it does not say how often each axis is repeated".to_owned());
    }
    let mut result = x.same();
    for (axis, (times, size)) in sizes(node, repeats)?.iter().zip(&mut result.shape).enumerate() {
        if times.is(1) {
            continue;
        }
        x.apart_from(axis)?;
        if times.has_rows() {
            if *times != Size::open(ROWS) || result.rows.is_some() {
                return Err("it makes more than the rows".to_owned());
            }
            let inner = size.clone();
            result.rows = Some(Place { axis, outer: Size::ONE, inner });
        }
        *size = size.times(times).ok_or(TOO_MUCH)?;
    }
    Ok(result)
}

pub(super) fn constant_of_shape(node: &Node<'_>) -> Found<Value> {
    let shape = sizes(node, shape_at(node, 0)?)?;
    let mut counted = shape.iter().enumerate().filter(|(_, it)| it.has_rows());
    match (counted.next(), counted.next()) {
        (None, _) => Ok(Value::free(shape)),
        (Some((axis, size)), None) if *size == Size::open(ROWS) => Ok(rows_along(shape, axis)),
        _ => Err("it makes more than the rows".to_owned()),
    }
}
