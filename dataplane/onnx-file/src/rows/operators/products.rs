//! Products of matrices, and what is made of them.

use super::super::node::Node;
use super::super::size::Size;
use super::super::value::{Found, Place, Value, broadcast};

const CONTRACTED: &str = "it adds up along the rows";

pub(super) fn mat_mul(node: &Node<'_>) -> Found<Value> {
    let (a, b) = match node.operator() {
        "QLinearMatMul" => {
            // Scales and zero points: one for all.
            for at in [1, 2, 4, 5, 6, 7] {
                one_for_all(node, at)?;
            }
            (node.input(0)?, node.input(3)?)
        }
        _ => {
            [2, 3].into_iter().try_for_each(|at| one_for_all(node, at))?;
            (node.input(0)?, node.input(1)?)
        }
    };
    product(a, b, || node.open())
}

fn one_for_all(node: &Node<'_>, at: usize) -> Found<()> {
    match node.optional(at) {
        Some(it) if it.rows.is_some() || !it.shape.iter().all(|it| it.is(1)) => {
            Err(format!("its input {at} is not one number for all rows"))
        }
        _ => Ok(()),
    }
}

fn product(a: &Value, b: &Value, open: impl FnMut() -> Size) -> Found<Value> {
    if a.rank() < 2 || b.rank() < 2 && b.rows.is_some() || b.rank() < 1 {
        return Err("one of its inputs is no matrix".to_owned());
    }
    let last = a.rank() - 1;
    if a.axis() == Some(last) || b.axis().is_some_and(|axis| axis + 2 == b.rank()) {
        return Err(CONTRACTED.to_owned());
    }
    if b.rank() == 1 {
        return super::reduced(a, &[last], false);
    }
    // As if element by element, with 1 in the place of what is added up.
    let without = |value: &Value, axis: usize| {
        let mut shape = value.shape.clone();
        if let Some(size) = shape.get_mut(axis) {
            *size = Size::ONE;
        }
        value.with(shape, |axis| axis)
    };
    broadcast(&[&without(a, last), &without(b, b.rank() - 2)], open)
}

pub(super) fn gemm(node: &Node<'_>) -> Found<Value> {
    let turned = |at: usize, name: &str| {
        let x = node.input(at)?;
        let [first, second] = &*x.shape else { return Err("its input is no matrix".to_owned()) };
        Ok(match node.int(name, 0) {
            0 => x.clone(),
            _ => x.with(vec![second.clone(), first.clone()], |axis| 1 - axis.min(1)),
        })
    };
    let all = product(&turned(0, "transA")?, &turned(1, "transB")?, || node.open())?;
    let Some(bias) = node.optional(2) else { return Ok(all) };
    if bias.rank() > 2 {
        return Err("its bias has more dimensions than its result".to_owned());
    }
    broadcast(&[&all, bias], || node.open())
}

/// Sums of products, axes named by letters. The rows are one letter, which stays.
pub(super) fn einsum(node: &Node<'_>) -> Found<Value> {
    let equation = node.text("equation", "");
    let letters: Vec<u8> =
        equation.iter().copied().filter(|it| !it.is_ascii_whitespace()).collect();
    let arrow = letters.windows(2).position(|it| it == b"->");
    let (inputs, result) = arrow
        .and_then(|at| Some((letters.get(..at)?, letters.get(at + 2..)?)))
        .ok_or("its equation does not name its result")?;
    let terms: Vec<&[u8]> = inputs.split(|&it| it == b',').collect();
    let twice = |term: &[u8]| {
        let mut letters = term.iter().enumerate();
        letters.any(|(at, it)| term.iter().take(at).any(|before| before == it))
    };
    let plain = |term: &&[u8]| term.iter().all(u8::is_ascii_alphabetic) && !twice(term);
    let all = node.given();
    let fits = terms.iter().zip(&all).all(|(term, value)| term.len() == value.rank());
    if !terms.iter().chain([&result]).all(plain) || terms.len() != all.len() || !fits {
        return Err("its equation is none of plain letters".to_owned());
    }
    let of_rows = |(term, value): (&&[u8], &&Value)| {
        let rows = value.rows.clone()?;
        Some((*term.get(rows.axis)?, rows))
    };
    let rows = terms.iter().zip(&all).find_map(of_rows);
    let size = |letter: &u8| {
        let mut named = terms
            .iter()
            .zip(&all)
            .filter_map(|(term, value)| value.shape.get(term.iter().position(|it| it == letter)?));
        named.next().cloned().unwrap_or(Size::ONE)
    };
    let shape = result.iter().map(size).collect();
    let Some((letter, rows)) = rows else { return Ok(Value::free(shape)) };
    for (term, value) in terms.iter().zip(&all) {
        let own = value.rows.as_ref();
        let has = term.iter().position(|&it| it == letter);
        let same = own.is_some_and(|own| {
            (&own.outer, &own.inner) == (&rows.outer, &rows.inner) && has == Some(own.axis)
        });
        if !(same || own.is_none() && has.is_none()) {
            return Err("its inputs do not have their rows along the same letter".to_owned());
        }
    }
    let axis = result.iter().position(|&it| it == letter).ok_or(CONTRACTED)?;
    Ok(Value { rows: Some(Place { axis, ..rows }), ..Value::free(shape) })
}

/// Steps of `[time, rows, values]`.
pub(super) fn recurrent(node: &Node<'_>) -> Found<Vec<Value>> {
    let x = node.input(0)?;
    let [time, rows, _] = &*x.shape else {
        return Err("its input has not 3 dimensions".to_owned());
    };
    if node.int("layout", 0) != 0 || x.axis() != Some(1) {
        return Err("its rows do not lie along axis 1".to_owned());
    }
    for (at, value) in node.inputs.iter().enumerate().skip(1) {
        let Some(value) = value else { continue };
        // Lengths of the rows, states before the first step; weights.
        let wanted = match at {
            4 => Some(0),
            5 | 6 => Some(1),
            _ => None,
        };
        let place = wanted.and_then(|axis| Some(Place { axis, ..x.rows.clone()? }));
        if value.rows != place {
            return Err(format!("its input {at} is not of the same rows"));
        }
    }
    let recurrence = &node.input(2)?.shape;
    let [directions, _, hidden] = &**recurrence else {
        return Err("its weights have not 3 dimensions".to_owned());
    };
    let state = x.with(vec![directions.clone(), rows.clone(), hidden.clone()], |axis| axis);
    let shape = vec![time.clone(), directions.clone(), rows.clone(), hidden.clone()];
    Ok(vec![x.with(shape, |_rows| 2), state.clone(), state])
}
