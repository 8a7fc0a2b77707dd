//! `NAME.toml`: what a server must know of a model beyond its file.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use ferry_engine::{Picture, RunOn};
use ferry_vision::{Channels, Filter, Layout, Limits, PictureSpec};
use serde::Deserialize;

use super::ShapeLimits;

/// Most instances of one model: each is a copy of its working memory and a thread.
const INSTANCES_MAX: usize = 256;

/// Most threads of one instance.
const THREADS_MAX: usize = 1024;

/// Most streams of one model: each has a workspace of its own.
const STREAMS_MAX: usize = 64;

/// Streams where nobody says otherwise: sixteen sessions have one each.
pub(crate) const STREAMS_DEFAULT: usize = 16;

/// Longest file of labels that is read, in bytes: 100,000 names.
const LABELS_BYTES_MAX: u64 = 4 << 20;

/// Which engine runs a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineChoice {
    /// ONNX Runtime where its library is there, else tract.
    #[default]
    Auto,
    /// ONNX Runtime.
    Onnx,
    /// tract.
    Tract,
}

/// Which device runs a model: `auto`, `cpu` or `cuda:N`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum DeviceChoice {
    /// The first GPU, where the engine can use it; else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// This GPU or an error.
    Cuda(u32),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<DeviceChoice, String> {
        let number = || text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
        match text {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            _ => number()
                .map(DeviceChoice::Cuda)
                .ok_or_else(|| format!("device {text:?} is none of auto, cpu, cuda:N")),
        }
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = String;

    fn try_from(text: String) -> Result<DeviceChoice, String> {
        text.parse()
    }
}

/// How a model runs on a GPU; without one, nothing of it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gpu {
    /// Products of 32-bit floats in full, or on tensor cores with fewer bits.
    pub precision: PrecisionName,
    /// Convolutions keep channels innermost, which suits tensor cores.
    pub channels_last: bool,
    /// A convolution adds its bias in the same kernel.
    pub fuse_conv_bias: bool,
    /// Streams of normal priority, and as many of high.
    pub streams: usize,
    /// Normal requests that may be started while an urgent one runs.
    pub beside_urgent: usize,
    /// `poll`: requests of all streams are in flight at once; `wait`: one after the other.
    pub completion: CompletionName,
}

impl Default for Gpu {
    fn default() -> Gpu {
        Gpu {
            precision: PrecisionName::Fp32,
            channels_last: false,
            fuse_conv_bias: false,
            streams: STREAMS_DEFAULT,
            beside_urgent: 1,
            completion: CompletionName::Poll,
        }
    }
}

/// In which numbers a model computes on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrecisionName {
    /// In full.
    Fp32,
    /// With 10 bits of mantissa.
    Tf32,
}

/// When an instance on a GPU takes the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CompletionName {
    /// While others are in flight.
    Poll,
    /// When the last one is done.
    Wait,
}

/// What the operator says of a model.
#[derive(Clone, Debug)]
pub struct Metadata {
    /// For people.
    pub description: String,
    /// Which engine runs it.
    pub engine: EngineChoice,
    /// Which device runs it.
    pub device: DeviceChoice,
    /// How it runs on a GPU.
    pub gpu: Gpu,
    /// How many instances.
    pub instances: usize,
    /// Threads of each instance.
    pub threads: usize,
    /// Most requests that wait.
    pub queue: usize,
    /// Which thread runs it.
    pub run: RunOn,
    /// How large sessions may make what its file leaves open.
    pub shapes: ShapeLimits,
    /// Names of the classes.
    pub labels: Vec<String>,
    /// The input that pictures become, and how.
    pub picture: Option<(String, Picture)>,
}

/// Why metadata is not usable.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// A file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
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
    engine: EngineChoice,
    device: Option<DeviceChoice>,
    gpu: Option<Gpu>,
    instances: Option<usize>,
    threads: Option<usize>,
    queue: Option<usize>,
    run: Run,
    max_batch: Option<u64>,
    max_elements: Option<u64>,
    labels: Option<String>,
    picture: Option<PictureTable>,
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

impl Metadata {
    /// What holds where no file says otherwise.
    pub fn unnamed(threads: usize, queue: usize) -> Metadata {
        Metadata {
            description: String::new(),
            engine: EngineChoice::Auto,
            device: DeviceChoice::Auto,
            gpu: Gpu::default(),
            instances: 1,
            threads,
            queue,
            run: RunOn::Worker,
            shapes: ShapeLimits::default(),
            labels: Vec::new(),
            picture: None,
        }
    }

    /// Reads a file; `base` fills what it does not say. Labels are looked for beside it.
    ///
    /// # Errors
    /// [`MetadataError`] names the file and what is wrong in it.
    pub fn read(path: &Path, base: Metadata) -> Result<Metadata, MetadataError> {
        let read = |path: &Path| {
            std::fs::read_to_string(path)
                .map_err(|source| MetadataError::Read { path: path.to_owned(), source })
        };
        let meaning = |why: String| MetadataError::Meaning { path: path.to_owned(), why };
        let text = read(path)?;
        let file: File =
            toml::from_str(&text).map_err(|error| meaning(error.to_string().trim().to_owned()))?;
        let labels = match &file.labels {
            None => Vec::new(),
            Some(name) => {
                // Only a file in the same folder: a model's metadata must not read others.
                if Path::new(name).file_name() != Some(name.as_ref()) {
                    let why = format!("labels = {name:?}: name a file in the same folder");
                    return Err(meaning(why));
                }
                let labels = path.with_file_name(name);
                let long = std::fs::metadata(&labels).is_ok_and(|it| it.len() > LABELS_BYTES_MAX);
                if long {
                    let why = format!("{name} is longer than {LABELS_BYTES_MAX} bytes");
                    return Err(meaning(why));
                }
                read(&labels)?.lines().map(str::to_owned).collect()
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
            engine: file.engine,
            device: file.device.unwrap_or(base.device),
            gpu: file.gpu.unwrap_or(base.gpu).check().map_err(meaning)?,
            instances: bounded("instances", file.instances, base.instances, INSTANCES_MAX)?,
            threads: bounded("threads", file.threads, base.threads, THREADS_MAX)?,
            queue: bounded("queue", file.queue, base.queue, ferry_engine::options::QUEUE_MAX)?,
            run: match file.run {
                Run::Worker => RunOn::Worker,
                Run::Lane => RunOn::Lane,
            },
            shapes: ShapeLimits {
                batch_max: open("max_batch", file.max_batch, base.shapes.batch_max)?,
                elements_max: open("max_elements", file.max_elements, base.shapes.elements_max)?,
            },
            labels,
            picture: file.picture.map(PictureTable::parse).transpose().map_err(meaning)?,
        })
    }
}

impl Gpu {
    fn check(self) -> Result<Gpu, String> {
        for (name, value) in [("streams", self.streams), ("beside_urgent", self.beside_urgent)] {
            if !(1..=STREAMS_MAX).contains(&value) {
                return Err(format!("gpu.{name} = {value}; allowed are 1 to {STREAMS_MAX}"));
            }
        }
        Ok(self)
    }
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
        Ok((self.input, Picture { spec, limits: Limits::default() }))
    }
}

#[cfg(test)]
mod tests;
