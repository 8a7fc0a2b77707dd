//! `ferry runs`: what was measured.

use ferry_client::v1;
use serde_json::{Value, json};

use crate::args::{RunsArgs, RunsVerb};
use crate::commands::sql;
use crate::control;
use crate::failure::Failure;
use crate::printer::Printer;

/// Rows of the answers below: a handful per transport and model.
const ROWS_MAX: u64 = 1000;

pub(crate) fn run(args: &RunsArgs, printer: &Printer) -> Result<(), Failure> {
    let client = control::connect(&args.server)?;
    let mut runs = control::runs(&client);
    match args.verb.as_ref().unwrap_or(&RunsVerb::List { limit: 20 }) {
        RunsVerb::List { limit } => {
            let all = client.run(runs.list(v1::ListRunsRequest { limit: *limit }))?;
            list(&all.into_inner().runs, printer)
        }
        RunsVerb::Show { run_id } => {
            let run = client.run(runs.get(v1::GetRunRequest { run_id: *run_id }))?.into_inner();
            if printer.is_json() {
                return printer.json(&to_json(&run));
            }
            list(std::slice::from_ref(&run), printer)?;
            for (name, text) in [
                ("options", &run.options_json),
                ("machine", &run.machine_json),
                ("versions", &run.versions_json),
            ] {
                printer.out(&format!("{name}: {text}"))?;
            }
            let stages = format!("SELECT * FROM stage_breakdown WHERE run_id = {run_id}");
            sql::print(&sql::ask(&client, &stages, ROWS_MAX)?, printer)
        }
        RunsVerb::Compare { run_a, run_b } => {
            // The view `run_comparison` pairs equal transports; a bench's runs have one each, and
            // people compare those.
            let query = format!(
                "SELECT a.model, a.transport AS base_transport, b.transport, \
                 a.p50_ns AS base_p50_ns, b.p50_ns, 1.0 * b.p50_ns / a.p50_ns AS p50_ratio, \
                 a.p99_ns AS base_p99_ns, b.p99_ns, 1.0 * b.p99_ns / a.p99_ns AS p99_ratio \
                 FROM transport_percentiles AS a JOIN transport_percentiles AS b \
                 ON a.model = b.model WHERE a.run_id = {run_a} AND b.run_id = {run_b}"
            );
            sql::print(&sql::ask(&client, &query, ROWS_MAX)?, printer)
        }
    }
}

fn list(all: &[v1::Run], printer: &Printer) -> Result<(), Failure> {
    if printer.is_json() {
        return all.iter().try_for_each(|run| printer.json(&to_json(run)));
    }
    let rows: Vec<_> = all
        .iter()
        .map(|run| {
            let lasted = match run.finished_unix_ns {
                0 => "running".to_owned(),
                end => format!("{:.1} s", end.saturating_sub(run.started_unix_ns) as f64 / 1e9),
            };
            vec![
                run.run_id.to_string(),
                run.kind.clone(),
                run.name.clone(),
                run.requests.to_string(),
                run.lost.to_string(),
                lasted,
                run.commit.clone(),
            ]
        })
        .collect();
    printer.table(&["run", "kind", "name", "requests", "lost", "lasted", "commit"], &rows)
}

fn to_json(run: &v1::Run) -> Value {
    let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap_or(Value::Null);
    json!({
        "run_id": run.run_id,
        "name": run.name,
        "kind": run.kind,
        "started_unix_ns": run.started_unix_ns,
        "finished_unix_ns": (run.finished_unix_ns != 0).then_some(run.finished_unix_ns),
        "machine": parsed(&run.machine_json),
        "commit": run.commit,
        "options": parsed(&run.options_json),
        "versions": parsed(&run.versions_json),
        "warmup": run.warmup,
        "notes": run.notes,
        "requests": run.requests,
        "lost": run.lost,
    })
}
