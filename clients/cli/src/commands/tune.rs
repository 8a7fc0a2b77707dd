//! `ferry tune`: settings of a model that serve most within a bound of latency.

mod config;
mod knobs;
mod meter;
mod report;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use ferry_bench::Way;
use ferry_bench::tune::{Climb, Found, search};
use ferry_client::blocking::Client;
use ferry_client::{Transport, v1};

use crate::args::{Server, TuneArgs};
use crate::bench::Sends;
use crate::control;
use crate::failure::Failure;
use crate::printer::Printer;
use config::Config;
use meter::{Host, Loads};

/// Measurements of the last rounds, for which time is kept.
const LAST: u32 = 6;

/// Numbers of clients that most settings are measured with.
const RUNGS: u32 = 4;

/// Measurements that a search usually needs, whatever it may take.
const TRIALS_USUAL: u64 = 16;

pub(crate) fn run(args: &TuneArgs, printer: &Printer) -> Result<(), Failure> {
    let client = control::connect(&args.server)?;
    let operator = operator(&client, args)?;
    let model = present(&operator, args)?;
    let config = Config::read(model.config_toml.as_deref().unwrap_or_default())?;
    let cores = cores(&operator)?;
    let space = knobs::space(&model, &config, cores, args)?;
    let way = way(&client, args, &model)?;
    check_out(&args.out)?;
    printer.say(&format!(
        "{} over {} on {cores} cores: p99 within {} ms, at most {} measurements in about {} s",
        args.model,
        way.label(),
        args.slo_ms,
        args.trials,
        args.seconds
    ));
    let stop = control::stop_on_signals(&client);
    let time = Duration::from_secs(args.seconds);
    let trials = u32::try_from(args.trials.min(TRIALS_USUAL)).unwrap_or(u32::MAX);
    let climb = Climb {
        way,
        bound_ns: bound_ns(args),
        clients_max: args.clients_max,
        rung: time / (trials * RUNGS + LAST),
        stop,
    };
    let bar = printer.bar(args.trials, &args.model);
    let host = Host { client: &client, operator: &operator, model: &model, config: &config };
    let mut meter = Loads::new(host, &space, climb, time, (printer, &bar));
    let trials = usize::try_from(args.trials).unwrap_or(usize::MAX);
    let mut all = Vec::new();
    let found = search(&space, trials, &mut meter, &mut all);
    bar.finish_and_clear();
    // Whatever became of it; what was found is told all the same.
    let put_back = meter.put_back();
    report::table(&space, &all, printer)?;
    let ended = found.and_then(|found| match found {
        Ok(found) => finish(args, &space, &config, (&found, all.len()), printer),
        Err(why) => {
            let name = &args.model;
            Err(Failure::Refused(anyhow!("{name} cannot be measured as it is: {why}")))
        }
    });
    match (ended, put_back) {
        (ended, Ok(())) => ended,
        (Ok(()), not_back) => not_back,
        (Err(failure), Err(also)) => {
            Err(Failure::Failed(anyhow!("{}; {}", failure.text(), also.text())))
        }
    }
}

/// The connection that may load models.
fn operator(client: &Client, args: &TuneArgs) -> Result<Client, Failure> {
    match &args.operator_key {
        None => Ok(client.clone()),
        key => control::connect(&Server { url: args.server.url.clone(), key: key.clone() }),
    }
}

/// The model as it serves now.
fn present(operator: &Client, args: &TuneArgs) -> Result<v1::Model, Failure> {
    let model = control::model(operator, &args.model, args.version)?;
    if model.state() == v1::model::State::Loaded {
        return Ok(model);
    }
    let why = if model.error.is_empty() { "it is not loaded" } else { &model.error };
    let load = format!("`ferry models load {}`", args.model);
    Err(Failure::Refused(anyhow!("{} does not serve: {why}; {load} first", args.model)))
}

/// How many cores the server has.
fn cores(operator: &Client) -> Result<u64, Failure> {
    let status = operator.run(control::admin(operator).status(v1::StatusRequest {}));
    let run_id = status.map_err(not_operator)?.into_inner().run_id;
    let run = operator.run(control::runs(operator).get(v1::GetRunRequest { run_id }))?;
    let machine: serde_json::Value = serde_json::from_str(&run.into_inner().machine_json)
        .context("read what the server says of its machine")?;
    Ok(machine["cpu_cores"].as_u64().unwrap_or(1).max(1))
}

/// A refusal with what would do.
fn not_operator(status: tonic::Status) -> Failure {
    match status.code() {
        tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => Failure::Refused(anyhow!(
            "{} ({:?}): only the operator may load models: give --operator-key",
            status.message(),
            status.code()
        )),
        _ => status.into(),
    }
}

fn way(client: &Client, args: &TuneArgs, model: &v1::Model) -> Result<Way, Failure> {
    let sends = Sends {
        shapes: &args.shapes,
        image: args.image.as_deref(),
        kind: args.kind,
        priority: 0,
        rdma: args.rdma.device(),
    };
    let work = Arc::new(sends.work(model, model.version, Vec::new())?);
    let transport = match args.transport.0 {
        Some(Transport::Local) => {
            let text = "--transport local is driven inside the server, by numbers of requests";
            return Err(Failure::Usage(text.into()));
        }
        Some(transport) => transport,
        None => work.ask(client.session(&args.model)).open()?.agreed().transport,
    };
    Ok(Way::Session { transport, place: None, work })
}

fn bound_ns(args: &TuneArgs) -> u64 {
    u64::try_from(Duration::from_secs_f64(args.slo_ms / 1e3).as_nanos()).unwrap_or(u64::MAX)
}

/// That the file can be written, before minutes are spent.
fn check_out(path: &Path) -> Result<(), Failure> {
    let mut options = std::fs::OpenOptions::new();
    let existed = path.exists();
    options
        .write(true)
        .create(true)
        .open(path)
        .with_context(|| format!("write {}", path.display()))?;
    if !existed {
        drop(std::fs::remove_file(path));
    }
    Ok(())
}

fn finish(
    args: &TuneArgs,
    space: &ferry_bench::tune::Space,
    config: &Config,
    (found, measurements): (&Found, usize),
    printer: &Printer,
) -> Result<(), Failure> {
    if !found.score.meets {
        report::result(args, space, (found, measurements), None, printer)?;
        let best = found.score;
        return Err(Failure::Failed(anyhow!(
            "no settings meet a p99 of {} ms; the best reached {:.3} ms, with {} client(s) and \
             {:.1} requests/s: {}",
            args.slo_ms,
            best.p99_ns as f64 / 1e6,
            best.clients,
            best.rate,
            report::settings(space, &found.chosen)
        )));
    }
    let text = config.with(space.changed(&found.chosen))?;
    std::fs::write(&args.out, text).with_context(|| format!("write {}", args.out.display()))?;
    report::result(args, space, (found, measurements), Some(&args.out), printer)
}
