//! The composition root: the only place, with `engines`, that names links, engines and the store.

mod lanes;
mod serve;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, anyhow};
use ferry_engine::RunOn;
use tokio::task::JoinHandle;

use crate::clock::unix_ns;
use crate::config::Config;
use crate::engines::{OnnxLoader, echo};
use crate::machine;
use crate::models::{EngineChoice, Metadata, Models, Served};
use crate::refusals::Refusals;
use crate::runs::RunBook;
use crate::services::loaded_event;
use crate::sessions::{Sessions, Tenants, keep_leases};
use crate::state::State;
use crate::store::{
    Location, NewRun, Recorder, RunEnd, SqliteConfig, SqliteStore, TimingStore, Writer,
    WriterConfig,
};
use crate::{findings, resources};

/// Version of the built-in model `echo`.
const ECHO_VERSION: u64 = 1;

/// A server, built and not serving yet.
#[derive(Debug)]
pub struct Server {
    state: Arc<State>,
    writer: Writer,
    background: Vec<JoinHandle<()>>,
}

impl Server {
    /// Builds everything but the control plane's socket: opens the store, starts the lanes, loads
    /// the models. Takes as long as the models take.
    ///
    /// # Errors
    /// What has to be mended: the store, the model folder, the data plane's address.
    pub async fn build(config: Config) -> anyhow::Result<Server> {
        let loader = OnnxLoader::new(config.onnxruntime.clone());
        let probe = loader.probe();
        let libraries_json = libraries(&probe);
        let machine = machine::describe();
        let location: Location = config.store.parse().context("--store")?;
        let store = SqliteStore::open(location, SqliteConfig::default())
            .await
            .with_context(|| format!("open the store {}", config.store))?;
        let store: Arc<dyn TimingStore> = Arc::new(store);
        let own = own_run(&config, &machine, &libraries_json);
        let own_run = store.start_run(&own).await.context("note the server's run")?;
        let (recorder, writer) =
            Writer::spawn(Arc::clone(&store), own_run, WriterConfig::default());
        let refusals = Arc::new(Refusals::new(recorder.clone()));
        let (lanes, failed) = lanes::start(&config, &refusals)?;
        let models = models(&config, loader, &recorder).await?;
        let findings = findings::look(&lanes, &failed, &probe);
        let tenants = Tenants::new(&config.tenants, config.quota, config.operator_key.clone());
        let state = Arc::new(State {
            sessions: Sessions::default(),
            runs: RunBook::default(),
            started: Instant::now(),
            draining: AtomicBool::new(false),
            config,
            models,
            lanes,
            tenants,
            store,
            recorder,
            refusals,
            findings,
            machine,
            libraries_json,
            own_run,
        });
        let every = state.config.sample_every;
        let background = vec![
            tokio::spawn(keep_leases(Arc::clone(&state))),
            tokio::spawn(resources::keep(Arc::clone(&state), every)),
        ];
        Ok(Server { state, writer, background })
    }

    /// What the server is made of.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Ends what `build` started: stores what waits, notes the end of the run.
    async fn end(self) -> anyhow::Result<()> {
        let Server { state, writer, background } = self;
        for task in background {
            task.abort();
        }
        for session in state.sessions.all() {
            let status = ferry_core::Status::Draining;
            crate::sessions::end(&state, &session, status, "server ended").await;
        }
        for lane in &state.lanes.0 {
            let handle = lane.handle.clone();
            let stopped = tokio::task::spawn_blocking(move || handle.stop()).await;
            if !matches!(stopped, Ok(Ok(()))) {
                tracing::warn!(lane = lane.name, "{stopped:?}");
            }
        }
        state.refusals.flush();
        let health = writer.stop().await;
        tracing::info!(
            rows_written = health.rows_written,
            rows_lost = health.rows_lost,
            "store closed"
        );
        let end = RunEnd { finished_unix_ns: unix_ns(), notes: None, lost: 0 };
        let finished = state.store.finish_run(state.own_run, &end).await;
        state.store.close().await;
        finished.context("note the end of the server's run")
    }
}

fn own_run(config: &Config, machine: &crate::store::Machine, libraries: &str) -> NewRun {
    let options = serde_json::json!({
        "listen": config.listen,
        "models": config.models,
        "shm_lanes": config.lanes.shm,
        "tcp_lanes": config.lanes.tcp,
        "zmq_lanes": config.lanes.zmq,
        "local_lanes": config.lanes.local,
        "lease_seconds": config.lease.as_secs_f64(),
        "queue": config.queue,
        "engine_threads": config.engine_threads,
    });
    NewRun {
        name: "ferryd".into(),
        kind: "serve".into(),
        started_unix_ns: unix_ns(),
        machine: machine.clone(),
        git_commit: machine::COMMIT.into(),
        options_json: options.to_string(),
        libraries_json: libraries.to_owned(),
        warmup: 0,
        notes: String::new(),
    }
}

fn libraries(onnx: &ferry_onnx::Probe) -> String {
    let onnx = match onnx {
        ferry_onnx::Probe::Found { version, .. } => Some(version.clone()),
        ferry_onnx::Probe::Missing { .. } => None,
    };
    let zmq = ferry_transport::zmq::library_version();
    serde_json::json!({ "ferryd": machine::VERSION, "onnxruntime": onnx, "zmq": zmq }).to_string()
}

/// Loads `echo` and the model folder.
async fn models(
    config: &Config,
    loader: OnnxLoader,
    recorder: &Recorder,
) -> anyhow::Result<Models> {
    let base = Metadata {
        description: String::new(),
        engine: EngineChoice::Auto,
        instances: 1,
        threads: config.engine_threads,
        queue: config.queue,
        run: RunOn::Worker,
        labels: Vec::new(),
        picture: None,
    };
    let lanes = config.lanes;
    let count = lanes.shm + lanes.tcp + lanes.zmq + lanes.local;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let instances = usize::try_from(count).unwrap_or(usize::MAX).saturating_add(cores);
    let metadata = Metadata {
        description: "any bytes in, any bytes out: measures the way, not a model".into(),
        instances,
        run: RunOn::Lane,
        ..base.clone()
    };
    let served = Served::start("echo", ECHO_VERSION, echo(instances), metadata, String::new())
        .map_err(|why| anyhow!("start the model echo: {why}"))?;
    recorder.event(loaded_event(&served));
    let models = Models::new(config.models.clone(), Arc::new(loader), base);
    models.add_built_in(served);
    let folder = config.models.clone();
    let models = tokio::task::spawn_blocking(move || {
        let loaded = models.load_all();
        loaded.map(|()| models)
    });
    let models = models.await.context("load the models")?.with_context(|| {
        let folder = folder.as_deref().unwrap_or(Path::new(""));
        format!("read the model folder {}; does --models name the right one?", folder.display())
    })?;
    for listed in models.list() {
        if let crate::models::State::Loaded(served) = &listed.state
            && served.name != "echo"
        {
            recorder.event(loaded_event(served));
        }
    }
    Ok(models)
}
