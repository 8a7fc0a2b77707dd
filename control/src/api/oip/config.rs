//! How a model is configured.

use ferry_core::{DType, TensorSpec};
use ferry_engine::BatchOptions;
use ferry_proto::oip::model_config::SchedulingChoice;
use ferry_proto::oip::model_instance_group::Kind;
use ferry_proto::oip::model_version_policy::{All, Latest, PolicyChoice, Specific};
use ferry_proto::oip::{
    DataType, ModelConfig, ModelDynamicBatching, ModelInput, ModelInstanceGroup, ModelOutput,
    ModelTransactionPolicy, ModelVersionPolicy,
};

use super::metadata::{dims, platform};
use super::offer::Offer;
use crate::models::VersionPolicy;

/// The configuration of a model, with the tensors of its metadata. Where it has a batch, dimensions
/// are told without it.
pub(super) fn of(offer: &Offer) -> ModelConfig {
    let profile = &offer.profile;
    let batch_max = profile.batch_max();
    // Tensors behind their batch.
    let behind = usize::from(batch_max.is_some());
    let signature = offer.signature();
    let input = |spec: &TensorSpec| {
        let mut input = ModelInput {
            name: spec.name.clone(),
            dims: dims(spec.shape.get(behind..).unwrap_or_default()),
            ..ModelInput::default()
        };
        input.set_data_type(data_type(spec.dtype));
        input
    };
    let output = |spec: &TensorSpec| {
        let mut output = ModelOutput {
            name: spec.name.clone(),
            dims: dims(spec.shape.get(behind..).unwrap_or_default()),
            ..ModelOutput::default()
        };
        output.set_data_type(data_type(spec.dtype));
        output
    };
    ModelConfig {
        name: profile.name.clone(),
        platform: platform(profile.engine).to_owned(),
        backend: profile.engine.to_owned(),
        max_batch_size: batch_max.map_or(0, |max| i32::try_from(max).unwrap_or(i32::MAX)),
        input: signature.inputs.iter().map(input).collect(),
        output: signature.outputs.iter().map(output).collect(),
        instance_group: vec![instances(offer)],
        scheduling_choice: profile.batches.options.as_ref().map(dynamic_batching),
        version_policy: Some(version_policy(profile.metadata.versions.as_ref())),
        model_transaction_policy: Some(ModelTransactionPolicy { decoupled: false }),
        ..ModelConfig::default()
    }
}

fn dynamic_batching(options: &BatchOptions) -> SchedulingChoice {
    let BatchOptions { delay, preferred, .. } = options;
    SchedulingChoice::DynamicBatching(ModelDynamicBatching {
        preferred_batch_size: preferred.iter().filter_map(|&it| i32::try_from(it).ok()).collect(),
        max_queue_delay_microseconds: u64::try_from(delay.as_micros()).unwrap_or(u64::MAX),
        ..ModelDynamicBatching::default()
    })
}

/// Which versions serve.
fn version_policy(policy: Option<&VersionPolicy>) -> ModelVersionPolicy {
    let choice = match policy {
        None | Some(VersionPolicy::All) => PolicyChoice::All(All {}),
        Some(&VersionPolicy::Latest(num_versions)) => PolicyChoice::Latest(Latest { num_versions }),
        Some(VersionPolicy::Specific(these)) => {
            let number = |it: &u64| i64::try_from(*it).unwrap_or(i64::MAX);
            PolicyChoice::Specific(Specific { versions: these.iter().map(number).collect() })
        }
    };
    ModelVersionPolicy { policy_choice: Some(choice) }
}

fn instances(offer: &Offer) -> ModelInstanceGroup {
    let profile = &offer.profile;
    let count = i32::try_from(profile.metadata.instances).unwrap_or(i32::MAX);
    let mut group =
        ModelInstanceGroup { name: profile.name.clone(), count, ..ModelInstanceGroup::default() };
    group.set_kind(Kind::Cpu);
    if let Some(ordinal) = profile.device_ordinal {
        group.set_kind(Kind::Gpu);
        group.gpus = i32::try_from(ordinal).into_iter().collect();
    }
    group
}

fn data_type(dtype: DType) -> DataType {
    match dtype {
        DType::Bool => DataType::TypeBool,
        DType::U8 => DataType::TypeUint8,
        DType::I8 => DataType::TypeInt8,
        DType::U16 => DataType::TypeUint16,
        DType::I16 => DataType::TypeInt16,
        DType::U32 => DataType::TypeUint32,
        DType::I32 => DataType::TypeInt32,
        DType::U64 => DataType::TypeUint64,
        DType::I64 => DataType::TypeInt64,
        DType::F16 => DataType::TypeFp16,
        DType::Bf16 => DataType::TypeBf16,
        DType::F32 => DataType::TypeFp32,
        DType::F64 => DataType::TypeFp64,
    }
}
