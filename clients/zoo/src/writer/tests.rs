//! What a decoder finds in a written file.

use super::*;
use crate::graph::{Range, Role};
use crate::models::{mobilenetv3_small, yolov4};
use ferry_onnx_file::{FLOAT, FLOAT16, INT64};

fn written(graph: &Graph, precision: Precision) -> Vec<u8> {
    let encoded = Encoded::new(graph, 1, precision);
    let mut bytes = vec![];
    encoded.write_to(&mut bytes, &mut |_| {}).unwrap();
    assert_eq!(bytes_of(&bytes), encoded.file_bytes());
    bytes
}

fn decoded(graph: &Graph, precision: Precision) -> GraphProto {
    let model = ModelProto::decode(written(graph, precision).as_slice()).unwrap();
    assert_eq!((model.ir_version(), model.opset_import[0].version()), (8, 17));
    model.graph.unwrap()
}

#[test]
fn a_decoder_finds_every_tensor_and_every_node() {
    let graph = mobilenetv3_small();
    for (precision, data_type, element_bytes) in
        [(Precision::Fp32, FLOAT, 4), (Precision::Fp16, FLOAT16, 2)]
    {
        let decoded = decoded(&graph, precision);
        assert_eq!(decoded.node, graph.nodes);
        assert_eq!(decoded.initializer.len(), graph.tensors.len());
        for (tensor, expected) in decoded.initializer.iter().zip(&graph.tensors) {
            assert_eq!(tensor.name(), expected.name);
            assert_eq!(tensor.data_type, Some(data_type), "{}", expected.name);
            let dims: Vec<u64> = tensor.dims.iter().map(|dim| dim.unsigned_abs()).collect();
            assert_eq!(dims, expected.dims, "{}", expected.name);
            let bytes = expected.elements() * element_bytes;
            assert_eq!(bytes_of(tensor.raw_data()), bytes, "{}", expected.name);
        }
        let types =
            decoded.input.iter().chain(&decoded.output).map(|value| {
                value.r#type.as_ref().and_then(|it| it.tensor_type.as_ref()?.elem_type)
            });
        assert_eq!(types.collect::<Vec<_>>(), [Some(data_type); 2]);
    }
}

#[test]
fn a_file_in_half_precision_holds_the_same_numbers_rounded() {
    let graph = mobilenetv3_small();
    let [full, half] = [Precision::Fp32, Precision::Fp16].map(|it| decoded(&graph, it));
    for (full, half) in full.initializer.iter().zip(&half.initializer) {
        let (values, halves) = (full.raw_data().as_chunks().0, half.raw_data().as_chunks().0);
        assert_eq!(values.len(), halves.len(), "{}", full.name());
        for (value, half) in values.iter().zip(halves) {
            let rounded = half::f16::from_f32(f32::from_le_bytes(*value));
            assert_eq!(half::f16::from_le_bytes(*half), rounded, "{}", full.name());
        }
    }
}

#[test]
fn scales_of_a_resize_stay_32_bit_floats() {
    let graph = decoded(&yolov4(), Precision::Fp16);
    let resizes: Vec<_> = graph.node.iter().filter(|it| it.op_type() == "Resize").collect();
    assert_eq!(resizes.len(), 2);
    for tensor in &graph.initializer {
        let is_scale = resizes.iter().any(|it| it.input[1..].contains(&tensor.name().to_owned()));
        let expected: &[i32] = if is_scale { &[FLOAT] } else { &[FLOAT16, INT64] };
        assert!(expected.contains(&tensor.data_type()), "{}", tensor.name());
    }
}

#[test]
fn values_are_little_endian_and_within_their_range() {
    let mut graph = Graph::new("test", 1e-5);
    let range = Range::around(2.0, 0.5);
    graph.drawn("odd".to_owned(), &[3, 1], Role::Parameter, range);
    graph.constant("floats".to_owned(), Data::Floats(vec![1.0]));
    graph.constant("ints".to_owned(), Data::Ints(vec![-1, 2]));
    let initializer = decoded(&graph, Precision::Fp32).initializer;
    let [odd, floats, ints] = initializer.try_into().unwrap();
    assert_eq!(odd.dims, [3, 1]);
    let (values, _) = odd.raw_data().as_chunks::<4>();
    let values: Vec<f32> = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    assert_eq!(values.len(), 3);
    assert!(values.iter().all(|value| (1.5..2.5).contains(value)), "{values:?}");
    assert_eq!(floats.raw_data(), [0, 0, 0x80, 0x3f]);
    assert_eq!(ints.data_type, Some(INT64));
    assert_eq!(ints.raw_data(), [-1_i64, 2].map(i64::to_le_bytes).as_flattened());
}

#[test]
fn varints_grow_with_their_value() {
    let encoded = |value| {
        let mut out = vec![];
        push_varint(&mut out, value);
        out
    };
    assert_eq!(encoded(127), [0x7f]);
    assert_eq!(encoded(300), [0xac, 0x02]);
    assert_eq!(encoded(u64::MAX).len(), 10);
}
