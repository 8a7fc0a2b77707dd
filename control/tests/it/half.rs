//! A model in half precision takes pictures, and sees in them what the model in single precision
//! sees.

use std::path::Path;

use ::half::f16;
use ferry_core::{PixelFormat, Request, RequestKind, Status, Transport};
use ferry_proto::v1;
use ferry_proto::v1::model::State;
use ferry_proto::v1::models_client::ModelsClient;
use ferry_zoo::Precision;

use crate::common::{Client, Running, ask};

/// Pictures of which all are compared.
const PICTURES: usize = 40;

/// Both forms of the digits, as `ferry zoo write` makes them, but for tract.
fn put(folder: &Path) {
    for precision in [Precision::Fp32, Precision::Fp16] {
        ferry_zoo::write_in(precision, "digits", folder, 1, &mut |_| {}).unwrap();
        let metadata = folder.join(precision.model_name("digits")).with_extension("toml");
        let text = std::fs::read_to_string(&metadata).unwrap();
        assert!(text.contains("engine = \"auto\""));
        std::fs::write(&metadata, text.replace("\"auto\"", "\"tract\"")).unwrap();
    }
}

fn probabilities(scores: &[f32]) -> Vec<f32> {
    let largest = scores.iter().copied().fold(f32::MIN, f32::max);
    let powers: Vec<f32> = scores.iter().map(|score| (score - largest).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}

fn class(probabilities: &[f32]) -> usize {
    probabilities.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0
}

fn send(client: &mut Client, kind: RequestKind, bytes: &[u8]) -> (Status, Vec<u8>) {
    let slot = client.table.acquire().unwrap();
    slot.request().copy_in(0, bytes).unwrap();
    client.driver.submit(slot, bytes.len(), Request::of(kind), None).unwrap();
    client.reply()
}

/// What a model makes of a picture; its values have this many bytes.
fn seen(client: &mut Client, bytes_each: usize, kind: RequestKind, bytes: &[u8]) -> Vec<f32> {
    let (status, payload) = send(client, kind, bytes);
    assert_eq!(status, Status::Ok, "{}", String::from_utf8_lossy(&payload));
    assert_eq!(payload.len(), 10 * bytes_each);
    let scores: Vec<f32> = match bytes_each {
        2 => payload.as_chunks().0.iter().map(|two| f16::from_ne_bytes(*two).to_f32()).collect(),
        _ => payload.as_chunks().0.iter().map(|four| f32::from_ne_bytes(*four)).collect(),
    };
    probabilities(&scores)
}

#[tokio::test(flavor = "multi_thread")]
async fn half_precision_sees_in_pictures_what_single_precision_sees() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path());
    let path = folder.path().to_owned();
    let server = Running::start(|config| config.models = Some(path)).await;
    let mut models = ModelsClient::new(server.channel.clone());
    let listed = models.list(v1::ListModelsRequest {}).await.unwrap().into_inner().models;
    let half = listed.iter().find(|it| it.name == "digits-fp16").unwrap();
    assert_eq!(half.state(), State::Loaded, "{}", half.error);
    assert!(half.takes_pictures && half.labels.len() == 10);
    let signature = half.signature.as_ref().unwrap();
    for tensor in signature.inputs.iter().chain(&signature.outputs) {
        assert_eq!(tensor.datatype, "FP16");
    }

    let open = async |model: &str| {
        let (model, shapes) = (model.to_owned(), Vec::new());
        let asked = ask(Transport::Tcp, 1, 1);
        let asked = v1::OpenSessionRequest { model, shapes, request_bytes_min: 16 << 10, ..asked };
        let opened = server.open(asked).await.unwrap();
        assert!(opened.takes_pictures);
        Client::connect(&opened)
    };
    let (mut full, mut half) = (open("digits").await, open("digits-fp16").await);
    let demo = ferry_zoo::digits::demo_jpeg();
    let raw = RequestKind::Raw { width: 8, height: 8, format: PixelFormat::Gray8 };
    let pictures = ferry_zoo::digits::held_out().take(PICTURES);
    let pictures = pictures.map(|digit| (raw, digit.pixels.as_slice()));
    let mut differ = false;
    for (kind, bytes) in pictures.chain([(RequestKind::Jpeg, demo.bytes)]) {
        let full = seen(&mut full, 4, kind, bytes);
        let half = seen(&mut half, 2, kind, bytes);
        assert_eq!(class(&full), class(&half), "{full:?} {half:?}");
        for (full, half) in full.iter().zip(&half) {
            assert!((full - half).abs() <= 1e-2, "{full} {half}");
            differ |= full != half;
        }
    }
    assert!(differ, "nothing was rounded");

    let (status, why) = send(&mut half, raw, &[0; 63]);
    assert_eq!(status, Status::BadRequest, "{}", String::from_utf8_lossy(&why));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_table_without_such_an_input_is_told_what_one_needs() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path());
    let metadata = folder.path().join("digits-fp16.toml");
    let text = std::fs::read_to_string(&metadata).unwrap();
    std::fs::write(&metadata, text.replace("input = \"input\"", "input = \"picture\"")).unwrap();
    let path = folder.path().to_owned();
    let server = Running::start(|config| config.models = Some(path)).await;
    let mut models = ModelsClient::new(server.channel.clone());
    let listed = models.list(v1::ListModelsRequest {}).await.unwrap().into_inner().models;
    let half = listed.iter().find(|it| it.name == "digits-fp16").unwrap();
    assert_eq!(half.state(), State::Failed);
    for part in ["\"picture\"", "FP32 or FP16", "input FP16[1,1,8,8]"] {
        assert!(half.error.contains(part), "{}", half.error);
    }
    server.stop().await;
}
