//! What a server must know of a model beyond its file: a TOML, or a `config.pbtxt`.

mod batch;
pub(super) mod cache;
mod device;
mod limits;
mod picture;
mod queue;
mod rate;
mod warmup;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ferry_core::error_text;
use ferry_engine::{FileBytes, FileDigest, FileError, Picture, RunOn};
use serde::Deserialize;

use super::folder::{TOML, check_name, is_there};
use super::model_config::{self, Declared};
use super::warmup::Warmup;
use super::{Given, ShapeLimits, VersionPolicy};
use crate::host::rate::Rate;
use picture::PictureTable;
use warmup::WarmupTable;

pub(super) use batch::Loaded;
pub use batch::{Batch, Batches};
pub use device::{CompletionName, DeviceChoice, DimSizes, Gpu, PrecisionName};
pub(super) use limits::Limits;
pub use queue::QueueRules;
pub(super) use queue::{Queue, Table as QueueTable};

/// The engine where nobody says otherwise.
const ENGINE_DEFAULT: &str = "auto";

/// Most other names of one model: each is looked through where a name is not known.
const ALIASES_MAX: usize = 64;

/// Bounds of `run_seconds_max`: a timer is not much finer, and a day is for ever.
const RUN_SECONDS: std::ops::RangeInclusive<f64> = 0.001..=86_400.0;

/// Longest TOML of a model that is read, in bytes: far more than anybody writes.
const TOML_BYTES_MAX: u64 = 1 << 20;

/// Longest file of labels that is read, in bytes: 100,000 names.
const LABELS_BYTES_MAX: u64 = 4 << 20;

/// What the operator says of a model.
#[derive(Clone, Debug)]
pub struct Metadata {
    /// For people.
    pub description: String,
    /// The name of the engine that runs it.
    pub engine: String,
    /// Which device runs it.
    pub device: DeviceChoice,
    /// How it runs on a GPU.
    pub gpu: Gpu,
    /// Sizes of open dimensions that an engine is built for, by the dimension's name.
    pub dims: BTreeMap<String, DimSizes>,
    /// How many instances.
    pub instances: usize,
    /// Threads of each instance.
    pub threads: usize,
    /// How requests wait.
    pub queue: QueueRules,
    /// Which thread runs it.
    pub run: RunOn,
    /// Longest run, where the file says it.
    pub run_at_most: Option<Duration>,
    /// How large sessions may make what its file leaves open.
    pub shapes: ShapeLimits,
    /// The largest shapes of outputs whose sizes are known only when the model has run.
    pub outputs: BTreeMap<String, Vec<u64>>,
    /// Names of the classes, where they are those of every output or of one alone.
    pub labels: Vec<String>,
    /// Names of the classes by output; empty where `labels` are those of every output.
    pub output_labels: BTreeMap<String, Vec<String>>,
    /// Which versions serve, where that is said.
    pub versions: Option<VersionPolicy>,
    /// Other names that the model answers to.
    pub aliases: Vec<String>,
    /// What it answers before it serves; empty once it does.
    pub warmup: Vec<Warmup>,
    /// The tensors that it must have.
    pub declared: Declared,
    /// What was said and is not honoured.
    pub notes: Vec<String>,
    /// The input that pictures become, and how.
    pub picture: Option<(String, Picture)>,
    /// Which requests run as one, where the file says it.
    pub batch: Option<Batch>,
    /// The file that this was read from.
    pub path: Option<PathBuf>,
    /// Most bytes of answers that are kept; `None`: none is.
    pub cache: Option<u64>,
    /// It does not make room for other models.
    pub keep: bool,
    /// How often each tenant may ask it; `None`: as often as it likes.
    pub rate: Option<Rate>,
    /// The files that this was read from: the TOML and the labels.
    pub files: Vec<FileDigest>,
    /// What came with the call that loaded it, where this was read from that and not from a file.
    pub given: Option<Given>,
    /// The text of the TOML that this was read from.
    pub toml: Option<Arc<str>>,
}

/// Why metadata is not usable.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// What is wrong with a file, which is named.
    #[error("{0}")]
    Told(String),
    /// A key or value has no meaning.
    #[error("{}: {why}", path.display())]
    Meaning {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what is known.
        why: String,
    },
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    description: String,
    engine: Option<String>,
    device: Option<DeviceChoice>,
    gpu: Option<Gpu>,
    dims: BTreeMap<String, DimSizes>,
    outputs: BTreeMap<String, Vec<u64>>,
    instances: Option<usize>,
    threads: Option<usize>,
    queue: Option<queue::Queue>,
    run: Run,
    run_seconds_max: Option<f64>,
    max_batch: Option<u64>,
    max_elements: Option<u64>,
    labels: Option<String>,
    versions: Option<VersionPolicy>,
    aliases: Vec<String>,
    warmup: Vec<WarmupTable>,
    picture: Option<PictureTable>,
    batch: Option<Batch>,
    limits: Option<rate::RateTable>,
    cache: Option<cache::CacheTable>,
    keep: bool,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Run {
    #[default]
    Worker,
    Lane,
}

impl Metadata {
    /// What holds where no file says otherwise.
    pub fn unnamed(threads: usize, queue: usize) -> Metadata {
        Metadata {
            description: String::new(),
            engine: ENGINE_DEFAULT.to_owned(),
            device: DeviceChoice::Auto,
            gpu: Gpu::default(),
            dims: BTreeMap::new(),
            instances: 1,
            threads,
            queue: QueueRules::of(queue),
            run: RunOn::Worker,
            run_at_most: None,
            shapes: ShapeLimits::default(),
            outputs: BTreeMap::new(),
            labels: Vec::new(),
            output_labels: BTreeMap::new(),
            versions: None,
            aliases: Vec::new(),
            warmup: Vec::new(),
            declared: Declared::default(),
            notes: Vec::new(),
            picture: None,
            batch: None,
            path: None,
            cache: None,
            keep: false,
            rate: None,
            files: Vec::new(),
            given: None,
            toml: None,
        }
    }

    /// The same, with what turned out when the model was opened.
    pub(super) fn with_notes(mut self, notes: impl IntoIterator<Item = String>) -> Metadata {
        self.notes.extend(notes);
        self
    }

    /// Why something in it cannot be, with the file that says it.
    pub(super) fn told(&self, why: &str) -> String {
        match &self.path {
            Some(path) => format!("{}: {why}", path.display()),
            None => why.to_owned(),
        }
    }

    /// Reads the configuration of the model `name`, a TOML or a `config.pbtxt`; `base` fills what
    /// it does not say. Other files that it names are looked for beside it.
    ///
    /// # Errors
    /// [`MetadataError`] names the file and what is wrong in it.
    pub fn read(path: &Path, name: &str, base: Metadata) -> Result<Metadata, MetadataError> {
        if model_config::is_one(path) {
            if is_there(&path.with_file_name(TOML)) {
                let why = format!(
                    "{} and {TOML} beside it are two configurations: remove one",
                    path.display()
                );
                return Err(MetadataError::Told(why));
            }
            let meaning = |why| MetadataError::Meaning { path: path.to_owned(), why };
            let (config, digest) = model_config::read(path).map_err(MetadataError::Told)?;
            let folder = path.parent().unwrap_or(Path::new(""));
            let place = model_config::Place { name, folder };
            return model_config::metadata(&config, place, base, vec![digest]).map_err(meaning);
        }
        let mut files = Vec::new();
        let text = read_text(path, TOML_BYTES_MAX, &mut files)?;
        Metadata::parse(&text, path, base, files)
    }

    /// What a TOML says of the versions that serve, whatever else is in it.
    ///
    /// # Errors
    /// As [`read`](Metadata::read).
    pub(super) fn versions_of(path: &Path) -> Result<Option<VersionPolicy>, String> {
        let text = read_text(path, TOML_BYTES_MAX, &mut Vec::new());
        let text = text.map_err(|error| error_text(&error))?;
        let file: File = toml::from_str(&text)
            .map_err(|error| format!("{}: {}", path.display(), error.to_string().trim()))?;
        Ok(file.versions)
    }

    /// Names of the classes of an output.
    pub fn labels_of(&self, output: &str) -> &[String] {
        if self.output_labels.is_empty() {
            return &self.labels;
        }
        self.output_labels.get(output).map_or(&[], Vec::as_slice)
    }

    /// Reads a text as if it stood in the file `path`, beside which labels are looked for. `files`
    /// were read already.
    ///
    /// # Errors
    /// As [`read`](Metadata::read).
    pub(super) fn parse(
        text: &str,
        path: &Path,
        base: Metadata,
        mut files: Vec<FileDigest>,
    ) -> Result<Metadata, MetadataError> {
        let meaning = |why: String| MetadataError::Meaning { path: path.to_owned(), why };
        let file: File =
            toml::from_str(text).map_err(|error| meaning(in_words(error.to_string().trim())))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let labels = match &file.labels {
            None => Vec::new(),
            Some(name) => read_labels(folder, name, &mut files)
                .map_err(|why| meaning(format!("labels = {name:?}: {why}")))?,
        };
        let warmup = WarmupTable::parse(file.warmup, folder, &mut files).map_err(meaning)?;
        let bounded = |limits: Limits, name, given: Option<usize>, default| {
            limits.check(name, given.unwrap_or(default)).map_err(meaning)
        };
        let open = |name: &str, given: Option<u64>, default: u64| match given {
            Some(0) => Err(meaning(format!("{name} = 0; at least 1 is needed"))),
            given => Ok(given.unwrap_or(default)),
        };
        Ok(Metadata {
            description: file.description,
            engine: file.engine.unwrap_or(base.engine),
            device: file.device.unwrap_or(base.device),
            gpu: file.gpu.unwrap_or(base.gpu).check().map_err(meaning)?,
            dims: DimSizes::check(file.dims).map_err(meaning)?,
            instances: bounded(Limits::INSTANCES, "instances", file.instances, base.instances)?,
            threads: bounded(Limits::THREADS, "threads", file.threads, base.threads)?,
            queue: file.queue.map_or(Ok(base.queue), |it| it.rules(base.queue)).map_err(meaning)?,
            run: match file.run {
                Run::Worker => RunOn::Worker,
                Run::Lane => RunOn::Lane,
            },
            run_at_most: file.run_seconds_max.map(run_at_most).transpose().map_err(meaning)?,
            shapes: ShapeLimits {
                batch_max: open("max_batch", file.max_batch, base.shapes.batch_max)?,
                elements_max: open("max_elements", file.max_elements, base.shapes.elements_max)?,
            },
            outputs: file.outputs,
            labels,
            output_labels: BTreeMap::new(),
            versions: file.versions,
            aliases: aliases(file.aliases).map_err(meaning)?,
            warmup,
            declared: Declared::default(),
            notes: Vec::new(),
            picture: file.picture.map(PictureTable::parse).transpose().map_err(meaning)?,
            batch: file.batch.or(base.batch),
            path: Some(path.to_owned()),
            cache: file.cache.map(cache::CacheTable::bytes).transpose().map_err(meaning)?,
            keep: file.keep,
            rate: file
                .limits
                .map(rate::RateTable::rate)
                .transpose()
                .map_err(meaning)?
                .or(base.rate),
            files,
            given: None,
            toml: Some(text.into()),
        })
    }
}

/// What a parser of TOML says of a value, without its names of types.
fn in_words(said: &str) -> String {
    const WHOLE: [&str; 5] = ["usize", "u64", "u32", "u8", "i64"];
    let whole = WHOLE.iter().fold(said.to_owned(), |said, kind| {
        said.replace(&format!("expected {kind}"), "expected a whole number")
    });
    let numbers = whole.replace("expected f32", "expected a number");
    numbers.replace("expected f64", "expected a number").replace("a sequence", "a list")
}

fn run_at_most(seconds: f64) -> Result<Duration, String> {
    let why = || {
        format!(
            "run_seconds_max = {seconds}; allowed are {} to {}",
            *RUN_SECONDS.start(),
            *RUN_SECONDS.end()
        )
    };
    RUN_SECONDS.contains(&seconds).then(|| Duration::from_secs_f64(seconds)).ok_or_else(why)
}

/// Checks the other names of a model.
fn aliases(all: Vec<String>) -> Result<Vec<String>, String> {
    if all.len() > ALIASES_MAX {
        return Err(format!("{} aliases; at most {ALIASES_MAX}", all.len()));
    }
    for alias in &all {
        check_name(alias).map_err(|error| format!("aliases: {error}"))?;
    }
    Ok(all)
}

/// The names of classes in a file of `folder`. A configuration must not read others.
///
/// # Errors
/// A text that says what cannot be read.
pub(super) fn read_labels(
    folder: &Path,
    name: &str,
    files: &mut Vec<FileDigest>,
) -> Result<Vec<String>, String> {
    if Path::new(name).file_name() != Some(name.as_ref()) {
        return Err("name a file in the same folder".to_owned());
    }
    let text = read_text(&folder.join(name), LABELS_BYTES_MAX, files);
    let text = text.map_err(|error| error_text(&error))?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn read_text(
    path: &Path,
    bytes_max: u64,
    files: &mut Vec<FileDigest>,
) -> Result<String, MetadataError> {
    let FileBytes { bytes, digest, .. } = FileBytes::read(path, bytes_max)?;
    files.push(digest);
    String::from_utf8(bytes).map_err(|error| MetadataError::Meaning {
        path: path.to_owned(),
        why: format!("{error}: write it as UTF-8"),
    })
}

#[cfg(test)]
mod tests;
