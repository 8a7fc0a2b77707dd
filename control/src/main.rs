//! `ferryd`, the server.
#![forbid(unsafe_code)]

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use ferry_control::app::Server;
use ferry_control::config::{Config, Settings};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Exit code for wrong options: EX_USAGE of sysexits.
const USAGE: u8 = 64;

/// Serves models: gRPC for control, a data plane of its own for tensors, SQL for the times.
///
/// The first line on stdout is {"listening":"HOST:PORT"}; the log goes to stderr. Exit codes:
/// 0 ended as asked · 1 failed · 64 wrong options.
#[derive(Debug, Parser)]
#[command(name = "ferryd", version)]
struct Args {
    /// TOML file with the options below; the command line wins
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What is logged: error, warn, info, debug, trace, or a filter such as ferry_control=debug
    #[arg(long, default_value = "info")]
    log: String,
    #[command(flatten)]
    settings: Settings,
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let wrong = error.use_stderr();
            drop(error.print());
            return if wrong { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let config = match configure(args) {
        Ok(config) => config,
        Err(error) => {
            say(&error);
            return ExitCode::from(USAGE);
        }
    };
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error);
            ExitCode::FAILURE
        }
    }
}

/// Tells a person why there is no server.
fn say(error: &anyhow::Error) {
    // Nobody to tell is no reason for another exit code.
    drop(writeln!(std::io::stderr().lock(), "ferryd: {error:#}"));
}

fn configure(args: Args) -> anyhow::Result<Config> {
    let filter = EnvFilter::try_new(&args.log).context("--log")?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let file = match &args.config {
        Some(path) => Settings::read(path)?,
        None => Settings::default(),
    };
    Ok(args.settings.over(file)?)
}

fn run(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("ferryd")
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        // Before the models: an hour of loading must not end with a port in use.
        let listener = TcpListener::bind(&config.listen).await.with_context(|| {
            format!(
                "listen on {}: is another server there? Stop it, or give --listen another port \
                 (0 lets the system choose)",
                config.listen
            )
        })?;
        let address = listener.local_addr().context("read the address")?;
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let server = Server::build(config).await?;
        let ready = serde_json::json!({ "listening": address.to_string() });
        writeln!(std::io::stdout().lock(), "{ready}").context("write stdout")?;
        tracing::info!(%address, "serving");
        let told = async move {
            tokio::select! {
                _ = terminate.recv() => tracing::info!("SIGTERM"),
                _ = interrupt.recv() => tracing::info!("SIGINT"),
            }
        };
        server.serve(listener, told).await
    })
}
