//! The engine `echo`, which serves the built-in model.

use std::collections::BTreeMap;

use ferry_engine::{Echo, Engine, Rebuild, RunOn};

use crate::host::machine::VERSION;
use crate::models::{Instances, Metadata, ShapeLimits};

/// Instances of echo beyond the cores: each serves one lane or one thread of gRPC at a time.
const ECHO_SPARE: usize = 4;

/// The built-in model `echo`, run by the lane itself: it costs less than waking a thread.
pub(in crate::app) fn echo(base: Metadata) -> (Instances, Metadata) {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let instances = cores + ECHO_SPARE;
    let metadata = Metadata {
        description: "gives back what it got, cut or repeated to the length asked for".into(),
        instances,
        threads: 1,
        run: RunOn::Lane,
        shapes: ShapeLimits::NONE,
        ..base
    };
    let engines = (0..instances).map(|_| Box::new(Echo::new()) as Box<dyn Engine>);
    let rebuild = Rebuild::new(|| Ok(Box::new(Echo::new())));
    let instances = Instances {
        engines: engines.collect(),
        engine: "echo",
        engine_version: VERSION.to_owned(),
        device: None,
        device_why: String::new(),
        weights_bytes: 0,
        precision: None,
        dims: BTreeMap::new(),
        files: Vec::new(),
        doubt: Some("it has no graph".to_owned()),
        rebuild: Some(rebuild),
    };
    (instances, metadata)
}
