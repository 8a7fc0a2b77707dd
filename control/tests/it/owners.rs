//! Runs belong to the tenant that started them: nobody else sees, ends, fills or falsifies them.

use ferry_control::Config;
use ferry_control::runs::UNFINISHED_MAX;
use ferry_control::tenants::{Quota, TenantConfig};
use ferry_core::{Status, Token, Transport};
use ferry_proto::channel::KEY_METADATA;
use ferry_proto::v1;
use ferry_proto::v1::inference_client::InferenceClient;
use ferry_proto::v1::models_client::ModelsClient;
use ferry_proto::v1::runs_client::RunsClient;
use ferry_proto::v1::sessions_client::SessionsClient;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::common::{Client, LONG, Running, ask, link, until};

type AddKey = fn(Request<()>) -> Result<Request<()>, tonic::Status>;
type Keyed = InterceptedService<Channel, AddKey>;

fn with_key(mut request: Request<()>, key: &'static str) -> Result<Request<()>, tonic::Status> {
    request.metadata_mut().insert(KEY_METADATA, key.parse().unwrap());
    Ok(request)
}

/// The channels of two tenants and of the operator.
fn channels(server: &Running) -> [Keyed; 3] {
    let keys: [AddKey; 3] = [
        |request| with_key(request, "a"),
        |request| with_key(request, "b"),
        |request| with_key(request, "operator"),
    ];
    keys.map(|key| InterceptedService::new(server.channel.clone(), key))
}

async fn server() -> Running {
    server_with(|_| {}).await
}

async fn server_with(edit: impl FnOnce(&mut Config)) -> Running {
    let tenant = |name: &str| TenantConfig {
        name: name.into(),
        key: name.into(),
        quota: Quota::default(),
        rate: None,
    };
    Running::start(|config| {
        config.tenants = vec![tenant("a"), tenant("b")];
        config.operator_key = Some("operator".into());
        edit(config);
    })
    .await
}

fn new_run() -> v1::StartRunRequest {
    v1::StartRunRequest {
        name: "secret".into(),
        kind: "bench".into(),
        options_json: r#"{"secret":1}"#.into(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenant_neither_sees_nor_ends_nor_uses_a_run() {
    let server = server().await;
    let [a, b, operator] = channels(&server);
    let run = RunsClient::new(a.clone()).start(new_run()).await.unwrap().into_inner();
    assert_eq!(run.tenant, "a");
    let run_id = run.run_id;
    let mut theirs = RunsClient::new(b.clone());
    let listed = theirs.list(v1::ListRunsRequest { limit: 0 }).await.unwrap().into_inner();
    assert_eq!(listed.runs, [], "nor the server's own");
    let finish = v1::FinishRunRequest { run_id, flush: false };
    for refused in [
        theirs.get(v1::GetRunRequest { run_id }).await.map(drop),
        theirs.finish(finish).await.map(drop),
        SessionsClient::new(b.clone())
            .open(v1::OpenSessionRequest { run_id, ..ask(Transport::Tcp, 64, 64) })
            .await
            .map(drop),
    ] {
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
        let unknown = theirs.get(v1::GetRunRequest { run_id: 4711 }).await.unwrap_err();
        assert_eq!(refused.message().replace(&run_id.to_string(), "4711"), unknown.message());
    }
    // Its owner and the operator do; a list has no texts.
    let mut own = RunsClient::new(a);
    for runs in [&mut own, &mut RunsClient::new(operator)] {
        let listed = runs.list(v1::ListRunsRequest { limit: 0 }).await.unwrap().into_inner().runs;
        let found = listed.iter().find(|it| it.run_id == run_id).unwrap();
        assert!(found.options_json.is_empty() && found.name == "secret");
        let got = runs.get(v1::GetRunRequest { run_id }).await.unwrap().into_inner();
        assert_eq!(got.options_json, run.options_json);
    }
    let finished = own.finish(finish).await.unwrap().into_inner();
    let again = own.finish(finish).await.unwrap_err();
    assert_eq!(again.code(), Code::FailedPrecondition);
    let got = own.get(v1::GetRunRequest { run_id }).await.unwrap().into_inner();
    assert_eq!(got.finished_unix_ns, finished.finished_unix_ns, "the end stays where it was");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_forges_losses_or_records_into_a_run_that_is_not_of_the_session() {
    let server = server().await;
    let [a, b, _] = channels(&server);
    let mut own = RunsClient::new(a.clone());
    let run_id = own.start(new_run()).await.unwrap().into_inner().run_id;
    let open = |run_id| v1::OpenSessionRequest {
        run_id,
        client_records: true,
        ..ask(Transport::Tcp, 64, 64)
    };
    let opened = SessionsClient::new(a.clone()).open(open(run_id)).await.unwrap().into_inner();
    let mut client = Client::connect(&opened);
    for _ in 0..5 {
        assert_eq!(client.infer(&[1; 64]).0, Status::Ok);
    }
    client.driver.flush();
    let foreign = SessionsClient::new(b.clone()).open(open(0)).await.unwrap().into_inner();
    let lying = |session: Option<v1::SessionRef>, run_id| v1::TimingBatch {
        session,
        run_id,
        lost: 4_294_967_295,
        ..Default::default()
    };
    let before = server.state.refusals.total();
    // Without a session, with somebody else's, of a run that the session is not of.
    let mut theirs = RunsClient::new(b);
    let nobody = theirs.record(tokio_stream::iter([lying(None, run_id)])).await.unwrap_err();
    assert_eq!(nobody.code(), Code::InvalidArgument);
    for session in [opened.session.clone(), foreign.session.clone()] {
        theirs.record(tokio_stream::iter([lying(session, run_id)])).await.unwrap();
    }
    for unknown in 1000..1100 {
        let batch = lying(foreign.session.clone(), unknown);
        theirs.record(tokio_stream::iter([batch])).await.unwrap();
    }
    assert_eq!(server.state.refusals.total() - before, 103, "each of them is counted");
    server.state.recorder.flush(LONG).await.unwrap();
    assert_eq!(server.state.recorder.health().rows_lost, 0);
    // The owner itself has lost no more than it was served.
    let mut batch = lying(opened.session, run_id);
    let records = client.records.0.lock().unwrap().clone();
    records.iter().take(3).for_each(|record| ferry_proto::append_row(&mut batch, record));
    let summary = own.record(tokio_stream::iter([batch.clone(), batch])).await.unwrap();
    assert_eq!(summary.into_inner().accepted, 6);
    let finish = v1::FinishRunRequest { run_id, flush: true };
    let run = own.finish(finish).await.unwrap().into_inner();
    assert_eq!((run.requests, run.lost), (6, 5));
    assert_eq!(server.state.recorder.health().rows_lost, 5, "all who tell of it agree");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_runs_and_their_texts_are_bounded_for_each_tenant() {
    let server = server().await;
    let [a, b, _] = channels(&server);
    let mut own = RunsClient::new(a);
    let mut last = 0;
    for _ in 0..UNFINISHED_MAX {
        last = own.start(new_run()).await.unwrap().into_inner().run_id;
    }
    let more = own.start(new_run()).await.unwrap_err();
    assert_eq!(more.code(), Code::ResourceExhausted);
    assert!(more.message().contains("Runs.Finish"), "{}", more.message());
    RunsClient::new(b).start(new_run()).await.expect("another tenant's do not count");
    own.finish(v1::FinishRunRequest { run_id: last, flush: false }).await.unwrap();
    own.start(new_run()).await.unwrap();
    for long in [
        v1::StartRunRequest { name: "x".repeat(5000), ..new_run() },
        v1::StartRunRequest { notes: "x".repeat(5000), ..new_run() },
        v1::StartRunRequest {
            options_json: format!(r#"{{"x":"{}"}}"#, "x".repeat(17_000)),
            ..new_run()
        },
    ] {
        assert_eq!(own.start(long).await.unwrap_err().code(), Code::InvalidArgument);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn load_inside_the_server_is_the_operators_and_has_so_many_threads() {
    let server = server().await;
    let [a, _, operator] = channels(&server);
    let drive = v1::DriveRequest {
        model: "echo".into(),
        clients: 64,
        requests: 1,
        shapes: ask(Transport::Tcp, 64, 64).shapes,
        ..Default::default()
    };
    let mut tenants = v1::local_client::LocalClient::new(a);
    assert_eq!(tenants.drive(drive.clone()).await.unwrap_err().code(), Code::PermissionDenied);
    let mut local = v1::local_client::LocalClient::new(operator);
    let room = server.state.driving.available_permits();
    if room < 64 {
        let many = local.drive(drive.clone()).await.unwrap_err();
        assert_eq!(many.code(), Code::ResourceExhausted);
        assert!(many.message().contains(&format!("room for {room}")), "{}", many.message());
    }
    let mut rows = 0;
    let mut batches = local.drive(v1::DriveRequest { clients: 2, ..drive }).await.unwrap();
    while let Some(batch) = batches.get_mut().message().await.unwrap() {
        rows += batch.request.len();
    }
    assert_eq!(rows, 2);
    until("its threads are back", || server.state.driving.available_permits() == room).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guessed_tokens_of_heartbeats_are_counted_and_contradictions_refused() {
    let server = server().await;
    let [a, ..] = channels(&server);
    let mut sessions = SessionsClient::new(a);
    let opened = sessions.open(ask(Transport::Tcp, 64, 64)).await.unwrap().into_inner();
    let good = opened.session.unwrap();
    let guess = v1::SessionRef { token: vec![7; 32].into(), ..good.clone() };
    let gone = v1::SessionRef { session_id: 5, ..guess.clone() };
    let before = server.state.refusals.total();
    let beat = v1::HeartbeatRequest { sessions: vec![guess, gone, good] };
    let answer = sessions.heartbeat(beat).await.unwrap().into_inner();
    assert_eq!(answer.gone.len(), 2);
    assert_eq!(server.state.refusals.total() - before, 1, "an unknown session is no guess");
    let both = v1::OpenSessionRequest {
        client_records: true,
        unrecorded: true,
        ..ask(Transport::Tcp, 64, 64)
    };
    let both = sessions.open(both).await.unwrap_err();
    assert_eq!(both.code(), Code::InvalidArgument);
    assert!(both.message().contains("client_records"), "{}", both.message());
    server.stop().await;
}

/// What was refused, of whom, in the order of its name.
async fn refused(server: &Running, operator: Keyed) -> Vec<String> {
    server.state.refusals.flush();
    server.state.recorder.flush(LONG).await.unwrap();
    let sql = "SELECT DISTINCT what || ' of ' || coalesce(tenant, 'nobody') AS it FROM refusals \
               ORDER BY it";
    let query = v1::QueryRequest { sql: sql.into(), rows_max: 0 };
    let mut answer = RunsClient::new(operator).query(query).await.unwrap().into_inner();
    let mut told = Vec::new();
    while let Some(message) = answer.message().await.unwrap() {
        for value in message.rows.into_iter().flat_map(|row| row.values) {
            let Some(v1::value::Kind::Text(text)) = value.kind else { panic!("{value:?}") };
            told.push(text);
        }
    }
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_of_whoever_tried_and_not_of_whose_session_it_names() {
    let server = server().await;
    let [a, b, operator] = channels(&server);
    let asked = || ask(Transport::Grpc, 64, 64);
    let opened = SessionsClient::new(a.clone()).open(asked()).await.unwrap().into_inner();
    let guess = || {
        let session = opened.session.clone().unwrap();
        Some(v1::SessionRef { token: vec![7; 32].into(), ..session })
    };
    let mut theirs = SessionsClient::new(b.clone());
    let beat = v1::HeartbeatRequest { sessions: vec![guess().unwrap()] };
    assert_eq!(theirs.heartbeat(beat).await.unwrap().into_inner().gone.len(), 1);
    theirs.resume(v1::ResumeSessionRequest { session: guess() }).await.unwrap_err();
    let end = v1::AttachSessionRequest { session: guess(), ..Default::default() };
    theirs.attach(end).await.unwrap_err();
    theirs.close(v1::CloseSessionRequest { session: guess() }).await.unwrap_err();
    let infer = v1::InferRequest { session: guess(), ..Default::default() };
    InferenceClient::new(b.clone()).infer(infer).await.unwrap_err();
    let nothing = tokio_stream::iter([v1::TimingBatch::default()]);
    RunsClient::new(b).record(nothing).await.unwrap_err();
    assert_eq!(server.state.refusals.total(), 6);
    let told = refused(&server, operator).await;
    assert_eq!(told, ["attach of b", "credentials of b", "no_session of b"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_a_link_is_of_the_tenant_whose_session_was_proved() {
    let server = server().await;
    let [a, _, operator] = channels(&server);
    let mut own = SessionsClient::new(a);
    for (lanes, transport) in (1..).zip([Transport::Shm, Transport::Tcp]) {
        let mut opened = own.open(ask(transport, 64, 64)).await.unwrap().into_inner();
        let (_, token, generation) = opened.session.as_ref().unwrap().parts().unwrap();
        link(&opened, Token::new([9; 32])).unwrap_err();
        opened.session.as_mut().unwrap().generation = generation.0 + 1;
        link(&opened, token).unwrap_err();
        until("both are counted", || server.state.refusals.total() == 2 * lanes).await;
    }
    let told = refused(&server, operator).await;
    assert_eq!(told, ["forged_token of nobody", "stale_generation of a"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_told_no_absolute_path_of_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path().join("my models");
    std::fs::create_dir(&models).unwrap();
    std::fs::write(models.join("broken.onnx"), b"no model").unwrap();
    std::fs::write(models.join("library.onnx"), ferry_zoo::digits::onnx()).unwrap();
    std::fs::write(models.join("library.toml"), "engine = 'onnx'").unwrap();
    let missing = folder.path().join("missing").join("libonnxruntime.so");
    let server = server_with(|config| {
        config.models = Some(models);
        config.onnxruntime = Some(missing);
    })
    .await;
    let [a, _, operator] = channels(&server);
    let (mut theirs, mut all) = (ModelsClient::new(a.clone()), ModelsClient::new(operator));
    let folder = folder.path().display().to_string();
    let list = v1::ListModelsRequest {};
    let failed = |listed: v1::ListModelsResponse| {
        let failed = listed.models.into_iter().filter(|it| !it.error.is_empty());
        failed.map(|it| (it.name, it.error)).collect::<Vec<_>>()
    };
    let whole = failed(all.list(list).await.unwrap().into_inner());
    // Where another test of this process has opened the library, that model serves.
    assert!(!whole.is_empty() && whole.iter().all(|(_, why)| why.contains(&folder)), "{whole:?}");
    let mut told = Vec::new();
    for (name, why) in failed(theirs.list(list).await.unwrap().into_inner()) {
        told.push(why);
        let get = v1::GetModelRequest { name: name.clone(), version: 0 };
        told.push(theirs.get(get).await.unwrap().into_inner().error);
        let open = v1::OpenSessionRequest { model: name.clone(), ..ask(Transport::Tcp, 64, 64) };
        let refused = SessionsClient::new(a.clone()).open(open).await.unwrap_err();
        told.push(refused.message().to_owned());
        let infer = v1::InferRequest { model: name, ..Default::default() };
        let refused = InferenceClient::new(a.clone()).infer(infer).await.unwrap_err();
        told.push(refused.message().to_owned());
    }
    assert_eq!(told.len(), 4 * whole.len());
    for why in &told {
        assert!(!why.contains(&folder) && !why.contains("my models"), "{why}");
        assert!(why.contains("broken.onnx") || why.contains("libonnxruntime.so"), "{why}");
    }
    server.stop().await;
}
