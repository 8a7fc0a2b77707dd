//! Which shapes a session asks for.

use clap::Args as Group;

use crate::shapes::Shape;

/// Which shapes a session asks for; a dimension that nothing says is 1.
#[derive(Clone, Debug, Default, Group)]
pub(crate) struct ShapeArgs {
    /// The whole shape of an input or output with open dimensions; once per tensor.
    #[arg(long = "shape", value_name = "NAME=1x3x320x320")]
    pub(crate) shapes: Vec<Shape>,
    /// Items in a batch: the first dimension of every input that leaves it open.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) batch: Option<u64>,
}
