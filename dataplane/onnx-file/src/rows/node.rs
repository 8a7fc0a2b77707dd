//! One operator of a graph, with what is known of its inputs.

use std::cell::Cell;

use bytes::Bytes;

use super::size::{Size, Symbol};
use super::value::{Found, Value};
use crate::{AttributeProto, NodeProto};

/// An operator, and how to get at its settings and inputs.
#[derive(Debug)]
pub(super) struct Node<'a> {
    pub(super) proto: &'a NodeProto,
    /// In the order of the file; `None` for one that is left out.
    pub(super) inputs: Vec<Option<&'a Value>>,
    /// Of ONNX's operators.
    pub(super) version: i64,
    /// The next symbol that nothing has yet.
    pub(super) next: &'a Cell<Symbol>,
}

impl Node<'_> {
    pub(super) fn operator(&self) -> &str {
        self.proto.op_type.as_deref().unwrap_or_default()
    }

    /// An input that it needs.
    pub(super) fn input(&self, at: usize) -> Found<&Value> {
        self.optional(at).ok_or_else(|| format!("its input {at} is missing"))
    }

    pub(super) fn optional(&self, at: usize) -> Option<&Value> {
        self.inputs.get(at).copied().flatten()
    }

    /// The inputs that are there.
    pub(super) fn given(&self) -> Vec<&Value> {
        self.inputs.iter().copied().flatten().collect()
    }

    /// That the inputs from `first` on are the same for every row.
    pub(super) fn free_from(&self, first: usize) -> Found<()> {
        let mut rest = self.inputs.iter().enumerate().skip(first);
        match rest.find(|(_, it)| it.is_some_and(|it| it.rows.is_some())) {
            Some((at, _)) => Err(format!("its input {at} depends on the model's inputs")),
            None => Ok(()),
        }
    }

    /// How many outputs are used.
    pub(super) fn outputs(&self) -> usize {
        self.proto.output.iter().filter(|it| !it.is_empty()).count()
    }

    /// A size of which nothing is known but that it does not depend on how many rows there are.
    pub(super) fn open(&self) -> Size {
        let symbol = self.next.get();
        // A file of 2 GiB has fewer dimensions.
        self.next.set(symbol.saturating_add(1));
        Size::open(symbol)
    }

    pub(super) fn attribute(&self, name: &str) -> Option<&AttributeProto> {
        self.proto.attribute.iter().find(|it| it.name.as_deref() == Some(name))
    }

    pub(super) fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).map_or(default, |it| it.i.unwrap_or_default())
    }

    pub(super) fn attribute_ints(&self, name: &str) -> Option<&[i64]> {
        self.attribute(name).map(|it| &*it.ints)
    }

    pub(super) fn text(&self, name: &str, default: &'static str) -> Bytes {
        let text = self.attribute(name).map(|it| it.s.clone().unwrap_or_default());
        text.unwrap_or(Bytes::from_static(default.as_bytes()))
    }

    /// Integers that newer versions have as an input, and older ones as an attribute; `None` where
    /// there are none.
    pub(super) fn list(&self, attribute: &str, input: usize) -> Found<Option<Vec<i64>>> {
        if let Some(value) = self.optional(input) {
            let numbers = value.numbers();
            return numbers.map(Some).ok_or(format!("its {attribute} are not known"));
        }
        Ok(self.attribute_ints(attribute).map(<[i64]>::to_vec))
    }

    /// An axis of a tensor with `rank` dimensions.
    pub(super) fn axis(&self, default: i64, rank: usize) -> Found<usize> {
        axis(self.int("axis", default), rank)
    }
}

/// An axis as files tell it: counted from behind where it is negative.
pub(super) fn axis(axis: i64, rank: usize) -> Found<usize> {
    let from_behind = i64::try_from(rank).ok().and_then(|rank| axis.checked_add(rank));
    let axis = if axis < 0 { from_behind } else { Some(axis) };
    let axis = axis.and_then(|it| usize::try_from(it).ok()).filter(|&it| it < rank);
    axis.ok_or_else(|| format!("it names an axis that {rank} dimensions do not have"))
}

/// As [`axis`], of several.
pub(super) fn axes(axes: &[i64], rank: usize) -> Found<Vec<usize>> {
    axes.iter().map(|&it| axis(it, rank)).collect()
}
