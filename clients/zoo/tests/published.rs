//! The models are what was published: parameters, inputs and outputs, from their own tensors.

use ferry_zoo::{Description, TensorInfo, describe, names};

fn model(name: &str) -> Description {
    describe(name).unwrap_or_else(|| panic!("the zoo lists {name}"))
}

fn tensor(name: &str, dims: &[u64]) -> TensorInfo {
    TensorInfo { name: name.to_owned(), dims: dims.to_vec() }
}

#[test]
fn parameter_counts_are_the_published_ones() {
    let published = [
        ("mobilenetv3-small", 2_542_856),
        ("resnet50", 25_557_032),
        ("efficientnet-b0", 5_288_548),
        ("wide-resnet101-2", 126_886_696),
        ("yolov4", 64_363_101),
        ("deeplabv3-resnet50", 42_004_074),
        ("digits", 64 * 128 + 128 + 128 * 10 + 10),
    ];
    assert_eq!(published.map(|(name, _)| name), names());
    for (name, parameters) in published {
        assert_eq!(model(name).parameters, parameters, "{name}");
    }
}

#[test]
fn costs_are_the_published_ones() {
    // In millions: torchvision's figures, and half of Darknet's 60.1 GFLOP for YOLOv4 at 416. A
    // stride or a dilation that is wrong changes these and leaves the parameters as they are.
    let published = [
        ("mobilenetv3-small", 57),
        ("resnet50", 4_089),
        ("efficientnet-b0", 386),
        ("wide-resnet101-2", 22_753),
        ("yolov4", 30_050),
        ("deeplabv3-resnet50", 178_722),
    ];
    for (name, millions) in published {
        let multiply_adds = model(name).multiply_adds;
        let difference = multiply_adds.abs_diff(millions * 1_000_000);
        assert!(difference <= millions * 10_000, "{name}: {multiply_adds}");
    }
    assert_eq!(model("digits").multiply_adds, 64 * 128 + 128 * 10);
}

#[test]
fn classifiers_take_a_picture_and_give_a_thousand_logits() {
    for name in ["mobilenetv3-small", "resnet50", "efficientnet-b0", "wide-resnet101-2"] {
        let model = model(name);
        assert_eq!(model.inputs, [tensor("input", &[1, 3, 224, 224])], "{name}");
        assert_eq!(model.outputs, [tensor("output", &[1, 1000])], "{name}");
        assert_eq!(model.inputs[0].bytes(), 602_112);
        assert_eq!(model.outputs[0].bytes(), 4_000);
    }
}

#[test]
fn yolov4_takes_channels_last_and_gives_three_grids() {
    let model = model("yolov4");
    assert_eq!(model.inputs, [tensor("input", &[1, 416, 416, 3])]);
    assert_eq!(
        model.outputs,
        [
            tensor("grid_52", &[1, 52, 52, 3, 85]),
            tensor("grid_26", &[1, 26, 26, 3, 85]),
            tensor("grid_13", &[1, 13, 13, 3, 85]),
        ]
    );
    assert_eq!(model.inputs[0].bytes(), 2_076_672);
    assert_eq!(model.outputs.iter().map(TensorInfo::bytes).sum::<u64>(), 3_619_980);
}

#[test]
fn deeplabv3_gives_two_maps_of_the_picture_s_size() {
    let model = model("deeplabv3-resnet50");
    assert_eq!(model.inputs, [tensor("input", &[1, 3, 520, 520])]);
    let map = [1, 21, 520, 520];
    assert_eq!(model.outputs, [tensor("out", &map), tensor("aux", &map)]);
    assert_eq!(model.inputs[0].bytes(), 3_244_800);
    assert_eq!(model.outputs.iter().map(TensorInfo::bytes).sum::<u64>(), 45_427_200);
}

#[test]
fn digits_takes_one_gray_digit_and_gives_ten_logits() {
    let model = model("digits");
    assert_eq!(model.inputs, [tensor("input", &[1, 1, 8, 8])]);
    assert_eq!(model.outputs, [tensor("output", &[1, 10])]);
    assert_eq!(model.file_bytes, ferry_zoo::digits::onnx().len() as u64);
}

#[test]
fn files_hold_the_parameters_and_little_more() {
    for name in names() {
        let model = model(name);
        // Running statistics are two values per channel, so far less than a tenth of the weights.
        let weights = model.parameters * 4;
        assert!(model.file_bytes > weights, "{name}: {} bytes", model.file_bytes);
        assert!(model.file_bytes < weights + weights / 10, "{name}: {} bytes", model.file_bytes);
    }
}

#[test]
fn an_unknown_name_is_not_described() {
    assert_eq!(describe("resnet51"), None);
}
