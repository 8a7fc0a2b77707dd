//! From a file to a model that serves.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use ferry_core::{BoundSignature, BoundTensor, error_text};
use ferry_cuda::Device;
use ferry_engine::{BatchOptions, FileDigest, Picture, Pool, PoolError, PoolOptions, RUN_AT_MOST};
use ferry_vision::Numbers;

use super::metadata::{Loaded, cache};
use super::placement::Choice;
use super::residency::Charge;
use super::used::Uses;
use super::warmup;
use super::{
    Batch, Batches, Cache, EngineLoader, Instances, LoadSpec, Metadata, ModelError, Precision,
    Profile, Rooms, Source,
};
use crate::host::clock::unix_ns;
use crate::host::rate::Buckets;
use crate::store::{Event, ModelRow};

/// A model that is in memory. What is known of it is read as if it were its own.
#[derive(Debug)]
pub struct Served {
    /// What is known of it, also once it is not in memory any more.
    pub profile: Arc<Profile>,
    /// What runs it.
    pub pool: Pool,
    /// The GPU that it runs on; `None` for the CPU.
    pub device: Option<Arc<Device>>,
    /// How large its replies are.
    pub rooms: Rooms,
    /// Its answers that are kept; `None`: none is.
    pub cache: Option<Cache>,
    /// Wall clock, nanoseconds since 1970.
    pub loaded_unix_ns: u64,
    /// Who uses it.
    pub(super) uses: Uses,
    /// What it takes of the memory for models; given back with it.
    pub(super) charge: OnceLock<Charge>,
}

impl Deref for Served {
    type Target = Profile;

    fn deref(&self) -> &Profile {
        &self.profile
    }
}

impl Served {
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

    /// Whether nothing can be served any more: every instance is gone, or the GPU is lost.
    pub fn is_lost(&self) -> bool {
        self.pool.is_dead() || self.device.as_ref().is_some_and(|device| device.is_lost())
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

    /// That it is not in memory any more, for the store.
    pub fn unloaded_event(&self) -> Event {
        Event::Unloaded {
            name: self.name.clone(),
            version: self.version.to_string(),
            loaded_unix_ns: self.loaded_unix_ns,
            unix_ns: unix_ns(),
        }
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
        Served::start_again(name, version, instances, metadata, None)
    }

    /// As [`start`](Served::start), of a model that was in memory `before`: its counts and its
    /// tenants' rates go on.
    fn start_again(
        name: &str,
        version: u64,
        instances: Instances,
        metadata: Metadata,
        before: Option<&Profile>,
    ) -> Result<Arc<Served>, String> {
        let Instances {
            engines,
            engine,
            engine_version,
            device,
            device_why,
            weights_bytes,
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
        let rate = metadata.rate;
        let buckets = before.map(|it| &it.buckets).filter(|it| it.rate() == rate).map(Arc::clone);
        let cache = metadata.cache.map(Cache::new);
        let profile = Profile {
            name: name.to_owned(),
            version,
            signature,
            engine,
            engine_version,
            device_ordinal: device.as_ref().map(|device| device.ordinal()),
            device_why,
            weights_bytes,
            precision,
            dims,
            batches,
            counts: before.map_or_else(Arc::default, |it| Arc::clone(&it.counts)),
            timings: before.map_or_else(Arc::default, |it| Arc::clone(&it.timings)),
            buckets: buckets.unwrap_or_else(|| Arc::new(Buckets::new(rate))),
            comings: before.map_or_else(Arc::default, |it| Arc::clone(&it.comings)),
            sha256: files.first().map(FileDigest::hex).unwrap_or_default(),
            files: files.into_iter().chain(metadata.files.iter().cloned()).collect(),
            metadata: metadata.with_notes(notes),
        };
        Ok(Arc::new(Served {
            profile: Arc::new(profile),
            pool,
            device,
            rooms,
            cache,
            loaded_unix_ns: unix_ns(),
            uses: Uses::default(),
            charge: OnceLock::new(),
        }))
    }

    /// Loads a model's file, of which `metadata` is said. May take seconds. `auto_gpu` is the GPU
    /// that `device = "auto"` means now; `before`, what it was when it was in memory last.
    ///
    /// # Errors
    /// A text that says what is wrong with the file, or what in the metadata does not fit it.
    pub(super) fn load(
        source: &Source,
        loader: &dyn EngineLoader,
        mut metadata: Metadata,
        auto_gpu: Option<&Choice>,
        before: Option<&Profile>,
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
            auto_gpu,
            gpu: metadata.gpu,
            dims: &metadata.dims,
            instances: metadata.instances,
            threads: metadata.threads,
        };
        let instances = loader.load(&spec).map_err(|error| error_text(&error))?;
        let (name, version) = (&source.name, source.version);
        let served = Served::start_again(name, version, instances, metadata, before)?;
        warmup::run(&warmups, &served)?;
        Ok(served)
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
