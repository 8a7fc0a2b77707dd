//! Models from a folder: loaded, broken, loaded again, unloaded, and a right answer.

use std::path::Path;

use ferry_conformance::transports::linked;
use ferry_core::{Status, Transport};
use ferry_proto::v1;
use ferry_proto::v1::inference_client::InferenceClient;
use ferry_proto::v1::model::State;
use ferry_proto::v1::models_client::ModelsClient;
use tonic::Code;

use crate::common::{Client, Running, ask, until};

fn put(folder: &Path, name: &str, engine: &str) {
    std::fs::write(folder.join(format!("{name}.onnx")), ferry_zoo::digits::onnx()).unwrap();
    let metadata = format!(
        "description = 'digits'\nengine = '{engine}'\ninstances = 2\nlabels = '{name}.txt'\n\
         [picture]\ninput = 'input'\nwidth = 8\nheight = 8\nchannels = 'gray'\n\
         scale = 0.00392156862745098\n"
    );
    std::fs::write(folder.join(format!("{name}.toml")), metadata).unwrap();
    std::fs::write(folder.join(format!("{name}.txt")), "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n").unwrap();
}

fn ask_digits(transport: Transport) -> v1::OpenSessionRequest {
    v1::OpenSessionRequest {
        model: "digits".into(),
        shapes: Vec::new(),
        request_bytes_min: 16 << 10,
        ..ask(transport, 1, 1)
    }
}

fn largest(payload: &[u8]) -> usize {
    let values = payload.chunks_exact(4).map(|it| f32::from_ne_bytes(it.try_into().unwrap()));
    values.enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digit_is_recognised_over_every_link_and_a_broken_file_stops_nobody() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "digits", "tract");
    std::fs::write(folder.path().join("broken.onnx"), b"not a model").unwrap();
    let path = folder.path().to_owned();
    let server = Running::start(|config| config.models = Some(path)).await;
    let mut models = ModelsClient::new(server.channel.clone());
    let listed = models.list(v1::ListModelsRequest {}).await.unwrap().into_inner().models;
    let states: Vec<_> = listed.iter().map(|it| (it.name.as_str(), it.state())).collect();
    assert_eq!(
        states,
        [("broken", State::Failed), ("digits", State::Loaded), ("echo", State::Loaded)]
    );
    assert!(listed[0].error.contains("broken.onnx"), "{}", listed[0].error);
    let digits = &listed[1];
    assert_eq!((digits.engine.as_str(), digits.instances, digits.labels.len()), ("tract", 2, 10));
    assert!(digits.takes_pictures && digits.sha256.len() == 64);

    let refused = server
        .open(v1::OpenSessionRequest { model: "broken".into(), ..ask_digits(Transport::Tcp) });
    let refused = refused.await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("broken.onnx"), "{}", refused.message());

    let demo = ferry_zoo::digits::demo_jpeg();
    for transport in linked() {
        let opened = server.open(ask_digits(transport)).await.unwrap();
        assert!(opened.takes_pictures);
        let mut client = Client::connect(&opened);
        let mut slot = client.table.acquire().unwrap();
        slot.request_mut().copy_in(0, demo.bytes).unwrap();
        let what = ferry_core::Request::of(ferry_core::RequestKind::Jpeg);
        client.driver.submit(slot, demo.bytes.len(), what, None).unwrap();
        let (status, payload) = client.reply();
        assert_eq!(status, Status::Ok);
        assert_eq!(largest(&payload), usize::from(demo.label), "{transport}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unload_ends_sessions_and_load_brings_the_model_back() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "digits", "tract");
    let path = folder.path().to_owned();
    let server = Running::start(|config| config.models = Some(path)).await;
    let mut models = ModelsClient::new(server.channel.clone());
    let mut client = server.client(ask_digits(Transport::Tcp)).await;
    let pixels = ferry_zoo::digits::held_out().next().unwrap();
    let tensor: Vec<u8> =
        pixels.pixels.iter().flat_map(|&p| (f32::from(p) / 255.0).to_ne_bytes()).collect();
    assert_eq!(client.infer(&tensor).0, Status::Ok);
    let name = || "digits".to_owned();
    models.unload(v1::UnloadModelRequest { name: name(), version: 0 }).await.unwrap();
    assert_eq!(server.state.sessions.count(), 0);
    until("its client learns of it", || {
        client.driver.poll();
        client.driver.state() != &ferry_transport::DriverState::Live
    })
    .await;
    let refused = server.open(ask_digits(Transport::Tcp)).await.unwrap_err();
    assert!(refused.message().contains("Models.Load"), "{}", refused.message());

    let load = || v1::LoadModelRequest { name: name(), version: 0, config_toml: None };
    let first = models.load(load()).await.unwrap().into_inner();
    let kept = server.open(ask_digits(Transport::Tcp)).await.unwrap();
    let again = models.load(load()).await.unwrap().into_inner();
    assert!(first.loaded && !again.loaded && again.changed.is_empty(), "{again:?}");
    assert_eq!(first.model.unwrap().sha256, again.model.unwrap().sha256);
    assert_eq!(server.state.sessions.count(), 1, "a file that did not change is not loaded again");
    assert_eq!(Client::connect(&kept).infer(&tensor).0, Status::Ok);

    // A model that serves needs no file; one that does not is not there without it.
    std::fs::remove_file(folder.path().join("digits.onnx")).unwrap();
    let get = || v1::GetModelRequest { name: name(), version: 0 };
    models.get(get()).await.unwrap();
    models.unload(v1::UnloadModelRequest { name: name(), version: 0 }).await.unwrap();
    assert_eq!(models.get(get()).await.unwrap_err().code(), Code::NotFound);
    let listed = models.list(v1::ListModelsRequest {}).await.unwrap().into_inner().models;
    assert!(listed.iter().all(|it| it.name != "digits"), "{listed:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_whose_new_file_is_broken_goes_on_with_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "digits", "tract");
    let path = folder.path().to_owned();
    let server = Running::start(|config| config.models = Some(path)).await;
    let mut models = ModelsClient::new(server.channel.clone());
    std::fs::write(folder.path().join("digits.onnx"), b"cut").unwrap();
    let load = v1::LoadModelRequest { name: "digits".into(), version: 0, config_toml: None };
    let refused = models.load(load).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    server.open(ask_digits(Transport::Tcp)).await.unwrap();
    for name in ["../digits", "/etc/passwd", ""] {
        let load = v1::LoadModelRequest { name: name.into(), version: 0, config_toml: None };
        assert_eq!(models.load(load).await.unwrap_err().code(), Code::InvalidArgument, "{name}");
    }
    let missing = v1::LoadModelRequest { name: "missing".into(), version: 0, config_toml: None };
    assert_eq!(models.load(missing).await.unwrap_err().code(), Code::NotFound);
    let echo = v1::UnloadModelRequest { name: "echo".into(), version: 0 };
    assert_eq!(models.unload(echo).await.unwrap_err().code(), Code::InvalidArgument);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_latest_version_is_served_and_the_others_by_number() {
    let folder = tempfile::tempdir().unwrap();
    for version in ["1", "3"] {
        let of_version = folder.path().join("digits").join(version);
        std::fs::create_dir_all(&of_version).unwrap();
        std::fs::write(of_version.join("model.onnx"), ferry_zoo::digits::onnx()).unwrap();
    }
    std::fs::write(folder.path().join("digits/model.toml"), "engine = 'tract'").unwrap();
    let path = folder.path().to_owned();
    let server = Running::start(|config| config.models = Some(path)).await;
    assert_eq!(server.open(ask_digits(Transport::Tcp)).await.unwrap().version, 3);
    let first = v1::OpenSessionRequest { version: 1, ..ask_digits(Transport::Tcp) };
    assert_eq!(server.open(first).await.unwrap().version, 1);
    let mut models = ModelsClient::new(server.channel.clone());
    models.unload(v1::UnloadModelRequest { name: "digits".into(), version: 3 }).await.unwrap();
    assert_eq!(server.state.sessions.count(), 1, "only the sessions of that version ended");
    assert_eq!(server.open(ask_digits(Transport::Tcp)).await.unwrap().version, 1);
    server.stop().await;
}

/// `y = relu(x)` with x and y `[N, M]`: protobuf is a sequence of numbered fields.
fn open_relu() -> Vec<u8> {
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    }
    let dims = [field(1, &field(2, b"N")), field(1, &field(2, b"M"))].concat();
    // Element type 1 is FLOAT.
    let kind = field(1, &[&[1 << 3, 1], &*field(2, &dims)].concat());
    let value = |name: &[u8]| [field(1, name), field(2, &kind)].concat();
    let node = [field(1, b"x"), field(2, b"y"), field(4, b"Relu")].concat();
    let graph = [field(1, &node), field(2, b"g"), field(11, &value(b"x")), field(12, &value(b"y"))];
    // IR version 8, the graph, and operator set 13.
    [&[1 << 3, 8], &*field(7, &graph.concat()), &*field(8, &[2 << 3, 13])].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn open_dimensions_are_bounded_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    for (name, metadata) in [("usual", ""), ("small", "max_batch = 2\nmax_elements = 10\n")] {
        std::fs::write(folder.path().join(format!("{name}.onnx")), open_relu()).unwrap();
        let metadata = format!("engine = 'tract'\n{metadata}");
        std::fs::write(folder.path().join(format!("{name}.toml")), metadata).unwrap();
    }
    let path = folder.path().to_owned();
    let server = Running::start(|config| config.models = Some(path)).await;
    let open = async |model: &str, shape: [u64; 2]| {
        let shapes = vec![v1::TensorShape { name: "x".into(), shape: shape.to_vec() }];
        let model = model.to_owned();
        server.open(v1::OpenSessionRequest { model, shapes, ..ask(Transport::Tcp, 1, 1) }).await
    };
    for (model, shape, numbers) in [
        ("usual", [257, 1], ["257", "allows 256", "max_batch"]),
        ("usual", [1, (64 << 20) + 1], ["67108865", "allows 67108864", "max_elements"]),
        ("small", [3, 1], ["3", "allows 2", "max_batch"]),
        ("small", [2, 6], ["12", "allows 10", "max_elements"]),
    ] {
        let refused = open(model, shape).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{model} {shape:?}");
        for number in numbers {
            assert!(refused.message().contains(number), "{}", refused.message());
        }
    }
    assert_eq!(server.state.sessions.count(), 0);
    // The same bound for a call without a session.
    let tensor = v1::InlineTensor {
        name: "x".into(),
        datatype: "FP32".into(),
        shape: vec![3, 1],
        contents: vec![0; 12].into(),
    };
    let request =
        v1::InferRequest { model: "small".into(), inputs: vec![tensor], ..Default::default() };
    let mut inference = InferenceClient::new(server.channel.clone());
    let refused = inference.infer(request).await.unwrap_err();
    assert!(refused.message().contains("max_batch"), "{}", refused.message());

    let mut client = Client::connect(&open("small", [2, 5]).await.unwrap());
    let input: Vec<u8> = (0..10_u8).flat_map(|it| (f32::from(it) - 5.0).to_ne_bytes()).collect();
    let (status, payload) = client.infer(&input);
    assert_eq!(status, Status::Ok);
    let expected: Vec<u8> =
        (0..10_u8).flat_map(|it| (f32::from(it) - 5.0).max(0.0).to_ne_bytes()).collect();
    assert_eq!(payload, expected);
    server.stop().await;
}
