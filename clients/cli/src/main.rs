//! `ferry`, the command line: results on stdout, talk on stderr.
#![forbid(unsafe_code)]

mod args;
mod bench;
mod commands;
mod control;
mod failure;
mod floor;
mod npy;
mod printer;
mod shapes;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use args::{Args, Command};
use failure::Failure;
use printer::Printer;

fn main() -> ExitCode {
    let args = Args::parse();
    let printer = Printer::new(args.json);
    log();
    match run(args.command, &printer) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            printer.failure(&failure);
            ExitCode::from(failure.code())
        }
    }
}

/// What the SDK does by itself is told on stderr: a session that was opened again with more room, a
/// transport that did not work.
fn log() {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(EnvFilter::new("warn,ferry_client=info"))
        .without_time()
        .with_target(false)
        .init();
}

fn run(command: Command, printer: &Printer) -> Result<(), Failure> {
    match command {
        Command::Infer(args) => commands::infer::run(&args, printer),
        Command::Bench(args) if args.floor => floor::run(&args, printer),
        Command::Bench(args) => bench::run(&args, printer),
        Command::Tune(args) => commands::tune::run(&args, printer),
        Command::Models(args) => commands::models::run(&args, printer),
        Command::Zoo(args) => commands::zoo::run(&args, printer),
        Command::Sessions(args) => commands::sessions::run(&args, printer),
        Command::Runs(args) => commands::runs::run(&args, printer),
        Command::Sql(args) => commands::sql::run(&args, printer),
        Command::Doctor(args) => commands::doctor::run(&args, printer),
    }
}
