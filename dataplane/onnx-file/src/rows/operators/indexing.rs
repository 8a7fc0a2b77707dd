//! Operators that choose among elements.

use super::super::node::{Node, axes};
use super::super::size::{Int, Size};
use super::super::value::{Found, Value};

/// Ends from here on are behind every tensor: exporters write this, or the largest number of 32 or
/// 64 bits.
const BEHIND: i64 = 1_000_000_000;

pub(super) fn trilu(node: &Node<'_>) -> Found<Value> {
    let x = node.input(0)?;
    node.free_from(1)?;
    let rank = x.rank();
    (rank.saturating_sub(2)..rank).try_for_each(|axis| x.apart_from(axis))?;
    Ok(x.same())
}

/// The range of one axis.
struct Part {
    axis: usize,
    start: Int,
    end: Int,
    step: Option<i64>,
}

pub(super) fn slice(node: &Node<'_>) -> Found<Value> {
    let x = node.input(0)?;
    node.free_from(1)?;
    let mut shape = x.shape.clone();
    for Part { axis, start, end, step } in parts(node, x)? {
        let Some(size) = shape.get_mut(axis) else { continue };
        let is_whole = start == Int::Known(0)
            && step == Some(1)
            && (end.as_known().is_some_and(|it| it >= BEHIND) || end == Int::of(size));
        if is_whole {
            continue;
        }
        x.apart_from(axis)?;
        if start.has_rows() || end.has_rows() {
            return Err("what it takes depends on how many rows there are".to_owned());
        }
        *size = taken(size, &start, &end, step).unwrap_or_else(|| node.open());
    }
    Ok(x.with(shape, |axis| axis))
}

fn parts(node: &Node<'_>, x: &Value) -> Found<Vec<Part>> {
    let ints = |attribute: &str, input: usize| match node.optional(input) {
        Some(value) => {
            let count = value.shape.first().and_then(Size::as_known).filter(|_| value.rank() == 1);
            let count = count.and_then(|it| usize::try_from(it).ok()).filter(|&it| it <= x.rank());
            let unknown = |count| vec![Int::Any; count];
            value.ints().map(<[Int]>::to_vec).or(count.map(unknown))
        }
        None => {
            let given = node.attribute_ints(attribute)?;
            Some(given.iter().copied().map(Int::Known).collect())
        }
    };
    let given = || Some((ints("starts", 1)?, ints("ends", 2)?));
    let (starts, ends) = given().ok_or("how much it takes is not known")?;
    let along = match node.list("axes", 3)? {
        Some(given) => axes(&given, x.rank())?,
        None => (0..starts.len()).collect(),
    };
    let steps = match node.optional(4) {
        None => vec![Some(1); starts.len()],
        Some(given) => {
            let known = given.ints().map(|all| all.iter().map(Int::as_known).collect());
            known.unwrap_or_else(|| vec![None; starts.len()])
        }
    };
    let lengths = [ends.len(), along.len(), steps.len()];
    if lengths.iter().any(|&it| it != starts.len()) {
        return Err("its starts, ends, axes and steps are not as many".to_owned());
    }
    if (0..along.len()).any(|at| along.iter().take(at).any(|it| along.get(at) == Some(it))) {
        return Err("it names an axis twice".to_owned());
    }
    let all = starts.into_iter().zip(ends).zip(along).zip(steps);
    Ok(all.map(|(((start, end), axis), step)| Part { axis, start, end, step }).collect())
}

/// How many elements that takes, where all of it is known.
fn taken(size: &Size, start: &Int, end: &Int, step: Option<i64>) -> Option<Size> {
    let size = i64::try_from(size.as_known()?).ok()?;
    let step = step.filter(|&it| it > 0)?;
    let place = |it: &Int| {
        let at = it.as_known()?;
        Some(if at < 0 { at.saturating_add(size) } else { at }.clamp(0, size))
    };
    let long = place(end)?.checked_sub(place(start)?)?.max(0);
    u64::try_from(long).ok().map(|long| Size::known(long.div_ceil(step.unsigned_abs())))
}

pub(super) fn gather(node: &Node<'_>) -> Found<Value> {
    let (x, indices) = (node.input(0)?, node.input(1)?);
    let axis = node.axis(0, x.rank())?;
    x.apart_from(axis)?;
    if x.rows.is_some() && indices.rows.is_some() {
        return Err("it takes what a row says out of other rows".to_owned());
    }
    let front = x.shape.iter().take(axis);
    let behind = x.shape.iter().skip(axis.saturating_add(1));
    let shape: Vec<Size> = front.chain(&indices.shape).chain(behind).cloned().collect();
    if indices.rows.is_some() {
        return Ok(indices.with(shape, |of_index| axis + of_index));
    }
    let added = indices.rank();
    Ok(x.with(shape, |of_data| if of_data < axis { of_data } else { of_data + added - 1 }))
}

/// Elements of the same row, by tensors of the same rows; on another axis.
pub(super) fn elements(node: &Node<'_>) -> Found<Value> {
    let (x, indices) = (node.input(0)?, node.input(1)?);
    let all = node.given();
    if all.iter().any(|it| it.rows != x.rows || it.rank() != x.rank()) {
        return Err("its inputs do not have their rows along the same axis".to_owned());
    }
    x.apart_from(node.axis(0, x.rank())?)?;
    Ok(if node.operator() == "GatherElements" { indices.same() } else { x.same() })
}
