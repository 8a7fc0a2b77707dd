//! ResNet-50 and WideResNet-101-2: bottleneck blocks, the stride in the 3×3 convolution.

use super::{IMAGENET_CLASSES, OUTPUT, imagenet_input};
use crate::graph::{Graph, Value};
use crate::layers::{Act, Conv};
use crate::plumbing::MaxPool;

/// A bottleneck block gives four times its planes, whatever its inner width.
const EXPANSION: u64 = 4;

/// What distinguishes one residual network from another.
#[derive(Debug, Clone, Copy)]
pub(super) struct ResNet {
    /// Blocks in each of the four stages.
    pub(super) blocks: [u64; 4],
    /// Width of a block's inner convolutions, relative to its planes.
    pub(super) width: u64,
    /// Stages that dilate their kernels instead of halving the resolution.
    pub(super) dilated: [bool; 4],
}

/// The output of the last two stages.
#[derive(Debug)]
pub(super) struct Features {
    pub(super) layer3: Value,
    pub(super) layer4: Value,
}

pub(crate) fn resnet50() -> Graph {
    classifier("resnet50", ResNet { blocks: [3, 4, 6, 3], width: 1, dilated: [false; 4] })
}

pub(crate) fn wide_resnet101_2() -> Graph {
    classifier("wide-resnet101-2", ResNet { blocks: [3, 4, 23, 3], width: 2, dilated: [false; 4] })
}

fn classifier(name: &'static str, net: ResNet) -> Graph {
    let mut graph = Graph::new(name, 1e-5);
    let x = imagenet_input(&mut graph);
    let x = net.features(&mut graph, &x).layer4;
    let x = graph.global_average_pool(&x, "avgpool");
    let x = graph.flatten(&x, "flatten");
    let x = graph.linear(&x, "fc", IMAGENET_CLASSES);
    graph.output(&x, OUTPUT);
    graph
}

/// One bottleneck block.
#[derive(Debug, Clone, Copy)]
struct Block {
    planes: u64,
    width: u64,
    stride: u64,
    dilation: u64,
    /// The first of its stage: the shortcut needs a convolution to match the block's output.
    first: bool,
}

impl ResNet {
    /// Everything before the average pooling.
    pub(super) fn features(self, graph: &mut Graph, x: &Value) -> Features {
        let x = graph.conv_bn(x, "stem", Conv::new(64, 7).stride(2), Act::Relu);
        let mut x = graph.max_pool(&x, "maxpool", MaxPool { kernel: 3, stride: 2 });
        let mut stages = vec![];
        let mut dilation = 1;
        for (index, planes) in [64, 128, 256, 512].into_iter().enumerate() {
            let halves = index > 0;
            let outer_dilation = dilation;
            if halves && self.dilated[index] {
                dilation *= 2;
            }
            for number in 0..self.blocks[index] {
                let first = number == 0;
                let block = Block {
                    planes,
                    width: planes * self.width,
                    stride: if first && halves && !self.dilated[index] { 2 } else { 1 },
                    dilation: if first { outer_dilation } else { dilation },
                    first,
                };
                x = bottleneck(graph, &x, &format!("layer{}.{number}", index + 1), block);
            }
            stages.push(x.clone());
        }
        Features { layer3: stages.swap_remove(2), layer4: x }
    }
}

fn bottleneck(graph: &mut Graph, x: &Value, name: &str, block: Block) -> Value {
    let Block { planes, width, stride, dilation, first } = block;
    let out_channels = planes * EXPANSION;
    let middle = Conv::new(width, 3).stride(stride).dilation(dilation);
    let last = Conv::new(out_channels, 1).closes_branch();
    let y = graph.conv_bn(x, &format!("{name}.1"), Conv::new(width, 1), Act::Relu);
    let y = graph.conv_bn(&y, &format!("{name}.2"), middle, Act::Relu);
    let y = graph.conv_bn(&y, &format!("{name}.3"), last, Act::Identity);
    let shortcut = if first {
        let conv = Conv::new(out_channels, 1).stride(stride);
        graph.conv_bn(x, &format!("{name}.downsample"), conv, Act::Identity)
    } else {
        x.clone()
    };
    let sum = graph.add(&y, &shortcut, &format!("{name}.add"));
    let rectified = graph.act(&sum, Act::Relu);
    if first {
        rectified
    } else {
        // The shortcut is rectified already and outweighs the branch: little is cut off.
        Value { mean_square: sum.mean_square, ..rectified }
    }
}
