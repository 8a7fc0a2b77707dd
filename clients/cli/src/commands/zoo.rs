//! `ferry zoo`: reference models as ONNX files.

use std::path::Path;

use anyhow::Context;
use ferry_zoo::{Batch, Precision, ZooError};
use serde_json::json;

use crate::args::{ZooArgs, ZooPrecision, ZooVerb};
use crate::failure::Failure;
use crate::printer::Printer;

pub(crate) fn run(args: &ZooArgs, printer: &Printer) -> Result<(), Failure> {
    match &args.verb {
        ZooVerb::List => list(printer),
        ZooVerb::Write { name, out, seed, precision, open_batch } => {
            let precision = match precision {
                ZooPrecision::Fp32 => Precision::Fp32,
                ZooPrecision::Fp16 => Precision::Fp16,
            };
            let batch = if *open_batch { Batch::Open } else { Batch::One };
            let how = How { precision, batch, seed: *seed, is_all: name == "all" };
            let write = |name: &str| write(name, how, out, printer);
            match name.as_str() {
                "all" => ferry_zoo::names().iter().try_for_each(|name| write(name)),
                name => write(name),
            }
        }
    }
}

fn list(printer: &Printer) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for model in ferry_zoo::names().iter().filter_map(|name| ferry_zoo::describe(name)) {
        if printer.is_json() {
            printer.json(&json!({
                "name": model.name,
                "summary": model.summary,
                "parameters": model.parameters,
                "multiply_adds": model.multiply_adds,
                "file_bytes": model.file_bytes,
            }))?;
        }
        rows.push(vec![
            model.name.to_owned(),
            model.parameters.to_string(),
            format!("{:.2} G", model.multiply_adds as f64 / 1e9),
            format!("{:.1} MB", model.file_bytes as f64 / 1e6),
            model.summary.to_owned(),
        ]);
    }
    if printer.is_json() {
        return Ok(());
    }
    printer.table(&["model", "parameters", "multiply-adds", "file", "summary"], &rows)
}

#[derive(Clone, Copy)]
struct How {
    precision: Precision,
    batch: Batch,
    seed: u64,
    /// Whether every model is written that can be.
    is_all: bool,
}

fn write(name: &str, how: How, out: &Path, printer: &Printer) -> Result<(), Failure> {
    let How { precision, batch, seed, is_all } = how;
    if ferry_zoo::describe(name).is_none() {
        let known = ferry_zoo::names().join(", ");
        return Err(Failure::Usage(format!("the zoo has no {name:?}; it has {known}, or all")));
    }
    let bar = printer.bar(0, name);
    let written = ferry_zoo::write_as(precision, batch, name, out, seed, &mut |progress| {
        bar.set_length(progress.total_bytes);
        bar.set_position(progress.written_bytes);
    });
    bar.finish_and_clear();
    if let (true, Err(fixed @ ZooError::FixedBatch { .. })) = (is_all, &written) {
        printer.say(&fixed.to_string());
        return Ok(());
    }
    let written = written.with_context(|| format!("write {name} into {}", out.display()))?;
    let path = written.model.display().to_string();
    if printer.is_json() {
        return printer.json(&json!({
            "name": precision.model_name(name),
            "precision": precision.name(),
            "path": path,
            "bytes": written.model_bytes,
            "companions": written.companions,
        }));
    }
    printer.out(&format!("{path} ({:.1} MB)", written.model_bytes as f64 / 1e6))
}
