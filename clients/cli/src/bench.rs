//! `ferry bench`: ways to a model under closed-loop load, in turn within one run.

pub(crate) mod report;
mod ways;

use anyhow::anyhow;
use ferry_bench::{Measured, Outcome, Plan, measure};

use crate::args::BenchArgs;
use crate::control;
use crate::failure::Failure;
use crate::printer::Printer;

pub(crate) use ways::{OUT_BYTES, Sends};

pub(crate) fn run(args: &BenchArgs, printer: &Printer) -> Result<(), Failure> {
    let client = control::connect(&args.server)?;
    let plan = Plan {
        name: args.name.clone(),
        ways: ways::all(&client, args)?,
        clients: args.clients,
        requests: args.requests,
        warmup: args.warmup,
        window: args.window,
        wait: args.wait,
        rounds: args.rounds,
        record: !args.no_record,
        stop: control::stop_on_signals(&client),
    };
    printer.say(&format!(
        "{} × {} clients × {} requests (warm-up {}, window {}, wait {}), {} rounds in turn",
        args.model, args.clients, args.requests, args.warmup, args.window, args.wait, args.rounds
    ));
    let Measured { outcomes, unfinished, no_stages, rounds } =
        measure(&client, &plan, &mut printer.progress())?;
    report::print(&outcomes, printer)?;
    if let Some(why) = no_stages {
        printer.say(&format!("the server's stages over oip are not known: {why}"));
    }
    if plan.stop.is_asked() {
        let text = format!("interrupted: {rounds} of {} rounds were measured", args.rounds);
        return Err(Failure::Interrupted(text));
    }
    let failed: u64 = outcomes.iter().map(|outcome| outcome.errors).sum();
    let lost = lost(&outcomes);
    match outcomes.into_iter().find_map(|outcome| outcome.first_error) {
        Some(first) => Err(Failure::Requests { failed, first }),
        None => unfinished.map_or(lost, |error| Err(error.into())),
    }
}

/// A run whose timings are not all in the store has not ended well: SQL would tell half of it.
fn lost(outcomes: &[Outcome]) -> Result<(), Failure> {
    let of = |outcome: &Outcome| outcome.lost.unwrap_or(0);
    let lost: u64 = outcomes.iter().map(of).sum();
    if lost == 0 {
        return Ok(());
    }
    let ways = outcomes.iter().filter(|it| of(it) > 0).map(|it| match it.load.run_id {
        Some(run) => format!("run {run}"),
        None => it.load.way.label(),
    });
    Err(Failure::Failed(anyhow!(
        "{lost} timings were not stored ({}): SQL has the others alone; see the server's log, \
         and --store-bytes-max",
        ways.collect::<Vec<_>>().join(", ")
    )))
}
