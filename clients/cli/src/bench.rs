//! `ferry bench`: transports under closed-loop load, in turn within one run.

pub(crate) mod report;

use anyhow::anyhow;
use ferry_bench::{Measured, Outcome, Picture, Plan, Work, decode_options, echo_shapes, measure};
use ferry_client::blocking::Client;

use crate::args::{BenchArgs, ShapeArgs};
use crate::control;
use crate::failure::Failure;
use crate::printer::Printer;
use crate::shapes::{self, Shape};

pub(crate) fn run(args: &BenchArgs, printer: &Printer) -> Result<(), Failure> {
    let client = control::connect(&args.server)?;
    let work = work(&client, args)?;
    printer.say(&format!(
        "{} × {} clients × {} requests (warm-up {}, window {}, wait {}), {} rounds in turn",
        args.model, args.clients, args.requests, args.warmup, args.window, args.wait, args.rounds
    ));
    let plan = plan(args);
    let Measured { outcomes, unfinished } = measure(&client, &plan, work, &mut printer.progress())?;
    report::print(&outcomes, printer)?;
    let failed: u64 = outcomes.iter().map(|outcome| outcome.errors).sum();
    let lost = lost(&outcomes);
    match outcomes.into_iter().find_map(|outcome| outcome.first_error) {
        Some(first) => Err(Failure::Requests { failed, first }),
        None => unfinished.map_or(lost, |error| Err(error.into())),
    }
}

fn plan(args: &BenchArgs) -> Plan {
    Plan {
        name: args.name.clone(),
        transports: args.transports.clone(),
        places: args.memory.clone(),
        clients: args.clients,
        requests: args.requests,
        warmup: args.warmup,
        window: args.window,
        wait: args.wait,
        rounds: args.rounds,
        record: !args.no_record,
    }
}

/// Reads the picture, if one is sent, and finds the shapes.
fn work(client: &Client, args: &BenchArgs) -> Result<Work, Failure> {
    // Fails here, before anything is measured, if there is no such model.
    let model = control::model(client, &args.model, args.version)?;
    let read = |path| Picture::read(path, args.kind.map(Into::into), &decode_options(&model));
    let picture = args.image.as_deref().map(read).transpose()?;
    let ShapeArgs { shapes: given, batch } = &args.shapes;
    let own = match &*args.model {
        "echo" => echo_shapes(args.in_bytes, args.out_bytes),
        _ => Vec::new(),
    };
    let own = own.into_iter().map(|(name, dims)| Shape { name, dims });
    let own = own.filter(|it| !given.iter().any(|given| given.name == it.name));
    let given: Vec<_> = own.chain(given.iter().cloned()).collect();
    let asked = shapes::asked(&model, &given, *batch)?;
    let inputs = shapes::of_inputs(&model, &asked);
    let mut work = Work::new(&args.model, args.version, asked);
    (work.inputs, work.priority, work.rdma) = (inputs, args.priority, args.rdma.device());
    Ok(match (&args.image, picture) {
        (Some(path), Some(picture)) => work.with_picture(path.clone(), picture),
        _ => work,
    })
}

/// A run whose timings are not all in the store has not ended well: SQL would tell half of it.
fn lost(outcomes: &[Outcome]) -> Result<(), Failure> {
    let of = |outcome: &Outcome| outcome.lost.unwrap_or(0);
    let lost: u64 = outcomes.iter().map(of).sum();
    if lost == 0 {
        return Ok(());
    }
    let runs = outcomes.iter().filter(|it| of(it) > 0).map(|it| it.load.run_id.to_string());
    Err(Failure::Failed(anyhow!(
        "{lost} timings were not stored (run {}): SQL has the others alone; see the server's log, \
         and --store-bytes-max",
        runs.collect::<Vec<_>>().join(", ")
    )))
}
