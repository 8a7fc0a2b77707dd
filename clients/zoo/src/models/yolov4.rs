//! YOLOv4 at 416 × 416: CSPDarknet-53, spatial pyramid pooling, path aggregation, three heads.
//!
//! Laid out as TensorFlow's variant sees it from outside: NHWC in, `[1, S, S, anchor, 5 + class]`
//! out. The outputs are those of the heads' convolutions; turning them into boxes is the caller's.

use super::INPUT;
use crate::graph::{Graph, Value};
use crate::layers::{Act, Conv};
use crate::plumbing::MaxPool;

/// Height and width of the picture.
const SIZE: u64 = 416;
const ANCHORS: u64 = 3;
/// x, y, width, height, objectness and the 80 classes of COCO.
const PREDICTIONS: u64 = 85;
/// Channels and residual blocks of the backbone's stages after the first.
const STAGES: [(u64, u64); 4] = [(128, 2), (256, 8), (512, 8), (1024, 4)];

pub(crate) fn yolov4() -> Graph {
    let mut graph = Graph::new("yolov4", 1e-3);
    let g = &mut graph;
    let x = g.input(INPUT, &[1, SIZE, SIZE, 3]);
    let x = g.transpose(&x, "to_nchw", [0, 3, 1, 2]);
    let [c3, c4, c5] = backbone(g, &x);

    // Top-down: what is deep and coarse joins what is shallow and fine.
    let p5 = spatial_pyramid(g, &c5);
    let p4 = join_upsampled(g, "top_down.4", &p5, &c4);
    let p3 = join_upsampled(g, "top_down.3", &p4, &c3);
    // Bottom-up: and back.
    let n4 = join_downsampled(g, "bottom_up.4", &p3, &p4);
    let n5 = join_downsampled(g, "bottom_up.5", &n4, &p5);

    for value in [&p3, &n4, &n5] {
        head(g, value);
    }
    graph
}

/// CSPDarknet-53: the feature maps at strides 8, 16 and 32.
fn backbone(g: &mut Graph, x: &Value) -> [Value; 3] {
    let x = g.conv_bn(x, "stem", Conv::new(32, 3), Act::Mish);
    let x = g.conv_bn(&x, "stage1.down", Conv::new(64, 3).stride(2), Act::Mish);
    let mut x = cross_stage(g, &x, "stage1", Cross { width: 64, inner: 32, out: 64, blocks: 1 });
    let features = STAGES.map(|(channels, blocks)| {
        let name = format!("stage{}", channels.ilog2() - 5);
        let down = Conv::new(channels, 3).stride(2);
        x = g.conv_bn(&x, &format!("{name}.down"), down, Act::Mish);
        let width = channels / 2;
        x = cross_stage(g, &x, &name, Cross { width, inner: width, out: channels, blocks });
        x.clone()
    });
    let [_, c3, c4, c5] = features;
    [c3, c4, c5]
}

/// A cross-stage partial block: one half goes through residual blocks, the other goes around them.
#[derive(Debug, Clone, Copy)]
struct Cross {
    /// Channels of each half.
    width: u64,
    /// Channels between the two convolutions of a residual block.
    inner: u64,
    /// Channels after the halves are merged.
    out: u64,
    blocks: u64,
}

fn cross_stage(g: &mut Graph, x: &Value, name: &str, cross: Cross) -> Value {
    let Cross { width, inner, out, blocks } = cross;
    let around = g.conv_bn(x, &format!("{name}.around"), Conv::new(width, 1), Act::Mish);
    let mut through = g.conv_bn(x, &format!("{name}.through"), Conv::new(width, 1), Act::Mish);
    for block in 0..blocks {
        let name = format!("{name}.{block}");
        let last = Conv::new(width, 3).closes_branch();
        let y = g.conv_bn(&through, &format!("{name}.1"), Conv::new(inner, 1), Act::Mish);
        let y = g.conv_bn(&y, &format!("{name}.2"), last, Act::Mish);
        through = g.add(&through, &y, &format!("{name}.add"));
    }
    let through = g.conv_bn(&through, &format!("{name}.after"), Conv::new(width, 1), Act::Mish);
    let joined = g.concat(&[&through, &around], &format!("{name}.concat"));
    g.conv_bn(&joined, &format!("{name}.merge"), Conv::new(out, 1), Act::Mish)
}

/// Max pooling with windows of 13, 9 and 5 between two triples of convolutions.
fn spatial_pyramid(g: &mut Graph, x: &Value) -> Value {
    let x = alternate(g, x, "spp.before", [512, 1024, 512]);
    let pools = [13, 9, 5]
        .map(|kernel| g.max_pool(&x, &format!("spp.pool{kernel}"), MaxPool { kernel, stride: 1 }));
    let [widest, middle, narrowest] = &pools;
    let joined = g.concat(&[widest, middle, narrowest, &x], "spp.concat");
    alternate(g, &joined, "spp.after", [512, 1024, 512])
}

/// Convolutions that alternate between 1×1 and 3×3, starting with 1×1.
fn alternate<const N: usize>(g: &mut Graph, x: &Value, name: &str, channels: [u64; N]) -> Value {
    let mut x = x.clone();
    for (index, out) in channels.into_iter().enumerate() {
        let kernel = if index % 2 == 0 { 1 } else { 3 };
        x = g.conv_bn(&x, &format!("{name}.{index}"), Conv::new(out, kernel), Act::LeakyRelu);
    }
    x
}

fn join_upsampled(g: &mut Graph, name: &str, coarse: &Value, fine: &Value) -> Value {
    let half = coarse.channels() / 2;
    let up = g.conv_bn(coarse, &format!("{name}.up"), Conv::new(half, 1), Act::LeakyRelu);
    let up = g.upsample_twice(&up, &format!("{name}.resize"));
    let lateral = g.conv_bn(fine, &format!("{name}.lateral"), Conv::new(half, 1), Act::LeakyRelu);
    let joined = g.concat(&[&lateral, &up], &format!("{name}.concat"));
    alternate(g, &joined, name, [half, half * 2, half, half * 2, half])
}

fn join_downsampled(g: &mut Graph, name: &str, fine: &Value, coarse: &Value) -> Value {
    let channels = coarse.channels();
    let down = Conv::new(channels, 3).stride(2);
    let down = g.conv_bn(fine, &format!("{name}.down"), down, Act::LeakyRelu);
    let joined = g.concat(&[&down, coarse], &format!("{name}.concat"));
    alternate(g, &joined, name, [channels, channels * 2, channels, channels * 2, channels])
}

/// Predictions for every cell of the grid; the output is called `grid_` and the grid's side.
fn head(g: &mut Graph, x: &Value) {
    let side = x.shape[2];
    let name = format!("head{side}");
    let wide = Conv::new(x.channels() * 2, 3);
    let y = g.conv_bn(x, &format!("{name}.0"), wide, Act::LeakyRelu);
    let y = g.conv(&y, &format!("{name}.1"), Conv::new(ANCHORS * PREDICTIONS, 1).biased());
    let y = g.transpose(&y, &format!("{name}.to_nhwc"), [0, 2, 3, 1]);
    let y = g.reshape(&y, &format!("{name}.split"), &[1, side, side, ANCHORS, PREDICTIONS]);
    g.output(&y, &format!("grid_{side}"));
}
