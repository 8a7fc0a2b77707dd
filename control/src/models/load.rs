//! From a file to a model that serves.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use ferry_core::{BoundSignature, BoundTensor, Signature, error_text};
use ferry_cuda::Device;
use ferry_engine::{BatchOptions, FileDigest, Picture, Pool, PoolError, PoolOptions, RUN_AT_MOST};
use ferry_vision::Numbers;

use super::changes::changes;
use super::metadata::{Loaded, cache};
use super::shapes::{check_dims, has_batch};
use super::warmup;
use super::{
    Batch, Batches, Cache, Counts, DimSizes, EngineLoader, Given, Instances, LoadSpec, Metadata,
    ModelError, Precision, Rooms, Source, Timings,
};
use crate::host::clock::unix_ns;
use crate::host::rate::Buckets;
use crate::store::{Event, ModelRow};

/// A model that is loaded.
#[derive(Debug)]
pub struct Served {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u64,
    /// What runs it.
    pub pool: Pool,
    /// `onnx`, `tract`, `tensorrt`, `echo`.
    pub engine: &'static str,
    /// The version of the engine's library.
    pub engine_version: String,
    /// The GPU that it runs on; `None` for the CPU.
    pub device: Option<Arc<Device>>,
    /// In which numbers it computes; `None` where nothing is computed.
    pub precision: Option<Precision>,
    /// Sizes of open dimensions that it was built for.
    pub dims: BTreeMap<String, DimSizes>,
    /// Whether requests to it run as one.
    pub batches: Batches,
    /// How large its replies are.
    pub rooms: Rooms,
    /// What it was asked.
    pub counts: Arc<Counts>,
    /// How long that took, by transport.
    pub timings: Timings,
    /// Its answers that are kept; `None`: none is.
    pub cache: Option<Cache>,
    /// How often each tenant may ask it.
    pub buckets: Buckets,
    /// What the operator says of it.
    pub metadata: Metadata,
    /// Of its file; empty for a built-in model.
    pub sha256: String,
    /// Every file that it was made of.
    files: Vec<FileDigest>,
    /// Wall clock, nanoseconds since 1970.
    pub loaded_unix_ns: u64,
}

impl Served {
    /// What the model takes and gives.
    pub fn signature(&self) -> &Signature {
        self.pool.signature()
    }

    /// Chooses every open dimension, within the model's bounds.
    ///
    /// # Errors
    /// [`ModelError`] with the tensor that does not fit, and what would.
    pub fn bind(&self, shapes: &[(String, Vec<u64>)]) -> Result<BoundSignature, ModelError> {
        let bound = self.signature().bind(shapes)?;
        self.metadata.shapes.check(self.signature(), &bound)?;
        check_dims(&self.dims, self.signature(), &bound)?;
        Ok(bound)
    }

    /// Room for the replies of a session that was bound with `shapes`, which wishes for at least
    /// `wish` bytes. A session that gave the shape of every output gets room for those.
    ///
    /// # Errors
    /// [`ModelError`] if it wishes for more than the model may make.
    pub fn reply_room(
        &self,
        bound: &BoundSignature,
        shapes: &[(String, Vec<u64>)],
        wish: u64,
    ) -> Result<u64, ModelError> {
        let given = |output: &&BoundTensor| shapes.iter().any(|(name, _)| *name == output.name);
        let mut open = bound.outputs.iter().filter(|output| output.open).peekable();
        if wish == 0 && open.peek().is_some() && open.all(|output| given(&output)) {
            return Ok(bound.reply_bytes());
        }
        self.rooms.of(bound, &self.metadata.shapes, wish)
    }

    /// The largest batch that a request may have; `None` for a model without one.
    pub fn batch_max(&self) -> Option<u64> {
        has_batch(self.signature()).then_some(self.metadata.shapes.batch_max)
    }

    /// How many items a request of these shapes has; 1 for a model without a batch.
    pub fn items(&self, bound: &BoundSignature) -> u64 {
        let first = bound.inputs.first().and_then(|input| input.shape.first());
        first.copied().filter(|_| has_batch(self.signature())).unwrap_or(1)
    }

    /// Every file that it was made of.
    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.iter().map(|digest| &digest.path)
    }

    /// Whether its configuration came with the call that loaded it, and is not its folder's.
    pub fn is_overridden(&self) -> bool {
        self.metadata.given.is_some()
    }

    /// Whether pictures are served.
    pub fn takes_pictures(&self) -> bool {
        self.metadata.picture.is_some()
    }

    /// Whether nothing can be served any more: every instance is gone, or the GPU is lost.
    pub fn is_lost(&self) -> bool {
        self.pool.is_dead() || self.device.as_ref().is_some_and(|device| device.is_lost())
    }

    /// Where it runs: `cpu`, `cuda:N`.
    pub fn device_name(&self) -> String {
        match &self.device {
            Some(device) => format!("cuda:{}", device.ordinal()),
            None => "cpu".to_owned(),
        }
    }

    /// That it was loaded, for the store.
    pub fn loaded_event(&self) -> Event {
        Event::Loaded(Box::new(ModelRow {
            name: self.name.clone(),
            version: self.version.to_string(),
            engine: self.engine.to_owned(),
            device: self.device_name(),
            precision: self.precision.map(Precision::name),
            sha256: self.sha256.clone(),
            loaded_unix_ns: self.loaded_unix_ns,
        }))
    }

    /// Name and version, for people.
    pub fn label(&self) -> String {
        format!("{} version {}", self.name, self.version)
    }

    /// Starts a model from its instances.
    ///
    /// # Errors
    /// A text that says what does not fit.
    pub fn start(
        name: &str,
        version: u64,
        instances: Instances,
        metadata: Metadata,
    ) -> Result<Arc<Served>, String> {
        let Instances {
            engines,
            engine,
            engine_version,
            device,
            precision,
            dims,
            files,
            doubt,
            rebuild,
        } = instances;
        let told = |why: String| metadata.told(&why);
        if let Some((input, _)) = &metadata.picture {
            let first = engines.first().map(|engine| &engine.signature().inputs);
            check_picture_input(first.map_or(&[][..], Vec::as_slice), input).map_err(told)?;
        }
        let can_be_ended = engines.iter().all(|engine| engine.interrupt().is_some());
        if metadata.run_at_most.is_some() && !can_be_ended {
            let device = device.as_ref().map_or("the CPU", |_| "a GPU");
            tracing::warn!(
                model = name,
                version,
                engine,
                device,
                "run_seconds_max does not hold: this engine cannot end a run under way"
            );
        }
        let signature = engines.first().map(|engine| engine.signature().clone());
        let signature = signature.unwrap_or_default();
        let notes = metadata.declared.check(&signature)?;
        for note in metadata.notes.iter().chain(&notes) {
            tracing::warn!(model = name, version, note, "not as configured");
        }
        let loaded = Loaded {
            signature: &signature,
            engine,
            on_gpu: device.is_some(),
            dims: &dims,
            doubt: doubt.as_deref(),
        };
        let batches = Batch::decide(&metadata, loaded).map_err(told)?;
        let options = PoolOptions {
            queue: metadata.queue.max,
            levels: metadata.queue.levels,
            run: metadata.run,
            run_at_most: metadata.run_at_most.unwrap_or(RUN_AT_MOST),
            picture: metadata.picture.as_ref().map(|&(_, picture): &(String, Picture)| picture),
            rebuild,
            batch: batches.options.clone(),
            ..PoolOptions::default()
        };
        let rooms = Rooms::new(metadata.outputs.clone(), &signature).map_err(told)?;
        let pool = Pool::start(name, engines, options).map_err(|error| match error {
            PoolError::Thread(_) => error_text(&error),
            of_settings => metadata.told(&error_text(&of_settings)),
        })?;
        log_batches(name, version, &batches);
        Ok(Arc::new(Served {
            name: name.to_owned(),
            version,
            pool,
            engine,
            engine_version,
            device,
            precision,
            dims,
            batches,
            rooms,
            counts: Arc::default(),
            timings: Timings::default(),
            cache: metadata.cache.map(Cache::new),
            buckets: Buckets::new(metadata.rate),
            sha256: files.first().map(FileDigest::hex).unwrap_or_default(),
            files: files.into_iter().chain(metadata.files.iter().cloned()).collect(),
            metadata: metadata.with_notes(notes),
            loaded_unix_ns: unix_ns(),
        }))
    }

    /// Loads a model's file, of which `metadata` is said. May take seconds.
    ///
    /// # Errors
    /// A text that says what is wrong with the file, or what in the metadata does not fit it.
    pub(super) fn load(
        source: &Source,
        loader: &dyn EngineLoader,
        mut metadata: Metadata,
    ) -> Result<Arc<Served>, String> {
        // Its data is not kept for longer than it is sent.
        let warmups = std::mem::take(&mut metadata.warmup);
        if metadata.cache.is_some() {
            cache::check(&source.file)?;
        }
        let spec = LoadSpec {
            file: &source.file,
            engine: &metadata.engine,
            device: metadata.device,
            gpu: metadata.gpu,
            dims: &metadata.dims,
            instances: metadata.instances,
            threads: metadata.threads,
        };
        let instances = loader.load(&spec).map_err(|error| error_text(&error))?;
        let served = Served::start(&source.name, source.version, instances, metadata)?;
        warmup::run(&warmups, &served)?;
        Ok(served)
    }

    /// What changed since it was loaded of its files and of what came with the call, for people;
    /// empty if nothing did.
    pub(super) fn changes(&self, source: &Source, given: Option<&Given>) -> Vec<String> {
        let own = self.metadata.given.as_ref();
        let given = match (own, given) {
            (own, given) if own == given => None,
            (Some(own), None) => Some(format!("{} is gone", own.field())),
            (_, given) => given.map(|it| it.field().to_owned()),
        };
        let said_elsewhere = self.metadata.given.is_some();
        given.into_iter().chain(changes(&self.files, source, said_elsewhere)).collect()
    }
}

fn log_batches(model: &str, version: u64, batches: &Batches) {
    let Batches { options, why, is_promise } = batches;
    let Some(BatchOptions { rows_max, delay, preferred, .. }) = options else {
        tracing::info!(model, version, why, "requests are not batched");
        return;
    };
    let delay_us = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
    let preferred: Vec<_> = preferred.iter().map(u64::to_string).collect();
    let preferred = preferred.join(", ");
    if *is_promise {
        tracing::warn!(model, version, rows_max, delay_us, preferred, why, "requests are batched");
    } else {
        tracing::info!(model, version, rows_max, delay_us, preferred, why, "requests are batched");
    }
}

fn check_picture_input(inputs: &[ferry_core::TensorSpec], input: &str) -> Result<(), String> {
    match inputs {
        [one] if one.name == input && Numbers::of(one.dtype).is_some() => Ok(()),
        _ => {
            let all: Vec<String> = inputs.iter().map(ToString::to_string).collect();
            let all = all.join(", ");
            Err(format!(
                "picture.input is {input:?}, and a picture needs a model with that one input, of \
                 FP32 or FP16; this one takes {all}"
            ))
        }
    }
}
