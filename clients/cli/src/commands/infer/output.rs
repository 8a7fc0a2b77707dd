//! What one request brought back, for programs and for people.

use ferry_client::{DType, Stage};
use serde_json::{Map, Value, json};

use super::Answer;
use super::top::top;
use crate::failure::Failure;
use crate::printer::{Printer, human_ns};
use crate::shapes::text;

pub(super) struct Output {
    pub(super) name: String,
    pub(super) dtype: DType,
    pub(super) shape: Vec<u64>,
    pub(super) bytes: Vec<u8>,
}

/// Prints an answer; `files` has the file of each output, where they were written.
pub(super) fn print(answer: &Answer, files: &[String], printer: &Printer) -> Result<(), Failure> {
    if printer.is_json() {
        return printer.json(&to_json(answer, files));
    }
    printer.out(&format!(
        "{} v{} ({}) over {}: {}",
        answer.model, answer.version, answer.engine, answer.transport, answer.reason
    ))?;
    let shape = |(name, shape): (&str, &[u64])| format!("{name} {}", text(shape));
    let inputs = answer.inputs.iter().map(|(name, dims)| shape((name, dims)));
    let outputs = answer.outputs.iter().map(|output| shape((&output.name, &output.shape)));
    let (inputs, outputs): (Vec<_>, Vec<_>) = (inputs.collect(), outputs.collect());
    printer.out(&format!("  {} → {}", inputs.join(", "), outputs.join(", ")))?;
    for (class, label, score) in &top(&answer.outputs, &answer.labels) {
        let label = label.as_deref().map(|label| format!(" {label}")).unwrap_or_default();
        printer.out(&format!("  class {class}{label}: {score:.4}"))?;
    }
    for (output, file) in answer.outputs.iter().zip(files) {
        printer.out(&format!("  wrote {} to {file}", output.name))?;
    }
    let times = &answer.times;
    let named = Stage::ALL.iter().filter_map(|&stage| Some((stage.name(), times.of(stage)?)));
    let named = named.chain(times.unattributed().map(|ns| ("unattributed", ns)));
    let rows: Vec<_> = named.map(|(name, ns)| vec![name.to_owned(), human_ns(ns as f64)]).collect();
    printer.table(&["stage", "time"], &rows)
}

fn to_json(answer: &Answer, files: &[String]) -> Value {
    let stage = |stage: &Stage| (stage.name().to_owned(), json!(answer.times.of(*stage)));
    let input = |(name, shape): &(String, Vec<u64>)| json!({ "name": name, "shape": shape });
    let outputs = answer.outputs.iter().enumerate().map(|(i, output)| {
        json!({
            "name": output.name,
            "datatype": output.dtype.name(),
            "shape": output.shape,
            "file": files.get(i),
        })
    });
    let top = top(&answer.outputs, &answer.labels);
    json!({
        "transport": answer.transport.name(),
        "transport_reason": answer.reason,
        "model": answer.model,
        "version": answer.version,
        "engine": answer.engine,
        "session": format!("{:016x}", answer.session),
        "inputs": answer.inputs.iter().map(input).collect::<Vec<_>>(),
        "outputs": outputs.collect::<Vec<_>>(),
        "top": top.iter().map(|(class, label, score)| {
            json!({ "class": class, "label": label, "score": score })
        }).collect::<Vec<_>>(),
        "total_ns": answer.times.of(Stage::Total),
        "unattributed_ns": answer.times.unattributed(),
        "stages": Stage::ALL.iter().map(stage).collect::<Map<String, Value>>(),
    })
}
