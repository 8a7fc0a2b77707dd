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

use std::process::ExitCode;

use clap::Parser;

use args::{Args, Command};
use failure::Failure;
use printer::Printer;

fn main() -> ExitCode {
    let args = Args::parse();
    let printer = Printer::new(args.json);
    match run(args.command, &printer) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            printer.failure(&failure);
            ExitCode::from(failure.code())
        }
    }
}

fn run(command: Command, printer: &Printer) -> Result<(), Failure> {
    match command {
        Command::Infer(args) => commands::infer::run(&args, printer),
        Command::Bench(args) if args.floor => floor::run(&args, printer),
        Command::Bench(args) => bench::run(&args, printer),
        Command::Models(args) => commands::models::run(&args, printer),
        Command::Zoo(args) => commands::zoo::run(&args, printer),
        Command::Sessions(args) => commands::sessions::run(&args, printer),
        Command::Runs(args) => commands::runs::run(&args, printer),
        Command::Sql(args) => commands::sql::run(&args, printer),
        Command::Doctor(args) => commands::doctor::run(&args, printer),
    }
}
