//! Which models there are, what they look like from outside, and how one is written.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use crate::digits;
use crate::error::ZooError;
use crate::files::{create_directory, write_atomically};
use crate::graph::{Graph, TensorInfo};
use crate::labels::{COCO, DIGITS, VOC};
use crate::metadata::{Metadata, Picture};
use crate::models;
use crate::open::with_open_batch;
use crate::precision::Precision;
use crate::writer::Encoded;

/// What a model looks like from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Name of the model, and of its files.
    pub name: &'static str,
    /// One sentence for people.
    pub summary: &'static str,
    /// Trained values, counted as PyTorch counts them: without the running statistics of batch
    /// normalisations.
    pub parameters: u64,
    /// Multiplications with a weight, each with its addition, in the convolutions and linear layers
    /// of one run: what papers give as the model's cost.
    pub multiply_adds: u64,
    /// Inputs in the order of the file.
    pub inputs: Vec<TensorInfo>,
    /// Outputs in the order of the file.
    pub outputs: Vec<TensorInfo>,
    /// Length of the ONNX file in bytes.
    pub file_bytes: u64,
}

/// How far a model is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes handed to the file system so far.
    pub written_bytes: u64,
    /// Length of the finished file.
    pub total_bytes: u64,
}

/// What [`write()`] wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The ONNX file.
    pub model: PathBuf,
    /// The files beside it: metadata, labels, and for `digits` a picture to try.
    pub companions: Vec<PathBuf>,
    /// Length of the ONNX file in bytes.
    pub model_bytes: u64,
}

/// Where a model's file comes from.
#[derive(Debug, Clone, Copy)]
enum Source {
    /// Built here, weights drawn from the seed.
    Seeded(fn() -> Graph),
    /// Trained and kept in this crate; the seed changes nothing.
    Digits,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    name: &'static str,
    summary: &'static str,
    source: Source,
    picture: Picture,
    labels: &'static [&'static str],
}

const NAMES: [&str; 7] = {
    let mut names = [""; 7];
    let mut index = 0;
    while index < names.len() {
        names[index] = ENTRIES[index].name;
        index += 1;
    }
    names
};

const ENTRIES: [Entry; 7] = [
    Entry {
        name: "mobilenetv3-small",
        summary: "MobileNetV3-Small, 1000 classes, random weights",
        source: Source::Seeded(models::mobilenetv3_small),
        picture: Picture::IMAGENET,
        labels: &[],
    },
    Entry {
        name: "resnet50",
        summary: "ResNet-50, 1000 classes, random weights",
        source: Source::Seeded(models::resnet50),
        picture: Picture::IMAGENET,
        labels: &[],
    },
    Entry {
        name: "efficientnet-b0",
        summary: "EfficientNet-B0, 1000 classes, random weights",
        source: Source::Seeded(models::efficientnet_b0),
        picture: Picture::IMAGENET,
        labels: &[],
    },
    Entry {
        name: "wide-resnet101-2",
        summary: "WideResNet-101-2, 1000 classes, random weights",
        source: Source::Seeded(models::wide_resnet101_2),
        picture: Picture::IMAGENET,
        labels: &[],
    },
    Entry {
        name: "yolov4",
        summary: "YOLOv4 at 416x416, NHWC, 80 classes, raw predictions, random weights",
        source: Source::Seeded(models::yolov4),
        picture: Picture::UNIT_RANGE_NHWC.sized(416),
        labels: &COCO,
    },
    Entry {
        name: "deeplabv3-resnet50",
        summary: "DeepLabV3-ResNet-50 at 520x520 with auxiliary output, 21 classes, random weights",
        source: Source::Seeded(models::deeplabv3_resnet50),
        picture: Picture::IMAGENET.sized(520),
        labels: &VOC,
    },
    Entry {
        name: "digits",
        summary: "handwritten digits, 8x8 gray, bright on dark; trained",
        source: Source::Digits,
        picture: Picture::UNIT_RANGE_GRAY.sized(digits::SIDE),
        labels: &DIGITS,
    },
];

/// The names of the models, in the order in which they are listed.
#[must_use]
pub fn names() -> &'static [&'static str] {
    &NAMES
}

/// Describes a model in single precision without writing it; `None` if the zoo has none of this name.
#[must_use]
pub fn describe(name: &str) -> Option<Description> {
    let entry = entry(name)?;
    Some(match entry.source {
        Source::Seeded(build) => {
            let graph = build();
            Description {
                name: entry.name,
                summary: entry.summary,
                parameters: graph.parameter_count(),
                multiply_adds: graph.multiply_adds,
                file_bytes: Encoded::new(&graph, 0, Precision::Fp32).file_bytes(),
                inputs: graph.inputs,
                outputs: graph.outputs,
            }
        }
        Source::Digits => Description {
            name: entry.name,
            summary: entry.summary,
            parameters: digits::parameter_count(),
            multiply_adds: digits::multiply_adds(),
            file_bytes: digits::onnx().len() as u64,
            inputs: digits::inputs(),
            outputs: digits::outputs(),
        },
    })
}

/// Writes `NAME.onnx` into `directory`, which is made if it is missing, with `NAME.toml` and, where
/// the classes have names, `NAME.labels.txt` beside it. Files of these names are replaced. The same
/// seed gives the same bytes on every machine.
///
/// Each file is written under a temporary name and renamed when complete, the model last: whoever
/// finds `NAME.onnx` finds all of it, and its metadata. A process that is killed while it writes
/// leaves a hidden file that ends in `.partial`; it may be deleted.
///
/// # Errors
///
/// [`ZooError::UnknownModel`], [`ZooError::Directory`] or [`ZooError::Write`]; no partial file is
/// left behind.
pub fn write(
    name: &str,
    directory: &Path,
    seed: u64,
    progress: &mut dyn FnMut(Progress),
) -> Result<Written, ZooError> {
    write_in(Precision::Fp32, name, directory, seed, progress)
}

/// Writes a model in another precision: as [`write()`] does, under the name that
/// [`Precision::model_name`] gives it.
///
/// # Errors
///
/// As [`write()`].
pub fn write_in(
    precision: Precision,
    name: &str,
    directory: &Path,
    seed: u64,
    progress: &mut dyn FnMut(Progress),
) -> Result<Written, ZooError> {
    write_as(precision, Batch::One, name, directory, seed, progress)
}

/// How many inputs a model takes at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Batch {
    /// One.
    #[default]
    One,
    /// Any number: see [`with_open_batch`].
    Open,
}

/// Writes a model in another precision, and for another number of inputs: as [`write_in()`] does. One
/// with an open batch is made in memory first.
///
/// # Errors
///
/// As [`write()`]; [`ZooError::FixedBatch`] if the model takes one input at a time whatever its file
/// says, before anything is written.
pub fn write_as(
    precision: Precision,
    batch: Batch,
    name: &str,
    directory: &Path,
    seed: u64,
    progress: &mut dyn FnMut(Progress),
) -> Result<Written, ZooError> {
    let entry = entry(name).ok_or_else(|| ZooError::UnknownModel { name: name.to_owned() })?;
    let opened = match batch {
        Batch::One => None,
        Batch::Open => Some(opened(entry, seed, precision, progress)?),
    };
    create_directory(directory)?;
    let name = precision.model_name(name);
    let mut companions = vec![];
    let mut write_beside = |file_name: &str, bytes: &[u8]| {
        let path = directory.join(file_name);
        write_atomically(&path, |out| out.write_all(bytes))?;
        companions.push(path);
        Ok(())
    };
    let labels = (!entry.labels.is_empty()).then(|| format!("{name}.labels.txt"));
    if let Some(file_name) = &labels {
        write_beside(file_name, (entry.labels.join("\n") + "\n").as_bytes())?;
    }
    if let Source::Digits = entry.source {
        let demo = digits::demo_jpeg();
        write_beside(demo.file_name, demo.bytes)?;
    }
    let metadata = Metadata { summary: entry.summary, precision, labels, picture: entry.picture };
    write_beside(&format!("{name}.toml"), metadata.to_toml().as_bytes())?;

    let model = directory.join(format!("{name}.onnx"));
    let whole = match entry.source {
        _ if opened.is_some() => opened.map(Cow::Owned),
        Source::Digits => Some(digits_in(precision)),
        Source::Seeded(_) => None,
    };
    let model_bytes = match (whole, entry.source) {
        (None, Source::Seeded(build)) => {
            let graph = build();
            let encoded = Encoded::new(&graph, seed, precision);
            write_atomically(&model, |out| encoded.write_to(out, progress))?;
            encoded.file_bytes()
        }
        (whole, _) => {
            let bytes = whole.unwrap_or_default();
            write_atomically(&model, |out| out.write_all(&bytes))?;
            let total_bytes = bytes.len() as u64;
            progress(Progress { written_bytes: total_bytes, total_bytes });
            total_bytes
        }
    };
    Ok(Written { model, companions, model_bytes })
}

fn digits_in(precision: Precision) -> Cow<'static, [u8]> {
    match precision {
        Precision::Fp32 => Cow::Borrowed(digits::onnx()),
        Precision::Fp16 => Cow::Owned(digits::onnx_in_half()),
    }
}

/// The file of a model that takes any number of inputs, which its graph must show.
fn opened(
    entry: Entry,
    seed: u64,
    precision: Precision,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<u8>, ZooError> {
    let fixed = |why| ZooError::FixedBatch { name: entry.name.to_owned(), why };
    let one = match entry.source {
        Source::Digits => digits_in(precision),
        Source::Seeded(build) => {
            let mut bytes = Vec::new();
            let written = Encoded::new(&build(), seed, precision).write_to(&mut bytes, progress);
            written.map_err(|error| fixed(error.to_string()))?;
            Cow::Owned(bytes)
        }
    };
    let opened = with_open_batch(&one).map_err(fixed)?;
    match ferry_onnx_file::rows::doubt(&opened) {
        None => Ok(opened),
        Some(why) => Err(fixed(why)),
    }
}

fn entry(name: &str) -> Option<Entry> {
    ENTRIES.into_iter().find(|entry| entry.name == name)
}
