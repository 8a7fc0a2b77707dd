use prost_types::FileDescriptorProto;

use super::*;
use crate::{oip, v1};

/// `count` times the same field.
fn repeated(key: &[u8], count: usize) -> Vec<u8> {
    key.repeat(count)
}

#[test]
fn empty_elements_are_counted_before_they_exist() {
    // inputs = 5, of no bytes.
    let wire = repeated(&[0x2a, 0], 4 << 20);
    let refused = check("InferRequest", &wire);
    assert!(matches!(refused, Err(TooCostly::Memory { .. })), "{refused:?}");
    // Open.shapes = 8, Heartbeat.sessions = 1.
    assert!(check("OpenSessionRequest", &repeated(&[0x42, 0], 1 << 20)).is_err());
    assert!(check("HeartbeatRequest", &repeated(&[0x0a, 0], 1 << 20)).is_err());
    // TimingBatch.request = 3, not packed.
    assert!(check("TimingBatch", &repeated(&[0x18, 1], 4 << 20)).is_err());
}

#[test]
fn a_list_inside_a_list_is_counted() {
    let tensor = v1::InlineTensor { shape: vec![1; 1 << 20], ..Default::default() };
    let request = v1::InferRequest { inputs: vec![tensor], ..Default::default() };
    assert!(check("InferRequest", &request.encode_to_vec()).is_err());
}

#[test]
fn what_is_usual_passes() {
    let tensor = |at: usize| v1::InlineTensor {
        name: format!("past_key_values.{at}.value"),
        datatype: "FP32".into(),
        shape: vec![1, 32, 2048, 128],
        contents: vec![0; 1000].into(),
    };
    let inputs = (0..300).map(tensor).collect();
    let payload = vec![0xff; 8 << 20].into();
    let request = v1::InferRequest { inputs, payload, ..Default::default() };
    assert_eq!(check("InferRequest", &request.encode_to_vec()), Ok(()));
    let reference = v1::SessionRef { session_id: 1, token: vec![1; 32].into(), generation: 1 };
    let beat = v1::HeartbeatRequest { sessions: vec![reference; 4096] };
    assert_eq!(check("HeartbeatRequest", &beat.encode_to_vec()), Ok(()));
    let rows = crate::BATCH_ROWS_MAX;
    let batch = v1::TimingBatch {
        request: (0..rows as u64).collect(),
        started_unix_ns: vec![1 << 60; rows],
        stages: vec![1_000_000; rows * ferry_core::Stage::COUNT],
        kind: vec![3; rows],
        batch: vec![1; rows],
        priority: vec![0; rows],
        bytes_in: vec![1 << 20; rows],
        bytes_out: vec![1 << 20; rows],
        status: vec![0; rows],
        staged: vec![0; rows],
        ..Default::default()
    };
    assert_eq!(check("TimingBatch", &batch.encode_to_vec()), Ok(()));
}

#[test]
fn groups_are_refused_and_what_is_cut_off_is_left_to_the_decoder() {
    assert!(matches!(check("StatusRequest", &[0x0b]), Err(TooCostly::Group { .. })));
    assert_eq!(check("InferRequest", &[0x2a, 200]), Ok(()));
    assert_eq!(check("InferRequest", &[0xff]), Ok(()));
}

#[test]
fn every_request_of_every_method_is_known_and_bounded() {
    let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let services = files.file.iter().flat_map(|file| &file.service);
    let methods: Vec<_> = services.flat_map(|service| &service.method).collect();
    assert!(methods.len() > 20, "{}", methods.len());
    for method in methods {
        let input = method.input_type();
        let input = PACKAGES.iter().find_map(|it| input.strip_prefix(it)).unwrap();
        assert!(SCHEMA.by_name.contains_key(input), "{input}");
        assert!(decoded_max(input, 0).is_some(), "{input} is not bounded");
    }
}

#[test]
fn no_two_messages_have_one_name() {
    let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let is_ours =
        |it: &&FileDescriptorProto| PACKAGES.contains(&format!(".{}.", it.package()).as_str());
    let mut names = std::collections::HashSet::new();
    for message in files.file.iter().filter(is_ours).flat_map(|file| &file.message_type) {
        assert!(names.insert(message.name()), "{}", message.name());
    }
    assert!(names.len() > 100, "{}", names.len());
}

#[test]
fn numbers_and_parameters_of_an_inference_are_counted() {
    let request = |contents: oip::InferTensorContents| {
        let inputs = vec![oip::model_infer_request::InferInputTensor {
            contents: Some(contents),
            ..Default::default()
        }];
        oip::ModelInferRequest { inputs, ..Default::default() }.encode_to_vec()
    };
    let floats =
        oip::InferTensorContents { fp32_contents: vec![1.0; 8 << 20], ..Default::default() };
    assert_eq!(check("ModelInferRequest", &request(floats)), Ok(()));
    let tokens = |count| oip::InferTensorContents {
        int64_contents: vec![30_000; count],
        ..Default::default()
    };
    assert_eq!(check("ModelInferRequest", &request(tokens(100_000))), Ok(()));
    // Sixteen bytes for each one.
    let zeros = oip::InferTensorContents { int64_contents: vec![0; 1 << 20], ..Default::default() };
    assert!(check("ModelInferRequest", &request(zeros)).is_err());
    // inputs = 5, each with parameters = 4 of nothing.
    let inputs = repeated(&[0x2a, 2, 0x22, 0], 1 << 20);
    assert!(check("ModelInferRequest", &inputs).is_err());
    // parameters = 4 of nothing, whose key says that it is eight bytes; then inputs.
    let disguised = [vec![0x21, 0], repeated(&[0x2a, 0], 1 << 16)].concat();
    assert!(oip::ModelInferRequest::decode(&*disguised).is_ok());
    assert!(check("ModelInferRequest", &disguised).is_err());
    // raw_input_contents = 7, of no bytes.
    assert!(check("ModelInferRequest", &repeated(&[0x3a, 0], 4 << 20)).is_err());
    // An error would repeat the name.
    let long = oip::ModelInferRequest { id: "x".repeat(TEXTS_MAX), ..Default::default() };
    assert_eq!(check("ModelInferRequest", &long.encode_to_vec()), Ok(()));
    let longer = oip::ModelInferRequest { model_name: "y".into(), ..long };
    let refused = check("ModelInferRequest", &longer.encode_to_vec());
    assert_eq!(refused, Err(TooCostly::Texts { message: "ModelInferRequest" }));
    // settings = 1.
    assert!(check("TraceSettingRequest", &repeated(&[0x0a, 0], 1 << 17)).is_err());
}
