//! What was measured, for programs and for people.

use ferry_bench::{DERIVED, Distribution, Outcome, Way, round_ratios};
use ferry_client::Stage;
use serde_json::{Map, Value, json};

use crate::failure::Failure;
use crate::printer::{Printer, human_ns};
use crate::shapes::text;

/// One JSON object per way, one per line; or tables.
pub(crate) fn print(outcomes: &[Outcome], printer: &Printer) -> Result<(), Failure> {
    if printer.is_json() {
        return outcomes.iter().try_for_each(|outcome| {
            let mut all = to_json(outcome);
            all["ratio_p50"] = ratio_json(outcomes, outcome);
            printer.json(&all)
        });
    }
    let rows: Vec<_> = outcomes
        .iter()
        .map(|outcome| {
            let total = outcome.summary.of(Stage::Total);
            let ns = |share| human_ns(total.quantile(share) as f64);
            vec![
                outcome.load.way.label(),
                outcome.requests.to_string(),
                outcome.errors.to_string(),
                format!("{:.0}", rate(outcome)),
                ns(0.5),
                ns(0.9),
                ns(0.99),
                ns(0.999),
                ratio_text(outcomes, outcome),
                outcome.load.run_id.map_or_else(|| "–".to_owned(), |run| run.to_string()),
                outcome.lost.map_or_else(|| "?".to_owned(), |lost| lost.to_string()),
            ]
        })
        .collect();
    if let Some(outcome) = outcomes.iter().find(|it| !it.outputs.is_empty()).or(outcomes.first()) {
        printer.out(&format!("{} with {}", outcome.load.way.model(), shapes(outcome)))?;
    }
    let first = outcomes.first().map_or_else(String::new, |it| it.load.way.label());
    let ratio = format!("p50 / {first}");
    let head = [
        "transport",
        "requests",
        "errors",
        "req/s",
        "p50",
        "p90",
        "p99",
        "p99.9",
        &ratio,
        "run",
        "lost",
    ];
    printer.table(&head, &rows)?;
    stages(outcomes, printer)
}

/// Beside the first way: the median of the rounds, and the smallest and largest.
fn ratio(outcomes: &[Outcome], outcome: &Outcome) -> Option<(String, [f64; 3])> {
    let first = outcomes.first().filter(|first| !std::ptr::eq(*first, outcome))?;
    Some((first.load.way.label(), round_ratios(outcome, first)?))
}

fn ratio_text(outcomes: &[Outcome], outcome: &Outcome) -> String {
    match ratio(outcomes, outcome) {
        Some((_, [low, middle, high])) => format!("{middle:.3} ({low:.3}–{high:.3})"),
        None => "–".to_owned(),
    }
}

fn ratio_json(outcomes: &[Outcome], outcome: &Outcome) -> Value {
    let Some((to, [low, middle, high])) = ratio(outcomes, outcome) else { return Value::Null };
    json!({ "to": to, "median": middle, "min": low, "max": high })
}

/// Where the median goes, stage by stage.
fn stages(outcomes: &[Outcome], printer: &Printer) -> Result<(), Failure> {
    let labels: Vec<String> = outcomes.iter().map(|outcome| outcome.load.way.label()).collect();
    let mut head = vec!["stage (p50)"];
    head.extend(labels.iter().map(String::as_str));
    let names = Stage::ALL.iter().map(|stage| stage.name()).chain(DERIVED);
    let mut rows = Vec::new();
    for name in names {
        let cells: Vec<Option<String>> = outcomes
            .iter()
            .map(|outcome| {
                let mut named = outcome.summary.named();
                let (_, distribution) = named.find(|(known, _)| *known == name)?;
                Some(human_ns(distribution.quantile(0.5) as f64))
            })
            .collect();
        if cells.iter().any(Option::is_some) {
            let cells = cells.into_iter().map(|cell| cell.unwrap_or_else(|| "–".into()));
            rows.push(std::iter::once(name.to_owned()).chain(cells).collect());
        }
    }
    printer.table(&head, &rows)
}

/// The shapes that were measured, for people.
fn shapes(outcome: &Outcome) -> String {
    let all = |tensors: &[(String, Vec<u64>)]| {
        let each = tensors.iter().map(|(name, shape)| format!("{name} {}", text(shape)));
        each.collect::<Vec<_>>().join(", ")
    };
    match &*outcome.outputs {
        [] => all(&outcome.inputs),
        outputs => format!("{} → {}", all(&outcome.inputs), all(outputs)),
    }
}

fn rate(outcome: &Outcome) -> f64 {
    let seconds = outcome.lasted.as_secs_f64();
    if seconds > 0.0 { outcome.requests as f64 / seconds } else { 0.0 }
}

/// The contract's object, and what else explains it.
pub(crate) fn to_json(outcome: &Outcome) -> Value {
    let load = &outcome.load;
    let stages: Map<String, Value> = outcome
        .summary
        .named()
        .map(|(name, distribution)| (name.to_owned(), self::distribution(distribution)))
        .collect();
    let recorded = outcome.recorded.map(|counts| {
        json!({
            "accepted": counts.accepted,
            "lost": counts.lost,
            "refused": counts.refused,
        })
    });
    let shapes = |tensors: &[(String, Vec<u64>)]| {
        let each = tensors.iter().map(|(name, shape)| json!({ "name": name, "shape": shape }));
        each.collect::<Vec<_>>()
    };
    json!({
        "protocol": load.way.protocol(),
        "transport": load.way.transport(),
        "memory": load.way.place().map(|place| place.to_string()),
        "model": load.way.model(),
        "inputs": shapes(&outcome.inputs),
        "outputs": shapes(&outcome.outputs),
        "clients": load.clients,
        "requests": outcome.requests,
        "errors": outcome.errors,
        "run_id": load.run_id,
        "throughput_rps": rate(outcome),
        "total_ns": distribution(outcome.summary.of(Stage::Total)),
        "stages": stages,
        "window": load.window,
        "wait": matches!(load.way, Way::Session { .. }).then(|| load.wait.name()),
        "warmup": load.warmup,
        "seconds": outcome.lasted.as_secs_f64(),
        "recorded": recorded,
        "lost": outcome.lost,
        "first_error": outcome.first_error,
        "accounted": outcome.summary.accounted(),
    })
}

/// `p50` … `cov`, in nanoseconds; `null` where nothing was measured.
pub(crate) fn distribution(of: &Distribution) -> Value {
    if of.count() == 0 {
        return Value::Null;
    }
    json!({
        "p50": of.quantile(0.5),
        "p90": of.quantile(0.9),
        "p99": of.quantile(0.99),
        "p999": of.quantile(0.999),
        "max": of.max(),
        "mean": of.mean(),
        "cov": of.variation(),
    })
}
