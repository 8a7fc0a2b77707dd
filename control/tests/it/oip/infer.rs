//! Inferences that are answered.

use ferry_core::DType;
use ferry_proto::oip;
use ferry_proto::oip::infer_parameter::ParameterChoice;

use super::{a_digit, client, identity, number, output, parameter, put_digits, text};
use crate::common::Running;

#[tokio::test(flavor = "multi_thread")]
async fn the_identity_gives_back_what_it_got() {
    let server = Running::start(|_| {}).await;
    let mut client = client(&server);
    for shape in [[1, 1, 1], [3, 224, 224], [2, 0, 5], [1, 7, 13]] {
        let elements = usize::try_from(shape.iter().product::<i64>()).unwrap();
        let bytes: Vec<u8> = (0..=250).cycle().take(4 * elements).collect();
        let answer = client.model_infer(identity(&shape, &bytes)).await.unwrap().into_inner();
        assert_eq!((answer.model_name.as_str(), answer.model_version.as_str()), ("echo", "1"));
        assert_eq!(answer.id, "an id");
        let [output] = &answer.outputs[..] else { panic!("{answer:?}") };
        assert_eq!((output.name.as_str(), output.datatype.as_str()), ("OUTPUT0", "FP32"));
        assert_eq!(output.shape, shape);
        assert_eq!(answer.raw_output_contents, [bytes]);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_in_a_list_are_the_same_as_their_bytes() {
    let server = Running::start(|_| {}).await;
    let values: Vec<f32> = (0_u16..600).map(|at| f32::from(at) / 8.0).collect();
    let bytes: Vec<u8> = values.iter().flat_map(|it| it.to_le_bytes()).collect();
    let mut request = identity(&[2, 30, 10], &[]);
    request.raw_input_contents.clear();
    request.inputs[0].contents =
        Some(oip::InferTensorContents { fp32_contents: values, ..Default::default() });
    let answer = client(&server).model_infer(request).await.unwrap().into_inner();
    assert_eq!(answer.raw_output_contents, [bytes]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digit_has_its_label_among_the_classes() {
    let folder = tempfile::tempdir().unwrap();
    put_digits(folder.path());
    let path = folder.path().to_owned();
    let server = Running::start(|config| config.models = Some(path)).await;
    let mut client = client(&server);
    let (request, label) = a_digit();
    let whole = client.model_infer(request.clone()).await.unwrap().into_inner();
    let name = whole.outputs[0].name.clone();
    assert_eq!(whole.outputs[0].shape, [1, 10]);
    let scores: Vec<f32> = whole.raw_output_contents[0]
        .as_chunks()
        .0
        .iter()
        .map(|it| f32::from_ne_bytes(*it))
        .collect();
    let largest = (0..10).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap();
    assert_eq!(largest, usize::from(label));

    let mut asked = request.clone();
    asked.outputs = vec![output(&name, &[("classification", number(3))])];
    let answer = client.model_infer(asked).await.unwrap().into_inner();
    assert_eq!(
        (answer.outputs[0].datatype.as_str(), &*answer.outputs[0].shape),
        ("BYTES", &[3][..])
    );
    let (length, rest) = answer.raw_output_contents[0].split_first_chunk::<4>().unwrap();
    let first = String::from_utf8(rest[..u32::from_le_bytes(*length) as usize].to_vec()).unwrap();
    assert_eq!(first, format!("{:.6}:{label}:digit {label}", scores[largest]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_of_the_protocol_and_of_models_are_taken() {
    let server = Running::start(|_| {}).await;
    let mut request = identity(&[1, 1, 2], &[5; 8]);
    for (name, value) in [
        ("priority", parameter(ParameterChoice::Uint64Param(1))),
        ("timeout", number(60_000_000)),
        ("sequence_id", number(0)),
        ("triton_enable_empty_final_response", parameter(ParameterChoice::BoolParam(true))),
        ("whatever", text("a model may want")),
    ] {
        request.parameters.insert(name.into(), value);
    }
    request.outputs = vec![output("OUTPUT0", &[])];
    let answer = client(&server).model_infer(request).await.unwrap().into_inner();
    assert_eq!(answer.raw_output_contents, [vec![5; 8]]);
    server.state.recorder.flush(crate::common::LONG).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_held_once_an_answer_is_there() {
    let server = Running::start(|_| {}).await;
    let mut client = client(&server);
    for _ in 0..20 {
        client.model_infer(identity(&[1, 1, 1000], &[1; 4000])).await.unwrap();
    }
    let mut bad = identity(&[1, 1, 1000], &[1; 4000]);
    bad.inputs[0].datatype = DType::F64.name().into();
    client.model_infer(bad).await.unwrap_err();
    let identity = server.state.tenants.identify(None);
    let tenant = identity.tenant().unwrap();
    let all = tenant.quota();
    assert!(tenant.reserve(all.slots, all.bytes).is_ok(), "nothing is held after the calls");
    assert_eq!(tenant.in_flight(), 0);
    server.stop().await;
}
