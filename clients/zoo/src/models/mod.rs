//! The architectures, one file each, as their papers and torchvision lay them out.

mod deeplab;
mod efficientnet;
mod mobilenet;
mod resnet;
mod yolov4;

pub(crate) use deeplab::deeplabv3_resnet50;
pub(crate) use efficientnet::efficientnet_b0;
pub(crate) use mobilenet::mobilenetv3_small;
pub(crate) use resnet::{resnet50, wide_resnet101_2};
pub(crate) use yolov4::yolov4;

use crate::graph::{Graph, Value};

/// Name of the only input of every model.
pub(crate) const INPUT: &str = "input";
/// Name of a classifier's only output.
const OUTPUT: &str = "output";
/// The classes of ImageNet-1k.
const IMAGENET_CLASSES: u64 = 1000;

/// A picture as the classifiers take it: NCHW, RGB, 224 × 224.
fn imagenet_input(graph: &mut Graph) -> Value {
    graph.input(INPUT, &[1, 3, 224, 224])
}
