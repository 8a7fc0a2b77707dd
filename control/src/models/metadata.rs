//! `NAME.toml`: what a server must know of a model beyond its file.

mod batch;
mod device;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ferry_core::error_text;
use ferry_engine::{FileBytes, FileDigest, FileError, Picture, RunOn};
use ferry_vision::{Background, Channels, DecodeOptions, Filter, Layout, Orientation, PictureSpec};
use serde::Deserialize;

use super::{Given, ShapeLimits};

pub(super) use batch::Loaded;
pub use batch::{Batch, Batches};
pub use device::{CompletionName, DeviceChoice, DimSizes, Gpu, PrecisionName};

/// The engine where nobody says otherwise.
const ENGINE_DEFAULT: &str = "auto";

/// Most instances of one model: each is a copy of its working memory and a thread.
const INSTANCES_MAX: usize = 256;

/// Most threads of one instance.
const THREADS_MAX: usize = 1024;

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
    /// Most requests that wait.
    pub queue: usize,
    /// Which thread runs it.
    pub run: RunOn,
    /// Longest run, where the file says it.
    pub run_at_most: Option<Duration>,
    /// How large sessions may make what its file leaves open.
    pub shapes: ShapeLimits,
    /// The largest shapes of outputs whose sizes are known only when the model has run.
    pub outputs: BTreeMap<String, Vec<u64>>,
    /// Names of the classes.
    pub labels: Vec<String>,
    /// The input that pictures become, and how.
    pub picture: Option<(String, Picture)>,
    /// Which requests run as one, where the file says it.
    pub batch: Option<Batch>,
    /// The file that this was read from.
    pub path: Option<PathBuf>,
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
    queue: Option<usize>,
    run: Run,
    run_seconds_max: Option<f64>,
    max_batch: Option<u64>,
    max_elements: Option<u64>,
    labels: Option<String>,
    picture: Option<PictureTable>,
    batch: Option<Batch>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Run {
    #[default]
    Worker,
    Lane,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PictureTable {
    input: String,
    width: u32,
    height: u32,
    #[serde(default)]
    layout: LayoutName,
    #[serde(default)]
    channels: ChannelsName,
    #[serde(default)]
    resize: FilterName,
    #[serde(default = "one")]
    scale: f32,
    #[serde(default)]
    mean: Option<Vec<f32>>,
    #[serde(default)]
    std: Option<Vec<f32>>,
    #[serde(default)]
    orientation: OrientationName,
    #[serde(default)]
    background: Option<[u8; 3]>,
}

fn one() -> f32 {
    1.0
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum LayoutName {
    #[default]
    Nchw,
    Nhwc,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ChannelsName {
    #[default]
    Rgb,
    Bgr,
    Gray,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FilterName {
    #[default]
    Bilinear,
    Nearest,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OrientationName {
    #[default]
    Stored,
    Exif,
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
            queue,
            run: RunOn::Worker,
            run_at_most: None,
            shapes: ShapeLimits::default(),
            outputs: BTreeMap::new(),
            labels: Vec::new(),
            picture: None,
            batch: None,
            path: None,
            files: Vec::new(),
            given: None,
            toml: None,
        }
    }

    /// Why something in it cannot be, with the file that says it.
    pub(super) fn told(&self, why: &str) -> String {
        match &self.path {
            Some(path) => format!("{}: {why}", path.display()),
            None => why.to_owned(),
        }
    }

    /// Reads a file; `base` fills what it does not say. Labels are looked for beside it.
    ///
    /// # Errors
    /// [`MetadataError`] names the file and what is wrong in it.
    pub fn read(path: &Path, base: Metadata) -> Result<Metadata, MetadataError> {
        let mut files = Vec::new();
        let text = read_text(path, TOML_BYTES_MAX, &mut files)?;
        Metadata::parse(&text, path, base, files)
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
        let labels = match &file.labels {
            None => Vec::new(),
            Some(name) => {
                // Only a file in the same folder: a model's metadata must not read others.
                if Path::new(name).file_name() != Some(name.as_ref()) {
                    let why = format!("labels = {name:?}: name a file in the same folder");
                    return Err(meaning(why));
                }
                let labels = path.with_file_name(name);
                let text = read_text(&labels, LABELS_BYTES_MAX, &mut files);
                let text = text.map_err(|error| meaning(format!("labels: {}", error_text(&error))));
                text?.lines().map(str::to_owned).collect()
            }
        };
        let bounded = |name: &str, given: Option<usize>, default: usize, max: usize| {
            let value = given.unwrap_or(default);
            let why = || meaning(format!("{name} = {value}; allowed are 1 to {max}"));
            (1..=max).contains(&value).then_some(value).ok_or_else(why)
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
            instances: bounded("instances", file.instances, base.instances, INSTANCES_MAX)?,
            threads: bounded("threads", file.threads, base.threads, THREADS_MAX)?,
            queue: bounded("queue", file.queue, base.queue, ferry_engine::options::QUEUE_MAX)?,
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
            picture: file.picture.map(PictureTable::parse).transpose().map_err(meaning)?,
            batch: file.batch.or(base.batch),
            path: Some(path.to_owned()),
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

fn read_text(
    path: &Path,
    bytes_max: u64,
    files: &mut Vec<FileDigest>,
) -> Result<String, MetadataError> {
    let FileBytes { bytes, digest } = FileBytes::read(path, bytes_max)?;
    files.push(digest);
    String::from_utf8(bytes).map_err(|error| MetadataError::Meaning {
        path: path.to_owned(),
        why: format!("{error}: write it as UTF-8"),
    })
}

impl PictureTable {
    fn parse(self) -> Result<(String, Picture), String> {
        let channels = match self.channels {
            ChannelsName::Rgb => Channels::Rgb,
            ChannelsName::Bgr => Channels::Bgr,
            ChannelsName::Gray => Channels::Gray,
        };
        let each = |name: &str, given: Option<Vec<f32>>, default: f32| match given.as_deref() {
            None => Ok([default; 3]),
            Some(&[a, b, c]) if channels.count() == 3 => Ok([a, b, c]),
            Some(&[a]) if channels.count() == 1 => Ok([a; 3]),
            Some(given) => {
                let (has, wants) = (given.len(), channels.count());
                Err(format!("picture.{name} has {has} numbers; the channels want {wants}"))
            }
        };
        let spec = PictureSpec {
            width: self.width,
            height: self.height,
            layout: match self.layout {
                LayoutName::Nchw => Layout::Nchw,
                LayoutName::Nhwc => Layout::Nhwc,
            },
            channels,
            resize: match self.resize {
                FilterName::Bilinear => Filter::Bilinear,
                FilterName::Nearest => Filter::Nearest,
            },
            scale: self.scale,
            mean: each("mean", self.mean, 0.0)?,
            std: each("std", self.std, 1.0)?,
        };
        spec.validate().map_err(|error| format!("picture: {error}"))?;
        let decode = DecodeOptions {
            orientation: match self.orientation {
                OrientationName::Stored => Orientation::Stored,
                OrientationName::Exif => Orientation::Exif,
            },
            background: self.background.map(Background).unwrap_or_default(),
            ..DecodeOptions::default()
        };
        Ok((self.input, Picture { spec, decode }))
    }
}

#[cfg(test)]
mod tests;
