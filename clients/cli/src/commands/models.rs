//! `ferry models`: what is served.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use ferry_client::v1;
use serde_json::{Value, json};

use crate::args::{ModelsArgs, ModelsVerb};
use crate::control;
use crate::failure::Failure;
use crate::printer::Printer;

pub(crate) fn run(args: &ModelsArgs, printer: &Printer) -> Result<(), Failure> {
    let client = control::connect(&args.server)?;
    let mut models = control::models(&client);
    match args.verb.as_ref().unwrap_or(&ModelsVerb::List) {
        ModelsVerb::List => {
            let all = client.run(models.list(v1::ListModelsRequest {}))?.into_inner().models;
            list(&all, printer)
        }
        ModelsVerb::Get { name, version } => {
            let request = v1::GetModelRequest { name: name.clone(), version: *version };
            show(&client.run(models.get(request))?.into_inner(), printer)
        }
        ModelsVerb::Load { name, version, config } => {
            let read = |path: &PathBuf| {
                std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
            };
            let config_toml = config.as_ref().map(read).transpose()?;
            let (name, version) = (name.clone(), *version);
            let request = v1::LoadModelRequest { name, version, config_toml };
            loaded(&client.run(models.load(request))?.into_inner(), printer)
        }
        ModelsVerb::Unload { name, version } => {
            let request = v1::UnloadModelRequest { name: name.clone(), version: *version };
            client.run(models.unload(request))?;
            printer.say(&format!("{name} is not served any more"));
            Ok(())
        }
    }
}

fn loaded(response: &v1::LoadModelResponse, printer: &Printer) -> Result<(), Failure> {
    let v1::LoadModelResponse { model, loaded, changed } = response;
    let model = model.clone().unwrap_or_default();
    if printer.is_json() {
        let mut all = to_json(&model);
        all["loaded"] = json!(loaded);
        all["changed"] = json!(changed);
        return printer.json(&all);
    }
    let name = &model.name;
    match (loaded, changed.is_empty()) {
        (false, _) => printer.say(&format!("{name} serves already, and none of its files changed")),
        (true, true) => printer.say(&format!("{name} is loaded")),
        (true, false) => {
            printer.say(&format!("{name} is loaded again, changed: {}", changed.join(", ")));
        }
    }
    show(&model, printer)
}

fn list(all: &[v1::Model], printer: &Printer) -> Result<(), Failure> {
    if printer.is_json() {
        return all.iter().try_for_each(|model| printer.json(&to_json(model)));
    }
    let rows: Vec<_> = all
        .iter()
        .map(|model| {
            let stats = model.stats.unwrap_or_default();
            vec![
                model.name.clone(),
                model.version.to_string(),
                shown_state(model).to_owned(),
                format!("{} {}", model.engine, model.engine_version),
                model.device.clone(),
                model.precision.clone(),
                model.instances.to_string(),
                stats.served.to_string(),
                stats.failed.to_string(),
                about(model),
            ]
        })
        .collect();
    let head = [
        "model",
        "version",
        "state",
        "engine",
        "device",
        "precision",
        "instances",
        "served",
        "failed",
        "about",
    ];
    printer.table(&head, &rows)
}

/// Why it does not serve; else what it is.
fn about(model: &v1::Model) -> String {
    match model.state() {
        v1::model::State::Failed => model.error.clone(),
        v1::model::State::Available => model.notes.join("; "),
        v1::model::State::Loaded => model.description.clone(),
    }
}

fn show(model: &v1::Model, printer: &Printer) -> Result<(), Failure> {
    if printer.is_json() {
        return printer.json(&to_json(model));
    }
    list(std::slice::from_ref(model), printer)?;
    if model.is_overridden {
        printer.say("configured by what came with the call that loaded it, not by its folder");
    }
    if !model.aliases.is_empty() {
        printer.say(&format!("also called {}", model.aliases.join(", ")));
    }
    for note in &model.notes {
        printer.say(&format!("note: {note}"));
    }
    let signature = model.signature.clone().unwrap_or_default();
    let row = |way: &str, spec: &v1::TensorSpec| {
        vec![spec.name.clone(), way.to_owned(), spec.datatype.clone(), shape(spec)]
    };
    let inputs = signature.inputs.iter().map(|spec| row("input", spec));
    let rows: Vec<_> =
        inputs.chain(signature.outputs.iter().map(|spec| row("output", spec))).collect();
    printer.table(&["tensor", "way", "type", "shape"], &rows)?;
    if let Some(batches) = told(&model.batches) {
        printer.out(&format!("batches: {batches}"))?;
    }
    if let Some(why) = told(&model.device_reason) {
        printer.out(&format!("device: {why}"))?;
    }
    match &model.residency {
        Some(residency) => printer.out(&format!("memory: {}", in_memory(residency))),
        None => Ok(()),
    }
}

/// How a model is, or was, in memory.
fn in_memory(residency: &v1::Residency) -> String {
    let v1::Residency { state, place, bytes, keep, loads, evictions, last_load_us } = residency;
    let stays = if *keep { ", never makes room" } else { "" };
    format!(
        "{state}, {bytes} bytes of {place}{stays}; loaded {loads} times, last in {:.1} ms; made room \
         {evictions} times",
        Duration::from_micros(*last_load_us).as_secs_f64() * 1e3
    )
}

/// For people: of a model that serves and is not in memory now, that.
fn shown_state(model: &v1::Model) -> &str {
    let residency = model.residency.as_ref().map(|it| it.state.as_str());
    residency.filter(|state| *state != "resident").unwrap_or_else(|| state(model))
}

fn state(model: &v1::Model) -> &'static str {
    match model.state() {
        v1::model::State::Available => "available",
        v1::model::State::Loaded => "loaded",
        v1::model::State::Failed => "failed",
    }
}

fn shape(spec: &v1::TensorSpec) -> String {
    let dims = spec.shape.iter().map(|dim| match &dim.size {
        Some(v1::dim::Size::Fixed(size)) => size.to_string(),
        Some(v1::dim::Size::Named(name)) => name.clone(),
        Some(v1::dim::Size::Any(_)) => "…".to_owned(),
        None => "?".to_owned(),
    });
    dims.collect::<Vec<_>>().join(" × ")
}

/// Text that is left empty where there is nothing to tell.
fn told(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn residency_json(residency: &v1::Residency) -> Value {
    let v1::Residency { state, place, bytes, keep, loads, evictions, last_load_us } = residency;
    json!({
        "state": state,
        "place": place,
        "bytes": bytes,
        "keep": keep,
        "loads": loads,
        "evictions": evictions,
        "last_load_ms": Duration::from_micros(*last_load_us).as_secs_f64() * 1e3,
    })
}

fn to_json(model: &v1::Model) -> Value {
    let stats = model.stats.unwrap_or_default();
    let signature = model.signature.clone().unwrap_or_default();
    let tensor = |spec: &v1::TensorSpec| json!({ "name": spec.name, "datatype": spec.datatype, "shape": shape(spec) });
    json!({
        "name": model.name,
        "version": model.version,
        "state": state(model),
        "error": model.error,
        "engine": model.engine,
        "engine_version": model.engine_version,
        "device": told(&model.device),
        "device_reason": told(&model.device_reason),
        "residency": model.residency.as_ref().map(residency_json),
        "precision": told(&model.precision),
        "batches": told(&model.batches),
        "instances": model.instances,
        "threads": model.threads,
        "queue": model.queue,
        "takes_pictures": model.takes_pictures,
        "description": model.description,
        "is_overridden": model.is_overridden,
        "aliases": model.aliases,
        "notes": model.notes,
        "sha256": model.sha256,
        "inputs": signature.inputs.iter().map(tensor).collect::<Vec<_>>(),
        "outputs": signature.outputs.iter().map(tensor).collect::<Vec<_>>(),
        "served": stats.served,
        "failed": stats.failed,
        "refused": stats.refused,
        "late": stats.late,
        "cancelled": stats.cancelled,
        "queued_now": stats.queued_now,
        "in_flight_now": stats.in_flight_now,
    })
}
