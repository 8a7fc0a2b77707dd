//! The layers that learn nothing: pooling, sums, joins, resizing and changes of shape.

use crate::graph::{Data, Graph, Value};
use ferry_onnx_file::AttributeProto;

/// A pooling window over height and width.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MaxPool {
    pub(crate) kernel: u64,
    pub(crate) stride: u64,
}

impl Graph {
    /// Element-wise sum of two values of one shape.
    ///
    /// # Panics
    ///
    /// If the shapes differ.
    pub(crate) fn add(&mut self, a: &Value, b: &Value, name: &str) -> Value {
        assert_eq!(a.shape, b.shape, "{name} adds two shapes");
        let name = self.node("Add", name, &[&a.name, &b.name], vec![]);
        Value { name, mean_square: a.mean_square + b.mean_square, ..a.clone() }
    }

    /// Joins values along their channels.
    ///
    /// # Panics
    ///
    /// If their heights or widths differ, or `parts` is empty.
    pub(crate) fn concat(&mut self, parts: &[&Value], name: &str) -> Value {
        let mut shape = parts[0].shape.clone();
        for part in parts {
            assert_eq!(part.shape[2..], shape[2..], "{name} joins two sizes");
        }
        shape[1] = parts.iter().map(|part| part.channels()).sum();
        let energy = parts.iter().map(|part| part.mean_square * part.channels() as f32);
        let mean_square = energy.sum::<f32>() / shape[1] as f32;
        let inputs: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
        let name = self.node("Concat", name, &inputs, vec![AttributeProto::int("axis", 1)]);
        Value { name, shape, mean_square }
    }

    /// Max pooling that keeps the size at stride 1.
    pub(crate) fn max_pool(&mut self, x: &Value, name: &str, pool: MaxPool) -> Value {
        let padding = (pool.kernel - 1) / 2;
        let attributes = vec![
            AttributeProto::ints("kernel_shape", &[signed(pool.kernel); 2]),
            AttributeProto::ints("pads", &[signed(padding); 4]),
            AttributeProto::ints("strides", &[signed(pool.stride); 2]),
        ];
        let name = self.node("MaxPool", name, &[&x.name], attributes);
        let size = |length: u64| (length + 2 * padding - pool.kernel) / pool.stride + 1;
        let shape = vec![1, x.channels(), size(x.shape[2]), size(x.shape[3])];
        // Roughly what the maximum of a window of half-rectified normal values comes to.
        Value { name, shape, mean_square: x.mean_square * 4.0 }
    }

    /// Mean over height and width.
    pub(crate) fn global_average_pool(&mut self, x: &Value, name: &str) -> Value {
        let name = self.node("GlobalAveragePool", name, &[&x.name], vec![]);
        // The squared mean of a half-rectified normal value is about a third of its mean square.
        Value { name, shape: vec![1, x.channels(), 1, 1], mean_square: x.mean_square * 0.35 }
    }

    /// `[1, C, 1, 1]` to `[1, C]`.
    pub(crate) fn flatten(&mut self, x: &Value, name: &str) -> Value {
        let name = self.node("Flatten", name, &[&x.name], vec![AttributeProto::int("axis", 1)]);
        Value { name, shape: vec![1, x.shape[1..].iter().product()], mean_square: x.mean_square }
    }

    /// Doubles height and width by repeating pixels.
    pub(crate) fn upsample_twice(&mut self, x: &Value, name: &str) -> Value {
        let scales = Data::Floats(vec![1.0, 1.0, 2.0, 2.0]);
        let scales = self.constant(format!("{name}.scales"), scales);
        let attributes = vec![
            AttributeProto::string("coordinate_transformation_mode", "asymmetric"),
            AttributeProto::string("mode", "nearest"),
            AttributeProto::string("nearest_mode", "floor"),
        ];
        let name = self.node("Resize", name, &[&x.name, "", &scales], attributes);
        let shape = vec![1, x.channels(), x.shape[2] * 2, x.shape[3] * 2];
        Value { name, shape, mean_square: x.mean_square }
    }

    /// Bilinear interpolation to `size` × `size`, corners not aligned.
    pub(crate) fn resize_bilinear(&mut self, x: &Value, name: &str, size: u64) -> Value {
        let shape = vec![1, x.channels(), size, size];
        let sizes = Data::Ints(shape.iter().map(|length| signed(*length)).collect());
        let sizes = self.constant(format!("{name}.sizes"), sizes);
        let attributes = vec![
            AttributeProto::string("coordinate_transformation_mode", "half_pixel"),
            AttributeProto::string("mode", "linear"),
        ];
        let name = self.node("Resize", name, &[&x.name, "", "", &sizes], attributes);
        Value { name, shape, mean_square: x.mean_square }
    }

    /// Reorders the dimensions.
    pub(crate) fn transpose(&mut self, x: &Value, name: &str, order: [usize; 4]) -> Value {
        let shape = order.iter().map(|axis| x.shape[*axis]).collect();
        let perm = order.map(|axis| signed(axis as u64));
        let attributes = vec![AttributeProto::ints("perm", &perm)];
        let name = self.node("Transpose", name, &[&x.name], attributes);
        Value { name, shape, mean_square: x.mean_square }
    }

    /// Gives the elements another shape of the same size.
    ///
    /// # Panics
    ///
    /// If the sizes differ.
    pub(crate) fn reshape(&mut self, x: &Value, name: &str, shape: &[u64]) -> Value {
        let elements = |shape: &[u64]| shape.iter().product::<u64>();
        assert_eq!(elements(&x.shape), elements(shape), "{name} changes the size");
        let sizes = Data::Ints(shape.iter().map(|length| signed(*length)).collect());
        let sizes = self.constant(format!("{name}.shape"), sizes);
        let name = self.node("Reshape", name, &[&x.name, &sizes], vec![]);
        Value { name, shape: shape.to_vec(), mean_square: x.mean_square }
    }
}

/// A length as ONNX stores it.
///
/// # Panics
///
/// Never for the models of the zoo: no length is near 2^63.
pub(crate) fn signed(length: u64) -> i64 {
    i64::try_from(length).expect("no dimension of a model in the zoo is near 2^63")
}
