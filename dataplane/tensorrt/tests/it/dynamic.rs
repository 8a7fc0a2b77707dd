//! Open dimensions, and other types than floats.

use ferry_core::{DType, Dim, TensorSpec};
use ferry_tensorrt::{BuildOptions, DimRange, build, signature};

use crate::common::search;
use crate::tiny::{BOOL, D, FLOAT, INT64, file, onnx};

fn texts(specs: &[TensorSpec]) -> Vec<String> {
    specs.iter().map(TensorSpec::to_string).collect()
}

#[test]
fn named_and_unnamed_dimensions() {
    let directory = tempfile::tempdir().unwrap();
    let model = onnx(
        &[("Add", &["x", "z"], &["y"])],
        &[],
        &[
            ("x", FLOAT, &[D::Named("batch"), D::Of(3)]),
            ("z", FLOAT, &[D::Named("batch"), D::Of(3)]),
        ],
        &[("y", FLOAT, &[D::Named("batch"), D::Of(3)])],
    );
    let path = file(directory.path(), "named.onnx", &model);
    let found = signature(&path, &search()).unwrap();
    assert_eq!(texts(&found.inputs), ["x FP32[batch,3]", "z FP32[batch,3]"]);
    assert_eq!(texts(&found.outputs), ["y FP32[batch,3]"]);

    let range = DimRange { min: 2, typical: 4, max: 8 };
    let ranges = [("batch".to_owned(), range), ("other".to_owned(), range)].into();
    let plan = build(&path, &search(), &BuildOptions { ranges, ..Default::default() }).unwrap();
    assert_eq!(*plan.signature(), found);
    assert_eq!(plan.ranges().len(), 1, "only those of the model: {:?}", plan.ranges());
    assert_eq!(plan.ranges()["batch"], range);

    let plan = build(&path, &search(), &BuildOptions::default()).unwrap();
    assert_eq!(plan.ranges()["batch"], DimRange::default());
}

#[test]
fn a_dimension_without_a_name() {
    let directory = tempfile::tempdir().unwrap();
    let model = onnx(
        &[("Relu", &["x"], &["y"])],
        &[],
        &[("x", FLOAT, &[D::Open, D::Of(3)])],
        &[("y", FLOAT, &[D::Open, D::Of(3)])],
    );
    let path = file(directory.path(), "unnamed.onnx", &model);
    let text = signature(&path, &search()).unwrap_err().to_string();
    assert!(text.contains("do not tell the size of output y") && text.contains("names"), "{text}");

    // Inside the model only: it gets a name of its own.
    let model = onnx(
        &[("ReduceSum", &["x"], &["y"])],
        &[],
        &[("x", FLOAT, &[D::Open, D::Of(3)])],
        &[("y", FLOAT, &[D::Of(1), D::Of(1)])],
    );
    let path = file(directory.path(), "inside.onnx", &model);
    let found = signature(&path, &search()).unwrap();
    assert_eq!(found.inputs[0].shape, [Dim::Named("x.0".into()), Dim::Fixed(3)]);
    let plan = build(&path, &search(), &BuildOptions::default()).unwrap();
    assert_eq!(plan.ranges()["x.0"], DimRange::default());
}

#[test]
fn truth_values_and_integers() {
    let directory = tempfile::tempdir().unwrap();
    const SHAPE: [D; 1] = [D::Of(4)];
    for (op, element, dtype) in [("Not", BOOL, DType::Bool), ("Neg", INT64, DType::I64)] {
        let model = onnx(
            &[(op, &["x"], &["y"])],
            &[],
            &[("x", element, &SHAPE)],
            &[("y", element, &SHAPE)],
        );
        let path = file(directory.path(), "typed.onnx", &model);
        let plan = build(&path, &search(), &BuildOptions::default()).unwrap();
        assert_eq!(
            (plan.signature().inputs[0].dtype, plan.signature().outputs[0].dtype),
            (dtype, dtype)
        );
    }
}
