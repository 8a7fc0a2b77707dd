//! What was tried and found, for programs and for people.

use std::path::Path;

use ferry_bench::tune::{Found, Point, Rung, Score, Space, Trial};
use serde_json::{Map, Value, json};

use super::config::{BATCH_MAX, DELAY};
use crate::args::TuneArgs;
use crate::failure::Failure;
use crate::printer::{Printer, human_ns};

/// Settings for people: `instances 2, threads 1, no batches`.
pub(super) fn settings(space: &Space, point: &Point) -> String {
    let is_off = space.values(point).any(|it| it == (BATCH_MAX, 1));
    let one = |(key, value)| match key {
        BATCH_MAX if is_off => Some("no batches".to_owned()),
        DELAY if is_off => None,
        key => Some(format!("{key} {value}")),
    };
    space.values(point).filter_map(one).collect::<Vec<_>>().join(", ")
}

fn settings_json(space: &Space, point: &Point) -> Value {
    Value::Object(space.values(point).map(|(key, it)| (key.to_owned(), json!(it))).collect())
}

/// One measurement for programs, as soon as it is over.
pub(super) fn trial(space: &Space, trial: &Trial, printer: &Printer) -> Result<(), Failure> {
    if !printer.is_json() {
        return Ok(());
    }
    let (rungs, best, error) = match &trial.outcome {
        Ok((rungs, score)) => (rungs.as_slice(), score_json(*score), Value::Null),
        Err(why) => (&[][..], Value::Null, json!(why)),
    };
    printer.json(&json!({
        "kind": "trial",
        "why": trial.why.name(),
        "settings": settings_json(space, &trial.point),
        "best": best,
        "rungs": rungs.iter().map(rung_json).collect::<Vec<_>>(),
        "error": error,
    }))
}

fn score_json(score: Score) -> Value {
    json!({
        "meets": score.meets,
        "throughput_rps": score.rate,
        "p99_ns": score.p99_ns,
        "clients": score.clients,
    })
}

fn rung_json(rung: &Rung) -> Value {
    json!({
        "clients": rung.clients,
        "requests": rung.requests,
        "errors": rung.errors,
        "first_error": rung.first_error,
        "throughput_rps": rung.rate,
        "p50_ns": rung.p50_ns,
        "p99_ns": rung.p99_ns,
    })
}

/// Everything that was tried, for people.
pub(super) fn table(space: &Space, all: &[Trial], printer: &Printer) -> Result<(), Failure> {
    if printer.is_json() || all.is_empty() {
        return Ok(());
    }
    let rows: Vec<Vec<String>> = all.iter().map(|trial| row(space, trial)).collect();
    printer.table(&["settings", "why", "req/s", "p50", "p99", "clients", ""], &rows)
}

fn row(space: &Space, trial: &Trial) -> Vec<String> {
    let head = [settings(space, &trial.point), trial.why.name().to_owned()];
    let none = || "–".to_owned();
    let rest = match &trial.outcome {
        Err(why) => [none(), none(), none(), none(), short(why)],
        Ok((rungs, score)) => {
            let rung = rungs.iter().find(|rung| rung.clients == score.clients);
            let note = if score.meets { String::new() } else { "too slow".to_owned() };
            let failed = rung.and_then(|rung| rung.first_error.as_deref()).map(short);
            [
                format!("{:.1}", score.rate),
                rung.map_or_else(none, |rung| human_ns(rung.p50_ns as f64)),
                human_ns(score.p99_ns as f64),
                score.clients.to_string(),
                failed.unwrap_or(note),
            ]
        }
    };
    head.into_iter().chain(rest).collect()
}

/// A text of a row; all of it is in the JSON.
fn short(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    match text.char_indices().nth(CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// What is best, and beside what.
pub(super) fn result(
    args: &TuneArgs,
    space: &Space,
    (found, measurements): (&Found, usize),
    out: Option<&Path>,
    printer: &Printer,
) -> Result<(), Failure> {
    let changed: Map<String, Value> =
        space.changed(&found.chosen).map(|(key, it)| (key.to_owned(), json!(it))).collect();
    if printer.is_json() {
        return printer.json(&json!({
            "kind": "result",
            "model": args.model,
            "slo_ms": args.slo_ms,
            "settings": settings_json(space, &found.chosen),
            "changed": changed,
            "best": score_json(found.score),
            "ratios_to_start": found.ratios,
            "measurements": measurements,
            "out": out.map(|out| out.display().to_string()),
        }));
    }
    let Some(out) = out else { return Ok(()) };
    let Score { rate, p99_ns, clients, .. } = found.score;
    printer.out(&format!(
        "{}: {rate:.1} req/s with {clients} client(s), p99 {}",
        settings(space, &found.chosen),
        human_ns(p99_ns as f64)
    ))?;
    let ratios: Vec<String> = found.ratios.iter().map(|ratio| format!("{ratio:.3}")).collect();
    printer.out(&match (ratios.is_empty(), changed.is_empty()) {
        (true, _) => "nothing looked better than the present settings, which stay".to_owned(),
        (false, true) => format!(
            "the best of the search was {} × the present settings in turns: no gain in every round, \
             so that they stay",
            ratios.join(", ")
        ),
        (false, false) => {
            format!("{} × the present settings, in turns", ratios.join(", "))
        }
    })?;
    printer.out(&format!("written to {}", out.display()))
}
