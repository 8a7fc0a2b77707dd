//! Models whose files change while they serve: what is loaded again, and what is told.

use std::path::Path;

use ferry_core::{Status, Transport};
use ferry_proto::v1;
use ferry_proto::v1::model::State;
use ferry_proto::v1::models_client::ModelsClient;
use tonic::Code;
use tonic::transport::Channel;

use crate::common::{Client, Running, ask};

/// Fields of protobuf of less than 128 bytes.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(content.len()).unwrap()], content].concat()
}

/// `y = x + w` with x and y `[N, 1]`; w is one number, in `add.data`.
pub(crate) fn add() -> Vec<u8> {
    let dims = [field(1, &field(2, b"N")), field(1, &[8, 1])].concat();
    let kind = field(1, &[&[8, 1], &*field(2, &dims)].concat());
    let value = |name: &[u8]| [field(1, name), field(2, &kind)].concat();
    let node = [field(1, b"x"), field(1, b"w"), field(2, b"y"), field(4, b"Add")].concat();
    let entry = |key: &[u8], value: &[u8]| field(13, &[field(1, key), field(2, value)].concat());
    let external = [entry(b"location", b"add.data"), entry(b"length", b"4")].concat();
    // One element, FLOAT, elsewhere.
    let weight = [&[8, 1, 16, 1], &*field(8, b"w"), &external, &[14 << 3, 1]].concat();
    let [x, y] = [field(11, &value(b"x")), field(12, &value(b"y"))];
    let graph = [field(1, &node), field(2, b"g"), field(5, &weight), x, y].concat();
    // The length of the graph takes two bytes.
    let long = u8::try_from(graph.len() & 0x7F).unwrap() | 0x80;
    let graph = [&[7 << 3 | 2, long, u8::try_from(graph.len() >> 7).unwrap()], &*graph].concat();
    [&[8, 8], &*graph, &*field(8, &[16, 13])].concat()
}

fn put(folder: &Path, name: &str, content: impl AsRef<[u8]>) {
    std::fs::write(folder.join(name), content).unwrap();
}

fn put_all(folder: &Path) {
    put(folder, "add.onnx", add());
    put(folder, "add.data", 1_f32.to_le_bytes());
    put(folder, "add.toml", "engine = 'tract'\nmax_batch = 2\nlabels = 'add.txt'\n");
    put(folder, "add.txt", "one\n");
}

struct Served {
    server: Running,
    models: ModelsClient<Channel>,
}

impl Served {
    async fn from(folder: &Path) -> Served {
        let folder = folder.to_owned();
        let server = Running::start(|config| config.models = Some(folder)).await;
        let models = ModelsClient::new(server.channel.clone());
        Served { server, models }
    }

    async fn load(&mut self) -> Result<v1::LoadModelResponse, tonic::Status> {
        self.load_with(None).await
    }

    async fn load_with(
        &mut self,
        toml: Option<&str>,
    ) -> Result<v1::LoadModelResponse, tonic::Status> {
        let config_toml = toml.map(str::to_owned);
        let load = v1::LoadModelRequest { name: "add".into(), version: 0, config_toml };
        self.models.load(load).await.map(tonic::Response::into_inner)
    }

    /// Loads, and says which files made it load again.
    async fn changed(&mut self) -> Vec<String> {
        let loaded = self.load().await.unwrap();
        assert_eq!(loaded.loaded, !loaded.changed.is_empty());
        loaded.changed
    }

    /// A session for so many numbers.
    async fn open(&self, batch: u64) -> Result<v1::OpenSessionResponse, tonic::Status> {
        let shapes = vec![v1::TensorShape { name: "x".into(), shape: vec![batch, 1] }];
        let ask = v1::OpenSessionRequest { shapes, ..ask(Transport::Tcp, 1, 1) };
        self.server.open(v1::OpenSessionRequest { model: "add".into(), ..ask }).await
    }

    /// What is added to nothing.
    async fn added(&self) -> f32 {
        let mut client = Client::connect(&self.open(1).await.unwrap());
        let (status, payload) = client.infer(&[0; 4]);
        assert_eq!(status, Status::Ok);
        f32::from_ne_bytes(payload.try_into().unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_file_of_a_model_is_loaded_again_where_it_changed_and_named() {
    let folder = tempfile::tempdir().unwrap();
    put_all(folder.path());
    let mut served = Served::from(folder.path()).await;
    assert_eq!(served.added().await, 1.0);
    assert_eq!(served.changed().await, [""; 0]);
    assert!(served.open(3).await.is_err(), "max_batch is 2");

    put(folder.path(), "add.toml", "engine = 'tract'\nmax_batch = 64\nlabels = 'add.txt'\n");
    assert_eq!(served.changed().await, ["add.toml"]);
    served.open(3).await.unwrap();
    put(folder.path(), "add.txt", "one\ntwo\n");
    assert_eq!(served.changed().await, ["add.txt"]);
    assert_eq!(served.open(1).await.unwrap().labels, ["one", "two"]);

    // Before a load it is the old one.
    put(folder.path(), "add.data", 50_f32.to_le_bytes());
    assert_eq!(served.added().await, 1.0);
    assert_eq!(served.changed().await, ["add.data"]);
    assert_eq!(served.added().await, 50.0);

    std::fs::remove_file(folder.path().join("add.toml")).unwrap();
    assert_eq!(served.changed().await, ["add.toml is gone"]);
    put(folder.path(), "add.toml", "engine = 'tract'");
    assert_eq!(served.changed().await, ["add.toml is new"]);
    assert_eq!(served.changed().await, [""; 0]);
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_loaded_again_is_refused_by_name_and_the_model_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    put_all(folder.path());
    let mut served = Served::from(folder.path()).await;
    for (file, content, hint) in [
        ("add.toml", &b"max_batch = 'many'"[..], "max_batch"),
        ("add.toml", b"engine = 'tract'\nlabels = 'none.txt'", "none.txt"),
        ("add.toml", b"\xFF", "UTF-8"),
        ("add.data", b"abc", "which has 3"),
        ("add.onnx", b"cut", "ONNX"),
    ] {
        put_all(folder.path());
        put(folder.path(), file, content);
        let refused = served.load().await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        for part in [file, hint, "goes on as it was"] {
            assert!(refused.message().contains(part), "{part}: {}", refused.message());
        }
        assert_eq!(served.added().await, 1.0);
    }
    let listed = served.models.list(v1::ListModelsRequest {}).await.unwrap().into_inner().models;
    assert!(listed.iter().all(|it| it.state() == State::Loaded), "{listed:?}");
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_comes_with_a_load_stays_until_the_next_load_without_one() {
    let folder = tempfile::tempdir().unwrap();
    put_all(folder.path());
    let mut served = Served::from(folder.path()).await;
    assert!(served.open(3).await.is_err(), "max_batch is 2");
    let given = "engine = 'tract'\nmax_batch = 3\nlabels = 'add.txt'";
    let loaded = served.load_with(Some(given)).await.unwrap();
    assert_eq!(loaded.changed, ["config_toml"]);
    assert!(loaded.model.unwrap().is_overridden);
    let get = v1::GetModelRequest { name: "add".into(), version: 0 };
    let got = served.models.get(get).await.unwrap().into_inner();
    assert_eq!(got.config_toml.as_deref(), Some(given), "the operator is told");
    assert_eq!(served.open(3).await.unwrap().labels, ["one"]);
    assert!(!served.load_with(Some(given)).await.unwrap().loaded, "it is the same");

    // Another one is refused by what is wrong in it, and the model goes on as it was.
    let long = format!("# {}", "x".repeat(128 << 10));
    for (given, hint) in [
        ("max_batch = 0", "max_batch"),
        ("max_bach = 1", "max_bach"),
        ("labels = '../add.txt'", "same folder"),
        ("labels = 'none.txt'", "none.txt"),
        (&long, "at most 131072"),
    ] {
        let refused = served.load_with(Some(given)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        let told = refused.message();
        assert!(told.starts_with("config_toml: ") && told.contains(hint), "{told}");
    }
    let refused = served.load_with(Some("engine = 'torch'")).await.unwrap_err();
    assert!(refused.message().contains("goes on as it was"), "{refused:?}");
    served.open(3).await.unwrap();

    // The file is of no account meanwhile, and is again with the next load.
    put(folder.path(), "add.toml", "engine = 'tract'\nmax_batch = 4");
    assert!(!served.load_with(Some(given)).await.unwrap().loaded);
    assert_eq!(served.changed().await, ["config_toml is gone"]);
    served.open(4).await.unwrap();
    let name = "echo".to_owned();
    let built_in = v1::LoadModelRequest { name, version: 0, config_toml: Some(String::new()) };
    assert_eq!(served.models.load(built_in).await.unwrap_err().code(), Code::InvalidArgument);
    served.server.stop().await;
}
