//! The layers that learn, and activation functions, as helpers of [`Graph`].
//!
//! Shapes are followed from layer to layer, so that a table of channels and strides, copied from a
//! paper with a slip in it, ends in a panic of the crate's tests and not in a file nobody can load.

use crate::graph::{Graph, Range, Role, Value};
use crate::plumbing::signed;
use ferry_onnx_file::AttributeProto;

/// Biases lie within ± this.
const BIAS_HALF_WIDTH: f32 = 0.05;
/// Batch normalisations: weight and running variance within ± 10 % of their centre, bias and
/// running mean within ± 0.1, as in a trained model that is not far from its initial statistics.
const NORM_HALF_WIDTH: f32 = 0.1;

/// A 2-D convolution without bias whose padding keeps the size at stride 1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conv {
    out_channels: u64,
    kernel: u64,
    stride: u64,
    dilation: u64,
    groups: u64,
    bias: bool,
    /// Centre of the weights of the batch normalisation behind it.
    gamma: f32,
}

impl Conv {
    pub(crate) const fn new(out_channels: u64, kernel: u64) -> Self {
        let (stride, dilation, groups) = (1, 1, 1);
        Self { out_channels, kernel, stride, dilation, groups, bias: false, gamma: 1.0 }
    }

    /// One filter per channel.
    pub(crate) const fn depthwise(channels: u64, kernel: u64) -> Self {
        Self { groups: channels, ..Self::new(channels, kernel) }
    }

    pub(crate) const fn stride(self, stride: u64) -> Self {
        Self { stride, ..self }
    }

    pub(crate) const fn dilation(self, dilation: u64) -> Self {
        Self { dilation, ..self }
    }

    pub(crate) const fn biased(self) -> Self {
        Self { bias: true, ..self }
    }

    /// The last layer of a residual branch: its batch normalisation scales it down, so that the sum
    /// over many blocks stays of the order of one.
    pub(crate) const fn closes_branch(self) -> Self {
        Self { gamma: 0.4, ..self }
    }

    const fn padding(self) -> u64 {
        self.dilation * (self.kernel - 1) / 2
    }
}

/// An activation function.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Act {
    Identity,
    Relu,
    /// max(x, 0.1 x), as in Darknet.
    LeakyRelu,
    HardSwish,
    /// x · sigmoid(x).
    Silu,
    /// x · tanh(softplus(x)); opset 17 has no operator of that name.
    Mish,
    Sigmoid,
    HardSigmoid,
}

impl Act {
    /// E[f(x)²] for x normally distributed with zero mean and unit variance.
    const fn mean_square(self) -> f32 {
        match self {
            Act::Identity => 1.0,
            Act::Relu => 0.5,
            Act::LeakyRelu => 0.505,
            Act::HardSwish => 0.334,
            Act::Silu => 0.356,
            Act::Mish => 0.45,
            Act::Sigmoid => 0.293,
            Act::HardSigmoid => 0.278,
        }
    }
}

impl Graph {
    /// Convolution, with weights scaled by the fan-in to an output of unit variance.
    pub(crate) fn conv(&mut self, x: &Value, name: &str, conv: Conv) -> Value {
        let fan_in = x.channels() / conv.groups * conv.kernel * conv.kernel;
        let dims = [conv.out_channels, x.channels() / conv.groups, conv.kernel, conv.kernel];
        let range = Range::of_variance(1.0 / (fan_in as f32 * x.mean_square));
        let weight = self.drawn(format!("{name}.weight"), &dims, Role::Parameter, range);
        let bias = conv.bias.then(|| self.bias(name, conv.out_channels));
        let padding = signed(conv.padding());
        let attributes = vec![
            AttributeProto::ints("dilations", &[signed(conv.dilation); 2]),
            AttributeProto::int("group", signed(conv.groups)),
            AttributeProto::ints("kernel_shape", &[signed(conv.kernel); 2]),
            AttributeProto::ints("pads", &[padding; 4]),
            AttributeProto::ints("strides", &[signed(conv.stride); 2]),
        ];
        let mut inputs = vec![x.name.as_str(), weight.as_str()];
        inputs.extend(bias.as_deref());
        let name = self.node("Conv", name, &inputs, attributes);
        let reach = conv.dilation * (conv.kernel - 1);
        let size = |length: u64| (length + 2 * conv.padding() - reach - 1) / conv.stride + 1;
        let shape = vec![1, conv.out_channels, size(x.shape[2]), size(x.shape[3])];
        self.multiply_adds += shape.iter().product::<u64>() * fan_in;
        Value { name, shape, mean_square: 1.0 }
    }

    /// Batch normalisation with running statistics near those of its input.
    pub(crate) fn batch_norm(&mut self, x: &Value, name: &str, gamma: f32) -> Value {
        let dims = [x.channels()];
        let near_zero = Range::around(0.0, NORM_HALF_WIDTH);
        let near_one = Range::around(1.0, NORM_HALF_WIDTH);
        let near_gamma = Range::around(gamma, gamma * NORM_HALF_WIDTH);
        let inputs = [
            x.name.clone(),
            self.drawn(format!("{name}.weight"), &dims, Role::Parameter, near_gamma),
            self.drawn(format!("{name}.bias"), &dims, Role::Parameter, near_zero),
            self.drawn(format!("{name}.running_mean"), &dims, Role::Buffer, near_zero),
            self.drawn(format!("{name}.running_var"), &dims, Role::Buffer, near_one),
        ];
        let attributes = vec![AttributeProto::float("epsilon", self.epsilon)];
        let inputs = inputs.each_ref().map(String::as_str);
        let name = self.node("BatchNormalization", name, &inputs, attributes);
        Value { name, mean_square: x.mean_square * gamma * gamma, ..x.clone() }
    }

    /// Convolution, batch normalisation, activation.
    pub(crate) fn conv_bn(&mut self, x: &Value, name: &str, conv: Conv, act: Act) -> Value {
        let x = self.conv(x, &format!("{name}.conv"), conv);
        let x = self.batch_norm(&x, &format!("{name}.bn"), conv.gamma);
        self.act(&x, act)
    }

    /// Applies an activation function; the identity adds no node.
    pub(crate) fn act(&mut self, x: &Value, act: Act) -> Value {
        let name = match act {
            Act::Identity => return x.clone(),
            Act::Relu => self.unary("Relu", x, vec![]),
            Act::LeakyRelu => self.unary("LeakyRelu", x, vec![AttributeProto::float("alpha", 0.1)]),
            Act::HardSwish => self.unary("HardSwish", x, vec![]),
            Act::Sigmoid => self.unary("Sigmoid", x, vec![]),
            Act::HardSigmoid => {
                self.unary("HardSigmoid", x, vec![AttributeProto::float("alpha", 1.0 / 6.0)])
            }
            Act::Silu => {
                let gate = self.unary("Sigmoid", x, vec![]);
                self.node("Mul", &format!("{}.silu", x.name), &[&x.name, &gate], vec![])
            }
            Act::Mish => {
                let softplus = self.unary("Softplus", x, vec![]);
                let gate =
                    self.node("Tanh", &format!("{}.tanh", x.name), &[softplus.as_str()], vec![]);
                self.node("Mul", &format!("{}.mish", x.name), &[&x.name, &gate], vec![])
            }
        };
        Value { name, mean_square: x.mean_square * act.mean_square(), ..x.clone() }
    }

    /// Fully connected layer with bias; the weight is `[out, in]`, as PyTorch keeps it.
    pub(crate) fn linear(&mut self, x: &Value, name: &str, out: u64) -> Value {
        let range = Range::of_variance(1.0 / (x.channels() as f32 * x.mean_square));
        let dims = [out, x.channels()];
        self.multiply_adds += out * x.channels();
        let weight = self.drawn(format!("{name}.weight"), &dims, Role::Parameter, range);
        let bias = self.bias(name, out);
        let attributes = vec![AttributeProto::int("transB", 1)];
        let name = self.node("Gemm", name, &[&x.name, &weight, &bias], attributes);
        Value { name, shape: vec![1, out], mean_square: 1.0 }
    }

    /// Squeeze and excitation: scales each channel by a gate computed from all channels' means.
    pub(crate) fn squeeze_excite(&mut self, x: &Value, name: &str, squeeze: Squeeze) -> Value {
        let pooled = self.global_average_pool(x, &format!("{name}.pool"));
        let fc1 = Conv::new(squeeze.channels, 1).biased();
        let hidden = self.conv(&pooled, &format!("{name}.fc1"), fc1);
        let hidden = self.act(&hidden, squeeze.act);
        let fc2 = Conv::new(x.channels(), 1).biased();
        let gate = self.conv(&hidden, &format!("{name}.fc2"), fc2);
        let gate = self.act(&gate, squeeze.gate);
        let name = self.node("Mul", &format!("{name}.scale"), &[&x.name, &gate.name], vec![]);
        Value { name, mean_square: x.mean_square * gate.mean_square, ..x.clone() }
    }

    fn bias(&mut self, layer: &str, length: u64) -> String {
        let range = Range::around(0.0, BIAS_HALF_WIDTH);
        self.drawn(format!("{layer}.bias"), &[length], Role::Parameter, range)
    }

    fn unary(&mut self, op_type: &str, x: &Value, attributes: Vec<AttributeProto>) -> String {
        let name = format!("{}.{}", x.name, op_type.to_ascii_lowercase());
        self.node(op_type, &name, &[&x.name], attributes)
    }
}

/// The two layers inside a squeeze and excitation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Squeeze {
    pub(crate) channels: u64,
    /// Between the layers.
    pub(crate) act: Act,
    /// Behind them: what the channels are scaled by.
    pub(crate) gate: Act,
}
