//! The digit classifier, trained by `digits/train.py`, with the digits it was not trained on.

use std::sync::LazyLock;

use prost::Message;

use crate::graph::TensorInfo;
use crate::precision::half;
use ferry_onnx_file::{FLOAT, FLOAT16, GraphProto, ModelProto, TensorProto, ValueInfoProto};

/// Height and width of a digit in pixels.
pub const SIDE: u64 = 8;
/// Pixels of a digit.
pub const PIXELS: usize = 64;
/// How many of the 360 held-out digits the model classifies correctly: 98.1 %, as measured when it
/// was trained and again by this crate's tests.
pub const HELD_OUT_CORRECT: usize = 353;

static MODEL: &[u8] = include_bytes!("../digits/digits.onnx");
/// Records of a label and 64 pixels.
static HELD_OUT: &[u8] = include_bytes!("../digits/held-out.bin");
const DEMO: Demo =
    Demo { file_name: "digit-7.jpg", label: 7, bytes: include_bytes!("../digits/digit-7.jpg") };

/// One handwritten digit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digit {
    /// Gray values row by row, 0 for the paper and 255 for full ink.
    pub pixels: &'static [u8; PIXELS],
    /// The digit it shows, 0 to 9.
    pub label: u8,
}

/// A picture file to try the model with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demo {
    /// A name for the file that tells the digit.
    pub file_name: &'static str,
    /// The digit it shows.
    pub label: u8,
    /// A baseline JPEG of 64 × 64 pixels.
    pub bytes: &'static [u8],
}

/// The model's ONNX file. It takes gray values divided by 255, `[1, 1, 8, 8]`, and gives ten
/// logits, `[1, 10]`.
#[must_use]
pub fn onnx() -> &'static [u8] {
    MODEL
}

/// The digits that the model was not trained on.
pub fn held_out() -> impl ExactSizeIterator<Item = Digit> {
    let (records, _) = HELD_OUT.as_chunks::<{ 1 + PIXELS }>();
    records.iter().map(|[label, pixels @ ..]| Digit { pixels, label: *label })
}

/// A held-out digit as a picture, enlarged eight times, which the model classifies correctly once
/// it is resized to 8 × 8.
#[must_use]
pub fn demo_jpeg() -> Demo {
    DEMO
}

/// The embedded file's graph.
static GRAPH: LazyLock<GraphProto> =
    LazyLock::new(|| decoded().graph.expect("the embedded model has a graph"));

fn decoded() -> ModelProto {
    ModelProto::decode(MODEL).expect("the embedded model is a valid ONNX file")
}

/// The model's ONNX file in half precision.
pub(crate) fn onnx_in_half() -> Vec<u8> {
    let mut model = decoded();
    if let Some(graph) = &mut model.graph {
        for tensor in graph.initializer.iter_mut().filter(|it| it.data_type == Some(FLOAT)) {
            let (values, _) = tensor.raw_data().as_chunks::<4>();
            let halves = values.iter().flat_map(|bytes| half(f32::from_le_bytes(*bytes)));
            tensor.raw_data = Some(halves.collect());
            tensor.data_type = Some(FLOAT16);
        }
        for value in graph.input.iter_mut().chain(&mut graph.output) {
            if let Some(tensor) = value.r#type.as_mut().and_then(|it| it.tensor_type.as_mut()) {
                tensor.elem_type = Some(FLOAT16);
            }
        }
    }
    model.encode_to_vec()
}

fn elements(tensor: &TensorProto) -> u64 {
    tensor.dims.iter().map(|length| length.unsigned_abs()).product()
}

pub(crate) fn parameter_count() -> u64 {
    GRAPH.initializer.iter().map(elements).sum()
}

/// The model is linear layers only: each element of a matrix is used once.
pub(crate) fn multiply_adds() -> u64 {
    GRAPH.initializer.iter().filter(|tensor| tensor.dims.len() == 2).map(elements).sum()
}

pub(crate) fn inputs() -> Vec<TensorInfo> {
    GRAPH.input.iter().map(info).collect()
}

pub(crate) fn outputs() -> Vec<TensorInfo> {
    GRAPH.output.iter().map(info).collect()
}

fn info(value: &ValueInfoProto) -> TensorInfo {
    let shape = value.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()?.shape.as_ref());
    let dims = shape.into_iter().flat_map(|shape| &shape.dim);
    TensorInfo {
        name: value.name().to_owned(),
        dims: dims.map(|dim| dim.dim_value().unsigned_abs()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use ferry_vision::{
        Channels, DecodeOptions, Decoder, Filter, Layout, PictureSpec, PixelFormat, Pixels,
        Preparer,
    };

    use super::*;

    fn floats(name: &str) -> Vec<f32> {
        let tensor = GRAPH.initializer.iter().find(|tensor| tensor.name() == name).unwrap();
        let (values, rest) = tensor.raw_data().as_chunks::<4>();
        assert_eq!(rest, b"");
        values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    fn linear(x: &[f32], name: &str) -> Vec<f32> {
        let weight = floats(&format!("{name}.weight"));
        let rows = weight.chunks_exact(x.len()).zip(floats(&format!("{name}.bias")));
        rows.map(|(row, bias)| row.iter().zip(x).map(|(w, x)| w * x).sum::<f32>() + bias).collect()
    }

    fn classify(x: &[f32; PIXELS]) -> u8 {
        let hidden: Vec<f32> = linear(x, "fc1").iter().map(|x| x.max(0.0)).collect();
        let logits = linear(&hidden, "fc2");
        let best = (0..10).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
        u8::try_from(best).unwrap()
    }

    /// Classifies a picture of any size as a server does that follows `digits.toml`.
    fn classify_picture(picture: Pixels<'_>) -> u8 {
        let side = u32::try_from(SIDE).unwrap();
        let spec = PictureSpec {
            width: side,
            height: side,
            layout: Layout::Nchw,
            channels: Channels::Gray,
            resize: Filter::Bilinear,
            scale: 1.0 / 255.0,
            mean: [0.0; 3],
            std: [1.0; 3],
        };
        let mut tensor = [0.0; PIXELS];
        Preparer::new(spec).unwrap().prepare(picture, &mut tensor).unwrap();
        classify(&tensor)
    }

    #[test]
    fn the_embedded_model_classifies_the_held_out_digits_as_stated() {
        let operators: Vec<&str> = GRAPH.node.iter().map(|node| node.op_type()).collect();
        assert_eq!(operators, ["Flatten", "Gemm", "Relu", "Gemm"]);
        assert_eq!(held_out().len(), 360);
        let unit_range = |digit: &Digit| digit.pixels.map(|pixel| f32::from(pixel) / 255.0);
        let correct = held_out().filter(|digit| classify(&unit_range(digit)) == digit.label);
        assert_eq!(correct.count(), HELD_OUT_CORRECT);
    }

    #[test]
    fn the_demo_shows_its_digit_to_a_server() {
        let mut decoder = Decoder::new();
        let picture = decoder.decode(DEMO.bytes, &DecodeOptions::default()).unwrap();
        assert_eq!((picture.width(), picture.height()), (64, 64));
        assert_eq!(classify_picture(picture), DEMO.label);
    }

    #[test]
    fn enlarged_digits_are_classified_about_as_well() {
        let correct = held_out().filter(|digit| {
            let enlarged: Vec<u8> =
                (0..64 * 64).map(|i| digit.pixels[i / 64 / 8 * 8 + i % 64 / 8]).collect();
            let picture = Pixels::new(64, 64, PixelFormat::Gray8, &enlarged).unwrap();
            classify_picture(picture) == digit.label
        });
        let correct = correct.count();
        assert!(correct >= HELD_OUT_CORRECT - 3, "{correct} correct");
    }

    #[test]
    fn every_digit_is_held_out_about_as_often() {
        for label in 0..10 {
            let count = held_out().filter(|digit| digit.label == label).count();
            assert!((34..=37).contains(&count), "{count} of {label}");
        }
        assert!(HELD_OUT.len().is_multiple_of(1 + PIXELS));
    }

    #[test]
    fn nothing_but_the_floats_changes_in_half_precision() {
        let (full, half) = (decoded(), ModelProto::decode(&*onnx_in_half()).unwrap());
        assert_eq!(full.encoded_len(), MODEL.len(), "the decoder knows all that is in the file");
        assert_eq!((full.ir_version, &full.opset_import), (half.ir_version, &half.opset_import));
        let (full, half) = (full.graph.unwrap(), half.graph.unwrap());
        assert_eq!(full.node, half.node);
        for (full, half) in full.initializer.iter().zip(&half.initializer) {
            assert_eq!((full.name(), &full.dims), (half.name(), &half.dims));
            assert_eq!(half.data_type, Some(FLOAT16));
            assert_eq!(half.raw_data().len() * 2, full.raw_data().len());
        }
        for value in half.input.iter().chain(&half.output) {
            let tensor = value.r#type.as_ref().and_then(|it| it.tensor_type.as_ref()).unwrap();
            assert_eq!(tensor.elem_type, Some(FLOAT16), "{}", value.name());
        }
    }

    #[test]
    fn the_demo_is_a_baseline_jpeg() {
        let demo = demo_jpeg();
        assert_eq!(demo.bytes[..2], [0xff, 0xd8], "start of image");
        assert_eq!(demo.bytes[demo.bytes.len() - 2..], [0xff, 0xd9], "end of image");
        // Start of a baseline frame: marker, length, 8 bits, height 64, width 64, 3 components.
        let frame = [0xff, 0xc0, 0, 17, 8, 0, 64, 0, 64, 3];
        assert!(demo.bytes.windows(frame.len()).any(|window| window == frame));
        assert_eq!(demo.file_name, format!("digit-{}.jpg", demo.label));
    }
}
