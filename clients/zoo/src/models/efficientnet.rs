//! EfficientNet-B0: mobile inverted bottlenecks with squeeze and excitation, SiLU throughout.

use super::{IMAGENET_CLASSES, OUTPUT, imagenet_input};
use crate::graph::{Graph, Value};
use crate::layers::{Act, Conv, Squeeze};

/// A row of the paper's table 1.
#[derive(Debug, Clone, Copy)]
struct Stage {
    expansion: u64,
    kernel: u64,
    stride: u64,
    out: u64,
    layers: u64,
}

const fn stage(expansion: u64, kernel: u64, stride: u64, [out, layers]: [u64; 2]) -> Stage {
    Stage { expansion, kernel, stride, out, layers }
}

const TABLE: [Stage; 7] = [
    stage(1, 3, 1, [16, 1]),
    stage(6, 3, 2, [24, 2]),
    stage(6, 5, 2, [40, 2]),
    stage(6, 3, 2, [80, 3]),
    stage(6, 5, 1, [112, 3]),
    stage(6, 5, 2, [192, 4]),
    stage(6, 3, 1, [320, 1]),
];

pub(crate) fn efficientnet_b0() -> Graph {
    let mut graph = Graph::new("efficientnet-b0", 1e-5);
    let x = imagenet_input(&mut graph);
    let mut x = graph.conv_bn(&x, "features.0", Conv::new(32, 3).stride(2), Act::Silu);
    for (index, stage) in TABLE.into_iter().enumerate() {
        for layer in 0..stage.layers {
            let stride = if layer == 0 { stage.stride } else { 1 };
            let name = format!("features.{}.{layer}", index + 1);
            x = bottleneck(&mut graph, &x, &name, Stage { stride, ..stage });
        }
    }
    let x = graph.conv_bn(&x, "features.8", Conv::new(1280, 1), Act::Silu);
    let x = graph.global_average_pool(&x, "avgpool");
    let x = graph.flatten(&x, "flatten");
    let x = graph.linear(&x, "classifier.1", IMAGENET_CLASSES);
    graph.output(&x, OUTPUT);
    graph
}

fn bottleneck(graph: &mut Graph, x: &Value, name: &str, stage: Stage) -> Value {
    let expanded = x.channels() * stage.expansion;
    let mut y = x.clone();
    if stage.expansion > 1 {
        y = graph.conv_bn(&y, &format!("{name}.expand"), Conv::new(expanded, 1), Act::Silu);
    }
    let depthwise = Conv::depthwise(expanded, stage.kernel).stride(stage.stride);
    y = graph.conv_bn(&y, &format!("{name}.depthwise"), depthwise, Act::Silu);
    // Unlike MobileNetV3, the squeeze is a quarter of the block's input, not of its expansion.
    let squeeze = Squeeze { channels: x.channels() / 4, act: Act::Silu, gate: Act::Sigmoid };
    y = graph.squeeze_excite(&y, &format!("{name}.se"), squeeze);
    let project = Conv::new(stage.out, 1);
    if stage.stride == 1 && x.channels() == stage.out {
        let name = format!("{name}.project");
        y = graph.conv_bn(&y, &name, project.closes_branch(), Act::Identity);
        graph.add(x, &y, &format!("{name}.add"))
    } else {
        graph.conv_bn(&y, &format!("{name}.project"), project, Act::Identity)
    }
}
