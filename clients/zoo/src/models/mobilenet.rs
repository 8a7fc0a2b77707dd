//! MobileNetV3-Small: inverted residuals, squeeze and excitation, hard swish.

use super::{IMAGENET_CLASSES, OUTPUT, imagenet_input};
use crate::graph::{Graph, Value};
use crate::layers::{Act, Conv, Squeeze};

/// A row of the paper's table 2.
#[derive(Debug, Clone, Copy)]
struct Row {
    kernel: u64,
    expanded: u64,
    out: u64,
    squeezes: bool,
    act: Act,
    stride: u64,
}

const fn row(kernel: u64, [expanded, out]: [u64; 2], squeezes: bool, act: Act, stride: u64) -> Row {
    Row { kernel, expanded, out, squeezes, act, stride }
}

const TABLE: [Row; 11] = [
    row(3, [16, 16], true, Act::Relu, 2),
    row(3, [72, 24], false, Act::Relu, 2),
    row(3, [88, 24], false, Act::Relu, 1),
    row(5, [96, 40], true, Act::HardSwish, 2),
    row(5, [240, 40], true, Act::HardSwish, 1),
    row(5, [240, 40], true, Act::HardSwish, 1),
    row(5, [120, 48], true, Act::HardSwish, 1),
    row(5, [144, 48], true, Act::HardSwish, 1),
    row(5, [288, 96], true, Act::HardSwish, 2),
    row(5, [576, 96], true, Act::HardSwish, 1),
    row(5, [576, 96], true, Act::HardSwish, 1),
];

pub(crate) fn mobilenetv3_small() -> Graph {
    let mut graph = Graph::new("mobilenetv3-small", 1e-3);
    let x = imagenet_input(&mut graph);
    let mut x = graph.conv_bn(&x, "features.0", Conv::new(16, 3).stride(2), Act::HardSwish);
    for (index, row) in TABLE.into_iter().enumerate() {
        x = inverted_residual(&mut graph, &x, &format!("features.{}", index + 1), row);
    }
    let x = graph.conv_bn(&x, "features.12", Conv::new(576, 1), Act::HardSwish);
    let x = graph.global_average_pool(&x, "avgpool");
    let x = graph.flatten(&x, "flatten");
    let x = graph.linear(&x, "classifier.0", 1024);
    let x = graph.act(&x, Act::HardSwish);
    let x = graph.linear(&x, "classifier.3", IMAGENET_CLASSES);
    graph.output(&x, OUTPUT);
    graph
}

fn inverted_residual(graph: &mut Graph, x: &Value, name: &str, row: Row) -> Value {
    let mut y = x.clone();
    if row.expanded != x.channels() {
        y = graph.conv_bn(&y, &format!("{name}.expand"), Conv::new(row.expanded, 1), row.act);
    }
    let depthwise = Conv::depthwise(row.expanded, row.kernel).stride(row.stride);
    y = graph.conv_bn(&y, &format!("{name}.depthwise"), depthwise, row.act);
    if row.squeezes {
        let channels = multiple_of_eight(row.expanded / 4);
        let squeeze = Squeeze { channels, act: Act::Relu, gate: Act::HardSigmoid };
        y = graph.squeeze_excite(&y, &format!("{name}.se"), squeeze);
    }
    let project = Conv::new(row.out, 1);
    if row.stride == 1 && x.channels() == row.out {
        let name = format!("{name}.project");
        y = graph.conv_bn(&y, &name, project.closes_branch(), Act::Identity);
        graph.add(x, &y, &format!("{name}.add"))
    } else {
        graph.conv_bn(&y, &format!("{name}.project"), project, Act::Identity)
    }
}

/// The nearest multiple of 8 that is not more than a tenth below `channels`.
fn multiple_of_eight(channels: u64) -> u64 {
    let nearest = ((channels + 4) / 8 * 8).max(8);
    if nearest * 10 < channels * 9 { nearest + 8 } else { nearest }
}
