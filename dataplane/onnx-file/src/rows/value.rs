//! What is known of a tensor before the model runs.

use super::size::{Int, ROWS, Size};

/// What was found, or why nothing could be.
pub(super) type Found<T> = Result<T, String>;

/// Most dimensions of a tensor: more than any exporter makes, so that a file cannot make this
/// slow.
pub(super) const RANK_MAX: usize = 16;

/// A tensor of which each element belongs to one row, or to all of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Value {
    /// Outermost dimension first.
    pub(super) shape: Vec<Size>,
    /// Where the rows lie; `None` where nothing in it depends on an input's values.
    pub(super) rows: Option<Place>,
    /// What is in it.
    pub(super) content: Content,
}

/// An axis of `outer` × rows × `inner` elements: the one at `(o * rows + row) * inner + i` depends
/// on that row of the inputs alone, and not on how many rows there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) axis: usize,
    pub(super) outer: Size,
    pub(super) inner: Size,
}

impl Place {
    /// An axis of rows alone.
    pub(super) fn plain(axis: usize) -> Place {
        Place { axis, outer: Size::ONE, inner: Size::ONE }
    }
}

/// The elements of a small tensor of at most one dimension. Where it has none, they are the same
/// however many rows there are.
#[derive(Clone, Debug, Default)]
pub(super) enum Content {
    #[default]
    Unknown,
    Ints(Vec<Int>),
    Floats(Vec<f32>),
    /// Integers from 0 to below this, of a tensor of any shape.
    Below(Size),
    /// Of each row the number of the row times `times`, and something from 0 to below `below`, which
    /// is the same for all rows. Of a tensor of any shape.
    Places {
        times: Size,
        below: Size,
    },
}

impl Value {
    /// Of no row.
    pub(super) fn free(shape: Vec<Size>) -> Value {
        Value { shape, ..Value::default() }
    }

    pub(super) fn list(ints: Vec<Int>) -> Value {
        let shape = vec![Size::known(ints.len() as u64)];
        Value { shape, content: Content::Ints(ints), rows: None }
    }

    pub(super) fn rank(&self) -> usize {
        self.shape.len()
    }

    pub(super) fn ints(&self) -> Option<&[Int]> {
        if let Content::Ints(ints) = &self.content { Some(ints) } else { None }
    }

    /// The elements, if all of them are numbers.
    pub(super) fn numbers(&self) -> Option<Vec<i64>> {
        self.ints()?.iter().map(Int::as_known).collect()
    }

    /// Whether an element says how many rows there are, or which one it is.
    pub(super) fn counts_rows(&self) -> bool {
        matches!(self.content, Content::Places { .. })
            || self.ints().is_some_and(|ints| ints.iter().any(Int::has_rows))
    }

    /// The axis of the rows, if there is one.
    pub(super) fn axis(&self) -> Option<usize> {
        self.rows.as_ref().map(|rows| rows.axis)
    }

    /// That rows do not lie along `axis`.
    pub(super) fn apart_from(&self, axis: usize) -> Found<()> {
        match self.axis() {
            Some(rows) if rows == axis => Err(format!("it works along axis {axis}, the rows")),
            _ => Ok(()),
        }
    }

    /// That rows lie along the first axis, if anywhere.
    pub(super) fn rows_first(&self) -> Found<()> {
        match self.axis() {
            Some(axis) if axis > 0 => Err(format!("its rows lie along axis {axis}, not the first")),
            _ => Ok(()),
        }
    }

    /// Of the same rows, with another shape whose axis of rows is `axis` now.
    pub(super) fn with(&self, shape: Vec<Size>, axis: impl Fn(usize) -> usize) -> Value {
        let rows = self.rows.clone().map(|it| Place { axis: axis(it.axis), ..it });
        Value { shape, rows, content: Content::Unknown }
    }

    /// Of the same shape, with other elements.
    pub(super) fn same(&self) -> Value {
        self.with(self.shape.clone(), |axis| axis)
    }

    /// The same elements in the same order, as another shape.
    pub(super) fn in_shape(&self, shape: Vec<Size>) -> Found<Value> {
        let Some(rows) = &self.rows else {
            return if shape.iter().any(Size::has_rows) {
                Err("it makes rows of what has none".to_owned())
            } else {
                Ok(Value::free(shape))
            };
        };
        let mut with_rows = shape.iter().enumerate().filter(|(_, size)| size.has_rows());
        let (Some((axis, size)), None) = (with_rows.next(), with_rows.next()) else {
            return Err("no dimension of its result is known to be the rows".to_owned());
        };
        let place = || {
            // The rows begin at the same place among the elements.
            let before = Size::product(&self.shape[..rows.axis])?.times(&rows.outer)?;
            let outer = before.over(&Size::product(&shape[..axis])?)?;
            let inner = size.over(&Size::open(ROWS))?.over(&outer)?;
            (!inner.has_rows() && !inner.is(0)).then_some(Place { axis, outer, inner })
        };
        let rows = place().ok_or("its result is not known to have the rows in one dimension")?;
        Ok(Value { shape, rows: Some(rows), content: Content::Unknown })
    }
}

/// What comes of tensors that are combined element by element, small ones repeated. `open` gives an
/// unknown size.
pub(super) fn broadcast(values: &[&Value], mut open: impl FnMut() -> Size) -> Found<Value> {
    let rank = values.iter().map(|it| it.rank()).max().unwrap_or_default();
    let shift = |value: &Value| rank - value.rank();
    let place =
        |value: &&Value| value.rows.clone().map(|it| Place { axis: it.axis + shift(value), ..it });
    let rows = values.iter().find_map(place);
    for value in values {
        let here = rows.as_ref().and_then(|rows| rows.axis.checked_sub(shift(value)));
        let fits = match (&rows, place(value)) {
            (Some(all), Some(own)) => own == *all,
            (Some(_), None) => here.and_then(|at| value.shape.get(at)).is_none_or(|it| it.is(1)),
            (None, _) => true,
        };
        if !fits {
            return Err("its inputs do not have their rows along the same axis".to_owned());
        }
    }
    let mut shape = Vec::with_capacity(rank);
    for at in 0..rank {
        let sizes = || {
            values
                .iter()
                .copied()
                .filter_map(move |it: &Value| it.shape.get(at.checked_sub(rank - it.rank())?))
                .filter(|it| !it.is(1))
        };
        let first = sizes().next();
        let of_rows = sizes().find(|it| it.has_rows());
        // The others are as large, or 1.
        let large = sizes().find(|it| it.as_known().is_some());
        shape.push(match first {
            None => Size::ONE,
            Some(first) if sizes().all(|it| it == first) => first.clone(),
            Some(_) => of_rows.or(large).cloned().unwrap_or_else(&mut open),
        });
    }
    Ok(Value { shape, rows, content: Content::Unknown })
}
