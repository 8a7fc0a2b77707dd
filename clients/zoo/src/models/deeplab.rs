//! DeepLabV3 on ResNet-50 at output stride 8, with the auxiliary head, 21 classes of Pascal VOC.

use super::INPUT;
use super::resnet::ResNet;
use crate::graph::{Graph, Value};
use crate::layers::{Act, Conv};

/// Height and width of the picture and of both outputs.
const SIZE: u64 = 520;
const CLASSES: u64 = 21;
/// Channels of each branch of the pyramid and of what they are projected to.
const PYRAMID_CHANNELS: u64 = 256;
/// Dilations of the pyramid's 3×3 convolutions at output stride 8.
const RATES: [u64; 3] = [12, 24, 36];

pub(crate) fn deeplabv3_resnet50() -> Graph {
    let mut graph = Graph::new("deeplabv3-resnet50", 1e-5);
    let x = graph.input(INPUT, &[1, 3, SIZE, SIZE]);
    let dilated = [false, false, true, true];
    let backbone = ResNet { blocks: [3, 4, 6, 3], width: 1, dilated };
    let features = backbone.features(&mut graph, &x);

    let x = spatial_pyramid(&mut graph, &features.layer4);
    let x = head(&mut graph, &x, "classifier", PYRAMID_CHANNELS);
    graph.output(&x, "out");

    let inner_channels = features.layer3.channels() / 4;
    let x = head(&mut graph, &features.layer3, "aux_classifier", inner_channels);
    graph.output(&x, "aux");
    graph
}

/// Atrous spatial pyramid pooling: one feature map seen at five scales.
fn spatial_pyramid(graph: &mut Graph, x: &Value) -> Value {
    let mut scales = vec![graph.conv_bn(x, "aspp.0", Conv::new(PYRAMID_CHANNELS, 1), Act::Relu)];
    for (index, rate) in RATES.into_iter().enumerate() {
        let conv = Conv::new(PYRAMID_CHANNELS, 3).dilation(rate);
        scales.push(graph.conv_bn(x, &format!("aspp.{}", index + 1), conv, Act::Relu));
    }
    let pooled = graph.global_average_pool(x, "aspp.4.pool");
    let pooled = graph.conv_bn(&pooled, "aspp.4", Conv::new(PYRAMID_CHANNELS, 1), Act::Relu);
    scales.push(graph.resize_bilinear(&pooled, "aspp.4.resize", x.shape[2]));
    let scales: Vec<&Value> = scales.iter().collect();
    let joined = graph.concat(&scales, "aspp.concat");
    graph.conv_bn(&joined, "aspp.project", Conv::new(PYRAMID_CHANNELS, 1), Act::Relu)
}

fn head(graph: &mut Graph, x: &Value, name: &str, inner_channels: u64) -> Value {
    let x = graph.conv_bn(x, &format!("{name}.0"), Conv::new(inner_channels, 3), Act::Relu);
    let x = graph.conv(&x, &format!("{name}.1"), Conv::new(CLASSES, 1).biased());
    graph.resize_bilinear(&x, &format!("{name}.resize"), SIZE)
}
