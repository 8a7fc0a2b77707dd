//! Numbers of rows, by which exporters look up what belongs to each: `x[range(rows)]`.

use super::super::node::Node;
use super::super::size::{Int, ROWS, Size};
use super::super::value::{Content, Found, Place, Value, broadcast};
use super::{counts, layout, rows_along};

/// What an operator makes of the numbers of rows; `None` where its inputs are none.
///
/// # Errors
/// Why the result cannot be told.
pub(super) fn of(node: &Node<'_>) -> Found<Option<Value>> {
    let places = |it: &Value| matches!(it.content, Content::Places { .. } | Content::Below(_));
    let operator = node.operator();
    if operator == "Range" {
        return Ok(rows(node));
    }
    if !node.given().into_iter().any(places) {
        return Ok(None);
    }
    let first = node.input(0)?;
    let content = first.content.clone();
    Ok(match operator {
        "Identity" => Some(first.clone()),
        "Cast" if counts::is_integer(node) => Some(first.clone()),
        "Unsqueeze" => Some(Value { content, ..layout::unsqueeze(node)? }),
        "Add" | "Mul" => match combined(operator, first, node.input(1)?) {
            None => None,
            Some(content) => Some(Value { content, ..broadcast(&node.given(), || node.open())? }),
        },
        "Gather" => looked_up(node)?,
        _ => None,
    })
}

fn limits<'a>(node: &'a Node<'_>) -> [Option<&'a Int>; 3] {
    [0, 1, 2].map(|at| node.optional(at).and_then(Value::ints).and_then(<[Int]>::first))
}

/// From 0 to how many rows there are.
fn rows(node: &Node<'_>) -> Option<Value> {
    let [Some(Int::Known(0)), Some(Int::Size(end)), Some(Int::Known(1))] = limits(node) else {
        return None;
    };
    let content = Content::Places { times: Size::ONE, below: Size::ONE };
    (*end == Size::open(ROWS)).then(|| Value { content, ..rows_along(vec![end.clone()], 0) })
}

/// Of numbers that are the same however many rows there are, since others are refused before.
pub(super) fn range(node: &Node<'_>) -> Found<Value> {
    node.free_from(0)?;
    let size = match limits(node) {
        [Some(Int::Known(0)), Some(end), Some(Int::Known(1))] => end.size(),
        _ => None,
    };
    Ok(match size {
        Some(size) => Value { content: Content::Below(size.clone()), ..Value::free(vec![size]) },
        None => Value::free(vec![node.open()]),
    })
}

/// Numbers of rows times a size, or with numbers that are small added.
fn combined(operator: &str, a: &Value, b: &Value) -> Option<Content> {
    let (Content::Places { times, below }, other) = (match (&a.content, &b.content) {
        (Content::Places { .. }, _) => (&a.content, b),
        _ => (&b.content, a),
    }) else {
        return None;
    };
    match (operator, &other.content) {
        ("Mul", Content::Ints(ints)) if below.is(1) => {
            let [by] = &**ints else { return None };
            let by = by.size().filter(|it| !it.has_rows())?;
            Some(Content::Places { times: times.times(&by)?, below: Size::ONE })
        }
        ("Add", Content::Below(end)) if below.is(1) => {
            Some(Content::Places { times: times.clone(), below: end.clone() })
        }
        _ => None,
    }
}

/// What each row finds at its own places.
fn looked_up(node: &Node<'_>) -> Found<Option<Value>> {
    let (x, indices) = (node.input(0)?, node.input(1)?);
    let (Content::Places { times, below }, Some(rows)) = (&indices.content, &x.rows) else {
        return Ok(None);
    };
    let own = *rows == Place { inner: times.clone(), ..Place::plain(0) } && below == times;
    if !own || node.axis(0, x.rank())? != 0 {
        return Err("what it looks up is not known to be of the same row".to_owned());
    }
    let shape = indices.shape.iter().chain(x.shape.iter().skip(1)).cloned().collect();
    Ok(Some(indices.with(shape, |axis| axis)))
}
