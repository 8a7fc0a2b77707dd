//! From the message to [`Metadata`].

use std::path::Path;

use ferry_engine::FileDigest;
use ferry_engine::batch::BATCH_ROWS_MAX;
use ferry_proto::oip::model_config::SchedulingChoice;
use ferry_proto::oip::model_instance_group::Kind;
use ferry_proto::oip::model_warmup::input::InputDataType;
use ferry_proto::oip::{
    ModelConfig, ModelDynamicBatching, ModelInstanceGroup, ModelOptimizationPolicy, ModelWarmup,
};

use super::tensors::{Declared, dtype};
use crate::models::metadata::{Limits, Queue, QueueTable, read_labels};
use crate::models::warmup::{Filling, WARMUPS_MAX, Warmup, WarmupInput};
use crate::models::{Batch, DeviceChoice, Metadata, QueueRules, ShapeLimits};

/// Where a configuration is of.
#[derive(Clone, Copy, Debug)]
pub(in crate::models) struct Place<'a> {
    /// The model.
    pub(in crate::models) name: &'a str,
    /// Its folder: of labels, and of `warmup/`.
    pub(in crate::models) folder: &'a Path,
}

/// What a configuration says; `base` holds where it says nothing. `files` were read already.
///
/// # Errors
/// A text that names what would change answers and is not served, or what has no meaning.
pub(in crate::models) fn metadata(
    config: &ModelConfig,
    place: Place<'_>,
    base: Metadata,
    files: Vec<FileDigest>,
) -> Result<Metadata, String> {
    if !config.name.is_empty() && config.name != place.name {
        let (told, name) = (&config.name, place.name);
        return Err(format!("name is {told:?}, and the model is {name:?}: leave it out"));
    }
    refuse(config)?;
    let versions = super::layout(config)?.versions;
    let mut said = Metadata { files, versions, ..base };
    let mut notes = unused(config);
    said.engine = engine(config)?.unwrap_or(said.engine);
    match config.max_batch_size {
        0 => {}
        size => {
            let size = u64::try_from(size);
            let batch_max =
                size.map_err(|_negative| format!("max_batch_size is {}", config.max_batch_size))?;
            said.shapes = ShapeLimits { batch_max, ..said.shapes };
        }
    }
    instances(&config.instance_group, &mut said, &mut notes)?;
    if let Some(SchedulingChoice::DynamicBatching(batching)) = &config.scheduling_choice {
        dynamic_batching(batching, config.max_batch_size, &mut said, &mut notes)?;
    }
    for (key, value) in &config.parameters {
        parameter(key, &value.string_value, &mut said, &mut notes)?;
    }
    optimization(config.optimization.as_ref(), &mut notes);
    said.declared = Declared::of(config)?;
    for output in config.output.iter().filter(|it| !it.label_filename.is_empty()) {
        let labels = read_labels(place.folder, &output.label_filename, &mut said.files)
            .map_err(|why| format!("label_filename of output {:?}: {why}", output.name))?;
        said.output_labels.insert(output.name.clone(), labels);
    }
    if let (1, Some(labels)) = (said.output_labels.len(), said.output_labels.values().next()) {
        said.labels.clone_from(labels);
    }
    let warmups = config.model_warmup.iter();
    if warmups.len() > WARMUPS_MAX {
        return Err(format!("{} of model_warmup; at most {WARMUPS_MAX}", warmups.len()));
    }
    said.warmup = warmups
        .map(|it| warmup(it, config.max_batch_size > 0, place.folder, &mut said.files))
        .collect::<Result<_, _>>()?;
    // Parameters come in no order.
    notes.sort();
    said.notes = notes;
    Ok(said)
}

/// What would change answers, or which requests are answered, if it were passed over.
fn refuse(config: &ModelConfig) -> Result<(), String> {
    let unless = |is: bool, what: &str, why: &str| {
        if is { Err(format!("{what} is not served: {why}")) } else { Ok(()) }
    };
    match &config.scheduling_choice {
        Some(SchedulingChoice::EnsembleScheduling(_)) => {
            return Err("ensemble_scheduling is not served: load its models one by one".to_owned());
        }
        Some(SchedulingChoice::SequenceBatching(_)) => {
            return Err("sequence_batching is not served: no model here keeps a state between \
                        requests"
                .to_owned());
        }
        Some(SchedulingChoice::DynamicBatching(_)) | None => {}
    }
    let decoupled = config.model_transaction_policy.as_ref().is_some_and(|it| it.decoupled);
    unless(decoupled, "decoupled", "each request has one response")?;
    let libraries = config.model_operations.as_ref();
    let libraries = libraries.is_some_and(|it| !it.op_library_filename.is_empty());
    unless(libraries, "model_operations", "no library of operators is loaded")?;
    let agents = config.model_repository_agents.as_ref().is_some_and(|it| !it.agents.is_empty());
    unless(agents, "model_repository_agents", "files are loaded as they are")?;
    let by_card = !config.cc_model_filenames.is_empty();
    unless(by_card, "cc_model_filenames", "every device runs the same file")?;
    let batch = !config.batch_input.is_empty() || !config.batch_output.is_empty();
    unless(batch, "batch_input or batch_output", "a batch has the tensors of its requests alone")?;
    let inputs = config.input.iter().any(|it| it.reshape.is_some());
    let outputs = config.output.iter().any(|it| it.reshape.is_some());
    unless(inputs || outputs, "reshape", "tensors have the model's own shapes")
}

/// What changes no answer, and is passed over by name.
fn unused(config: &ModelConfig) -> Vec<String> {
    let caches = config.response_cache.is_some_and(|it| it.enable);
    let metrics = config.model_metrics.is_some() || !config.metric_tags.is_empty();
    let found = [
        (caches, "response_cache: it is not turned on by this"),
        (metrics, "model_metrics, metric_tags: there are no metrics of single models"),
        (!config.runtime.is_empty(), "runtime: the engine is chosen by backend"),
        (
            config.input.iter().any(|it| it.format != 0),
            "format of inputs: tensors are taken as they come",
        ),
        (
            config.input.iter().any(|it| it.allow_ragged_batch),
            "allow_ragged_batch: requests of one shape alone share a batch",
        ),
        (config.input.iter().any(|it| it.optional), "optional: every input must be given"),
        (
            config.input.iter().any(|it| it.is_shape_tensor || it.is_non_linear_format_io)
                || config.output.iter().any(|it| it.is_shape_tensor || it.is_non_linear_format_io),
            "is_shape_tensor, is_non_linear_format_io: tensors are plain values",
        ),
    ];
    found.into_iter().filter(|(is, _)| *is).map(|(_, what)| what.to_owned()).collect()
}

/// The engine that backend, or else platform, names.
fn engine(config: &ModelConfig) -> Result<Option<String>, String> {
    let engine = match (config.backend.as_str(), config.platform.as_str()) {
        ("", "") => return Ok(None),
        ("onnxruntime" | "onnx", _) | ("", "onnxruntime_onnx") => "onnx",
        ("tensorrt", _) | ("", "tensorrt_plan") => "tensorrt",
        ("tract", _) => "tract",
        (backend, platform) => {
            return Err(format!(
                "backend {backend:?}, platform {platform:?}: there are onnxruntime, tensorrt and \
                 tract"
            ));
        }
    };
    Ok(Some(engine.to_owned()))
}

/// How many at once, and where.
fn instances(
    groups: &[ModelInstanceGroup],
    said: &mut Metadata,
    notes: &mut Vec<String>,
) -> Result<(), String> {
    let mut count = 0_usize;
    let mut device = None;
    for group in groups {
        let is_own = usize::try_from(group.count)
            .map_err(|_negative| format!("instance_group: count is {}", group.count))?;
        count = count.saturating_add(is_own.max(1));
        let wanted = match (group.kind(), &*group.gpus) {
            (Kind::Gpu, []) => DeviceChoice::Cuda(0),
            (Kind::Cpu, []) => DeviceChoice::Cpu,
            (Kind::Cpu, gpus) => {
                return Err(format!("instance_group: KIND_CPU with gpus {gpus:?}"));
            }
            (_, []) => DeviceChoice::Auto,
            (_, [first, more @ ..]) => {
                if !more.is_empty() {
                    notes.push(format!("instance_group: gpus {more:?}: a model runs on one"));
                }
                let number = u32::try_from(*first);
                DeviceChoice::Cuda(
                    number.map_err(|_negative| format!("instance_group: gpus: {first}"))?,
                )
            }
        };
        if device.is_some_and(|it| it != wanted) {
            return Err("instance_group: a model runs on one device: give one group".to_owned());
        }
        device = Some(wanted);
        let mut unused = |is: bool, what: &str| {
            if is {
                notes.push(format!("instance_group: {what} is not used"));
            }
        };
        unused(!group.profile.is_empty(), "profile");
        unused(group.rate_limiter.is_some(), "rate_limiter");
        unused(group.passive, "passive");
        unused(!group.secondary_devices.is_empty(), "secondary_devices");
        unused(!group.host_policy.is_empty(), "host_policy");
    }
    let Some(device) = device else { return Ok(()) };
    said.device = device;
    if let DeviceChoice::Cuda(_) = device {
        // There one instance drives as many streams.
        said.gpu.streams = count;
        said.gpu = said.gpu.check()?;
    } else {
        said.instances = Limits::INSTANCES.check("instance_group: count", count)?;
    }
    Ok(())
}

fn dynamic_batching(
    batching: &ModelDynamicBatching,
    max_batch_size: i32,
    said: &mut Metadata,
    notes: &mut Vec<String>,
) -> Result<(), String> {
    let mut preferred = batching.preferred_batch_size.clone();
    if let Some(size) = preferred.iter().find(|&&size| size <= 0) {
        return Err(format!("dynamic_batching: preferred_batch_size has {size}"));
    }
    preferred.sort_unstable();
    preferred.dedup();
    if max_batch_size <= 1 {
        notes.push(format!(
            "dynamic_batching: max_batch_size is {max_batch_size}: no two requests share a run"
        ));
    } else {
        let most = i64::try_from(BATCH_ROWS_MAX).unwrap_or(i64::MAX);
        let delay = batching.max_queue_delay_microseconds;
        said.batch = Some(Batch {
            // The servers that this is written for fill batches up to max_batch_size.
            max: Some(i64::from(max_batch_size).min(most)),
            delay_us: i64::try_from(delay).unwrap_or(i64::MAX),
            preferred: preferred.into_iter().map(i64::from).collect(),
            ..Batch::default()
        });
    }
    let at_once = said.instances > 1 || matches!(said.device, DeviceChoice::Cuda(_));
    if batching.preserve_ordering && at_once {
        notes.push(
            "dynamic_batching: preserve_ordering: with several instances or streams, replies of \
             different batches may overtake each other"
                .to_owned(),
        );
    }
    if !batching.priority_queue_policy.is_empty() {
        notes
            .push("dynamic_batching: priority_queue_policy: all levels have one policy".to_owned());
    }
    said.queue = queue(batching, said.queue)?;
    Ok(())
}

/// How requests wait, in the words of `[queue]`.
fn queue(batching: &ModelDynamicBatching, base: QueueRules) -> Result<QueueRules, String> {
    let size = |size: u64| (size > 0).then(|| usize::try_from(size).unwrap_or(usize::MAX));
    let policy = batching.default_queue_policy.as_ref();
    let table = QueueTable {
        max: policy.and_then(|it| size(it.max_queue_size.into())),
        levels: size(batching.priority_levels),
        default_level: size(batching.default_priority_level),
        timeout_us: policy.map(|it| it.default_timeout_microseconds).filter(|&it| it > 0),
    };
    let rules = Queue::Table(table).rules(base);
    rules.map_err(|why| format!("dynamic_batching: {why}"))
}

fn parameter(
    key: &str,
    value: &str,
    said: &mut Metadata,
    notes: &mut Vec<String>,
) -> Result<(), String> {
    match key {
        // 0: the library's own choice, which is the server's here.
        "intra_op_thread_count" if value == "0" => {}
        "intra_op_thread_count" => {
            let count = value.parse().map_err(|error| format!("parameters: {key}: {error}"))?;
            said.threads = Limits::THREADS.check("parameters: intra_op_thread_count", count)?;
        }
        _ => notes.push(format!("parameters: {key:?} is not used")),
    }
    Ok(())
}

/// Graphs are recorded wherever a model allows, whether or not they are asked for.
fn optimization(policy: Option<&ModelOptimizationPolicy>, notes: &mut Vec<String>) {
    let Some(policy) = policy else { return };
    let cuda = policy.cuda.as_ref();
    let accelerators = policy.execution_accelerators.as_ref();
    let found = [
        (policy.graph.is_some_and(|it| it.level != 0), "graph.level"),
        (policy.priority != 0, "priority"),
        (cuda.is_some_and(|it| it.busy_wait_events), "cuda.busy_wait_events"),
        (cuda.is_some_and(|it| !it.graph_spec.is_empty()), "cuda.graph_spec"),
        (cuda.is_some_and(|it| it.output_copy_stream), "cuda.output_copy_stream"),
        (
            accelerators.is_some_and(|it| {
                !it.gpu_execution_accelerator.is_empty() || !it.cpu_execution_accelerator.is_empty()
            }),
            "execution_accelerators",
        ),
        (policy.input_pinned_memory.is_some(), "input_pinned_memory"),
        (policy.output_pinned_memory.is_some(), "output_pinned_memory"),
        (policy.gather_kernel_buffer_threshold != 0, "gather_kernel_buffer_threshold"),
        (policy.eager_batching, "eager_batching"),
    ];
    let found = found.into_iter().filter(|(is, _)| *is);
    notes.extend(found.map(|(_, what)| format!("optimization: {what} is not used")));
}

fn warmup(
    warmup: &ModelWarmup,
    has_batch: bool,
    folder: &Path,
    files: &mut Vec<FileDigest>,
) -> Result<Warmup, String> {
    let wrong = |why: String| format!("model_warmup {:?}: {why}", warmup.name);
    if !has_batch && warmup.batch_size > 1 {
        let batch = warmup.batch_size;
        return Err(wrong(format!("batch_size is {batch}, and max_batch_size is 0")));
    }
    let mut inputs = Vec::new();
    for (name, input) in &warmup.inputs {
        let wrong = |why: String| wrong(format!("input {name:?}: {why}"));
        let batch = has_batch.then_some(u64::from(warmup.batch_size.max(1)));
        let dim =
            |dim: &i64| u64::try_from(*dim).map_err(|_negative| wrong(format!("dims have {dim}")));
        let dims = input.dims.iter().map(dim);
        let shape = batch.into_iter().map(Ok).chain(dims).collect::<Result<Vec<u64>, String>>()?;
        let filling = match &input.input_data_type {
            Some(InputDataType::RandomData(true)) => Filling::Random,
            Some(InputDataType::InputDataFile(file)) => {
                Filling::read(&folder.join("warmup"), file, files).map_err(wrong)?
            }
            _ => Filling::Zero,
        };
        let dtype = Some(dtype(input.data_type).map_err(wrong)?);
        inputs.push(WarmupInput { name: name.clone(), dtype, shape: Some(shape), filling });
    }
    inputs.sort_by(|a, b| a.name.cmp(&b.name));
    Warmup::new(warmup.name.clone(), u64::from(warmup.count.max(1)), inputs).map_err(wrong)
}
