//! What is known of a model from its first load on, whether it is in memory or not.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ferry_core::{BoundSignature, Signature, nanos};
use ferry_engine::FileDigest;

use super::changes::changes;
use super::residency::{Place, Presence, ResidencyState};
use super::shapes::{check_dims, has_batch};
use super::{Batches, Counts, DimSizes, Given, Metadata, ModelError, Precision, Source, Timings};
use crate::host::rate::Buckets;

/// A model as it was when it was loaded last.
#[derive(Debug)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u64,
    pub(super) signature: Signature,
    /// `onnx`, `tract`, `tensorrt`, `echo`.
    pub engine: &'static str,
    /// The version of the engine's library.
    pub engine_version: String,
    /// The number of the GPU that it runs on; `None` for the CPU.
    pub device_ordinal: Option<u32>,
    /// Why `device = "auto"` is this device; empty where the device was named.
    pub device_why: String,
    /// What its weights take there, as far as its engine knows; see MODELS.md.
    pub weights_bytes: u64,
    /// In which numbers it computes; `None` where nothing is computed.
    pub precision: Option<Precision>,
    /// Sizes of open dimensions that it was built for.
    pub dims: BTreeMap<String, DimSizes>,
    /// Whether requests to it run as one.
    pub batches: Batches,
    /// What it was asked.
    pub counts: Arc<Counts>,
    /// How long that took, by transport.
    pub timings: Arc<Timings>,
    /// How often each tenant may ask it.
    pub buckets: Arc<Buckets>,
    /// How often it came into memory, and went.
    pub(super) comings: Arc<Comings>,
    /// What the operator says of it.
    pub metadata: Metadata,
    /// Of its file; empty for a built-in model.
    pub sha256: String,
    /// Every file that it was made of.
    pub(super) files: Vec<FileDigest>,
}

impl Profile {
    /// What the model takes and gives.
    pub fn signature(&self) -> &Signature {
        &self.signature
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

    /// Where it runs: `cpu`, `cuda:N`.
    pub fn device_name(&self) -> String {
        match self.device_ordinal {
            Some(ordinal) => format!("cuda:{ordinal}"),
            None => "cpu".to_owned(),
        }
    }

    /// Where its weights are when it is in memory.
    pub fn place(&self) -> Place {
        self.device_ordinal.map_or(Place::Host, Place::Gpu)
    }

    /// How it is, or was, in memory.
    pub fn presence(&self, state: ResidencyState) -> Presence {
        let Comings { loads, evictions, last_load_ns } = &*self.comings;
        Presence {
            state,
            place: self.place(),
            weights_bytes: self.weights_bytes,
            keep: self.metadata.keep,
            loads: loads.load(Ordering::Relaxed),
            evictions: evictions.load(Ordering::Relaxed),
            last_load: Duration::from_nanos(last_load_ns.load(Ordering::Relaxed)),
        }
    }

    /// Name and version, for people.
    pub fn label(&self) -> String {
        format!("{} version {}", self.name, self.version)
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

/// How often a model came into memory, and had to make room for another.
#[derive(Debug, Default)]
pub(super) struct Comings {
    loads: AtomicU64,
    evictions: AtomicU64,
    last_load_ns: AtomicU64,
}

impl Comings {
    /// It was loaded, which took so long.
    pub(super) fn loaded(&self, took: Duration) {
        self.loads.fetch_add(1, Ordering::Relaxed);
        self.last_load_ns.store(nanos(took), Ordering::Relaxed);
    }

    /// It made room.
    pub(super) fn evicted(&self) {
        self.evictions.fetch_add(1, Ordering::Relaxed);
    }
}
