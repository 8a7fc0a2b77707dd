//! `ferryd`: serves models. The first line on stdout is `{"listening":"HOST:PORT"}` (with `--http` also
//! `"http":"HOST:PORT"`, with `--metrics` `"metrics":"HOST:PORT"`), once every model is loaded or failed and it serves; nothing else is written there. The port answers before that,
//! and says how many models are loaded. The log goes to stderr.
//!
//! SIGTERM and SIGINT drain and end it, also while models are loaded. SIGHUP restarts the control
//! plane alone: every connection of gRPC is cut, and sessions go on.
//!
//! Exit codes: 0 after an orderly end, 1 if it failed, 64 if the options have no meaning.
#![forbid(unsafe_code)]

use ferry_core::error_text;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use ferry_control::host::{environment, limits, log};
use ferry_control::models::Progress;
use ferry_control::{Config, ConfigError, LoadingPort, Server, Settings, bind};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// The options have no meaning (`EX_USAGE` of sysexits).
const USAGE: u8 = 64;

/// How long the end waits for a model that is being loaded: no library can be stopped half-way, and
/// nothing is lost if the process ends under it. Small models are done by then.
const LOAD_ENDS_WITHIN: Duration = Duration::from_secs(1);

/// Serves models: a gRPC control plane and a data plane beside it.
#[derive(Debug, Parser)]
#[command(name = "ferryd", version)]
struct Args {
    /// TOML file with the options below as keys, and [tenants.NAME]; the command line wins
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What is logged: error, warn, info, debug, trace, or a filter such as ferry_control=debug
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,
    #[command(flatten)]
    settings: Settings,
}

impl Args {
    fn config(self) -> Result<Config, ConfigError> {
        let file = self.config.as_deref().map(Settings::read).transpose()?;
        let mut config = self.settings.over(file.unwrap_or_default())?;
        let libraries = &mut config.cuda_libraries;
        libraries.loader = folders("LD_LIBRARY_PATH");
        libraries.environments = [folders("VIRTUAL_ENV"), folders("CONDA_PREFIX")].concat();
        Ok(config)
    }
}

/// The folders that a variable of the environment lists.
fn folders(variable: &str) -> Vec<PathBuf> {
    let value = std::env::var_os(variable).unwrap_or_default();
    std::env::split_paths(&value).filter(|path| path.is_absolute()).collect()
}

fn main() -> ExitCode {
    environment::settle();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let wanted = !error.use_stderr();
            // Help and version on a closed terminal are nobody's loss.
            drop(error.print());
            return if wanted { ExitCode::SUCCESS } else { ExitCode::from(USAGE) };
        }
    };
    let filter = match EnvFilter::try_new(&args.log) {
        Ok(filter) => filter,
        Err(error) => return complain(USAGE, &format!("--log {}: {error}", args.log)),
    };
    let colours = std::io::stderr().is_terminal();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_env_filter(filter)
        .with_filter_reloading()
        // It would tell of a log that nobody reads on that same log, and panic.
        .log_internal_errors(false);
    let filter = subscriber.reload_handle();
    subscriber.init();
    log::began(args.log.clone(), move |other| filter.reload(other));
    let config = match args.config() {
        Ok(config) => config,
        Err(error) => return complain(USAGE, &error_text(&error)),
    };
    limits::raise_descriptors(config.sessions_max());
    if let Err(error) = limits::enough_to_start() {
        return complain(1, &error);
    }
    if let Some(address) = config.open_to_others() {
        tracing::warn!(
            address,
            "there are no tenants: whoever reaches this address is an operator"
        );
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(1, &format!("start the threads of the runtime: {error}")),
    };
    let ended = runtime.block_on(run(config));
    // Waits for a model that is being loaded, which nothing can stop half-way, but not for ever.
    runtime.shutdown_timeout(LOAD_ENDS_WITHIN);
    let status = match ended {
        Ok(()) => 0,
        Err(error) => {
            complain(1, &format!("{error:#}"));
            1
        }
    };
    // Fails only on a closed pipe, which is nobody's loss.
    drop(std::io::stdout().flush());
    ferry_onnx::leave(status)
}

async fn run(config: Config) -> anyhow::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    // First, so that a port in use is told before models are loaded.
    let listeners = bind(&config).await?;
    let address = listeners.local_addr()?;
    let (http, metrics) = (listeners.http_addr()?, listeners.metrics_addr()?);
    let mut told = std::pin::pin!(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    });
    let progress = Arc::new(Progress::default());
    let port = LoadingPort::open(&listeners, Arc::clone(&progress)).await?;
    let Some(server) = Server::build_unless(config, progress, &mut told).await? else {
        return Ok(());
    };
    port.close().await;
    let mut line = serde_json::json!({ "listening": address.to_string() });
    for (name, other) in [("http", http), ("metrics", metrics)] {
        if let Some(other) = other {
            line[name] = other.to_string().into();
        }
    }
    let mut out = std::io::stdout();
    writeln!(out, "{line}")?;
    out.flush()?;
    let [http, metrics] = [http, metrics].map(|it| it.map(tracing::field::display));
    tracing::info!(%address, http, metrics, "serving");
    let mut hup = signal(SignalKind::hangup())?;
    let state = Arc::clone(server.state());
    tokio::spawn(async move {
        while hup.recv().await.is_some() {
            state.restart.notify_one();
        }
    });
    let shutdown = async {
        told.await;
        tracing::info!("told to end: draining");
    };
    server.serve(listeners, shutdown).await
}

fn complain(code: u8, why: &str) -> ExitCode {
    // Nobody reads a closed stderr.
    drop(writeln!(std::io::stderr(), "ferryd: {why}"));
    ExitCode::from(code)
}
