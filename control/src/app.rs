//! The composition root: the only place that names concrete links, engines and stores.

mod control_plane;
mod engines;
mod findings;
mod links;
mod loading;
mod polling;
mod serve;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ferry_core::{Area, Finding, error_text};

use crate::config::Config;
use crate::host::clock::unix_ns;
use crate::host::machine::{self, COMMIT, VERSION};
use crate::models::{Metadata, Models, Progress, Served};
use crate::serving::inline::Inline;
use crate::serving::refusals::Refusals;
use crate::serving::regions::Regions;
use crate::serving::residents::Residents;
use crate::sessions::{Carriers, Limits, Parts, Sessions};
use crate::state::{About, State};
use crate::store::{
    Location, NewRun, Recorder, RunEnd, SqliteConfig, SqliteStore, StoreError, TimingStore, Writer,
    WriterConfig,
};
use crate::tenants::Tenants;

pub use loading::LoadingPort;
pub use serve::{Listeners, bind};

/// How long the last rows may take when the server ends.
const FLUSH_WAIT: Duration = Duration::from_secs(10);

/// How long the last replies may take from a link into the hands of the kernel: their clients may
/// read slowly, and ending a session cuts off what its link still holds.
const LAST_REPLIES: Duration = Duration::from_secs(5);

/// How often it is looked whether they have.
const LAST_REPLIES_LOOK: Duration = Duration::from_millis(5);

/// Why a server could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The address is taken, not of this machine, or not allowed.
    #[error("cannot listen on {address}; {fix}")]
    Listen {
        /// The address.
        address: String,
        /// What to do.
        fix: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The store's URL has no meaning.
    #[error("--store: {0}")]
    Location(String),
    /// The store cannot be opened.
    #[error("--store {url}")]
    Store {
        /// Its URL.
        url: String,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// A folder of CUDA libraries that was named is of no use.
    #[error("--cuda-libraries: {0}")]
    CudaLibraries(String),
    /// The model folder cannot be read.
    #[error("--models {folder}: create the folder or name another")]
    Models {
        /// The folder.
        folder: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The built-in model does not start.
    #[error("start the model echo: {0}")]
    Echo(String),
    /// No thread or random number is left.
    #[error("{0}")]
    System(String),
}

/// A server that is ready to serve.
#[derive(Debug)]
pub struct Server {
    pub(crate) state: Arc<State>,
    writer: Writer,
}

impl Server {
    /// Opens the store, loads the models, starts the lanes. A model or a link that does not start
    /// is a finding, and the rest serves.
    ///
    /// # Errors
    /// [`BuildError`] if what was asked for by name is not there.
    pub async fn build(config: Config) -> Result<Server, BuildError> {
        let progress = Arc::new(Progress::default());
        let built = Server::build_unless(config, progress, std::future::pending()).await?;
        built.ok_or_else(|| BuildError::System("told to end by nobody".into()))
    }

    /// As [`build`](Server::build), but gives up once `told` is done: `None`, and what was begun is
    /// ended in order. A model that is being loaded then goes on to be on a thread of the runtime,
    /// since no engine can be stopped half-way; no further one is begun. `progress` counts models.
    ///
    /// # Errors
    /// As [`build`](Server::build).
    pub async fn build_unless(
        config: Config,
        progress: Arc<Progress>,
        told: impl Future<Output = ()> + Send,
    ) -> Result<Option<Server>, BuildError> {
        let location: Location = config
            .store
            .parse()
            .map_err(|error| BuildError::Location(ferry_core::error_text(&error)))?;
        let searched = config.cuda_libraries.find();
        searched.map_err(|error| BuildError::CudaLibraries(error_text(&error)))?;
        let refused = |source| BuildError::Store { url: config.store.clone(), source };
        let options = SqliteConfig { bytes_max: config.store_bytes_max, ..SqliteConfig::default() };
        let store = SqliteStore::open(location, options).await.map_err(refused)?;
        let store: Arc<dyn TimingStore> = Arc::new(store);
        let machine = machine::describe();
        let libraries_json = engines::libraries_json(&config);
        let run = NewRun {
            name: "ferryd".into(),
            kind: "serve".into(),
            started_unix_ns: unix_ns(),
            machine: machine.clone(),
            git_commit: COMMIT.to_owned(),
            options_json: options_json(&config),
            libraries_json: libraries_json.clone(),
            warmup: 0,
            notes: String::new(),
            tenant: None,
        };
        let own_run = store.start_run(&run).await.map_err(refused)?;
        let (recorder, writer) =
            Writer::spawn(Arc::clone(&store), own_run, WriterConfig::default());
        let refusals = Arc::new(Refusals::new(recorder.clone()));
        let models = load_models(config.clone(), recorder.clone(), progress, told).await?;
        let Some(models) = models else {
            end_run(&*store, own_run).await;
            writer.stop().await;
            return Ok(None);
        };
        let about = About {
            findings: Arc::from([]),
            machine,
            libraries_json,
            own_run,
            started: Instant::now(),
        };
        let state = Arc::new(assemble(config, models, store, recorder, refusals, about));
        tracing::info!(version = VERSION, commit = COMMIT, run = own_run, "server built");
        Ok(Some(Server { state, writer }))
    }

    /// Ends everything that [`build`](Server::build) started: sessions, lanes, run and store. What
    /// was in flight has been waited for before.
    pub(crate) async fn end(self) {
        let Server { state, writer } = self;
        let deadline = Instant::now() + LAST_REPLIES;
        while state.lanes.leaving() > 0 && Instant::now() < deadline {
            tokio::time::sleep(LAST_REPLIES_LOOK).await;
        }
        let cut_off = state.lanes.leaving();
        if cut_off > 0 {
            tracing::warn!(cut_off, "clients did not read their last replies in time");
        }
        for session in state.sessions.all() {
            let status = ferry_core::Status::Draining;
            state.sessions.end(&session, status, "server ended").await;
        }
        for lane in &state.lanes.0 {
            let handle = lane.handle.clone();
            let stopped = tokio::task::spawn_blocking(move || handle.stop()).await;
            if !matches!(stopped, Ok(Ok(()))) {
                tracing::warn!(lane = lane.name, "the lane did not stop: {stopped:?}");
            }
        }
        state.refusals.flush();
        if let Err(error) = state.recorder.flush(FLUSH_WAIT).await {
            tracing::error!(%error, "timings may be lost");
        }
        for run in state.runs.take_going_on() {
            end_run(&*state.store, run).await;
        }
        end_run(&*state.store, state.about.own_run).await;
        let health = writer.stop().await;
        tracing::info!(
            rows_written = health.rows_written,
            rows_lost = health.rows_lost,
            events_lost = health.events_lost,
            "server ended"
        );
    }
}

/// Starts the lanes, and puts everything together.
fn assemble(
    config: Config,
    models: Models,
    store: Arc<dyn TimingStore>,
    recorder: Recorder,
    refusals: Arc<Refusals>,
    about: About,
) -> State {
    let (lanes, (carriers, found)) = links::start(&config, &refusals);
    let of_lanes = found.into_iter().map(|found| Finding { area: Area::Transport, found });
    let findings: Arc<[Finding]> = of_lanes.chain(findings::all(&config)).collect();
    let lanes = Arc::new(lanes);
    let carriers = Carriers::new(carriers, Arc::clone(&lanes), Arc::clone(&findings));
    let (models, runs, gate) = (Arc::new(models), Arc::default(), Arc::default());
    let runtime = tokio::runtime::Handle::current();
    let residents = Arc::new(Residents::new(Arc::clone(&models), runtime.clone()));
    let sessions = Sessions::new(Parts {
        carriers,
        lanes: Arc::clone(&lanes),
        residents: Arc::clone(&residents),
        runs: Arc::clone(&runs),
        store: Arc::clone(&store),
        recorder: recorder.clone(),
        gate: Arc::clone(&gate),
        limits: Limits { lease: config.lease, request_bytes_max: config.request_bytes_max },
    });
    State {
        tenants: Tenants::new(&config.tenants, config.quota, config.operator_key.clone()),
        sessions: Arc::new(sessions),
        inline: Inline::new(Arc::clone(&residents), recorder.clone()),
        regions: Regions::new(config.shm_uids.clone()),
        models,
        residents,
        lanes,
        store,
        recorder,
        refusals,
        runs,
        gate,
        gpus: Arc::default(),
        driving: Arc::new(tokio::sync::Semaphore::new(drive_threads())),
        about: About { findings, ..about },
        runtime,
        restart: tokio::sync::Notify::new(),
        config,
    }
}

/// Threads of all drives together: more than a few for each core only take turns.
fn drive_threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (4 * cores).max(16)
}

async fn end_run(store: &dyn TimingStore, run: i64) {
    let end = RunEnd { finished_unix_ns: unix_ns(), notes: None };
    if let Err(error) = store.finish_run(run, &end).await {
        tracing::error!(run, %error, "the run's end is not stored");
    }
}

/// The options of the server's run. Keys are left out.
fn options_json(config: &Config) -> String {
    let tenants: Vec<&str> = config.tenants.iter().map(|tenant| tenant.name.as_str()).collect();
    serde_json::json!({
        "listen": config.listen,
        "data_host": config.data_host(),
        "lanes": links::lanes(config),
        "lease_s": config.lease.as_secs_f64(),
        "queue": config.queue,
        "engine_threads": config.engine_threads,
        "tenants": tenants,
    })
    .to_string()
}

/// Loads everything, on a thread of its own for as long as the engines take; `None` once `told` is
/// done.
async fn load_models(
    config: Config,
    recorder: Recorder,
    progress: Arc<Progress>,
    told: impl Future<Output = ()> + Send,
) -> Result<Option<Models>, BuildError> {
    let stop = Arc::new(AtomicBool::new(false));
    let is_stopped = Arc::clone(&stop);
    let loading = tokio::task::spawn_blocking(move || {
        let base = Metadata::unnamed(config.engine_threads, config.queue);
        let loader = engines::loader(&config);
        let models = {
            let control = config.model_control.clone();
            let models = Models::new(config.models.clone(), loader, base.clone(), control);
            models.within(config.models_budget).recorded_by(recorder)
        };
        models.add_built_in(echo(base)?);
        models.load_all(&is_stopped, &progress).map_err(|source| BuildError::Models {
            folder: config.models.map(|it| it.display().to_string()).unwrap_or_default(),
            source,
        })?;
        Ok::<_, BuildError>(models)
    });
    tokio::select! {
        loaded = loading => {
            loaded.map_err(|error| BuildError::System(error.to_string()))?.map(Some)
        }
        () = told => {
            stop.store(true, Ordering::Relaxed);
            tracing::info!("told to end while models are loaded");
            Ok(None)
        }
    }
}

fn echo(base: Metadata) -> Result<Arc<Served>, BuildError> {
    let (instances, metadata) = engines::echo(base);
    Served::start("echo", 1, instances, metadata).map_err(BuildError::Echo)
}
